"""How a tensor was made from an entry of a batch: axes in another order, other shapes, the last token left out."""

import itertools
from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """A view of a batch's entry; the first axis, that of the samples, stays the first.

    Attributes:
        axes: Their order, as ``permute`` takes it; None: as they are.
        shape: That of one sample; None: as it is.
        end: Place behind the last token that is taken, counted from the end as -1; None: all are taken.
    """

    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    end: int | None = None

    def view_of(self, entry: Tensor) -> Tensor:
        """Return this view of the entry of another batch.

        Example:
            >>> import torch
            >>> View(axes=(0, 3, 1, 2)).view_of(torch.zeros(5, 8, 8, 3)).shape
            torch.Size([5, 3, 8, 8])
        """
        entry = entry if self.end is None else entry[:, : self.end]
        if self.axes is not None and len(self.axes) == entry.ndim:
            entry = entry.permute(self.axes)
        return entry if self.shape is None else entry.reshape(len(entry), *self.shape)


def view_from(entry: Tensor, tensor: Tensor) -> View | None:
    """Return how a tensor was made from an entry that has the same values, or None if it is neither way.

    Example:
        >>> import torch
        >>> images = torch.zeros(5, 8, 8, 3)
        >>> view_from(images, images.permute(0, 3, 1, 2)), view_from(images, images.flatten(1))
        (View(axes=(0, 3, 1, 2), shape=None, end=None), View(axes=None, shape=(192,), end=None))
    """
    if len(entry) != len(tensor):
        return None
    if entry.ndim == tensor.ndim == 2 and tensor.shape[1] < entry.shape[1]:
        return View(end=tensor.shape[1] - entry.shape[1])
    for order in itertools.permutations(range(1, entry.ndim)) if entry.ndim == tensor.ndim else ():
        channels_last = entry.permute(0, *order)
        if (channels_last.shape, channels_last.stride()) == (tensor.shape, tensor.stride()):
            return View(axes=(0, *order))
    if entry.is_contiguous() and tensor.is_contiguous():
        return View(shape=tuple(tensor.shape[1:]))
    return None
