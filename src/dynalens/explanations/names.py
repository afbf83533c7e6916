"""Names of the samples that are explained in every epoch, by which epochs and runs can be compared later."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics import Array

_VALIDATION, _IMAGE = "validation ", "image "
_DIGEST_BYTES = 6
"""48 bits. The probability that two of a million images have the same name is .002."""
_NUMBERED = {1: (_VALIDATION, 10), 2: (_IMAGE, 16)}
"""What numbers on disk stand for: the beginning of such ids, and the base in which the number is written."""


def validation_ids(first_position: int, number: int) -> list[str]:
    """Return the ids of a batch of a validation set that is read in its order.

    Args:
        first_position: Position of its first sample in the dataset.
        number: Samples of the batch.

    Example:
        >>> validation_ids(8, 2)
        ['validation 8', 'validation 9']
    """
    return [f"{_VALIDATION}{position}" for position in range(first_position, first_position + number)]


def content_ids(images: Tensor) -> list[str]:
    """Return a digest of each sample's contents, for samples without a known position. May wait for the device.

    Args:
        images: Shape ``(N, ...)``.

    Example:
        >>> import torch
        >>> first, second, again = content_ids(torch.tensor([[0.0], [1.0], [0.0]]))
        >>> first == again, first == second
        (True, False)
    """
    rows = images.detach().resolve_conj().cpu().contiguous()
    contents = [row.view(-1).view(torch.uint8).numpy().tobytes() for row in rows]
    return [f"{_IMAGE}{hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()}" for content in contents]


def caption(sample: int | str, kind: str) -> str:
    """Return the words for a sample in a picture.

    Args:
        sample: Its id.
        kind: What it is: a sample or a suspect.

    Example:
        >>> caption(3, "suspect"), caption("validation 8", "sample")
        ('suspect 3', 'validation 8')
    """
    return str(sample) if str(sample).startswith((_VALIDATION, _IMAGE)) else f"{kind} {sample}"


def id_arrays(ids: Sequence[int | str]) -> dict[str, Array]:
    """Return ids as arrays to keep on disk: numbers, and under ``ids_of`` what these stand for.

    Example:
        >>> {name: array.tolist() for name, array in id_arrays(["validation 8", "validation 9"]).items()}
        {'ids': [8, 9], 'ids_of': 1}
    """
    for kind, (start, base) in _NUMBERED.items():
        if ids and all(str(sample).startswith(start) for sample in ids):
            numbers = [int(str(sample).removeprefix(start), base) for sample in ids]
            return {"ids": np.array(numbers), "ids_of": np.array(kind)}
    return {"ids": np.array(ids)}


def ids_of_arrays(ids: Array, kind: int) -> list[int | str]:
    """Return the ids from the arrays of :func:`id_arrays`.

    Example:
        >>> ids_of_arrays(np.array([8]), 1), ids_of_arrays(np.array([255]), 2), ids_of_arrays(np.array([3]), 0)
        (['validation 8'], ['image 0000000000ff'], [3])
    """
    start, base = _NUMBERED.get(kind, ("", 0))
    digits = {10: "d", 16: f"0{2 * _DIGEST_BYTES}x"}
    return [f"{start}{number:{digits[base]}}" for number in ids.tolist()] if start else list(ids.tolist())


def id_list(ids: Sequence[int | str] | Tensor) -> list[int | str]:
    """Return ids as a list. Waits for the device if they are on one."""
    return ids.tolist() if isinstance(ids, Tensor) else list(ids)
