"""Class activation maps without gradients: what becomes of the logit if a channel is shown alone, or left out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynalens.attribution.cam import weighted_sum
from dynalens.attribution.layers import layer_and_arrangement
from dynalens.attribution.maps import resize
from dynalens.attribution.passes import Forward, check_finite, chunks, output_scores, prepared
from dynalens.observation import captured_output, replaced_output

_CHANNEL_PASS = 32  # number of images in one pass without gradients


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
        return check_finite("score_cam", weighted_sum(weights, channels.feature_maps))


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
        # The feature maps are the outputs themselves, unless channels had to be moved to the second dimension.
        is_first = outputs.shape == channels.feature_maps.shape and torch.equal(outputs.float(), channels.feature_maps)
        axis = 1 if is_first else -1

        def logits_without(sample: Tensor, channel: Tensor) -> Tensor:
            with replaced_output(channels.layer, _zero_channel(outputs[sample], channel, axis)):
                return channels.run(channels.x[sample])

        losses = scores.unsqueeze(1) - channels.scores_of_each(logits_without)
        weights = losses / torch.where(scores == 0, 1, scores.abs()).unsqueeze(1)
        return check_finite("ablation_cam", weighted_sum(weights, channels.feature_maps))


@dataclass(frozen=True)
class _Channels:
    """What a layer computes of N images, and what is needed to score the images with one of its channels changed.

    Attributes:
        run: Gives logits of images.
        x: The images in the model's dtype, shape ``(N, C, *spatial)``.
        targets: Shape ``(N,)`` or ``(N, 2)``.
        layer: The layer.
        outputs: The outputs of the layer as it gives them.
        feature_maps: The same, float32, with shape ``(N, channels, *layer_spatial)``.
        scores: The scores of the targets for the unchanged images, shape ``(N,)``.
        chunk_size: Number of images in one pass.
    """

    run: Forward
    x: Tensor
    targets: Tensor
    layer: nn.Module
    outputs: Tensor
    feature_maps: Tensor
    scores: Tensor
    chunk_size: int

    def scores_of_each(self, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the scores (N, channels) of each image after a change that depends on one channel.

        Args:
            change: Called with the numbers of some images, (J,), and of a channel for each of them, (J,). It returns
                what the model then outputs.
        """
        shape, scores = self.feature_maps.shape[:2], []
        for pairs in torch.split(torch.arange(shape.numel(), device=self.x.device), self.chunk_size):
            sample, channel = pairs // shape[1], pairs % shape[1]
            scores.append(output_scores(change(sample, channel), self.targets[sample]))
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
    """Yield the :class:`_Channels` of the target layer of an undisturbed model, in which no gradients are computed."""
    with prepared(model, images, targets, forward=forward, chunk_size=chunk_size) as (run, x), torch.no_grad():
        layer, arrange = layer_and_arrangement(model, x, target_layer, forward)
        parts, scores = [], []
        for x_part, y_part in chunks(x, targets, chunk_size):
            with captured_output(layer) as capture:
                scores.append(output_scores(run(x_part), y_part))
            parts.append(capture.value)
        outputs = torch.cat(parts)
        maps = arrange(outputs).float()
        yield _Channels(run, x, targets, layer, outputs, maps, torch.cat(scores), chunk_size or _CHANNEL_PASS)


def _zero_channel(outputs: Tensor, channel: Tensor, axis: int) -> Tensor:
    """Return a copy of outputs (J, ...) in which row j has its channel ``channel[j]``, along ``axis``, set to 0."""
    outputs = outputs.clone()
    outputs.movedim(axis, 1)[torch.arange(len(channel), device=outputs.device), channel] = 0
    return outputs


def _unit_range(masks: Tensor) -> Tensor:
    """Return masks (J, *spatial), each scaled so that its values reach from 0 to 1. A constant mask becomes 0."""
    flat = masks.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return ((flat - low) / torch.where(high > low, high - low, 1)).view(masks.shape)
