"""The classes that floating targets name: 0 and 1, rows with one 1, and both smoothed by a fixed amount."""

import torch
from torch import Tensor

from dynalens.dynamics import NOT_A_CLASS

_ROUNDING = 8
"""Units of the targets' last digit by which sums and copies of them differ."""


class FixedLevels:
    """Tell smoothed labels, whose values are always the same two, from mixed ones.

    The first batch decides the two levels and is looked at; in later ones the device marks what has others, and nothing
    waits for it.

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
        """Whether the levels are others than 0 and 1."""
        return self._levels not in (None, (0.0, 1.0))

    def binary(self, targets: Tensor) -> Tensor:
        """Return 0 or 1 for each of N targets, (N,) int64; ``NOT_A_CLASS`` where it is neither level."""
        values, fixed_levels = targets.float(), self._levels
        levels = fixed_levels or _binary_levels(values)
        low, high = (torch.isclose(values, values.new_tensor(level), 0, tolerance_of(targets)) for level in levels)
        return self._first_pass(torch.where(low | high, high.long(), NOT_A_CLASS), levels)

    def rows(self, targets: Tensor) -> Tensor:
        """Return the class of the largest of K numbers, for each of N rows, (N,) int64.

        ``NOT_A_CLASS`` where the others are not all equal, or the numbers not those of the first batch.
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
        """Whether a first batch had classes."""
        return self._levels is not None


def _binary_levels(values: Tensor) -> tuple[float, float]:
    """Return the two levels of a batch; one that does not occur mirrors the other."""
    low, high = float(values.min()), float(values.max())
    if bool(((values == 0) | (values == 1)).all()) or low < 0 or high > 1:
        return 0.0, 1.0
    return (low if low < 0.5 else 1 - high), (high if high > 0.5 else 1 - low)


def tolerance_of(targets: Tensor) -> float:
    """Return by how much rounding changes numbers from 0 to 1, and their sum."""
    single = torch.finfo(torch.float32).eps  # everything is computed in it
    return _ROUNDING * max(single, torch.finfo(targets.dtype).eps if targets.is_floating_point() else single)
