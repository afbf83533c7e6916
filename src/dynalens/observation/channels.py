"""Where the channels stand in the output of a layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

_CHANNELS_FIRST = ("conv", "batchnorm", "instancenorm", "pooling")  # modules of torch.nn whose layers want them there
_NUMBERS = ("out_channels", "num_features", "num_channels", "out_features", "embedding_dim", "embed_dim")


class Channels(NamedTuple):
    """How many channels a layer gives, and whether they come last."""

    number: int
    last: bool


def own_channels(module: nn.Module, shape: torch.Size) -> Channels | None:
    """Return the channels of an output, if the layer is a convolution, pooling or norm; else None."""
    if _wants_channels_first(module):
        return Channels(shape[1], last=False)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        (number,) = module.normalized_shape
        return Channels(number, last=shape[-1] == number and (_is_plain_norm(module) or shape[1] != number))
    return None


def are_last(shape: torch.Size, channels: Channels | None) -> bool | None:
    """Return whether channels come last, by which dimension has as many entries; None if none has."""
    if channels is None or len(shape) < 3 or channels.number not in {shape[1], shape[-1]}:
        return None
    return channels.last if shape[1] == shape[-1] else shape[-1] == channels.number


def channels_last(layer: nn.Module, shape: torch.Size) -> bool | None:
    """Return whether the channels of a layer's output come last, or None if no part of the layer tells.

    The last convolution, pooling, norm, linear layer, embedding or attention in the layer tells, if it has as many
    channels as the output has entries in the second or the last dimension. If both have as many, a linear layer beside
    convolutions of images says nothing of the output: it weighs channels, or stands between two permutations.
    """
    parts = [part for part in layer.modules() if _wants_channels_first(part) or _wants_channels_last(part)]
    of_images = len(shape) > 3 and any(map(_wants_channels_first, parts))
    is_last = _is_plain_norm if of_images else _wants_channels_last
    answers = (are_last(shape, Channels(_number(part, shape), is_last(part))) for part in reversed(parts))
    return next((answer for answer in answers if answer is not None), None)


def channels_first(layer: nn.Module, output: Tensor) -> Tensor:
    """Return a layer's output with its channels in the second dimension (:func:`channels_last`).

    Example:
        >>> x = torch.zeros(2, 7, 8, 5)
        >>> channels_first(nn.Sequential(nn.LayerNorm(5), nn.GELU()), x).shape
        torch.Size([2, 5, 7, 8])
        >>> channels_first(nn.Conv2d(1, 7, 1), x).shape
        torch.Size([2, 7, 8, 5])
    """
    return output.movedim(-1, 1) if channels_last(layer, output.shape) else output


def _wants_channels_first(module: nn.Module) -> bool:
    return isinstance(module, nn.GroupNorm) or any(
        base.__module__.startswith("torch.nn.modules.") and base.__module__.endswith(_CHANNELS_FIRST)
        for base in type(module).__mro__
    )


def _wants_channels_last(module: nn.Module) -> bool:
    is_norm = isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1
    return is_norm or isinstance(module, (nn.Linear, nn.Embedding, nn.MultiheadAttention))


def _is_plain_norm(module: nn.Module) -> bool:
    return type(module) in {nn.LayerNorm, nn.RMSNorm}  # a subclass may be for channels that come first


def _number(module: nn.Module, shape: torch.Size) -> int:
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return module.normalized_shape[-1]
    return next((getattr(module, name) for name in _NUMBERS if hasattr(module, name)), shape[1])
