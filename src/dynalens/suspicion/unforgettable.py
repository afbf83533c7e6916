"""Which samples training needs least: those that were never forgotten."""

import numpy as np

from dynalens.dynamics import Array, SampleStatistics


def removable(statistics: SampleStatistics, fraction: float) -> Array:
    """Return the samples that training needs least: never forgotten, and learned first.

    Samples that were learned and never forgotten afterwards are called unforgettable. They are ordered by the epoch in
    which they were learned, then by their mean margin, the largest first, then by their index. The first ones are
    returned.

    Source: Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019,
    section 5. https://arxiv.org/abs/1812.05159
    Differs from the source: unforgettable samples are ordered. The source takes all of them or draws among them.
    Samples that were forgotten are never returned. The source goes on with the least forgotten ones.

    Args:
        statistics: Statistics of a run in which each sample was seen at least a few times.
        fraction: How many samples to return, as a fraction of those that were seen, in [0, 1]. The number is rounded
            down.

    Returns:
        Shape ``(M,)``, int64: rows of the record. The sample to leave out first comes first.

    Raises:
        ValueError: If ``fraction`` is out of its range, or larger than the fraction of unforgettable samples.

    Example:
        >>> import torch
        >>> from dynalens import TrainingDynamics
        >>> dynamics = TrainingDynamics(3)
        >>> for epoch, right in enumerate([[-1.0, 2.0, 1.0], [3.0, 2.0, -1.0]]):
        ...     margins = torch.tensor(right)
        ...     dynamics.update([0, 1, 2], torch.stack([margins, torch.zeros(3)], dim=1), torch.tensor([0, 0, 0]))
        ...     _ = dynamics.end_epoch(epoch)
        >>> removable(dynamics.compute(), 0.34), removable(dynamics.compute(), 0.67)
        (array([1]), array([1, 0]))
    """
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"Expected `fraction` to be in [0, 1], got {fraction}. Pass the share of the samples to leave out."
        )
    never_forgotten = np.flatnonzero(statistics.learned & (statistics.forgetting_events == 0))
    seen_count = int((statistics.presentations > 0).sum())
    removed_count = int(fraction * seen_count + 1e-9)  # 0.29 of 100 is 28.999...
    if removed_count > len(never_forgotten):
        raise ValueError(
            f"Expected `fraction` to be at most {len(never_forgotten) / seen_count:.3g}, the share of the {seen_count} "
            f"samples that were learned and never forgotten, got {fraction}. Leave out fewer, or train longer."
        )
    margin, first_learned = statistics.margin[never_forgotten], statistics.first_learned[never_forgotten]
    return never_forgotten[np.lexsort((never_forgotten, -margin, first_learned))][:removed_count]
