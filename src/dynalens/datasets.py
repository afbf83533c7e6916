"""Datasets that wrap a dataset."""

import inspect
import operator
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from dynalens.keys import FEATURE_NAMES, INDEX_KEYS, LABEL_KEYS, OWN_INDEX
from dynalens.text import label_positions, labels_in

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


class IndexedDataset(Dataset[Any]):
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

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._with_index(self.dataset[index], index)

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        """Return several samples at once, as the wrapped dataset does if it can."""
        at_once = getattr(self.dataset, "__getitems__", None)
        samples = at_once(indices) if at_once else [self.dataset[index] for index in indices]
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
    while isinstance(dataset, Subset | IndexedDataset | RelabelledDataset):
        if isinstance(dataset, Subset):
            positions = np.asarray(dataset.indices, dtype=np.int64)[positions]
        dataset = dataset.dataset
    return positions


def class_names(dataset: Any) -> list[str] | None:
    """Return the attribute ``classes`` of the dataset below all subsets, if it is a sequence of strings.

    Of a ``ConcatDataset``, the names that all of its parts have; of a Hugging Face dataset, those of its class column.
    """
    dataset = _below_subsets(dataset)
    if isinstance(dataset, ConcatDataset):
        return _shared_names(class_names, dataset)
    column = hugging_face_label(dataset)
    owner, attribute = (dataset, "classes") if column is None else (dataset.features[column], "names")
    classes = getattr(owner, attribute, None)
    are_names = isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes)
    return [str(name) for name in classes] if are_names and classes else None


def feature_names(dataset: Any) -> list[str] | None:
    """Return the names of a table's columns, an attribute of the dataset below all subsets; None where it has none.

    The attribute is ``feature_names``, ``feature_names_in_``, ``features`` or ``columns``: a list, an array or a pandas
    ``Index`` of strings, or a data frame. Of a ``ConcatDataset``, names that all parts have. Properties are not read.
    """
    dataset = _below_subsets(dataset)
    if isinstance(dataset, ConcatDataset):
        return _shared_names(feature_names, dataset)
    for attribute in FEATURE_NAMES:
        names = inspect.getattr_static(dataset, attribute, None)
        is_list = isinstance(names, list | tuple | np.ndarray) or type(names).__module__.split(".")[0] == "pandas"
        if is_list and len(names) and all(isinstance(name, str) for name in names):
            return [str(name) for name in names]
    return None


def _below_subsets(dataset: Any) -> Any:
    while isinstance(dataset, Subset | IndexedDataset | RelabelledDataset):
        dataset = dataset.dataset
    return dataset


def _shared_names(names_of: Callable[[Any], list[str] | None], dataset: "ConcatDataset[Any]") -> list[str] | None:
    name_lists = [names_of(part) for part in dataset.datasets]
    return name_lists[0] if all(names == name_lists[0] for names in name_lists) else None


def hugging_face_label(dataset: Any) -> str | None:
    """Return the one label column of a Hugging Face dataset, by its ``features``; None where there is not one.

    A column of the type ``ClassLabel``; where there is none, one of integers, booleans or strings with a usual name.
    """
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping) or not hasattr(dataset, "with_format"):
        return None
    columns = [str(name) for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    columns = columns or [str(name) for name, feature in features.items() if name in LABEL_KEYS and _is_plain(feature)]
    usual = [name for name in columns if name in LABEL_KEYS]
    return usual[0] if len(usual) == 1 else columns[0] if len(columns) == 1 else None


def _is_plain(feature: Any) -> bool:
    """Whether the values of a Hugging Face column are integers, booleans or strings."""
    return str(getattr(feature, "dtype", "")).rstrip("0123456789") in ("int", "uint", "bool", "string", "large_string")


def sample_names(dataset: Any, roots: Sequence[int] | Any) -> list[str] | None:
    """Return the path of each sample by the attribute ``samples`` that image folders have, (path, class) pairs.

    Args:
        dataset: Its items are not read.
        roots: Position of each sample in the dataset below all subsets; where one is not known there are no names.
    """
    dataset = _below_subsets(dataset)
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, Sequence) or not len(samples) or len(samples) != len(dataset):
        return None
    if not all(isinstance(pair, tuple) and pair and isinstance(pair[0], str) for pair in samples):
        return None
    return None if min(roots, default=-1) < 0 else [str(samples[i][0]) for i in roots]


class RelabelledDataset(Dataset[Any]):
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


