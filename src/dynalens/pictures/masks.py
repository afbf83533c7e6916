"""Pictures with coloured areas."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from dynalens.dynamics import Array
from dynalens.pictures.drawing import FAINT, LINES, Colour

AREAS = (*LINES, (240, 228, 66))
"""Okabe and Ito's palette, which colour-blind people can tell apart. From the eighth area on, colours repeat."""
IGNORED_AREA = (150, 150, 150)
"""Colour of the pixels that the loss ignores."""
_SEEN = 0.4
"""Fraction of a picture that shows through a colour."""
_GAP = 8


def tinted_picture(picture: Array, area: Array, colour: Colour) -> Array:
    """Return a picture ``(H, W, 3)``, uint8, with an area ``(H, W)``, bool, in a colour through which it shows.

    Example:
        >>> tinted_picture(np.zeros((1, 2, 3), np.uint8), np.array([[False, True]]), (200, 100, 0)).tolist()
        [[[0, 0, 0], [120, 60, 0]]]
    """
    pixels = picture.astype(np.float64)
    pixels[area] = _SEEN * pixels[area] + (1 - _SEEN) * np.array(colour)
    return pixels.round().astype(np.uint8)


def beside_areas(picture: Image.Image, areas: Iterable[tuple[Array, Colour]], side: int) -> Image.Image:
    """Return a picture and, beside it, the same one with coloured areas.

    Args:
        picture: In colour or grey.
        areas: Areas of shape ``(h, w)``, bool, each as large as the whole picture, with their colours.
        side: Longest side of the result's picture, in pixels.
    """
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    plain = picture.convert("RGB").resize((width, height), smooth)
    pixels = np.asarray(plain)
    for area, colour in areas:
        resized_area = np.asarray(Image.fromarray(area).resize((width, height), Image.Resampling.NEAREST))
        pixels = tinted_picture(pixels, resized_area, colour)
    pair = Image.new("RGB", (2 * width + _GAP, height), FAINT)
    pair.paste(plain, (0, 0))
    pair.paste(Image.fromarray(pixels), (width + _GAP, 0))
    return pair
