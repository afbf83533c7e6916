"""The record while training goes on: the epochs that ended, the one under way, and the folder they go to."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dynalens.dynamics import Array, EpochRecord, SampleStatistics, TrainingDynamics
from dynalens.embeddings import SimilarSamples
from dynalens.notices import warn
from dynalens.record.audit_samples import AuditedSample
from dynalens.record.folder import RecordFolder
from dynalens.record.history import History
from dynalens.record.loading import kept_pictures
from dynalens.record.meta import RecordMeta
from dynalens.record.record import Record
from dynalens.record.sentences import KeptSentences
from dynalens.record.writes import Writes
from dynalens.units import UnitPresentation

NO_EPOCH = (
    "Expected at least one complete epoch of training, got none. Call this after `trainer.fit`, which records nothing "
    "with `fast_dev_run`; a record that `ddp_spawn` made in processes of its own is on disk: `load_record(<log_dir>)`."
)
_MEANWHILE = (
    "Training goes on and the record is kept in memory; writing is tried again after each epoch. Make room on the disk."
)
MOST_HELD = 2**30
"""Bytes of presentations that wait in memory for a disk that fails."""
Merge = Callable[[Array, Array, Array], tuple[Array, Array]]


class LiveRecord:
    """Keeps the record of a run; knows no Trainer.

    Args:
        history: Whether every presentation is kept on disk.
        mean_probabilities: As of :class:`~dynalens.TrainingDynamics`.
        tolerance: As of :class:`~dynalens.TrainingDynamics`.
        class_names: Name of each class, or None.
        neighbours: Takes the labels of the samples and returns the scores of their neighbours, or None.

    Attributes:
        dynamics: The statistics; None before the samples are known.
        epochs: Epochs that ended.
        current: Epoch of the newest steps; None before the first of a fit.
        open_epoch: Epoch with presentations that are not in the statistics yet.
        folder: Where files go; None before a fit.
        names: Name of each sample, or None.
        sample_ids: Id of each sample, or None where it is its position.
    """

    def __init__(
        self,
        *,
        history: bool,
        mean_probabilities: bool | float,
        tolerance: float | Sequence[float] | None = None,
        class_names: Sequence[str] | None,
        neighbours: Callable[[Array], Array | None],
    ) -> None:
        self.history, self.class_names = history, class_names
        self.dynamics: TrainingDynamics | None = None
        self.epochs: list[int] = []
        self.open_epoch: int | None = None
        self.folder: RecordFolder | None = None
        self.names: list[str] | None = None
        self.sample_ids: Array | None = None
        self._mean_probabilities, self._neighbours = mean_probabilities, neighbours
        self._tolerance = tolerance
        self._given_class_names = class_names
        self._root_index = np.arange(0)
        self.current: int | None = None
        self._complete_epoch: int | None = None  # the epoch under way, if it is recorded from its first step on
        self._noted_epoch: int | None = None  # the epoch that `under_way.json` names
        self._unwritten: dict[int, Mapping[str, Array]] = {}  # presentations that could not be written yet
        self._digests: dict[int, int] | None = None  # digests of the files of the history, from the checkpoint
        self._writes = Writes("the record", _MEANWHILE)
        self._incomplete: list[int] = []
        self._source: Path | None = None
        self._forgotten: Path | None = None  # folder of the record that was reset
        self._record: Record | None = None
        self._similar: SimilarSamples | None = None  # as of the fit's end

    def empty_copy(self) -> "LiveRecord":
        """Return an empty record with the same settings, which may replace this one on disk."""
        copy = LiveRecord(
            history=self.history,
            mean_probabilities=self._mean_probabilities,
            tolerance=self._tolerance,
            class_names=self._given_class_names,
            neighbours=self._neighbours,
        )
        copy._forgotten = None if self.folder is None else self.folder.path
        return copy

    @property
    def continued(self) -> str:
        """What a line on the way a fit is recorded says of epochs before it; an empty text where there are none."""
        number = len(self.epochs)
        words = "1 epoch" if number == 1 else f"{number} epochs"
        return f"; continues the record of {words} (`reset()` begins a new one)" if number else ""

    @property
    def num_samples(self) -> int | None:
        """Number of samples; None before they are known."""
        return None if self.dynamics is None else self.dynamics.num_samples

    def make_room(self, num_samples: int) -> TrainingDynamics:
        """Return the statistics, new ones if there are none; those of ids grow."""
        if self.dynamics is None:
            self.dynamics = TrainingDynamics(
                num_samples, mean_probabilities=self._mean_probabilities, tolerance=self._tolerance
            )
        return self.dynamics

    def describe(
        self,
        root_index: Array,
        sample_ids: Array | None,
        names: list[str] | None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Say which samples the rows are: index below all subsets, id where it is no position, and name.

        Names of classes that were given before count more than these.
        """
        self.class_names = self.class_names or class_names
        self._root_index, self.sample_ids, self.names = root_index, sample_ids, names
        self._record = None

    def epoch(self, current: int) -> int:
        """Return the number of the epoch under way: the Trainer's, or the next one, as a second fit counts on."""
        return max(current, self.epochs[-1] + 1 if self.epochs else 0)

    def begin_steps(self, epoch: int, *, is_first_step: bool) -> None:
        """Steps of an epoch begin; with its first one, what an earlier attempt at the epoch lost is recorded now."""
        self.current = epoch
        if is_first_step:
            self._complete_epoch = epoch

    def update(self, rows: Tensor, logits: Tensor, targets: Tensor, units: UnitPresentation | None = None) -> None:
        """Add the batch of the step that began; where samples have several units, by these."""
        assert self.dynamics is not None
        self.open_epoch, self._record = self.current, None
        if units is None:
            self.dynamics.update(rows, logits, targets)
        else:
            self.dynamics.update_units(rows, units)

    def end_epoch(self, epoch: int, merge: Merge) -> EpochRecord | None:
        """Fold the epoch into the statistics and return its presentations; None, and no epoch, if it had none."""
        assert self.dynamics is not None
        presentations = self.dynamics.end_epoch(epoch, merge)
        is_complete = self._complete_epoch == epoch
        self.open_epoch = self._record = self._complete_epoch = None
        if not len(presentations.index) and not presentations.non_finite:
            return None
        self.epochs.append(epoch)
        if is_complete:
            self._incomplete = [number for number in self._incomplete if number != epoch]
        return presentations

    def leave_out(self, epoch: int) -> None:
        """Hear that a step of an epoch could not be recorded: the epoch is incomplete."""
        self._incomplete, self._complete_epoch, self._record = sorted({*self._incomplete, epoch}), None, None

    def cut_off(self) -> None:
        """Drop the epoch under way, which an exception ended."""
        if self.dynamics is not None:
            self.dynamics.discard_pending()
            self._incomplete, self.open_epoch, self._record = self._missing_epochs(), None, None

    def draw_audit(self, n: int) -> list[int]:
        """Draw the first ``n`` samples of an audit, and return the rows of all drawn ones; none before an epoch."""
        if not self.epochs:
            return []
        self.record().audit_plan(n)
        return self.record().audited_rows()

    def record(self) -> Record:
        """Return the record as of the last complete epoch, the same one until it changes.

        Raises:
            RuntimeError: If no epoch is complete.
        """
        if self.dynamics is None or not self.epochs:
            raise RuntimeError(NO_EPOCH)
        if self._record is None:
            statistics, path = self.dynamics.compute(), None if self.folder is None else self.folder.path
            self._record = Record(
                statistics=statistics,
                meta=RecordMeta(self.dynamics.num_samples, list(self.epochs), list(self._incomplete), self.class_names),
                root_index=self._root_index,
                sample_ids=self.sample_ids,
                sample_names=self.names,
                folder=path,
                presentations=self.kept_history() if self.history else None,
                find_neighbours=functools.partial(self._neighbour_scores, statistics),
                find_pictures=dict if path is None else functools.partial(kept_pictures, path, len(statistics)),
            )
        return self._record

    def _neighbour_scores(self, statistics: SampleStatistics) -> Array | None:
        # Neighbours have the same label or not; several labels are not one.
        return self._neighbours(statistics.label) if statistics.unit is None else None

    def kept_history(self) -> History:
        """Return the presentations that are on disk, and the presentations that could not be written."""
        if self.folder is None:
            return History(None, list(self.epochs))
        # Processes that do not write find what the first one wrote.
        digests = dict(self.folder.digests) if self.folder.is_begun else None
        return History(self.folder.path, list(self.epochs), self.num_samples or 0, digests, dict(self._unwritten))

    def use(self, folder: RecordFolder) -> None:
        """Let a fit write to this folder."""
        if self.folder is not None and self.folder.is_begun:  # not where a fit was refused before its first step
            self._digests = dict(self.folder.digests)
        self.folder, self.current = folder, None

    def begin_files(self) -> None:
        """Make the folder that of this run: with the history of the epochs that it continues, and no other."""
        assert self.folder is not None
        self._writes, self._noted_epoch = Writes(f"the record to {self.folder.path}", _MEANWHILE), None
        folder = self.folder
        if self._source is None and folder.path != self._forgotten:
            folder.warn_before_replacing()
        self.attempt("names.json", lambda: self._begin_folder(folder))
        missing_epochs = [
            epoch for epoch in self.epochs if epoch not in folder.digests and epoch not in self._unwritten
        ]
        if missing_epochs and self.history:
            warn(
                f"Expected the history of the epochs before this fit in {self._source}, got none of epochs "
                f"{missing_epochs}. Suggested labels now come from the summary that the record keeps, and can "
                "differ from those before. To avoid this, keep the folder of the earlier run where it was."
            )
        self._source, self._record = folder.path, None

    def write_under_way(self, epoch: int) -> None:
        """Note on disk that an epoch is under way, for the case that nothing else can be written any more."""
        folder = self.folder
        if folder is not None and self.epochs and self._noted_epoch != epoch:
            self._noted_epoch = epoch
            self.attempt("under_way.json", lambda: folder.begin_epoch(epoch))

    def write_epoch(self, presentations: EpochRecord) -> None:
        """Write the epoch that has just ended; a disk that fails ends no training, and is tried again."""
        folder = self.folder
        assert folder is not None
        if self.history:
            self._hold(self.epochs[-1], presentations.presentations())
            self.attempt("history", lambda: self._write_held(folder))
        record = self.record()
        if self.sample_ids is not None or len(self.epochs) == 1 or "names.json" in self._writes.errors:
            self.attempt("names.json", lambda: folder.write_names(self.names))
        self.attempt("record.npz", lambda: folder.write_record(record))

    def end_files(
        self,
        pictures: Mapping[int, Array],
        similar: SimilarSamples | None = None,
        *,
        sentences: KeptSentences | None = None,
        audited: Mapping[int, AuditedSample] | None = None,
    ) -> None:
        """Write what a fit leaves, and say what could not be written."""
        folder = self.folder
        assert folder is not None
        self.attempt("history", lambda: self._write_held(folder))
        record, self._similar = self.record(), similar
        self.attempt("names.json", lambda: folder.write_names(self.names))
        self.attempt("record.npz", lambda: folder.write_record(record))
        self.attempt("neighbours.npz", lambda: folder.write_neighbours(record.neighbours(), record.meta.epochs))
        if similar is not None:
            self.attempt("similar.npz", lambda: folder.write_similar(similar, record.meta.epochs))
        table = record.table()
        self.attempt("samples.csv and suspects.csv", lambda: folder.write_tables(table))
        self.attempt("pictures.npz", lambda: folder.write_pictures(pictures))
        if sentences is not None:
            self.attempt("sentences.json", lambda: folder.write_sentences(*sentences))
        if audited is not None:
            self.attempt("audited.npz", lambda: folder.write_audited(audited))
        self.attempt("under_way.json", folder.end)
        self._writes.say_missing(
            "Make room, or choose another folder, and call `save(<folder>)`: the record is in memory, and in the "
            "checkpoints."
        )

    def save(self, path: str | Path | None = None) -> Path:
        """Write the record and the tables to a folder, by default the run's, and return it."""
        self.record()  # raises before there is one
        folder = self._other_folder(Path(path)) if path is not None else self.folder
        if folder is None:
            raise RuntimeError(NO_EPOCH)
        if folder is self.folder:
            self._write_held(folder)
        record = self.record()
        folder.write_names(self.names)
        folder.write_record(record)
        folder.write_neighbours(record.neighbours(), record.meta.epochs)
        if self._similar is not None:
            folder.write_similar(self._similar, record.meta.epochs)
        folder.write_tables(record.table())
        return folder.path

    def attempt(self, name: str, action: Callable[[], None]) -> None:
        """Write something; if the disk fails, say so once and go on: the record is in memory."""
        self._writes.attempt(name, action)

    def _other_folder(self, path: Path) -> RecordFolder:
        """Return a folder with the history in it, the own one if the path is its."""
        source = None if self.folder is None else self.folder.path
        if self.folder is not None and source is not None and path.resolve() == source.resolve():
            return self.folder
        folder = RecordFolder(path)
        folder.begin(self.epochs if self.history else [], source, None if self.folder is None else self.folder.digests)
        for epoch, presentations in self._unwritten.items():
            folder.write_history(epoch, presentations)
        return folder

    def _begin_folder(self, folder: RecordFolder) -> None:
        folder.begin(self.epochs, self._source, self._digests)
        folder.write_names(self.names)

    def _hold(self, epoch: int, presentations: Mapping[str, Array]) -> None:
        self._unwritten[epoch] = presentations
        if sum(values.nbytes for arrays in self._unwritten.values() for values in arrays.values()) > MOST_HELD:
            self._unwritten.clear()  # the history is no longer whole, and no part of it counts

    def _write_held(self, folder: RecordFolder) -> None:
        for epoch in list(self._unwritten):
            folder.write_history(epoch, self._unwritten[epoch])
            del self._unwritten[epoch]
            self._record = None  # it looks for these presentations elsewhere now

    def state(self, *, is_only_process: bool) -> dict[str, Any]:
        """Return the record as tensors and plain Python; the epoch under way only if one process has all of it."""
        assert self.dynamics is not None
        return {
            "dynamics": self.dynamics.state_dict(pending=is_only_process),
            "epochs": list(self.epochs),
            "incomplete_epochs": list(self._incomplete) if is_only_process else self._missing_epochs(),
            "open_epoch": self.open_epoch if is_only_process else None,
            "folder": str(self.folder.path) if self.folder else "",
            "history": dict(self.folder.digests) if self.folder else {},
        }

    def load_state(self, state: dict[str, Any], *, keeps_pending: bool) -> None:
        """Continue the record of a checkpoint, with its epoch under way if ``keeps_pending``."""
        self.dynamics, self._record = None, None
        dynamics = self.make_room(state["dynamics"]["num_samples"])
        dynamics.load_state_dict(state["dynamics"])
        self.epochs, self._incomplete = list(state["epochs"]), list(state["incomplete_epochs"])
        self.open_epoch = state["open_epoch"]
        self._source = Path(state["folder"]) if state["folder"] else None
        self._digests, self._unwritten = state.get("history"), {}
        if not keeps_pending:
            dynamics.discard_pending()

    def _missing_epochs(self) -> list[int]:
        """Epochs of which presentations are missing, including the epoch under way."""
        return sorted({*self._incomplete, *(() if self.open_epoch is None else (self.open_epoch,))})
