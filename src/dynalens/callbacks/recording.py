"""A callback that owns the record of a run and answers what the record answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from dynalens.callbacks.base import NamedCallback
from dynalens.dynamics import Array, SampleStatistics
from dynalens.logs import GallerySource
from dynalens.record import LiveRecord, Record
from dynalens.record.plans import AuditAnswers
from dynalens.suspicion import PRECISION, NoiseRate


class RecordingCallback(NamedCallback):
    """Owns a record; :class:`~dynalens.Record` says what each method returns.

    Args:
        live: The record, empty.

    Attributes:
        presented_units: Kind and targets of the units of the last step's samples; None if each sample has one label.
    """

    def __init__(self, live: LiveRecord) -> None:
        super().__init__()
        self._live = live
        self.presented_units: tuple[str, Tensor] | None = None
        self._gallery_sources: list[GallerySource] = []

    @property
    def record(self) -> Record:
        """The record as of the last complete epoch, as :func:`~dynalens.load_record` reads it from disk.

        Raises:
            RuntimeError: If no epoch is complete.
        """
        return self._live.record()

    @property
    def class_names(self) -> Sequence[str] | None:
        """The name of each class: the ones passed as ``class_names``, or else those of the dataset or network."""
        return self._live.class_names

    def statistics(self) -> SampleStatistics:
        """Return the statistics of each sample as of the last complete epoch.

        Raises:
            RuntimeError: If no epoch is complete.
        """
        return self.record.statistics

    def save(self, path: str | Path | None = None) -> Path:
        """Write the record and its tables to a folder, and return the folder.

        Args:
            path: The folder. Default: the folder of the run, where each epoch writes them anyway.
        """
        return self._live.save(path)

    def table(self, *, embeddings: Any = None) -> pd.DataFrame:
        """Return a table with one row for each sample of the dataset: :meth:`Record.table`."""
        return self.record.table(embeddings=embeddings)

    def suspects(
        self,
        n: int | None = None,
        precision: float | None = None,
        *,
        embeddings: Any = None,
        answers: AuditAnswers | None = None,
    ) -> pd.DataFrame:
        """Return the samples that were seen, the most suspicious first: :meth:`Record.suspects`."""
        return self.record.suspects(n, precision, embeddings=embeddings, answers=answers)

    def noise_rate(self) -> NoiseRate:
        """Return the estimated fraction of wrong labels: :meth:`Record.noise_rate`."""
        return self.record.noise_rate()

    def doubts(self) -> list[str]:
        """Return the reasons to doubt the noise rate and the flags: :meth:`Record.doubts`."""
        return self.record.doubts()

    def clean_indices(
        self, precision: float | None = None, *, embeddings: Any = None, answers: AuditAnswers | None = None
    ) -> list[Any]:
        """Return the ids of the samples that are not flagged: :meth:`Record.clean_indices`."""
        return self.record.clean_indices(precision, embeddings=embeddings, answers=answers)

    def weights(self, *, answers: AuditAnswers | None = None) -> Array:
        """Return the probability that each label is right, shape (N,): :meth:`Record.weights`."""
        return self.record.weights(answers=answers)

    def relabelled(
        self,
        dataset: Any,
        precision: float = PRECISION,
        label: str | int | None = None,
        *,
        answers: AuditAnswers | None = None,
    ) -> Any:
        """Return the dataset with the suggested label in place of each flagged one: :meth:`Record.relabelled`."""
        return self.record.relabelled(dataset, precision, label, answers=answers)

    def removable(self, fraction: float) -> list[Any]:
        """Return the ids of the samples that training needs least: :meth:`Record.removable`."""
        return self.record.removable(fraction)

    def draw_audit(self, n: int) -> list[int]:
        """Draw the first ``n`` samples of an audit, and return the rows of all drawn ones; none before an epoch."""
        return self._live.draw_audit(n)

    def suspect_ids(self, n: int) -> list[Any]:
        """Return :meth:`Record.suspect_ids`, the ``n`` most suspicious samples; none before an epoch is complete."""
        return self.record.suspect_ids(n) if self._live.epochs else []

    def draw_gallery_with(self, source: GallerySource) -> None:
        """Ask this source for maps and words in the gallery of suspects, until the fit ends."""
        if source not in self._gallery_sources:
            self._gallery_sources.append(source)
