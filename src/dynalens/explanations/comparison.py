"""Compare the maps of the same samples in several epochs, and in several runs: do they show the same places?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.explanations.files import ExplainedEpoch
from dynalens.explanations.result import ExplanationResult
from dynalens.faithfulness import attribution_drift, consensus_agreement, normalised


@dataclass
class EarlierMaps:
    """The maps of earlier epochs.

    Attributes:
        first_maps: For each method, its maps in the first explanation.
        previous_maps: For each method, its maps in the explanation before.
        total: For each method, the sum of its normalised maps in all explanations so far.
    """

    first_maps: Mapping[str, Tensor] = field(default_factory=dict)
    previous_maps: Mapping[str, Tensor] = field(default_factory=dict)
    total: Mapping[str, Tensor] = field(default_factory=dict)

    def compare(self, result: ExplanationResult, metrics: Sequence[str]) -> None:
        """Add the metrics that compare epochs, if they are asked for, and remember these maps.

        The metrics are "attribution_drift", "randomisation_check" and "consensus", which compares with the mean of all
        earlier epochs.
        """
        earlier_maps_of = {
            "attribution_drift": self.previous_maps,
            "randomisation_check": self.first_maps,
            "consensus": self.total,
        }
        for name, last_maps in earlier_maps_of.items():
            for method, maps in result.relevance.items():
                earlier_maps = last_maps.get(method)
                if name in metrics and earlier_maps is not None and earlier_maps.shape == maps.shape:
                    result.faithfulness[method].values[name] = attribution_drift(maps, earlier_maps.to(maps.device))
        self.previous_maps = result.relevance
        self.first_maps = self.first_maps or result.relevance
        if "consensus" in metrics:
            self.total = {method: self._running_sum(method, maps) for method, maps in result.relevance.items()}

    def _running_sum(self, method: str, maps: Tensor) -> Tensor:
        total, maps_now = self.total.get(method), normalised(maps)
        return maps_now if total is None or total.shape != maps_now.shape else total.to(maps_now.device) + maps_now


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
    keys_of_epochs = [zip(epoch.ids, epoch.targets.tolist(), strict=True) for epoch in epochs]
    places = [{key: place for place, key in enumerate(keys)} for keys in keys_of_epochs]
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
