"""Wrap a collate function, so that it tells in which order the samples are in their batch."""

import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate, default_convert

from dynalens.identity.columns import (
    Column,
    Path,
    columns_of_batch,
    columns_of_rows,
    columns_of_samples,
    is_integer_vector,
    part_at,
    scalar_keys,
    scalars,
)
from dynalens.identity.copied_rows import order_with_copies
from dynalens.identity.errors import REMEDY, ColumnsApartError, SampleIdentityError
from dynalens.identity.order import APART, PACKED, Order, OrderError, order_of_rows

_COMPARED_BATCHES = 2
"""Number of batches of an iterator that are compared in full, which takes 10 to 60 microseconds per sample. In the
others, one column of numbers is compared, which takes 1 microsecond per sample."""
_WITH_ITEM = (Tensor, np.generic)
NOTED_BATCHES = 16
"""Number of batches of an iterator whose labels are noted: more than are needed until a hundred targets have been
compared."""
Labels = dict[Path, list[Any]]
"""Integers and strings that samples had before they became a batch, by their paths in a sample."""


class Collated(NamedTuple):
    """A batch and, for each of its rows, which of the drawn samples it is.

    ``order`` is None if the rows are in the order of the samples. ``problem`` says why the order is not known; it is
    empty if the order is known. ``labels`` are those of the samples, one for each row, in the first batches.
    """

    batch: Any
    order: Order | None
    problem: str
    labels: Labels = {}  # noqa: RUF012  # of a tuple; nobody changes it

    def indices_of_rows(self, indices: np.ndarray | SampleIdentityError) -> np.ndarray | SampleIdentityError:
        """Return the dataset index of each row, or the error that says why it is not known."""
        if isinstance(indices, SampleIdentityError):
            return indices
        if self.problem == APART:
            return ColumnsApartError(
                f"Expected the collate function to reorder all columns of a batch alike, got a batch where {APART}. "
                "Let it sort the samples before it makes the batch."
            )
        if self.problem == PACKED:
            return SampleIdentityError(
                f"Expected the collate function to make a row of each sample, got a batch where {PACKED}. Let it fill "
                "them up to one length instead, or leave the monitor out."
            )
        if self.problem:
            return SampleIdentityError(
                f"Expected the collate function to keep the order of its samples, got a batch where {self.problem}. "
                f"{REMEDY}"
            )
        return indices if self.order is None else indices[self.order]


def is_in_order(collate: Any) -> bool:
    """Return whether a collate function is known to put samples into the batch in their order."""
    return collate is default_collate or collate is default_convert


class OrderedCollate:
    """Call another collate function, and compare the batch with the samples that went into it.

    Args:
        collate: The loader's own function. It sees the same samples, and nothing is drawn or changed.
    """

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate
        self._comparisons_left, self._has_moved = _COMPARED_BATCHES, False
        self._witness: tuple[Path, Path] | None = None
        self._full = 0  # the most samples that were a batch of as many rows
        self._notes_left, self._label_paths = NOTED_BATCHES, list[Path]()

    def __call__(self, samples: Any) -> Collated:
        """Return the batch with the order of its rows."""
        if not isinstance(samples, list):  # what the dataset returned at once, in a form of its own
            return Collated(self._collate(samples), None, "")
        draws, compares = list(samples), self._has_moved or self._comparisons_left > 0
        originals, columns, problem = _looked_at(draws, compares=compares)
        batch = self._collate(samples)
        if batch is None or problem:
            return Collated(batch, None, "" if batch is None else problem)
        try:
            order = self._order(draws, samples, batch, originals, columns)
        except OrderError as error:
            return Collated(batch, None, str(error))
        except Exception as error:  # noqa: BLE001  # of the user's own kind of batch; the loader goes on
            return Collated(batch, None, f"rows cannot be looked at ({_error_text(error)})")
        labels = self._labels(columns, originals, order)
        return Collated(batch, None if order == list(range(len(draws))) else order, "", labels)

    def _labels(self, columns: dict[Path, list[Any]], originals: list[Any], order: Order) -> Labels:
        """Return the integers and strings of the samples, in the order of the rows, of one of the first batches.

        A collate function may put other targets in their place.
        """
        self._notes_left -= 1
        labels: Labels = {}
        if self._notes_left < 0:
            return labels
        with suppress(Exception):  # of the user's own kind of sample
            if columns:
                self._label_paths = [path for path, values in columns.items() if _are_labels(values)]
            of_samples = {
                path: columns.get(path) or [part_at(sample, path) for sample in originals] for path in self._label_paths
            }
            for path, values in of_samples.items():
                labels[path] = [
                    value.item() if isinstance(value, _WITH_ITEM) else value for value in map(values.__getitem__, order)
                ]
        return labels

    def _order(
        self, draws: list[Any], samples: list[Any], batch: Any, originals: list[Any], columns: dict[Path, list[Any]]
    ) -> Order:
        """Return which of the draws each row is.

        If ``originals`` are given and the column that agreed in an earlier batch agrees again, nothing else is
        compared.
        """
        if _are_among(batch, draws):
            return _order_in_list(draws, batch)
        places = _order_in_list(draws, samples)
        if originals and self._witnessed([originals[place] for place in places], batch):
            return places
        columns = columns or _columns(originals or draws)
        order = self._order_by_columns({path: [values[i] for i in places] for path, values in columns.items()}, batch)
        return places if order is None else [places[i] for i in order]

    def _order_by_columns(self, columns: dict[Path, list[Any]], batch: Any) -> Order | None:
        rows = columns_of_rows(batch, columns)
        self._comparisons_left -= 1
        order = self._order_if_filled_up(columns, rows) or order_of_rows(columns, rows)
        self._has_moved |= order is not None
        if order is None:
            self._witness = self._witness or _witness_of(columns, rows)
        return order

    def _order_if_filled_up(self, columns: dict[Path, list[Any]], rows: dict[Path, Column]) -> Order | None:
        """Return which draws the rows are if there are more of them, up to the size of a full batch, as copies.

        Twice or three times as many rows are views of each sample if no batch of this size had as many samples.
        """
        count, lengths = len(next(iter(columns.values()), ())), {len(row) for row in rows.values()}
        num_rows = max(lengths, default=0)
        if len(lengths) == 1 and num_rows == count:
            self._full = max(self._full, count)
        is_filled_up = len(lengths) == 1 and num_rows > count and (num_rows == self._full or num_rows % count)
        return order_with_copies(columns, rows) if is_filled_up else None

    def _witnessed(self, samples: list[Any], batch: Any) -> bool:
        """Return whether the column that agreed before agrees again. If none did, return whether no row is missing."""
        if self._witness is None:
            return all(len(row) == len(samples) for row in columns_of_batch(batch).values())
        of_samples, of_rows = self._witness
        values, leaf = [part_at(sample, of_samples) for sample in samples], part_at(batch, of_rows)
        rows = leaf.flatten().tolist() if isinstance(leaf, Tensor | np.ndarray) else leaf
        return rows == [value.item() if isinstance(value, _WITH_ITEM) else value for value in values]


