"""Code the targets of all units of a sample as one number, so that they can be compared like labels."""

import zlib
from collections.abc import Mapping

from torch import Tensor

from dynalens.identity.columns import Column, Path


def row_codes(targets: Tensor, mask: Tensor | None = None) -> list[int]:
    """Return a positive number for each row of ``(N, ...)``.

    Rows that differ where they count have different numbers.

    Example:
        >>> import torch
        >>> codes = row_codes(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        >>> codes[0] == codes[2] != codes[1]
        True
    """
    values = targets.detach().cpu().float()
    if mask is not None:  # in the place of others may stand what the step wrote there
        values = values.masked_fill(~mask.cpu().reshape(values.shape), 0)
    rows = _rows(values).numpy()
    return [1 + zlib.crc32(row.tobytes()) for row in rows]


def what_counts(targets: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return which targets have a part in the loss. Classes that it ignores have none, whatever number marks them.

    The batch may mark them by another number than the step: an index of -100 becomes -1 in a step that selects the
    tokens that count.
    """
    if targets.is_floating_point() or targets.is_complex():
        return mask
    return targets >= 0 if mask is None else mask & (targets >= 0)


def coded_columns(columns: Mapping[Path, Column], targets: Tensor, mask: Tensor | None = None) -> dict[Path, Column]:
    """Return the codes of those columns whose rows have as many numbers as the targets', rounded like the targets."""
    size = _rows(targets).shape[1]
    return {
        path: row_codes(column.to(targets.dtype) if targets.is_floating_point() else column, mask)
        for path, column in columns.items()
        if isinstance(column, Tensor) and column.ndim and not column.is_complex() and column[:1].numel() == size
    }


def class_columns(columns: Mapping[Path, Column], classes: int) -> dict[Path, Column]:
    """Return columns that may hold classes in another form as integers: whole numbers, and a number for each class.

    Example:
        >>> import torch
        >>> columns = class_columns({"y": torch.tensor([1.0, 0.0]), "z": torch.eye(2), "x": torch.rand(2, 9)}, 2)
        >>> {path: column.tolist() for path, column in columns.items()}
        {'y': [1, 0], 'z': [0, 1]}
    """
    tensors = {path: column for path, column in columns.items() if isinstance(column, Tensor) and len(column)}
    real = {path: column.flatten(1) if column.ndim > 1 else column[:, None] for path, column in tensors.items()}
    real = {
        path: column for path, column in real.items() if column.shape[1] in (1, classes) and not column.is_complex()
    }
    return {
        path: column.argmax(dim=1) if column.shape[1] > 1 else column[:, 0].long()
        for path, column in real.items()
        if column.shape[1] > 1 or bool((column == column.long()).all())
    }


def _rows(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1) if len(values) else values.reshape(0, 1)
