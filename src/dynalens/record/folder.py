"""The run's folder on disk: written by the callbacks, read by notebooks and the command line."""

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynalens.dynamics import Array, EpochRecord, SampleStatistics
from dynalens.record.files import epoch_file, replaced, write_arrays
from dynalens.record.record import VERSION, Record, RecordMeta


class RecordFolder:
    """Writes a record epoch by epoch.

    Args:
        path: The folder; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, epochs: Sequence[int], source: Path | None) -> list[int]:
        """Let the history hold exactly these epochs, copied from ``source`` where this folder continues another run.

        Returns:
            Those of the epochs whose history could not be found.
        """
        keep = {epoch_file(epoch) for epoch in epochs}
        history = self.path / "history"
        same = source is not None and source.resolve() == self.path.resolve()
        for old in history.glob("epoch_*.npz"):
            if not (same and old.name in keep):
                old.unlink()
        if not same:
            (self.path / "pictures.npz").unlink(missing_ok=True)  # of another record's samples
        if source is not None and not same:
            history.mkdir(parents=True, exist_ok=True)
            for name in sorted(keep):
                if (source / "history" / name).exists():
                    shutil.copy2(source / "history" / name, history / name)
        return [epoch for epoch in epochs if not (history / epoch_file(epoch)).exists()]

    def save(self, record: Record) -> None:
        """Write a record and its tables."""
        self.write(record.statistics, record.root_index, record.meta, record.sample_ids)
        self.write_names(record.names())
        self.write_neighbours(record.neighbours(), record.meta.epochs)
        self.write_tables(record.table())

    def write_history(self, epoch: int, record: EpochRecord) -> None:
        """Write every presentation of one epoch, in the order they were made."""
        arrays = record.presentations()
        arrays["index"] = arrays["index"].astype(np.int32)
        write_arrays(self.path / "history" / epoch_file(epoch), arrays)

    def write(
        self, statistics: SampleStatistics, root_index: Array, meta: RecordMeta, sample_ids: Array | None = None
    ) -> None:
        """Write ``record.npz`` and ``meta.json``."""
        ids = {} if sample_ids is None else {"sample_id": sample_ids}
        write_arrays(self.path / "record.npz", {**statistics.arrays(), "root_index": root_index, **ids})
        with replaced(self.path / "meta.json") as temporary:
            temporary.write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")

    def write_names(self, names: Sequence[str] | None) -> None:
        """Write ``names.json``, the name of each sample, or see that there is none."""
        path = self.path / "names.json"
        if names is None:
            path.unlink(missing_ok=True)
            return
        with replaced(path) as temporary:
            temporary.write_text(json.dumps(list(names)) + "\n", encoding="utf-8")

    def write_tables(self, table: pd.DataFrame) -> None:
        """Write ``samples.csv`` and, flagged ones only and worst first, ``suspects.csv``."""
        with replaced(self.path / "samples.csv") as temporary:
            table.to_csv(temporary)
        with replaced(self.path / "suspects.csv") as temporary:
            table[table["flagged"]].sort_values("rank").to_csv(temporary)

    def write_neighbours(self, scores: Array | None, epochs: Sequence[int]) -> None:
        """Write ``neighbours.npz``, the scores of neighbours after these epochs, or see that there is none."""
        path = self.path / "neighbours.npz"
        if scores is None:
            path.unlink(missing_ok=True)
        else:
            write_arrays(path, {"score": scores, "epochs": np.array(epochs)})

    def write_pictures(self, pictures: Mapping[int, Array]) -> None:
        """Write ``pictures.npz``: small pictures of suspects, by their rows; nothing if there are none."""
        if pictures:
            write_arrays(self.path / "pictures.npz", {str(sample): picture for sample, picture in pictures.items()})

    def names(self) -> list[str] | None:
        """Return the name of each sample, or None where there is none."""
        path = self.path / "names.json"
        if not path.is_file():
            return None
        names: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return names

    def neighbours(self, epochs: Sequence[int]) -> Array | None:
        """Return the scores of neighbours; None where there is none, or not as of these epochs."""
        path = self.path / "neighbours.npz"
        if not path.is_file():
            return None
        with np.load(path) as stored:
            return np.asarray(stored["score"]) if stored["epochs"].tolist() == list(epochs) else None

    def pictures(self) -> dict[int, Array]:
        """Return the small pictures of suspects, by their rows: images ``(H, W, 3)``, uint8, or signals ``(C, L)``."""
        path = self.path / "pictures.npz"
        if not path.is_file():
            return {}
        with np.load(path) as stored:
            return {int(sample): stored[sample] for sample in stored.files}


def load_record(folder: str | Path) -> Record:
    """Return the record of a run.

    Args:
        folder: The run's folder (``lightning_logs/version_0``) or the ``dynalens`` folder in it.

    Raises:
        FileNotFoundError: If there is no record.
        ValueError: If it was written in another version of the format.

    Example:
        >>> import tempfile, torch
        >>> from dynalens.dynamics import TrainingDynamics
        >>> dynamics = TrainingDynamics(2)
        >>> dynamics.update([0, 1], torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
        >>> _ = dynamics.end_epoch(0)
        >>> with tempfile.TemporaryDirectory() as run:
        ...     folder = RecordFolder(Path(run) / "dynalens")
        ...     folder.write(dynamics.compute(), np.arange(2), RecordMeta(num_samples=2, epochs=[0]))
        ...     load_record(run).statistics.margin
        array([ 1., -4.])
    """
    given = Path(folder)
    found = [path for path in (given, given / "dynalens") if (path / "record.npz").is_file()]
    if not found:
        named = sorted(str(path.parent) for path in given.glob("**/record.npz"))
        hint = f"Did you mean {', '.join(named)}?" if named else "A record is written when the first epoch ends."
        raise FileNotFoundError(f"Expected `folder` to hold record.npz or dynalens/record.npz, got {given}. {hint}")
    raw: dict[str, Any] = json.loads((found[0] / "meta.json").read_text(encoding="utf-8"))
    if raw.get("version") != VERSION:
        raise ValueError(
            f"Expected a record of version {VERSION}, got {raw.get('version')}. Read it with the release that wrote it."
        )
    with np.load(found[0] / "record.npz") as stored:
        arrays = dict(stored)
    root_index, sample_ids = arrays.pop("root_index"), arrays.pop("sample_id", None)
    meta, files = RecordMeta(**raw), RecordFolder(found[0])
    return Record(
        statistics=SampleStatistics(**arrays),
        meta=meta,
        root_index=root_index,
        sample_ids=sample_ids,
        sample_names=files.names(),
        folder=found[0],
        find_neighbours=functools.partial(files.neighbours, meta.epochs),
        find_pictures=files.pictures,
    )
