"""Code the targets of all units of a sample as one number, so that they can be compared like labels."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.identity.columns import Column, Path
from dynalens.identity.dataset_labels import Array, given_rows
from dynalens.identity.labels import agreement_and_chance, refuse


def row_codes(targets: Tensor, mask: Tensor | None = None) -> list[int]:
    """Return a positive number for each row of ``(N, ...)``.

    Rows that differ where they count have different numbers.

    Example:
        >>> codes = row_codes(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        >>> codes[0] == codes[2] != codes[1]
        True
    """
    values = targets.detach().cpu().float()
    if mask is not None:  # in the place of others may stand what the step wrote there
        values = values.masked_fill(~mask.cpu().reshape(values.shape), 0)
    rows = _rows(values).numpy()
    return [1 + zlib.crc32(row.tobytes()) for row in rows]


def what_counts(targets: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return which targets have a part in the loss. Those that a step marks as missing have none.

    The batch may mark them by another number than the step: an index of -100 becomes -1 in a step that selects the
    tokens that count, and of numbers some become NaN.
    """
    if targets.is_complex():
        return mask
    is_given = ~targets.isnan() if targets.is_floating_point() else targets >= 0
    return is_given if mask is None else mask & is_given


def coded_columns(columns: Mapping[Path, Column], targets: Tensor, mask: Tensor | None = None) -> dict[Path, Column]:
    """Return the codes of those columns whose rows have as many numbers as the targets', rounded like the targets.

    Where a step gives each number of a column another number, such as 0 for -1, the column has the codes of these.
    """
    size, targets = _rows(targets).shape[1], targets.detach().cpu()
    return {
        path: row_codes(renumbered(column.to(targets.dtype) if targets.is_floating_point() else column, targets, mask))
        for path, column in columns.items()
        if isinstance(column, Tensor) and column.ndim and not column.is_complex() and column[:1].numel() == size
    }


def renumbered(labels: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return labels in the numbers of their targets, if equal labels have equal targets; else the labels themselves.

    At least half of the labels must be repeated: targets follow from labels that all differ, whatever they are.

    Args:
        labels: As many as there are targets.
        targets: Shape ``(N, ...)``.
        mask: Which of them count. Others become 0.

    Example:
        >>> renumbered(torch.tensor([[-1, 1, 0], [1, -1, 0]]), torch.tensor([[0, 1, 0], [1, 0, 0]])).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    if labels.numel() != targets.numel():
        return labels
    labels = labels.detach().cpu().reshape(targets.shape)
    is_counted = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask.cpu().reshape(targets.shape)
    own, numbers = labels[is_counted], targets[is_counted].double()
    if not torch.equal(own.double(), numbers):
        values, places = torch.unique(own.double().nan_to_num(nan=torch.inf), return_inverse=True)
        of_value = numbers.new_zeros(len(values)).scatter(0, places, numbers)
        if 2 * len(values) <= len(own) and torch.equal(of_value[places], numbers):
            labels = targets
    return labels.masked_fill(~is_counted, 0)


def check_given_rows(dataset: Any, index: Array, targets_of_epoch: Array, *, is_same: bool) -> None:
    """Compare the labels or targets of an epoch with those of the dataset, for samples with several of them.

    Args:
        dataset: The dataset of the loader.
        index: Shape ``(M,)``, the position of each presentation's sample in it.
        targets_of_epoch: Shape ``(M, D)``, NaN where none counts.
        is_same: Whether they were equal in the first steps. Then each one that differs is wrong.

    Raises:
        SampleIdentityError: If most agree, with a kappa above one half, and some do not.
    """
    rows = given_rows(dataset)
    if rows is None or rows.shape[1] != targets_of_epoch.shape[1] or index.max() >= len(rows):
        return
    is_counted, target = ~np.isnan(targets_of_epoch), np.nan_to_num(targets_of_epoch.astype(np.float32), nan=0.0)
    label = renumbered(*map(torch.from_numpy, (rows[index], target, is_counted))).numpy()
    wrong_samples = np.unique(index[(label != target).any(axis=1)])
    if len(wrong_samples) and not is_same:
        agreement, chance = agreement_and_chance([row.tobytes() for row in label], [row.tobytes() for row in target])
        is_same = agreement - chance > (1 - chance) / 2
    if is_same:
        refuse(dataset, wrong_samples)


def class_columns(columns: Mapping[Path, Column], classes: int) -> dict[Path, Column]:
    """Return columns that may hold classes in another form as integers: whole numbers, and a number for each class.

    Example:
        >>> columns = class_columns({"y": torch.tensor([1.0, 0.0]), "z": torch.eye(2), "x": torch.rand(2, 9)}, 2)
        >>> {path: column.tolist() for path, column in columns.items()}
        {'y': [1, 0], 'z': [0, 1]}
    """
    tensors = {path: column for path, column in columns.items() if isinstance(column, Tensor) and len(column)}
    real = {path: column.flatten(1) if column.ndim > 1 else column[:, None] for path, column in tensors.items()}
    real = {
        path: column for path, column in real.items() if column.shape[1] in (1, classes) and not column.is_complex()
    }
    return {
        path: column.argmax(dim=1) if column.shape[1] > 1 else column[:, 0].long()
        for path, column in real.items()
        if column.shape[1] > 1 or bool((column == column.long()).all())
    }


def _rows(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1) if len(values) else values.reshape(0, 1)
