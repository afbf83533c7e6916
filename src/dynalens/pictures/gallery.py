"""The gallery of suspects: their given and suggested labels, and p(label) over the epochs."""

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dynalens.dynamics import Array
from dynalens.pictures.card import LINE, TEXT, WIDTH, Card
from dynalens.pictures.drawing import BLUE, FAINT, GRID, INK, ORANGE, PAPER, Colour, text_width, write
from dynalens.pictures.overlays import Shown, input_cell, map_cell, shown_part
from dynalens.text import estimate_in_percent

_COLUMNS = 4
_FEWEST_COLUMNS = 2
_PICTURE = 77
_ARROW = 13  # width of the arrow with the gap behind it
_GAP = 8
_SPARK = 20
_SCALE = 2
_SMALL, _EDGE = 22, 3  # side of a similar sample, and of its bar: three fit into a card
_ROW = _SMALL + _EDGE
_WORDS = ("given", "suggested", "p(given)")
_MARKDOWN = str.maketrans({letter: f"&#{ord(letter)};" for letter in "|`*_["})


@dataclass(frozen=True)
class Suspect:
    """A sample whose label is probably wrong.

    Attributes:
        sample_id: Id, as tables show it.
        label: Name of the given class.
        suggestion: Name of the suggested class; empty if there is none.
        wrong_probability: Probability that the label is wrong, in [0, 1]; NaN if it was not estimated.
        trace: p(label), or closeness, of each epoch, ``(E,)``, in [0, 1]; NaN if it is not known.
        picture: Picture in the form of sheets; None if there is none.
        contrast: Relevance that speaks for the suggested and against the given class; None if there is none.
        name: Name of the sample, for instance of its file; empty if it has none.
        similar: Pictures of the most similar samples of the given class and of the suggested class; None for a missing
            picture.
        text: Its words, with the doubtful token in brackets; empty if they have not passed yet; None if it is no text.
    """

    sample_id: str
    label: str
    suggestion: str
    wrong_probability: float
    trace: Array
    picture: Shown | None = None
    contrast: Array | None = None
    name: str = ""
    similar: tuple[Sequence[Shown | None], Sequence[Shown | None]] = ((), ())
    text: str | None = None


