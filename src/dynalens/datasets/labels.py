"""The label in a sample: where it stands, what it is as text, and a sample with another label."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.keys import LABEL_KEYS
from dynalens.text import label_positions, labels_in


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


def targets_with(dataset: Any, labels: Mapping[int, int | str], is_replaced: Callable[[int, Any], bool]) -> Any:
    """Return a copy of the attribute ``targets`` of a dataset, with these labels for the samples at these positions.

    Args:
        dataset: No sample of it is read.
        labels: As of :func:`with_label`, by position.
        is_replaced: Given a position and its target, whether the target is the label that is replaced there.

    Raises:
        AttributeError: If there is none, or if its values are not the labels of the samples.

    Example:
        >>> data = type("Data", (list,), {"targets": torch.tensor([2, 0])})([("a", 2), ("b", 0)])
        >>> targets_with(data, {1: 1}, lambda position, target: True)
        tensor([2, 1])
    """
    targets = dataset.targets
    are_labels = isinstance(targets, Tensor | np.ndarray | list | tuple) and len(targets) == len(dataset)
    is_changed_later = getattr(dataset, "target_transform", None) is not None
    if not are_labels or is_changed_later or not all(is_replaced(sample, targets[sample]) for sample in labels):
        raise AttributeError(
            f"Expected `targets` of {type(dataset).__name__} to be the labels of its samples, got other values, which "
            "cannot be corrected. Read the labels from the samples."
        )
    targets = targets.clone() if isinstance(targets, Tensor) else copy(targets)
    targets = list(targets) if isinstance(targets, tuple) else targets
    for sample, label in labels.items():
        targets[sample] = _label_like(targets[sample], label)
    return targets


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
