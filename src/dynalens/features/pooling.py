"""One vector for each sample from the output of any layer."""

from torch import Tensor, nn

_CHANNELS_FIRST = (
    nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.GroupNorm,
)  # fmt: skip
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)


def position_mean(layer: nn.Module, output: Tensor) -> Tensor:
    """Return the mean of a layer's output over all positions, a vector for each sample.

    An output (N, C, H, W) or (N, C, D, H, W) is averaged over space. An output with three dimensions is a series,
    (N, C, L), after a convolution, pooling or batch norm. It is tokens, (N, T, C), after a linear layer, layer norm,
    embedding or attention. The last such module within the layer decides.

    Args:
        layer: The layer that computed the output.
        output: Shape ``(N, D)`` or one of those above, floating.

    Returns:
        Shape ``(N, D)``, float32, a copy without graph.

    Raises:
        ValueError: If the output has another shape, or the layer has no such module.

    Example:
        >>> import torch
        >>> position_mean(nn.Identity(), torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]]]]))
        tensor([[2., 4.]])
    """
    x = output.detach()
    if not x.is_floating_point() or not 2 <= x.ndim <= 5:  # N, C and up to three axes of space
        raise ValueError(
            "Expected `features` to name a layer whose output is floating and of shape (N, D), (N, T, D) for tokens or "
            f"(N, D, *spatial) for feature maps, got {tuple(x.shape)}, {x.dtype}. Name the layer before the last "
            "linear one."
        )
    if x.ndim == 2:
        return x.float().clone() if x.dtype.itemsize == 4 else x.float()
    if x.ndim == 3:
        return x.float().mean(dim=2 if _channels_first(layer) else 1)
    return x.float().flatten(2).mean(dim=2)


def _channels_first(layer: nn.Module) -> bool:
    """Return whether the layer's output is a series (N, C, L); if not, it is tokens (N, T, C)."""
    telling_modules = [m for m in layer.modules() if isinstance(m, (*_CHANNELS_FIRST, *_CHANNELS_LAST))]
    if not telling_modules:
        raise ValueError(
            "Expected `features` to name a convolution, a norm or a linear layer, because other layers do not tell "
            f"whether their output is tokens (N, T, C) or signals (N, C, L), got {type(layer).__name__}. Name the "
            "convolution, norm or linear layer before it."
        )
    return isinstance(telling_modules[-1], _CHANNELS_FIRST)
