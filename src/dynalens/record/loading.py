"""Reads the folder of a run, which may come from anyone."""

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.embeddings import SimilarSamples
from dynalens.notices import warn
from dynalens.record.checks import MOST_EPOCHS, check_meta, check_names, check_rows, check_statistics, is_texts
from dynalens.record.files import damage_errors, read_arrays, read_json, text_digest
from dynalens.record.folder import META, NAMES, NEIGHBOURS, PICTURES, SIMILAR, UNDER_WAY
from dynalens.record.history import History
from dynalens.record.meta import VERSION, RecordMeta
from dynalens.record.nearby import missing_record
from dynalens.record.record import Record

_SIMILAR = ("rows", "given", "suggested")


def load_record(folder: str | Path) -> Record:
    """Return the record of a run, read from its folder.

    The folder may come from anyone: loading runs no code from it, and refuses files that dynalens would not write.
    Records of version 0.1.0 and later can be read.

    Args:
        folder: The run's folder (``lightning_logs/version_0``) or the ``dynalens`` folder in it.

    Raises:
        FileNotFoundError: If there is no record.
        ValueError: If a file is damaged, or was written in another version of the format; the message names it.

    Example:
        >>> import tempfile, torch
        >>> from dynalens.record import RecordFolder
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
    path = _record_folder(Path(folder))
    arrays = read_arrays(path / "record.npz")
    meta_copy = read_json(path / META) if (path / META).is_file() else None
    _check_version(meta_copy, path)
    with damage_errors(path / "record.npz"):
        meta_fields = json.loads(arrays.pop("meta").tobytes()) if "meta" in arrays else None
        _check_version(meta_fields, path)
        root_index, sample_ids = check_rows(arrays)
        check_statistics(arrays)
        digests, names = _digests(meta_fields)
        if meta_fields is not None:
            check_meta(meta_fields, arrays["presentations"])
    if meta_copy is not None:
        with damage_errors(path / META):
            check_meta(meta_copy, arrays["presentations"])
    # The record itself says what is in it. A kill may have left `meta.json` as it was an epoch before.
    meta = _meta(path, meta_copy if meta_fields is None else meta_fields)
    num_samples = len(root_index)
    return Record(
        statistics=SampleStatistics(**arrays),
        meta=meta,
        root_index=root_index,
        sample_ids=sample_ids,
        sample_names=_names(path, num_samples, names),
        folder=path,
        presentations=History(path, meta.epochs, num_samples, digests),
        find_neighbours=functools.partial(_neighbours, path, meta, meta_copy),
        find_pictures=functools.partial(kept_pictures, path, num_samples),
    )


def _record_folder(folder: Path) -> Path:
    for path in (folder, folder / "dynalens"):
        if (path / "record.npz").is_file():
            return path
    raise missing_record(folder)


def _check_version(raw: Any, path: Path) -> None:
    if isinstance(raw, dict) and raw.get("version") != VERSION:
        raise ValueError(
            f"Expected a record of version {VERSION}, got {raw.get('version')!s:.20} in {path}. Read it with the "
            "release that wrote it."
        )


def _digests(meta_fields: Any) -> tuple[dict[int, int] | None, Any]:
    """Return the digest of each epoch's file, and that of the names, ``...`` where the record does not say."""
    if not isinstance(meta_fields, dict):
        return None, ...
    history = meta_fields.pop("history", {})
    if not isinstance(history, dict) or not all(isinstance(value, int) for value in history.values()):
        raise ValueError("a history that is no object of numbers")
    return {int(epoch): value for epoch, value in history.items()}, meta_fields.pop("names", ...)


def _meta(path: Path, fields: dict[str, Any] | None) -> RecordMeta:
    if fields is None:
        raise FileNotFoundError(f"Expected {path} to hold {META}, got none. Take the folder from a backup.")
    return _with_epoch_under_way(path, RecordMeta(**fields))


