"""The gallery of suspects: what was given, what the model says instead, and since when."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dynalens.dynamics import Array
from dynalens.pictures.drawing import BLUE, FAINT, GRID, INK, ORANGE, PAPER, write
from dynalens.pictures.overlays import Shown, input_cell, map_cell

_COLUMNS = 4
_PICTURE = 148
_GAP = 14
_TEXT = 20
_LINE = 26
_SPARK = 40


@dataclass(frozen=True)
class Suspect:
    """A sample whose label is probably wrong.

    Attributes:
        sample_id: Its id, as tables show it.
        label: Name of the given class.
        suggested: Name of the class suggested instead; empty for none.
        score: Higher is more suspicious.
        trace: p(label) of each epoch, ``(E,)``, in [0, 1]; NaN where it is not known.
        picture: As sheets show it; None where there is none.
        contrast: Relevance that speaks for the suggested rather than the given class, or None.
    """

    sample_id: str
    label: str
    suggested: str
    score: float
    trace: Array
    picture: Shown | None = None
    contrast: Array | None = None


def suspects_gallery(suspects: Sequence[Suspect], title: str) -> Image.Image:
    """Return a grid of cards, worst first: picture, given and suggested label, score and p(label) over the epochs.

    Args:
        suspects: At least one.
        title: First line.
    """
    contrasts = any(suspect.contrast is not None for suspect in suspects)
    columns = _COLUMNS // 2 if contrasts else _COLUMNS
    inner = _PICTURE * 2 + 6 if contrasts else _PICTURE
    card = (inner + _GAP, _PICTURE + 3 * _LINE + _SPARK + 2 * _GAP)
    rows = -(-len(suspects) // columns)
    top = 2 * _LINE + 10
    gallery = Image.new("RGB", (_GAP + columns * card[0], top + rows * card[1]), PAPER)
    draw = ImageDraw.Draw(gallery)
    room = gallery.width - 2 * _GAP
    write(draw, (_GAP, 5), title, _TEXT + 2, width=room)
    write(draw, (_GAP, 5 + _LINE), "orange: given, blue: suggested; line: p(given)", _TEXT - 1, fill=FAINT, width=room)
    for number, suspect in enumerate(suspects):
        at = (_GAP + number % columns * card[0], top + number // columns * card[1])
        _card(gallery, draw, at, suspect, inner)
    return gallery


def sparkline(trace: Array, size: tuple[int, int]) -> Image.Image:
    """Return p(label) over the epochs as a line between 0 and 1; gaps where it is not known."""
    width, height = size
    cell = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(cell)
    for y in (0, height // 2, height - 1):
        draw.line((0, y, width, y), fill=GRID)
    xs = np.linspace(2, width - 3, len(trace)) if len(trace) > 1 else np.array([width / 2])
    ys = height - 3 - np.clip(trace, 0, 1) * (height - 6)
    points = list(zip(xs.tolist(), ys.tolist(), strict=True)) if len(trace) else []
    for start, end in itertools.pairwise(points):
        if np.isfinite([start[1], end[1]]).all():
            draw.line((*start, *end), fill=ORANGE, width=3)
    for x, y in points[-1:]:
        if np.isfinite(y):
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=ORANGE)
    return cell


def suspects_table(suspects: Sequence[Suspect]) -> str:
    """Return the suspects as a Markdown table, worst first, for inputs that are no images.

    Example:
        >>> print(suspects_table([Suspect("7", "a|b", "<c>", 1.25, np.array([0.5, 0.25]))]))
        | sample | given | suggested | score | p(given), last epochs |
        | --- | --- | --- | --- | --- |
        | 7 | a&#124;b | &lt;c&gt; | 1.25 | 0.50 0.25 |
    """
    lines = ["| sample | given | suggested | score | p(given), last epochs |", "| --- | --- | --- | --- | --- |"]
    for suspect in suspects:
        known = suspect.trace[np.isfinite(suspect.trace)][-5:]
        cells = [suspect.sample_id, suspect.label, suspect.suggested, f"{suspect.score:.2f}"]
        cells.append(" ".join(f"{p:.2f}" for p in known))
        lines.append(f"| {' | '.join(_plain(cell) for cell in cells)} |")
    return "\n".join(lines)


def _card(gallery: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], suspect: Suspect, inner: int) -> None:
    x, y = at
    square = (_PICTURE, _PICTURE)
    if suspect.picture is None:
        draw.rectangle((x, y, x + _PICTURE - 1, y + _PICTURE - 1), outline=GRID)
        write(draw, (x + _PICTURE / 2, y + _PICTURE / 2), "next epoch", _TEXT - 1, fill=FAINT, anchor="mm")
    else:
        gallery.paste(input_cell(suspect.picture, square), at)
        if suspect.contrast is not None:
            cell = map_cell(suspect.picture, suspect.contrast, square, signed=True)
            gallery.paste(cell, (x + _PICTURE + 6, y))
    y += _PICTURE + 4
    write(draw, (x, y), suspect.label, _TEXT, fill=ORANGE, width=inner)
    _arrow(draw, (x + 2, y + _LINE + 12))
    write(draw, (x + 24, y + _LINE), suspect.suggested or "-", _TEXT, fill=BLUE, width=inner - 24)
    id_width = write(draw, (x + inner, y + 2 * _LINE), f"{suspect.score:.2f}", _TEXT, fill=INK, anchor="ra")
    write(draw, (x, y + 2 * _LINE), f"#{suspect.sample_id}", _TEXT, fill=FAINT, width=inner - id_width - 8)
    gallery.paste(sparkline(suspect.trace, (inner, _SPARK)), (x, y + 3 * _LINE + 2))


def _arrow(draw: ImageDraw.ImageDraw, at: tuple[int, int]) -> None:
    x, y = at
    draw.line((x, y, x + 15, y), fill=INK, width=2)
    draw.line((x + 9, y - 5, x + 15, y, x + 9, y + 5), fill=INK, width=2)


def _plain(text: str) -> str:
    """Escape what Markdown and HTML would take for their own."""
    marks = {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "&#124;",
        "`": "&#96;",
        "*": "&#42;",
        "_": "&#95;",
        "[": "&#91;",
    }
    return "".join(marks.get(letter, letter) for letter in " ".join(text.split()))
