"""Losses that take the softmax or sigmoid of what is one already."""

import warnings

from dynalens.capture.graph import comes_from
from dynalens.capture.loss_tap import LossCall

_TAKES = {"cross_entropy": ("softmax", "SoftmaxBackward0")} | dict.fromkeys(
    ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"), ("sigmoid", "SigmoidBackward0")
)
"""What a loss of logits computes of them, and the name of this in autograd's graph."""


def warn_of_probabilities(call: LossCall) -> None:
    """Warn where a loss of logits was given probabilities, as the graph of its input tells."""
    function, operation = _TAKES.get(call.name, ("", ""))
    if function and comes_from(call.logits, (operation,)):
        warnings.warn(
            f"Expected logits as the input of `{call.name}`, got the result of a {function}: the loss takes the "
            f"{function} once more, and hardly learns. The record has what this loss saw. Leave the first one out.",
            stacklevel=2,
        )
