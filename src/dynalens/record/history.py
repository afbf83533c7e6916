"""Every presentation of a run, as its folder keeps them: one file for each epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynalens.dynamics import Array
from dynalens.record.files import epoch_file


@dataclass(frozen=True)
class History:
    """Reads the presentations of a run, one epoch at a time.

    Attributes:
        folder: Of the record; None where no presentations were kept.
        epochs: The epochs of the record.
    """

    folder: Path | None
    epochs: Sequence[int]

    def __iter__(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield number and presentations of each epoch that was kept."""
        for epoch in self.epochs if self.folder is not None else ():
            path = self._path(epoch)
            if path.exists():
                with np.load(path) as arrays:
                    yield epoch, dict(arrays)

    def missing(self) -> list[int]:
        """Return the epochs whose presentations are not there."""
        return [epoch for epoch in self.epochs if self.folder is None or not self._path(epoch).exists()]

    def _path(self, epoch: int) -> Path:
        assert self.folder is not None
        return self.folder / "history" / epoch_file(epoch)


def read_history(folder: Path, epochs: Sequence[int]) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield the presentations of those epochs that were kept on disk."""
    yield from History(folder, epochs)
