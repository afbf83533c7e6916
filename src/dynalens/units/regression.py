"""Samples of a regression: each has D numbers as targets."""

import torch
from torch import Tensor

from dynalens.units.kinds import KIND, MEAN_LOSS, SUMMARY, TARGETS, UnitKind
from dynalens.units.presentation import UnitPresentation

MOST_TARGETS = 512
"""Targets up to which each (sample, target) has a record: 16 bytes each, 8 KiB for a sample."""
_COUNTED, _NONE = 0, -1


def regression(residuals: Tensor, targets: Tensor, losses: Tensor, loss_mask: Tensor | None = None) -> UnitPresentation:
    """Return what a training step shows of N samples of a regression that have D targets each.

    ``end_epoch`` decides which predictions are within the tolerance, because only then the tolerance is known. No
    gradient is taken, and the CPU does not wait for the device.

    Args:
        residuals: Shape ``(N, D)``, prediction - target, any floating dtype.
        targets: Shape ``(N, D)``. NaN: the sample has no such target.
        losses: Shape ``(N, D)``, the loss of each target in this step.
        loss_mask: Shape ``(N, D)``, bool: False if the loss ignores the target. Default: all targets count.

    Returns:
        What :meth:`TrainingDynamics.update_units` takes.

    Example:
        >>> shown = regression(torch.tensor([[-3.0]]), torch.tensor([[5.0]]), torch.tensor([[9.0]]))
        >>> shown.kind, shown.numbers[0, 2].item(), shown.numbers[0, 7:].tolist()  # loss, residual and target
        (UnitKind(name='targets', labels=1), 9.0, [-3.0, 5.0])
    """
    values = targets.detach().float()
    loss_mask = ~values.isnan() if loss_mask is None else loss_mask & ~values.isnan()
    kind = UnitKind(TARGETS, values.shape[1])
    summary = values.new_zeros(len(values), SUMMARY)
    summary[:, MEAN_LOSS] = losses.detach().float().masked_fill(~loss_mask, 0).sum(dim=1) / loss_mask.sum(dim=1).clamp(
        min=1
    )
    summary[:, KIND] = kind.code
    values = values.masked_fill(~loss_mask, torch.nan)
    numbers = torch.cat([summary, residuals.detach().float(), values], dim=1)
    marks = torch.where(loss_mask.any(dim=1), _COUNTED, _NONE)
    return UnitPresentation(values.new_zeros(len(values), 2), marks, kind, numbers, unit_targets=values)
