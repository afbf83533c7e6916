"""The film strip: the same samples over the epochs, so that one sees attention move."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from dynalens.dynamics import Array
from dynalens.pictures.drawing import FAINT, PAPER, RIGHT, WRONG, write
from dynalens.pictures.overlays import Shown, input_cell, map_cell

_CELL = 84
_GAP = 4
_TEXT = 20
_LINE = 28
_FRAME = 4


class Frame(NamedTuple):
    """A sample in one epoch: its picture and whether the prediction was its label."""

    picture: Image.Image
    right: bool


class FilmStrip:
    """Keeps small frames of some epochs, from the first to the latest, evenly spaced.

    Args:
        columns: At most so many epochs; beyond it every second one is dropped, so memory does not grow.

    Example:
        >>> import numpy as np
        >>> strip = FilmStrip(columns=4)
        >>> for epoch in range(6):
        ...     strip.add(epoch, [np.zeros((2, 2, 3), np.uint8)], [np.eye(2)], [True], signed=False)
        >>> strip.epochs
        [0, 2, 4, 5]
    """

    def __init__(self, columns: int = 8) -> None:
        self._columns = max(columns, 3)
        self._every = 1
        self._inputs: list[Image.Image] = []
        self._frames: dict[int, list[Frame]] = {}
        self._added: list[int] = []

    @property
    def epochs(self) -> list[int]:
        """Return the epochs that are kept."""
        return list(self._frames)

    def add(
        self, epoch: int, shown: Sequence[Shown], maps: Sequence[Array], right: Sequence[bool], *, signed: bool
    ) -> None:
        """Keep an epoch's frames: inputs as sheets show them, a map of each and whether it was predicted right."""
        size = (_CELL, _CELL)
        self._inputs = [input_cell(one, size) for one in shown]
        self._frames[epoch] = [
            Frame(map_cell(one, relevance, size, signed=signed), bool(was_right))
            for one, relevance, was_right in zip(shown, maps, right, strict=True)
        ]
        self._added.append(epoch)
        kept = self._kept()
        while len(kept) > self._columns:
            self._every *= 2
            kept = self._kept()
        self._frames = {past: frames for past, frames in self._frames.items() if past in kept}

    def image(self, title: str, names: Sequence[str]) -> Image.Image:
        """Return the strip: a row for each sample with its input at the left, a column for each epoch.

        Args:
            title: First line.
            names: Name of each sample's class.
        """
        pitch, top = _CELL + 2 * _FRAME + _GAP, 2 * _LINE + 4
        row_pitch = pitch + _LINE
        width = _GAP + (1 + len(self._frames)) * pitch
        strip = Image.new("RGB", (max(width, 420), top + len(self._inputs) * row_pitch), PAPER)
        draw = ImageDraw.Draw(strip)
        write(draw, (_GAP, 4), title, _TEXT + 2, width=strip.width - 2 * _GAP)
        heads = ["input", *(str(epoch) for epoch in self._frames)]
        for column, head in enumerate(heads):
            write(draw, (_GAP + column * pitch + _FRAME, _LINE + 4), head, _TEXT, fill=FAINT)
        for row, (picture, name) in enumerate(zip(self._inputs, names, strict=True)):
            y = top + row * row_pitch
            write(draw, (_GAP + _FRAME, y), name, _TEXT, width=strip.width - 2 * _GAP)
            strip.paste(picture, (_GAP + _FRAME, y + _LINE))
            for column, frames in enumerate(self._frames.values(), start=1):
                _paste(strip, draw, (_GAP + column * pitch, y + _LINE - _FRAME), frames[row])
        return strip

    def _kept(self) -> set[int]:
        return {*self._added[:: self._every], self._added[-1]}


def _paste(strip: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], frame: Frame) -> None:
    x, y = at
    strip.paste(frame.picture, (x + _FRAME, y + _FRAME))
    box = (x, y, x + _CELL + 2 * _FRAME - 1, y + _CELL + 2 * _FRAME - 1)
    draw.rectangle(box, outline=RIGHT if frame.right else WRONG, width=_FRAME)
