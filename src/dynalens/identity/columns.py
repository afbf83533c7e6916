"""Read samples and batches as columns, which can be compared row by row."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Path = tuple[Any, ...]
Column = Tensor | list[Any]
"""One value per row: numbers (N,), arrays (N, ...) of one shape, or a list of strings or of arrays."""
Keys = list[Any]
_WITH_ITEM = (Tensor, np.ndarray, np.generic)
_NUMBERS = (*_WITH_ITEM, int, float)
_PLACES = 32
"""Number of values that stand for an array. Of 60,000 MNIST digits in batches of 128, no two have the same 32 evenly
spread pixels."""


def parts(value: Any, path: Path = (), depth: int = 3) -> Iterator[tuple[Path, Any]]:
    """Yield each tensor, array, number, string and list of numbers in a sample or batch, with the path to it.

    Example:
        >>> list(parts({"x": [0.5, 1.5], "meta": ("cat", 3)}))
        [(('x',), [0.5, 1.5]), (('meta', 0), 'cat'), (('meta', 1), 3)]
    """
    if is_leaf(value):
        yield path, value
        return
    for key, part in _items(value) if depth else ():
        yield from parts(part, (*path, key), depth - 1)


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, tuple | list) else _attributes(value).items()


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object in which a user's code may keep a sample or a batch."""
    return {} if isinstance(value, nn.Module | type) or callable(value) else getattr(value, "__dict__", {})


def is_leaf(value: Any) -> bool:
    """Return whether a value is one column, and not a structure of several."""
    if isinstance(value, list | tuple) and value:
        return isinstance(value[0], int | float | str) and all(type(item) is type(value[0]) for item in value)
    return isinstance(value, Tensor | np.ndarray | np.generic | int | float | str)


def is_integer_vector(part: Any) -> bool:
    """Return whether a part of a batch is a vector of integers, as labels and indices are."""
    return isinstance(part, Tensor) and part.ndim == 1 and not part.is_floating_point() and not part.is_complex()


def part_at(value: Any, path: Path) -> Any:
    """Return the value at a path; None if there is none."""
    try:
        for key in path:
            is_attribute = type(key) is str and not isinstance(value, Mapping)
            value = getattr(value, key) if is_attribute else value[key]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return value


def columns_of_samples(samples: Sequence[Any]) -> dict[Path, list[Any]]:
    """Return, for each path in the first sample, the values of all samples there, if all samples have one.

    An array with one row also gives the row, because collate functions concatenate such samples to a batch.
    """
    paths = [(*path, *row) for path, part in parts(samples[0]) for row in ([(), (0,)] if _has_one_row(part) else [()])]
    columns = {path: [part_at(sample, path) for sample in samples] for path in paths}
    return {path: values for path, values in columns.items() if all(value is not None for value in values)}


