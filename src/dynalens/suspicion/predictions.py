"""What a run predicted for each sample, in the mean over its presentations, from the record alone."""

from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array, SampleStatistics

SURE = 0.25
"""Sureness from which a network knows its classes. ``docs/results/constants.md`` has the curve."""


@dataclass(frozen=True)
class Predictions:
    """Means over the presentations of N samples, all of them seen; an epoch counts with its weight.

    Attributes:
        label: Shape ``(N,)``, the label y.
        margin: Shape ``(N,)``, of z_y - max_{k != y} z_k.
        p_label: Shape ``(N,)``, of p_y.
        rival: Shape ``(N,)``, the class but the label that most often has the largest probability of these; -1 where
            the label always had a larger one.
        p_rival: Shape ``(N,)``, of max_{k != y} p_k, which is taken for the probability of the rival.
        class_count: Number K of classes that occur as label or rival, at least 2.
    """

    label: Array
    margin: Array
    p_label: Array
    rival: Array
    p_rival: Array
    class_count: int

    @classmethod
    def from_statistics(cls, statistics: SampleStatistics) -> "Predictions":
        """Return what the record keeps of samples that were seen."""
        label, rival = statistics.label.astype(np.int64), statistics.candidate.astype(np.int64)
        class_count = int(max(label.max(), rival.max(), 1)) + 1
        margin, p_label, p_rival = (
            getattr(statistics, name).astype(np.float64)
            for name in ("weighted_margin", "weighted_confidence", "weighted_rival")
        )
        return cls(label, margin, p_label, rival, p_rival, class_count)

    def __len__(self) -> int:
        return len(self.label)

    def leader(self) -> Array:
        """Return the class with the largest mean probability, shape ``(N,)``: the label or the rival."""
        return np.where((self.rival >= 0) & (self.p_rival > self.p_label), self.rival, self.label)

    def p_leader(self) -> Array:
        """Return the mean probability of the leading class, shape ``(N,)``."""
        return np.where(self.leader() == self.label, self.p_label, self.p_rival)

    def knowledge(self) -> float:
        """Return :func:`knowledge` of the network that made these predictions."""
        return knowledge(self.p_leader(), self.class_count)


def knowledge(p_leader: Array, class_count: int) -> float:
    """Return how far a network knows its classes, in [0, 1]: how far its confusions say something of labels.

    It is min(1, S / (1/4))^4 with the sureness S = (P - 1/K) / (1 - 1/K), where P is the mean probability of the
    leading class, and K the number of classes. If the network has outputs of other classes, P may be below 1/K; then S
    is 0. A network that knows little names a few classes for most samples.

    Args:
        p_leader: Shape ``(N,)``, the probability of each sample's leading class.
        class_count: Number of classes.

    Example:
        >>> import numpy as np
        >>> knowledge(np.array([0.5, 0.75]), 2), knowledge(np.array([0.5, 0.625]), 2)  # S is 1/4 and 1/8
        (1.0, 0.0625)
        >>> knowledge(np.array([0.01, 0.02]), 2)  # of a network with 100 outputs
        0.0
    """
    sureness = (float(p_leader.mean()) * class_count - 1) / (class_count - 1)
    return min(1.0, max(0.0, sureness) / SURE) ** 4
