"""Files that are written whole or not at all, and how those of an epoch are called."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dynalens.dynamics import Array


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


def epoch_file(epoch: int) -> str:
    """Return the name of an epoch's file."""
    return f"epoch_{epoch:06d}.npz"


def forget_epochs(folder: Path, begin: int) -> None:
    """Delete the files of this epoch and of later ones: an earlier run left them, and nothing would tell them apart."""
    for old in folder.glob("epoch_*.npz"):
        if old.name >= epoch_file(begin):
            old.unlink()
