"""Datasets that wrap a dataset: with the position of each sample, or with other labels."""

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from dynalens.datasets.labels import check_labels, label_place, label_text, targets_with, with_label
from dynalens.keys import INDEX_KEYS, OWN_INDEX

INDEX_KEY = INDEX_KEYS[0]


def position_of(key: Any) -> int:
    """Return the position in the dataset that a sampler's draw names, negative ones counted from the end.

    Args:
        key: An integer, or one with other things beside it: a tuple such as (index, size), whose first integer it is,
            or a dict, a named tuple or an object with a key or attribute ``index``, ``idx`` or ``position``.

    Raises:
        TypeError: If it names none.

    Example:
        >>> position_of(3), position_of((4, (32, 32))), position_of((True, 5)), position_of({"idx": -1})
        (3, 4, 5, -1)
    """
    if isinstance(key, Mapping):
        candidates = [key[name] for name in INDEX_KEYS if name in key]
    elif isinstance(key, tuple | list) and not hasattr(key, "_fields"):
        candidates = list(key)
    else:  # tuples and strings have a method `index`
        fields = [getattr(key, name) for name in INDEX_KEYS if not callable(getattr(key, name, callable))]
        candidates = fields or (list(key) if isinstance(key, tuple) else [key])
    for candidate in candidates:
        if not isinstance(candidate, bool | np.bool_):
            with suppress(TypeError):
                return operator.index(candidate)
    raise TypeError(
        "Expected the sampler to draw integers, the positions in the dataset, alone or first in a tuple, got "
        f"{str(key)[:60]}. {OWN_INDEX}"
    )


class _Wrapper(Dataset[Any]):
    """A dataset that has the classes of the dataset below it, for scripts that ask for them."""

    dataset: Any

    @property
    def classes(self) -> Any:
        """Names of the classes; no attribute if the wrapped dataset has none."""
        return self.dataset.classes

    @property
    def class_to_idx(self) -> Any:
        """Number of each class by its name; no attribute if the wrapped dataset has none."""
        return self.dataset.class_to_idx


