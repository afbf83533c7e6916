"""Losses of single labels that a mask selected from rows of several labels, as of data in which some are missing."""

from typing import NamedTuple

import torch
from torch import Tensor

from dynalens.capture.graph import Node
from dynalens.capture.loss_tap import LossCall


class LabelRows(NamedTuple):
    """Logits and targets ``(N, K)``, and which of them count; the others are 0."""

    logits: Tensor
    targets: Tensor
    is_counted: Tensor


def rows_of_selected(call: LossCall) -> LabelRows | None:
    """Return the rows whose labels a mask selected for a loss; None if none did.

    Example:
        >>> z, mask = torch.ones(2, 2, requires_grad=True) * 3, torch.tensor([[True, False], [True, True]])
        >>> call = LossCall("", z[mask], torch.tensor([1.0, 0.0, 1.0]), -100, direct=False)
        >>> rows_of_selected(with_selection(call))
        LabelRows(logits=tensor([[3., 0.],
                [3., 3.]]), targets=tensor([[1., 0.],
                [0., 1.]]), is_counted=tensor([[ True, False],
                [ True,  True]]))
    """
    mask = call.selection
    if mask is None or call.logits.shape != call.targets.shape:
        return None

    def spread(values: Tensor) -> Tensor:
        return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)

    loss_mask = call.is_counted()
    logits, targets = spread(call.logits.detach()), spread(call.targets.detach())
    return LabelRows(logits, targets, mask if loss_mask is None else spread(loss_mask.expand_as(call.logits)))


def with_selection(call: LossCall) -> LossCall:
    """Return the call with the mask that selected its logits, before the backward pass frees what autograd has saved.

    It has none unless the logits are single ones of rows (N, K).
    """
    node: Node = call.logits.grad_fn
    if call.logits.ndim != 1 or node is None or not node.name().startswith(("IndexBackward", "MaskedSelectBackward")):
        return call
    indices = (node._saved_mask,) if hasattr(node, "_saved_mask") else node._saved_indices
    mask = indices[0] if len(indices) == 1 else None
    is_mask = isinstance(mask, Tensor) and mask.dtype is torch.bool and mask.ndim == 2 and mask.shape[1] > 1
    return call._replace(selection=mask) if is_mask else call
