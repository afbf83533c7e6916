"""The run's folder on disk: written by the callbacks, read by notebooks and the command line.

``record.npz`` is the state: statistics, ids, epochs and names of classes in one file, which takes the place of the one
before as a whole. It holds a digest of each other file that belongs to it, so that after a kill, or a second run in the
same folder, no other record's file is taken for its own.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynalens.cells import inert_cells
from dynalens.dynamics import Array, EpochRecord, SampleStatistics
from dynalens.embeddings import SimilarSamples
from dynalens.notices import warn
from dynalens.record.audit_samples import AUDITED, AuditedSample, audited_arrays
from dynalens.record.files import digest, epoch_file, replacement_file, text_digest, write_arrays, write_json
from dynalens.record.history import History
from dynalens.record.meta import RecordMeta
from dynalens.record.record import Record

RECORD, META = "record.npz", "meta.json"
NAMES = "names.json"
TABLES = ("samples.csv", "suspects.csv")
NEIGHBOURS, PICTURES, SIMILAR = "neighbours.npz", "pictures.npz", "similar.npz"
SENTENCES = "sentences.json"
UNDER_WAY = "under_way.json"
_OF_THE_RUN_BEFORE = (AUDITED, META, NEIGHBOURS, PICTURES, SENTENCES, SIMILAR, *TABLES, UNDER_WAY)
SHEETS = "sheets"
"""Folder of pictures for the report."""


def write_sheet(folder: Path, name: str, png: bytes) -> Path:
    """Write a picture for the report into a record's folder and return its path."""
    path = folder / SHEETS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement_file(path) as temporary:
        temporary.write_bytes(png)
    return path


