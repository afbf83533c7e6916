"""What a model takes and what it gives."""

import torch
from torch import Tensor, nn


def floating_dtype(model: nn.Module, images: Tensor) -> torch.dtype:
    """Return the dtype in which the model computes: that of its first floating parameter, else of the images."""
    floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, images.dtype)


def is_tokens(inputs: Tensor) -> bool:
    """Return whether these are ids of tokens, integers (N, T), rather than images or signals."""
    return inputs.ndim == 2 and not inputs.is_floating_point() and inputs.dtype is not torch.bool


def two_class_logits(logits: Tensor) -> Tensor:
    """Return logits (N, K) with K >= 2; a binary logit z, of shape (N,) or (N, 1), becomes (0, z).

    Then softmax gives class 1 the probability sigmoid(z).

    Example:
        >>> two_class_logits(torch.tensor([3.0]))
        tensor([[0., 3.]])
    """
    if logits.ndim == 2 and logits.shape[1] > 1:
        return logits
    z = logits.reshape(len(logits), 1)
    return torch.cat([torch.zeros_like(z), z], dim=1)