def suspects_gallery(suspects: Sequence[Suspect], title: str, words: tuple[str, str, str] = _WORDS) -> Image.Image:
    """Return a grid of cards, the worst suspect first.

    Picture, labels, probability of a wrong label, p(label) over epochs.

    Cards are wider if their words would be cut.

    Args:
        suspects: At least one.
        title: First line.
        words: Words for the given label, for the suggested one, and for the line over the epochs.
    """
    contrasts = any(suspect.contrast is not None for suspect in suspects)
    columns, inner = _grid(suspects, _FEWEST_COLUMNS if contrasts else _COLUMNS)
    has_names = any(suspect.name for suspect in suspects)
    has_similar = any(any(suspect.similar) for suspect in suspects)
    pitch = _PICTURE + (3 + has_names) * LINE + _SPARK + 2 * _GAP + has_similar * 2 * _ROW
    signals = [suspect.picture for suspect in suspects if isinstance(suspect.picture, np.ndarray)]
    parts = sorted({shown_part(signal.shape) for signal in signals if signal.ndim == 2} - {""})
    legend = [f"orange: {words[0]}; in %: how probably it is wrong"]
    legend += [f"blue: {words[1]}; line: {words[2]} over the epochs"]
    legend += ["maps: red speaks for the suggested, blue for the given"] if contrasts else []
    legend += ["below: what it looks like of the given, and of the suggested class"] if has_similar else []
    legend += [f"signals: {part}" for part in parts]
    top = (1 + len(legend)) * LINE + 6
    card = Card(top + -(-len(suspects) // columns) * pitch, _SCALE)
    room = WIDTH - 2 * _GAP
    write(card.draw, (_GAP, 2), title, TEXT + 1, width=room)
    for number, line in enumerate(legend, start=1):
        write(card.draw, (_GAP, 2 + number * LINE), line, TEXT, fill=FAINT, width=room)
    for number, suspect in enumerate(suspects):
        position = (_GAP + number % columns * (inner + _GAP), top + number // columns * pitch)
        _suspect(card, position, suspect, inner)
    return card.image()


def _grid(suspects: Sequence[Suspect], most_columns: int) -> tuple[int, int]:
    """Return the number of columns, and the width of a card at which names and numbers are not cut."""
    least_width = max(
        max(text_width(suspect.label, TEXT), _ARROW + text_width(suspect.suggestion, TEXT)) for suspect in suspects
    )
    widths = {columns: (WIDTH - _GAP) // columns - _GAP for columns in range(most_columns, _FEWEST_COLUMNS - 1, -1)}
    return next(((columns, width) for columns, width in widths.items() if least_width <= width), min(widths.items()))


def sparkline(trace: Array, size: tuple[int, int]) -> Image.Image:
    """Return p(label), or closeness, over the epochs as a line between 0 and 1. It has gaps at unknown values."""
    width, height = size
    cell = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(cell)
    for y in (0, height // 2, height - 2):
        draw.line((0, y, width, y), fill=GRID, width=2)
    xs = np.linspace(2, width - 6, len(trace)) if len(trace) > 1 else np.array([width / 2])
    ys = height - 4 - np.clip(trace, 0, 1) * (height - 8)
    points = list(zip(xs.tolist(), ys.tolist(), strict=True)) if len(trace) else []
    for start, end in itertools.pairwise(points):
        if np.isfinite([start[1], end[1]]).all():
            draw.line((*start, *end), fill=ORANGE, width=4)
    for x, y in points[-1:]:
        if np.isfinite(y):
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=ORANGE)
    return cell


def suspects_table(suspects: Sequence[Suspect], words: tuple[str, str, str] = _WORDS) -> str:
    """Return the suspects as a Markdown table, worst first, for inputs that are not images.

    Args:
        suspects: Its rows.
        words: Words for the given label, for the suggested one, and for the line over the epochs.

    Example:
        >>> print(suspects_table([Suspect("7", "a|b", "<c>", 0.75, np.array([0.5, 0.25]))]))
        | sample | given | suggested | probably wrong | p(given), last epochs |
        | --- | --- | --- | --- | --- |
        | 7 | a&#124;b | &lt;c&gt; | 75 % | 0.50 0.25 |
    """
    has_texts = any(suspect.text for suspect in suspects)
    titles = ["sample", *(["text"] if has_texts else []), *words[:2], "probably wrong", f"{words[2]}, last epochs"]
    rows = [titles, ["---"] * len(titles)]
    for suspect in suspects:
        probabilities = suspect.trace[np.isfinite(suspect.trace)][-5:]
        cells = [suspect.sample_id, suspect.label, suspect.suggestion, estimate_in_percent(suspect.wrong_probability)]
        cells.append(" ".join(f"{p:.2f}" for p in probabilities))
        cells[1:1] = [suspect.text or "no text"] if has_texts else []
        rows.append([_plain(cell) for cell in cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _suspect(card: Card, position: tuple[int, int], suspect: Suspect, inner: int) -> None:
    (x, y), draw, square = position, card.draw, (_PICTURE * _SCALE, _PICTURE * _SCALE)
    if suspect.picture is None:
        draw.rectangle((x, y, x + _PICTURE - 1, y + _PICTURE - 1), outline=GRID)
        write(draw, (x + _PICTURE / 2, y + _PICTURE / 2), "no picture", TEXT, fill=FAINT, anchor="mm")
    else:
        card.paste(input_cell(suspect.picture, square), position)
        if suspect.contrast is not None:
            cell = map_cell(suspect.picture, suspect.contrast, square, is_signed=True)
            card.paste(cell, (x + _PICTURE + _GAP, y))
    y += _PICTURE + 1
    write(draw, (x, y), suspect.label, TEXT, fill=ORANGE, width=inner)
    _arrow(draw, (x, y + LINE + 7))
    write(draw, (x + _ARROW, y + LINE), suspect.suggestion or "-", TEXT, fill=BLUE, width=inner - _ARROW)
    probability = estimate_in_percent(suspect.wrong_probability)
    used_width = write(draw, (x + inner, y + 2 * LINE), probability, TEXT, fill=INK, anchor="ra")
    write(draw, (x, y + 2 * LINE), f"#{suspect.sample_id}", TEXT, fill=FAINT, width=inner - used_width - 4)
    y += 3 * LINE + 1
    card.paste(sparkline(suspect.trace, (inner * _SCALE, _SPARK * _SCALE)), (x, y))
    y += _SPARK
    if suspect.name:
        write(draw, (x, y), base_name(suspect.name, inner), TEXT, fill=FAINT)
        y += LINE
    for colour, pictures in zip((ORANGE, BLUE), suspect.similar, strict=True):
        _similar(card, (x, y + _EDGE), pictures, colour, inner)
        y += _ROW


def _similar(
    card: Card, position: tuple[int, int], pictures: Sequence[Shown | None], colour: Colour, width: int
) -> None:
    """Draw similar samples beside a bar in the colour of their class. A sample without a picture has an empty frame."""
    x, y = position
    side = min(_SMALL, (width - 1) // max(len(pictures), 1) - _EDGE)
    if pictures:
        card.draw.rectangle((x, y, x + 1, y + side - 1), fill=colour)
    for place, picture in enumerate(pictures if side > 0 else ()):
        left = x + _EDGE + 1 + place * (side + _EDGE)
        if picture is None:
            card.draw.rectangle((left, y, left + side - 1, y + side - 1), outline=GRID)
        else:
            card.paste(input_cell(picture, (side * card.scale, side * card.scale)), (left, y))


def base_name(name: str, width: float) -> str:
    """Return the last part of a path. If it is wider than so many pixels, its beginning is cut, because ends differ.

    Example:
        >>> base_name("train/cat/IMG_0042.jpg", 200), base_name("train/cat/IMG_0042.jpg", 52)
        ('IMG_0042.jpg', '…042.jpg')
    """
    file_name = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    text = file_name
    for start in range(1, len(file_name)):
        if text_width(text, TEXT) <= width:
            break
        text = f"…{file_name[start:]}"
    return text


def _arrow(draw: ImageDraw.ImageDraw, position: tuple[int, int]) -> None:
    x, y = position
    draw.line((x, y, x + 8, y), fill=INK)
    draw.line((x + 5, y - 3, x + 8, y, x + 5, y + 3), fill=INK)


def _plain(text: str) -> str:
    """Escape letters that Markdown or HTML would read as markup."""
    return html.escape(" ".join(text.split()), quote=False).translate(_MARKDOWN)
