"""The one loss of a step that its samples are recorded by, of all that were trained on."""

from collections.abc import Callable, Sequence

from dynalens.capture.loss_tap import LossCall
from dynalens.capture.losses import StepLosses, different
from dynalens.capture.merging import RowsOf, adds_rows, joined, same_loss

Choose = Callable[[Sequence[LossCall]], LossCall | None]
"""Tells which of several losses is that of the batch's labels; None where that is not known."""


class OneLoss:
    """Find the loss that was trained on: the only one, one computed twice, or one of each part of the batch.

    Of several others, the one that has the labels of the batch is chosen, if only one has.

    Attributes:
        calls: Those that may be meant, of the step that was asked for last.
        chosen: The one that was chosen among different ones of that step, if that was needed.
    """

    def __init__(self) -> None:
        self.calls: list[LossCall] = []
        self.chosen: list[LossCall] = []
        self._joins: bool | None = None

    @property
    def told(self) -> str:
        """What an announcement says of a loss that was chosen; an empty text where there was one."""
        number = len(self.calls)
        return f" (of {number} losses in the step, the one with the labels of the batch)" if self.chosen else ""

    def of(self, losses: StepLosses, rows_of: RowsOf, choose: Choose, *, first_step: bool) -> LossCall | None:
        """Return it; None where several may be meant."""
        self.chosen = []
        if len(losses.computed) == 1:
            return losses.computed[0]
        calls, later = different(losses.trained), different(losses.later)
        self.calls = calls + later
        call = same_loss(calls, first_step=first_step)
        if call is not None and later and self._joins is None:
            self._joins = adds_rows(later, call, rows_of)
        if call is not None and not (later and self._joins):
            return call
        every = joined(self.calls, rows_of, first_step=first_step)
        if every is not None:
            return every
        call = choose(self.calls)
        self.chosen = [] if call is None else [call]
        return call