class IndexedDataset(_Wrapper):
    """A dataset that adds to each sample its position in a wrapped dataset.

    Give it to the DataLoader. The samples of a batch are then known whatever the loader does with them. A dict gets the
    key ``index``. A tuple or list gets the index as its last element. Any other item becomes the tuple
    ``(item, index)``. None stays None, because some collate functions leave such samples out.

    :class:`~dynalens.TrainingDynamicsMonitor` needs no argument for it. If you wrap this dataset into another one, pass
    ``index="index"`` to the monitor, or ``index=IndexedDataset.indices`` if samples are tuples.

    Args:
        dataset: The map-style dataset to wrap. Not modified.

    Raises:
        TypeError: If the dataset has no length or no items by position.
        ValueError: When a sample is read that is a dict and has the key ``index`` already.

    Example:
        >>> data = IndexedDataset([("cat.png", 0), ("dog.png", 1)])
        >>> data[1], len(data)
        (('dog.png', 1, 1), 2)
        >>> IndexedDataset([{"x": 0.5}])[0], IndexedDataset([0.5])[0]
        ({'x': 0.5, 'index': 0}, (0.5, 0))
    """

    def __init__(self, dataset: Any) -> None:
        if not has_positions(dataset):
            raise TypeError(
                f"Expected `dataset` to be map-style, with a length and items by position, got "
                f"{type(dataset).__name__}. Let an iterable dataset yield an id with each sample and pass `index=`."
            )
        self.dataset = dataset

    @property
    def targets(self) -> Any:
        """Those of the wrapped dataset; no attribute if it has none."""
        return self.dataset.targets

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._with_index(self.dataset[index], index)

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        """Return several samples, as :func:`samples_at` reads them."""
        samples = samples_at(self.dataset, indices)
        return [self._with_index(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def _with_index(self, sample: Any, key: Any) -> Any:
        position = position_of(key)
        return _with_index(sample, position + len(self) if position < 0 else position)

    @staticmethod
    def indices(batch: Any) -> Any:
        """Return the indices in a batch of these samples: under the key ``index``, or the last element."""
        return batch[INDEX_KEY] if isinstance(batch, Mapping) else batch[-1]

    @staticmethod
    def without_indices(batch: Any) -> Any:
        """Return a batch of these samples without the indices."""
        if isinstance(batch, Mapping):
            return {key: part for key, part in batch.items() if key != INDEX_KEY}
        return batch[:-1] if isinstance(batch, Sequence) else batch


def _with_index(sample: Any, index: int) -> Any:
    if sample is None:
        return None
    if isinstance(sample, Mapping):
        if INDEX_KEY in sample:
            raise ValueError(
                f"Expected samples without the key {INDEX_KEY!r}, got one with the keys {list(sample)}. "
                f"Leave `IndexedDataset` out and pass `index={INDEX_KEY!r}`, or rename the key."
            )
        return {**sample, INDEX_KEY: index}
    if isinstance(sample, list):
        return [*sample, index]
    return (*sample, index) if isinstance(sample, tuple) else (sample, index)


def samples_at(dataset: Any, positions: Sequence[Any]) -> Sequence[Any]:
    """Return the samples at these positions; all in one call if the dataset has ``__getitems__``.

    Example:
        >>> samples_at(["a", "b", "c"], [2, 0])
        ['c', 'a']
    """
    at_once = getattr(dataset, "__getitems__", None)
    return at_once(positions) if at_once else [dataset[position] for position in positions]


def check_positions(dataset: Any) -> None:
    """Raise a TypeError unless a dataset has samples by position, at least one."""
    if not has_positions(dataset) or not len(dataset):
        raise TypeError(
            f"Expected `dataset` to be map-style, with samples by position and a length above 0, got "
            f"{type(dataset).__name__}. Read an iterable dataset into a list first."
        )


def has_positions(dataset: Any) -> bool:
    """Return whether a dataset has a length and gives its samples by position."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return False
    return hasattr(dataset, "__len__")


class RelabelledDataset(_Wrapper):
    """A dataset that wraps another one and gives some samples another label.

    Args:
        dataset: Map-style; its samples are tuples, lists or dicts. Not modified.
        changes: For the index of a sample, a pair: the label that it has, and the label that it gets. A label is a
            class. If a sample has several labels, pass the numbers of all of them as text: ``"0 2"``, or ``"none"``.
        label: Position of the label in a tuple or list, or its key in a dict. Default: position 1, or the first of the
            keys ``label``, ``labels``, ``target``, ``targets`` and ``y`` that is there.
        length: Expected length of the dataset. None: any length.

    Raises:
        ValueError: If the dataset has another length. When a sample is read: if it has no label at this place, or
            another label than the one to replace.

    Example:
        >>> data = RelabelledDataset([("cat.png", 0), ("dog.png", 0)], {1: (0, 1)})
        >>> data[0], data[1]
        (('cat.png', 0), ('dog.png', 1))
        >>> RelabelledDataset([("park.png", [1, 0, 0])], {0: ("0", "0 2")})[0]
        ('park.png', [1, 0, 1])
    """

    def __init__(
        self,
        dataset: Any,
        changes: Mapping[int, tuple[int | str, int | str]],
        *,
        label: str | int | None = None,
        length: int | None = None,
    ) -> None:
        if length is not None and len(dataset) != length:
            raise ValueError(
                f"Expected `dataset` to be the one that was trained on, with {length} samples, got {len(dataset)}. "
                "Pass the dataset of the training loader."
            )
        self.dataset, self.changes, self.label = dataset, dict(changes), label

    @cached_property
    def targets(self) -> Any:
        """Those of the wrapped dataset with the changes; no attribute if it has none, or none that are its labels."""
        new_labels = {sample: label for sample, (_, label) in self.changes.items()}
        return targets_with(self.dataset, new_labels, self._is_replaced)

    def _is_replaced(self, sample: int, target: Any) -> bool:
        with suppress(TypeError, ValueError):
            return label_text(target) == str(self.changes[sample][0])
        return False

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        index = position_of(index)
        index += len(self) if index < 0 else 0
        if index not in self.changes:
            return sample
        place = label_place(sample, self.label)
        old_label, new_label = self.changes[index]
        if isinstance(old_label, str):
            check_labels(sample[place], index)
        if label_text(sample[place]) != str(old_label):
            raise ValueError(
                f"Expected sample {index} of `dataset` to have the label {old_label} that was trained on, got "
                f"{sample[place]}. Pass the dataset of the training loader, and `label=` if the label stands elsewhere."
            )
        return with_label(sample, place, new_label)
