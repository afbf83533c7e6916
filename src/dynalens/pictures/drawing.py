"""Colours, letters and encodings of all pictures."""

import io
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dynalens.dynamics import Array
from dynalens.text import escaped

Colour = tuple[int, int, int]

INK: Colour = (20, 20, 20)
FAINT: Colour = (120, 120, 120)
GRID: Colour = (225, 225, 225)
PAPER: Colour = (255, 255, 255)
# Okabe and Ito's palette, which colour-blind people tell apart.
ORANGE: Colour = (213, 94, 0)
BLUE: Colour = (0, 114, 178)
GREEN: Colour = (0, 158, 115)
PINK: Colour = (204, 121, 167)
LINES = (ORANGE, BLUE, GREEN, PINK, (230, 159, 0), (86, 180, 233))
RIGHT, WRONG = BLUE, ORANGE
"""Frames of samples whose prediction agrees and disagrees with the label."""

Scale = tuple[Colour, ...]
HEAT: Scale = ((30, 10, 60), (120, 28, 109), (205, 64, 70), (249, 142, 8), (252, 255, 164))
AGREEMENT: Scale = (ORANGE, PINK, BLUE)
DENSITY: Scale = ((190, 215, 235), (90, 150, 200), (20, 70, 140), (10, 20, 60))

_ASCII = 127
# Met on Linux, Windows and macOS in this order; only for text that the font inside Pillow has no letters for.
_WIDE_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf", "Helvetica.ttc")

_KEPT = 1024
"""Number of texts that a font keeps as they were drawn. Ten epochs of both callbacks draw 600 different texts, of
450 bytes each."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

Result = TypeVar("Result")


def colours_of(strength: Array, scale: Scale) -> Array:
    """Return the colours ``(..., 3)``, float64, of values in [0, 1] on a scale of evenly spaced colours.

    Example:
        >>> colours_of(np.array([0.5]), ((0, 0, 0), (200, 100, 0)))
        array([[100.,  50.,   0.]])
    """
    position = np.asarray(strength, dtype=np.float64) * (len(scale) - 1)
    places, colours = np.arange(len(scale)), np.array(scale, dtype=np.float64)
    return np.stack([np.interp(position, places, colours[:, c]) for c in range(3)], axis=-1)


def write(
    draw: ImageDraw.ImageDraw,
    position: tuple[float, float],
    text: str,
    size: int,
    *,
    fill: Colour = INK,
    width: float | None = None,
    anchor: str = "la",
    halo: int = 0,
) -> float:
    """Write a line and return its width in pixels. If it is wider than ``width``, it is cut with an ellipsis.

    A halo in the colour of paper, of so many pixels, keeps it legible over a picture.
    """
    font, legible = _legible(text, size)
    legible = legible if width is None else _with_ellipsis(legible, font, width)
    draw.text(position, legible, fill=fill, font=font, anchor=anchor, stroke_width=halo, stroke_fill=PAPER)
    return float(font.getlength(legible))


def text_that_fits(text: str, size: int, width: float) -> str:
    """Return the text, cut with an ellipsis if it is wider than ``width`` pixels at this size."""
    font, legible = _legible(text, size)
    return _with_ellipsis(legible, font, width)


def text_width(text: str, size: int) -> float:
    """Return the width in pixels of a line at this size of type."""
    font, legible = _legible(text, size)
    return float(font.getlength(legible))


def class_name(number: int, names: Sequence[str] | None) -> str:
    """Return the name of a class, or its number if it has none.

    It is an empty text for a negative number, which is no class.
    """
    if number < 0:
        return ""
    return escaped(names[number]) if names is not None and number < len(names) else str(number)


def jpeg_bytes(image: Image.Image) -> bytes:
    """Return the picture as JPEG. A photograph is encoded 24 times faster than as PNG, and is 7 times smaller."""
    buffer = io.BytesIO()
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which copies
    rgb.save(buffer, "JPEG", quality=80, subsampling=0)
    return buffer.getvalue()


def png_bytes(image: Image.Image) -> bytes:
    """Return the picture as PNG with at most 256 colours.

    A chart takes a quarter of the time and size of a full PNG.
    """
    palette_image = image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette_image.save(buffer, "PNG")
    return buffer.getvalue()


def fit_picture(pixels: Array, size: tuple[int, int]) -> Image.Image:
    """Fit a picture ``(H, W, 3)`` into a cell of (width, height).

    Small ones are enlarged by whole pixels, or averaged.
    """
    picture = Image.fromarray(pixels)
    scale = min(size[0] / picture.width, size[1] / picture.height)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    inner = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), method)
    cell = Image.new("RGB", size, PAPER)
    cell.paste(inner, ((size[0] - inner.width) // 2, (size[1] - inner.height) // 2))
    return cell


def _with_ellipsis(text: str, font: Font, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # letters that fit with the ellipsis: found by halving
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + "…") <= width else (low, middle - 1)
    return text[:low].rstrip() + "…"


def _legible(text: str, size: int) -> tuple[Font, str]:
    """Return a font, and the text with only letters that it has."""
    text = " ".join(escaped(text).split())
    if all(ord(letter) <= _ASCII or letter in "…·" for letter in text):
        return _own_font(size), text
    wide = _wide_font(size)
    if wide is not None:
        return wide, text
    plain = unicodedata.normalize("NFKD", text)
    letters = [letter for letter in plain if not unicodedata.combining(letter)]
    return _own_font(size), "".join(letter if ord(letter) <= _ASCII or letter in "…·" else "?" for letter in letters)


@lru_cache
def _own_font(size: int) -> Font:
    return _with_memory(ImageFont.load_default(size))


def _with_memory(font: Font) -> Font:
    """Let a font keep what it drew last: pictures of each epoch have mostly the same words at the same places.

    It keeps a mask, without a colour, for the fraction of a pixel at which the text begins.
    """
    if isinstance(font, ImageFont.FreeTypeFont):
        font.getmask2 = _remembered(font.getmask2)  # type: ignore[method-assign]  # called alike
        font.getlength = _remembered(font.getlength)  # type: ignore[method-assign]  # called alike
    return font


def _remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return a function that keeps its last results. Lists, which Pillow before 11 passes, are read as tuples."""
    remembered = lru_cache(_KEPT)(function)

    def call(*args: Any, **kwargs: Any) -> Result:
        return remembered(*map(_hashable, args), **{name: _hashable(value) for name, value in kwargs.items()})

    return call


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache
def _wide_font(size: int) -> Font | None:
    return next((font for name in _WIDE_FONTS if (font := _font_file(name, size)) is not None), None)


def _font_file(name: str, size: int) -> Font | None:
    try:
        return _with_memory(ImageFont.truetype(name, size))
    except OSError:
        return None
