"""Objects that change when they are used and cannot be set back: a copy takes their place, or they cannot be used."""

import copy
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_EMPTY: tuple[Sequence[Any], ...] = ([], (), "", b"", range(0))
_ITERATORS = tuple(type(iter(values)) for values in _EMPTY)
_DRAWN_FROM = ("builtins", "itertools", "torch.utils.data.dataloader")
"""Modules whose iterators, among them generators, can be used only once."""


class _Exhaustible:
    """Takes the place of an iterator that a look must not draw from."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        raise ValueError(
            f"Expected a forward pass that leaves no trace, got one that takes an item from a {self.kind}, to "
            "which the item cannot be given back. Take items from a list by their position, or take them outside "
            "of `forward`."
        )


class StandIns:
    """Puts copies in the place of objects. An object that stands in several places has one copy."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}  # with the object, which keeps its id

    def replace_entries(self, container: Any, kind: Any, entries: Iterable[tuple[Any, Any]]) -> None:
        """Replace entries of a dictionary or list that need it. The caller has to put the objects back.

        Args:
            container: The dictionary or list.
            kind: ``dict`` or ``list``. Its methods are used, because those of a subclass may do more.
            entries: Keys or positions, with the objects there.
        """
        for place, entry in entries:
            kind_of_entry: Any = type(entry)
            if not is_replaced(kind_of_entry):
                continue
            _, copy = self._copies.setdefault(id(entry), (entry, stand_in(entry)))
            kind.__setitem__(container, place, copy)


@functools.cache
def is_replaced(kind: Any) -> bool:
    """Return whether a copy takes the place of objects of this type."""
    is_of_pandas = kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in ("DataFrame", "Series")
    return is_of_pandas or (kind.__module__ in _DRAWN_FROM and issubclass(kind, Iterator))


def stand_in(value: Any) -> Any:
    """Return a copy that continues where an object of such a type stands.

    There are copies of a counter of ``itertools`` in whole numbers, of an iterator over a list, tuple, string, bytes or
    range, and of a table or series of pandas. Other iterators, such as generators, cannot be copied. What takes their
    place raises a ValueError when it is drawn from.

    Example:
        >>> numbers = itertools.count(3)
        >>> next(stand_in(numbers)), next(numbers)
        (3, 3)
    """
    counter = type(value) is itertools.count and re.fullmatch(r"count\((-?\d+)(?:, (-?\d+))?\)", repr(value))
    if counter:  # Python 3.14 can copy it no more
        return itertools.count(*(int(number) for number in counter.groups(default="1")))
    if type(value) in _ITERATORS:
        return copy.copy(value)
    return _Exhaustible(type(value).__name__) if isinstance(value, Iterator) else value.copy()
