"""Indices and ids that a batch carries itself."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.identity.errors import SampleIdentityError


def indices_in_batch(batch: Any, index: Any) -> Tensor | list[str]:
    """Return the dataset indices, or the string ids, that the batch itself carries.

    Args:
        batch: What the loader delivered.
        index: Key of the batch, or callable(batch).

    Raises:
        SampleIdentityError: If the key is missing or the values are neither integers nor strings.
    """
    if callable(index):
        values = index(batch)
    elif isinstance(batch, Mapping) and index in batch:
        values = batch[index]
    else:
        seen = f"the keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise SampleIdentityError(
            f"Expected the batch to hold the key {index!r}, got {seen}. Pass a key of the batch or a callable."
        )
    if isinstance(values, list | tuple) and set(map(type, values)) == {str}:
        return list(values)
    found = values if isinstance(values, Tensor) else np.asarray(values)
    if not isinstance(found, Tensor) and found.dtype.kind == "U" and found.ndim == 1:
        return [str(value) for value in found]
    if isinstance(found, Tensor):
        integers = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    else:
        integers = found.dtype.kind in "iu"
    if found.ndim != 1 or not integers:
        raise SampleIdentityError(
            f"Expected `index` to give one integer or string for each sample, got {tuple(found.shape)} of "
            f"{found.dtype}. Return the positions in the dataset, or ids."
        )
    return torch.as_tensor(found, dtype=torch.int64)


class SampleIds:
    """The row of each sample id in the record: the order in which the ids were first seen.

    Args:
        ids: The ids of the first rows.

    Example:
        >>> ids = SampleIds()
        >>> ids.rows(["cat/3.png", "dog/1.png", "cat/3.png"]), ids.rows(["dog/1.png"])
        (tensor([0, 1, 0]), tensor([1]))
        >>> list(ids)
        ['cat/3.png', 'dog/1.png']
    """

    def __init__(self, ids: Iterable[int | str] = ()) -> None:
        self._ids = list(ids)
        self._rows: dict[int | str, int] = {known: row for row, known in enumerate(self._ids)}

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Any:
        return iter(self._ids)

    def rows(self, ids: Sequence[int | str] | Tensor) -> Tensor:
        """Return the row of each id, new ones at the end.

        Raises:
            SampleIdentityError: If strings follow integers or the other way round.
        """
        given = ids.tolist() if isinstance(ids, Tensor) else ids
        first = self._ids[0] if self._ids else None
        if given and first is not None and type(given[0]) is not type(first):
            raise SampleIdentityError(
                f"Expected sample ids like those of the record, as {first!r}, got {given[0]!r}. "
                "Use one kind of id, or call `reset()` to begin a new record."
            )
        rows = self._rows
        try:
            found = [rows[known] for known in given]
        except KeyError:
            new = [known for known in dict.fromkeys(given) if known not in rows]
            rows.update(zip(new, range(len(rows), len(rows) + len(new)), strict=True))
            self._ids += new
            found = [rows[known] for known in given]
        return torch.from_numpy(np.array(found, dtype=np.int64))

    def of(self, rows: Tensor) -> list[int | str]:
        """Return the id of each row."""
        return [self._ids[row] for row in rows.tolist()]

    def array(self, length: int) -> np.ndarray:
        """Return the ids of the first ``length`` rows; loads without pickle."""
        return np.array(self._ids[:length])