def label_place(sample: Any, label: str | int | None = None) -> Any:
    """Return where the label stands in a sample: a position in a tuple or list, or a key of a dict.

    Args:
        sample: Of a dataset.
        label: The place, where it is not the usual one: 1, or the first of ``label``, ``labels``, ``target``,
            ``targets`` and ``y`` that is there.

    Raises:
        ValueError: If the sample has no such place.

    Example:
        >>> label_place(("cat.png", 0)), label_place({"image": "cat.png", "target": 0})
        (1, 'target')
    """
    if isinstance(sample, Mapping):
        places: list[Any] = [key for key in ([label] if label is not None else LABEL_KEYS) if key in sample]
        parts: Any = list(sample)
    else:
        place = 1 if label is None else label
        items = isinstance(sample, tuple | list) and isinstance(place, int) and -len(sample) <= place < len(sample)
        places, parts = ([place], None) if items else ([], type(sample).__name__)
    if not places:
        raise ValueError(
            f"Expected `label` to be where the label stands in a sample, got {label!r} for {parts}. "
            "Pass the position in a tuple or the key of a dict."
        )
    return places[0]


def check_labels(label: Any, index: int) -> None:
    """Raise a ValueError unless the label is a class, or 0 or 1 for each of several labels.

    Args:
        label: Of a sample.
        index: The sample's position, for the error.
    """
    values = np.asarray(label).astype(np.float64)
    if values.size == 1 or (values.size == max(values.shape, default=1) and not (values > 1).any()):
        return
    numbers = f" with numbers up to {values.max():g}" if values.size else ""
    raise ValueError(
        f"Expected the label of sample {index} to be a class, or 0 or 1 for each of several labels (of 4 labels, of "
        f"which it has the first and the third, [1, 0, 1, 0]), got an array of shape {values.shape}{numbers}. Correct "
        "tags, masks and lists of classes in your own data, or let the dataset return 0 or 1 for each label."
    )


def label_text(label: Any) -> str:
    """Return a label as text: a class or a number, or the numbers of those of several labels that are there.

    Args:
        label: A number, or 0 or 1 for each of several labels.

    Raises:
        TypeError: If it is neither.
        ValueError: If it is neither.

    Example:
        >>> label_text(torch.tensor(3)), label_text(0.25), label_text([0, 1, 1, -100])
        ('3', '0.25', '1 2 ?3')
    """
    values = np.asarray(label).astype(np.float64)
    if values.size != 1:
        return label_positions(values.ravel().tolist())
    number = float(values.item())
    return str(int(number)) if number.is_integer() else f"{number:.6g}"


def with_label(sample: Any, place: Any, label: int | str) -> Any:
    """Return a copy of the sample with this label, in the type of the one that it replaces.

    Args:
        sample: Of a dataset; not modified.
        place: Where its label stands.
        label: A class. Of a sample with several labels, the numbers of all that it is to have; of labels that nobody
            gave (below 0) nothing changes.

    Example:
        >>> with_label(("cat.png", 0), 1, 2), with_label(("park.png", [1, 0, 0, -1]), 1, "1 2 ?3")
        (('cat.png', 2), ('park.png', [0, 1, 1, -1]))
    """
    value = _label_like(sample[place], label)
    if isinstance(sample, MutableMapping):
        return type(sample)({**sample, place: value})  # type: ignore[call-arg]  # dict and its kin
    if isinstance(sample, Mapping):
        return {**sample, place: value}
    items = [value if position == place % len(sample) else part for position, part in enumerate(sample)]
    # A named tuple takes its fields one by one.
    return type(sample)(*items) if hasattr(sample, "_fields") else type(sample)(items)


def _label_like(value: Any, label: int | str) -> Any:
    if np.asarray(value).size != 1:
        return _labels_like(value, labels_in(str(label)) or [])
    label = int(label)
    if isinstance(value, Tensor):
        return torch.full_like(value, label)
    if isinstance(value, np.ndarray):
        return np.full_like(value, label)
    if isinstance(value, list | tuple):
        return type(value)([_label_like(value[0], label)])
    return value.dtype.type(label) if isinstance(value, np.generic) else type(value)(label)


def _labels_like(value: Any, labels: Sequence[int]) -> Any:
    """Return 1 for these labels and 0 for the others, in the type of the value; what nobody gave stays as it is."""
    values = np.asarray(value.tolist() if isinstance(value, Tensor) else value)  # torch lacks operations of uint16
    bits = np.zeros(values.size, values.dtype)
    bits[list(labels)] = 1
    new_values = np.where(values >= 0, bits.reshape(values.shape), values)  # labels may stand in a row, (1, K)
    if isinstance(value, Tensor):
        return torch.tensor(new_values.tolist(), dtype=value.dtype, device=value.device)
    return new_values if isinstance(value, np.ndarray) else type(value)(new_values.tolist())
