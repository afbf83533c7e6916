"""Copies of samples with which a collate function fills up a batch, as the last one of an epoch."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynalens.identity.columns import Column, Path, array_keys, begins_with, is_same, scalar_keys, scalars

Order = list[int]


def order_with_copies(samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column]) -> Order | None:
    """Return which sample each row is, if there are more rows than samples and all rows are samples.

    Arrays or strings must tell: labels alone would also be those of other samples.

    Args:
        samples: What samples hold, by path.
        rows: What the rows hold.

    Returns:
        One number per row; None if a row is no sample, or could be several that are not equal.

    Example:
        >>> import torch
        >>> order_with_copies({(0,): ["a", "b"]}, {(0,): ["a", "b", "a", "b", "a"]})
        [0, 1, 0, 1, 0]
    """
    keys = _keys(samples, rows)
    if not keys:
        return None
    samples_by_key = defaultdict(list)
    for sample, key in enumerate(zip(*(of_samples for of_samples, _ in keys), strict=True)):
        samples_by_key[key].append(sample)
    order = []
    for key in zip(*(of_rows for _, of_rows in keys), strict=True):
        candidates = samples_by_key[key]
        if not candidates or any(_differ(samples, candidates[0], other) for other in candidates[1:]):
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


def _differ(samples: Mapping[Path, list[Any]], a: int, b: int) -> bool:
    return any(not is_same(values[a], values[b]) for values in samples.values())


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
