"""The labels that a dataset says it has, read without asking it for a sample, and what they tell of the targets."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from dynalens.datasets import IndexedDataset, RelabelledDataset, hugging_face_label
from dynalens.keys import LABEL_KEYS
from dynalens.observation import seeded

Array = np.ndarray[Any, np.dtype[Any]]
_LABELS = (*LABEL_KEYS, "_labels")
_SAMPLES = ("samples", "imgs", "_samples")
"""Attributes that hold labels, and those that hold pairs or dicts of samples, as torchvision's datasets call them."""
_NAMED = 2**40
"""The number of the first class that is named by a word: above all that targets are, so that none is taken for one."""


def given_labels(dataset: Any) -> Array | None:
    """Return the label of each sample, (N,) integers, or None where the dataset does not show them.

    They are read from ``targets``, ``labels`` or the like, the pairs or dicts of ``samples`` or ``imgs``, the label
    column of a data frame, a part of a TensorDataset or StackDataset, or the class column of a Hugging Face dataset,
    below subsets, concatenations and our own wrappers. Classes may be whole numbers of any type, rows with one 1, or
    words, which get numbers that no target has.

    Example:
        >>> import torch
        >>> data = TensorDataset(torch.zeros(3, 1), torch.tensor([2, 0, 1]))
        >>> given_labels(ConcatDataset([Subset(data, [1, 2]), data]))
        array([0, 1, 2, 0, 1])
    """
    return _of_whole_dataset(dataset, _classes)


def given_rows(dataset: Any) -> Array | None:
    """Return the labels or targets of each sample as the dataset shows them, (N, D) float32; None where it does not.

    Example:
        >>> import torch
        >>> given_rows(Subset(TensorDataset(torch.zeros(3, 1), torch.tensor([0.5, 1.5, 2.5])), [2, 0]))
        array([[2.5],
               [0.5]], dtype=float32)
    """
    return _of_whole_dataset(dataset, _rows)


def _of_whole_dataset(dataset: Any, reader: Callable[[Any], Array | None]) -> Array | None:
    if isinstance(dataset, IndexedDataset):
        return _of_whole_dataset(dataset.dataset, reader)
    if isinstance(dataset, RelabelledDataset):
        return _with_changes(_of_whole_dataset(dataset.dataset, reader), dataset.changes)
    if isinstance(dataset, Subset):
        labels = _of_whole_dataset(dataset.dataset, reader) if _only_chooses(dataset) else None
        return None if labels is None else labels[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        labels_of_parts = [_of_whole_dataset(part, reader) for part in dataset.datasets]
        parts = [labels for labels in labels_of_parts if labels is not None]
        return np.concatenate(parts) if parts and len(parts) == len(labels_of_parts) else None
    for values in _views_of(dataset):
        with suppress(Exception):  # whatever an attribute of the user's does, it is only looked at
            labels = reader(values)
            if labels is not None and len(labels) == len(dataset):
                return labels
    return None


def _rows(values: Any) -> Array | None:
    """Return the numbers of each sample, (N, D) float32; None where values are no numbers."""
    rows = np.asarray(values)
    numbers = rows.dtype.kind in "iubf" and rows.ndim in (1, 2)
    return rows.reshape(len(rows), -1).astype(np.float32) if numbers else None


def _classes(values: Any) -> Array | None:
    """Return one class for each sample, (N,) integers; None where values are no classes."""
    labels = np.asarray(values)
    if labels.ndim == 2 and labels.shape[1] > 1:
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
        return labels.argmax(axis=1) if one_hot else None
    if labels.ndim == 0 or labels.size != len(labels):
        return None
    labels = labels.reshape(-1)
    labels = np.array(labels.tolist()) if labels.dtype.kind == "O" else labels
    if labels.dtype.kind in "US":
        return _NAMED + np.unique(labels, return_inverse=True)[1].astype(np.int64)
    are_integers = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and (labels == np.floor(labels)).all())
    return labels.astype(np.int64) if are_integers else None


