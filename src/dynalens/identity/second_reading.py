"""Read samples a second time, with other random numbers, to learn if their targets are drawn."""

import copy
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.identity.columns import Keys, Path, bytes_of_rows, part_at
from dynalens.observation import seeded

_READ = 32
"""Number of samples that are read again, at least twice. In one of seven readings, as many of them have each of two
classes that are drawn."""
_DEPTH, _LENGTH = 6, 64
"""How far attributes are followed, and the longest list or dict whose parts are, too: a dataset holds its transforms in
short ones, its samples in long ones."""
_BYTES = 2**24
"""Largest array that is copied. A dataset may count in it; its data are larger."""
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


def are_drawn_anew(loader: Any, positions: Sequence[int], batch: Any, place: Path) -> bool:
    """Return whether samples have other targets if they are read again, with other random numbers.

    The global generators are put back. What the dataset and the collate function keep themselves, such as generators,
    counters and files that they open at the first read, is that of copies, which share arrays of more than 16 MiB and
    what long lists hold.

    Args:
        loader: The DataLoader.
        positions: Of the samples of a batch, as the sampler drew them.
        batch: The batch.
        place: Path at which it holds its targets.

    Returns:
        False as well if this cannot be told, for instance where a batch has other rows then.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> class Pretext(list):
        ...     def __getitem__(self, i):
        ...         return super().__getitem__(i), random.randrange(4)
        >>> loader = DataLoader(Pretext(range(20)), batch_size=20)
        >>> are_drawn_anew(loader, range(20), [torch.zeros(20), torch.zeros(20, dtype=torch.long)], (1,))
        True
    """
    number, targets = min(_READ, len(positions)), _keys_at(batch, place)
    if targets is None or len(targets) != len(positions):
        return False
    expected = Counter(targets[:number])
    for seed in range(1, 1 + max(2, _READ // max(number, 1))):
        with suppress(Exception), seeded(seed):  # whatever the user's own code does then
            again = _read(loader, positions[:number], place)
            if again is not None and len(again) == number and Counter(again) != expected:
                return True
    return False


def _read(loader: Any, positions: Sequence[int], place: Path) -> Keys | None:
    dataset, collate = apart(loader.dataset), apart(loader.collate_fn)
    at_once = getattr(dataset, "__getitems__", None)
    samples = at_once(list(positions)) if at_once else [dataset[position] for position in positions]
    return _keys_at(collate(samples), place)


def _keys_at(batch: Any, place: Path) -> Keys | None:
    targets = part_at(batch, place)
    if isinstance(targets, Tensor):
        return bytes_of_rows(targets.detach().cpu().flatten(1)) if targets.ndim > 1 else targets.flatten().tolist()
    return list(targets) if isinstance(targets, list | tuple) else None


def apart(value: Any, depth: int = _DEPTH) -> Any:
    """Return a copy of an object and of the objects that it consists of, but not of large arrays.

    Example:
        >>> draws = random.Random(0)
        >>> apart([draws])[0].random() == draws.random()
        True
    """
    if isinstance(value, _GENERATORS):
        return copy.deepcopy(value)
    if isinstance(value, Tensor | np.ndarray):
        return copy.deepcopy(value) if value.nbytes <= _BYTES else value
    if not depth or isinstance(value, str | bytes):
        return value
    if type(value) in (list, tuple):
        return type(value)(apart(part, depth - 1) for part in value) if len(value) <= _LENGTH else copy.copy(value)
    if type(value) is dict:
        return {key: apart(part, depth - 1) for key, part in value.items()} if len(value) <= _LENGTH else value.copy()
    is_code = isinstance(value, type | ModuleType | FunctionType | MethodType)
    return value if is_code or not isinstance(getattr(value, "__dict__", None), dict) else _copied(value, depth)


def _copied(value: Any, depth: int) -> Any:
    try:
        twin = copy.copy(value)
        for name, part in list(vars(twin).items()):
            vars(twin)[name] = apart(part, depth - 1)
    except Exception:  # noqa: BLE001  # files and locks refuse to be copied
        return value
    return twin
