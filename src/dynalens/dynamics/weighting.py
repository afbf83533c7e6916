"""How much each epoch counts in the weighted means; nothing but numbers, so that reading a record needs no torch."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from dynalens.dynamics.statistics import Array

GROWTH = 10
"""Epochs over which the weight grows in any case; from 8 to 15 the order is the same within .2 points.

``docs/results/constants.md`` has the curves of all constants of this file.
"""

FALL = 3
"""Power of how far wrong masks stand out, by which the weight falls after these epochs."""

WORST_SHARE = 0.05
"""Fraction of the masks, or of the numbers, that tell how far wrong ones stand out."""

TOKEN_GROWTH = 20
"""The same of tokens: the largest loss of a sentence tells of a wrong tag only once its other tags are learned.

After 20 epochs 15 is .7 points worse and 10 is 1.8, after 150 they are .3 and .5 worse."""


def epoch_weight(epoch: int, contradiction: float, *, tenth: float | None = None) -> float:
    """Return the weight of an epoch in the weighted means of the record, such as ``weighted_margin``.

    The weight is g^3 * c^2. Here c is the :func:`contradiction` of the epoch with the smallest training error so far,
    and a training error is the fraction of an epoch's presentations whose prediction was not the given label. In the
    first epoch g = 0, and up to the tenth one g = t + 1, where t is the number of the epoch, from 0. Later
    g = (t + 1) * min(1, c / c_10), where c_10 is c in the tenth epoch.

    The first epochs count little because the network knows nothing yet, and the first one not at all, unless a sample
    is seen in no other one. Later epochs count more as long as the network contradicts labels. If it learns them by
    heart, c falls, and these epochs soon count next to nothing. If the training error rises again, the training broke
    down for an epoch or two, and these do not count more for it.

    Args:
        epoch: Number of the epoch, from 0.
        contradiction: c, in [0, 1].
        tenth: c_10, or c in the first epoch after the tenth that is known. None: this epoch is the first one that is
            known from the tenth on.

    Example:
        >>> epoch_weight(0, 0.5), epoch_weight(3, 0.25), epoch_weight(9, 0.0)
        (0.0, 4.0, 0.0)
        >>> epoch_weight(19, 0.5, tenth=0.5), epoch_weight(19, 0.25, tenth=0.5)  # 20^3 / 4, and 10^3 / 16
        (2000.0, 62.5)
    """
    growth: float = epoch + 1 if epoch else 0
    if epoch + 1 > GROWTH and tenth:
        growth *= min(1.0, contradiction / tenth)
    return float(growth**3 * contradiction**2)


def contradiction(gaps: Array) -> float:
    """Return how far a network contradicts labels and is sure of it, in [0, 1].

    It is a^2 / b, where a is the mean of max(0, g)^2 over the presentations, and b that of g^2. The gap g of a
    presentation is max_{k != y} p_k - p_y: how much more probable than its label y another class is. So it is small if
    the network knows nothing, with gaps near 0, and if it repeats the labels. Without any gap it is 0.

    Args:
        gaps: Shape ``(M,)``, in [-1, 1].

    Example:
        >>> contradiction(np.array([0.5, -0.5])), contradiction(np.array([0.5, 0.5])), contradiction(np.zeros(2))
        (0.0625, 0.25, 0.0)
    """
    squares = gaps.astype(np.float64) ** 2
    total = float(squares.sum())
    return float(squares[gaps > 0].sum()) ** 2 / (total * len(gaps)) if total else 0.0


class EpochWeights:
    """The weights of the epochs of a training, in their order.

    Attributes:
        total: Sum of the weights that :meth:`part` was given.
        least_error: Smallest error so far but 0, or infinity: an epoch without an error has no weight, and the
            epochs after it still have one. Of masks, it is how far the worst stand out, from the tenth epoch on.
        tenth_error: Of masks, the smallest one up to the tenth epoch, or to the first one after it; None before.
        contradiction: That of the epoch with the smallest error; None before there is one.
        tenth_contradiction: The same in the tenth epoch, or the first one after it; None before.

    Example:
        >>> weights = EpochWeights()
        >>> weights.next(1, np.array([1.0, -1.0])), weights.next(2, np.array([1.0, 1.0]))  # c is 1/4 in both
        (0.5, 1.6875)
    """

    def __init__(self, state: Mapping[str, float | None] = MappingProxyType({})) -> None:
        """Continue from what :meth:`state` returned, or a version before, which knew fewer names."""
        self.total = float(state.get("weight") or 0)
        self.least_error = state.get("least_error") or math.inf
        self.tenth_error = state.get("tenth_error")
        self.contradiction = state.get("contradiction")
        self.tenth_contradiction = state.get("tenth_contradiction")

    def state(self) -> dict[str, float | None]:
        """Return what continues these weights, as plain Python."""
        names = ("least_error", "tenth_error", "contradiction", "tenth_contradiction")
        return {"weight": self.total, **{name: getattr(self, name) for name in names}}

    def part(self, weight: float) -> float:
        """Return the weight of the next epoch as a part of all weights with it."""
        self.total += weight
        return weight / self.total if self.total else 0.0

    def next(self, epoch: int, gaps: Array) -> float:
        """Return :func:`epoch_weight` of the next epoch.

        Versions before had other weights. If one of them recorded the epochs before this one, these count as if the
        network had contradicted labels as far as in this one.

        Args:
            epoch: Number of the epoch, from 0.
            gaps: Shape ``(M,)``, as for :func:`contradiction`; what is not finite is left out.
        """
        gaps = gaps[np.isfinite(gaps)]
        error = float((gaps >= 0).mean()) if len(gaps) else 0.0
        if not error:
            return 0.0
        if self.contradiction is None or error <= self.least_error:
            if self.contradiction is None and self.total:
                self.total = sum(epoch_weight(earlier, contradiction(gaps)) for earlier in range(epoch))
            self.least_error, self.contradiction = error, contradiction(gaps)
        if self.tenth_contradiction is None and epoch + 1 >= GROWTH:
            self.tenth_contradiction = self.contradiction
        return epoch_weight(epoch, self.contradiction, tenth=self.tenth_contradiction)

    def next_of_masks(self, epoch: int, losses: Array) -> float:
        """Return the weight of the next epoch if samples are masks, whose losses in that epoch are given.

        The weight is min(t + 1, 10)^3 in the first ten epochs, where t is the number of the epoch, from 0, and later
        (10 min(1, u / u_10))^3. Here u says how far the worst masks stand out: it is the smallest difference, from the
        tenth epoch on, of the mean of the largest twentieth of the losses and their median. If the network learns wrong
        masks by heart, they stand out less and less, and these epochs soon count next to nothing.

        Args:
            epoch: Number of the epoch, from 0.
            losses: Shape ``(M,)``, the mean loss of the pixels in each presentation of the epoch.

        Example:
            >>> weights, losses = EpochWeights(), np.array([0.25, 0.25, 1.25])
            >>> [weights.next_of_masks(epoch, losses * size) for epoch, size in ((0, 1), (9, 1), (10, 0.5), (11, 9))]
            [1.0, 1000.0, 125.0, 125.0]
        """
        if epoch + 1 < GROWTH:
            return unit_weight(epoch)
        distance = self.least_so_far(mean_of_worst(losses) - float(np.median(losses)))
        self.tenth_error = self.tenth_error or distance
        return unit_weight(epoch) * (distance / self.tenth_error if self.tenth_error else 1.0) ** FALL

    def least_so_far(self, error: float) -> float:
        """Return the smallest error so far, of the next epoch and of those before, or 0 if the next epoch has none."""
        error = min(error, self.least_error)
        self.least_error = error or self.least_error
        return error


def unit_weight(epoch: int, *, growth: int = GROWTH) -> float:
    """Return the weight of an epoch if samples have several labels or tokens.

    The weight is min(t + 1, growth)^3, where t is the number of the epoch, from 0. The training error is no factor,
    because some unit of most samples is contradicted until the end. The weight stops growing, so that the epochs
    before labels were learned by heart still count (``docs/results/constants.md`` compares other weights).

    Args:
        epoch: Number of the epoch, from 0.
        growth: Number of epochs after which the weight stops growing.

    Example:
        >>> unit_weight(0), unit_weight(3), unit_weight(9), unit_weight(30)
        (1.0, 64.0, 1000.0, 1000.0)
        >>> unit_weight(30, growth=TOKEN_GROWTH)
        8000.0
    """
    return float(min(epoch + 1, growth) ** 3)


def mean_of_worst(values: Array) -> float:
    """Return the mean of the largest twentieth of some values, or the largest one.

    Example:
        >>> mean_of_worst(np.arange(40.0))
        38.5
    """
    count = max(1, round(WORST_SHARE * len(values)))
    return float(np.sort(values)[-count:].mean())


def number_weight(epoch: int, *, error: float, constant_error: float) -> float:
    """Return the weight of an epoch in the weighted means of a regression.

    The weight is (t + 1) * min(e, c^2 / e)^4, where t is the number of the epoch, from 0. In each epoch the largest
    twentieth of the absolute residuals have a mean: e is the smallest one so far, and c is that of predicting the
    median of the targets for each sample. The latest epochs count most as long as wrong targets stay as far off as
    before, and little once the network has learned them by heart, because e is then near 0. An epoch in which the
    network predicts worse than the median counts less the larger e is: the network has not even learned how large the
    targets are. If all targets are equal, so that c is 0, the weight is (t + 1) * e^4.

    Args:
        epoch: Number of the epoch, from 0.
        error: e, at least 0.
        constant_error: c, at least 0, in the same unit.

    Example:
        >>> number_weight(0, error=1.0, constant_error=2.0), number_weight(29, error=1.0, constant_error=2.0)
        (1.0, 30.0)
        >>> number_weight(1, error=4.0, constant_error=2.0)  # 2 (2^2 / 4)^4
        2.0
    """
    usual_error = constant_error**2 / error if 0 < constant_error < error else error
    return float((epoch + 1) * usual_error**4)
