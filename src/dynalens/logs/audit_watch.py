"""Copy the inputs and targets of the samples of an audit from the batches as they pass."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.dynamics import Array
from dynalens.pictures import Normalisation, PassingCopies, by_shape, shown_inputs, small_copies
from dynalens.record import AuditedSample
from dynalens.units import PIXEL_LABELS, PIXELS, TARGETS, TOKENS, UnitPresentation

_LONGEST_SIDE = 256
"""Longest side of a picture, in pixels. A mask of as many pixels takes as many bytes as the next number says."""
_MOST_BYTES = 2**17
"""Most bytes of a sample's targets. Masks are scaled down to it; of longer sequences, the first tokens are kept."""
_DTYPES = {TOKENS: torch.int32, PIXELS: torch.int16, TARGETS: torch.float32}
_TOKENS = 2
"""Number of axes of tokens, ``(N, T)``."""


class AuditWatch:
    """Keeps inputs and targets of samples that have a label for each token or pixel, or several numbers.

    Nothing waits for the device in a step: copies stay there until :meth:`take` moves them to the host.

    Args:
        rows: Rows of the samples in the record.
        normalisation: Normalisation of the inputs, which pictures undo.

    Attributes:
        samples: The samples that have passed, by their rows.

    Example:
        >>> from dynalens.units import dense
        >>> watch = AuditWatch([5])
        >>> watch.see([4, 5], torch.tensor([[7, 8, 9], [3, 1, 2]]))
        >>> watch.note([4, 5], dense(torch.zeros(2, 2, 3), torch.tensor([[0, 0, 0], [1, 0, -100]])))
        >>> watch.take()
        >>> watch.samples[5].input.tolist(), watch.samples[5].labels.tolist()
        ([3, 1, 2], [1, 0, -100])
    """

    def __init__(self, rows: Sequence[int], normalisation: Normalisation | None = None) -> None:
        self.samples: dict[int, AuditedSample] = {}
        self._normalisation = normalisation
        self._inputs, self._targets = PassingCopies(), PassingCopies()
        self._inputs.follow(rows)
        self._targets.follow(rows)

    def see(self, indices: Sequence[int] | Tensor, inputs: Tensor | None) -> None:
        """Copy the inputs of these samples before a step, which may work in place.

        Args:
            indices: Row of the record of each sample.
            inputs: Shape ``(N, C, *spatial)``, or tokens ``(N, T)``; None or another N: nothing is copied.
        """
        if inputs is not None and len(inputs) == len(indices):
            self._inputs.offer(indices, inputs, lambda rows: small_copies(rows, _LONGEST_SIDE))

    def note(self, indices: Sequence[int] | Tensor, units: UnitPresentation | None) -> None:
        """Copy the targets of these samples after a step.

        Args:
            indices: Row of the record of each sample.
            units: What the step showed of their units; None if each sample has one label.
        """
        if units is not None and units.unit_targets is not None and len(units.unit_targets) == len(indices):
            name = units.kind.name
            self._targets.offer(indices, units.unit_targets, lambda rows: bounded(rows, name))

    def take(self) -> None:
        """Move to the host the copies of samples of which both inputs and targets have passed, or the targets alone."""
        targets = self._targets.take()
        copies = {row: copy for row, copy in self._inputs.take().items() if row in targets}
        inputs: dict[int, Array] = {}
        for rows in by_shape(copies):
            stack = torch.cat([copies[row] for row in rows])
            values = shown_inputs(stack, self._normalisation) if stack.ndim > _TOKENS else _array(stack)
            inputs |= dict(zip(rows, values, strict=True))
        self.samples |= {row: AuditedSample(_array(copy[0]), inputs.get(row)) for row, copy in targets.items()}


def _array(values: Tensor) -> Array:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


def bounded(targets: Tensor, kind: str) -> Tensor:
    """Return copies of targets, in at most 2^17 bytes per sample.

    Args:
        targets: As of :class:`~dynalens.units.UnitPresentation`. Of masks with a third axis of space, the middle slice.
        kind: Name of the kind of units.

    Example:
        >>> bounded(torch.arange(4).view(1, 4), "tokens").dtype
        torch.int32
        >>> bounded(torch.zeros(1, 512, 1024, dtype=torch.int64), "pixels").shape
        torch.Size([1, 181, 362])
    """
    if kind in (PIXELS, PIXEL_LABELS) and targets.ndim == (4 if kind == PIXELS else 5):
        targets = targets.select(-3, targets.shape[-3] // 2)
    dtype = _DTYPES.get(kind, torch.int8)
    max_numbers = _MOST_BYTES // dtype.itemsize
    if kind not in (PIXELS, PIXEL_LABELS):
        length = max_numbers // max(targets[:1, ..., 0].numel(), 1)  # of tokens, the last axis
        return targets[..., :length].to(dtype, copy=True)
    scale = math.sqrt(max_numbers / max(targets[:1].numel(), 1))
    if scale < 1:
        size = [max(1, int(side * scale)) for side in targets.shape[-2:]]
        masks = targets.float() if kind == PIXEL_LABELS else targets.float().unsqueeze(1)
        targets = F.interpolate(masks, size, mode="nearest").view(*targets.shape[:-2], *size)
    return targets.to(dtype, copy=True)
