"""One vector for each sample from the output of any layer."""

from torch import Tensor, nn

from dynalens.observation import channels_first, channels_last


def position_mean(layer: nn.Module, output: Tensor) -> Tensor:
    """Return the mean of a layer's output over all positions, a vector for each sample.

    Positions are the space of (N, C, H, W) or (N, C, D, H, W), the steps of series, (N, C, L), or tokens, (N, T, C).
    Channels may come last. The last convolution, pooling, norm, linear layer, embedding or attention in the layer
    tells. If there is none, they come first.

    Args:
        layer: The layer that computed the output.
        output: Shape ``(N, D)`` or one of those above, floating.

    Returns:
        Shape ``(N, D)``, float32, a copy without graph.

    Raises:
        ValueError: If the output has another shape, or three dimensions and no part of the layer tells.

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
    if x.ndim == 3 and channels_last(layer, x.shape) is None:
        raise ValueError(
            "Expected `features` to name a convolution, a norm or a linear layer, because other layers do not tell "
            f"whether their output is tokens (N, T, C) or signals (N, C, L), got {type(layer).__name__} with "
            f"{tuple(x.shape)}. Name the convolution, norm or linear layer before it."
        )
    return channels_first(layer, x).float().flatten(2).mean(dim=2)
