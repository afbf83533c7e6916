"""Show tables of samples in a terminal, and write them whole to a file."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from dynalens.cells import inert_cells, printable_cells
from dynalens.cli.output import output_file, say
from dynalens.text import estimate_in_percent, percent

SHOWN = (
    "rank", "name", "root_index", "unit", "unit_row", "unit_column", "label", "target", "prediction", "residual",
    "suggested", "suggested_probability", "wrong_probability", "agreement",
)  # fmt: skip

_WIDTH = 59
"""Letters of a text in a column."""


def _share(fraction: float) -> str:
    return "" if pd.isna(fraction) else percent(fraction, 0)


def _end(name: str) -> str:
    """Return the end of a path that is too long for its column: paths in one folder differ there."""
    return name if len(name) <= _WIDTH or not {"/", "\\"} & {*name} else f"...{name[3 - _WIDTH :]}"


_IN_WORDS: dict[str, Callable[[Any], str]] = {
    "name": _end,
    "suggested_probability": estimate_in_percent,
    "wrong_probability": estimate_in_percent,
    "agreement": _share,
}


def show(table: pd.DataFrame, args: argparse.Namespace, columns: Sequence[str], *, start: int = 0) -> None:
    """Show rows of a table in these columns, and write the whole table to a file if one is asked for.

    Args:
        table: The table.
        args: Arguments of the command: how many rows to show, and the file.
        columns: The columns to show.
        start: Number of rows at the top of the table that are not shown.
    """
    rows = table.iloc[start:].head(args.top)
    view = pd.DataFrame(index=rows.index)
    for column in columns:
        name_column = f"{column}_name"
        if name_column in rows:
            view[column] = rows[name_column]
        elif column in rows and not (column == "root_index" and _is_told(table)):
            view[column] = rows[column].map(_IN_WORDS[column]) if column in _IN_WORDS else rows[column]
    if len(view):
        say(printable_cells(view.round(3)).to_string(max_colwidth=_WIDTH + 1))
    if len(table) - start > len(view):
        say(f"... and {len(table) - start - len(view)} more: --top {len(table) - start}, or --csv FILE")
    if args.csv:
        file = output_file(args.csv, ".csv")
        inert_cells(table).to_csv(file)
        say(f"{len(table)} rows written to {file}")


def _is_told(table: pd.DataFrame) -> bool:
    """Return whether the position in the dataset needs no column, because samples have names or it is their id."""
    return "name" in table or bool(table["root_index"].isna().all()) or [*table["root_index"]] == [*table.index]
