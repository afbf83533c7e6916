"""Class activation maps: feature maps of a layer, weighted by what they do for the class."""

import torch
from torch import Tensor, nn

from dynalens.attribution.layers import layer_and_arrangement
from dynalens.attribution.passes import (
    Arrange,
    Formula,
    Forward,
    Pass,
    check_finite,
    chunks,
    one_pass,
    prepared,
)


def grad_cam_formula(layer_pass: Pass) -> Tensor:
    """Return :func:`grad_cam` from one pass."""
    weights = layer_pass.activation_gradient.flatten(2).mean(dim=2)
    return weighted_sum(weights, layer_pass.activation)


def grad_cam_plus_plus_formula(layer_pass: Pass) -> Tensor:
    """Return :func:`grad_cam_plus_plus` from one pass."""
    g = layer_pass.activation_gradient
    total = layer_pass.activation.flatten(2).sum(dim=2).view(*g.shape[:2], *[1] * (g.ndim - 2))
    # The source's alpha divided by g squared, which therefore cannot underflow.
    alpha = 1 / (2 + total * g)
    weights = torch.where(g > 0, alpha * g, 0).flatten(2).sum(dim=2)
    return weighted_sum(weights, layer_pass.activation)


def layer_cam_formula(layer_pass: Pass) -> Tensor:
    """Return :func:`layer_cam` from one pass."""
    return (layer_pass.activation_gradient.relu() * layer_pass.activation).sum(dim=1).relu()


def weighted_sum(weights: Tensor, activation: Tensor) -> Tensor:
    """Return ReLU of the sum over channels of weights (N, C) times feature maps (N, C, *spatial): (N, *spatial)."""
    return torch.einsum("nc,nc...->n...", weights, activation).relu()


CAM_FORMULAS: dict[str, Formula] = {
    "grad_cam": grad_cam_formula,
    "grad_cam_plus_plus": grad_cam_plus_plus_formula,
    "layer_cam": layer_cam_formula,
}


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the Grad-CAM map, at the resolution of the layer.

    :math:`\mathrm{ReLU}\bigl(\sum_c w_c A_c\bigr)`, where :math:`A_c` are the feature maps of the layer and :math:`w_c`
    is the mean of :math:`\partial z_y / \partial A_c` over all positions, with :math:`z_y` the logit of the target.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2. Captum leaves the ReLU out by default.

    Args:
        model: This and all arguments that are not listed here: see :func:`saliency`.
        images: Shape ``(N, C, *spatial)``, floating. Not modified.
        target_layer: Dotted name of the layer. Default: :func:`find_target_layer`. Its output is ``(N, C, *spatial)``,
            ``(N, *spatial, C)``, or the tokens ``(N, T, C)`` of a transformer. Tokens are laid out on the grid of the
            patches, without the class and register tokens before them.

    Returns:
        Shape ``(N, *layer_spatial)``, float32, >= 0. Use :func:`resize` to bring it to the size of the images.

    Raises:
        ValueError: As for :func:`saliency`, and if the layer is unknown or its output has no positions.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> for layer, weight in ((model[0], [[[[2.0]]]]), (model[2], [[1.0, 3.0], [0.0, 0.0]])):
        ...     _ = layer.weight.data.copy_(torch.tensor(weight)), layer.bias.data.zero_()
        >>> grad_cam(model, torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([0]))
        tensor([[[4., 0.]]])
    """
    return _cam("grad_cam", model, images, targets, target_layer, forward, chunk_size)


def grad_cam_plus_plus(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the Grad-CAM++ map, which gives several places where the class appears more equal weights than Grad-CAM.

    :math:`\mathrm{ReLU}\bigl(\sum_c w_c A_c\bigr)` with :math:`w_c = \sum_p \alpha_{cp}\,\mathrm{ReLU}(g_{cp})` and
    :math:`\alpha_{cp} = g_{cp}^2 / (2 g_{cp}^2 + g_{cp}^3 \sum_q A_{cq})`, where :math:`A_c` are the feature maps of
    the layer, p and q positions in them, and :math:`g = \partial z_y / \partial A`. Where :math:`g_{cp}` is 0,
    :math:`\alpha_{cp}` is 0.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018, equations 10, 17 and 19. The source has a factor
    :math:`\exp(z_y)`, which is the same for the whole map and left out here. pytorch-grad-cam adds 1e-6 to the
    denominator, which changes maps whose gradients are 1e-3 or smaller.

    Args:
        model: This and all arguments that are not listed here: see :func:`grad_cam`.
        target_layer: See :func:`grad_cam`. The definition assumes feature maps that are not negative.

    Returns:
        As :func:`grad_cam`.

    Example:
        With A = (2, 2) and g = (1, 3): alpha = (1/6, 1/14), w = 1/6 + 3/14 = 8/21.

        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> for layer, weight in ((model[0], [[[[2.0]]]]), (model[2], [[1.0, 3.0], [0.0, 0.0]])):
        ...     _ = layer.weight.data.copy_(torch.tensor(weight)), layer.bias.data.zero_()
        >>> grad_cam_plus_plus(model, torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([0]))
        tensor([[[0.7619, 0.7619]]])
    """
    return _cam("grad_cam_plus_plus", model, images, targets, target_layer, forward, chunk_size)


