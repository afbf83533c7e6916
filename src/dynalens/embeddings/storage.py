"""Rows of embeddings in memory or on disk, where a run that was killed goes on."""

import errno
import json
import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dynalens.dynamics import Array

_SAME = 0.05  # distance of two rows over their length: other devices differ by less, other encoders by more


class EmbeddingFile:
    """An array ``(N, D)``, float32, that is written from the first row to the last; None as path keeps it in memory.

    Until the last row is there, the array is in ``<path>.part`` and the number of its rows in ``<path>.part.json``, so
    that no half array is taken for a whole one.

    Args:
        path: Where the whole array goes, an ``.npy`` file.
        samples: N.

    Attributes:
        row_count: Rows that are there.

    Raises:
        ValueError: If the file, or a part of it, has another number of rows or is no such array.
    """

    def __init__(self, path: Path | None, samples: int) -> None:
        self.path, self.samples, self.row_count = path, samples, 0
        self._rows: Array | None = None
        if path is not None and path.exists():
            self._rows, self.row_count = self._open(path), samples
        elif path is not None and self._part.exists() and self._progress.exists():
            self._rows, self.row_count = self._open(self._part), self._rows_done()

    @property
    def _part(self) -> Path:
        assert self.path is not None
        return self.path.with_name(self.path.name + ".part")

    @property
    def _progress(self) -> Path:
        return self._part.with_name(self._part.name + ".json")

    def check(self, rows: Array) -> None:
        """Raise a ValueError if the first rows are others than these: of another encoder, dataset or order."""
        assert self._rows is not None
        stored_rows = self._rows[: min(len(rows), self.row_count)]
        rows = rows[: len(stored_rows)]
        is_same = stored_rows.shape == rows.shape
        if is_same:
            is_far = np.linalg.norm(rows - stored_rows, axis=1) > _SAME * np.linalg.norm(stored_rows, axis=1)
            is_same = not is_far.any()
        if not is_same:
            raise ValueError(
                f"Expected `path` to be a new file or one of this dataset by this encoder, got other embeddings in "
                f"{self.path if self.row_count == self.samples else self._part}. Delete that file or pass another "
                "`path`; and pass the dataset without random augmentation."
            )

    def write(self, rows: Array) -> None:
        """Add rows after those that are there."""
        if self._rows is None:
            self._rows = self._new_array(rows.shape[1])
        self._rows[self.row_count : self.row_count + len(rows)] = rows
        self.row_count += len(rows)
        if isinstance(self._rows, np.memmap):
            self._rows.flush()
            temporary = self._progress.with_name(self._progress.name + ".new")
            temporary.write_text(json.dumps({"done": self.row_count}), encoding="utf-8")
            os.replace(temporary, self._progress)

    def whole_array(self) -> Array:
        """Return the whole array; of a file, a copy in memory is made of what is written to."""
        assert self._rows is not None
        if self.path is None:
            return self._rows
        self._rows = None
        if self._part.exists():
            os.replace(self._part, self.path)
            self._progress.unlink(missing_ok=True)
        rows: Array = np.load(self.path, mmap_mode="c")
        return rows

    def _new_array(self, dimensions: int) -> Array:
        shape = (self.samples, dimensions)
        if self.path is None:
            return np.empty(shape, np.float32)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._progress.unlink(missing_ok=True)  # of a part that is gone
        part: Array = np.lib.format.open_memmap(self._part, mode="w+", dtype=np.float32, shape=shape)
        try:
            _take_room(self._part)
        except OSError:
            self._part.unlink()
            raise
        return part

    def _rows_done(self) -> int:
        try:
            row_count = json.loads(self._progress.read_text(encoding="utf-8"))["done"]
            if type(row_count) is int and 0 <= row_count <= self.samples:
                return row_count
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(
            f"Expected the number of rows that are written in {self._progress}, got something else. Delete that file "
            "or pass another `path`: the rows are computed anew."
        )

    def _open(self, path: Path) -> Array:
        try:
            rows: Array = np.lib.format.open_memmap(path, mode="r" if path == self.path else "r+")
        except (ValueError, OSError) as error:
            raise ValueError(
                f"Expected `path` to be a new file or one that `embed` has written, got {path}, which is none: "
                f"{error}. Delete that file or pass another `path`."
            ) from error
        if rows.ndim != 2 or len(rows) != self.samples:
            raise ValueError(
                f"Expected `path` to be a new file or one of the {self.samples} samples of this dataset, got shape "
                f"{rows.shape} in {path}. Delete that file or pass another `path`."
            )
        return rows


def _take_room(path: Path) -> None:
    """Raise an OSError if the disk has no room for all of a file; writing to its map would kill the process later."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def read_embeddings(path: str | Path) -> Array:
    """Return the array of an ``.npy`` file.

    Raises:
        ValueError: If it is no such file.
    """
    with open(path, "rb") as file:
        try:
            _check_header(file)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"Expected {path} to be an .npy file of numbers, got {error}. Write it with `np.save` or "
                "`dynalens.embed`."
            ) from error
        rows: Array = np.load(file, allow_pickle=False)
    return rows


def _check_header(file: BinaryIO) -> None:
    """Raise a ValueError unless the file holds one array, with as many numbers as its header says; go to its start."""
    start = file.read(len(np.lib.format.MAGIC_PREFIX))
    if start != np.lib.format.MAGIC_PREFIX:
        raise ValueError("an archive of several" if start.startswith(b"PK") else "another kind of file")
    file.seek(0)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in read_header:
        raise ValueError(f"version {version} of that format")
    shape, _, dtype = read_header[version](file)
    if dtype.hasobject:
        raise ValueError("Python objects, which are not loaded")
    header, size = file.tell(), file.seek(0, 2)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - header:
        raise ValueError(f"a header that says {shape} of {dtype} and {size - header} bytes behind it")
    file.seek(0)