class RecordFolder:
    """Writes a record epoch by epoch.

    Args:
        path: The folder; made when something is written.

    Attributes:
        digests: Of the file of each epoch whose presentations are here.
        is_begun: Whether a run has begun to write here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digests: dict[int, int] = {}
        self._names: Sequence[str] | None = None
        self._names_known = False
        self.is_begun = self._continues = False

    def warn_before_replacing(self) -> None:
        """Warn if the folder holds the record of another run, which this one will replace."""
        if os.path.isfile(self.path / RECORD):  # False, not an error, if the folder cannot be looked at
            warn(
                f"Expected a folder without a record, got {self.path} with that of an earlier training, which this "
                "training replaces. To keep both, give the Trainer a logger or another `default_root_dir`, or the "
                "monitor a `name=` or a `save_dir=` of its own."
            )

    def begin(self, epochs: Sequence[int], source: Path | None, digests: Mapping[int, int] | None = None) -> list[int]:
        """Let the history hold these epochs, copied from ``source`` where this folder continues another run.

        A new run's folder loses the history that an earlier run left. What else an earlier run left goes when the first
        record of this one takes its place.

        Args:
            epochs: Those of the record that is continued.
            source: Folder of the run that is continued; None for a new one.
            digests: Of the files in it, where they are known.

        Returns:
            Those of the epochs whose history could not be found.
        """
        self.is_begun, self._continues, self.digests = True, source is not None, {}
        history = self.path / "history"
        if source is None:
            for path in history.glob("epoch_*.npz"):
                path.unlink()
        elif source.resolve() != self.path.resolve():
            self._continues = False
            history.mkdir(parents=True, exist_ok=True)
        if source is not None:
            earlier_history = History(source, epochs, digests=digests)
            lost_epochs = set(earlier_history.lost_epochs())
            for epoch, path in earlier_history.files().items():
                if epoch not in lost_epochs and earlier_history.holds(epoch):
                    self._take_over(epoch, path)
        return [epoch for epoch in epochs if epoch not in self.digests]

    def write_history(self, epoch: int, presentations: EpochRecord | Mapping[str, Array]) -> None:
        """Write every presentation of one epoch, in the order they were made."""
        arrays = presentations.presentations() if isinstance(presentations, EpochRecord) else dict(presentations)
        arrays["index"] = arrays["index"].astype(np.int32)
        path = self.path / "history" / epoch_file(epoch)
        write_arrays(path, arrays)
        self.digests[epoch] = digest(path)

    def write(
        self, statistics: SampleStatistics, root_index: Array, meta: RecordMeta, sample_ids: Array | None = None
    ) -> None:
        """Write ``record.npz``, which is the record, and ``meta.json``, a part of it for people."""
        self.path.mkdir(parents=True, exist_ok=True)
        rows = {"root_index": root_index} if sample_ids is None else {"root_index": root_index, "sample_id": sample_ids}
        meta_bytes = np.frombuffer(json.dumps(self._meta_fields(meta)).encode(), np.uint8)
        # A kill may leave the old record or the new one, but no file of the one beside the other.
        new_run = self.is_begun and not self._continues
        sheets = (self.path / SHEETS).glob("*.png") if new_run else ()
        for path in (*(self.path / name for name in (_OF_THE_RUN_BEFORE if new_run else (META,))), *sheets):
            path.unlink(missing_ok=True)
        write_arrays(self.path / RECORD, {**statistics.arrays(), **rows, "meta": meta_bytes})
        self._continues = True
        write_json(self.path / META, asdict(meta))
        if self.is_begun:
            self._tidy(meta.epochs)

    def write_record(self, record: Record) -> None:
        """Write a record as :meth:`write` does."""
        self.write(record.statistics, record.root_index, record.meta, record.sample_ids)

    def begin_epoch(self, epoch: int) -> None:
        """Note that an epoch is under way: if the process dies, the record names it as incomplete."""
        write_json(self.path / UNDER_WAY, {"epoch": epoch})

    def end(self) -> None:
        """Note that no epoch is under way any more."""
        (self.path / UNDER_WAY).unlink(missing_ok=True)

    def write_names(self, names: Sequence[str] | None) -> None:
        """Write ``names.json``, the name of each sample, or see that there is none."""
        path = self.path / NAMES
        if names is None:
            path.unlink(missing_ok=True)
        else:
            write_json(path, list(names))
        self._names, self._names_known = names, True

    def write_tables(self, table: pd.DataFrame) -> None:
        """Write ``samples.csv`` and, flagged ones only and worst first, ``suspects.csv``."""
        table = inert_cells(table)
        for name, rows in zip(TABLES, (table, table[table["flagged"]].sort_values("rank")), strict=True):
            with replacement_file(self.path / name) as temporary:
                rows.to_csv(temporary)

    def write_neighbours(self, scores: Array | None, epochs: Sequence[int]) -> None:
        """Write ``neighbours.npz``, the scores of neighbours after these epochs, or see that there is none."""
        path = self.path / NEIGHBOURS
        if scores is None:
            path.unlink(missing_ok=True)
        else:
            write_arrays(path, {"score": scores, "epochs": np.array(epochs)})

    def write_pictures(self, pictures: Mapping[int, Array]) -> None:
        """Write ``pictures.npz``: small pictures of suspects, by their rows; nothing if there are none."""
        if pictures:
            write_arrays(self.path / PICTURES, {str(sample): picture for sample, picture in pictures.items()})

    def write_audited(self, samples: Mapping[int, AuditedSample]) -> None:
        """Write ``audited.npz``: samples of an audit by their rows, with what was given; nothing if there are none."""
        if samples:
            write_arrays(self.path / AUDITED, audited_arrays(samples))

    def write_sentences(
        self, tokens: Mapping[int, Sequence[int]], words: Mapping[int, str], texts: Mapping[int, str]
    ) -> None:
        """Write ``sentences.json``: tokens or texts of suspects by their rows, and words; nothing if there are none."""
        if tokens or texts:
            parts = {"tokens": tokens, "words": words, "texts": texts}
            write_json(self.path / SENTENCES, {name: dict(part) for name, part in parts.items()})

    def write_similar(self, similar: SimilarSamples, epochs: Sequence[int]) -> None:
        """Write ``similar.npz``: what suspects look like after these epochs."""
        arrays = {"rows": similar.rows, "given": similar.label_rows, "suggested": similar.suggestion_rows}
        write_arrays(self.path / SIMILAR, {**arrays, "epochs": np.array(epochs)})

    def _take_over(self, epoch: int, source: Path) -> None:
        if not self._continues:
            with replacement_file(self.path / "history" / source.name) as temporary:
                shutil.copy2(source, temporary)
        self.digests[epoch] = digest(source)

    def _meta_fields(self, meta: RecordMeta) -> dict[str, Any]:
        meta_fields: dict[str, Any] = asdict(meta)
        meta_fields["history"] = {str(epoch): self.digests[epoch] for epoch in meta.epochs if epoch in self.digests}
        if self._names_known:
            meta_fields["names"] = None if self._names is None else text_digest(self._names[: meta.num_samples])
        return meta_fields

    def _tidy(self, epochs: Sequence[int]) -> None:
        names = {epoch_file(epoch) for epoch in epochs}
        for path in (self.path / "history").glob("epoch_*.npz"):
            if path.name not in names:
                path.unlink()
