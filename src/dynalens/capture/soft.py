"""Classes that floating targets stand for: 0 and 1, one-hot rows, and both smoothed by a fixed amount."""

import torch
from torch import Tensor

from dynalens.dynamics import NOT_A_CLASS

_ROUNDING = 8
"""Largest difference between sums or copies of targets, in units of their last digit."""


class FixedLevels:
    """Tell smoothed labels, which always have the same two values, from mixed ones.

    The first batch decides the two values, and the host looks at it. In later batches, the device marks targets with
    other values, and nothing waits for it.

    Example:
        >>> levels = FixedLevels()
        >>> levels.binary(torch.tensor([0.05, 0.95])).tolist(), levels.smoothed
        ([0, 1], True)
        >>> levels.binary(torch.tensor([0.95, 0.3])).tolist() == [1, NOT_A_CLASS]
        True
    """

    def __init__(self) -> None:
        self._levels: tuple[float, float] | None = None

    @property
    def smoothed(self) -> bool:
        """Whether the two values are not 0 and 1."""
        return self._levels not in (None, (0.0, 1.0))

    def binary(self, targets: Tensor) -> Tensor:
        """Return 0 or 1 for each of N targets, (N,) int64; ``NOT_A_CLASS`` for other values than the two levels."""
        values, fixed_levels = targets.float(), self._levels
        levels = fixed_levels or _binary_levels(values)
        low, high = (torch.isclose(values, values.new_tensor(level), 0, tolerance_of(targets)) for level in levels)
        return self._first_pass(torch.where(low | high, high.long(), NOT_A_CLASS), levels)

    def rows(self, targets: Tensor) -> Tensor:
        """Return the class of the largest of K numbers, for each of N rows, (N,) int64.

        It is ``NOT_A_CLASS`` if the other numbers are not all equal, or if the numbers are not those of the first
        batch.
        """
        values, tolerance = targets.float(), tolerance_of(targets)
        high, classes = values.max(dim=1)
        low, num_others = values.amin(dim=1), values.shape[1] - 1
        levels = self._levels or (float(low[0]), float(high[0]))
        uniform = (values.sum(dim=1) - high - num_others * low).abs() <= tolerance
        is_fixed = ((low - levels[0]).abs() <= tolerance) & ((high - levels[1]).abs() <= tolerance)
        return self._first_pass(
            torch.where(uniform & is_fixed & (high > low + tolerance), classes, NOT_A_CLASS), levels
        )

    def _first_pass(self, classes: Tensor, levels: tuple[float, float]) -> Tensor:
        if self._levels is None and bool((classes != NOT_A_CLASS).all()):
            self._levels = levels
        return classes

    @property
    def is_known(self) -> bool:
        """Whether the first batch had classes."""
        return self._levels is not None


def _binary_levels(values: Tensor) -> tuple[float, float]:
    """Return the two levels of a batch. If one of them does not occur, it is one minus the other."""
    low, high = float(values.min()), float(values.max())
    if bool(((values == 0) | (values == 1)).all()) or low < 0 or high > 1:
        return 0.0, 1.0
    return (low if low < 0.5 else 1 - high), (high if high > 0.5 else 1 - low)


def tolerance_of(targets: Tensor) -> float:
    """Return the largest change that rounding makes to numbers from 0 to 1, and to their sum."""
    single = torch.finfo(torch.float32).eps  # everything is computed in it
    return _ROUNDING * max(single, torch.finfo(targets.dtype).eps if targets.is_floating_point() else single)
