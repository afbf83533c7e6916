"""Tables with texts that are safe to write and to show, whatever letters they have."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from dynalens.text import escaped, inert, printable


def inert_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each text in it, the index too, as an :func:`~dynalens.text.inert` cell."""
    return _map_texts(table, inert)


def printable_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each text in it, the index too, :func:`~dynalens.text.printable`."""
    return _map_texts(table, printable)


def escaped_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each text in it, the index too, :func:`~dynalens.text.escaped`."""
    return _map_texts(table, escaped)


def _map_texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    def cell(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    result = table.assign(**{str(name): [cell(value) for value in table[name]] for name in texts})
    if not pd.api.types.is_numeric_dtype(table.index):
        result.index = pd.Index([cell(value) for value in table.index], name=table.index.name)
    return result
