"""Binary targets (N, K): whether they are several labels per sample, and what a step shows of them."""

from typing import Any

import torch
from torch import Tensor

from dynalens.capture.soft import FixedLevels
from dynalens.dynamics import IGNORED, NOT_A_CLASS
from dynalens.units import MOST_LABELS, UnitPresentation, multi_label


class SeveralLabels:
    """Tell rows (N, K) with any number of labels from rows that have exactly one label each.

    The dataset decides if it shows its labels. Otherwise the first batch decides.

    Args:
        is_fixed: Whether they are several labels although each row of the first batch has exactly one.

    Attributes:
        expected_labels: How many labels the dataset shows for each sample: in the first batch, each row may happen to
            have one.
    """

    def __init__(self, *, is_fixed: bool = False) -> None:
        self._levels = FixedLevels()
        self._multi_label: bool | None = True if is_fixed else None
        self.expected_labels: int | None = None

    def takes(self, logits: Tensor, targets: Tensor, loss_mask: Tensor | None = None) -> bool:
        """Return whether the targets are several labels per sample. Waits for the device in the first batch only."""
        has_shape = logits.ndim == 2 and targets.shape == logits.shape and 1 < logits.shape[1] <= MOST_LABELS
        if not has_shape or targets.is_complex():
            return False
        if not len(logits):
            return bool(self._multi_label)
        if not self._levels.is_known:
            targets = without_ignored(targets, loss_mask)
        if self._multi_label is None:
            counted_targets = targets if loss_mask is None else targets[loss_mask.expand_as(targets).any(dim=1)]
            if not len(counted_targets):
                return False
            is_expected = self.expected_labels == logits.shape[1]
            one_each = not is_expected and bool((FixedLevels().rows(counted_targets) != NOT_A_CLASS).all())
            self._multi_label = not one_each and self._are_bits(targets)
        return self._multi_label and (self._levels.is_known or self._are_bits(targets))

    def presentation(self, logits: Tensor, targets: Tensor, loss_mask: Tensor | None = None) -> UnitPresentation:
        """Return what a step shows of the labels. Labels that do not count are ignored."""
        is_counted = None if loss_mask is None else loss_mask.expand_as(logits)
        return multi_label(logits, self._levels.binary(targets.detach()), is_counted)

    def _are_bits(self, targets: Tensor) -> bool:
        return bool((self._levels.binary(targets.detach()) != NOT_A_CLASS).all())


def mark_ignored(targets: Tensor, loss_mask: Tensor | None, class_weight: Tensor | None = None) -> Tensor:
    """Return targets in which those without a part in the loss are marked as ignored.

    Args:
        targets: Classes, one for each sample, token or pixel.
        loss_mask: Which of them have a part in the loss, or in which of their columns; None, or another shape: all.
        class_weight: Shape ``(K,)``; a class of weight 0 has no part.

    Example:
        >>> mark_ignored(torch.tensor([2, 1, 0]), torch.tensor([True, False, True])).tolist()
        [2, -1, 0]
    """
    if loss_mask is not None and loss_mask.ndim == 2 and loss_mask.shape[:1] == targets.shape:
        loss_mask = loss_mask.any(dim=1)  # of a class in one-hot form
    if loss_mask is not None and loss_mask.numel() == targets.numel():
        targets = targets.masked_fill(~loss_mask.view(targets.shape), IGNORED)
    if class_weight is not None:
        has_weight = (class_weight.detach() != 0)[targets.clamp(0, len(class_weight) - 1)]
        targets = targets.masked_fill(~has_weight & (targets >= 0), IGNORED)
    return targets


def with_ignored(logits: Any, targets: Any) -> tuple[Any, Any, Tensor | None]:
    """Return logits and targets as they are, and which targets count.

    Of as many targets as there are logits, those that are not -100 or NaN.

    Example:
        >>> with_ignored(torch.zeros(1, 3), torch.tensor([[1.0, -100.0, 0.0]]))[2]
        tensor([[ True, False,  True]])
    """
    tensors = isinstance(logits, Tensor) and isinstance(targets, Tensor)
    if not tensors or targets.ndim < 2 or targets.numel() != logits.numel() or targets.is_complex():
        return logits, targets, None
    return logits, targets, targets >= 0


def without_ignored(targets: Tensor, loss_mask: Tensor | None) -> Tensor:
    """Return targets with 0 in place of all targets that do not count."""
    return targets if loss_mask is None else torch.where(loss_mask.expand_as(targets), targets, 0)


def log_odds(probabilities: Tensor) -> Tensor:
    """Return log p - log(1 - p), the logits of a sigmoid, as precisely as float32 allows.

    Example:
        >>> log_odds(torch.tensor([0.5, 1.0])).tolist()
        [0.0, 16.635...]
    """
    p = probabilities.detach().float()
    limit = 1 - torch.finfo(p.dtype).eps / 2
    return torch.logit(p.clamp(1 - limit, limit))
