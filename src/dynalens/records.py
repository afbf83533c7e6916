"""The run's folder on disk: written by the callbacks, read by notebooks and the command line."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynalens.dynamics import Array, EpochRecord, SampleStatistics
from dynalens.suspicion import samples_table, suggested_labels

VERSION = 1
_HISTORY = ("index", "p_label", "margin", "predicted")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of ``path`` at the end, so that a kill leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an npz file, whole or not at all."""
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub mixes the arrays up with its own keyword


@dataclass(frozen=True)
class RecordMeta:
    """What goes with the arrays of a record.

    Attributes:
        num_samples: Length N of the dataset.
        epochs: Epochs that ended and are in the record.
        incomplete_epochs: Epochs that were cut off; their presentations are not in the record.
        class_names: Names of the classes, or None.
        version: Version of the files.
    """

    num_samples: int
    epochs: Sequence[int]
    incomplete_epochs: Sequence[int] = ()
    class_names: Sequence[str] | None = None
    version: int = VERSION


class RecordFolder:
    """Writes a record epoch by epoch.

    Args:
        path: The folder; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, epochs: Sequence[int], source: Path | None) -> None:
        """Let the history hold exactly these epochs, copied from ``source`` where this folder continues another run."""
        keep = {_epoch_file(epoch) for epoch in epochs}
        history = self.path / "history"
        same = source is not None and source.resolve() == self.path.resolve()
        for old in history.glob("epoch_*.npz"):
            if not (same and old.name in keep):
                old.unlink()
        if source is not None and not same:
            history.mkdir(parents=True, exist_ok=True)
            for name in sorted(keep):
                if (source / "history" / name).exists():
                    shutil.copy2(source / "history" / name, history / name)

    def write_history(self, epoch: int, record: EpochRecord) -> None:
        """Write every presentation of one epoch, in the order they were made."""
        arrays = {name: getattr(record, name) for name in _HISTORY}
        arrays["index"] = arrays["index"].astype(np.int32)
        write_arrays(self.path / "history" / _epoch_file(epoch), arrays)

    def write(self, statistics: SampleStatistics, root_index: Array, meta: RecordMeta) -> None:
        """Write ``record.npz`` and ``meta.json``."""
        arrays = {field.name: getattr(statistics, field.name) for field in fields(SampleStatistics)}
        write_arrays(self.path / "record.npz", {**arrays, "root_index": root_index})
        with replaced(self.path / "meta.json") as temporary:
            temporary.write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")

    def write_tables(self, table: pd.DataFrame) -> None:
        """Write ``samples.csv`` and, flagged ones only and worst first, ``suspects.csv``."""
        with replaced(self.path / "samples.csv") as temporary:
            table.to_csv(temporary)
        with replaced(self.path / "suspects.csv") as temporary:
            table[table["flagged"]].sort_values("rank").to_csv(temporary)

    def write_pictures(self, pictures: Mapping[int, Array]) -> None:
        """Write ``pictures.npz``: small pictures of suspects, by their ids; nothing if there are none."""
        if pictures:
            write_arrays(self.path / "pictures.npz", {str(sample): picture for sample, picture in pictures.items()})


@dataclass(frozen=True)
class Record:
    """A record as it was on disk at the end of an epoch.

    Attributes:
        folder: Where it was read from.
        statistics: Statistics of each sample.
        root_index: Index of each sample in the dataset below all subsets.
        meta: Epochs, class names and version.
    """

    folder: Path
    statistics: SampleStatistics
    root_index: Array
    meta: RecordMeta

    def history(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield each complete epoch's number and its presentations: index, p_label, margin, predicted."""
        yield from read_history(self.folder, self.meta.epochs)

    def pictures(self) -> dict[int, Array]:
        """Return the small pictures of suspects that were kept: images ``(H, W, 3)``, uint8, or signals ``(C, L)``."""
        path = self.folder / "pictures.npz"
        if not path.is_file():
            return {}
        with np.load(path) as stored:
            return {int(sample): stored[sample] for sample in stored.files}

    def table(self) -> pd.DataFrame:
        """Return one row for each sample; the columns are those of ``TrainingDynamicsMonitor.table``."""
        suggested = suggested_labels(self.statistics, (epoch for _, epoch in self.history()))
        return samples_table(
            self.statistics, suggested=suggested, class_names=self.meta.class_names, root_index=self.root_index
        )


def read_history(folder: Path, epochs: Sequence[int]) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield the presentations of those epochs that were kept on disk."""
    for epoch in epochs:
        path = folder / "history" / _epoch_file(epoch)
        if path.exists():
            with np.load(path) as arrays:
                yield epoch, dict(arrays)


def load_record(folder: str | Path) -> Record:
    """Return the record of a run.

    Args:
        folder: The run's folder (``lightning_logs/version_0``) or the ``dynalens`` folder in it.

    Raises:
        FileNotFoundError: If there is no record.
        ValueError: If it was written in another version of the format.
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
    root_index = arrays.pop("root_index")
    return Record(found[0], SampleStatistics(**arrays), root_index, RecordMeta(**raw))


def _epoch_file(epoch: int) -> str:
    return f"epoch_{epoch:06d}.npz"
