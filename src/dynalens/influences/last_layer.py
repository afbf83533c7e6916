"""The model up to the linear layer that computes the logits, as TracIn for the last layer needs it, with checks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.attribution import find_forward
from dynalens.observation import (
    captured_calls,
    captured_outputs,
    checked_logits,
    device_of,
    floating_dtype,
    forward_of,
    module_named,
    two_class_logits,
    unwrap,
)

Forward = Callable[..., Any]
Loss = Callable[[Tensor, Tensor], Tensor]
# Tolerances for float32 logits that went through a log_softmax. A temperature or a bias changes them by far more.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4


class LastLayer(nn.Module):
    """A module that runs a model and returns the output of its last linear layer.

    Args:
        model: The whole model.
        layer: The linear layer.
        run: Callable(inputs) that runs the model.
        own_loss: Whether the user passed a loss. It takes the output of the model, which must then be that of the
            layer.
    """

    def __init__(self, model: nn.Module, layer: nn.Linear, run: Forward, *, own_loss: bool) -> None:
        super().__init__()
        self.inner, self.layer, self._run, self._own_loss = model, layer, run, own_loss

    def forward(self, inputs: Any) -> Tensor:
        """Return the output (N, K) of the layer, or raise a ValueError if the model's probabilities are not its own."""
        calls: list[tuple[Tensor, Tensor]] = []
        with captured_calls(self.layer, lambda _module, call, output: calls.append((call[0][0], output))):
            output = checked_logits(run_on(self.inner, self._run, inputs))
        if len(calls) != 1 or calls[0][0].ndim != 2:
            shapes = [tuple(x.shape) for x, _ in calls]
            raise ValueError(
                "Expected `layer` to be called once with one row for each sample, got "
                f"{f'calls with inputs of shapes {shapes}' if shapes else 'no call'}. Name the linear layer that "
                "computes the logits."
            )
        logits = calls[0][1]
        if not (_are_close(output, logits) if self._own_loss else have_same_probabilities(output, logits)):
            raise ValueError(
                "Expected the model to return the logits that `layer` computes, got others: the model changes the "
                "probabilities after this layer. Pass `forward=` with a callable(inputs) that returns the "
                "output of the layer."
            )
        return logits


def run_on(model: nn.Module, run: Forward, inputs: Any) -> Any:
    """Return the model's output for inputs from a loader, which are first moved to its device and its dtype.

    Raises:
        ValueError: If it returns the logits of several heads.
    """
    device = device_of(model)

    def to_device(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, floating_dtype(model, value) if value.is_floating_point() else value.dtype)

    is_named = isinstance(inputs, Mapping)
    output = run(**{key: to_device(value) for key, value in inputs.items()}) if is_named else run(to_device(inputs))
    _check_one_head(output)
    return output


def _check_one_head(output: Any) -> None:
    """Raise a ValueError if a model returns the logits of several heads: checkpoints do not say which the loss used."""
    entries = output if isinstance(output, tuple | list) else ()
    shapes = [tuple(entry.shape) for entry in entries if isinstance(entry, Tensor) and entry.ndim == 2]
    if len(shapes) > 1 and len(set(shapes)) == 1:
        raise ValueError(
            f"Expected the model to return the logits of one head, got {len(shapes)} tensors of shape {shapes[0]}. "
            "Pass `forward=` with a callable(inputs) that returns those that the loss was computed from."
        )


def linear_layer(model: nn.Module, name: str | None, run: Forward, inputs: Any) -> nn.Linear:
    """Return the linear layer of this name, or the last one that computes the logits.

    Raises:
        ValueError: If there is no such layer.
    """
    inner = unwrap(model)
    if name is None and isinstance(inner, nn.Linear):
        return inner
    if name is None:
        with captured_outputs(model) as outputs, torch.no_grad():
            output = checked_logits(run_on(model, run, inputs))
        layers = [m for _, m, z in outputs if isinstance(m, nn.Linear) and have_same_probabilities(output, z)]
        layer = layers[-1] if layers else None
    else:
        layer_of_name = module_named(model, name, argument="layer")
        layer = layer_of_name if isinstance(layer_of_name, nn.Linear) else None
    if layer is None:
        raise ValueError(
            f"Expected `layer` to name the linear layer that computes the logits, got {name or 'no such layer'}. Name "
            "such a layer, or pass `forward=` with a callable that returns its output."
        )
    return layer


def have_same_probabilities(output: Tensor, logits: Tensor) -> bool:
    """Return whether an output stands for the same probabilities as these logits.

    It may be the logits, the logits with a constant added to each row, or the probabilities.

    Example:
        >>> z = torch.tensor([[1.0, 3.0]])
        >>> [have_same_probabilities(output, z) for output in (z, z.log_softmax(1), z.softmax(1), z / 2)]
        [True, True, True, False]
    """
    if output.numel() != logits.numel() or len(output) != len(logits) or logits.ndim != 2:
        return False
    output = output.detach().reshape(logits.shape).float()
    logits = logits.detach().float()
    if logits.shape[1] == 1:
        return _are_close(output, logits) or _are_close(output, logits.sigmoid())
    centred_logits = output - output.mean(dim=1, keepdim=True), logits - logits.mean(dim=1, keepdim=True)
    return _are_close(*centred_logits) or _are_close(output, logits.softmax(dim=1))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, summed over samples. A single logit per sample stands for two classes.

    Raises:
        ValueError: If the labels are not one class for each sample.
    """
    labels = labels.to(logits.device)
    if labels.is_floating_point() or labels.ndim > 2 or labels.numel() != len(logits):
        raise ValueError(
            f"Expected one class for each of {len(logits)} samples, got labels {tuple(labels.shape)}, {labels.dtype}. "
            "Pass `inputs=` with a callable(batch) that returns inputs and classes, or `loss=` with the loss of the "
            "training, summed over samples."
        )
    return F.cross_entropy(two_class_logits(logits), labels.flatten().long(), reduction="sum")


def checked_loss(loss: Loss) -> Loss:
    """Return the loss with labels moved to the logits' device. It raises a ValueError if it is no sum over samples."""

    def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.to(logits.device)
        value = loss(logits, labels)
        with torch.no_grad():
            double_value = loss(torch.cat([logits, logits]), torch.cat([labels, labels]))
        if value.ndim or not torch.isclose(double_value, 2 * value, rtol=1e-3).item():
            raise ValueError(
                "Expected `loss` to be a sum over samples, got one that is not doubled if each sample comes twice. "
                "Pass it with `reduction='sum'`."
            )
        return value

    return summed_loss


def _are_close(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel():
        return False
    return torch.allclose(a.detach().float().flatten(), b.detach().float().flatten(), _RELATIVE, _ABSOLUTE)


def runner(model: nn.Module, forward: Forward | None, inputs: Any) -> Forward:
    """Return a callable that runs the model: ``forward``, the model, or its only child that returns logits."""
    if forward is None and isinstance(inputs, Tensor) and inputs.is_floating_point():
        return find_forward(model, inputs[:1].to(device_of(model)))
    return forward_of(model, forward)
