"""Gradients with another backward pass through each ReLU, whether it is a module or a function, in place or not."""

import math

import torch
from torch import Tensor, nn

from dynalens.attribution.cam import grad_cam
from dynalens.attribution.maps import resize
from dynalens.attribution.overrides import ReluRule, modified_relu
from dynalens.attribution.passes import Forward, check_finite
from dynalens.attribution.score import score


def guided_backprop(
    model: nn.Module, images: Tensor, targets: Tensor, *, forward: Forward | None = None, chunk_size: int | None = None
) -> Tensor:
    r"""Return guided backpropagation: the gradient of which only positive parts pass back through active ReLUs.

    If :math:`g` is the gradient at the output of a ReLU, its input :math:`x` gets
    :math:`g \cdot [g > 0] \cdot [x > 0]`, where a bracket is 1 if the condition holds and else 0.

    Do not take the map for the reasons of the model: it mostly shows edges. For many models it hardly changes if
    another class is explained or the weights are random (Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS
    2018).

    Source: Springenberg et al., "Striving for Simplicity", 2015, section 3.4.

    Args:
        model: This and all arguments that are not listed here: see :func:`saliency`. The model must call ReLU or ReLU6,
            as a module or a function.

    Returns:
        As :func:`saliency`.

    Raises:
        ValueError: As for :func:`saliency`, and if the model calls no ReLU.

    Example:
        Logit 0 is ReLU(x) - ReLU(-x): the gradient through the second is negative, and does not pass.

        >>> class Two(torch.nn.Module):
        ...     def forward(self, x):
        ...         first, second = torch.relu(x), torch.relu(-x)
        ...         return torch.cat([(first - second).flatten(1), 0 * x.flatten(1)], dim=1)
        >>> image, target = torch.tensor([[[-3.0]]]), torch.tensor([0])
        >>> float(guided_backprop(Two(), image, target))
        0.0
    """
    return _modified_gradients("guided_backprop", _guided_gradient, model, images, targets, forward, chunk_size)


def deconvolution(
    model: nn.Module, images: Tensor, targets: Tensor, *, forward: Forward | None = None, chunk_size: int | None = None
) -> Tensor:
    r"""Return the deconvolution map: the gradient of which only positive parts pass back through ReLUs, active or not.

    If :math:`g` is the gradient at the output of a ReLU, its input gets :math:`g \cdot [g > 0]`, where the bracket is 1
    if the condition holds and else 0.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 2.1, written
    as a gradient as in Simonyan et al., "Deep Inside Convolutional Networks", 2014, section 4.

    Args:
        model: This and all arguments that are not listed here: see :func:`guided_backprop`.

    Returns:
        As :func:`saliency`.

    Example:
        The unit is not active, so the gradient is zero; the deconvolution passes its 2 on.

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU(), torch.nn.Linear(1, 2))
        >>> _ = model[2].weight.data.copy_(torch.tensor([[2.0], [0.0]]))
        >>> deconvolution(model, torch.tensor([[[-3.0]]]), torch.tensor([0]))
        tensor([[[2.]]])
    """
    return _modified_gradients("deconvolution", _deconvolution_gradient, model, images, targets, forward, chunk_size)


