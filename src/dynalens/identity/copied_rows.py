"""Copies of samples with which a collate function fills up a batch, as the last one of an epoch."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynalens.identity.columns import Column, Path, array_keys, begins_with, bytes_of_rows, scalar_keys, scalars
from dynalens.identity.order import Order, differ


def order_with_copies(samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column]) -> Order | None:
    """Return which sample each row is, if there are more rows than samples and all rows are samples.

    Arrays or strings must tell: labels alone would also be those of other samples. If a collate function changes its
    samples, for instance by normalising images, their labels tell that the first rows are the samples in order. The
    other rows must then be equal to one of them.

    Returns:
        One number per row; None if a row is no sample, or could be several that are not equal.

    Example:
        >>> import torch
        >>> order_with_copies({(0,): ["a", "b"]}, {(0,): ["a", "b", "a", "b", "a"]})
        [0, 1, 0, 1, 0]
        >>> images = torch.tensor([[7.0], [8.0], [8.0]])
        >>> order_with_copies({(0,): [5, 6]}, {(0,): torch.tensor([5, 6, 6]), (1,): images})
        [0, 1, 1]
    """
    keys = _keys(samples, rows)
    return _order_of_equal_rows(samples, rows) if not keys else _order_by_keys(keys, samples, rows)


def _order_by_keys(
    keys: list[tuple[list[Any], list[Any]]], samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column]
) -> Order | None:
    samples_by_key = defaultdict(list)
    for sample, key in enumerate(zip(*(of_samples for of_samples, _ in keys), strict=True)):
        samples_by_key[key].append(sample)
    order = []
    for key in zip(*(of_rows for _, of_rows in keys), strict=True):
        candidates = samples_by_key[key]
        if not candidates or any(differ(samples, candidates[0], other) for other in candidates[1:]):
            return None
        order.append(candidates[0])
    return order if _are_arrays_equal(samples, rows, order) else None


def _keys(samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column]) -> list[tuple[list[Any], list[Any]]]:
    """Return the keys of samples and rows in columns of which each row is that of a sample; [] if no column tells."""
    pairs, tells = [], False
    for values in samples.values():
        column = scalars(values)
        for row in rows.values():
            keys = array_keys(values, row) if column is None else scalar_keys(column, row)
            if keys is not None and set(keys[1]) <= set(keys[0]):
                pairs.append(keys)
                tells |= not isinstance(column, Tensor)
    return pairs if tells else []


def _order_of_equal_rows(samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column]) -> Order | None:
    """Return which sample each row is, if the first rows are all samples in order, and each other row equals one."""
    count = len(next(iter(samples.values()), ()))
    labels = [keys for values in samples.values() for row in rows.values() if (keys := _labels(values, row))]
    arrays = [bytes_of_rows(row) for row in rows.values() if isinstance(row, Tensor) and row.ndim > 1]
    if not labels or not arrays:
        return None
    keys = list(zip(*labels, *arrays, strict=True))
    sample_of: dict[Any, int] = {}
    for sample, key in enumerate(keys[:count]):
        if differ(samples, sample_of.setdefault(key, sample), sample):
            return None
    order = [*range(count), *(sample_of.get(key, -1) for key in keys[count:])]
    return None if -1 in order else order


def _labels(values: list[Any], row: Column) -> list[Any]:
    """Return the numbers or strings of a column that begins with those of the samples; [] if it does not."""
    column = scalars(values)
    keys = scalar_keys(column, row) if column is not None else None
    begins = keys is not None and keys[1][: len(values)] == keys[0] and len(set(keys[0])) > (len(values) > 1)
    return keys[1] if keys is not None and begins else []


def _are_arrays_equal(samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column], order: Order) -> bool:
    """Return whether all numbers of the arrays whose keys agree are equal."""
    for values in samples.values():
        for row in rows.values() if scalars(values) is None else ():
            keys = array_keys(values, row)
            if keys is None or isinstance(row, list) or not set(keys[1]) <= set(keys[0]):
                continue
            if not all(begins_with(row[i], values[sample], end=False) for i, sample in enumerate(order)):
                return False
    return True
