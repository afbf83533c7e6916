"""Read the positions in the dataset from what a loader's sampler draws, and queue them."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dynalens.datasets import position_of
from dynalens.identity.errors import SampleIdentityError
from dynalens.keys import OWN_INDEX

_TUPLES = 64
"""Number of tuples of an iterator that are looked at. No sampler draws more sizes, scales or domains than that."""
_REPEATS = 4
"""Fewest tuples with the same integer that count as a repetition: two or three positions that are drawn with
replacement may be equal by chance."""


class RecordingSampler:
    """Wraps a loader's index sampler, and queues what each iteration draws."""

    def __init__(self, sampler: Any, dataset: Any) -> None:
        self._sampler, self._dataset = sampler, dataset

    def __iter__(self) -> Iterator[Any]:
        # Eager: a lazy iterator would move the sampler's random draws behind those of the loader.
        return _Draws(iter(self._sampler), self._dataset)

    def __len__(self) -> int:
        return len(self._sampler)


class _Draws:
    def __init__(self, entries: Iterator[Any], dataset: Any) -> None:
        self._entries, self._dataset = entries, dataset
        self._tuples: list[tuple[int, ...]] = []
        self.queue: deque[np.ndarray | SampleIdentityError] = deque()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        entry = next(self._entries)
        positions = drawn_positions(entry, self._dataset)
        if isinstance(positions, np.ndarray) and len(self._tuples) < _TUPLES:
            self._tuples += _integers_of(entry)
            positions = _ambiguous(self._tuples, len(self._dataset)) or positions
        self.queue.append(positions)
        return entry


def _integers_of(entry: Any) -> list[tuple[int, ...]]:
    """Return the integers of each tuple that was drawn, if each tuple has several and no names."""
    keys = entry if isinstance(entry, list) else [entry]
    if not all(type(key) is tuple for key in keys):
        return []
    return [tuple(number for number in key if type(number) is int) for key in keys]


def _ambiguous(tuples: list[tuple[int, ...]], samples: int) -> SampleIdentityError | None:
    """Return the error for tuples whose first integer repeats, while another one does not and may be the position."""
    if len(tuples) < _REPEATS or len({len(numbers) for numbers in tuples}) > 1:
        return None
    first_numbers, *other_columns = zip(*tuples, strict=True) if tuples[0] else [()]
    if len(set(first_numbers)) == len(first_numbers):
        return None
    if not any(len(set(column)) == len(column) and max(column) < samples for column in other_columns):
        return None
    return SampleIdentityError(
        f"Expected the sampler to draw tuples whose first integer is the position in the dataset, got {tuples[:3]} and "
        f"so on, where it repeats and another one does not. Draw the position first, or: {OWN_INDEX}"
    )


def drawn_positions(entry: Any, dataset: Any) -> np.ndarray | SampleIdentityError:
    """Return what a sampler drew as an array: some samplers change a list later that they have handed out.

    If the positions are not clear, the error is returned and delivered with the batch. Raised inside the loader, it
    would also end trainings in which nobody asked for a record.
    """
    try:
        return _as_positions(entry, dataset)
    except SampleIdentityError as error:
        return error
    except Exception as error:  # noqa: BLE001  # whatever the sampler of the user draws
        return SampleIdentityError(
            f"Expected the sampler to draw positions in the dataset, got {str(entry)[:60]} "
            f"({type(error).__name__}: {error}). {OWN_INDEX}"
        )


def _as_positions(entry: Any, dataset: Any) -> np.ndarray:
    indices = _as_array(entry)
    if indices.dtype.kind not in "iu" or indices.ndim > 1:
        keys = entry if isinstance(entry, Sequence | np.ndarray) and not isinstance(entry, str) else [entry]
        try:
            indices = np.array([position_of(key) for key in keys])
        except TypeError as error:
            raise SampleIdentityError(str(error)) from None
    positions = indices.reshape(-1).astype(np.int64, copy=False)
    return np.where(positions < 0, positions + len(dataset), positions) if positions.min(initial=0) < 0 else positions


def _as_array(entry: Any) -> np.ndarray:
    try:
        return np.array(entry)
    except ValueError:  # of tuples such as (index, (height, width))
        return np.array(None)
