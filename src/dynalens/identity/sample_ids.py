"""Indices and ids that the batch itself holds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.datasets import IndexedDataset
from dynalens.identity.errors import NO_POSITIONS, SampleIdentityError


def indices_in_batch(batch: Any, index: Any) -> Tensor | list[str]:
    """Return the dataset indices or string ids that the batch itself holds.

    Args:
        batch: What the loader delivered.
        index: Key of the batch; the place in it if it is a list or tuple; or callable(batch).

    Raises:
        SampleIdentityError: If the key is missing or the values are neither integers nor strings.
    """
    if index is IndexedDataset.indices:
        values = _added_positions(batch)
    elif callable(index):
        values = index(batch)
    elif (isinstance(batch, Mapping) and index in batch) or _is_place(batch, index):
        values = batch[index]
    else:
        raise _no_entry(batch, index)
    if isinstance(values, list | tuple) and set(map(type, values)) == {str}:
        return list(values)
    indices = values if isinstance(values, Tensor) else np.asarray(values)
    if not isinstance(indices, Tensor) and indices.dtype.kind == "U" and indices.ndim == 1:
        return [str(value) for value in indices]
    if isinstance(indices, Tensor):
        integers = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
    else:
        integers = indices.dtype.kind in "iu"
    if indices.ndim != 1 or not integers:
        raise SampleIdentityError(
            f"Expected `index` to give one integer or string for each sample, got {tuple(indices.shape)} of "
            f"{indices.dtype}. Return the positions in the dataset, or ids."
        )
    return torch.as_tensor(indices, dtype=torch.int64)


def _added_positions(batch: Any) -> Any:
    try:
        return IndexedDataset.indices(batch)
    except (KeyError, IndexError, TypeError):
        kind = f"the keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise SampleIdentityError(NO_POSITIONS.format(kind)) from None


def _is_place(batch: Any, index: Any) -> bool:
    is_number = isinstance(index, int) and not isinstance(index, bool)
    return is_number and isinstance(batch, list | tuple) and -len(batch) <= index < len(batch)


def _no_entry(batch: Any, index: Any) -> SampleIdentityError:
    kind = f"the keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    kind += f" of {len(batch)} entries" if isinstance(batch, list | tuple) else ""
    return SampleIdentityError(
        f"Expected the batch to hold the key {index!r}, got {kind}. Pass a key of the batch, the place of the entry in "
        "a list or tuple, as in `index=2`, or a callable(batch)."
    )


class SampleIds:
    """The row of each sample id in the record. Rows are in the order in which the ids came.

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
        self._rows: dict[int | str, int] = {sample_id: row for row, sample_id in enumerate(self._ids)}

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Any:
        return iter(self._ids)

    def rows(self, ids: Sequence[int | str] | Tensor) -> Tensor:
        """Return the row of each id. New ids get new rows at the end.

        Raises:
            SampleIdentityError: If strings follow integers or the other way round.
        """
        listed_ids = ids.tolist() if isinstance(ids, Tensor) else ids
        first_id = self._ids[0] if self._ids else None
        if listed_ids and first_id is not None and type(listed_ids[0]) is not type(first_id):
            raise SampleIdentityError(
                f"Expected sample ids like those of the record, as {first_id!r}, got {listed_ids[0]!r}. "
                "Use one kind of id, or call `reset()` to begin a new record."
            )
        rows = self._rows
        try:
            row_numbers = [rows[sample_id] for sample_id in listed_ids]
        except KeyError:
            new_ids = [sample_id for sample_id in dict.fromkeys(listed_ids) if sample_id not in rows]
            rows.update(zip(new_ids, range(len(rows), len(rows) + len(new_ids)), strict=True))
            self._ids += new_ids
            row_numbers = [rows[sample_id] for sample_id in listed_ids]
        return torch.from_numpy(np.array(row_numbers, dtype=np.int64))

    def ids_of(self, rows: Tensor) -> list[int | str]:
        """Return the id of each row."""
        return [self._ids[row] for row in rows.tolist()]

    def array(self, length: int) -> np.ndarray:
        """Return the ids of the first ``length`` rows as an array that can be loaded without pickle."""
        return np.array(self._ids[:length])
