"""The tensors of a batch, however deep they stand in it, and where."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

Path = tuple[Any, ...]
"""Keys, positions and attribute names that lead from a batch to one of its tensors."""

_DEEPEST = 4
_LONGEST = 64


def leaves(value: Any, depth: int = _DEEPEST) -> Iterator[tuple[Path, Tensor]]:
    """Yield path and tensor of each tensor in nested mappings, sequences, dataclasses and objects with attributes.

    Example:
        >>> import torch
        >>> [path for path, _ in leaves({"image": torch.zeros(1), "meta": [3, torch.zeros(1)]})]
        [('image',), ('meta', 1)]
    """
    if isinstance(value, Tensor):
        yield (), value
    elif depth:
        for key, part in _parts(value):
            for path, tensor in leaves(part, depth - 1):
                yield (key, *path), tensor


def entry_at(batch: Any, path: Path | None) -> Tensor | None:
    """Return the tensor at this path, or None if the batch has none there.

    Example:
        >>> import torch
        >>> entry_at((torch.tensor([1]), {"y": torch.tensor([2])}), (1, "y"))
        tensor([2])
    """
    if path is None:
        return None
    for key in path:
        batch = _part_at(batch, key)
    return batch if isinstance(batch, Tensor) else None


def batch_copy(batch: Any) -> Any:
    """Return the batch with copies of its tensors, so that a step that works in place does not change them."""
    return apply_to_collection(batch, Tensor, lambda tensor: tensor.detach().clone(), allow_frozen=True)


def _part_at(value: Any, key: Any) -> Any:
    if type(value) in (list, tuple):  # as nearly all batches are; without a look at all parts
        return value[key] if isinstance(key, int) and key < min(len(value), _LONGEST) else None
    return dict(_parts(value)).get(key)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, str | bytes | nn.Module | type):
        return ()
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if isinstance(value, Sequence):
        return enumerate(value[:_LONGEST])
    return getattr(value, "__dict__", {}).items()
