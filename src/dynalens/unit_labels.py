"""What an item of a dataset says was given to its tokens, pixels or numbers, and a checksum of it."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dynalens.datasets import label_place
from dynalens.dynamics import Array
from dynalens.keys import UNIT_LABEL_KEYS

_WORD = "checksum "


def labels_of(item: Any, label_key: int | str | None = None) -> Array:
    """Return the labels of a dataset's item: its second part, or the first of the usual keys of a dict.

    Args:
        item: Of the dataset.
        label_key: Where the labels stand instead.

    Raises:
        ValueError: If the item has none.
    """
    keys = [key for key in UNIT_LABEL_KEYS if key in item] if isinstance(item, Mapping) else []
    labels = item[label_place(item, label_key if label_key is not None else next(iter(keys), None))]
    return np.asarray(labels.numpy(force=True) if isinstance(labels, Tensor) else labels)


def checksum_of(labels: Array) -> str:
    """Return a text that other labels, or the same ones in another place, almost never have; of any type of numbers.

    Example:
        >>> mask = np.array([[0, 2], [1, 1]])
        >>> checksum_of(mask) == checksum_of(mask.astype(np.float32)), checksum_of(mask) == checksum_of(mask.T)
        (True, False)
    """
    values = np.ascontiguousarray(labels, dtype=np.float64)
    return f"{_WORD}{zlib.crc32(f'{values.shape}'.encode() + values.tobytes()):08x}"


def is_checksum(text: str) -> bool:
    """Return whether a text is one of :func:`checksum_of`."""
    return text.startswith(_WORD)
