"""Draw explanations: the sheet of an epoch and the film strips."""

import functools
from collections.abc import Callable, Sequence

from dynalens.explanations.epoch import EpochExplanations
from dynalens.explanations.robustness import Robustness
from dynalens.pictures import ExplanationRow, FilmStrip, Normalisation, PicturePace, explanation_sheet
from dynalens.tensorboard import Sink


class ExplanationPictures:
    """Draws explanations and writes the pictures.

    Args:
        sink: Where they go.
        prefix: What tags begin with.
        decode: From a token to its word, or None.

    Attributes:
        names: Name of each class, or None.
        normalisation: Of the inputs, or None.
        columns: Names of the columns of a table, or None.
    """

    def __init__(self, sink: Sink, prefix: str, decode: Callable[[int], str] | None = None) -> None:
        self._sink, self._prefix, self._decode = sink, prefix, decode
        self.names: Sequence[str] | None = None
        self.normalisation: Normalisation | None = None
        self.columns: Sequence[str] | None = None
        self._films: dict[str, FilmStrip] = {}
        self._film_labels: list[str] = []
        self._film_colours = True
        self._count = 0
        self._step: int | None = None
        self._pace, self._robustness_pace = PicturePace(), PicturePace()

    def write(self, explanations: EpochExplanations, *, epoch: int, step: int) -> None:
        """Write the epoch's sheet and the films. In a long training, sheets come less often.

        Films are written the first, second, fourth, ... time.

        Args:
            explanations: Of the epoch; the samples that are the same in every epoch are on the film.
            epoch: Number of the epoch.
            step: Step of the logger.
        """
        rows = explanations.rows(names=self.names, normalisation=self.normalisation, decode=self._decode)
        self._pace.offer(functools.partial(self._write_sheet, explanations, rows, epoch, step))
        if explanations.robustness is not None:
            draw = functools.partial(self._write_robustness, explanations.robustness, epoch, step)
            self._robustness_pace.offer(draw)
        self._add_to_films(rows[: len(explanations.every_epoch.labels)], epoch)
        self._count, self._step = self._count + 1, step
        if self._count & (self._count - 1) == 0:
            self._write_films()

    def _write_sheet(
        self, explanations: EpochExplanations, rows: Sequence[ExplanationRow], epoch: int, step: int
    ) -> None:
        fractions, title = explanations.every_epoch.fractions().numpy(), explanations.title(epoch)
        sheet = explanation_sheet(rows, fractions=fractions, title=title, columns=self.columns)
        self._sink.image(f"{self._prefix}/explanations", sheet, step)

    def _write_robustness(self, robustness: Robustness, epoch: int, step: int) -> None:
        title = f"epoch {epoch}: the smallest steps that change predictions"
        picture = robustness.picture(title, self.names, self.normalisation)
        if picture is not None:
            self._sink.image(f"{self._prefix}/robustness", picture, step)

    def finish(self) -> None:
        """Write the last sheets, and the films as they are now, unless they were written already."""
        self._pace.finish()
        self._robustness_pace.finish()
        self._write_films()

    def _add_to_films(self, rows: Sequence[ExplanationRow], epoch: int) -> None:
        if len(rows) != len(self._film_labels):
            self._films = {}  # samples that were chosen by their ids have not all passed before
        self._film_labels = [", ".join(words for words in (row.label, row.note) if words) for row in rows]
        self._film_colours = any(row.is_correct is not None for row in rows)
        for method in rows[0].maps:
            maps = [row.maps[method] for row in rows]
            is_signed = any((relevance < 0).any() for relevance in maps)
            film = self._films.setdefault(method, FilmStrip())
            film.add(epoch, [row.image for row in rows], maps, [row.is_correct for row in rows], is_signed=is_signed)

    def _write_films(self) -> None:
        if self._step is None:
            return
        for method, film in self._films.items():
            colours = "; blue: right, orange: wrong" if self._film_colours else ""
            title = f"{method.replace('_', '-')} by epoch{colours}"
            self._sink.image(f"{self._prefix}/film/{method}", film.image(title, self._film_labels), self._step)
        self._step = None
