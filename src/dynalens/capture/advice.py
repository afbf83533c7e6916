"""What to do about a step that shows no loss, or more than one."""

from typing import Any

from torch import Tensor

from dynalens.capture.batch import CaptureError, summary
from dynalens.capture.loss_tap import LOSSES, REGRESSIONS
from dynalens.capture.losses import StepLosses, calls_in_words, different
from dynalens.capture.regression import REMEDY as OF_NUMBERS

REMEDY = (
    "Return a dict with `loss`, `logits` and `targets` from `training_step`, or pass `capture=` with a "
    "callable(outputs, batch) -> (logits, targets), or with 'module:<name>' of the layer that gives the logits."
)
NO_LABELS = (
    "If a step trains on no labels, as one that pretrains the network, return any `logits` (N, K) and `targets` of "
    "-100 from it"
)
ANOTHER_NETWORK = (
    "Expected all steps to train one network on the labels, got a step with the logits of another network, as if two "
    "were trained in turn."
)
CHANGED_IN_PLACE = (
    "Expected the step to leave the logits as its loss was given them, got logits that were changed in place "
    "afterwards. Change a copy, as in `scores = logits.detach().clone()`: `detach` alone shares their memory."
)
_FEW_SHOT = (
    " If these are losses of tasks that each number their classes anew, as in few-shot learning, no logits are those "
    "of the same classes in all steps: leave the monitor out."
)


def not_one_loss(calls: str, losses: StepLosses, of_numbers: StepLosses, *, is_manual: bool) -> CaptureError:
    """Return the error about a step whose one loss is not known.

    Args:
        calls: What was seen, as text; "none" where nothing was.
        losses: The step's losses of classes.
        of_numbers: Its losses of numbers.
        is_manual: Whether the step begins its backward passes, as one with an inner loop does.
    """
    numbers = different(of_numbers.calls)
    exclusion = f" (not counting losses whose targets are no labels, {calls_in_words(numbers)})" if numbers else ""
    few_shot = _FEW_SHOT if is_manual and len(different(losses.calls)) > 2 else ""
    regression = "" if losses.calls else f" For a regression: {OF_NUMBERS}"
    names = ", ".join((*LOSSES, *REGRESSIONS))
    hint = f" {NO_LABELS}. Losses that need no argument: {names}." if calls == "none" else ""
    return CaptureError(
        "Expected one classification loss in a training step, or one loss of numbers whose targets are labels of "
        f"the batch, got {calls}{exclusion}. {REMEDY}{few_shot}{regression}{hint}"
    )


def label_tensor(labels: Any) -> Tensor:
    """Return the batch's labels, if they are a tensor."""
    if not isinstance(labels, Tensor):
        raise CaptureError(f"Expected the batch's labels to be a tensor, got {summary(labels)}. {REMEDY}")
    return labels
