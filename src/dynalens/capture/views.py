"""Which entries of a batch a module was given, and as which views: in another order of axes, shape, or cut off."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynalens.capture.entries import Path

_AXES_OF_CROPS = 5
_CENTRE = {5: 4, 10: 4}
"""Position of the centre crop among those of torchvision's FiveCrop and TenCrop."""


class View(NamedTuple):
    """A view of a batch's entry. The first axis, the samples, stays the first.

    Attributes:
        axes: Order of the axes, as ``permute`` takes it; None: unchanged.
        shape: Shape of one sample; None: unchanged.
        end: Where tokens end, counted from the end: -1 leaves out the last token; None: all are taken.
        crop: Which of several crops of each sample, ``(N, V, C, H, W)``, is taken; None: there are no crops.
        takes_crops: Whether the network is given the crops along an axis of their own, and not as samples.
    """

    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    end: int | None = None
    crop: int | None = None
    takes_crops: bool = False

    def view_of(self, entry: Tensor) -> Tensor:
        """Return this view of the entry of another batch.

        Example:
            >>> import torch
            >>> View(axes=(0, 3, 1, 2)).view_of(torch.zeros(5, 8, 8, 3)).shape
            torch.Size([5, 3, 8, 8])
        """
        if self.crop is not None and entry.ndim == _AXES_OF_CROPS:
            return entry[:, self.crop]
        entry = entry if self.end is None else entry[:, : self.end]
        if self.axes is not None and len(self.axes) == entry.ndim:
            entry = entry.permute(self.axes)
        return entry if self.shape is None else entry.reshape(len(entry), *self.shape)

    def network_input(self, images: Tensor) -> Tensor:
        """Return images in the form that the network takes: with an axis of crops, if it takes crops."""
        return images.unsqueeze(1) if self.takes_crops else images


def view_from(entry: Tensor, tensor: Tensor) -> View | None:
    """Return which view of an entry a tensor with the same values is; None if it is none of these.

    Example:
        >>> import torch
        >>> images = torch.zeros(5, 8, 8, 3)
        >>> view_from(images, images.permute(0, 3, 1, 2)) == View(axes=(0, 3, 1, 2))
        True
        >>> view_from(images, images.flatten(1)) == View(shape=(192,))
        True
    """
    if len(entry) != len(tensor):
        return None
    if entry.ndim == tensor.ndim == 2 and tensor.shape[1] < entry.shape[1]:
        return View(end=tensor.shape[1] - entry.shape[1])
    for order in itertools.permutations(range(1, entry.ndim)) if entry.ndim == tensor.ndim else ():
        channels_last = entry.permute(0, *order)
        if (channels_last.shape, channels_last.stride()) == (tensor.shape, tensor.stride()):
            return View(axes=(0, *order))
    return view_of_values(entry, tensor)


def view_of_values(entry: Tensor, tensor: Tensor) -> View | None:
    """Return the view of an entry that has the values of a tensor, which may be a copy of another dtype; else None.

    Example:
        >>> import torch
        >>> images = torch.arange(24.0).view(2, 2, 2, 3)
        >>> view_of_values(images, images.permute(0, 3, 1, 2).flatten(1)) == View(axes=(0, 3, 1, 2), shape=(12,))
        True
    """
    if len(entry) != len(tensor) or entry.numel() != tensor.numel():
        return None
    for order in itertools.permutations(range(1, entry.ndim)):
        axes = None if order == tuple(sorted(order)) else (0, *order)
        shape = entry.permute(0, *order).shape
        view = View(axes, None if shape == tensor.shape else tuple(tensor.shape[1:]))
        # The first sample alone tells most of those apart that are not it.
        if all(torch.equal(view.view_of(entry[:n]).to(tensor.dtype), tensor[:n].detach()) for n in (1, len(entry))):
            return view
    return None


def crops_in(entry: Tensor, arguments: Sequence[Tensor]) -> View | None:
    """Return the crop of an entry ``(N, V, C, H, W)`` to show, if modules were given all crops as samples.

    Else None.

    Args:
        entry: Of the batch.
        arguments: What modules were given of the entry, the outermost module last.

    Example:
        >>> import torch
        >>> crops = torch.zeros(4, 10, 3, 8, 8)
        >>> crops_in(crops, [crops.flatten(0, 1)]) == View(crop=4), crops_in(crops, [crops]) is None
        (True, True)
    """
    if entry.ndim != _AXES_OF_CROPS or all(tensor.shape != entry.flatten(0, 1).shape for tensor in arguments):
        return None
    return View(crop=_CENTRE.get(entry.shape[1], 0), takes_crops=arguments[-1].shape == entry.shape)


def entries_among(entries: Sequence[tuple[Path, Tensor]], tensors: Sequence[Tensor]) -> dict[Path, Tensor]:
    """Return the tensors that are an entry or a view of it, by the entry's path.

    If there are none, return copies of entries, which may have another dtype or be a view of such a copy.

    Example:
        >>> images = torch.zeros(2, 3, 4, 4)
        >>> list(entries_among([((0,), images), ((1,), torch.tensor([0, 1]))], [images.flatten(1)]))
        [(0,)]
    """
    for is_same in (same_memory, same_values, _all_but_the_last, _has_view):
        pairs = ((path, [tensor for tensor in tensors if is_same(entry, tensor)]) for path, entry in entries)
        matches = {path: matching[0] for path, matching in pairs if matching}
        if matches:
            return matches
    return {}


def same_memory(entry: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor is the entry, or a view of all of it."""
    if entry is tensor:
        return True
    is_whole = entry.numel() == tensor.numel() > 0 and entry.dtype == tensor.dtype
    return is_whole and entry.untyped_storage()._cdata == tensor.untyped_storage()._cdata


def same_values(entry: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor has the shape and the values of an entry with several axes, perhaps in another dtype."""
    return entry.ndim > 1 and entry.shape == tensor.shape and torch.equal(entry.to(tensor.dtype), tensor.detach())


def _all_but_the_last(entry: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor holds an entry's tokens without the last one, which has no next token to predict."""
    tokens = entry.ndim == tensor.ndim == 2 and not (entry.is_floating_point() or entry.is_complex())
    return tokens and tensor.shape == entry[:, :-1].shape and torch.equal(entry[:, :-1], tensor.detach())


def _has_view(entry: Tensor, tensor: Tensor) -> bool:
    return entry.ndim > 1 and tensor.ndim > 1 and view_of_values(entry, tensor) is not None
