"""What is said of series whose channels come last: maps take the last axis for the positions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.explanations.forms import Forward
from dynalens.notices import warn
from dynalens.observation import captured_calls, device_of, undisturbed

_SERIES = 3
"""Number of axes of series (N, C, T)."""


def tell_channels_last(model: nn.Module, forward_of: Callable[[nn.Module, Tensor], Forward], inputs: Tensor) -> None:
    """Warn if the network reads channels from the last axis of series, so that maps name channels and not times.

    Args:
        model: The module.
        forward_of: Callable(model, inputs) that returns the function from inputs to logits.
        inputs: Some of the inputs.
    """
    if inputs.ndim != _SERIES or not inputs.is_floating_point():
        return
    inputs = inputs.to(device_of(model, inputs))
    if _reads_last_axis(model, forward_of(model, inputs), inputs[:1]):
        steps, channels = inputs.shape[1:]
        warn(
            f"Expected series of shape (N, C, T), positions last, got inputs {tuple(inputs.shape)} of which a layer "
            f"reads the last axis as channels. If they are {steps} steps or points with {channels} numbers each, maps "
            "and curves tell which of these numbers count, not which steps. To see the steps, pass "
            "`inputs=lambda batch: (x.transpose(1, 2), labels)` with `x` and `labels` of the batch, and "
            "`forward=lambda module, x: module(x.transpose(1, 2))`."
        )


def _reads_last_axis(model: nn.Module, forward: Forward, x: Tensor) -> bool:
    """Return whether a linear or recurrent layer is given the inputs as they are."""
    is_read: list[bool] = []

    def observe(module: nn.Module, arguments: Any, _output: Any) -> None:
        if isinstance(module, (nn.Linear, nn.RNNBase)):
            given = next(iter((*arguments[0], *arguments[1].values())), None)
            is_read.append(isinstance(given, Tensor) and given.shape == x.shape and torch.equal(given.to(x), x))

    with undisturbed(model), torch.no_grad(), captured_calls(model, observe):
        forward(x)
    return any(is_read)
