"""Folders of runs near one that holds no record, so that an error can name them."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

_DEEPEST = 5  # as in logs/name/version_0/dynalens/name
_MOST_VISITED = 2000  # folders, a moment on a slow disk
_MOST_NAMED = 5


def missing_record(folder: Path) -> FileNotFoundError:
    """Return the error of a folder without a record: whether it exists, and which folders near it hold one."""
    beginning = "Expected `folder` to hold record.npz or dynalens/record.npz, got"
    if folder.is_dir():
        runs = _runs_below(folder)
        return FileNotFoundError(
            f"{beginning} {folder}, which holds none. "
            + (_did_you_mean(runs) if runs else "A record is written when the first epoch of a training ends.")
        )
    if folder.exists():
        return FileNotFoundError(f"{beginning} the file {folder}. Name the folder of a run.")
    nearest_folder = next((parent for parent in folder.parents if parent.is_dir()), Path())
    runs = _runs_below(nearest_folder)
    return FileNotFoundError(
        f"{beginning} {folder}, which does not exist. "
        + (_did_you_mean(_most_similar(runs, folder)) if runs else f"There is no record in {nearest_folder} either.")
    )


def _did_you_mean(runs: list[Path]) -> str:
    rest = f", or one of {len(runs) - _MOST_NAMED} others" if len(runs) > _MOST_NAMED else ""
    return f"Did you mean {', '.join(map(str, runs[:_MOST_NAMED]))}{rest}?"


def _most_similar(runs: list[Path], folder: Path) -> list[Path]:
    """Return folders in an order in which paths that resemble this path most come first."""
    return sorted(runs, key=lambda run: -difflib.SequenceMatcher(None, str(run), str(folder)).ratio())


def _runs_below(folder: Path) -> list[Path]:
    """Return the folders that hold a record, each as a person would name it."""
    return sorted({parent.parent if parent.name == "dynalens" else parent for parent in _holders(folder)})


def _holders(folder: Path) -> Iterator[Path]:
    depth = len(folder.parts)
    for folder_count, (folder_path, folders, files) in enumerate(os.walk(folder)):
        path = Path(folder_path)
        if folder_count == _MOST_VISITED:
            return
        if len(path.parts) - depth >= _DEEPEST:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "record.npz" in files:
            yield path
