"""What a training step shows of samples that have several units: labels, tokens, pixels or numbers."""

from typing import NamedTuple

import torch
from torch import Tensor

from dynalens.units.kinds import UnitKind


class UnitPresentation(NamedTuple):
    """What a training step shows of N samples that have several units each: labels, tokens, pixels or numbers.

    Pass it to :meth:`TrainingDynamics.update_units`. You need not read it.

    Attributes:
        logits: Shape ``(N, 2)``: the smallest margin of the units of each sample, and 0.
        targets: Shape ``(N,)``, int64: 0 if the sample counts, -1 if the loss ignores all of its units, and another
            negative number if one of its targets is not valid.
        kind: What the units are, and how many labels they have.
        numbers: Shape ``(N, kind.numbers)``, float32: what the record keeps of the units.
        marks: For masks, shape ``(N, H, W)``, uint8: 1 where the network contradicts a class above 0 or a label that
            was given, 2 where it contradicts class 0, usually the background, or the absence of a label, otherwise 0.
        unit_targets: The targets of all units, negative or NaN where the loss ignores them: classes ``(N, T)`` of
            tokens and ``(N, H, W)`` of pixels; 0 or 1 for each of K labels, ``(N, K, T)`` and ``(N, K, H, W)``; targets
            ``(N, D)`` of a regression. None if ``numbers`` has all of them.
    """

    logits: Tensor
    targets: Tensor
    kind: UnitKind
    numbers: Tensor
    marks: Tensor | None = None
    unit_targets: Tensor | None = None


class Reduced(NamedTuple):
    """Margins reduced over the units of each sample, ``(N,)`` each.

    Attributes:
        worst: The smallest margin.
        unit: Its place among the units.
        loss_mask: Whether the sample has any unit that counts.
        means: Shape ``(N, 3)``: mean margin, fraction of units with a positive margin, mean loss.
    """

    worst: Tensor
    unit: Tensor
    loss_mask: Tensor
    means: Tensor


def presented(margins: Tensor, losses: Tensor, loss_mask: Tensor) -> Reduced:
    r"""Return the reductions over units of their margins :math:`m_u` and losses.

    :math:`\min_u m_u`, its place, and the means of :math:`m_u`, of :math:`[m_u > 0]` and of the losses over the units
    that count. No operation waits for the device.

    Args:
        margins: Shape ``(N, U)``, float32.
        losses: Shape ``(N, U)``, in nats.
        loss_mask: Shape ``(N, U)``, bool: False where the loss ignores a unit.

    Example:
        >>> margins, losses = torch.tensor([[2.0, -1.0, 9.0]]), torch.tensor([[0.0, 3.0, 9.0]])
        >>> reduced = presented(margins, losses, torch.tensor([[True, True, False]]))
        >>> reduced.worst.item(), reduced.unit.item(), reduced.means.tolist()
        (-1.0, 1, [[0.5, 0.5, 1.5]])
    """
    worst, unit = margins.masked_fill(~loss_mask, torch.inf).min(dim=1)
    has_units = loss_mask.any(dim=1)
    number = loss_mask.sum(dim=1).clamp(min=1)
    values = (margins, (margins > 0).float(), losses)
    means = torch.stack([value.masked_fill(~loss_mask, 0).sum(dim=1) / number for value in values], dim=1)
    return Reduced(worst.masked_fill(~has_units, 0), unit, has_units, means)
