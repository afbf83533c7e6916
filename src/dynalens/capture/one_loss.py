"""The one loss of a step that its samples are recorded by, of all that were trained on."""

from collections.abc import Callable, Sequence

from torch import nn

from dynalens.capture.columns import of_columns
from dynalens.capture.heads import Heads
from dynalens.capture.loss_tap import LossCall
from dynalens.capture.losses import StepLosses, different
from dynalens.capture.merging import RowsOf, adds_rows, joined, same_loss

Choose = Callable[[Sequence[LossCall]], LossCall | None]
"""Tells which of several losses is that of the batch's labels; None where that is not known."""


_OF_LABELS = "the one with the labels of the batch"
_MAIN = "that of the head whose output the network returns in evaluation mode"
_AS_BEFORE = "that of the head that was recorded before"


class OneLoss:
    """Find the loss that was trained on: the only one, one computed twice, or one of each part of the batch or column.

    Of several others, the one that has the labels of the batch is chosen, if only one has. Of several heads of a
    network with the same targets, it is the main one.

    Attributes:
        calls: Those that may be meant, of the step that was asked for last.
        chosen: The one that was chosen among different ones of that step, if that was needed.
    """

    def __init__(self) -> None:
        self.calls: list[LossCall] = []
        self.chosen: list[LossCall] = []
        self._joins: bool | None = None
        self._has_main = False
        self._heads, self._way = Heads(), ""

    @property
    def told(self) -> str:
        """What an announcement says of a loss that was chosen; an empty text where there was one."""
        return f" (of {len(self.calls)} losses in the step, {self._way})" if self.chosen else ""

    def watch(self, model: nn.Module) -> None:
        """A step begins in which several heads may be met for the first time."""
        self._heads.watch(model)

    def stop(self) -> None:
        """The step has run."""
        self._heads.stop()

    def forget(self) -> None:
        """Let go of what the step computed."""
        self.chosen = []
        self._heads.forget()

    def of(self, losses: StepLosses, rows_of: RowsOf, choose: Choose, *, first_step: bool) -> LossCall | None:
        """Return it; None where several may be meant."""
        call = self._of(losses, rows_of, choose, first_step=first_step)
        if call is not None and first_step and (self._has_main or not self.chosen):
            self._heads.learn(call)
        return call

    def _of(self, losses: StepLosses, rows_of: RowsOf, choose: Choose, *, first_step: bool) -> LossCall | None:
        self.chosen = []
        if len(losses.computed) == 1:
            return losses.computed[0]
        calls, later = different(losses.trained), different(losses.later)
        self.calls = calls + later
        whole = of_columns(calls) if len(calls) > 1 and not later else None
        if whole is not None:
            return whole
        call = same_loss(calls, first_step=first_step)
        if call is not None and later and self._joins is None:
            self._joins = adds_rows(later, call, rows_of)
        if call is not None and not (later and self._joins):
            return call
        # Heads have the same rows: where these are known, they would look like parts that overlap.
        every = None if self._has_main else joined(self.calls, rows_of, first_step=first_step)
        if every is not None:
            return every
        call, self._way = choose(self.calls), _OF_LABELS
        if call is None:
            call, self._way = self._of_head(self.calls, first_step=first_step)
            self._has_main |= first_step and call is not None
        self.chosen = [] if call is None else [call]
        return call

    def of_numbers(self, calls: list[LossCall], *, first_step: bool) -> list[LossCall]:
        """Return the loss of numbers of the main head, if several heads have the same targets; else what it got."""
        if len(calls) < 2 or not (first_step or self._has_main):
            return calls
        call, self._way = self._of_head(calls, first_step=first_step)
        if call is None:
            return calls
        self._has_main = True
        if first_step:
            self._heads.learn(call)
        return [call]

    def _of_head(self, calls: Sequence[LossCall], *, first_step: bool) -> tuple[LossCall | None, str]:
        if first_step:
            return self._heads.main_of(calls), _MAIN
        return self._heads.same_as_before(calls), _MAIN if self._has_main else _AS_BEFORE
