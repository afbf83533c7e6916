"""Compare the maps that several runs kept of the same samples: do the runs look at the same places?"""

from collections.abc import Sequence

import torch

from dynalens.dynamics import Array
from dynalens.explanations.files import ExplainedEpoch
from dynalens.faithfulness import consensus_agreement


def agreement_of_runs(epochs: Sequence[ExplainedEpoch]) -> dict[str, tuple[list[int | str], Array]]:
    """Return for each method ids and the agreement of each run's maps with the consensus of the other runs.

    Args:
        epochs: One of each run, its last, say.

    Returns:
        By the name of a method that all runs have: the ids of the N samples that all of them explained for the same
        class, and :func:`~dynalens.faithfulness.consensus_agreement`, shape ``(R, N)``. Methods whose maps differ in
        size are left out, and nothing is returned without samples that the runs share.

    Example:
        >>> import numpy as np
        >>> label, maps = np.array([1, 1]), np.array([[1.0, 2.0], [4.0, 3.0]])
        >>> first = ExplainedEpoch(9, ["a", "b"], label, label, {"saliency": maps}, {})
        >>> second = ExplainedEpoch(9, ["b", "a"], label, label, {"saliency": maps}, {})
        >>> ids, agreement = agreement_of_runs([first, second])["saliency"]
        >>> ids, agreement.tolist()
        (['a', 'b'], [[-1.0, -1.0], [-1.0, -1.0]])
    """
    places = [dict(zip(_ids_and_targets(epoch), range(len(epoch.ids)), strict=True)) for epoch in epochs]
    common = [key for key in places[0] if all(key in place for place in places)]
    if not common:
        return {}
    agreements: dict[str, tuple[list[int | str], Array]] = {}
    for method in epochs[0].maps:
        run_maps = [epoch.maps[method] for epoch in epochs if method in epoch.maps]
        if len(run_maps) < len(epochs) or len({maps.shape[1:] for maps in run_maps}) > 1:
            continue
        rows = [[place[key] for key in common] for place in places]
        samples = [torch.as_tensor(maps[row]) for maps, row in zip(run_maps, rows, strict=True)]
        agreements[method] = [sample for sample, _ in common], consensus_agreement(samples).numpy()
    return agreements


def _ids_and_targets(epoch: ExplainedEpoch) -> list[tuple[int | str, int]]:
    return [(sample, int(target)) for sample, target in zip(epoch.ids, epoch.targets, strict=True)]
