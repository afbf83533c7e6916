"""Datasets that wrap a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, Subset

INDEX_KEY = "index"


class IndexedDataset(Dataset[Any]):
    """Let each sample of a dataset carry its own index, so that it is known whatever the loader does.

    A dict gets the key ``index``; a tuple or list gets the index as its last element; any other item becomes the
    tuple ``(item, index)``; None stays None, for collate functions that leave such samples out. Pass the whole to the
    DataLoader: :class:`~dynalens.TrainingDynamicsMonitor` then needs no argument. Where it is wrapped once more,
    pass ``index="index"``, or ``index=IndexedDataset.indices`` for tuples.

    Args:
        dataset: A map-style dataset; the index is that into it. Not modified.

    Raises:
        TypeError: If the dataset has no length and no items by position.

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

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return _with_index(self.dataset[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples at once, as the wrapped dataset does if it can."""
        at_once = getattr(self.dataset, "__getitems__", None)
        samples = at_once(indices) if at_once else [self.dataset[index] for index in indices]
        return [_with_index(sample, index) for sample, index in zip(samples, indices, strict=True)]

    @staticmethod
    def indices(batch: Any) -> Any:
        """Return the indices in a batch of such samples: under the key ``index``, or the last element."""
        return batch[INDEX_KEY] if isinstance(batch, Mapping) else batch[-1]


def _with_index(sample: Any, index: int) -> Any:
    if sample is None:
        return None
    index = int(index)
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


def has_positions(dataset: Any) -> bool:
    """Return whether a dataset has a length and gives its samples by position."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return False
    return hasattr(dataset, "__len__")


def root_indices(dataset: Any) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return, for each position in ``dataset``, the position in the dataset below all its subsets.

    Example:
        >>> root_indices(Subset(Subset(range(10), [5, 7, 9]), [2, 0]))
        array([9, 5])
    """
    positions = np.arange(len(dataset), dtype=np.int64)
    while isinstance(dataset, Subset | IndexedDataset):
        if isinstance(dataset, Subset):
            positions = np.asarray(dataset.indices, dtype=np.int64)[positions]
        dataset = dataset.dataset
    return positions


def class_names(dataset: Any) -> list[str] | None:
    """Return the attribute ``classes`` of the dataset below all subsets, if it is a sequence of strings."""
    while isinstance(dataset, Subset | IndexedDataset):
        dataset = dataset.dataset
    classes = getattr(dataset, "classes", None)
    named = isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes)
    return [str(name) for name in classes] if named and classes else None
