"""Tables with texts that are safe to write and to show, whatever letters they have; files that a person filled in."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
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


def sources_in(source: Any) -> list[Any]:
    """Return the files or tables of an argument that may hold one or several of them."""
    is_several = isinstance(source, Iterable) and not isinstance(source, str | pd.DataFrame)
    return list(source) if is_several else [source]


def text_cells(source: Any, argument: str, origin: str) -> pd.DataFrame:
    """Return a table that a person filled in, with each cell as text; "" where a cell is empty.

    A spreadsheet may have changed a file: its cells may be divided by semicolons or tabs, and the names of its columns
    may begin with capital letters.

    Args:
        source: A CSV file, or a table.
        argument: Name of the argument, for errors.
        origin: Where the user gets such a file, for errors.

    Returns:
        A table whose index is the number of each line, from 1.

    Raises:
        TypeError: If it is neither a file nor a table.
        ValueError: If the file is no CSV file.
    """
    if isinstance(source, pd.DataFrame):
        cells = {str(name): [_text(cell) for cell in source[name].tolist()] for name in source}
        return pd.DataFrame(cells, index=range(1, len(source) + 1), dtype=object)
    if not isinstance(source, str | Path):
        raise TypeError(
            f"Expected `{argument}` to be a CSV file or a table, got an object of the class {type(source).__name__}. "
            f"Pass {origin}."
        )
    try:
        return _cells_of_file(Path(source).read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"Expected `{argument}` to be a CSV file, got {source}: {error}. If a spreadsheet wrote it, save it as CSV "
            f"in UTF-8; otherwise take {origin}."
        ) from error


def _cells_of_file(text: str) -> pd.DataFrame:
    header = text.split("\n", 1)[0]
    rows = csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    names = [name.strip().lower() for name in next(rows, [])]
    lines, cells = [], []
    if repeated_names := [name for name, times in Counter(names).items() if name and times > 1]:
        raise csv.Error(f"several columns are named {repeated_names[0]}")
    for row in rows:
        if len(row) > len(names) and any(row[len(names) :]):
            raise csv.Error(
                f"line {rows.line_num} has {len(row)} cells instead of {len(names)}; a text with a comma must be in "
                "quotation marks"
            )
        if row:
            lines.append(rows.line_num)
            cells.append([*row, *[""] * len(names)][: len(names)])
    return pd.DataFrame(cells, index=lines, columns=names, dtype=object).loc[:, [name != "" for name in names]]


def _text(cell: Any) -> str:
    """Return the text of a cell; a column of integers with a missing one holds floats."""
    if pd.isna(cell):
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _map_texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    def cell(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    result = table.assign(**{str(name): [cell(value) for value in table[name]] for name in texts})
    if not pd.api.types.is_numeric_dtype(table.index):
        result.index = pd.Index([cell(value) for value in table.index], name=table.index.name)
    return result
