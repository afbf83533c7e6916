"""Class activation maps whose weights are what the class loses without a feature map."""

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.attribution.layers import arrangement, find_target_layer
from dynalens.attribution.passes import (
    Forward,
    as_logits,
    check_finite,
    check_images,
    model_input,
    pass_size,
    scores_of,
)
from dynalens.observation import captured_output, module_named, replaced_output, undisturbed, unwrapped

_ABLATED = 32  # images in one pass without gradients


def ablation_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the Ablation-CAM map: feature maps weighted by how far the class's score falls without them.

    :math:`\mathrm{ReLU}\bigl(\sum_c w_c A_c\bigr)` with :math:`w_c = (z_y - z_y^{A_c = 0}) / |z_y|`, where
    :math:`z_y^{A_c = 0}` is the score when feature map c of the layer is set to 0.

    It needs no gradient, and a forward pass for each channel of the layer. Where the rest of the network is linear,
    :math:`z_y - z_y^{A_c = 0}` is what the feature map contributes: Grad-CAM's weight times the sum of the map.

    Source: Desai and Ramaswamy, "Ablation-CAM", WACV 2020, equations 2 and 3. Differs from the source: it divides by
    :math:`z_y`, which turns the map into its opposite where the score is negative. A score of 0 is not divided by.

    Args:
        model: See :func:`saliency`.
        images: Shape ``(N, C, *spatial)``.
        targets: Shape ``(N,)`` or ``(N, 2)``.
        target_layer: See :func:`grad_cam`; channels of tokens are set to 0 in all tokens.
        forward: Callable(images) -> logits.
        chunk_size: Images in one pass; default: 32.

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
    check_images(images, targets)
    check_positive(chunk_size=chunk_size)
    run = forward if forward is not None else unwrapped(model)
    with undisturbed(model), torch.no_grad():
        x = model_input(model, images)
        name = target_layer or find_target_layer(model, x, forward=forward)
        layer, arrange = module_named(model, name), arrangement(model, x, name, forward=forward)
        outputs, scores = _outputs(run, layer, x, targets, pass_size(x, chunk_size))
        feature_maps = arrange(outputs).float()
        n, channels = feature_maps.shape[:2]
        last = outputs.shape != feature_maps.shape or not torch.equal(outputs.float(), feature_maps)
        axis = outputs.ndim - 1 if last else 1
        losses = []
        for jobs in torch.split(torch.arange(n * channels, device=x.device), chunk_size or _ABLATED):
            sample = jobs // channels
            without = _without(outputs[sample], jobs % channels, axis)
            with replaced_output(layer, without):
                ablated = scores_of(as_logits(run(x[sample]), targets[sample]).float(), targets[sample])
            losses.append(scores[sample] - ablated)
        magnitude = torch.where(scores == 0, 1, scores.abs()).unsqueeze(1)
        weights = torch.cat(losses).view(n, channels) / magnitude
        return check_finite("ablation_cam", torch.einsum("nc,nc...->n...", weights, feature_maps).relu())


def _outputs(run: Forward, layer: nn.Module, x: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the layer's outputs as it gives them, and the scores (N,)."""
    parts, scores = [], []
    for x_part, y_part in zip(torch.split(x, size), torch.split(targets, size), strict=True):
        with captured_output(layer) as captured:
            scores.append(scores_of(as_logits(run(x_part), y_part).float(), y_part))
        parts.append(captured.value)
    return torch.cat(parts), torch.cat(scores)


def _without(outputs: Tensor, channel: Tensor, axis: int) -> Tensor:
    """Return a copy of outputs (J, ...), of row j with channel ``channel[j]`` set to 0."""
    shape = [1] * outputs.ndim
    shape[axis] = outputs.shape[axis]
    index = torch.arange(outputs.shape[axis], device=outputs.device).view(shape)
    return outputs.masked_fill(index == channel.view(-1, *[1] * (outputs.ndim - 1)), 0)
