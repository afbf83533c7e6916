"""Several binary losses of one step that make up one loss: each compares one column of the same output."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dynalens.capture.loss_tap import BINARY, LossCall


def joined_columns(calls: Sequence[LossCall]) -> LossCall | None:
    """Return the loss of a whole output, of which each call is the binary loss of one column; else None.

    A step may sum ``binary_cross_entropy_with_logits(logits[:, k], targets[:, k])`` over K labels, and a focal loss of
    classes may compare each class with all others. Calls with weights of their own are not joined.

    Args:
        calls: Two or more, each with logits ``(N, ...)`` or ``(N, 1, ...)`` and targets of that shape, where ``...``
            are the axes of pixels, if there are any.

    Returns:
        A call with logits and targets ``(N, K, ...)``, if the calls have all K columns of one tensor, once each.
    """
    first_call = calls[0]
    columns = [_column(call, first_call) for call in calls]
    numbers = [number for number in columns if number is not None]
    base = first_call.logits._base
    if base is None or sorted(numbers) != list(range(base.shape[1])) or len(calls) != len(numbers):
        return None
    if len({call.targets.data_ptr() for call in calls}) < len(calls):
        return None  # heads with one target, no labels of their own
    in_order = [call for _, call in sorted(zip(numbers, calls, strict=True), key=lambda pair: pair[0])]
    shape = len(base), *base.shape[2:]

    def joined(columns: Sequence[Tensor]) -> Tensor:
        return torch.stack([column.reshape(shape) for column in columns], dim=1)

    logits, targets = joined([call.logits for call in in_order]), joined([call.targets for call in in_order])
    loss_masks, weight = [call.is_counted() for call in in_order], None
    if any(mask is not None for mask in loss_masks):
        masks = [
            torch.ones_like(call.targets) if mask is None else mask.expand_as(call.targets)
            for mask, call in zip(loss_masks, in_order, strict=True)
        ]
        weight = joined(masks).to(logits.dtype)
    return first_call._replace(logits=logits, targets=targets, weight=weight, entries=None)


def _column(call: LossCall, first_call: LossCall) -> int | None:
    """Return which column of the first call's output these logits are; None if they are not a column of it."""
    logits, base = call.logits, call.logits._base
    if base is None or base is not first_call.logits._base or base.ndim < 2:
        return None
    if call.name != first_call.name or call.name not in BINARY or call.weight is not None:
        return None
    is_column = any(
        logits.shape == column.shape and logits.stride() == column.stride() for column in (base[:, 0], base[:, :1])
    )
    if not is_column or call.targets.shape != logits.shape:
        return None
    number, rest = divmod(int(logits.storage_offset()) - int(base.storage_offset()), base.stride(1))
    return None if rest or not 0 <= number < base.shape[1] else number
