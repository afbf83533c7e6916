"""What a run predicted for each sample, in the mean over its presentations, from the record alone."""

from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array, SampleStatistics


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

    def sureness(self) -> float:
        """Return how sure the network is of the leading class: (P - 1/K) / (1 - 1/K), P the mean probability of it.

        Example:
            >>> import numpy as np
            >>> label, rival = np.array([0, 0]), np.array([1, 1])
            >>> p_label, p_rival = np.array([0.75, 0.25]), np.array([0.25, 0.5])  # the third class is never named
            >>> predictions = Predictions(label, p_label - p_rival, p_label, rival, p_rival, class_count=3)
            >>> predictions.sureness()  # (0.625 - 1/3) / (2/3)
            0.4375
        """
        p_leader = np.where(self.leader() == self.label, self.p_label, self.p_rival).mean()
        return float((p_leader * self.class_count - 1) / (self.class_count - 1))
