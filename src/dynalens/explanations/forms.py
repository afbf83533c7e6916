"""The form of inputs that is explained, and how they are brought back to the form that the model takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.attribution import find_forward
from dynalens.attribution.passes import model_input
from dynalens.capture import Network
from dynalens.observation import checked_logits, is_tokens, undisturbed

Forward = Callable[[Tensor], Tensor]
_SAME = 1e-3


@dataclass(frozen=True)
class Query:
    """The question why a model gives images the logits of their targets.

    Attributes:
        model: The module.
        forward: Function that computes the logits of images in the form that is explained.
        images: Shape ``(N, C, *spatial)``, or tokens ``(N, T)``.
        targets: Shape ``(N,)``.
    """

    model: nn.Module
    forward: Forward
    images: Tensor
    targets: Tensor


def forward_in_network(
    model: nn.Module,
    images: Tensor,
    network: Network,
    *,
    dense: bool = False,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda forward: forward,
) -> Callable[[Tensor], Any]:
    """Return the function that computes the logits of the training steps' loss, as far as these showed it.

    Args:
        model: The module.
        images: Some of its inputs.
        network: What training steps showed of the network that gives the logits.
        dense: Whether it has logits for each token or pixel.
        wrap: Function that returns the network's forward pass with what it takes beside its inputs, such as a mask.
    """
    module = find_forward(model, images, dense=dense, network=network.modules)
    is_seen = bool(network.modules) and (module is not model or network.modules == ("",))
    forward = wrap(module)
    return (lambda x: network.logits_in(forward(x))) if network.entries and is_seen else forward


def is_table(inputs: Tensor) -> bool:
    """Return whether these are rows of a table, floating (N, F)."""
    return inputs.ndim == 2 and not is_tokens(inputs)


def explained_form(inputs: Tensor) -> Tensor:
    """Return inputs in the form that maps and curves have: floating (N, C, *spatial), or tokens (N, T) unchanged.

    Rows of a table (N, F) become (N, 1, F). Integer images become floating. Of complex channels, the real parts come
    first and then the imaginary ones.

    Example:
        >>> explained_form(torch.tensor([[1 + 2j, 3 - 1j]])).tolist()
        [[[1.0, 3.0], [2.0, -1.0]]]
    """
    if is_tokens(inputs):
        return inputs
    inputs = inputs.unsqueeze(1) if inputs.ndim == 2 else inputs
    if inputs.is_complex():
        return torch.cat([inputs.real, inputs.imag], dim=1)
    return inputs if inputs.is_floating_point() else inputs.float()


def model_form(images: Tensor, inputs: Tensor) -> Tensor:
    """Return floating inputs in the form that the model takes, except that integers stay floating.

    Args:
        images: In the form of :func:`explained_form`.
        inputs: Some inputs in the form that the model takes.

    Example:
        >>> inputs = torch.tensor([[1 + 2j, 3 - 1j]])
        >>> bool((model_form(explained_form(inputs), inputs) == inputs).all())
        True
    """
    if inputs.is_complex():
        real, imaginary = images.float().chunk(2, dim=1)
        images = torch.complex(real, imaginary)
    return images.squeeze(1) if is_table(inputs) else images


def forward_of_form(forward: Forward, inputs: Tensor) -> Forward:
    """Return the function that computes the logits of inputs in the form that is explained."""
    if is_table(inputs) or inputs.is_complex():
        return lambda float_inputs: forward(model_form(float_inputs, inputs))
    return forward


def in_rows(run: Forward) -> Forward:
    """Return logits (N, K, 1) of K labels as (N, K)."""

    def rows(images: Tensor) -> Tensor:
        logits = run(images)
        single = isinstance(logits, Tensor) and logits.ndim > 2 and logits.shape[2:].numel() == 1
        return logits.flatten(1) if single else logits

    return rows


def check_floating_copies(model: nn.Module, forward: Forward, inputs: Tensor) -> None:
    """Raise a ValueError if the model's logits for integer images and for floating copies of them differ."""
    if inputs.is_floating_point() or inputs.is_complex() or is_tokens(inputs):
        return
    with undisturbed(model), torch.no_grad():
        floating = forward(inputs[:1].float())
        try:
            is_same = torch.allclose(forward(inputs[:1]).float(), floating.float(), rtol=_SAME, atol=_SAME)
        except RuntimeError:  # a layer that takes floating images only
            is_same = False
    if not is_same:
        raise ValueError(
            f"Expected the model to return the same logits for images of {inputs.dtype} and for floating copies of "
            "them, got other logits or an error. Either `training_step` scales the images, or the model scales some "
            "dtypes only. Pass `inputs=` with a callable(batch) -> (scaled images, labels)."
        )


def check_crops(model: nn.Module, forward: Forward, crops: Tensor) -> None:
    """Raise a ValueError if a crop that is given twice has other logits than the crop alone.

    A mean over crops has not.

    Args:
        model: The module.
        forward: Function that computes the logits of samples with several crops.
        crops: Samples with one crop each, ``(N, 1, C, H, W)``.
    """
    crop = model_input(model, crops[:1])
    with undisturbed(model), torch.no_grad():
        logits, repeated_logits = (checked_logits(forward(crop.repeat(1, times, 1, 1, 1))).float() for times in (1, 2))
    is_same = logits.shape == repeated_logits.shape and torch.allclose(logits, repeated_logits, rtol=_SAME, atol=_SAME)
    if not is_same:
        raise ValueError(
            "Expected the model to average the logits of the V images of a sample, (N, V, C, H, W), got other logits "
            "when an image was given twice. To explain all V images together, pass `inputs=` with a callable(batch) -> "
            "(images with the axes V and C as one, labels), and `forward=` with a callable(pl_module, images) -> "
            "logits that separates them again."
        )


def check_outputs(model: nn.Module, forward: Forward, images: Tensor, outputs: int) -> None:
    """Raise a ValueError if a regression's model returns another number of outputs than its training step compares."""
    with undisturbed(model), torch.no_grad():
        number = checked_logits(forward(model_input(model, images[:1]).clone())).numel()
    if number != outputs:
        raise ValueError(
            "Expected the module to return as many numbers for a sample as `training_step` compares with its targets, "
            f"{outputs}, got {number}. Pass `forward=` with a callable(pl_module, inputs) -> predictions."
        )
