"""The sheet of explanations: a row for each sample, with input, maps and curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from PIL import Image, ImageDraw

from dynalens.dynamics import Array
from dynalens.pictures.card import FRAME, GAP, LINE, TEXT, WIDTH, Card
from dynalens.pictures.drawing import FAINT, GRID, LINES, PAPER, RIGHT, WRONG, Colour, text_that_fits, text_width, write
from dynalens.pictures.overlays import (
    AGAINST,
    FOR,
    RELEVANT,
    Shown,
    input_cell,
    map_cell,
    word_lines,
    words_cell,
    words_height,
)

_LARGEST_CELL = 64
_SMALLEST_CELL = 32
_FEW_COLUMNS = 6
_MOST_LINES = 5
_MOST_LINES_OF_NAMES = 3
_RANDOM: Colour = (175, 175, 175)


@dataclass(frozen=True)
class ExplanationRow:
    """What the sheet shows of one sample.

    Attributes:
        image: An image ``(H, W, 3)``, uint8; a signal ``(C, L)``; or words.
        label: Name of its class.
        predicted: Name of the class with the largest logit.
        p_label: Probability of the label; NaN for a regression, which has outputs instead of labels.
        maps: For each method, relevance ``(H, W)``, ``(L,)`` or of each word.
        is_correct: Whether the prediction is the label; None if that cannot be said.
        curves: For each method and metric, a curve ``(steps + 1,)`` in [0, 1].
        areas: For each method and metric, the area under the curve.
        controls: For each metric, the curve of a random ranking.
        note: Which sample it is, for the end of the caption.
        explained_for: "label" or "prediction": the caption then begins with the note and the class that is
            explained.
    """

    image: Shown
    label: str
    predicted: str
    p_label: float
    maps: Mapping[str, Array]
    is_correct: bool | None = None
    curves: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    areas: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    controls: Mapping[str, Array] = field(default_factory=dict)
    note: str = ""
    explained_for: str = ""


def explanation_sheet(
    rows: Sequence[ExplanationRow], *, fractions: Array, title: str, columns: Sequence[str] | None = None
) -> Image.Image:
    """Return one picture: for each sample the input, and of each method the overlay and beside it the curves.

    A blue frame is a right prediction, an orange one a wrong one.

    Args:
        rows: The samples; all with the same methods.
        fractions: Abscissa of the curves, ``(steps + 1,)``.
        title: First line of the picture.
        columns: Names of the columns of a table, which are written above the rows if three lines have room for them.

    Words are shown over the width of the picture, coloured by one method below the other.
    """
    if isinstance(rows[0].image, tuple):
        return _sheet_of_words(rows, fractions, title)
    cells_of = _columns(rows[0])
    is_signed = _signs(rows)
    column_count = sum(map(len, cells_of.values()))
    side = max(min(_LARGEST_CELL, (WIDTH - GAP) // column_count - GAP), _SMALLEST_CELL)
    width = max(WIDTH, GAP + column_count * (side + GAP))
    keys, names = _keys(is_signed, rows[0]), _lines_of_names(rows[0].image, columns or ())
    top = 2 * LINE + 6 + LINE * ((len(keys) > 0) + len(names))
    pitch = LINE + side + 2 * GAP
    # Cells of many columns are narrow; at their actual size they should still show something.
    card = Card(top + len(rows) * pitch, scale=2 if column_count <= _FEW_COLUMNS else 3, width=width)
    write(card.draw, (GAP, 2), title, TEXT + 1, width=WIDTH - 2 * GAP)
    _legend(card.draw, keys)
    for number, line in enumerate(names):
        write(card.draw, (GAP, LINE * (1 + (len(keys) > 0) + number) + 3), line, TEXT, width=WIDTH - 2 * GAP)
    for method, cells in cells_of.items():
        x, name = GAP + cells.start * (side + GAP), method.replace("_", "-") or "input"
        write(card.draw, (x, top - LINE - 2), name, TEXT, fill=FAINT, width=len(cells) * (side + GAP) - GAP)
    for number, row in enumerate(rows):
        y = top + number * pitch
        _caption(card.draw, (GAP, y - 1), row)
        _cells_of_row(card, y + LINE + FRAME, side, row, columns=cells_of, is_signed=is_signed, fractions=fractions)
    return card.image()


def _lines_of_names(row: Shown, names: Sequence[str]) -> list[str]:
    """Return the names of a table's columns in the order of their bars; none if they are others, or too many."""
    if isinstance(row, tuple) or row.shape != (len(names),):
        return []
    words = ("bars:", *(f"{name}," for name in names[:-1]), *names[-1:])
    lines = word_lines(words, WIDTH - 2 * GAP, TEXT)
    return [" ".join(words[i] for i in line) for line in lines] if len(lines) <= _MOST_LINES_OF_NAMES else []


