"""What is said of inputs that are not explained as they are: changed by a step, one of several, or channels last."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.capture import BatchLayout, BatchObserver, CaptureError
from dynalens.explanations.forms import Forward, explained_form
from dynalens.notices import warn
from dynalens.observation import captured_calls, device_of, floating_dtype, undisturbed
from dynalens.text import error_in_words

_OF_ONE_INPUT = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, CaptureError)
_SERIES, _IMAGES = 3, 4
"""Number of axes of series (N, C, T), and of images (N, C, H, W)."""


class ChangedInputs:
    """Warns once if a monitor looks at inputs as the batch holds them, and the step gives the network others.

    Args:
        monitor: Name of the monitor.
        returned: What a callable that is passed as ``inputs=`` returns.
    """

    def __init__(self, monitor: str, returned: str) -> None:
        self._monitor, self._returned, self._has_told = monitor, returned, False

    def tell(self) -> None:
        """Warn, unless it has been said before."""
        if self._has_told:
            return
        self._has_told = True
        warn(
            "Expected `training_step` to give the network the inputs of the batch, got a step that changes them first, "
            f"for instance by scaling or resizing. {self._monitor} gives the network the inputs of the batch without "
            "this change. Make the change in the dataset, in `on_after_batch_transfer` or in `forward`, or pass "
            f"`inputs=` with a callable(batch) -> {self._returned} that makes it. If the change is only an "
            "augmentation, ignore this warning."
        )


@contextmanager
def several_inputs_told(
    guard: AbstractContextManager[None], observer: BatchObserver, *, has_forward: bool, has_inputs: bool
) -> Iterator[None]:
    """If the body fails for a network with several inputs, raise an error within the guard that says what to pass.

    So does an error of the network itself: an encoder with a decoder, say, computes nothing from the inputs alone.

    Args:
        guard: Takes errors of the body.
        observer: Has seen what training steps gave to the network.
        has_forward: Whether the user has passed a function that computes logits.
        has_inputs: Whether the user has passed where the inputs stand, which may be wrong.
    """
    with guard:
        try:
            yield
        except _OF_ONE_INPUT as error:
            layout = observer.layout
            is_clear = has_inputs or str(error).startswith("Expected")
            if has_forward or isinstance(error, torch.OutOfMemoryError) or (is_clear and not layout.other_inputs):
                raise
            advice = _advice(layout.all_inputs) if layout.other_inputs else _advice_for_one(layout.all_inputs)
            raise ValueError(f"{advice} (Without these: {error_in_words(error)})") from error


def tell_other_inputs(layout: BatchLayout) -> None:
    """Warn if training steps gave the network more than the entry that is explained, and maps worked without it."""
    if layout.other_inputs:
        warn(
            f"Expected a network that is given one entry of the batch, got one that is given "
            f"{_in_words(layout.all_inputs)}. It is explained with {_in_words(layout.all_inputs[:1])} alone, so its "
            "logits may differ from those of the training. If they do, pass `forward=` with a callable(pl_module, "
            "inputs) -> logits that makes the other entries from the inputs."
        )


def _in_words(paths: Sequence[tuple[Any, ...]]) -> str:
    return " and ".join("batch" + "".join(f"[{key!r}]" for key in path) for path in paths)


def _advice_for_one(paths: Sequence[tuple[Any, ...]]) -> str:
    return (
        f"Expected a network that computes logits, and a gradient of them, from {_in_words(paths) or 'its inputs'} "
        "alone, got an error. Pass `forward=` with a callable(pl_module, inputs) -> logits that adds what else it "
        "needs, or other `methods`."
    )


def _advice(paths: Sequence[tuple[Any, ...]]) -> str:
    entries = _in_words(paths)
    return (
        f"Expected a network that is given one entry of the batch, got one that is given {entries}. If they are "
        "columns of a table, pass `inputs=` with a callable(batch) -> (all columns in one floating tensor, labels), "
        "`forward=` with a callable(pl_module, columns) -> logits that separates them again, with `.long()` for those "
        "of integers, and `methods=('captum:FeatureAblation',)`, as integers have no gradient. Otherwise, pass an "
        "entry and its labels by `inputs=`, and a `forward=` that needs this entry only, or makes the others from it."
    )


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
    if not _reads_last_axis(model, forward_of(model, inputs), images.to(floating_dtype(model, images), copy=True)):
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
        value = next(iter((*arguments[0], *arguments[1].values())), None)
        if x.ndim == _IMAGES and isinstance(module, nn.Conv2d) and isinstance(value, Tensor):
            is_read.append(value.shape == x.movedim(-1, 1).shape != x.shape and not is_read)
        elif x.ndim == _SERIES and isinstance(module, (nn.Linear, nn.RNNBase)):
            is_read.append(isinstance(value, Tensor) and value.shape == x.shape and torch.equal(value.to(x), x))

    with undisturbed(model), torch.no_grad(), captured_calls(model, observe):
        forward(x)
    return any(is_read)
