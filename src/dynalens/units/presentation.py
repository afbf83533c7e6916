"""From the margins of a sample's units to its row, and the numbers that are kept beside it."""

from typing import NamedTuple

import torch
from torch import Tensor

from dynalens.units.kinds import UnitKind


class UnitPresentation(NamedTuple):
    """What a step shows of N samples with several units each.

    Attributes:
        logits: Shape ``(N, 2)``: the smallest margin of the sample's units, and 0.
        targets: Shape ``(N,)``, int64: 0 where a sample counts, -1 where the loss ignores all of its units, another
            negative number where one of its targets is none.
        kind: What the units are.
        numbers: Shape ``(N, kind.numbers)``, float32.
        marks: Of masks, shape ``(N, H, W)``, uint8: 1 where a given class above 0 is contradicted, or a label that was
            given; 2 where class 0 is, which is the background by custom, or a label that was not; else 0.
        given: What was given to each sample, negative, or NaN, where it has no part in the loss: of tokens the classes
            ``(N, T)``, of masks ``(N, H, W)``; with any number of labels 0 or 1 for each, ``(N, K, T)`` and ``(N, K, H,
            W)``; of a regression the targets ``(N, D)``. None where the record keeps all of it.
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
