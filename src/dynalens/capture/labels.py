"""Classes from what a batch holds as labels."""

import torch
from torch import Tensor

from dynalens.dynamics import IGNORED, NOT_A_CLASS

_BINARY = "binary_cross_entropy_with_logits"
_ROUNDING = 1e-2
"""How far the probabilities of a sample may be from adding up to 1: bfloat16 has three digits."""


def class_labels(labels: Tensor, *, loss: str | None = None, ignore_index: int | None = None) -> Tensor | None:
    """Return the class of each sample, int64 (N,), or None if these are no labels of N samples; does not wait.

    Args:
        labels: Classes (N,) or (N, 1), whole floating numbers included, or rows (N, K) of probabilities or of zeros
            and ones, each of which names the class of its largest entry where that is unique.
        loss: Name of the loss that they are the targets of; those of a binary one may be smoothed.
        ignore_index: The label that this loss ignores.

    Returns:
        A negative number where there is no class: an ignored label, a fraction, two largest entries.

    Example:
        >>> class_labels(torch.tensor([2.0, 0.5])).tolist(), class_labels(torch.tensor([[0, 1], [1, 1]])).tolist()
        ([2, -2147483648], [1, -2147483648])
    """
    if labels.ndim == 2 and labels.shape[1] > 1:
        largest = labels == labels.amax(dim=1, keepdim=True)
        return torch.where(largest.sum(dim=1) == 1, largest.int().argmax(dim=1), NOT_A_CLASS)
    if labels.shape[1:] not in ((), (1,)) or labels.ndim == 0 or labels.is_complex():
        return None
    labels = labels.reshape(-1)
    if labels.is_floating_point():
        classes = labels.round() if loss == _BINARY else labels
        return torch.where(classes == classes.round(), classes.nan_to_num().long(), NOT_A_CLASS)
    classes = labels.long()
    return classes if ignore_index is None else classes.masked_fill(classes == ignore_index, IGNORED)


def name_no_classes(labels: Tensor, *, loss: str | None = None) -> bool:
    """Return whether labels are those of a regression, boxes, or tags of tokens rather than classes.

    Waits for the device.

    Such labels are a vector with fractions, rows (N, K) of floating numbers that are neither probabilities nor all 0 or
    1, or rows of integers of which some are neither 0 nor 1.

    Args:
        labels: Shape ``(N,)``, ``(N, 1)`` or ``(N, K)``.
        loss: Name of the loss that they are the targets of; those of a binary one may be smoothed.

    Example:
        >>> name_no_classes(torch.tensor([0.0, 0.3])), name_no_classes(torch.tensor([[3, 7]]))
        (True, True)
        >>> name_no_classes(torch.tensor([0.0, 1.0])), name_no_classes(torch.tensor([[0.3, 0.7]]))
        (False, False)
    """
    if loss == _BINARY or labels.is_complex():
        return False
    if labels.ndim == 2 and labels.shape[1] > 1:
        zeros_and_ones = ((labels == 0) | (labels == 1)).all()
        shares = labels.float()
        probabilities = (shares >= 0).all() & ((shares.sum(dim=1) - 1).abs() < _ROUNDING).all()
        return not bool(zeros_and_ones | (probabilities & labels.is_floating_point()))
    return labels.is_floating_point() and bool((labels != labels.round()).any())


def have_several(labels: Tensor) -> bool:
    """Return whether samples may have any number of labels: rows of zeros and ones, some without exactly one 1.

    Waits.

    Example:
        >>> have_several(torch.tensor([[1, 1], [0, 1]])), have_several(torch.tensor([[1, 0], [0, 1]]))
        (True, False)
    """
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.is_complex():
        return False
    return bool(((labels == 0) | (labels == 1)).all() & (labels.sum(dim=1) != 1).any())


def first_labels(labels: Tensor) -> Tensor:
    """Return the first label that each of N samples has, int64 (N,); a negative number where it has none.

    Example:
        >>> first_labels(torch.tensor([[0, 1, 1], [0, 0, 0]])).tolist()
        [1, -2147483648]
    """
    return torch.where((labels == 1).any(dim=1), (labels == 1).int().argmax(dim=1), NOT_A_CLASS)