def layer_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the LayerCAM map, which weights each position of a feature map by its own gradient.

    :math:`\mathrm{ReLU}\bigl(\sum_c \mathrm{ReLU}(\partial z_y / \partial A_c) \odot A_c\bigr)`, where :math:`A_c` are
    the feature maps of the layer and :math:`z_y` is the logit of the target. It also works in shallow layers, whose
    maps are finer.

    Source: Jiang et al., "LayerCAM", IEEE TIP 2021, equations 6 and 7.

    Args:
        model: This and all arguments that are not listed here: see :func:`grad_cam`.

    Returns:
        As :func:`grad_cam`.

    Example:
        With A = (2, 2) and g = (1, 3).

        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> for layer, weight in ((model[0], [[[[2.0]]]]), (model[2], [[1.0, 3.0], [0.0, 0.0]])):
        ...     _ = layer.weight.data.copy_(torch.tensor(weight)), layer.bias.data.zero_()
        >>> layer_cam(model, torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([0]))
        tensor([[[2., 6.]]])
    """
    return _cam("layer_cam", model, images, targets, target_layer, forward, chunk_size)


def _cam(
    name: str,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    target_layer: str | None,
    forward: Forward | None,
    chunk_size: int | None,
) -> Tensor:
    """Return the maps of the class activation map with this name, float32, shape ``(N, *layer_spatial)``."""
    formulas = {name: CAM_FORMULAS[name]}
    maps, _ = shared_passes(
        model, images, targets, formulas, target_layer=target_layer, forward=forward, chunk_size=chunk_size
    )
    return maps[name]


def shared_passes(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    formulas: dict[str, Formula],
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the maps of several formulas from one forward and one backward pass of each chunk, and the logits.

    Args:
        model: See :func:`saliency`, also for the arguments that are not described here.
        formulas: The formula of each method, by the name of the method.
        target_layer: See :func:`grad_cam`. If it is None, it is looked for only if a formula needs a layer.

    Returns:
        The maps of each method by its name, each of shape ``(N, *spatial)`` or ``(N, C, *spatial)`` as the method
        gives them, and the logits, shape ``(N, K)``.
    """
    with prepared(model, images, targets, forward=forward, chunk_size=chunk_size) as (run, x):
        layer: nn.Module | None = None
        arrange: Arrange = torch.detach
        if formulas.keys() & CAM_FORMULAS.keys():
            layer, arrange = layer_and_arrangement(model, x, target_layer, forward)
        to_images = not formulas.keys() <= CAM_FORMULAS.keys()
        maps: dict[str, list[Tensor]] = {method: [] for method in formulas}
        all_logits = []
        for x_part, y_part in chunks(x, targets, chunk_size):
            layer_pass, logits = one_pass(run, x_part, y_part, layer=layer, arrange=arrange, to_images=to_images)
            all_logits.append(logits)
            for method, formula in formulas.items():
                maps[method].append(formula(layer_pass))
        return {method: check_finite(method, torch.cat(parts)) for method, parts in maps.items()}, torch.cat(all_logits)
