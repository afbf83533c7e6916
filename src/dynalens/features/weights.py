"""The filters of a model's first layer."""

from torch import Tensor, nn

from dynalens.observation import layers_by_name, undisturbed

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def first_layer_weights(model: nn.Module, layer: str | None = None) -> tuple[str, Tensor]:
    """Return the name and the filters of the first convolution, in the order of the model's modules.

    Only filters of the first layer can be shown as images, because they have the channels of an image. Filters of other
    layers have as many channels as the layer before.

    Args:
        model: The model.
        layer: Dotted name of another convolution.

    Returns:
        The name, and a copy of the weights: ``(F, C, H, W)``, or ``(F, C, L)`` and ``(F, C, D, H, W)`` if the
        convolution has one or three dimensions.

    Raises:
        ValueError: If there is no convolution, or none of this name.

    Example:
        >>> name, weights = first_layer_weights(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 5)))
        >>> name, weights.shape
        ('1', torch.Size([8, 3, 5, 5]))
    """
    convolutions = {name: m for name, m in layers_by_name(model).items() if isinstance(m, _CONVOLUTIONS)}
    layer_name = layer if layer is not None else next(iter(convolutions), None)
    if layer_name not in convolutions:
        raise ValueError(
            f"Expected `weights` to name a convolution of {type(model).__name__}, got {layer!r}. Its convolutions are: "
            f"{', '.join(convolutions) or 'none'}. Name one of them, or leave the filters out."
        )
    convolution = convolutions[layer_name]
    with undisturbed(convolution):  # a parametrization, such as spectral norm, computes them and may learn from it
        return layer_name, convolution.weight.detach().clone()