def _columns(row: ExplanationRow) -> dict[str, range]:
    """Return the cells of the input, under "", and of each method: its overlay, and its curves if it has any."""
    counts = {"": 1} | {method: 2 if row.curves.get(method) else 1 for method in row.maps}
    first_cells = accumulate(counts.values(), initial=0)
    return {name: range(begin, begin + counts[name]) for name, begin in zip(counts, first_cells, strict=False)}


def _cells_of_row(
    card: Card,
    y: int,
    side: int,
    row: ExplanationRow,
    *,
    columns: Mapping[str, range],
    is_signed: Mapping[str, bool],
    fractions: Array,
) -> None:
    """Draw the input of a sample, the overlays of all methods, and their curves."""
    size = (side * card.scale, side * card.scale)
    frame = None if row.is_correct is None else RIGHT if row.is_correct else WRONG
    card.paste(input_cell(row.image, size), (GAP, y), frame)
    for method in is_signed:
        x = GAP + columns[method].start * (side + GAP)
        card.paste(map_cell(row.image, row.maps[method], size, is_signed=is_signed[method]), (x, y), None)
        if len(columns[method]) > 1:
            _chart(card, (x + side + GAP, y), side, row, method, fractions)


def _sheet_of_words(rows: Sequence[ExplanationRow], fractions: Array, title: str) -> Image.Image:
    """Return the sheet of samples that are words: below each caption a band per method, with words and curves."""
    methods = list(rows[0].maps)
    charts = any(rows[0].curves.get(method) for method in methods)
    is_signed = _signs(rows)
    width = WIDTH - 2 * GAP - charts * (_LARGEST_CELL + GAP)
    min_height = LINE + _LARGEST_CELL if charts else 0
    heights = [max(LINE + words_height(_words(row), width, TEXT, _MOST_LINES), min_height) + GAP for row in rows]
    keys = _keys(is_signed, rows[0])
    top = LINE + 6 + LINE * (len(keys) > 0)
    card = Card(top + sum(LINE + GAP + len(methods) * height for height in heights))
    write(card.draw, (GAP, 2), title, TEXT + 1, width=WIDTH - 2 * GAP)
    _legend(card.draw, keys)
    y = top
    for row, height in zip(rows, heights, strict=True):
        _caption(card.draw, (GAP, y - 1), row)
        y += LINE
        for method in methods:
            write(card.draw, (GAP, y - 1), method.replace("_", "-"), TEXT, fill=FAINT, width=width)
            size = (width, height - LINE - GAP)
            # Drawn in pixels of the card, in which letters stay legible.
            cell = words_cell(_words(row), row.maps[method], size, is_signed=is_signed[method], type_size=TEXT)
            card.paste(
                cell.resize((size[0] * card.scale, size[1] * card.scale), Image.Resampling.NEAREST), (GAP, y + LINE)
            )
            if row.curves.get(method):
                _chart(card, (WIDTH - GAP - _LARGEST_CELL, y), _LARGEST_CELL, row, method, fractions)
            y += height
        y += GAP
    return card.image()


def _signs(rows: Sequence[ExplanationRow]) -> dict[str, bool]:
    """Return for each method whether one of its maps has negative values."""
    return {method: any((row.maps[method] < 0).any() for row in rows) for method in rows[0].maps}


def _words(row: ExplanationRow) -> tuple[str, ...]:
    assert isinstance(row.image, tuple)
    return row.image


def _chart(
    card: Card, position: tuple[int, int], side: int, row: ExplanationRow, method: str, fractions: Array
) -> None:
    """Draw the curves of a method, and their areas above."""
    _areas(card.draw, position, side, row, method)
    size = (side * card.scale, (side - LINE) * card.scale)
    chart = curve_chart(row.curves[method], fractions, controls=row.controls, size=size)
    card.paste(chart, (position[0], position[1] + LINE))


