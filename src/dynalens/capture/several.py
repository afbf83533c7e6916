"""Which targets of a binary loss are several labels for each sample, and what a step shows of these."""

import torch
from torch import Tensor

from dynalens.capture.soft import FixedLevels
from dynalens.dynamics import NOT_A_CLASS
from dynalens.units import MOST_LABELS, UnitPresentation, multi_label


class SeveralLabels:
    """Tell rows (N, K) of any number of labels from those that have exactly one.

    The dataset decides where it shows them, else the first batch.

    Args:
        always: Whether they are several labels although each row of the first batch has exactly one.
    """

    def __init__(self, *, always: bool = False) -> None:
        self._levels = FixedLevels()
        self._several: bool | None = True if always else None
        self._expected: int | None = None

    def expect(self, labels: int | None) -> None:
        """Hear how many labels the dataset shows for each sample; the first batch may have one in each row."""
        self._expected = labels

    def takes(self, logits: Tensor, targets: Tensor) -> bool:
        """Return whether the targets are several labels; waits for the device in the first batch only."""
        shaped = logits.ndim == 2 and targets.shape == logits.shape and 1 < logits.shape[1] <= MOST_LABELS
        if not shaped or not len(logits) or targets.is_complex():
            return False
        if self._several is None:
            is_expected = self._expected == logits.shape[1]
            one_each = not is_expected and bool((FixedLevels().rows(targets) != NOT_A_CLASS).all())
            self._several = not one_each and self._are_bits(targets)
        return self._several and (self._levels.known or self._are_bits(targets))

    def shown(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> UnitPresentation:
        """Return what a step shows of them; a label of weight 0 is ignored."""
        has_weight = None if weight is None else (weight != 0).expand_as(logits)
        return multi_label(logits, self._levels.binary(targets.detach()), has_weight)

    def _are_bits(self, targets: Tensor) -> bool:
        return bool((self._levels.binary(targets.detach()) != NOT_A_CLASS).all())


def log_odds(probabilities: Tensor) -> Tensor:
    """Return log p - log(1 - p), as far as float32 holds it: the logits of a sigmoid.

    Example:
        >>> log_odds(torch.tensor([0.5, 1.0])).tolist()
        [0.0, 16.635...]
    """
    p = probabilities.detach().float()
    limit = 1 - torch.finfo(p.dtype).eps / 2
    return torch.logit(p.clamp(1 - limit, limit))
