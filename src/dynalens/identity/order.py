"""Find out which sample each row of a batch is, by comparing the values of samples and rows."""

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dynalens.identity.columns import (
    Column,
    Keys,
    Objects,
    Path,
    array_keys,
    begins_with,
    goes_on,
    is_same,
    scalar_keys,
    scalars,
)

Order = list[int]
PACKED = "a row holds several samples, one after another"
APART = "some columns are in the order of the samples and others are not"


class OrderError(Exception):
    """The rows and samples do not belong together. The text says why."""


@dataclass(frozen=True)
class Pair:
    """A column of the samples, and a column of the rows that may hold the same values.

    Attributes:
        path: Path of the column in the samples.
        samples: Key of each sample.
        rows: Key of each row.
        is_row: For arrays: whether a row and a sample, given by their numbers, are equal in all values.
    """

    path: Path
    samples: Keys
    rows: Keys
    is_row: Callable[[int, int], bool] | None = None

    @property
    def in_order(self) -> bool:
        """Whether each row is the sample at its position.

        Numbers may also be renumbered one to one, if repeated numbers show it.
        """
        if len(self.samples) != len(self.rows):
            return False
        if self.samples == self.rows:
            return True
        if self.is_row is not None or Counter(self.samples) == Counter(self.rows):  # of two classes in turn, backwards
            return False
        values, pairs = set(self.samples), set(zip(self.samples, self.rows, strict=True))
        return 1 < len(values) == len(set(self.rows)) == len(pairs) < len(self.rows)

    @property
    def in_another_order(self) -> bool:
        """Whether the rows are some or all of the samples, and are not all equal."""
        tells = len(set(self.rows)) > 1 or len(self.rows) < len(self.samples)
        return tells and not Counter(self.rows) - Counter(self.samples)

    @property
    def overlaps(self) -> bool:
        """Whether arrays are the samples at their positions in more than half of the rows, beyond chance.

        This is a kappa above one half. Arrays with few different values, such as a size or several labels, are often
        equal by chance.
        """
        if self.is_row is None or not self.rows:
            return False
        sample_counts, row_counts, number = Counter(self.samples), Counter(self.rows), len(self.rows)
        chance = sum(sample_counts[key] * row_counts[key] for key in row_counts) / (len(self.samples) * number)
        agreement = sum(map(operator.eq, self.samples, self.rows)) / number
        return bool(agreement - chance > (1 - chance) / 2)


def order_of_rows(samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column]) -> Order | None:
    """Return which sample each row is.

    It is None if they are in the order of the samples, or if nothing shows another order.

    Raises:
        OrderError: If some rows are samples and some are not, or if the order differs and is ambiguous.

    Example:
        >>> import torch
        >>> order_of_rows({(1,): [4, 2, 9]}, {("y",): torch.tensor([2, 4, 9])})
        [1, 0, 2]
    """
    pairs_in_order, moved_pairs = _sorted_out(samples, rows)
    # A value that all samples share tells no order.
    pairs_in_order = [pair for pair in pairs_in_order if len(set(pair.samples)) > 1]
    count = len(next(iter(samples.values()), ()))
    length = count if pairs_in_order else max((len(pair.rows) for pair in moved_pairs), default=0)
    moved_pairs = [pair for pair in moved_pairs if len(pair.rows) == length]
    is_known = pairs_in_order and len(set(zip(*(pair.samples for pair in pairs_in_order), strict=True))) == count
    if is_known and any(_is_no_accident(pair) for pair in moved_pairs):
        raise OrderError(APART)
    if is_known or not moved_pairs:
        return None
    order = _assigned([*moved_pairs, *pairs_in_order], samples)
    if len(order) < count and _are_packed(order, samples, rows):
        raise OrderError(PACKED)
    return order


