"""Samples with a class for each token or pixel: what the record keeps of all of them together."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.units.kinds import KIND, MEAN_LOSS, NOT_A_CLASS, PIXEL_LABELS, PIXELS, TOKEN_LABELS, TOKENS, UnitKind
from dynalens.units.masks import CERTAIN, MASKED, without_half_masks
from dynalens.units.presentation import UnitPresentation, presented
from dynalens.units.unit_states import packed_states

_AT_ONCE = 2**22
"""Numbers of logits that are reduced at once, 16 MiB: a step's memory does not grow by a copy of all of them."""
_IGNORED = -1


class _Units(NamedTuple):
    """Margin, loss, given class and rival of each unit, ``(n, U)`` each, and whether it counts."""

    margins: Tensor
    losses: Tensor
    classes: Tensor
    rivals: Tensor
    loss_mask: Tensor


def dense(logits: Tensor, classes: Tensor, loss_mask: Tensor | None = None, *, begin: int = 0) -> UnitPresentation:
    r"""Return what a training step shows of N samples that have a class for each of their tokens or pixels.

    If :math:`z` are the logits of a token or pixel and :math:`y` is its class, its margin is
    :math:`z_y - \max_{k \ne y} z_k` (Pleiss et al. 2020, equation 1) and its loss is
    :math:`-\log \mathrm{softmax}(z)_y`. The margin of a sample is the smallest margin of its tokens or pixels. A sample
    is as suspicious as the largest loss of its tokens, or as the mean loss of its pixels. Only those that the loss does
    not ignore count. No gradient is taken, and the CPU does not wait for the device.

    Args:
        logits: Shape ``(N, K, T)`` for tokens or ``(N, K, H, W)`` for pixels, any floating dtype, K >= 2.
        classes: Shape ``(N, T)`` or ``(N, H, W)``, int64. A number that is negative, or not below K, is not a
            class.
        loss_mask: Shape of ``classes``, bool: False if the loss ignores the token or pixel. Default: classes that are
            not negative count.
        begin: Position of the first token in the sequence, if the loss leaves out those before it.

    Returns:
        What :meth:`TrainingDynamics.update_units` takes.

    Example:
        >>> shown = dense(torch.tensor([[[2.0, 0.0, 1.0], [1.0, 3.0, 1.5]]]), torch.tensor([[0, 0, -100]]))
        >>> shown.kind.name, shown.logits.tolist()  # the second token has the smallest margin
        ('tokens', [[-3.0, 0.0]])
        >>> shown.numbers[0, 3:6].tolist()  # its position, its class and the suggested class
        [1.0, 0.0, 1.0]
    """
    size = max(1, _AT_ONCE // max(logits[:1].numel(), 1))
    unit_targets = _with_ignored(classes.detach(), loss_mask)
    loss_mask = classes >= 0 if loss_mask is None else loss_mask
    classes = torch.where(classes < logits.shape[1], classes, NOT_A_CLASS)
    samples = zip(*(torch.split(tensor.detach(), size) for tensor in (logits, classes, loss_mask)), strict=True)
    parts = [_reductions(_of_classes(*sample), classes.shape[1:], begin) for sample in samples]
    unit_targets = F.pad(unit_targets, (begin, 0), value=_IGNORED) if begin else unit_targets
    return _join(parts, TOKENS if classes.ndim == 2 else PIXELS)._replace(unit_targets=unit_targets)


def dense_binary(logits: Tensor, classes: Tensor, loss_mask: Tensor | None = None) -> UnitPresentation:
    r"""Return what a step shows of N masks of two classes, by one logit for each pixel.

    As :func:`dense` with the logits (0, z): the margin of a pixel is :math:`(2 y - 1) z`.

    Args:
        logits: Shape ``(N, H, W)``, any floating dtype.
        classes: Shape ``(N, H, W)``, int64, 0 or 1; negative where a target is none.
        loss_mask: Shape ``(N, H, W)``, bool, False where the loss ignores a pixel; default: all count.

    Example:
        >>> shown = dense_binary(torch.tensor([[[2.0, -3.0]]]), torch.tensor([[[1, 1]]]))
        >>> shown.logits.tolist(), shown.numbers[0, 3:6].tolist()
        ([[-3.0, 0.0]], [1.0, 1.0, 0.0])
    """
    z, y = logits.detach().float().flatten(1), classes.detach().flatten(1)
    margins = torch.where(y == 1, z, -z)
    counts = torch.ones_like(y, dtype=torch.bool) if loss_mask is None else loss_mask.flatten(1)
    units = _Units(margins, F.softplus(-margins), y, 1 - y, counts)
    presentation = _join([_reductions(units, classes.shape[1:], 0)], PIXELS)
    return presentation._replace(unit_targets=_with_ignored(classes.detach(), loss_mask))


def dense_labels(logits: Tensor, bits: Tensor, loss_mask: Tensor | None = None) -> UnitPresentation:
    r"""Return what a training step shows of N samples whose pixels or tokens may have any of K labels.

    If :math:`z` is the logit of a label of a pixel or token and :math:`y \in \{0, 1\}` says whether it has the label,
    the margin is :math:`(2 y - 1) z` and the loss is :math:`\log(1 + \exp(-\mathrm{margin}))`. :func:`dense` says what
    follows for the sample. A label k that was given is numbered as class 2 k + 1, one that was not given as class 2 k.

    Args:
        logits: Shape ``(N, K, H, W)`` for pixels or ``(N, K, T)`` for tokens, any floating dtype.
        bits: Same shape, int64: 1 if the pixel or token has the label, 0 if not, negative if the target is not valid.
        loss_mask: Same shape, bool: False if the loss ignores the label. Default: all labels count.

    Returns:
        What :meth:`TrainingDynamics.update_units` takes.

    Example:
        >>> shown = dense_labels(torch.tensor([[[[2.0, 1.0]], [[3.0, -1.0]]]]), torch.tensor([[[[1, 1]], [[0, 0]]]]))
        >>> shown.logits.tolist(), shown.numbers[0, 3:6].tolist()  # pixel 0 has no label 1, and should have it
        ([[-3.0, 0.0]], [0.0, 2.0, 3.0])
    """
    z, y = logits.detach().float(), bits.detach()
    margins = torch.where(y == 1, z, -z)
    counts = torch.ones_like(y, dtype=torch.bool) if loss_mask is None else loss_mask
    units = _Units(*(tensor.flatten(1) for tensor in (margins, F.softplus(-margins), y, 1 - y, counts)))
    unit_targets = _with_ignored(y, loss_mask)
    if z.ndim == 3:
        return _join([_reductions(units, z.shape[2:], 0, labels=z.shape[1])], TOKEN_LABELS)._replace(
            unit_targets=unit_targets
        )
    rows, targets, numbers, marks = _reductions(units, z.shape[1:], 0, labels=z.shape[1])
    missing_first = torch.where((marks == 1).any(dim=1), 1, marks.amax(dim=1)).to(marks.dtype)
    return _join([(rows, targets, numbers, missing_first)], PIXEL_LABELS)._replace(unit_targets=unit_targets)


def _with_ignored(classes: Tensor, loss_mask: Tensor | None) -> Tensor:
    return classes if loss_mask is None else classes.masked_fill(~loss_mask, _IGNORED)


def _of_classes(logits: Tensor, classes: Tensor, counts: Tensor) -> _Units:
    z, y = without_half_masks(logits).float().flatten(2), classes.flatten(1)
    label = y.clamp(0, z.shape[1] - 1).unsqueeze(1)
    of_label = z.gather(1, label).squeeze(1)
    losses = z.logsumexp(dim=1) - of_label
    rival, rivals = z.scatter(1, label, -torch.inf).max(dim=1)
    margins = of_label - rival
    is_counted = counts.flatten(1) & ~(margins < MASKED)  # no unit whose own class is masked
    return _Units(torch.where(margins > -MASKED, CERTAIN, margins), losses, y, rivals, is_counted)


def _reductions(units: _Units, shape: torch.Size, begin: int, *, labels: int = 1) -> tuple[Tensor, ...]:
    """Return logits, targets and numbers of each sample; the number of the kind is still 0.

    Of K labels, the units of each follow those of the one before.
    """
    result = presented(units.margins, units.losses, units.loss_mask)
    place = result.unit.unsqueeze(1)
    label, rival = (tensor.gather(1, place).squeeze(1) for tensor in (units.classes, units.rivals))
    lowest = units.classes.masked_fill(~units.loss_mask, 0).amin(dim=1)
    targets = torch.where(lowest < 0, lowest, torch.where(result.loss_mask, 0, _IGNORED))
    size = units.classes.shape[1] // labels
    classes = 2 * (result.unit // size)
    columns = torch.full_like(label, shape[-1])
    doubt = result.means[:, MEAN_LOSS] if len(shape) > 1 else units.losses.masked_fill(~units.loss_mask, 0).amax(dim=1)
    summary = [result.unit % size + begin, label + classes, rival + classes, torch.zeros_like(label), doubt, columns]
    states = packed_states(units.margins, units.loss_mask)
    numbers = torch.cat([result.means, torch.stack([tensor.float() for tensor in summary], dim=1), states], dim=1)
    rows = torch.stack([result.worst, torch.zeros_like(result.worst)], dim=1)
    return rows, targets, numbers, *((_marks(units, shape),) if len(shape) > 1 else ())


def _marks(units: _Units, shape: torch.Size) -> Tensor:
    is_contradicted = units.loss_mask & ~(units.margins > 0)
    return (is_contradicted * torch.where(units.classes > 0, 1, 2)).to(torch.uint8).view(-1, *shape)


def _join(parts: list[tuple[Tensor, ...]], name: str) -> UnitPresentation:
    kind = UnitKind(name, 0)
    rows, targets, numbers, *marks = (torch.cat(tensor) for tensor in zip(*parts, strict=True))
    numbers[:, KIND] = kind.code
    return UnitPresentation(rows, targets, kind, numbers, *marks)