def _are_labels(values: list[Any]) -> bool:
    column = scalars(values)
    return isinstance(column, list) or (column is not None and is_integer_vector(column))


def _witness_of(columns: dict[Path, list[Any]], rows: dict[Path, Column]) -> tuple[Path, Path] | None:
    """Return a path in the samples and one in the rows with the same numbers or strings, which are not all equal.

    It is None if there are no such paths.
    """
    for path, values in columns.items():
        column = scalars(values)
        for row_path, row in rows.items() if column is not None else ():
            keys = scalar_keys(column, row) if column is not None else None
            if keys is not None and keys[0] == keys[1] and len(set(keys[0])) > 1:
                return path, row_path
    return None


def _shallow_copy(sample: Any) -> Any:
    """Return a copy of a dict or list, so that a collate function that removes entries does not change it."""
    return sample.copy() if isinstance(sample, dict | list) else sample


def _columns(samples: list[Any]) -> dict[Path, list[Any]]:
    """Return the columns of the samples, read before the collate function may remove entries from them.

    Samples that are None have no entries.
    """
    filled_places = [place for place, sample in enumerate(samples) if sample is not None]
    columns = columns_of_samples([samples[place] for place in filled_places]) if filled_places else {}
    if len(filled_places) == len(samples):
        return columns
    places = dict(zip(filled_places, range(len(filled_places)), strict=True))
    return {
        path: [values[places[i]] if i in places else None for i in range(len(samples))]
        for path, values in columns.items()
    }


def _looked_at(draws: list[Any], *, compares: bool) -> tuple[list[Any], dict[Path, list[Any]], str]:
    """Return copies of the samples, or their columns if these are to be compared, or why they cannot be read."""
    try:
        return ([], _columns(draws), "") if compares else ([_shallow_copy(sample) for sample in draws], {}, "")
    except Exception as error:  # noqa: BLE001  # of the user's own kind of sample; the loader goes on
        return [], {}, f"samples cannot be looked at ({_error_text(error)})"


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _are_among(batch: Any, draws: list[Any]) -> bool:
    """Return whether a batch is a list of the sample objects themselves, in any order."""
    if not isinstance(batch, list | tuple) or not batch:
        return False
    # Small numbers and strings are one object for all.
    drawn_ids = {id(sample) for sample in draws if not isinstance(sample, int | float | str)}
    return all(id(sample) in drawn_ids for sample in batch)


def _order_in_list(draws: list[Any], samples: list[Any]) -> Order:
    """Return the draws that the collate function left in its list of samples, which it may have sorted or shortened."""
    places: dict[int, list[int]] = {}
    for place, sample in reversed(list(enumerate(draws))):
        places.setdefault(id(sample), []).append(place)
    is_same = len(samples) == len(draws) and all(map(operator.is_, samples, draws))
    if is_same or not all(places.get(id(sample)) for sample in samples):
        return [place for place, sample in enumerate(draws) if sample is not None]
    # The last place is left for copies of the same sample.
    return [_next(places[id(sample)]) for sample in samples if sample is not None]


def _next(places: list[int]) -> int:
    return places.pop() if len(places) > 1 else places[0]
