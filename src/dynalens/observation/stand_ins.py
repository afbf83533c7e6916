"""Copies of objects that change when they are used and cannot be set back: they are used in their place."""

import copy
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

_EMPTY: tuple[Sequence[Any], ...] = ([], (), "", b"", range(0))
_ITERATORS = tuple(type(iter(values)) for values in _EMPTY)
_LARGEST = 1000
"""Values of a table above which it is data, which a forward pass reads and does not change."""


class StandIns:
    """Puts copies in the place of objects, the same one wherever an object stands."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}  # with the object, which keeps its id

    def put(self, container: Any, kind: Any, entries: Iterable[tuple[Any, Any]]) -> None:
        """Replace those entries of a dictionary or list that need it; whoever calls puts the objects back.

        Args:
            container: It.
            kind: ``dict`` or ``list``, whose methods are used: those of a subclass may do more.
            entries: Keys or positions, and what stands there.
        """
        for place, entry in entries:
            kind_of_entry: Any = type(entry)
            if not is_replaced(kind_of_entry):
                continue
            _, copied = self._copies.setdefault(id(entry), (entry, stand_in(entry)))
            if copied is not None:
                kind.__setitem__(container, place, copied)


@functools.cache
def is_replaced(kind: Any) -> bool:
    """Return whether copies of this type stand for its objects."""
    of_pandas = kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in ("DataFrame", "Series")
    return of_pandas or kind is itertools.count or kind in _ITERATORS


def stand_in(value: Any) -> Any:
    """Return a copy that goes on where an object of such a type stands, or None if it cannot or need not be copied.

    That is a counter of ``itertools`` in whole numbers, an iterator over a list, tuple, string, bytes or range, and a
    small table or series of pandas.

    Example:
        >>> numbers = itertools.count(3)
        >>> next(stand_in(numbers)), next(numbers)
        (3, 3)
    """
    if type(value) is itertools.count:
        whole = re.fullmatch(r"count\((-?\d+)(?:, (-?\d+))?\)", repr(value))  # Python 3.14 can copy it no more
        return itertools.count(*(int(number) for number in whole.groups(default="1"))) if whole else None
    if type(value) in _ITERATORS:
        return copy.copy(value)
    return value.copy() if value.size <= _LARGEST else None
