"""The record's weighted means as they were after earlier epochs, from the history: does the estimate still move?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array
from dynalens.dynamics.weighting import EpochWeights
from dynalens.suspicion.confusions import one_way
from dynalens.suspicion.predictions import knowledge

SUREST_SHARE = 0.05
"""Fraction of the samples that the network is surest of; hard samples are not among them."""

_LEAST_WEIGHT = 1e-30  # what was seen only in epochs without a weight has a mean, too, as in the record


@dataclass(frozen=True)
class Disagreement:
    """How far a network disagrees with the labels, in the mean over the epochs so far.

    Attributes:
        epoch: The last of these epochs, from 0.
        doubted_share: Fraction of the samples whose leading class is not their label.
        surest_doubted_share: The same among the twentieth of the samples whose leading class is surest.
        direction: How far confusions went one way (:func:`~dynalens.suspicion.confusions.one_way`), times how far the
            network knew its classes (:func:`~dynalens.suspicion.predictions.knowledge`), in [0, 1].
    """

    epoch: int
    doubted_share: float
    surest_doubted_share: float
    direction: float = 0.0

    @classmethod
    def from_samples(cls, epoch: int, is_doubted: Array, p_leader: Array, *, direction: float = 0.0) -> "Disagreement":
        """Return the disagreement of samples from whether their leading class is not the label, and its probability."""
        is_surest_doubted = is_doubted[p_leader >= np.quantile(p_leader, 1 - SUREST_SHARE)]
        return cls(epoch, float(is_doubted.mean()), float(is_surest_doubted.mean()), direction)


class WeightedMeans:
    """Means of p_y and of max_{k != y} p_k of N samples, in which an epoch counts as in the record."""

    def __init__(self, num_samples: int) -> None:
        self._sums, self._epoch_weights = np.zeros((3, num_samples)), EpochWeights()

    def make_room(self, num_samples: int) -> None:
        """Let so many samples count, at least as many as before."""
        self._sums = np.append(self._sums, np.zeros((3, num_samples - self._sums.shape[1])), axis=1)

    def add(self, epoch: int, index: Array, p_label: Array, p_rival: Array) -> None:
        """Add the presentations of an epoch."""
        if not len(index):
            return
        weight = self._epoch_weights.next(epoch, p_rival - p_label) or _LEAST_WEIGHT
        for weighted_sum, values in zip(self._sums, (None, p_label, p_rival), strict=True):
            weighted_sum += weight * np.bincount(index, values, len(weighted_sum))

    def disagreement(self, epoch: int, label: Array, other: Array) -> list[Disagreement]:
        """Return what the means say of the samples that count so far; nothing where none does.

        Args:
            epoch: Number of the last epoch.
            label: Shape ``(N,)``, the class that is given.
            other: Shape ``(N,)``, the class that was predicted last instead of the label.
        """
        counts = self._sums[0] > 0
        weight, p_label, p_rival = self._sums[:, counts]
        if not len(weight):
            return []
        is_doubted = p_rival > p_label
        p_leader = np.maximum(p_label, p_rival) / weight
        direction = one_way(np.where(is_doubted & (other[counts] >= 0), other[counts], label[counts]), label[counts])
        direction *= knowledge(p_leader, int(max(label.max(), other.max(), 1)) + 1)
        return [Disagreement.from_samples(epoch, is_doubted, p_leader, direction=direction)]


def disagreement_halfway(disagreements: Sequence[Disagreement], epoch_count: int) -> Disagreement | None:
    """Return how far the network disagreed at about half of so many epochs: the latest of the first half, or None.

    Example:
        >>> disagreements = [Disagreement(0, 0.5, 0.1), Disagreement(1, 0.4, 0.1), Disagreement(2, 0.3, 0.0)]
        >>> disagreement_halfway(disagreements, 4).epoch
        1
    """
    first_half = [disagreement for disagreement in disagreements if 2 * (disagreement.epoch + 1) <= epoch_count]
    return first_half[-1] if first_half else None
