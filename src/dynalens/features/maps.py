"""The feature maps and activations of a layer for some inputs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dynalens.observation import captured_output, channels_first, floating_dtype, forward_of, module_named, undisturbed


def feature_maps(
    model: nn.Module, images: Tensor, layer: str, *, forward: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the feature maps of a layer: its output in evaluation mode. The model is left as it was.

    Args:
        model: The model.
        images: Shape ``(N, C, *spatial)``, as the model expects them: integers if it takes integers. Not modified.
        layer: Dotted name of a layer whose output has a map for each channel. The tokens of images have none. Channels
            that come last are moved.
        forward: Callable(images) that runs the model. Default: the model.

    Returns:
        Shape ``(N, F, *layer_spatial)``, float32.

    Raises:
        ValueError: If there is no such layer, or its output has no maps. The message lists similar names.
        RuntimeError: If the forward pass does not run the layer.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
        >>> _ = model[0].weight.data.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
        >>> feature_maps(model, torch.full((1, 1, 1, 1), 3.0), "0").flatten()
        tensor([ 3., -6.])
    """
    maps = layer_output(model, images, layer, forward=forward)
    # Tokens (N, T, C) of images have three dimensions, too, but no map for each channel.
    if maps.ndim not in (3, 4, 5) or maps.ndim != images.ndim:
        raise ValueError(
            f"Expected `layer` to name a layer that gives a map for each channel, with as many dimensions as images "
            f"{tuple(images.shape)} have, got {tuple(maps.shape)} of {layer}. Name a convolution or a layer after one."
        )
    return maps


def layer_output(
    model: nn.Module, images: Tensor, layer: str, *, forward: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the output of a layer, of any shape, with channels first, as :func:`feature_maps` does.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU())
        >>> layer_output(model, torch.tensor([[[[-1.0, 2.0]]]]), "0"), layer_output(model, torch.ones(1, 1), "1")
        (tensor([[-1.,  2.]]), tensor([[1.]]))
    """
    module = module_named(model, layer, argument="layer")
    with undisturbed(model), captured_output(module) as capture, torch.no_grad():
        dtype = floating_dtype(model, images) if images.is_floating_point() else images.dtype
        forward_of(model, forward)(images.to(dtype))
        return channels_first(module, capture.value.float())


def existing_channels(channels: Sequence[int], number: int) -> Sequence[int]:
    """Return the channels that a layer with ``number`` channels has. A range is shortened, a list is checked.

    Raises:
        ValueError: If a channel of a list does not exist.

    Example:
        >>> existing_channels(range(8), 3), existing_channels([2, 0], 3)
        (range(0, 3), [2, 0])
    """
    if isinstance(channels, range):
        return range(min(len(channels), number))
    if max(channels) >= number:
        raise ValueError(
            f"Expected `channels` to be below {number}, the number of channels of the layer, got {max(channels)}. Pass "
            "smaller numbers."
        )
    return channels


def channel_activations(maps: Tensor) -> Tensor:
    """Return the largest activation of each channel, shape ``(N, F)``, of maps ``(N, F, *spatial)`` or ``(N, F)``.

    Example:
        >>> channel_activations(torch.tensor([[[1.0, 4.0], [-3.0, -2.0]]]))
        tensor([[ 4., -2.]])
    """
    return maps.detach().float() if maps.ndim == 2 else maps.detach().float().flatten(2).amax(dim=2)
