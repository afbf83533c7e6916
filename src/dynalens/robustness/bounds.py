"""Between which values inputs lie."""

from typing import NamedTuple

from torch import Tensor


class Bounds(NamedTuple):
    """The lowest and the highest value of each channel, shapes that broadcast to the images."""

    low: Tensor
    high: Tensor

    @property
    def span(self) -> Tensor:
        """Their difference."""
        return self.high - self.low


def bounds_of(images: Tensor, bounds: tuple[float, float] | None) -> Bounds:
    """Return the given bounds, or those of each channel of the images.

    Args:
        images: Shape ``(N, C, *spatial)``.
        bounds: The same for all channels, or None.

    Raises:
        ValueError: If the first is not below the second.
    """
    if bounds is not None:
        low, high = bounds
        if not low < high:
            raise ValueError(
                f"Expected `bounds` to be the lowest and the highest value of an input, got {bounds}. "
                "Pass (0, 1) for images that are not normalised."
            )
        return Bounds(images.new_tensor(low), images.new_tensor(high))
    others = (0, *range(2, images.ndim))
    return Bounds(images.amin(dim=others, keepdim=True), images.amax(dim=others, keepdim=True))
