"""Samples with several labels: for each of K labels, whether the sample has it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.units.kinds import BITS, LABELS, UnitKind
from dynalens.units.presentation import UnitPresentation, presented

MOST_LABELS = 512
"""Labels up to which each (sample, label) has a record: 6 bytes each, 3 KiB for a sample."""
_NONE = -1


def multi_label(logits: Tensor, bits: Tensor, loss_mask: Tensor | None = None) -> UnitPresentation:
    r"""Return what a training step shows of N samples that may have any of K labels.

    If :math:`z_k` is the logit of label k and :math:`y_k \in \{0, 1\}` says whether the sample has it, the margin of
    the label is :math:`(2 y_k - 1) z_k`, the log odds that :math:`y_k` is right, and its loss is
    :math:`\log(1 + \exp(-\mathrm{margin}))`. No gradient is taken, and the CPU does not wait for the device.

    Args:
        logits: Shape ``(N, K)``, any floating dtype.
        bits: Shape ``(N, K)``, int64: 1 if the sample has the label, 0 if not, negative if the target is not valid.
        loss_mask: Shape ``(N, K)``, bool: False if the loss ignores the label. Default: all labels count.

    Returns:
        What :meth:`TrainingDynamics.update_units` takes.

    Example:
        The sample has label 0, which the network predicts, and not label 1, which it predicts, too.

        >>> shown = multi_label(torch.tensor([[2.0, 3.0]]), torch.tensor([[1, 0]]))
        >>> shown.logits.tolist(), shown.numbers[0, 3:].tolist()  # the worst label is 1; the logits; the bits
        ([[-3.0, 0.0]], [1.0, 0.0, 1.0, 0.0, 2.0, 3.0, 1.0])
    """
    z = logits.detach().float()
    loss_mask = torch.ones_like(z, dtype=torch.bool) if loss_mask is None else loss_mask
    margins = torch.where(bits == 1, z, -z)
    result = presented(margins, F.softplus(-margins), loss_mask)
    targets = torch.where(result.loss_mask, 0, _NONE)
    no_labels = bits.masked_fill(~loss_mask, 0).amin(dim=1)
    targets = torch.where(no_labels < 0, no_labels, targets)
    bit = bits.gather(1, result.unit.unsqueeze(1)).squeeze(1)
    kind = UnitKind(LABELS, z.shape[1])
    worst_numbers = [result.unit, bit, torch.where(result.worst > 0, bit, 1 - bit), torch.full_like(bit, kind.code)]
    summary = torch.stack(worst_numbers, dim=1).float()
    kept_logits = z.masked_fill(~loss_mask, torch.nan)
    numbers = torch.cat([result.means, summary, kept_logits, packed(bits)], dim=1)
    rows = torch.stack([result.worst, torch.zeros_like(result.worst)], dim=1)
    return UnitPresentation(rows, targets, kind, numbers)


def packed(bits: Tensor) -> Tensor:
    """Return 16 of K bits in each number, the first one lowest, ``(N, ceil(K / 16))`` float32.

    Example:
        >>> packed(torch.tensor([[1, 0, 1]])).tolist()
        [[5.0]]
    """
    padded_bits = F.pad((bits == 1).float(), (0, -bits.shape[1] % BITS)).view(
        len(bits), -(-bits.shape[1] // BITS), BITS
    )
    powers = torch.arange(BITS, device=bits.device).exp2()
    return (padded_bits * powers).sum(dim=2)