def _with_epoch_under_way(path: Path, meta: RecordMeta) -> RecordMeta:
    """Name the epoch that was under way when the process died as incomplete."""
    if not (path / UNDER_WAY).is_file():
        return meta
    raw = read_json(path / UNDER_WAY)
    with damage_errors(path / UNDER_WAY):
        check_names(raw, ["epoch"], ["epoch"])
        epoch = raw["epoch"]
        if type(epoch) is not int or not 0 <= epoch < MOST_EPOCHS:
            raise ValueError("no epoch in it")
    if epoch in meta.epochs:
        return meta
    return replace(meta, incomplete_epochs=sorted({*meta.incomplete_epochs, epoch}))


def _names(path: Path, num_samples: int, expected_digest: Any) -> list[str] | None:
    """Return the names of the samples, or None if the names in the folder are of another record."""
    file = path / NAMES
    if expected_digest is None or not file.is_file():
        return None
    names = read_json(file)
    with damage_errors(file):
        if not is_texts(names):
            raise ValueError("no list of names")
        if expected_digest is ... and len(names) != num_samples:
            raise ValueError(f"{len(names)} names for {num_samples} samples")
    sample_names: list[str] = names[:num_samples]
    if expected_digest is not ... and text_digest(sample_names) != expected_digest:
        warn(
            f"Expected the names of this record's samples in {file}, got those of another run. Samples are shown "
            "without names. Put the file of this run back to see them."
        )
        return None
    return sample_names


def _neighbours(path: Path, meta: RecordMeta, meta_copy: Mapping[str, Any] | None) -> Array | None:
    """Return the scores of neighbours, or None if there are none or they are of other epochs."""
    file = path / NEIGHBOURS
    if not file.is_file():
        return None
    arrays = read_arrays(file)
    with damage_errors(file):
        check_names(arrays, ["score", "epochs"], ["score", "epochs"])
        scores = arrays["score"]
        if scores.shape != (meta.num_samples,) or scores.dtype.kind != "f":
            raise ValueError(f"score of {scores.dtype} and shape {scores.shape} for {meta.num_samples} samples")
        epochs = arrays["epochs"].tolist()
        return scores if epochs == list(meta.epochs) == (epochs if meta_copy is None else meta_copy["epochs"]) else None


def kept_pictures(path: Path, num_samples: int) -> dict[int, Array]:
    """Return the small pictures of suspects, by their rows."""
    file = path / PICTURES
    if not file.is_file():
        return {}
    arrays = read_arrays(file)
    with damage_errors(file):
        for name, picture in arrays.items():
            image = picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
            signal = picture.ndim == 2 and picture.dtype.kind == "f"
            if not (name.isdecimal() and int(name) < num_samples and (image or signal) and picture.size):
                raise ValueError(f"{name:.20} of {picture.dtype} and shape {picture.shape} instead of a row's picture")
    return {int(name): picture for name, picture in arrays.items()}


def read_similar(folder: Path | None, meta: RecordMeta) -> SimilarSamples | None:
    """Return the similar samples that a run found; None where there are none, or not as of these epochs.

    Raises:
        ValueError: If the file holds something else.
    """
    file = None if folder is None else folder / SIMILAR
    if file is None or not file.is_file():
        return None
    arrays = read_arrays(file)
    with damage_errors(file):
        check_names(arrays, [*_SIMILAR, "epochs"], [*_SIMILAR, "epochs"])
        rows, of_label, of_suggestion = (arrays[name] for name in _SIMILAR)
        fits = rows.ndim == 1 and of_label.ndim == 2 and of_label.shape == of_suggestion.shape
        fits = fits and len(of_label) == len(rows)
        for name, values in zip(_SIMILAR, (rows, of_label, of_suggestion), strict=True):
            is_in_range = values.dtype.kind == "i" and ((values >= -1) & (values < meta.num_samples)).all()
            if not fits or not is_in_range:
                raise ValueError(f"{name} of {values.dtype} and shape {values.shape} for {meta.num_samples} samples")
        if not np.array_equal(arrays["epochs"], meta.epochs):
            return None
        return SimilarSamples(rows, of_label, of_suggestion)
