"""Files that are written whole or not at all, and read only if they are what dynalens writes."""

import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dynalens.dynamics import Array


class DamagedFileError(ValueError):
    """A file of a record is not as dynalens writes it."""


@contextmanager
def replacement_file(path: Path) -> Iterator[Path]:
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
    with replacement_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub mixes the arrays up with its own keyword


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all, in ASCII: names need not be UTF-8."""
    with replacement_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a file of :func:`write_arrays`.

    The file may come from a stranger: no pickle is loaded, and no more memory is asked for than the file is long.

    Raises:
        DamagedFileError: If it is cut off, or something else.
        OSError: If it cannot be opened.
    """
    return read_with_digest(path)[0]


def read_with_digest(path: Path) -> tuple[dict[str, Array], int]:
    """Return the arrays of :func:`read_arrays` and the :func:`digest`, which is of the same file."""
    with damage_errors(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("arrays that are larger than the file")
        for member in members:
            _check_array(archive, member)
        with np.load(path, allow_pickle=False) as npz_file:
            # pandas and torch take the byte order of this machine alone.
            arrays = {
                name: values.astype(values.dtype.newbyteorder("="), copy=False) for name, values in npz_file.items()
            }
            return arrays, _digest(archive)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DamagedFileError: If it is none.
        OSError: If it cannot be opened.
    """
    with damage_errors(path):
        return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def damage_errors(path: Path) -> Iterator[None]:
    """Let whatever goes wrong while a file is read be one error that names the file; errors of the disk stay."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError("a pipe or a device, which may never end")
        yield
    except (OSError, DamagedFileError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DamagedFileError(
            f"Expected {path} to be as dynalens writes it, got {reason}. The record is damaged: take the folder from a "
            "backup, or train again."
        ) from error


def digest(path: Path) -> int:
    """Return a number that another content of an npz file does not have, from the checksums that are in it.

    Raises:
        DamagedFileError: If it is no such file.
        OSError: If it cannot be opened.
    """
    with damage_errors(path), zipfile.ZipFile(path) as archive:
        return _digest(archive)


def _digest(archive: zipfile.ZipFile) -> int:
    checksums = sorted((member.filename, member.CRC) for member in archive.infolist())
    return zlib.crc32(repr(checksums).encode())


def text_digest(texts: Sequence[str]) -> int:
    """Return a number that other texts do not have."""
    return zlib.crc32(json.dumps(list(texts)).encode())


def epoch_file(epoch: int) -> str:
    """Return the name of an epoch's file."""
    return f"epoch_{epoch:06d}.npz"


def forget_epochs(folder: Path, begin: int) -> None:
    """Delete the files of this epoch and of later ones: an earlier run left them, and nothing would tell them apart."""
    for path in folder.glob("epoch_*.npz"):
        if path.name >= epoch_file(begin):
            path.unlink()


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise a ValueError unless the member holds as many numbers as its header says."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} compressed")
    with archive.open(member) as file:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[np.lib.format.read_magic(file)](file)
        if dtype.hasobject:
            raise ValueError(f"objects in {member.filename}, which are not loaded")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{shape} of {dtype} in {member.filename}, which are not there")
