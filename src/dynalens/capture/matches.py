"""Which entries of a batch are among the arguments of a module."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dynalens.capture.entries import Path
from dynalens.capture.views import view_of_values


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
