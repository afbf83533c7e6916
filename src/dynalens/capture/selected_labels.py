"""Losses of single units that a mask selected from the rows of a batch: labels, pixels, tokens or numbers."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from dynalens.capture.graph import Node
from dynalens.capture.loss_tap import OF_CLASSES, REGRESSIONS, LossCall
from dynalens.dynamics import IGNORED


def with_selection(call: LossCall) -> LossCall:
    """Return the call with what its graph shows of units that it leaves out, before a backward pass frees the graph.

    It has the mask by which the step selected single units: from rows of logits, (N, ..., K), for a loss of classes,
    and from (N, ...) for others, where those of a binary loss have two axes or more. Outputs that the step multiplied
    by 0 have the weight 0: nothing of the network is left in them.
    """
    node: Node = call.logits.grad_fn
    if node is None:
        return call
    if call.name not in OF_CLASSES and (factor := _constant_factor(node)) is not None:
        is_counted = (factor != 0).expand_as(call.logits)
        return call._replace(weight=is_counted if call.weight is None else is_counted & (call.weight != 0))
    mask = _selecting_mask(node)
    of_classes = call.name in OF_CLASSES
    if mask is None or call.logits.ndim != 1 + of_classes or mask.ndim < 1 + (call.name not in REGRESSIONS):
        return call
    return call if of_classes and mask[:1].numel() == 1 else call._replace(selection=mask)


def _constant_factor(node: Node) -> Tensor | None:
    """Return the constant tensor that an operation multiplied a result by; None if it is another operation."""
    parts = [part for part, _ in node.next_functions]
    if not node.name().startswith("MulBackward") or len(parts) != 2 or parts.count(None) != 1:
        return None
    factor = node._saved_other if parts[1] is None else node._saved_self
    return factor if isinstance(factor, Tensor) else None


def _selecting_mask(node: Node) -> Tensor | None:
    """Return the mask by which an operation selected values; None if it is another operation."""
    if not node.name().startswith(("IndexBackward", "MaskedSelectBackward")):
        return None
    indices = (node._saved_mask,) if hasattr(node, "_saved_mask") else node._saved_indices
    mask = indices[0] if len(indices) == 1 else None
    return mask if isinstance(mask, Tensor) and mask.dtype is torch.bool else None


class Selections:
    """Tell masks that select units from those that select one row for each sample, such as its last token.

    The first loss decides, if it has as many targets as there are samples.
    """

    def __init__(self) -> None:
        self._are_units: bool | None = None

    def in_rows(self, call: LossCall, entries: Iterable[Tensor], samples: int | None) -> LossCall:
        """Return the loss of the rows from which a mask selected units; the call itself if none did."""
        if call.selection is None:
            return call
        if self._are_units is None:
            self._are_units = len(call.targets) != samples or any(_holds(entry, call) for entry in entries)
        return in_rows(call) if self._are_units else call


def _holds(entry: Tensor, call: LossCall) -> bool:
    """Return whether the targets are those numbers of an entry that the mask selects; waits for the device."""
    mask, targets = call.selection, call.targets
    if mask is None or entry.shape != mask.shape or entry.is_complex():
        return False
    return torch.equal(entry[mask.to(entry.device)].to(targets.device, targets.dtype), targets)


def in_rows(call: LossCall) -> LossCall:
    """Return the loss of the rows from which a mask selected single units; the call itself if none did.

    Units that were not selected do not count: their logits are 0, and their targets 0 in a binary loss, NaN in one of
    numbers and negative in one of classes.

    Example:
        >>> z, mask = torch.ones(2, 2, requires_grad=True) * 3, torch.tensor([[True, False], [True, True]])
        >>> targets = torch.tensor([1.0, 0.0, 1.0])
        >>> call = with_selection(LossCall("binary_cross_entropy_with_logits", z[mask], targets, -100, direct=False))
        >>> rows = in_rows(call)
        >>> rows.logits.tolist(), rows.targets.tolist(), rows.is_counted().tolist()
        ([[3.0, 0.0], [3.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]], [[True, False], [True, True]])
    """
    mask = call.selection
    if mask is None or call.targets.ndim != 1 or len(call.targets) != len(call.logits):
        return call
    of_classes, loss_mask = call.name in OF_CLASSES, call.is_counted()
    missing = IGNORED if of_classes else math.nan if call.name in REGRESSIONS else 0

    def spread(values: Tensor, filling: float = 0) -> Tensor:
        whole = values.new_full((*mask.shape, *values.shape[1:]), filling)
        return whole.masked_scatter(mask.reshape(*mask.shape, *[1] * (values.ndim - 1)), values)

    logits, targets = spread(call.logits.detach()), call.counted_targets()
    if of_classes:
        targets = targets if loss_mask is None else targets.masked_fill(~loss_mask, IGNORED)
        logits = logits.movedim(-1, 1)
    is_counted = mask if loss_mask is None else spread(loss_mask.expand_as(call.targets))
    return call._replace(
        logits=logits,
        targets=spread(targets, missing),
        weight=call.weight if of_classes else is_counted,
        entries=None,
        selection=None,
    )
