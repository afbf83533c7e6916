"""The run's folder on disk: written by the callbacks, read by notebooks and the command line."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynalens.dynamics import Array, EpochRecord, SampleStatistics
from dynalens.suspicion import Assessment, assess, samples_table

VERSION = 1


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of ``path`` at the end, so that a kill leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # several processes may save at once
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an npz file, whole or not at all."""
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub mixes the arrays up with its own keyword


def forget_epochs(folder: Path, begin: int) -> None:
    """Delete the files of this epoch and of later ones: an earlier run left them, and nothing would tell them apart."""
    for old in folder.glob("epoch_*.npz"):
        if old.name >= epoch_file(begin):
            old.unlink()


@dataclass(frozen=True)
class RecordMeta:
    """What goes with the arrays of a record.

    Attributes:
        num_samples: Length N of the dataset.
        epochs: Epochs that ended and are in the record.
        incomplete_epochs: Epochs that presentations are missing of: cut off by an exception, or resumed from a
            checkpoint of several processes from the middle of the epoch.
        class_names: Names of the classes, or None.
        version: Version of the files.
    """

    num_samples: int
    epochs: Sequence[int]
    incomplete_epochs: Sequence[int] = ()
    class_names: Sequence[str] | None = None
    version: int = VERSION

    def attributes(self) -> dict[str, list[int]]:
        """Return what a table carries in ``attrs``: the epochs it is made of, and those that it has not in full."""
        return {"epochs": list(self.epochs), "incomplete_epochs": list(self.incomplete_epochs)}


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


@dataclass(frozen=True)
class Record:
    """A record as it was on disk at the end of an epoch.

    Attributes:
        folder: Where it was read from.
        statistics: Statistics of each sample.
        root_index: Index of each sample in the dataset below all subsets; -1 where not known.
        meta: Epochs, class names and version.
        sample_ids: Id of each sample, strings or integers; None where a sample's id is its position.

    Example:
        >>> import torch
        >>> from dynalens.dynamics import TrainingDynamics
        >>> dynamics = TrainingDynamics(2)
        >>> dynamics.update([0, 1], torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
        >>> _ = dynamics.end_epoch(0)
        >>> record = Record(Path("run"), dynamics.compute(), np.arange(2), RecordMeta(num_samples=2, epochs=[0]))
        >>> record.table()["margin"].tolist()
        [1.0, -4.0]
    """

    folder: Path
    statistics: SampleStatistics
    root_index: Array
    meta: RecordMeta
    sample_ids: Array | None = None

    def history(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield each complete epoch's number and its presentations: index (row) and the rest of ``EpochRecord``."""
        yield from read_history(self.folder, self.meta.epochs)

    def names(self) -> list[str] | None:
        """Return the name of each sample, or None where the dataset has none."""
        path = self.folder / "names.json"
        if not path.is_file():
            return None
        names: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return names

    def assess(self) -> Assessment:
        """Return how suspicious each label is."""
        return assess(self.statistics, (epoch for _, epoch in whole_history(self.folder, self.meta.epochs)))

    def pictures(self) -> dict[int, Array]:
        """Return the small pictures of suspects, by their rows: images ``(H, W, 3)``, uint8, or signals ``(C, L)``."""
        path = self.folder / "pictures.npz"
        if not path.is_file():
            return {}
        with np.load(path) as stored:
            return {int(sample): stored[sample] for sample in stored.files}

    def neighbours(self) -> Array | None:
        """Return the scores of the samples' neighbours; None without features, or where epochs came after them."""
        path = self.folder / "neighbours.npz"
        if not path.is_file():
            return None
        with np.load(path) as stored:
            same = stored["epochs"].tolist() == list(self.meta.epochs)
            return np.asarray(stored["score"]) if same else None

    def table(self) -> pd.DataFrame:
        """Return one row for each sample; the columns are those of ``TrainingDynamicsMonitor.table``."""
        table = samples_table(
            self.statistics,
            self.assess(),
            class_names=self.meta.class_names,
            root_index=self.root_index,
            sample_ids=self.sample_ids,
            names=self.names(),
            neighbours=self.neighbours(),
        )
        table.attrs.update(self.meta.attributes())
        return table


def read_history(folder: Path, epochs: Sequence[int]) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield the presentations of those epochs that were kept on disk."""
    for epoch in epochs:
        path = folder / "history" / epoch_file(epoch)
        if path.exists():
            with np.load(path) as arrays:
                yield epoch, dict(arrays)


def whole_history(folder: Path, epochs: Sequence[int]) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield the presentations of all those epochs, or none if those of one are missing: no half counts."""
    whole = all((folder / "history" / epoch_file(epoch)).exists() for epoch in epochs)
    return read_history(folder, epochs if whole else [])


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
    return Record(found[0], SampleStatistics(**arrays), root_index, RecordMeta(**raw), sample_ids)


def epoch_file(epoch: int) -> str:
    """Return the name of an epoch's file."""
    return f"epoch_{epoch:06d}.npz"
