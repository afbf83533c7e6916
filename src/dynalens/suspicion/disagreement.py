"""The record's weighted means as they were after earlier epochs, from the history: does the estimate still move?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array, epoch_weight

SUREST = 0.05
"""Fraction of the samples that the network is surest of; hard samples are not among them."""


@dataclass(frozen=True)
class Disagreement:
    """How far a network disagrees with the labels, in the mean over the epochs so far.

    Attributes:
        epoch: The last of these epochs, from 0.
        doubted: Fraction of the samples whose leading class is not their label.
        surest: The same among the twentieth of the samples whose leading class is surest.
    """

    epoch: int
    doubted: float
    surest: float

    @classmethod
    def from_samples(cls, epoch: int, differ: Array, p_leader: Array) -> "Disagreement":
        """Return it for samples whose leading class, of this probability, is another one than the label or not."""
        surest = differ[p_leader >= np.quantile(p_leader, 1 - SUREST)]
        return cls(epoch, float(differ.mean()), float(surest.mean()))


class WeightedMeans:
    """Means of p_y and of max_{k != y} p_k of N samples, in which an epoch counts as in the record."""

    def __init__(self, num_samples: int) -> None:
        self._sums = np.zeros((3, num_samples))

    def make_room(self, num_samples: int) -> None:
        """Let so many samples count, at least as many as before."""
        self._sums = np.append(self._sums, np.zeros((3, num_samples - self._sums.shape[1])), axis=1)

    def add(self, epoch: int, index: Array, p_label: Array, p_rival: Array) -> None:
        """Add the presentations of an epoch."""
        if not len(index):
            return
        weight = epoch_weight(epoch, float((p_label <= p_rival).mean()))
        for total, values in zip(self._sums, (None, p_label, p_rival), strict=True):
            total += weight * np.bincount(index, values, len(total))

    def disagreement(self, epoch: int) -> list[Disagreement]:
        """Return what the means say of the samples that count so far; nothing where none does."""
        weight, p_label, p_rival = self._sums[:, self._sums[0] > 0]
        if not len(weight):
            return []
        return [Disagreement.from_samples(epoch, p_rival > p_label, np.maximum(p_label, p_rival) / weight)]


def halfway(course: Sequence[Disagreement], epochs: int) -> Disagreement | None:
    """Return the latest of the first half of so many epochs; None of a single epoch.

    Example:
        >>> halfway([Disagreement(0, 0.5, 0.1), Disagreement(1, 0.4, 0.1), Disagreement(2, 0.3, 0.0)], 4).epoch
        1
    """
    earlier = [each for each in course if 2 * (each.epoch + 1) <= epochs]
    return earlier[-1] if earlier else None
