"""Class activation maps: feature maps of a layer, weighted by what they do for the class."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.attribution.layers import arrangement, find_target_layer
from dynalens.attribution.maps import resize
from dynalens.attribution.passes import (
    Arrange,
    Formula,
    Forward,
    Pass,
    as_logits,
    check_finite,
    check_images,
    chunks,
    model_input,
    one_pass,
    scores_of,
)
from dynalens.observation import captured_output, module_named, replaced_output, undisturbed, unwrap

_CHANNEL_PASS = 32  # images in one pass without gradients


def grad_cam_formula(layer_pass: Pass) -> Tensor:
    """Return :func:`grad_cam` from one pass."""
    weights = layer_pass.activation_gradient.flatten(2).mean(dim=2)
    return _weighted_sum(weights, layer_pass.activation)


def grad_cam_plus_plus_formula(layer_pass: Pass) -> Tensor:
    """Return :func:`grad_cam_plus_plus` from one pass."""
    g = layer_pass.activation_gradient
    total = layer_pass.activation.flatten(2).sum(dim=2).view(*g.shape[:2], *[1] * (g.ndim - 2))
    # The source's alpha divided by g squared, which therefore cannot underflow.
    alpha = 1 / (2 + total * g)
    weights = torch.where(g > 0, alpha * g, 0).flatten(2).sum(dim=2)
    return _weighted_sum(weights, layer_pass.activation)


def layer_cam_formula(layer_pass: Pass) -> Tensor:
    """Return :func:`layer_cam` from one pass."""
    return (layer_pass.activation_gradient.relu() * layer_pass.activation).sum(dim=1).relu()


def _weighted_sum(weights: Tensor, activation: Tensor) -> Tensor:
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


def score_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the Score-CAM map: each feature map is weighted by the logit when only what it covers is shown.

    :math:`\mathrm{ReLU}\bigl(\sum_c w_c A_c\bigr)` with :math:`w = \mathrm{softmax}_c\, z_y(x \odot M_c)`, where
    :math:`A_c` are the feature maps of the layer, :math:`M_c` is :math:`A_c` at the size of the image :math:`x` and
    scaled to [0, 1], and :math:`z_y` is the logit of the target. If a feature map is the same everywhere, :math:`M_c`
    is 0.

    It needs no gradient, but one forward pass for each channel of the layer.

    Source: Wang et al., "Score-CAM", CVPR Workshops 2020, algorithm 1.

    Args:
        model: This and all arguments that are not listed here: see :func:`grad_cam`.
        chunk_size: Number of masked images in one pass. Default: 32.

    Returns:
        As :func:`grad_cam`.

    Example:
        Channels x and -x cover the first and the second pixel; their scores, ln 3 and 0, give weights of 3/4 and 1/4.

        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> import math
        >>> head = [[math.log(3), 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
        >>> for layer, weight in ((model[0], [[[[1.0]]], [[[-1.0]]]]), (model[2], head)):
        ...     _ = layer.weight.data.copy_(torch.tensor(weight)), layer.bias.data.zero_()
        >>> score_cam(model, torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([0]))
        tensor([[[0.5000, 0.0000]]])
    """
    with _channels(model, images, targets, target_layer, forward, chunk_size) as channels:

        def logits_under_mask(sample: Tensor, channel: Tensor) -> Tensor:
            masks = _unit_range(resize(channels.feature_maps[sample, channel], channels.x.shape[2:]))
            return channels.run(channels.x[sample] * masks.unsqueeze(1).to(channels.x.dtype))

        weights = channels.scores_of_each(logits_under_mask).softmax(dim=1)
        return check_finite("score_cam", _weighted_sum(weights, channels.feature_maps))


