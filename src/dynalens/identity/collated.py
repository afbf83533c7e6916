"""Collate functions that tell in which order the samples are in their batch."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import default_collate, default_convert

from dynalens.identity.columns import Column, Path, columns_of_batch, columns_of_samples
from dynalens.identity.errors import REMEDY, SampleIdentityError
from dynalens.identity.order import Order, OrderError, order_of_rows

_LOOKS = 2
"""Batches of an iterator in which arrays are compared: it costs more than 2 microseconds a sample, numbers do not."""


class Collated(NamedTuple):
    """A batch, which of the drawn samples each of its rows is (None: in their order), or why that cannot be told."""

    batch: Any
    order: Order | None
    problem: str

    def ordered(self, indices: np.ndarray) -> "np.ndarray | SampleIdentityError":
        """Return the index of each row; where it is not known, the error that says so."""
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
    """Collate as another function does, and compare the batch with the samples.

    Args:
        collate: The loader's own function. It sees the same samples, and nothing is drawn or changed.
    """

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate
        self._looks, self._moved = _LOOKS, False

    def __call__(self, samples: Any) -> Collated:
        """Return the batch with the order of its rows."""
        if not isinstance(samples, list):  # what the dataset returned at once, in a form of its own
            return Collated(self._collate(samples), None, "")
        drawn = list(samples)
        columns = _columns(drawn)
        batch = self._collate(samples)
        if batch is None:
            return Collated(None, None, "")
        places = _order_in_list(drawn, samples)
        try:
            order = self._compared({path: [values[i] for i in places] for path, values in columns.items()}, batch)
        except OrderError as error:
            return Collated(batch, None, str(error))
        places = places if order is None else [places[i] for i in order]
        return Collated(batch, None if places == list(range(len(drawn))) else places, "")

    def _compared(self, columns: dict[Path, list[Any]], batch: Any) -> Order | None:
        rows = columns_of_batch(batch)
        self._looks -= 1
        if not self._moved and self._looks < 0 and _numbers_agree(columns, rows):
            return None
        order = order_of_rows(columns, rows, arrays=True)
        self._moved |= order is not None
        return order


def _numbers_agree(columns: dict[Path, list[Any]], rows: dict[Path, Column]) -> bool:
    try:
        return order_of_rows(columns, rows, arrays=False) is None
    except OrderError:
        return False


def _columns(drawn: list[Any]) -> dict[Path, list[Any]]:
    """Read the samples now: collate functions take entries out of them. What is None has none."""
    kept = [place for place, sample in enumerate(drawn) if sample is not None]
    columns = columns_of_samples([drawn[place] for place in kept]) if kept else {}
    if len(kept) == len(drawn):
        return columns
    places = dict(zip(kept, range(len(kept)), strict=True))
    return {
        path: [values[places[i]] if i in places else None for i in range(len(drawn))]
        for path, values in columns.items()
    }


def _order_in_list(drawn: list[Any], samples: list[Any]) -> Order:
    """Return the places of the samples that the function left in its list, which it may have sorted or shortened."""
    places: dict[int, list[int]] = {}
    for place, sample in reversed(list(enumerate(drawn))):
        places.setdefault(id(sample), []).append(place)
    same = len(samples) == len(drawn) and all(map(operator.is_, samples, drawn))
    if same or not all(places.get(id(sample)) for sample in samples):
        return [place for place, sample in enumerate(drawn) if sample is not None]
    return [places[id(sample)].pop() for sample in samples if sample is not None]
