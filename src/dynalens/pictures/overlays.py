"""Draw relevance over the image, the signal or the words that it explains."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from dynalens.dynamics import Array
from dynalens.pictures.drawing import FAINT, HEAT, INK, LINES, PAPER, Colour, colours_of, fit_picture, text_width, write

FOR: Colour = (200, 20, 30)
AGAINST: Colour = (20, 60, 200)
RELEVANT: Colour = (249, 142, 8)
_SCALE_PERCENTILE = 99.5
_LEADING = 6

Shown = Array | tuple[str, ...]
"""An image ``(H, W, 3)``, uint8; a signal ``(C, L)`` or columns of a table ``(F,)``, floating; or words."""


def overlay(image: Array, relevance: Array, *, is_signed: bool) -> Array:
    """Return the image in grey with its relevance in colour: the more relevance, the more opaque.

    Relevance is divided by its 99.5th percentile in this map, so colours compare positions of one picture and not
    pictures.

    Args:
        image: Shape ``(H, W, 3)``, uint8.
        relevance: Shape ``(H, W)``.
        is_signed: Whether red speaks for the class and blue against it. If not, dark means little and bright means
            much.

    Returns:
        Shape ``(H, W, 3)``, uint8.
    """
    grey: Array = image.astype(np.float64).mean(axis=2, keepdims=True)
    strength = _strength(relevance, is_signed=is_signed)[..., None]
    if is_signed:
        # Paler than the image itself, so that both colours stand out of black and of white.
        colour = np.where(strength > 0, np.array(FOR), np.array(AGAINST))
        opacity, ground = np.abs(strength), 90 + 0.5 * grey
    else:
        colour, opacity, ground = colours_of(strength[..., 0], HEAT), 0.85 * np.sqrt(strength), grey
    blend: Array = (1 - opacity) * ground + opacity * colour
    pixels: Array = blend.round().astype(np.uint8)
    return pixels


def shown_part(sample: Sequence[int]) -> str:
    """Return which part of an input of this shape pictures show, in words; empty if they show all of it.

    Example:
        >>> shown_part((2, 9, 20, 28)), shown_part((12, 400)), shown_part((3, 32, 32))
        ('slice 5 of 9, mean of 2 channels', 'first 6 of 12 channels', '')
    """
    parts = [f"slice {sample[1] // 2 + 1} of {sample[1]}"] if len(sample) == 4 else []
    parts += [f"mean of {sample[0]} channels"] if len(sample) > 2 and sample[0] not in (1, 3) else []
    parts += [f"first {len(LINES)} of {sample[0]} channels"] if len(sample) == 2 and sample[0] > len(LINES) else []
    return ", ".join(parts)


def input_cell(sample: Shown, size: tuple[int, int]) -> Image.Image:
    """Return an input in a cell of (width, height)."""
    if isinstance(sample, tuple):
        return words_cell(sample, np.zeros(len(sample)), size, is_signed=True)
    if sample.ndim == 1:
        return bars_cell(sample, size, colours=(FAINT, FAINT))
    return signal_cell(sample, None, size, is_signed=False) if sample.ndim == 2 else fit_picture(sample, size)


def map_cell(
    sample: Shown, relevance: Array, size: tuple[int, int], *, is_signed: bool, type_size: int = 16
) -> Image.Image:
    """Return an input with its relevance, ``(H, W)``, ``(L,)`` or one value for each word, in a cell."""
    if isinstance(sample, tuple):
        return words_cell(sample, relevance, size, is_signed=is_signed, type_size=type_size)
    if sample.ndim == 1:  # columns of a table
        colours = (FOR, AGAINST) if is_signed else (RELEVANT, RELEVANT)
        return bars_cell(_strength(relevance, is_signed=is_signed), size, colours=colours)
    if sample.ndim == 2:  # channels and time
        return signal_cell(sample, relevance, size, is_signed=is_signed)
    return fit_picture(overlay(sample, relevance, is_signed=is_signed), size)


def bars_cell(heights: Array, size: tuple[int, int], *, colours: tuple[Colour, Colour]) -> Image.Image:
    """Return a bar for each column of a table, in their order, up or down from the line of zero.

    The line is at the bottom if no bar goes down. If there are more columns than pixels, the longest of the bars that
    share a pixel is drawn.

    Args:
        heights: Shape ``(F,)``, in [-1, 1].
        size: Width and height.
        colours: Colours of bars that go up, and of bars that go down.
    """
    width, height = size
    cell = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(cell)
    low, high = -1.0 if (heights < 0).any() else 0.0, 1.0
    zero = round((height - 2) * high / (high - low))
    number = min(len(heights), width // 2)
    pixels = np.linspace(0, width, number + 1).round().astype(int)
    for group, left, right in zip(np.array_split(heights, number), pixels[:-1], pixels[1:], strict=True):
        bar = float(group[np.abs(group).argmax()])
        end = zero - round(bar * (height - 4) / (high - low))
        gap = int(right - left > 2)  # a pixel between bars that are wide enough
        draw.rectangle((int(left), min(zero, end), int(right) - 1 - gap, max(zero, end)), fill=colours[bar < 0])
    draw.line((0, zero, width, zero), fill=INK)
    draw.rectangle((0, 0, width - 1, height - 1), outline=FAINT)
    return cell


def signal_cell(
    signal: Array,
    relevance: Array | None,
    size: tuple[int, int],
    *,
    is_signed: bool,
    limits: tuple[float, float] | None = None,
) -> Image.Image:
    """Return each channel of a signal as a line, with its relevance as background.

    Args:
        signal: Shape ``(C, L)``. The first six channels are drawn, on one scale.
        relevance: Shape ``(L,)``, or None for a white background.
        size: Width and height.
        is_signed: As in :func:`overlay`.
        limits: Values at the bottom and at the top; default: the smallest and the largest of the signal.
    """
    width, height = size
    ground = np.full((1, max(signal.shape[1], 1), 3), PAPER, dtype=np.uint8)
    if relevance is not None:
        ground = _pale_colours(relevance, is_signed=is_signed).round().astype(np.uint8)[None]
    cell = Image.fromarray(ground).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(cell)
    finite = signal[np.isfinite(signal)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    columns = (np.arange(signal.shape[1]) + 0.5) * (width / max(signal.shape[1], 1))
    for number, channel in enumerate(signal[: len(LINES)]):
        rows = height - 5 - (np.nan_to_num(channel) - low) / ((high - low) or 1.0) * (height - 10)
        points = list(zip(columns.tolist(), rows.tolist(), strict=True))
        draw.line(points, fill=INK if len(signal) == 1 else LINES[number], width=2)
    draw.rectangle((0, 0, width - 1, height - 1), outline=FAINT)
    return cell


def words_cell(
    words: Sequence[str], relevance: Array, size: tuple[int, int], *, is_signed: bool, type_size: int = 16
) -> Image.Image:
    """Return words, each with its relevance as background.

    If there is no room for all of them, the lines with the most relevance are shown, between ellipses.

    Args:
        words: T words. Blank ones, such as padding, are not drawn.
        relevance: Shape ``(T,)``.
        size: Width and height.
        is_signed: As in :func:`overlay`.
        type_size: Size of the letters in pixels.
    """
    cell = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(cell)
    tints = _pale_colours(relevance, is_signed=is_signed).round().astype(int).tolist()
    height = type_size + _LEADING
    room = max(1, size[1] // height)
    start = _first_shown(word_lines(words, size[0], type_size), np.abs(_strength(relevance, is_signed=True)), room)
    if start:
        words, tints = ("…", *words[start:]), [PAPER, *tints[start:]]
    lines = word_lines(words, size[0], type_size)
    for number, line in enumerate(lines[:room]):
        x, y = 2.0, 2.0 + number * height
        is_cut = number + 1 == room < len(lines)
        for i in line[:-1] if is_cut else line:
            width = _word_width(words[i], size[0], type_size)
            draw.rectangle((x, y, x + width - 2, y + height - 3), fill=tuple(tints[i]))
            write(draw, (x + 2, y + 1), words[i], type_size, width=width)
            x += width
        if is_cut:
            write(draw, (x + 2, y + 1), "…", type_size)
    return cell


def _first_shown(lines: Sequence[Sequence[int]], strength: Array, room: int) -> int:
    """Return the first word of so many lines that have the most relevance together; 0 if there is room for all."""
    if len(lines) <= room:
        return 0
    totals = np.convolve([strength[line].sum() for line in lines], np.ones(room), "valid")
    best = np.flatnonzero(np.isclose(totals, totals.max()))
    return lines[best[len(best) // 2]][0] if totals.max() > totals[0] else 0


def word_lines(words: Sequence[str], width: int, type_size: int) -> list[list[int]]:
    """Return the lines into which :func:`words_cell` breaks words, as indices of the words in each line.

    Example:
        >>> word_lines(("never", "", "again"), 50, 16)
        [[0], [2]]
    """
    lines: list[list[int]] = []
    x = float(width)
    for i, word in enumerate(words):
        if not word.strip():
            continue
        word_width = _word_width(word, width, type_size)
        if x + word_width > width:
            lines.append([])
            x = 2.0
        lines[-1].append(i)
        x += word_width
    return lines


def words_height(words: Sequence[str], width: int, type_size: int, most_lines: int) -> int:
    """Return the height of a cell of this width that shows all words, or at most so many lines of them."""
    return min(max(len(word_lines(words, width, type_size)), 1), most_lines) * (type_size + _LEADING) + 2


def _word_width(word: str, width: int, type_size: int) -> float:
    return min(text_width(word, type_size) + 5, width - 4)


def _strength(relevance: Array, *, is_signed: bool) -> Array:
    """Return relevance divided by its 99.5th percentile, in [-1, 1] or [0, 1]."""
    finite = np.nan_to_num(relevance, nan=0.0, posinf=0.0, neginf=0.0)
    scale = (np.percentile(np.abs(finite), _SCALE_PERCENTILE) or np.abs(finite).max()) if finite.size else 1.0
    return np.clip(finite / (scale or 1.0), -1 if is_signed else 0, 1)


def _pale_colours(relevance: Array, *, is_signed: bool) -> Array:
    """Return pale colours, on which dark letters and lines stay legible."""
    strength = _strength(relevance, is_signed=is_signed)[..., None]
    colour = np.where(strength > 0, np.array(FOR), np.array(AGAINST)) if is_signed else np.array(RELEVANT)
    opacity = 0.6 * np.abs(strength)
    return np.asarray((1 - opacity) * np.array(PAPER) + opacity * colour)
