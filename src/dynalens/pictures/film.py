"""The film strip: maps of the same samples over the epochs, which show how attention moves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dynalens.dynamics import Array
from dynalens.pictures.card import FRAME, GAP, LINE, TEXT, WIDTH, Card
from dynalens.pictures.drawing import FAINT, RIGHT, WRONG, write
from dynalens.pictures.overlays import Shown, input_cell, map_cell, words_height

_CELL = 96
_LARGEST_CELL = 48
_SCALE = 2
_MARGIN = 32
_WORDS, _MOST_LINES = WIDTH - 2 * GAP - _MARGIN, 2
"""Width of words in pixels of the card, at which letters stay legible, and the most lines of words per epoch."""


class Frame(NamedTuple):
    """A sample in one epoch: its picture, and whether the prediction was its label if that is known."""

    picture: Image.Image
    is_correct: bool | None


class FilmStrip:
    """Keeps small frames of some epochs, evenly spaced from the first to the newest.

    Args:
        columns: Largest number of epochs. If there are more, every second one is dropped, so that memory does not grow.

    Example:
        >>> import numpy as np
        >>> strip = FilmStrip(columns=4)
        >>> for epoch in range(6):
        ...     strip.add(epoch, [np.zeros((2, 2, 3), np.uint8)], [np.eye(2)], [True], is_signed=False)
        >>> strip.epochs
        [0, 2, 4, 5]
    """

    def __init__(self, columns: int = 8) -> None:
        self._columns = max(columns, 3)
        self._stride = 1
        self._inputs: list[Image.Image] = []
        self._frames: dict[int, list[Frame]] = {}
        self._all_epochs: list[int] = []
        self._samples: Sequence[Shown] = []
        self._total: list[Array] = []
        self._count = 0
        self._is_signed = False
        self._height_of_words = 0

    @property
    def epochs(self) -> list[int]:
        """Return the epochs that are kept."""
        return list(self._frames)

    def add(
        self,
        epoch: int,
        samples: Sequence[Shown],
        maps: Sequence[Array],
        is_right: Sequence[bool | None],
        *,
        is_signed: bool,
    ) -> None:
        """Keep the frames of an epoch: inputs as sheets show them, their maps, and whether they were predicted right.

        If ``is_right`` is None for a sample, its frame has no colour.
        """
        heights = [words_height(sample, _WORDS, TEXT, _MOST_LINES) for sample in samples if isinstance(sample, tuple)]
        self._height_of_words = max(heights, default=0)
        size = (_WORDS, self._height_of_words) if heights else (_CELL, _CELL)
        self._inputs = [input_cell(sample, size) for sample in samples]
        self._frames[epoch] = [
            Frame(map_cell(sample, relevance, size, is_signed=is_signed, type_size=TEXT), is_correct)
            for sample, relevance, is_correct in zip(samples, maps, is_right, strict=True)
        ]
        self._all_epochs.append(epoch)
        self._sum_up(samples, maps, is_signed=is_signed)
        epochs = self._epochs_to_keep()
        while len(epochs) > self._columns:
            self._stride *= 2
            epochs = self._epochs_to_keep()
        self._frames = {kept_epoch: frames for kept_epoch, frames in self._frames.items() if kept_epoch in epochs}

    def _sum_up(self, samples: Sequence[Shown], maps: Sequence[Array], *, is_signed: bool) -> None:
        """Add the maps, each divided by its 2-norm, to the consensus of all epochs."""
        unit_maps = [relevance / (np.linalg.norm(relevance) or 1.0) for relevance in maps]
        alike = [total.shape for total in self._total] == [relevance.shape for relevance in unit_maps]
        self._total = [t + a for t, a in zip(self._total, unit_maps, strict=True)] if alike else unit_maps
        self._count = self._count + 1 if alike else 1
        self._samples, self._is_signed = samples, (self._is_signed and alike) or is_signed

    def _consensus(self, size: tuple[int, int]) -> list[Frame]:
        """Return a frame of each sample with the mean map of all epochs; none after one epoch."""
        if self._count < 2:
            return []
        pairs = zip(self._samples, self._total, strict=True)
        signed = self._is_signed
        return [Frame(map_cell(sample, total, size, is_signed=signed, type_size=TEXT), None) for sample, total in pairs]

    def image(self, title: str, names: Sequence[str]) -> Image.Image:
        """Return the strip: a row for each sample with its input at the left, a column for each epoch.

        The last column, "all", is the consensus of all epochs so far: the mean of their normalised maps.

        Words have a line or a few for each epoch, below each other for each sample.

        Args:
            title: First line.
            names: What is written above the row of each sample: its class, and which sample it is.
        """
        if self._height_of_words:
            return self._lines_of_words(title, names)
        consensus = self._consensus((_CELL, _CELL))
        columns = 1 + len(self._frames) + bool(consensus)
        side = min(_LARGEST_CELL, (WIDTH - GAP) // columns - GAP)
        pitch, row_pitch, top = side + GAP, side + LINE + 2 * GAP, 2 * LINE + 4
        card = Card(top + len(self._inputs) * row_pitch, _SCALE)
        write(card.draw, (GAP, 2), title, TEXT + 1, width=WIDTH - 2 * GAP)
        for column, head in enumerate(["input", *(str(epoch) for epoch in self._frames), *["all"][: len(consensus)]]):
            write(card.draw, (GAP + column * pitch, LINE + 3), head, TEXT, fill=FAINT, width=side + GAP)
        for row, (picture, name) in enumerate(zip(self._inputs, names, strict=True)):
            y = top + row * row_pitch
            write(card.draw, (GAP, y - 1), name, TEXT, width=WIDTH - 2 * GAP)
            frames = [Frame(picture, None), *(frames[row] for frames in self._frames.values())]
            frames += consensus[row : row + 1]
            for column, frame in enumerate(frames):
                colour = None if frame.is_correct is None else RIGHT if frame.is_correct else WRONG
                cell = frame.picture.resize((side * _SCALE, side * _SCALE), Image.Resampling.LANCZOS)
                card.paste(cell, (GAP + column * pitch, y + LINE + FRAME), colour)
        return card.image()

    def _lines_of_words(self, title: str, names: Sequence[str]) -> Image.Image:
        size = (_WORDS, self._height_of_words)
        pitch = size[1] + FRAME
        consensus = self._consensus(size)
        height = LINE + GAP + (len(self._frames) + bool(consensus)) * pitch
        card = Card(LINE + 4 + len(names) * height, _SCALE)
        write(card.draw, (GAP, 2), title, TEXT + 1, width=WIDTH - 2 * GAP)
        for row, name in enumerate(names):
            y = LINE + 4 + row * height
            write(card.draw, (GAP, y - 1), name, TEXT, width=WIDTH - 2 * GAP)
            lines = [(str(epoch), frames[row]) for epoch, frames in self._frames.items()]
            for line, (head, frame) in enumerate(lines + [("all", frame) for frame in consensus[row : row + 1]]):
                position = (GAP + _MARGIN, y + LINE + FRAME + line * pitch)
                write(card.draw, (position[0] - 4 * FRAME, position[1] + FRAME), head, TEXT, fill=FAINT, anchor="ra")
                cell = frame.picture.resize((size[0] * _SCALE, size[1] * _SCALE), Image.Resampling.NEAREST)
                card.paste(cell, position)
                edge = (position[0] - 2 * FRAME, position[1], position[0] - FRAME, position[1] + size[1] - 3)
                if frame.is_correct is not None:
                    card.draw.rectangle(edge, fill=RIGHT if frame.is_correct else WRONG)
        return card.image()

    def _epochs_to_keep(self) -> set[int]:
        return {*self._all_epochs[:: self._stride], self._all_epochs[-1]}
