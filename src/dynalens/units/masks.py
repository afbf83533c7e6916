"""Recognise classes that a network hides by very small logits."""

import math

import torch
from torch import Tensor

CERTAIN = 24 * math.log(2)
"""Margin where masks hide all classes but the label's: p / (1 - p) of the largest float32 below 1 is 2^24."""
MASKED = -1e8
"""Logit below the largest one that only a mask gives: a tenth of -1e9, the mildest usual one beside float16's own."""
_MASKED_HALF = torch.finfo(torch.float16).min / 2
"""The same of logits in float16, whose usual mask is the smallest number."""


def without_half_masks(logits: Tensor) -> Tensor:
    """Return logits with -inf for the smallest numbers of float16; those of other dtypes are as they were.

    Example:
        >>> without_half_masks(torch.tensor([1.0, -65504.0], dtype=torch.float16)).tolist()
        [1.0, -inf]
    """
    return logits.masked_fill(logits < _MASKED_HALF, -torch.inf) if logits.dtype is torch.float16 else logits