def rect_grad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    percentile: float = 98.0,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return RectGrad: the gradient that only the most important units of each ReLU layer pass back.

    If :math:`a` is the output of a ReLU and :math:`g` the gradient at this output, the input gets
    :math:`g \cdot [a g > \tau]`, where the bracket is 1 if the condition holds and else 0, and :math:`\tau` is the
    given percentile of :math:`a g` over all units of the layer, for each image. It is the smallest value that at
    least this percentage of the units do not exceed.

    Source: Kim et al., "Why are Saliency Maps Noisy? Cause of and Solution to Noisy Saliency Maps", 2019, section 3.
    Differs from the source: :math:`\tau` is never negative, so that a percentile of 0 gives guided backpropagation, and
    the map is not multiplied by the image.

    Args:
        model: This and all arguments that are not listed here: see :func:`guided_backprop`.
        percentile: In [0, 100). The higher it is, the fewer units pass a gradient back.

    Returns:
        As :func:`saliency`.

    Raises:
        ValueError: As for :func:`guided_backprop`, and if ``percentile`` is out of its range.

    Example:
        The products a g are 1 and 2; only what exceeds their median, 1, passes.

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> _ = model[2].weight.data.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        >>> rect_grad(model, torch.tensor([[[1.0, 2.0]]]), torch.tensor([0]), percentile=50)
        tensor([[[0., 1.]]])
    """
    if not 0 <= percentile < 100:
        raise ValueError(
            f"Expected `percentile` to be in [0, 100), got {percentile}. Pass a smaller number: at 100, no unit "
            "would be left."
        )

    def rule(gradient: Tensor, _is_active: Tensor, output: Tensor) -> Tensor:
        importance = (output * gradient).flatten(1)
        rank = max(math.ceil(percentile * importance.shape[1] / 100), 1)
        tau = importance.kthvalue(rank, dim=1, keepdim=True).values.clamp(min=0)
        return torch.where((importance > tau).view(gradient.shape), gradient, 0)

    return _modified_gradients("rect_grad", rule, model, images, targets, forward, chunk_size)


def guided_grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return guided Grad-CAM: guided backpropagation multiplied by Grad-CAM at the size of the image.

    :math:`B_{ci}\, U(L)_i` for channel c and pixel i, where :math:`B` is the map of :func:`guided_backprop`, :math:`L`
    the map of :func:`grad_cam`, and :math:`U` enlarges it to the size of the image by linear interpolation
    (:func:`resize`).

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, section 3.2, which interpolates in the same way. Captum's default
    is the nearest pixel.

    Args:
        model: This and all arguments that are not listed here: see :func:`guided_backprop`.
        target_layer: See :func:`grad_cam`.

    Returns:
        As :func:`saliency`.

    Example:
        Guided backpropagation is (2, 6); Grad-CAM of A = (2, 2) with the weight (1 + 3) / 2 is (4, 4).

        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
        >>> for layer, weight in ((model[0], [[[[2.0]]]]), (model[3], [[1.0, 3.0], [0.0, 0.0]])):
        ...     _ = layer.weight.data.copy_(torch.tensor(weight)), layer.bias.data.zero_()
        >>> guided_grad_cam(model, torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([0]), target_layer="0")
        tensor([[[[ 8., 24.]]]])
    """
    cam = grad_cam(model, images, targets, target_layer=target_layer, forward=forward, chunk_size=chunk_size)
    backprop_maps = guided_backprop(model, images, targets, forward=forward, chunk_size=chunk_size)
    return backprop_maps * resize(cam, images.shape[2:]).unsqueeze(1)


def _guided_gradient(gradient: Tensor, is_active: Tensor, _output: Tensor) -> Tensor:
    return torch.where(is_active, gradient.clamp(min=0), 0)


def _deconvolution_gradient(gradient: Tensor, _is_active: Tensor, _output: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def _modified_gradients(
    name: str,
    rule: ReluRule,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    forward: Forward | None,
    chunk_size: int | None,
) -> Tensor:
    """Return the gradients (N, C, *spatial) of a model whose ReLUs have another backward pass."""
    with (
        score(model, images, targets, forward=forward, chunk_size=chunk_size) as target_score,
        modified_relu(rule) as calls,
    ):
        maps = target_score.gradients(target_score.points)
    if not calls:
        raise ValueError(
            f"Expected the model to call ReLUs, whose gradients {name} changes, got no such call in "
            f"{type(model).__name__}. Without ReLUs the map equals that of `saliency`: use `saliency` or another "
            "method."
        )
    return check_finite(name, maps)
