"""The axes of a chart, drawn with Pillow: ticks, labels, grid, rasters, bars, lines, legend and colour bar."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dynalens.dynamics import Array
from dynalens.pictures.card import WIDTH
from dynalens.pictures.drawing import FAINT, GRID, INK, PAPER, Colour, Scale, colours_of, write

PLOT = (252, 144)
"""Width and height of the plotting area beside a colour bar. Both can be divided into whole cells of 2, 3, 4 and 6
pixels."""
# TensorBoard's page *Time Series* shows pictures 215 high, and leaves out pixels of a higher one: with the width of a
# card, a chart is shown as it was drawn there and on the page *Images*.
_LEFT, _TOP, _RIGHT, _BOTTOM = 50, 36, 14, 35
_TITLE, _TEXT, _TICK = 14, 12, 12
_TARGET_TICKS = 5
_MIDDLE_GREY = 128


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes:
        label: Quantity and unit.
        low: Value at the left or lower end.
        high: Value at the other end.
        integers: Whether ticks are at whole numbers only.
        log: Whether the axis is logarithmic; ``low`` must then be positive.
        names: Tick labels by their values, instead of numbers at even distances.
        last_tick: Largest value with a number.
    """

    label: str
    low: float
    high: float
    integers: bool = False
    log: bool = False
    names: tuple[tuple[float, str], ...] = ()
    last_tick: float = math.inf

    def place(self, value: float | Array) -> Array:
        """Return the positions of values: 0 at ``low``, 1 at ``high``."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return np.asarray((np.log10(np.maximum(value, self.low)) - low) / (high - low))
        scale = 1 / (self.high - self.low)
        return np.asarray(np.asarray(value) * scale - self.low * scale)

    def ticks(self) -> list[tuple[float, str]]:
        """Return values and their labels."""
        if self.log:
            begin, end = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((end - begin) / _TARGET_TICKS))
            return [(10.0**k, number(10.0**k)) for k in range(begin, end + 1, step)]
        named_values = [value for value, _ in self.names]
        even = [
            value
            for value in even_ticks(self.low, self.high, integers=self.integers)
            if value not in named_values and value <= self.last_tick
        ]
        clear = 0.12 * (self.high - self.low)  # a name needs room
        even = [value for value in even if all(abs(value - named_value) >= clear for named_value in named_values)]
        return [*self.names, *((value, number(value)) for value in even)]


def even_ticks(low: float, high: float, *, integers: bool = False) -> list[float]:
    """Return about five values in [low, high]. Their distance is one, two or five times a power of ten.

    Example:
        >>> even_ticks(0.0, 0.5), even_ticks(0, 3, integers=True)
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.0, 1.0, 2.0, 3.0])
    """
    rough = (high - low) / _TARGET_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(step, 1.0) if integers else step
    begin, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(begin, end + 1)]


def number(value: float) -> str:
    """Return a number as text for a tick.

    Example:
        >>> number(1_280_000), number(50_000), number(0.25), number(-3.0)
        ('1.28M', '50k', '0.25', '-3')
    """
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


class Axes:
    """A chart with two axes.

    Args:
        title: First line.
        subtitle: Text in grey after the title.
        x: Horizontal axis.
        y: Vertical axis.
        colour_bar: Whether to keep room for a colour bar at the right.
    """

    def __init__(self, title: str, subtitle: str, *, x: Axis, y: Axis, colour_bar: bool = False) -> None:
        self.x, self.y = x, y
        self.left, self.top, self.bottom = _LEFT, _TOP, _TOP + PLOT[1]
        self.right = _LEFT + PLOT[0] if colour_bar else WIDTH - _RIGHT
        self.image = Image.new("RGB", (WIDTH, self.bottom + _BOTTOM), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        room = WIDTH - 22 - write(self._draw, (6, 1), title, _TITLE, width=WIDTH - 12)
        write(self._draw, (WIDTH - 6, 3), subtitle, _TICK, fill=FAINT, width=max(room, 1), anchor="ra")
        self._scales()

    def raster(self, pixels: Array) -> None:
        """Fill the plotting area with cells ``(rows, columns, 3)``, uint8. The first row is at the top."""
        size = (self.right - self.left, self.bottom - self.top)
        self.image.paste(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST), (self.left, self.top))
        self._frame()

    def bars(self, edges: Array, heights: Array, colours: Sequence[Colour]) -> None:
        """Draw a bar between each two neighbouring edges."""
        lefts, rights = self._columns(edges[:-1]), self._columns(edges[1:])
        for left, right, height, colour in zip(lefts, rights, self._rows(heights), colours, strict=True):
            if height < self.bottom:
                gap = 1 if right - left > 3 else 0
                self._draw.rectangle(
                    (left + gap, min(height, self.bottom - 2), max(left, right - 1), self.bottom), fill=colour
                )
        self._frame()

    def line(self, xs: Array, ys: Array, colour: Colour, *, width: int = 2) -> None:
        """Draw a line through the points; a NaN interrupts it."""
        points = list(zip(self._columns(xs), self._rows(ys), strict=True))
        for start, end in itertools.pairwise(points):
            if all(math.isfinite(v) for v in (*start, *end)):
                self._draw.line((*start, *end), fill=colour, width=width)

    def mark(self, x: float) -> None:
        """Draw a dashed vertical line at ``x``."""
        column = float(self._columns(np.array([x]))[0])
        for y in range(self.top, self.bottom, 8):
            self._draw.line((column, y, column, min(y + 4, self.bottom)), fill=INK, width=2)

    def legend(self, entries: Sequence[tuple[str, Colour]]) -> None:
        """Name colours in one line between title and plot."""
        x = self.left + 0.0
        for text, colour in entries:
            self._draw.rectangle((x, self.top - 13, x + 8, self.top - 5), fill=colour)
            x += 12 + write(self._draw, (x + 12, self.top - 16), text, _TICK, width=max(WIDTH - x - 16, 1)) + 10

    def colour_bar(self, scale: Scale, label: str, *, low: str, high: str) -> None:
        """Draw a scale of colours with the values at its ends."""
        left, height = self.right + 8, PLOT[1] - 40
        top = self.top + 20
        strip = colours_of(np.linspace(1, 0, height)[:, None], scale).round().astype(np.uint8)
        self.image.paste(Image.fromarray(np.repeat(strip, 12, axis=1)), (left, top))
        write(self._draw, (WIDTH - 3, top - 3), high, _TICK, anchor="rd")
        write(self._draw, (left + 6, top + height + 3), low, _TICK, anchor="ma")
        self._write_upwards(label, height, (left + 15, top))

    def name(self, x: float, y: float, text: str, anchor: str) -> None:
        """Write the name of a region at a position from (0, 0), the lower left corner of the plot, to (1, 1)."""
        write(self._draw, self._position(x, y), text, _TICK, fill=FAINT, anchor=anchor, halo=2)

    def count(self, x: float, y: float, text: str, background: Array) -> None:
        """Write a number over a cell of this colour, dark on light or light on dark, at a position as for ``name``."""
        fill = INK if background.mean() > _MIDDLE_GREY else PAPER
        write(self._draw, self._position(x, y), text, _TICK, fill=fill, anchor="mm")

    def note(self, text: str) -> None:
        """Write into the middle of the plotting area."""
        width = self.right - self.left - 20
        write(self._draw, self._position(0.5, 0.5), text, _TEXT, fill=FAINT, anchor="mm", width=width)

    def _position(self, x: float, y: float) -> tuple[float, float]:
        return self.left + x * (self.right - self.left), self.bottom - y * PLOT[1]

    def _columns(self, values: Array) -> Array:
        return self.left + self.x.place(values) * (self.right - self.left)

    def _rows(self, values: Array) -> Array:
        return self.bottom - self.y.place(values) * PLOT[1]

    def _frame(self) -> None:
        self._draw.rectangle((self.left, self.top, self.right, self.bottom), outline=FAINT)

    def _scales(self) -> None:
        for value, text in self.x.ticks():
            pixel = float(self._columns(np.array([value]))[0])
            self._draw.line((pixel, self.top, pixel, self.bottom + 3), fill=GRID)
            write(self._draw, (pixel, self.bottom + 5), text, _TICK, anchor="ma")
        for value, text in self.y.ticks():
            pixel = float(self._rows(np.array([value]))[0])
            self._draw.line((self.left - 3, pixel, self.right, pixel), fill=GRID)
            write(self._draw, (self.left - 5, pixel), text, _TICK, anchor="rm")
        write(self._draw, ((self.left + self.right) / 2, self.bottom + 19), self.x.label, _TEXT, anchor="ma")
        self._write_upwards(self.y.label, PLOT[1], (2, self.top))
        self._frame()

    def _write_upwards(self, text: str, length: int, position: tuple[int, int]) -> None:
        line = Image.new("RGB", (length, 16), PAPER)
        write(ImageDraw.Draw(line), (length / 2, 8), text, _TEXT, anchor="mm", width=length)
        self.image.paste(line.rotate(90, expand=True), position)