def ablation_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the Ablation-CAM map: each feature map is weighted by how far the logit falls without it.

    :math:`\mathrm{ReLU}\bigl(\sum_c w_c A_c\bigr)` with :math:`w_c = (z_y - z_y^{A_c = 0}) / |z_y|`, where :math:`A_c`
    are the feature maps of the layer, :math:`z_y` is the logit of the target, and :math:`z_y^{A_c = 0}` is that logit
    when feature map c is set to 0. If :math:`z_y` is 0, there is no division.

    It needs no gradient, but one forward pass for each channel of the layer. If the rest of the network is linear,
    :math:`z_y - z_y^{A_c = 0}` is Grad-CAM's weight times the sum of the feature map.

    Source: Desai and Ramaswamy, "Ablation-CAM", WACV 2020, equations 2 and 3. The source divides by :math:`z_y` instead
    of :math:`|z_y|`, which turns the map into its opposite if the logit is negative.

    Args:
        model: This and all arguments that are not listed here: see :func:`grad_cam`.
        target_layer: See :func:`grad_cam`. In a transformer, a channel is set to 0 in all tokens.
        chunk_size: Number of images in one pass. Default: 32.

    Returns:
        As :func:`grad_cam`.

    Example:
        The channel x gives all of the score, 3, and the channel -x nothing.

        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> head = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
        >>> for layer, weight in ((model[0], [[[[1.0]]], [[[-1.0]]]]), (model[2], head)):
        ...     _ = layer.weight.data.copy_(torch.tensor(weight)), layer.bias.data.zero_()
        >>> ablation_cam(model, torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([0]))
        tensor([[[1., 2.]]])
    """
    with _channels(model, images, targets, target_layer, forward, chunk_size) as channels:
        outputs, scores = channels.outputs, channels.scores
        is_last = outputs.shape != channels.feature_maps.shape or not torch.equal(
            outputs.float(), channels.feature_maps
        )
        axis = outputs.ndim - 1 if is_last else 1

        def logits_without(sample: Tensor, channel: Tensor) -> Tensor:
            with replaced_output(channels.layer, _zero_channel(outputs[sample], channel, axis)):
                return channels.run(channels.x[sample])

        losses = scores.unsqueeze(1) - channels.scores_of_each(logits_without)
        weights = losses / torch.where(scores == 0, 1, scores.abs()).unsqueeze(1)
        return check_finite("ablation_cam", _weighted_sum(weights, channels.feature_maps))


@dataclass(frozen=True)
class _Channels:
    """A layer's output for images x, its feature maps (N, C, *spatial), and the scores (N,) of the targets."""

    run: Forward
    x: Tensor
    targets: Tensor
    layer: nn.Module
    outputs: Tensor
    feature_maps: Tensor
    scores: Tensor
    chunk_size: int

    def scores_of_each(self, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the scores (N, C) from ``changed(sample, channel)``, the model's output without one channel."""
        shape, scores = self.feature_maps.shape[:2], []
        for jobs in torch.split(torch.arange(shape.numel(), device=self.x.device), self.chunk_size):
            sample, channel = jobs // shape[1], jobs % shape[1]
            targets = self.targets[sample]
            scores.append(scores_of(as_logits(change(sample, channel), targets).float(), targets))
        return torch.cat(scores).view(shape)


@contextmanager
def _channels(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    target_layer: str | None,
    forward: Forward | None,
    chunk_size: int | None,
) -> Iterator[_Channels]:
    """Yield the channels of an undisturbed model's layer, without gradients."""
    check_images(images, targets)
    check_positive(chunk_size=chunk_size)
    run = forward if forward is not None else unwrap(model)
    with undisturbed(model), torch.no_grad():
        x = model_input(model, images)
        name = target_layer or find_target_layer(model, x, forward=forward)
        layer, arrange = module_named(model, name), arrangement(model, x, name, forward=forward)
        parts, scores = [], []
        for x_part, y_part in chunks(x, targets, chunk_size):
            with captured_output(layer) as capture:
                scores.append(scores_of(as_logits(run(x_part), y_part).float(), y_part))
            parts.append(capture.value)
        outputs = torch.cat(parts)
        maps = arrange(outputs).float()
        yield _Channels(run, x, targets, layer, outputs, maps, torch.cat(scores), chunk_size or _CHANNEL_PASS)


def _zero_channel(outputs: Tensor, channel: Tensor, axis: int) -> Tensor:
    """Return a copy of outputs (J, ...), of row j with channel ``channel[j]`` set to 0."""
    shape = [1] * outputs.ndim
    shape[axis] = outputs.shape[axis]
    index = torch.arange(outputs.shape[axis], device=outputs.device).view(shape)
    return outputs.masked_fill(index == channel.view(-1, *[1] * (outputs.ndim - 1)), 0)


def _unit_range(masks: Tensor) -> Tensor:
    """Return each mask with its values brought to [0, 1]; a constant one becomes zero."""
    flat = masks.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return ((flat - low) / torch.where(high > low, high - low, 1)).view(masks.shape)


def _cam(
    name: str,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    target_layer: str | None,
    forward: Forward | None,
    chunk_size: int | None,
) -> Tensor:
    formulas = {name: CAM_FORMULAS[name]}
    return shared_passes(
        model, images, targets, formulas, target_layer=target_layer, forward=forward, chunk_size=chunk_size
    )[0][name]


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
    check_images(images, targets)
    check_positive(chunk_size=chunk_size)
    run = forward if forward is not None else unwrap(model)
    with undisturbed(model):
        x = model_input(model, images)
        layer: nn.Module | None = None
        arrange: Arrange = torch.detach
        if formulas.keys() & CAM_FORMULAS.keys():
            name = target_layer or find_target_layer(model, x, forward=forward)
            layer, arrange = module_named(model, name), arrangement(model, x, name, forward=forward)
        to_images = not formulas.keys() <= CAM_FORMULAS.keys()
        maps: dict[str, list[Tensor]] = {method: [] for method in formulas}
        all_logits = []
        for x_part, y_part in chunks(x, targets, chunk_size):
            layer_pass, logits = one_pass(run, x_part, y_part, layer=layer, arrange=arrange, to_images=to_images)
            all_logits.append(logits)
            for method, formula in formulas.items():
                maps[method].append(formula(layer_pass))
        return {method: check_finite(method, torch.cat(parts)) for method, parts in maps.items()}, torch.cat(all_logits)