def labels_each(dataset: Any) -> int | None:
    """Return the number K of labels that each sample has or not, where the dataset shows rows (N, K) of zeros and ones.

    None where it shows none, or rows that all have exactly one 1: they are classes.

    Example:
        >>> import torch
        >>> labels_each(TensorDataset(torch.zeros(2, 1), torch.tensor([[1, 0, 0], [1, 1, 0]])))
        3
    """
    if isinstance(dataset, IndexedDataset | RelabelledDataset | Subset):
        return labels_each(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return next((count for part in dataset.datasets if (count := labels_each(part)) is not None), None)
    for values in _views_of(dataset):
        with suppress(Exception):  # as above
            rows = np.asarray(values)
            if rows.ndim == 2 and len(rows) == len(dataset) and rows.shape[1] > 1 and np.isin(rows, (0, 1)).all():
                return rows.shape[1] if (rows.sum(axis=1) != 1).any() else None
    return None


def _only_chooses(dataset: Subset[Any]) -> bool:
    """Whether a subset's samples are those of the dataset below it: a class derived from it may change labels."""
    return type(dataset).__getitem__ is Subset.__getitem__


def _with_changes(labels: Array | None, changes: Any) -> Array | None:
    if labels is None:
        return None
    labels = labels.copy()
    for sample, (_, label) in changes.items():
        labels[sample] = label
    return labels


def _views_of(dataset: Any) -> Iterator[Any]:
    if isinstance(dataset, TensorDataset | StackDataset):
        yield from _parts(dataset)
        return
    column = hugging_face_label(dataset)
    if column is not None:
        with suppress(Exception):
            yield dataset.with_format("numpy", columns=[column])[column][:]
        return
    for name in _LABELS:
        with suppress(Exception):
            yield _attribute(dataset, name)
    for name in _SAMPLES:
        with suppress(Exception):
            yield [_label_of(sample) for sample in _attribute(dataset, name) or ()]
    with suppress(Exception):
        frames = [value for value in vars(dataset).values() if hasattr(value, "columns") and len(value) == len(dataset)]
        yield from [frame[name] for frame in frames for name in LABEL_KEYS if name in frame.columns]


def _attribute(dataset: Any, name: str) -> Any:
    """Return an attribute, None where there is none; a property may read samples, which draw random numbers."""
    if name in vars(dataset):
        return vars(dataset)[name]
    if not hasattr(type(dataset), name) and not hasattr(type(dataset), "__getattr__"):
        return None
    with seeded():
        return getattr(dataset, name, None)


def _parts(dataset: TensorDataset | StackDataset[Any]) -> Iterator[Any]:
    """Yield what stands where samples have their label: after the first, or under a usual key."""
    parts: Any = dataset.tensors if isinstance(dataset, TensorDataset) else dataset.datasets
    yield from [parts[name] for name in LABEL_KEYS if name in parts] if isinstance(parts, Mapping) else parts[1:2]


def _label_of(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        return next(sample[name] for name in LABEL_KEYS if name in sample)
    return sample[1]


def disagreements(labels: Array, targets: Array) -> Array:
    r"""Return the places where targets are not those of the given labels, though on the whole they are.

    Targets that are a function of the labels (renumbered, or in coarser classes) agree. Otherwise the most frequent
    target of each label is what it stands for, and what remains disagrees. It counts only where Cohen's kappa,
    :math:`(p_o - p_e) / (1 - p_e)`, is above one half: :math:`p_o` is the fraction that agrees, :math:`p_e` that of
    independent labels and targets. Below, the dataset's labels are about something else than what is trained on.

    Args:
        labels: Shape ``(N,)``, integers.
        targets: Shape ``(N,)``, integers >= 0.

    Example:
        >>> disagreements(np.array([0, 0, 1, 1, 2, 2]), np.array([5, 5, 6, 6, 7, 5]))
        array([5])
        >>> disagreements(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1]))
        array([], dtype=int64)
    """
    if not len(labels):
        return np.empty(0, np.int64)
    _, label = np.unique(labels, return_inverse=True)
    _, target = np.unique(targets, return_inverse=True)
    classes = int(target.max()) + 1
    pairs, counts = np.unique(label * classes + target, return_counts=True)
    class_of_label = np.zeros(int(label.max()) + 1, np.int64)
    by_count = pairs[np.argsort(counts, kind="stable")]
    class_of_label[by_count // classes] = by_count % classes  # the most frequent one is assigned last
    is_same = class_of_label[label] == target
    chance = float(np.bincount(class_of_label[label], minlength=classes) @ np.bincount(target)) / len(labels) ** 2
    are_related = float(is_same.mean()) - chance > (1 - chance) / 2
    return np.flatnonzero(~is_same) if are_related else np.empty(0, np.int64)
