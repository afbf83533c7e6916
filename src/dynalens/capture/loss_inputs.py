"""Losses of logits that were given values in [0, 1], such as probabilities."""

from typing import Any

from torch import Tensor

from dynalens.capture.graph import comes_from, divides_exponentials
from dynalens.capture.loss_tap import LossCall
from dynalens.capture.soft import tolerance_of
from dynalens.notices import warn

_SOFTMAX, _SIGMOID = "softmax", "sigmoid"
_TAKES = {"cross_entropy": _SOFTMAX} | dict.fromkeys(
    ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"), _SIGMOID
)
"""What a loss of logits applies to them."""
_OPERATIONS = {
    _SIGMOID: ("SigmoidBackward0", "HardsigmoidBackward0"),
    "clamp to 0 and 1": ("ClampBackward1", "HardtanhBackward0"),
}
"""Operations in autograd's graph whose results lie in [0, 1]. Clamps may have other limits."""


def warn_of_probabilities(call: LossCall) -> None:
    """Warn if a loss of logits was given probabilities. Looks at one batch, and waits for the device.

    Rows without negative numbers that sum to 1 are probabilities. Single numbers in [0, 1] may be logits of a new
    network, so a sigmoid or a clamp must have computed them.
    """
    function = _TAKES.get(call.name)
    if function is None or call.logits.grad_fn is None or not call.logits.numel():
        return
    operation = _operation_before(call.logits, function)
    if operation:
        warn(
            f"Expected logits as the input of `{call.name}`, got the result of a {operation}: the loss takes the "
            f"{function} of its input by itself, so the network hardly learns. The record has the probabilities "
            f"that this loss computes. Leave the {operation} out and pass logits."
        )


def warn_of_given_probabilities(logits: Any, source: str) -> None:
    """Warn if rows of what a user named as logits are probabilities. Looks at one batch, and waits for the device.

    ``source`` says where they were named.
    """
    if isinstance(logits, Tensor) and logits.ndim > 1 and logits.numel() and _are_distributions(logits.detach()):
        warn(
            f"Expected logits ({source}), got probabilities: no number is negative, and each row sums to 1. The record "
            "takes the softmax of them, so margins and confidences are wrong. Return the logits, or the logarithm of "
            "the probabilities."
        )


def _operation_before(logits: Tensor, function: str) -> str:
    """Return the operation that put the values into [0, 1]; an empty string if there is none."""
    if bool(logits.detach().amin() < 0):  # as of nearly all logits, so that nothing else is computed
        return ""
    if function == _SOFTMAX and (comes_from(logits, ("SoftmaxBackward0",)) or _are_distributions(logits.detach())):
        return _SOFTMAX
    values = logits.detach()
    if not bool(((values >= 0) & (values <= 1)).all()):
        return ""
    # A clamp with other limits has values beyond them, too, unless a network is fresh.
    has_limits = bool(((values == 0) | (values == 1)).any())
    by_name = (name for name, operations in _OPERATIONS.items() if comes_from(logits, operations))
    operation = next(by_name, _SIGMOID if divides_exponentials(logits) else "")
    return operation if operation in (_SIGMOID, "") or has_limits else ""


def _are_distributions(values: Tensor) -> bool:
    sums = values.float().sum(dim=min(1, values.ndim - 1))
    return bool((values >= 0).all()) and bool(((sums - 1).abs() <= tolerance_of(values)).all())
