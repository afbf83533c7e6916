"""Read samples a second time, with other random numbers, to learn if their targets are drawn."""

import multiprocessing
import os
import stat
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from dynalens.datasets import samples_at
from dynalens.identity.columns import Keys, Path, bytes_of_rows, part_at
from dynalens.observation import seeded

_READ = 32
"""Number of samples that are read again, at least twice. In one of seven readings, as many of them have each of two
classes that are drawn."""
_SECONDS = 60
"""Longest time that the training waits for these readings. The process that reads may wait for a thread that it does
not have."""


def are_drawn_anew(loader: Any, positions: Sequence[int], batch: Any, place: Path) -> bool:
    """Return whether samples have other targets if they are read again, with other random numbers.

    A forked process reads them, because nothing that the dataset and the collate function change then, such as
    generators, counters and caches, is that of the training. It has none of the connections and of the files that are
    open for writing, and opens files that are only read for itself.

    Args:
        loader: The DataLoader.
        positions: Of the samples of a batch, as the sampler drew them.
        batch: The batch.
        place: Path at which it holds its targets.

    Returns:
        False as well if this cannot be told, for instance where a batch has other rows then, or outside Linux.

    Example:
        >>> import random
        >>> from torch.utils.data import DataLoader
        >>> class Pretext(list):
        ...     def __getitem__(self, i):
        ...         return super().__getitem__(i), random.randrange(4)
        >>> loader = DataLoader(Pretext(range(20)), batch_size=20)
        >>> are_drawn_anew(loader, range(20), [torch.zeros(20), torch.zeros(20, dtype=torch.long)], (1,))
        True
    """
    targets = _keys_at(batch, place)
    if sys.platform != "linux" or targets is None or len(targets) != len(positions):
        return False
    with suppress(Exception):  # whatever does not let a process fork
        return _told_by_fork(loader, positions, targets, place)
    return False


def _told_by_fork(*arguments: Any) -> bool:
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_tell, args=(sender, *arguments), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, as of loaders with workers
        process.start()
    sender.close()  # the child's own is then the last one, and its end is noticed
    try:
        return receiver.poll(_SECONDS) and bool(receiver.recv())
    finally:
        process.kill()
        process.join()
        receiver.close()


def _tell(sender: Connection, loader: Any, positions: Sequence[int], targets: Keys, place: Path) -> None:
    """Send whether the targets change. This runs in the forked process."""
    _let_go(sender.fileno())
    torch.set_num_threads(1)  # the threads of the training are not there
    number = min(_READ, len(positions))
    expected, is_drawn = Counter(targets[:number]), False
    for seed in range(1, 1 + max(2, _READ // max(number, 1))):
        with suppress(Exception), seeded(seed):  # whatever the user's own code does then
            again = _keys_at(loader.collate_fn(samples_at(loader.dataset, list(positions[:number]))), place)
            is_drawn |= again is not None and len(again) == number and Counter(again) != expected
        if is_drawn:
            break
    sender.send(is_drawn)


def _let_go(own_connection: int) -> None:
    """Leave the connections and files of the training but one alone: they are shared with the forked process.

    Files that are only read are opened again, at the same place. All others lead nowhere.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            mode = os.fstat(descriptor).st_mode
            is_shared = stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
            if descriptor != own_connection and (is_shared or descriptor in (1, 2)):
                own = _opened_again(descriptor) if _is_read(descriptor) else nowhere
                os.dup2(own, descriptor)


def _opened_again(descriptor: int) -> int:
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    os.lseek(own, place, os.SEEK_SET)
    return own


def _is_read(descriptor: int) -> bool:
    """Return whether it is a file that is open for reading only."""
    import fcntl  # not there on Windows

    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    return is_file and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def _keys_at(batch: Any, place: Path) -> Keys | None:
    targets = part_at(batch, place)
    if isinstance(targets, Tensor):
        return bytes_of_rows(targets.detach().cpu().flatten(1)) if targets.ndim > 1 else targets.flatten().tolist()
    return list(targets) if isinstance(targets, list | tuple) else None
