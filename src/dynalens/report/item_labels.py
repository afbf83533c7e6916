"""Labels in the items of a dataset: of each token or pixel, of several labels, or several numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.pictures import class_name
from dynalens.record import AuditedSample
from dynalens.report.items import WORD_KEYS
from dynalens.text import number_in_words
from dynalens.unit_labels import labels_of

IGNORED = -1
"""Number of the area that the loss ignores."""


def kept_items(samples: Mapping[int, AuditedSample]) -> dict[int, tuple[Any, Array]]:
    """Return what a run kept of the samples of an audit, as items of a dataset, by their rows.

    If the tokens of a sequence are not known, or not as many as its labels, positions take the place of words.

    Example:
        >>> kept = {3: AuditedSample(np.array([1, 0, -1]), np.array([7, 8])), 5: AuditedSample(np.array([0, 1]))}
        >>> [([str(word) for word in item[0]], item[1].tolist()) for item in kept_items(kept).values()]
        [(['7', '8'], [1, 0]), (['0', '1'], [0, 1])]
    """
    return {row: (_input_of(sample), _labels_in_rows(sample)) for row, sample in samples.items()}


def _labels_in_rows(sample: AuditedSample) -> Array:
    """Return the labels of tokens as a dataset has them, with a row per token, without those after the last token."""
    labels, tokens = sample.labels, sample.input
    is_sequence = labels.dtype.kind == "i" and (tokens is None or tokens.ndim < 3) and labels.ndim < 3
    if not is_sequence:
        return labels
    rows = labels.T
    number = len(rows) if tokens is None or tokens.ndim > 1 else len(tokens)
    return rows[:number] if (rows[number:] < 0).all() else rows


def _input_of(sample: AuditedSample) -> Any:
    if sample.input is None or sample.input.ndim == 1:
        labels = _labels_in_rows(sample)
        has_tokens = sample.input is not None and (labels.dtype.kind == "f" or len(sample.input) == len(labels))
        return sample.input if has_tokens else [str(place) for place in range(len(labels))]
    return Image.fromarray(sample.input) if sample.input.ndim == 3 else torch.from_numpy(sample.input)


def several_labels_of(item: Any) -> Array:
    """Return for each label of a dataset's item whether it was given.

    1 (from 0.5 on), 0, or -1 if that is not known.

    Example:
        >>> several_labels_of(("picture", [0.95, 0.05, -100, float("nan")])).tolist()
        [1, 0, -1, -1]
    """
    labels = labels_of(item).ravel()
    return np.where(labels >= 0.5, 1, np.where(labels >= 0, 0, -1))


def number_words(item: Any, names: Sequence[str] | None) -> str:
    """Return the numbers of a regression's sample as text, each with its name if it has one.

    Example:
        >>> number_words(("picture", [1.5, 2.0]), None), number_words(("picture", [1.5, 2.0]), ["x", "y"])
        ('1.5, 2', 'x: 1.5, y: 2')
    """
    numbers = [number_in_words(number) for number in labels_of(item).ravel().tolist()]
    if names is None or len(names) != len(numbers):
        return ", ".join(numbers)
    return ", ".join(f"{class_name(d, names)}: {number}" for d, number in enumerate(numbers))


def tagged_words(item: Any, names: Sequence[str] | None, word: Callable[[int], str] = str) -> list[list[str]]:
    """Return each token of a sample with its class or its labels; empty for an ignored token.

    Ignored tokens at the end, such as padding, are left out.

    Args:
        item: Item of the dataset: tokens, as words or ids, and as many labels.
        names: Names of the classes.
        word: Returns the word of an id.

    Raises:
        ValueError: If the item has no labels, or not as many as tokens.

    Example:
        >>> tagged_words((["Paris", "is"], [1, 0]), ["other", "place"])
        [['Paris', 'place'], ['is', 'other']]
        >>> tagged_words(([7, 8, 9, 0], [1, -100, 0, -100]), None, {7: "Paris", 8: "-", 9: "Lyon", 0: ""}.__getitem__)
        [['Paris', '1'], ['-', ''], ['Lyon', '0']]
        >>> tagged_words(([7, 8], [-100, 8]), None, {7: "in", 8: "Paris"}.__getitem__)  # of a language model
        [['in', ''], ['Paris', 'Paris']]
    """
    labels = labels_of(item)
    tokens = _tokens(item, len(labels))
    words = [token if isinstance(token, str) else word(int(token)) for token in tokens]
    length = 1 + max((place for place, label in enumerate(labels) if np.max(label) >= 0), default=-1)
    pairs = list(zip(words, labels, strict=True))[:length]
    if names is None and _are_of_language_model(labels, tokens):
        return [[text, text if label >= 0 else ""] for text, label in pairs]
    return [[text, _tag(label, names)] for text, label in pairs]


def _are_of_language_model(labels: Array, tokens: Sequence[Any]) -> bool:
    """Return whether each label that counts is the token at its position, so that words stand for classes."""
    if np.ndim(labels) > 1:
        return False
    pairs = [(int(label), token) for label, token in zip(labels, tokens, strict=True) if label >= 0]
    return all(not isinstance(token, str) and label == int(token) for label, token in pairs)


def _tokens(item: Any, number: int) -> list[Any]:
    rows = [item[key] for key in WORD_KEYS if key in item] if isinstance(item, Mapping) else [item[0]]
    lists: list[list[Any]] = [row.tolist() if isinstance(row, Tensor | np.ndarray) else list(row) for row in rows]
    fitting = next((row for row in lists if len(row) == number), None)
    if fitting is None:
        raise ValueError(
            f"Expected as many labels as tokens in each sample of the dataset, got {number} labels and "
            f"{' or '.join(str(len(row)) for row in lists) or 'no'} tokens. Let the function of `--data` return items "
            "of tokens and their labels, as the model is trained on."
        )
    return fitting


def _tag(label: Any, names: Sequence[str] | None) -> str:
    if np.ndim(label):
        return "+".join(class_name(int(k), names) for k in np.flatnonzero(label >= 0.5))
    return class_name(int(label), names)


def areas_of(item: Any, classes: int | None = None) -> dict[int, Array]:
    """Return where in its picture a sample has each class or label. Class 0, usually the background, is left out.

    Args:
        item: Of the dataset. Its labels are a class for each pixel, ``(H, W)`` or ``(1, H, W)``, or 0 or 1 for each
            label and pixel, ``(K, H, W)``.
        classes: Number of classes, if it is known. Larger numbers, such as the usual 255, mark pixels that the loss
            ignores.

    Returns:
        By class, shape ``(H, W)``, bool; nothing of a class or label that no pixel has. Pixels that the loss ignores,
        and those of negative numbers, are those of the class -1.

    Raises:
        ValueError: If the item has no such labels.

    Example:
        >>> {label: area.tolist() for label, area in areas_of(("picture", [[0, 2], [2, 0]])).items()}
        {2: [[False, True], [True, False]]}
        >>> {label: area.tolist() for label, area in areas_of(("picture", [[1, 255]]), classes=2).items()}
        {1: [[True, False]], -1: [[False, True]]}
    """
    labels = labels_of(item)
    if labels.ndim == 3 and len(labels) > 1:
        areas = {label: mask >= 0.5 for label, mask in enumerate(labels) if (mask >= 0.5).any()}
        is_ignored = (labels < 0).all(axis=0)
        return areas | ({IGNORED: is_ignored} if is_ignored.any() else {})
    mask = labels[0] if labels.ndim == 3 else labels
    if mask.dtype.kind == "f":  # of one class, perhaps with soft edges
        mask = np.where((mask > 0) & (mask < 1), mask >= 0.5, mask)
    if mask.ndim != 2:
        raise ValueError(
            f"Expected a mask of shape (H, W) or (K, H, W) in each sample of the dataset, got labels of the shape "
            f"{labels.shape}. Let the function of `--data` return items of a picture and its mask."
        )
    is_ignored = (mask < 0) | np.isnan(mask) | (mask >= (np.inf if classes is None else classes))
    areas = {int(label): mask == label for label in np.unique(mask[~is_ignored]) if label > 0}
    return areas | ({IGNORED: is_ignored} if is_ignored.any() else {})
