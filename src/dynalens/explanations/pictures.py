"""What the attribution monitor shows of its explanations: the sheet of an epoch and the film strips."""

from collections.abc import Sequence

from dynalens.dynamics import Array
from dynalens.pictures import ExplanationRow, FilmStrip, explanation_sheet
from dynalens.tensorboard import Sink, epochs_tag


class ExplanationPictures:
    """Draws explanations and writes the pictures.

    Args:
        sink: Where they go.
        prefix: What tags begin with.
    """

    def __init__(self, sink: Sink, prefix: str) -> None:
        self._sink, self._prefix = sink, prefix
        self._films: dict[str, FilmStrip] = {}
        self._names: list[str] = []
        self._count = 0
        self._step: int | None = None

    def write(
        self, rows: Sequence[ExplanationRow], fractions: Array, *, epoch: int, step: int, title: str, fixed: int
    ) -> None:
        """Write the epoch's sheet, and the film strips at the first, second, fourth, ... time.

        Args:
            rows: The samples.
            fractions: Abscissa of the curves.
            epoch: Number of the epoch.
            step: Step of the logger.
            title: First line of the sheet.
            fixed: How many of the first rows are the same samples in every epoch; they are on the film.
        """
        sheet = explanation_sheet(rows, fractions=fractions, title=title)
        self._sink.image(epochs_tag(f"{self._prefix}/explanations", epoch), sheet, step)
        shown = rows[:fixed]
        if len(shown) != len(self._names):
            self._films = {}  # samples that were chosen by their ids have not all passed before
        self._names = [row.label for row in shown]
        for method in rows[0].maps:
            maps = [row.maps[method] for row in shown]
            signed = any((relevance < 0).any() for relevance in maps)
            film = self._films.setdefault(method, FilmStrip())
            film.add(epoch, [row.image for row in shown], maps, [row.right is True for row in shown], signed=signed)
        self._count, self._step = self._count + 1, step
        if self._count & (self._count - 1) == 0:
            self.write_films()

    def write_films(self) -> None:
        """Write the film strips as they are now; nothing if they were written since the last sheet."""
        if self._step is None:
            return
        for method, film in self._films.items():
            title = f"{method.replace('_', '-')} over the epochs; blue: right, orange: wrong"
            self._sink.image(f"{self._prefix}/film/{method}", film.image(title, self._names), self._step)
        self._step = None
