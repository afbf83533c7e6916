"""Multi-label samples: K labels each, which are there or not."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.units.kinds import BITS, LABELS, UnitKind
from dynalens.units.presentation import UnitPresentation, presented

MOST_LABELS = 512
"""Labels up to which each (sample, label) has a record: eight bytes each, 4 KiB for a sample."""
_NONE = -1


def multi_label(logits: Tensor, bits: Tensor, loss_mask: Tensor | None = None) -> UnitPresentation:
    r"""Return what a step shows of N samples that have each of K labels or not.

    With logits :math:`z_k` and :math:`y_k \in \{0, 1\}`, the margin of a label is :math:`(2 y_k - 1) z_k`, the log odds
    of the given bit, and its loss :math:`\log(1 + \exp(-\mathrm{margin}))`. Takes no gradient and does not wait.

    Args:
        logits: Shape ``(N, K)``, any floating dtype.
        bits: Shape ``(N, K)``, int64: 1 where a sample has the label, 0 where not, negative where the target is none.
        loss_mask: Shape ``(N, K)``, bool, False where the loss ignores a label; default: all count.

    Example:
        >>> shown = multi_label(torch.tensor([[2.0, 3.0]]), torch.tensor([[1, 0]]))
        >>> shown.logits.tolist(), shown.numbers[0, 3:].tolist()  # label 1 is doubted; then the logits, and the bits
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