def _has_one_row(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and _num_rows(value) == 1


def _num_rows(array: Tensor | np.ndarray) -> int | None:
    """Return the number of rows of an array; None if it has no dimension, or rows of several lengths."""
    is_nested = isinstance(array, Tensor) and array.is_nested
    return None if is_nested or not array.ndim else len(array)


def columns_of_batch(batch: Any, *, copies: bool = False, length: int | None = None) -> dict[Path, Column]:
    """Return the columns of a batch: tensors, arrays, and lists of strings or numbers.

    Args:
        batch: What a collate function or a hook returned.
        copies: Whether to copy tensors that are on a device. If not, these are left out.
        length: If it is given, columns of another length, such as those of the nodes of graphs, are left out.
    """
    columns: dict[Path, Column] = {}
    single: dict[Path, list[Any]] = {}
    for path, part in parts(batch):
        value = part.cpu() if copies and isinstance(part, Tensor) else part
        if isinstance(value, Tensor | np.ndarray) and value.ndim:
            tensor = _tensor(value)
            if tensor is not None:
                columns[path] = tensor
        elif isinstance(value, _WITH_ITEM) and path and isinstance(path[-1], int):
            single.setdefault(path[:-1], []).append(value)
        elif isinstance(value, list | tuple):
            column = list(value) if isinstance(value[0], str) else _tensor(value)
            if column is not None:
                columns[path] = column
    lists = {path: _tensor([value.item() for value in values]) for path, values in single.items() if len(values) > 1}
    all_columns = (lists | columns).items()
    return {path: column for path, column in all_columns if column is not None and length in (None, len(column))}


def columns_of_rows(batch: Any, samples: Mapping[Path, list[Any]]) -> dict[Path, Column]:
    """Return the columns of a batch, in which there may be lists of what its samples hold, as detectors have.

    A column that only such a list has is that of its entries. Entries that are no numbers and no strings are
    :class:`Objects`.
    """
    lists = dict(_lists(batch, samples))
    columns = {
        path: column
        for path, column in columns_of_batch(batch).items()
        if not any(path[: len(place)] == place for place in lists)
    }
    if not lists and isinstance(batch, list | tuple) and batch and not (is_leaf(batch) or is_leaf(batch[0])):
        lists = {(): batch}  # of fewer samples
    for place, entries in lists.items():
        for path, values in columns_of_samples(entries).items():
            column = scalars(values)
            columns[("rows", *place, *path)] = Objects(values) if column is None else column
    return columns


class Objects(list[Any]):
    """A column of arrays and other objects, which is compared by which objects they are."""


def _lists(
    value: Any, samples: Mapping[Path, list[Any]], path: Path = (), depth: int = 2
) -> Iterator[tuple[Path, Sequence[Any]]]:
    """Yield each list with an entry for each sample, with the path to it."""
    if is_leaf(value):
        return
    if isinstance(value, list | tuple) and _are_entries(value, samples):
        yield path, value
        return
    for key, part in _items(value) if depth else ():
        yield from _lists(part, samples, (*path, key), depth - 1)


def _are_entries(values: Sequence[Any], samples: Mapping[Path, list[Any]]) -> bool:
    """Return whether values are the entries of a list, one for each sample.

    In a batch of two, its images and their labels are no such list, and neither are two views.
    """
    filled = [[value for value in column if value is not None] for column in samples.values()]
    count = len(next(iter(filled), ()))
    if len(values) != count or any(type(value) is not type(values[0]) for value in values):
        return False
    arrays = [part for _, part in parts(values) if isinstance(part, Tensor | np.ndarray)]
    num_rows = {_num_rows(array) for array in arrays}
    are_columns = len(num_rows) == 1 and (num_rows.pop() or 0) >= count
    most_axes = max((np.ndim(column[0]) for column in filled if column), default=0)
    return not are_columns and all(array.ndim <= most_axes for array in arrays)


def scalars(values: list[Any]) -> Column | None:
    """Return a column of numbers (N,) or strings; None for arrays."""
    if all(isinstance(value, str) for value in values):
        return values
    if all(isinstance(value, _NUMBERS) and np.ndim(value) == 0 for value in values):
        return _tensor([value.item() if isinstance(value, _WITH_ITEM) else value for value in values])
    return None


def scalar_keys(column: Column, leaf: Column) -> tuple[Keys, Keys] | None:
    """Return both columns as lists that can be compared; None if they are of different kinds."""
    if isinstance(leaf, Objects):
        return None
    if isinstance(column, list) or isinstance(leaf, list):
        return (column, leaf) if isinstance(column, list) and isinstance(leaf, list) else None
    if leaf.ndim > 2 or leaf.shape[1:] not in ((), (1,)):
        return None
    if column.is_complex() != leaf.is_complex():
        return None
    return column.to(leaf.dtype).tolist(), leaf.flatten().tolist()


def array_keys(values: list[Any], leaf: Column, *, end: bool = False) -> tuple[Keys, Keys] | None:
    """Return a few numbers of each sample's array and of each row, at positions that exist in both if rows are padded.

    Args:
        values: Arrays; their shapes may differ.
        leaf: Rows, at least as long as the longest array.
        end: Whether to count positions from the end, because rows are padded at their beginning.
    """
    arrays = [_tensor(value) for value in values]
    if isinstance(leaf, list) or not all(_has_form_of_a_row(array, leaf) for array in arrays):
        return None
    shapes = np.array([array.shape for array in arrays if array is not None])
    box = shapes.min(axis=0)
    if (shapes.max(axis=0) > leaf.shape[1:]).any() or not box.prod():
        return None
    numbers = np.linspace(0, box.prod() - 1, min(_PLACES, int(box.prod()))).astype(np.int64)
    places = [torch.from_numpy(index - box[axis] * end) for axis, index in enumerate(np.unravel_index(numbers, box))]
    entries = torch.stack([array[tuple(places)] for array in arrays if array is not None]).to(leaf.dtype)
    of_each_row: tuple[Any, ...] = (slice(None), *places)
    return bytes_of_rows(entries), bytes_of_rows(leaf[of_each_row])


def _has_form_of_a_row(array: Tensor | None, leaf: Tensor) -> bool:
    return array is not None and array.ndim == leaf.ndim - 1 and array.is_complex() == leaf.is_complex()


def begins_with(row: Tensor, value: Any, *, end: bool) -> bool:
    """Return whether a row is a sample's array, apart from padding."""
    array = _tensor(value)
    assert array is not None
    box = tuple(slice(row.shape[k] - n, None) if end else slice(n) for k, n in enumerate(array.shape))
    return torch.equal(row[box], array.to(row.dtype))


def goes_on(row: Tensor, value: Any) -> bool:
    """Return whether a row of tokens begins or ends with a sample's, and has others than padding beside them.

    Example:
        >>> row = torch.tensor([5, 2, 7, 3])
        >>> goes_on(row, [5, 2]), goes_on(row, [7, 3]), goes_on(torch.tensor([5, 2, 0, 0]), [5, 2])
        (True, True, False)
    """
    array = _tensor(value)
    if array is None or row.ndim != 1 or array.ndim != 1 or not 0 < len(array) < len(row):
        return False
    rests = [row[len(array) :]] if begins_with(row, array, end=False) else []
    rests += [row[: -len(array)]] if begins_with(row, array, end=True) else []
    return bool(rests) and all(bool((rest != rest[0]).any()) for rest in rests)


def is_same(a: Any, b: Any) -> bool:
    """Return whether two values are equal numbers, strings or arrays, as far as the host can compare them."""
    if a is b:
        return True
    if isinstance(a, str) or isinstance(b, str):
        return bool(a == b)
    tensors = _tensor(a), _tensor(b)
    if tensors[0] is None or tensors[1] is None:
        return False
    return tensors[0].dtype == tensors[1].dtype and torch.equal(tensors[0], tensors[1])


def _tensor(value: Any) -> Tensor | None:
    """Return a tensor of numbers that the host can compare; None if there is none."""
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an object, or a number of more than 64 bits
        return None
    plain = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    return tensor if plain and tensor.device.type == "cpu" else None


def bytes_of_rows(rows: Tensor) -> Keys:
    """Return the numbers of each row as bytes, which can be compared and counted."""
    # As bytes already in torch: numpy lacks some of its dtypes.
    numbers = rows.resolve_conj().resolve_neg().contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in numbers]
