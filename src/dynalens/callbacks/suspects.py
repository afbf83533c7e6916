"""What the record of a monitor says of the labels: tables, suspects, and what to do about them."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynalens.callbacks.dynamics_pictures import FOLLOWED
from dynalens.callbacks.layer_features import LayerFeatures
from dynalens.datasets import RelabelledDataset
from dynalens.dynamics import Array, SampleStatistics, TrainingDynamics
from dynalens.identity import SampleIdentity
from dynalens.records import RecordFolder, RecordMeta, whole_history
from dynalens.suspicion import (
    PRECISION,
    Assessment,
    NoiseRate,
    assess,
    clean_indices,
    flagged,
    removable,
    samples_table,
    suspects,
    weights,
    worst_samples,
)

NO_EPOCH = (
    "Expected at least one complete epoch of training, got none. Call this after `trainer.fit`; a record that "
    "`ddp_spawn` made in processes of its own is on disk: `load_record(<log_dir>)`."
)


class LabelSuspects:
    """The part of a monitor that is asked after training; what it reads is the monitor's."""

    history: bool
    log_every_n_epochs: int
    top_k: int
    class_names: Sequence[str] | None
    name_of: Callable[[Any], str] | None
    _dynamics: TrainingDynamics | None
    _epochs: list[int]
    _incomplete: list[int]
    _folder: RecordFolder | None
    _identity: SampleIdentity
    _root_index: Array
    _names: list[str] | None
    _assessed: tuple[int, Assessment] | None
    _features: LayerFeatures
    _source: Path | None
    _compared: tuple[int, Array | None] | None

    def statistics(self) -> SampleStatistics:
        """Return the statistics as of the last complete epoch; raise RuntimeError before there is one."""
        if self._dynamics is None or not self._epochs:
            raise RuntimeError(NO_EPOCH)
        return self._dynamics.compute()

    def table(self) -> pd.DataFrame:
        """Return one row for each sample of the dataset, index ``sample_id``; ``docs/table.md`` lists the columns."""
        table = samples_table(
            self.statistics(),
            self._assess(),
            class_names=self.class_names,
            root_index=self._root_index,
            sample_ids=self._sample_ids(),
            names=self._names,
            neighbours=self._neighbours(),
        )
        table.attrs.update(self._meta().attributes())
        return table

    def save(self, path: str | Path | None = None) -> Path:
        """Write the record and the tables to a folder, by default the run's, and return it."""
        folder = RecordFolder(Path(path)) if path is not None else self._folder
        if folder is None:
            raise RuntimeError(NO_EPOCH)
        folder.write(self.statistics(), self._root_index, self._meta(), self._sample_ids())
        folder.write_names(self._names)
        folder.write_neighbours(self._neighbours(), self._epochs)
        folder.write_tables(self.table())
        return folder.path

    def suspects(self, n: int | None = None, precision: float | None = None) -> pd.DataFrame:
        """Return the samples that were seen, the most suspicious first.

        Args:
            n: Return the first ``n`` of them.
            precision: Return those of which this fraction is expected to be wrong; ``flagged`` is then at this
                precision, without it at 0.8.
        """
        return suspects(self.table(), n, precision)

    def suspect_ids(self, n: int) -> list[Any]:
        """Return the ids of the ``n`` samples with the lowest mean margin, none before an epoch is complete.

        The ranking while training goes on: no file is read and nothing is estimated.
        """
        if not self._epochs:
            return []
        worst, ids = worst_samples(self.statistics(), n), self._sample_ids()
        return worst if ids is None else ids[worst].tolist()

    def followed_suspects(self, epoch: int) -> int:
        """Return how many of the worst samples the gallery of this epoch may show; 0 where it is not drawn."""
        return 0 if epoch % self.log_every_n_epochs else FOLLOWED * self.top_k

    def noise_rate(self) -> NoiseRate:
        """Return the estimated fraction of wrong labels with its lower and upper end."""
        return self._assess().noise_rate

    def clean_indices(self, precision: float | None = None) -> list[Any]:
        """Return the ids of the samples that are not flagged, for ``torch.utils.data.Subset`` if they are positions."""
        return clean_indices(self.table(), precision)

    def removable(self, fraction: float) -> list[Any]:
        """Return the ids of that fraction of the samples which training needs least, for training on less data.

        :func:`dynalens.removable` says which: never forgotten, and learned first.
        """
        rows, ids = removable(self.statistics(), fraction), self._sample_ids()
        removed: list[Any] = (rows if ids is None else ids[rows]).tolist()
        return removed

    def weights(self) -> Array:
        """Return the probability that each label is right, shape (N,), to weigh the samples of a second training."""
        return weights(self.table())

    def relabelled(self, dataset: Any, precision: float = PRECISION, label: str | int | None = None) -> Any:
        """Return the dataset with the suggested label in place of each flagged one.

        Args:
            dataset: The one that was trained on. Not modified.
            precision: Expected fraction of wrong labels among the replaced ones.
            label: Where the label stands in a sample, as for :class:`~dynalens.datasets.RelabelledDataset`.

        Raises:
            ValueError: If the samples are known by ids, or the dataset has another length.
        """
        if self._sample_ids() is not None:
            raise ValueError(
                "Expected samples that are known by their position in the dataset, got ids. "
                "Replace the labels of `suspects()` where the dataset reads them."
            )
        given, assessment = self.statistics().label, self._assess()
        chosen = np.flatnonzero(flagged(assessment.probability, precision) & (assessment.suggested >= 0))
        changes = {int(i): (int(given[i]), int(assessment.suggested[i])) for i in chosen}
        return RelabelledDataset(dataset, changes, label=label, length=len(given))

    def _begin_files(self) -> None:
        assert self._folder is not None
        missing = self._folder.begin(self._epochs, self._source)
        if missing and self.history:
            warnings.warn(
                f"Expected the history of the epochs before this fit in {self._source}, got none of epochs {missing}. "
                "Labels are suggested by the record's majority sketch instead. Keep the folder of the run to resume.",
                stacklevel=2,
            )
        self._folder.write_names(self._names)
        self._source = self._folder.path

    def _assess(self) -> Assessment:
        statistics = self.statistics()
        if self._assessed is None or self._assessed[0] != len(self._epochs):
            kept = whole_history(self._folder.path, self._epochs) if self.history and self._folder else iter(())
            self._assessed = len(self._epochs), assess(statistics, (epoch for _, epoch in kept))
        return self._assessed[1]

    def _neighbours(self) -> Array | None:
        labels = self.statistics().label
        if self._compared is None or self._compared[0] != len(self._epochs):
            self._compared = len(self._epochs), self._features.scores(labels)
        return self._compared[1]

    def _sample_ids(self) -> Array | None:
        ids = self._identity.ids
        return None if ids is None or self._dynamics is None else ids.array(self._dynamics.num_samples)

    def _meta(self) -> RecordMeta:
        assert self._dynamics is not None
        return RecordMeta(self._dynamics.num_samples, self._epochs, self._incomplete, self.class_names)

    def _sample_names(self) -> list[str] | None:
        if self.name_of is None:
            return self._identity.sample_names(self._root_index)
        if self._identity.undecided:
            return None
        ids = self._sample_ids()
        return [str(self.name_of(each)) for each in (range(len(self._root_index)) if ids is None else ids.tolist())]
