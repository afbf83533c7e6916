"""Targets of several units as one number for each sample, so that they are compared like labels."""

import zlib
from collections.abc import Mapping

from torch import Tensor

from dynalens.identity.columns import Column, Path


def row_codes(targets: Tensor) -> list[int]:
    """Return a number above 0 for each row of ``(N, ...)`` that other rows do not have.

    Example:
        >>> import torch
        >>> codes = row_codes(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        >>> codes[0] == codes[2] != codes[1]
        True
    """
    rows = _rows(targets.detach().cpu().float()).numpy()
    return [1 + zlib.crc32(row.tobytes()) for row in rows]


def coded_columns(columns: Mapping[Path, Column], targets: Tensor) -> dict[Path, Column]:
    """Return the codes of those columns whose rows have as many numbers as the targets', rounded as these are."""
    size = _rows(targets).shape[1]
    return {
        path: row_codes(column.to(targets.dtype) if targets.is_floating_point() else column)
        for path, column in columns.items()
        if isinstance(column, Tensor) and column.ndim and not column.is_complex() and column[:1].numel() == size
    }


def _rows(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1) if len(values) else values.reshape(0, 1)
