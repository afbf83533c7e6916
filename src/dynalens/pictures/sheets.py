"""The sheet of explanations: a row for each sample, with input, maps and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from dynalens.dynamics import Array
from dynalens.pictures.drawing import FAINT, GRID, LINES, PAPER, RIGHT, WRONG, Colour, shortened, write
from dynalens.pictures.overlays import Shown, input_cell, map_cell

# TensorBoard shows a sheet of five columns at half its size; type of 20 pixels is then 10 pixels high.
_CELL = 128
_GAP = 10
_TEXT = 20
_LINE = 28
_FRAME = 5


@dataclass(frozen=True)
class ExplanationRow:
    """What the sheet shows of one sample.

    Attributes:
        image: An image ``(H, W, 3)``, uint8; a signal ``(C, L)``; or words.
        label: Name of its class.
        predicted: Name of the class with the largest logit.
        p_label: Probability of the label.
        maps: For each method, relevance ``(H, W)``, ``(L,)`` or of each word.
        right: Whether the prediction is the label; None where there is no saying.
        curves: For each method and metric, a curve ``(steps + 1,)`` in [0, 1].
        areas: For each method and metric, the curve's area.
        controls: For each metric, the curve of a random ranking.
        note: Said at the end of the caption.
    """

    image: Shown
    label: str
    predicted: str
    p_label: float
    maps: Mapping[str, Array]
    right: bool | None = None
    curves: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    areas: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    controls: Mapping[str, Array] = field(default_factory=dict)
    note: str = ""


def explanation_sheet(rows: Sequence[ExplanationRow], *, fractions: Array, title: str) -> Image.Image:
    """Return one picture: for each sample the input, each method's overlay, and each method's curves.

    A blue frame is a right prediction, an orange one a wrong one.

    Args:
        rows: The samples; all with the same methods.
        fractions: Abscissa of the curves, ``(steps + 1,)``.
        title: First line of the picture.
    """
    methods = list(rows[0].maps)
    charts = [method for method in methods if rows[0].curves.get(method)]
    signed = {method: any((row.maps[method] < 0).any() for row in rows) for method in methods}
    columns = 1 + len(methods) + len(charts)
    keys = _keys(signed, rows[0])
    top = 2 * _LINE + 10 + _LINE * (len(keys) > 0)
    pitch = _LINE + _CELL + _GAP + 2 * _FRAME
    width = _GAP + columns * (_CELL + _GAP)
    sheet = Image.new("RGB", (max(width, 420), top + len(rows) * pitch), PAPER)
    draw = ImageDraw.Draw(sheet)
    write(draw, (_GAP, 4), title, _TEXT + 2, width=sheet.width - 2 * _GAP)
    _legend(draw, keys, sheet.width)
    for column, name in enumerate(["input", *methods, *charts]):
        x = _GAP + column * (_CELL + _GAP)
        write(draw, (x, top - _LINE), name.replace("_", "-"), _TEXT, fill=FAINT, width=_CELL)
    for number, row in enumerate(rows):
        at = top + number * pitch
        _caption(draw, (_GAP, at), row, sheet.width - 2 * _GAP)
        cells = [input_cell(row.image, (_CELL, _CELL))]
        cells += [map_cell(row.image, row.maps[m], (_CELL, _CELL), signed=signed[m]) for m in methods]
        cells += [
            curve_chart(row.curves[m], fractions, areas=row.areas.get(m, {}), controls=row.controls) for m in charts
        ]
        for column, cell in enumerate(cells):
            sheet.paste(cell, (_GAP + column * (_CELL + _GAP), at + _LINE + _FRAME))
        if row.right is not None:
            x, y = _GAP, at + _LINE + _FRAME
            box = (x - _FRAME, y - _FRAME, x + _CELL + _FRAME - 1, y + _CELL + _FRAME - 1)
            draw.rectangle(box, outline=RIGHT if row.right else WRONG, width=_FRAME)
    return sheet


def curve_chart(
    curves: Mapping[str, Array],
    fractions: Array,
    *,
    areas: Mapping[str, float],
    controls: Mapping[str, Array] | None = None,
    size: int = _CELL,
) -> Image.Image:
    """Return a small chart of curves over [0, 1] x [0, 1], with their areas above and random orders in grey behind."""
    chart = Image.new("RGB", (size, size), PAPER)
    draw = ImageDraw.Draw(chart)
    left, top, right, bottom = 2, 24, size - 3, size - 3
    draw.rectangle((left, top, right, bottom), outline=FAINT)
    draw.line((left, (top + bottom) / 2, right, (top + bottom) / 2), fill=GRID)

    def line(values: Array, colour: Colour, width: int) -> None:
        points = [
            (left + float(x) * (right - left), bottom - float(np.clip(np.nan_to_num(y), 0, 1)) * (bottom - top))
            for x, y in zip(fractions, values, strict=True)
        ]
        draw.line(points, fill=colour, width=width)

    for values in (controls or {}).values():
        line(values, (175, 175, 175), 3)
    for number, (name, values) in enumerate(curves.items()):
        colour = LINES[number % len(LINES)]
        line(values, colour, 3)
        if name in areas:
            share = size / max(len(curves), 2)
            write(draw, (number * share + 2, 0), f"{areas[name]:.2f}".replace("0.", "."), _TEXT, fill=colour)
    return chart


def _caption(draw: ImageDraw.ImageDraw, at: tuple[int, int], row: ExplanationRow, width: int) -> None:
    room = width * 0.33
    label, predicted = (shortened(name, _TEXT, room) for name in (row.label, row.predicted))
    x, y = at
    if row.right is not None:
        word = "right" if row.right else "wrong"
        x += round(write(draw, (x, y), word, _TEXT, fill=RIGHT if row.right else WRONG)) + 10
    said = label if row.right else f"{label}, predicted {predicted}"
    text = f"{said} · p(label) {row.p_label:.2f}" + (f" · {row.note}" if row.note else "")
    write(draw, (x, y), text, _TEXT, width=at[0] + width - x)


def _keys(signed: Mapping[str, bool], row: ExplanationRow) -> list[tuple[str, Colour]]:
    """Return what the curves' colours mean."""
    metrics = list(next((curves for curves in row.curves.values() if curves), {}))
    keys = [(name, LINES[number % len(LINES)]) for number, name in enumerate(metrics)]
    if row.controls:
        keys.append(("random", (150, 150, 150)))
    if any(signed.values()):
        keys += [("for", (200, 20, 30)), ("against", (20, 60, 200))]
    if not all(signed.values()):
        keys.append(("relevant", (249, 142, 8)))
    return keys


def _legend(draw: ImageDraw.ImageDraw, keys: Sequence[tuple[str, Colour]], width: int) -> None:
    x = _GAP + 0.0
    for name, colour in keys:
        draw.rectangle((x, _LINE + 12, x + 14, _LINE + 26), fill=colour)
        x += 20 + write(draw, (x + 20, _LINE + 7), name, _TEXT, width=max(width - x - 20, 1)) + 16
