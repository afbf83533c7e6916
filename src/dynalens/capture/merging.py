"""Several calls of losses in a step that make up one loss: the same loss again, or one for each part of the batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynalens.capture.batch import CaptureError
from dynalens.capture.graph import have_same_scores
from dynalens.capture.loss_tap import BINARY, REGRESSIONS, LossCall, in_transform
from dynalens.dynamics import NOT_A_CLASS

RowsOf = Callable[[Tensor], Tensor | None]
"""Returns the rows of the batch that some targets belong to; None if these are all rows in order, or not known."""


def same_loss(calls: Sequence[LossCall], *, first_step: bool) -> LossCall | None:
    """Return the one loss that all calls compute, of the same logits and targets; None if there are several.

    A model may compute its loss itself, and a module again from a view of the same logits. If the targets are copies,
    they are compared in the first step. In later steps the device marks targets that differ.
    """
    first_call = calls[0]
    if len(calls) == 1:
        return first_call
    targets = first_call.targets
    for call in calls[1:]:
        if not have_same_scores(call.logits, first_call.logits) or call.logits.numel() != first_call.logits.numel():
            return None
        if call.targets.numel() != targets.numel():
            return None
        if _is_view(call.targets, targets):
            continue
        is_same = targets.flatten() == call.targets.flatten()
        if first_step and not bool(is_same.all()):
            return None
        targets = torch.where(is_same.view(targets.shape), targets, NOT_A_CLASS)
    return first_call._replace(targets=targets)


def _is_view(a: Tensor, b: Tensor) -> bool:
    if a is b or in_transform(a) or in_transform(b):  # which have no memory of their own
        return a is b
    return a.data_ptr() == b.data_ptr() and a.dtype == b.dtype


def check_returned(outputs: Mapping[str, Any], calls: Sequence[LossCall], rows_of: RowsOf) -> None:
    """Raise where a step returns the logits of its loss in another order than that of the targets beside them.

    It waits for the device.

    Raises:
        CaptureError: If the loss had rows of the batch in another order, and the returned targets are in the batch's.
            If the logits have as many classes as tokens, also if these are on each other's axes.
    """
    logits, targets = outputs["logits"], outputs["targets"]
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor) or rows_of(targets) is not None:
        return
    if any(_has_classes_last(logits, call) for call in calls):
        raise CaptureError(
            "Expected the returned `logits` to have the classes of tokens on the second axis, (N, K, T), got them on "
            "the last one. Return `logits.movedim(-1, 1)`."
        )
    losses = [call for call in calls if call.logits.shape == logits.shape and _is_view(call.logits, logits)]
    if losses and all(_is_moved(rows_of(call.targets)) for call in losses):  # mixup has the labels in both orders
        raise CaptureError(
            "Expected the returned `targets` to be in the order of the returned `logits`, got logits of a loss that "
            "had the rows of the batch in another order. Return both in the order of the batch, as in "
            "`logits[order.argsort()]`."
        )


def _is_moved(rows: Tensor | None) -> bool:
    return rows is not None and not torch.equal(rows.cpu(), torch.arange(len(rows)))


def _has_classes_last(logits: Tensor, call: LossCall) -> bool:
    """Return whether returned logits (N, T, T) are those of a loss, with classes on another axis than the second."""
    if logits.ndim != 3 or logits.shape[1] != logits.shape[2] or call.logits.numel() != logits.numel():
        return False
    return _is_view(call.logits, logits) and call.logits.ndim > 1 and call.logits.stride(1) != logits.stride(1)


def adds_rows(later_calls: Sequence[LossCall], first_call: LossCall, rows_of: RowsOf) -> bool:
    """Return whether later losses have other rows than the first one, or other targets. Waits for the device."""
    rows = rows_of(first_call.targets)
    if rows is None:
        return not all(_has_targets_of(call, first_call, rows_of(call.targets)) for call in later_calls)
    row_sets = [rows_of(call.targets) for call in later_calls]
    return not all(rows_of_call is not None and bool(torch.isin(rows_of_call, rows).all()) for rows_of_call in row_sets)


def _has_targets_of(call: LossCall, first_call: LossCall, rows: Tensor | None) -> bool:
    """Return whether a loss may be a second look at all or some rows of another loss: its targets are the same."""
    if rows is not None and rows.ndim == 1 and 0 < len(rows) < len(first_call.targets):
        has_rows = bool(rows.max() < len(first_call.targets))
        return has_rows and torch.equal(first_call.targets[rows.to(first_call.targets.device)], call.targets)
    same_size = call.targets.numel() == first_call.targets.numel()
    return same_size and torch.equal(call.targets.flatten(), first_call.targets.flatten())


def merged_loss(calls: Sequence[LossCall], rows_of: RowsOf, *, first_step: bool) -> LossCall | None:
    """Return one loss of all rows from losses of parts of a batch; None unless each row is known and is in one part.

    In the first step, a row in several parts is noticed here. In later steps the device marks it.
    """
    parts = [rows for rows in (rows_of(call.targets) for call in calls) if rows is not None]
    kinds = {(call.name, call.ignore_index, call.logits.shape[1:], call.targets.shape[1:]) for call in calls}
    has_weights = calls[0].name in BINARY and any(call.weight is not None for call in calls)
    if has_weights or len(parts) < len(calls) or len(kinds) > 1 or any(rows.ndim != 1 for rows in parts):
        return None
    rows, order = torch.cat(parts).sort()
    is_repeated = torch.zeros_like(rows, dtype=torch.bool)
    is_repeated[order[1:]] = rows[1:] == rows[:-1]
    if first_step and bool(is_repeated.any()):
        return None
    logits = torch.cat([call.logits.detach() for call in calls])
    targets = torch.cat([call.targets for call in calls])
    marks = is_repeated.view(-1, *[1] * (targets.ndim - 1))
    mark = math.nan if calls[0].name in REGRESSIONS else NOT_A_CLASS
    return calls[0]._replace(logits=logits, targets=targets.masked_fill(marks, mark), selection=None)