def curve_chart(
    curves: Mapping[str, Array],
    fractions: Array,
    *,
    controls: Mapping[str, Array] | None = None,
    size: tuple[int, int],
) -> Image.Image:
    """Return a small chart of curves over [0, 1] x [0, 1]. Those of a random ranking are grey, behind the others."""
    chart = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(chart)
    # Lines of two pixels and more, because TensorBoard leaves out every second one.
    right, bottom = size[0] - 1, size[1] - 1
    draw.line((0, bottom // 2, right, bottom // 2), fill=GRID, width=2)

    def line(values: Array, colour: Colour) -> None:
        heights = np.clip(np.nan_to_num(values), 0, 1).tolist()
        points = [(x * right, bottom - y * bottom) for x, y in zip(fractions.tolist(), heights, strict=True)]
        draw.line(points, fill=colour, width=4)

    for values in (controls or {}).values():
        line(values, _RANDOM)
    for number, values in enumerate(curves.values()):
        line(values, LINES[number % len(LINES)])
    draw.rectangle((0, 0, right, bottom), outline=FAINT, width=2)
    return chart


def _areas(draw: ImageDraw.ImageDraw, position: tuple[int, int], side: int, row: ExplanationRow, method: str) -> None:
    """Write the areas over a chart, each in the colour of its curve."""
    curves, areas = list(row.curves[method]), row.areas.get(method, {})
    share = side / max(len(curves), 2)
    for number, name in enumerate(curves):
        if name in areas:
            text, colour = f"{areas[name]:.2f}".replace("0.", "."), LINES[number % len(LINES)]
            write(draw, (position[0] + round(number * share) + 1, position[1]), text, TEXT, fill=colour)


def _caption(draw: ImageDraw.ImageDraw, position: tuple[int, int], row: ExplanationRow) -> None:
    width = WIDTH - 2 * GAP
    label, predicted = (text_that_fits(name, TEXT, width * 0.33) for name in (row.label, row.predicted))
    x, y = position
    if row.is_correct is not None:
        word = "right" if row.is_correct else "wrong"
        x += round(write(draw, (x, y), word, TEXT, fill=RIGHT if row.is_correct else WRONG)) + GAP
    text = " · ".join(_caption_parts(row, label, predicted, width * 0.33))
    write(draw, (x, y), text, TEXT, width=position[0] + width - x)


def _caption_parts(row: ExplanationRow, label: str, predicted: str, width: float) -> list[str]:
    if math.isnan(row.p_label):  # the output of a regression
        return [label, *([row.note] if row.note else [])]
    probability = f"p(label) {row.p_label:.2f}"
    if row.explained_for:
        reason = f"given: {label}" if row.explained_for == "label" else f"predicted: {predicted}"
        room = 2 * width - text_width(label if row.explained_for == "label" else predicted, TEXT)
        return [f"{text_that_fits(row.note, TEXT, room)}, why {reason}", probability]
    names = label if row.is_correct else f"{label}, predicted {predicted}"
    return [names, probability, *([row.note] if row.note else [])]


def _keys(is_signed: Mapping[str, bool], row: ExplanationRow) -> list[tuple[str, Colour]]:
    """Return the meanings of the colours of curves and maps."""
    metrics = list(next((curves for curves in row.curves.values() if curves), {}))
    keys = [(name, LINES[number % len(LINES)]) for number, name in enumerate(metrics)]
    if row.controls:
        keys.append(("random", _RANDOM))
    if any(is_signed.values()):
        keys += [("for", FOR), ("against", AGAINST)]
    if not all(is_signed.values()):
        keys.append(("relevant", RELEVANT))
    return keys


def _legend(draw: ImageDraw.ImageDraw, keys: Sequence[tuple[str, Colour]]) -> None:
    x = GAP + 0.0
    for name, colour in keys:
        draw.rectangle((x, LINE + 6, x + 7, LINE + 13), fill=colour)
        x += 11 + write(draw, (x + 11, LINE + 3), name, TEXT, width=max(WIDTH - x - 11, 1)) + 8
