"""Every presentation of a run, as its folder keeps them: one file for each epoch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dynalens.dynamics import Array
from dynalens.record.checks import MOST_SAMPLES, check_presentations
from dynalens.record.files import DamagedFileError, damage_errors, digest, epoch_file, read_with_digest

Presentations = Mapping[str, Array]
UNREADABLE = (OSError, DamagedFileError)
"""What reading a file raises."""


@dataclass(frozen=True)
class History:
    """Reads the presentations of a run, one epoch at a time.

    Attributes:
        folder: Of the record; None where no presentations are on disk.
        epochs: The epochs of the record.
        num_samples: Number of samples of the record.
        digests: Of the file of each epoch that was kept, so that another run's file is not taken for it; None for a
            record that does not say, as those of 0.1.0.
        unwritten: Presentations that are in memory, by epoch: without Lightning, the ``vars`` of what
            :meth:`TrainingDynamics.end_epoch` returned.
    """

    folder: Path | None
    epochs: Sequence[int]
    num_samples: int = MOST_SAMPLES
    digests: Mapping[int, int] | None = None
    unwritten: Mapping[int, Presentations] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[int, Presentations]]:
        """Yield number and presentations of each epoch that was kept and is still there.

        Raises:
            DamagedFileError: If a file cannot be read.
        """
        files = self.files()
        for epoch in self.epochs:
            if epoch in self.unwritten:
                yield epoch, self.unwritten[epoch]
            elif epoch in files:
                presentations = self._own_presentations(epoch, files[epoch])
                if presentations is not None:
                    yield epoch, presentations

    def readable(self, excluded_epochs: Collection[int] = ()) -> Iterator[tuple[int, Presentations]]:
        """Yield the epochs for pictures: without ``excluded_epochs``, and without epochs that cannot be read."""
        for epoch in [epoch for epoch in self.epochs if epoch not in excluded_epochs]:
            with suppress(*UNREADABLE):
                yield from History(self.folder, [epoch], self.num_samples, self.digests, self.unwritten)

    def is_there(self) -> bool:
        """Return whether every epoch was kept and has a file; no file is opened to see if it is this record's."""
        files = self.files()
        recorded_epochs = files if self.digests is None else self.digests
        return all(epoch in self.unwritten or (epoch in recorded_epochs and epoch in files) for epoch in self.epochs)

    def lost_epochs(self) -> list[int]:
        """Return the epochs whose presentations were kept, but whose files are gone or changed."""
        files = self.files()
        # A record that does not say what it kept may never have had a history: no file at all is no loss.
        recorded_epochs = self.digests if self.digests is not None else self.epochs if files else ()
        epochs_on_disk = [epoch for epoch in self.epochs if epoch in recorded_epochs and epoch not in self.unwritten]
        return [epoch for epoch in epochs_on_disk if epoch not in files or not self._can_be_read(epoch, files[epoch])]

    def holds(self, epoch: int) -> bool:
        """Return whether the presentations of this epoch were kept, as far as that is known."""
        return epoch in self.unwritten or self.digests is None or epoch in self.digests

    def files(self) -> dict[int, Path]:
        """Return the file of each epoch that has one, whosever it is."""
        if self.folder is None:
            return {}
        # One look at the folder, however many epochs a record claims; of one that a drive has lost, nothing is there.
        paths = {}
        with suppress(OSError):
            paths = {path.name: path for path in (self.folder / "history").glob("epoch_*.npz")}
        return {epoch: paths[epoch_file(epoch)] for epoch in self.epochs if epoch_file(epoch) in paths}

    def _can_be_read(self, epoch: int, path: Path) -> bool:
        try:
            return self._is_own(epoch, digest(path))
        except UNREADABLE:
            return False

    def _is_own(self, epoch: int, number: int) -> bool:
        return self.digests is None or self.digests.get(epoch) == number

    def _own_presentations(self, epoch: int, path: Path) -> Presentations | None:
        """Return the presentations; None where the file is another run's."""
        if self.digests is not None and epoch not in self.digests:
            return None
        arrays, number = read_with_digest(path)
        if not self._is_own(epoch, number):
            return None
        with damage_errors(path):
            check_presentations(arrays, self.num_samples)
        return arrays


def read_history(folder: Path, epochs: Sequence[int]) -> Iterator[tuple[int, Presentations]]:
    """Yield the presentations of the epochs that were kept on disk."""
    yield from History(folder, epochs)
