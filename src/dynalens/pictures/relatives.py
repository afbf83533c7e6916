"""Rows of small pictures in named groups: samples beside the samples that explain them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dynalens.pictures.card import GAP, LINE, TEXT, WIDTH, Card
from dynalens.pictures.drawing import FAINT, GRID, INK, fit_picture, write
from dynalens.pictures.overlays import Shown, input_cell

_CELL = 56  # in pixels of the card: a digit can be read at that size
_BETWEEN = 10  # groups


@dataclass(frozen=True)
class Relative:
    """A small picture with a caption.

    Attributes:
        picture: A picture, or an input in the form of sheets; None for an empty frame.
        caption: A line below it.
    """

    picture: Image.Image | Shown | None
    caption: str


Row = tuple[str, Mapping[str, Sequence[Relative]]]
"""Words above the row, and its groups by their names."""


def relatives_sheet(rows: Sequence[Row], title: str, *, cell: int = _CELL) -> Image.Image:
    """Return one picture with a row for each sample or class, and the same groups in each row.

    Args:
        rows: At least one row. If a row lacks a group or has fewer pictures in it than others, the room stays empty.
        title: First line.
        cell: Side of a small picture, in pixels of the card.
    """
    widths: dict[str, int] = {}
    for _, groups in rows:
        for name, members in groups.items():
            widths[name] = max(widths.get(name, 0), len(members))
    lefts, end = {}, GAP
    for name, number in widths.items():
        lefts[name] = end
        end += max(number, 1) * (cell + GAP) + _BETWEEN
    pitch, top = 2 * LINE + cell + 2 * GAP, 2 * LINE + 6
    card = Card(top + len(rows) * pitch, width=max(WIDTH, end))
    write(card.draw, (GAP, 2), title, TEXT + 1, width=max(WIDTH, end) - 2 * GAP)
    for name, left in lefts.items():
        write(card.draw, (left, LINE + 4), name, TEXT, fill=FAINT, width=max(widths[name], 1) * (cell + GAP))
    for number, (line, groups) in enumerate(rows):
        y = top + number * pitch
        write(card.draw, (GAP, y), line, TEXT, fill=INK, width=max(WIDTH, end) - 2 * GAP)
        for name, members in groups.items():
            for place, member in enumerate(members):
                _draw(card, (lefts[name] + place * (cell + GAP), y + LINE), member, cell)
    return card.image()


def _draw(card: Card, position: tuple[int, int], member: Relative, cell: int) -> None:
    (x, y), size = position, (cell * card.scale, cell * card.scale)
    if member.picture is None:
        card.draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=GRID)
    elif isinstance(member.picture, Image.Image):
        card.paste(fit_picture(np.asarray(member.picture.convert("RGB")), size), position)
    else:
        card.paste(input_cell(member.picture, size), position)
    write(card.draw, (x, y + cell + 1), member.caption, TEXT, fill=FAINT, width=cell + GAP - 2)
