"""Which samples, epochs and classes a record is about."""

from collections.abc import Sequence
from dataclasses import dataclass

VERSION = 1


@dataclass(frozen=True)
class RecordMeta:
    """Which samples, epochs and classes a record is about.

    Attributes:
        num_samples: Length N of the dataset.
        epochs: Numbers of the epochs that ended and are in the record, from 0.
        incomplete_epochs: Those of which presentations are missing, because an exception ended them, because steps of
            them could not be read, or because several processes resumed them from a checkpoint in their middle.
        class_names: Names of the classes, or None.
        version: Version of the files.
    """

    num_samples: int
    epochs: Sequence[int]
    incomplete_epochs: Sequence[int] = ()
    class_names: Sequence[str] | None = None
    version: int = VERSION

    def attributes(self) -> dict[str, list[int]]:
        """Return the ``attrs`` of a table: the epochs it is made of, and those of which presentations are missing."""
        return {"epochs": list(self.epochs), "incomplete_epochs": list(self.incomplete_epochs)}
