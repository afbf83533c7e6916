"""Read the labels that a dataset shows, without asking it for a sample, and compare them with the targets."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, StackDataset, Subset

from dynalens.datasets import IndexedDataset, RelabelledDataset, hugging_face_label
from dynalens.keys import LABEL_KEYS
from dynalens.observation import seeded

Array = np.ndarray[Any, np.dtype[Any]]
_LABELS = (*LABEL_KEYS, "_labels")
_SAMPLES = ("samples", "imgs", "_samples")
"""Names of attributes that hold labels, and of attributes that hold pairs or dicts of samples, as in torchvision's
datasets."""
_NAMED = 2**40
"""Number of the first class that has a word as its label. It is larger than any target, so that none is taken for
it."""


def given_labels(dataset: Any) -> Array | None:
    """Return the label of each sample, (N,) integers; None if the dataset does not show them.

    They are read from ``targets``, ``labels`` or similar attributes, from the second of its ``tensors``, from the pairs
    or dicts in ``samples`` or ``imgs``, from the label column of a data frame, from a part of a StackDataset, or from
    the class column of a Hugging Face dataset. Subsets, concatenations and dynalens's own wrappers around these are
    looked through. Classes may be whole numbers of any type, one-hot rows, or words, which get numbers that no target
    has.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.zeros(3, 1), torch.tensor([2, 0, 1]))
        >>> given_labels(ConcatDataset([Subset(data, [1, 2]), data]))
        array([0, 1, 2, 0, 1])
    """
    return _of_whole_dataset(dataset, _classes)


def given_rows(dataset: Any) -> Array | None:
    """Return the labels or targets of each sample, (N, D) float32; None if the dataset does not show them.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
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
    """Return the numbers of each sample, (N, D) float32; None if the values are not numbers."""
    rows = np.asarray(values)
    numbers = rows.dtype.kind in "iubf" and rows.ndim in (1, 2)
    return rows.reshape(len(rows), -1).astype(np.float32) if numbers else None


def _classes(values: Any) -> Array | None:
    """Return one class per sample, (N,) integers; None if the values are not classes."""
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
    """Return the number K of labels that each sample may have, if the dataset shows rows (N, K) of zeros and ones.

    It is None if it shows no such rows, or if all rows have exactly one 1: then they are classes.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
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
    """Return whether a subset's samples are those of the dataset below it.

    A class derived from Subset may change labels.
    """
    return type(dataset).__getitem__ is Subset.__getitem__


def _with_changes(labels: Array | None, changes: Any) -> Array | None:
    if labels is None:
        return None
    labels = labels.copy()
    for sample, (_, label) in changes.items():
        labels[sample] = label
    return labels


def _views_of(dataset: Any) -> Iterator[Any]:
    if isinstance(dataset, StackDataset):
        yield from _parts(dataset.datasets)
        return
    column = hugging_face_label(dataset)
    if column is not None:
        with suppress(Exception):
            yield dataset.with_format("numpy", columns=[column])[column][:]
        return
    for name in _LABELS:
        with suppress(Exception):
            yield _attribute(dataset, name)
    with suppress(Exception):
        yield from _parts(_attribute(dataset, "tensors"))
    for name in _SAMPLES:
        with suppress(Exception):
            yield [_label_of(sample) for sample in _attribute(dataset, name) or ()]
    with suppress(Exception):
        frames = [value for value in vars(dataset).values() if hasattr(value, "columns") and len(value) == len(dataset)]
        yield from [frame[name] for frame in frames for name in LABEL_KEYS if name in frame.columns]


def _attribute(dataset: Any, name: str) -> Any:
    """Return an attribute that is not a property, which might read samples and so draw random numbers.

    It is None if there is none.
    """
    if name in vars(dataset):
        return vars(dataset)[name]
    if not hasattr(type(dataset), name) and not hasattr(type(dataset), "__getattr__"):
        return None
    with seeded():
        return getattr(dataset, name, None)


def _parts(parts: Any) -> Iterator[Any]:
    """Yield the parts of a dataset that may be labels: the second one, or those under a usual key of labels."""
    yield from [parts[name] for name in LABEL_KEYS if name in parts] if isinstance(parts, Mapping) else parts[1:2]


def _label_of(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        return next(sample[name] for name in LABEL_KEYS if name in sample)
    return sample[1]


def disagreements(labels: Array, targets: Array) -> Array:
    r"""Return the positions at which targets contradict the given labels, if on the whole they agree.

    If the targets are a function of the labels (renumbered, or coarser classes), all agree. Otherwise each label stands
    for the target that it has most often, and all other targets disagree. They are returned only if Cohen's kappa,
    :math:`(p_o - p_e) / (1 - p_e)`, is above one half. Here :math:`p_o` is the fraction of targets that agree, and
    :math:`p_e` is that fraction for independent labels and targets. If kappa is smaller, the dataset's labels are not
    what is trained on.

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
