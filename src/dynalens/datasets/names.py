"""Names that a dataset has of its samples, classes and columns, and positions in the dataset below all subsets.

Where a dataset has no names of its classes, a network of Hugging Face may have them.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from dynalens.datasets.wrappers import IndexedDataset, RelabelledDataset
from dynalens.keys import FEATURE_NAMES, LABEL_KEYS


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


def network_class_names(network: Any) -> list[str] | None:
    """Return the names that the ``config.id2label`` of a Hugging Face classifier has, as it is or within a network.

    It is None if they are the default ones (``LABEL_0``), if no layer has as many outputs as there are names, because
    the head was replaced, and if there are several classifiers with different names.
    """
    name_lists = []
    for module in network.modules():
        names = getattr(getattr(module, "config", None), "id2label", None)
        if "Classification" not in type(module).__name__ or not isinstance(names, Mapping):
            continue
        has_head = any(getattr(layer, "out_features", None) == len(names) for layer in module.modules())
        with suppress(ValueError, TypeError):  # other networks may number their classes in another way
            numbered = {int(number): str(name) for number, name in names.items()}
            if has_head and sorted(numbered) == list(range(len(names))) and numbered[0] != "LABEL_0":
                name_lists.append([numbered[number] for number in range(len(names))])
    return name_lists[0] if name_lists and all(names == name_lists[0] for names in name_lists) else None


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
        if is_list and np.ndim(names) and len(names) and all(isinstance(name, str) for name in names):
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
