"""What is said of series and images whose channels come last: maps take the second axis for the channels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.explanations.forms import Forward, explained_form
from dynalens.notices import warn
from dynalens.observation import captured_calls, device_of, floating_dtype, undisturbed

_SERIES, _IMAGES = 3, 4
"""Number of axes of series (N, C, T), and of images (N, C, H, W)."""


def tell_channels_last(model: nn.Module, forward_of: Callable[[nn.Module, Tensor], Forward], inputs: Tensor) -> None:
    """Warn if the network reads channels from the last axis of series or images, so that maps show other axes.

    Args:
        model: The module.
        forward_of: Callable(model, inputs) that returns the function from inputs to logits.
        inputs: Some of the inputs.
    """
    is_series = inputs.ndim == _SERIES and inputs.is_floating_point()
    if not is_series and inputs.ndim != _IMAGES:
        return
    inputs = inputs.to(device_of(model, inputs))
    images = explained_form(inputs[:1])
    if not _reads_last_axis(model, forward_of(model, inputs), images.to(floating_dtype(model, images))):
        return
    if is_series:
        steps, channels = inputs.shape[1:]
        warn(
            f"Expected series of shape (N, C, T), positions last, got inputs {tuple(inputs.shape)} of which a layer "
            f"reads the last axis as channels. If they are {steps} steps or points with {channels} numbers each, maps "
            "and curves tell which of these numbers count, not which steps. To see the steps, pass "
            "`inputs=lambda batch: (x.transpose(1, 2), labels)` with `x` and `labels` of the batch, and "
            "`forward=lambda module, x: module(x.transpose(1, 2))`."
        )
    else:
        warn(
            f"Expected images of shape (N, C, H, W), got inputs {tuple(inputs.shape)} of which a convolution reads the "
            "last axis as channels. Maps and curves take rows for channels, so they do not show pixels. To see pixels, "
            "pass `inputs=lambda batch: (x.movedim(-1, 1), labels)` with `x` and `labels` of the batch, and "
            "`forward=lambda module, x: module(x.movedim(1, -1))`."
        )


def _reads_last_axis(model: nn.Module, forward: Forward, x: Tensor) -> bool:
    """Return whether a linear or recurrent layer is given series as they are, or a convolution images with axes moved.

    Images may have been scaled first.
    """
    is_read: list[bool] = []

    def observe(module: nn.Module, arguments: Any, _output: Any) -> None:
        given = next(iter((*arguments[0], *arguments[1].values())), None)
        if x.ndim == _IMAGES and isinstance(module, nn.Conv2d) and isinstance(given, Tensor):
            is_read.append(given.shape == x.movedim(-1, 1).shape != x.shape and not is_read)
        elif x.ndim == _SERIES and isinstance(module, (nn.Linear, nn.RNNBase)):
            is_read.append(isinstance(given, Tensor) and given.shape == x.shape and torch.equal(given.to(x), x))

    with undisturbed(model), torch.no_grad(), captured_calls(model, observe):
        forward(x)
    return any(is_read)
