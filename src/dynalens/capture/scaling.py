"""Images of integers that a step converts and scales before it gives them to the network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynalens.capture.entries import Path
from dynalens.capture.views import View

_CHANNEL_AXES = 3
"""Fewest axes of an entry with channels. Rows of a table have one factor for each column."""
_ROUNDING = 8
"""Largest distance from the line, in units of rounding of the largest value: a few operations round one after
another."""


@dataclass(frozen=True)
class Scaling:
    """What a step makes of an input: ``factor * x + offset`` for each channel, in another dtype.

    Attributes:
        source: dtype of the input.
        dtype: dtype of the result.
        factor: One number for each channel; empty if only the dtype changes.
        offset: One number for each channel.
    """

    source: torch.dtype
    dtype: torch.dtype
    factor: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()

    def of(self, inputs: Tensor) -> Tensor:
        """Return the same of other inputs; those of another dtype or another number of channels as they are.

        Example:
            >>> scaling = Scaling(torch.uint8, torch.float32, (1 / 255,), (0.0,))
            >>> scaling.of(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)).flatten().tolist()
            [0.0, 0.2..., 1.0]
        """
        if inputs.dtype != self.source:
            return inputs
        if not self.factor:
            return inputs.to(self.dtype)
        if inputs.shape[1:2] != (len(self.factor),):
            return inputs
        factor, offset = (
            torch.tensor(numbers, dtype=torch.float64).view(1, -1, *[1] * (inputs.ndim - 2)).to(inputs.device)
            for numbers in (self.factor, self.offset)
        )
        return (inputs.double() * factor + offset).to(self.dtype)

    def is_like(self, other: "Scaling | None") -> bool:
        """Return whether another step scales alike, apart from rounding."""
        if other is None or (self.source, self.dtype) != (other.source, other.dtype):
            return False
        ours, theirs = (torch.tensor([*each.factor, *each.offset]) for each in (self, other))
        return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


ScaledView = tuple[View | None, Scaling]
"""A view of an entry, None for the entry itself, and how it was scaled."""


def scaled_entries(
    entries: Sequence[tuple[Path, Tensor]], tensors: Sequence[Tensor]
) -> Iterator[tuple[Path, Tensor, ScaledView]]:
    """Yield each entry of a batch of which a module was given a scaled copy: its path, the copy, view and scaling."""
    for path, entry in entries:
        for tensor in tensors:
            scaling = scaling_from(entry, tensor)
            if scaling is not None:
                yield path, tensor, scaling


def scaling_from(entry: Tensor, tensor: Tensor) -> ScaledView | None:
    """Return of which view of integers with channels a tensor is a scaled copy, and how; None if it is none.

    Factor and offset are those of the line through each channel's numbers, which must lie on it, apart from rounding.
    Waits for the device.

    Example:
        >>> images = torch.arange(24).view(2, 3, 2, 2)
        >>> scaling_from(images, images / 4 - 1)[1].offset
        (-1.0, -1.0, -1.0)
    """
    may_be = entry.ndim >= _CHANNEL_AXES and len(entry) == len(tensor) and entry.numel() == tensor.numel() > 0
    if not may_be or not holds_integers(entry) or not tensor.is_floating_point() or tensor.grad_fn is not None:
        return None
    for view in (None, View(axes=(0, entry.ndim - 1, *range(1, entry.ndim - 1)))):
        inputs = entry if view is None else view.view_of(entry)
        line = _line(inputs, tensor) if inputs.shape == tensor.shape else None
        if line is not None:
            return view, Scaling(entry.dtype, tensor.dtype, *line)
    return None


def conversion_from(entry: Tensor, tensors: Sequence[Tensor]) -> Scaling | None:
    """Return how integers became floating tensors with the same values; None if a module was given integers.

    Example:
        >>> bits = torch.tensor([[0, 1]])
        >>> conversion_from(bits, [bits.float()]), conversion_from(bits, [bits.float(), bits])
        (Scaling(source=torch.int64, dtype=torch.float32, factor=(), offset=()), None)
    """
    are_converted = holds_integers(entry) and all(tensor.is_floating_point() for tensor in tensors)
    return Scaling(entry.dtype, tensors[-1].dtype) if are_converted else None


def holds_integers(values: Tensor) -> bool:
    """Return whether the numbers are integers or booleans, which a network with floating weights is not given."""
    return not (values.is_floating_point() or values.is_complex())


def _line(values: Tensor, tensor: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return factor and offset of each channel; None if a number is not on its line, or all of a channel are equal."""
    x, y = (numbers.detach().double().transpose(0, 1).flatten(1) for numbers in (values, tensor))
    centred = x - x.mean(dim=1, keepdim=True)
    spread = centred.square().sum(dim=1)
    factor = (centred * y).sum(dim=1) / spread
    offset = y.mean(dim=1) - factor * x.mean(dim=1)
    off_line = (factor[:, None] * x + offset[:, None] - y).abs().max()
    rounding = _ROUNDING * torch.finfo(tensor.dtype).eps * y.abs().max()
    is_line = bool((spread > 0).all() and (factor != 0).all() and off_line <= rounding)
    offset = torch.where(offset.abs() <= rounding, 0.0, offset)
    return (tuple(factor.tolist()), tuple(offset.tolist())) if is_line else None
