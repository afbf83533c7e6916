"""The inputs that a model takes, and the logits in what it returns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def floating_dtype(model: nn.Module, images: Tensor) -> torch.dtype:
    """Return the dtype in which the model computes.

    That of its first floating parameter, or else that of the images.
    """
    floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, images.dtype)


def device_of(model: nn.Module, images: Tensor | None = None) -> torch.device:
    """Return the device of the model's first parameter or buffer, or else that of the images, or else the CPU."""
    tensors = (*model.parameters(), *model.buffers(), *(() if images is None else (images,)))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def is_tokens(inputs: Tensor) -> bool:
    """Return whether these are ids of tokens, integers (N, T), rather than images or signals."""
    counts = not (inputs.is_floating_point() or inputs.is_complex() or inputs.dtype is torch.bool)
    return inputs.ndim == 2 and counts


def named_logits(output: object) -> object:
    """Return a model's output if it is a tensor, or else its tensor ``logits`` or ``out``, a key or attribute.

    Other outputs are returned unchanged.

    Example:
        >>> scores = torch.zeros(2, 3)
        >>> named_logits({"aux": torch.ones(2, 3), "out": scores}) is scores
        True
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        value_of_name = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value_of_name, Tensor):
            return value_of_name
    return output


def unit_logits_in(output: object) -> object:
    """Return the logits of tokens or pixels in what a model returns: a tensor as it is, else what is clearly theirs.

    That is ``logits`` or ``out``, as key or attribute, as transformers and torchvision return them; else the only
    floating tensor with three axes or more, or the first one of a tuple or list where all have one shape, as those of
    auxiliary heads. What has no such entry is returned as it is.

    Example:
        >>> scores = torch.zeros(2, 5, 3)
        >>> unit_logits_in({"loss": torch.tensor(1.0), "logits": scores}) is scores
        True
    """
    output = named_logits(output)
    if isinstance(output, Tensor):
        return output
    tensors = [tensor for tensor in _tensors_in(output) if tensor.ndim > 2 and tensor.is_floating_point()]
    has_order = not isinstance(output, Mapping)
    is_clear = len(tensors) == 1 or (has_order and len({tensor.shape for tensor in tensors}) == 1)
    return tensors[0] if is_clear else output


def logits_in(output: object) -> object:
    """Return the logits in what a model returns: a tensor as it is, else the entry that is clearly the logits.

    That is ``logits``, as key or attribute; of other dictionaries the only tensor (N, K), or ``out`` if there are
    several of one shape; of tuples and lists the first, if it is (N, K) and no other entry is of another (N, K'): what
    follows may be auxiliary heads. A loss without dimensions may stand before it. What has no such entry is returned as
    it is.

    Example:
        >>> main, auxiliary = torch.ones(2, 3), torch.zeros(2, 3)
        >>> logits_in((main, auxiliary)) is main, logits_in({"features": torch.ones(2, 9, 1), "out": main}) is main
        (True, True)
        >>> features = torch.ones(2, 9)
        >>> logits_in((features, main)) is main
        False
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor) and logits.ndim in (1, 2):
        return logits
    tensors = [tensor for tensor in _tensors_in(output) if tensor.ndim > 0]
    rows = [tensor for tensor in tensors if tensor.ndim == 2 and tensor.is_floating_point()]
    if not rows or any(tensor.shape != rows[0].shape for tensor in rows):
        return output
    if isinstance(output, Mapping):
        return rows[0] if len(rows) == 1 else output.get("out", output)
    return rows[0] if rows[0] is tensors[0] else output


def checked_logits(output: object) -> Tensor:
    """Return :func:`logits_in` what a model returns, or raise a ValueError if it is not clear what they are."""
    logits = logits_in(output)
    if isinstance(logits, Tensor):
        return logits
    shapes = [tuple(tensor.shape) for tensor in _tensors_in(output)]
    raise ValueError(
        f"Expected the model to return logits, got a {type(output).__name__}. Pass `forward=` with a callable that "
        f"returns them{f', one of its tensors {shapes}' if shapes else ''}."
    )


def _tensors_in(output: object) -> list[Tensor]:
    """Return the tensors in a dictionary, tuple or list; none in anything else."""
    entries: Any = (
        output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    )
    return [entry for entry in entries if isinstance(entry, Tensor)]


def two_class_logits(logits: Tensor) -> Tensor:
    """Return logits (N, K) with K >= 2; a binary logit z, of shape (N,) or (N, 1), becomes (0, z).

    Then softmax gives class 1 the probability sigmoid(z).

    Example:
        >>> two_class_logits(torch.tensor([3.0]))
        tensor([[0., 3.]])
    """
    if logits.ndim == 2 and logits.shape[1] > 1:
        return logits
    z = logits.reshape(len(logits), 1)
    return torch.cat([torch.zeros_like(z), z], dim=1)


class LogitsModule(nn.Module):
    """A model in the form that Captum takes: a module whose only output is logits (N, K) with K >= 2.

    Args:
        model: The model. Its layers become layers of this module.
        run: Function that computes the model's output.
    """

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.run = model, run

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return two_class_logits(checked_logits(self.run(x)))