def _are_packed(order: Order, samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column]) -> bool:
    """Return whether a row of tokens has more than its sample, so that it holds one that has no row of its own."""
    tokens = [leaf for leaf in rows.values() if isinstance(leaf, Tensor) and leaf.ndim == 2 and len(leaf) == len(order)]
    pairs = [
        (row, values[sample])
        for values in samples.values()
        for leaf in tokens
        for row, sample in zip(leaf, order, strict=True)
    ]
    return any(goes_on(row, value) for row, value in pairs)


def _is_no_accident(pair: Pair) -> bool:
    """Return whether the rows are the arrays of all samples, which all differ, in another order."""
    count = len(pair.samples)
    return pair.is_row is not None and len(pair.rows) == len(set(pair.samples)) == count > 2


def _sorted_out(samples: Mapping[Path, list[Any]], rows: Mapping[Path, Column]) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of columns that agree in order, and those of other columns that agree in another order."""
    pairs = [(place, pair) for place, leaf in rows.items() for pair in _pairs(samples, leaf)]
    pairs_in_order = [(place, pair) for place, pair in pairs if pair.in_order]
    places, paths = {place for place, _ in pairs_in_order}, {pair.path for _, pair in pairs_in_order}
    moved_pairs: dict[Path, Pair] = {}
    for place, pair in pairs:
        if place in places or pair.path in paths:
            continue
        if pair.in_another_order:
            if place not in moved_pairs or pair.path[-1:] == place[-1:]:
                moved_pairs[place] = pair
        elif pair.overlaps:
            raise OrderError("some rows are the samples at their places and some are not")
    return [pair for _, pair in pairs_in_order], list(moved_pairs.values())


def _pairs(samples: Mapping[Path, list[Any]], leaf: Column) -> list[Pair]:
    count = len(next(iter(samples.values()), ()))
    if not 0 < len(leaf) <= count:
        return []
    pairs = []
    for path, values in samples.items():
        column = scalars(values)
        if isinstance(leaf, Objects):
            pairs += [] if column is not None else [Pair(path, list(map(id, values)), list(map(id, leaf)))]
        elif column is not None:
            keys = scalar_keys(column, leaf)
            pairs += [Pair(path, *keys)] if keys else []
        elif isinstance(leaf, Tensor):
            pairs += _array_pairs(path, values, leaf)
    return pairs


def _array_pairs(path: Path, values: list[Any], leaf: Tensor) -> list[Pair]:
    pairs = []
    for end in (False, True):
        keys = array_keys(values, leaf, end=end)
        if keys is not None:

            def is_row(row: int, sample: int, end: bool = end) -> bool:
                return begins_with(leaf[row], values[sample], end=end)

            pairs.append(Pair(path, *keys, is_row))
    return pairs


def _assigned(pairs: list[Pair], samples: Mapping[Path, list[Any]]) -> Order:
    """Assign to each row a sample with the same keys. No sample is assigned twice."""
    rows_by_key = defaultdict(list)
    for sample, key in enumerate(zip(*(pair.samples for pair in pairs), strict=True)):
        rows_by_key[key].append(sample)
    tests = [pair.is_row for pair in pairs if pair.is_row is not None and len(set(pair.samples)) > 1]
    order = []
    for row, key in enumerate(zip(*(pair.rows for pair in pairs), strict=True)):
        candidates = rows_by_key[key]
        if len(candidates) > 1:
            candidates = [sample for sample in candidates if all(is_row(row, sample) for is_row in tests)]
            if not tests or any(differ(samples, candidates[0], candidate) for candidate in candidates[1:]):
                raise OrderError("the rows are in another order than the samples, and several could be the same one")
        if not candidates:
            raise OrderError("the rows are in another order than the samples, and some rows equal none of the samples")
        order.append(candidates[0])
        rows_by_key[key].remove(candidates[0])
    return order


def differ(samples: Mapping[Path, list[Any]], a: int, b: int) -> bool:
    """Return whether two samples differ in anything that they hold.

    If not, they are one sample that was drawn twice.
    """
    return any(not is_same(values[a], values[b]) for values in samples.values())
