"""Of all losses that a step trains on, the one that its samples are recorded by."""

from collections.abc import Callable, Sequence

from torch import nn

from dynalens.capture.advice import CHANGED_IN_PLACE
from dynalens.capture.batch import CaptureError
from dynalens.capture.columns import joined_columns
from dynalens.capture.heads import Heads
from dynalens.capture.loss_tap import LossCall
from dynalens.capture.losses import StepLosses, different
from dynalens.capture.merging import RowsOf, adds_rows, merged_loss, same_loss
from dynalens.capture.parameters import are_of_one_network

Choose = Callable[[Sequence[LossCall]], LossCall | None]
"""Returns the loss that has the labels of the batch, of several losses; None if it is not known."""


_OF_LABELS = "the one with the labels of the batch"
_MAIN = "that of the head whose output the network returns"
_AS_BEFORE = "that of the head that was recorded before"


class OneLoss:
    """Find the loss that a step is recorded by.

    That is its only loss, a loss that it computes twice, or the losses of all parts of the batch or of all columns. Of
    several different losses it is the one with the labels of the batch, if only one has them. Of several heads of a
    network with the same targets it is the loss of the main head.

    Attributes:
        calls: The losses of the newest step that may be meant.
        choice: The loss that was chosen of several different ones in that step; empty if there was one.
    """

    def __init__(self) -> None:
        self.calls: list[LossCall] = []
        self.choice: list[LossCall] = []
        self._joins: bool | None = None
        self._has_main = self._are_columns = False
        self._heads, self._reason = Heads(), ""

    @property
    def announcement(self) -> str:
        """Words that say how a loss was chosen, for an announcement; empty if there was one loss."""
        return f" (of {len(self.calls)} losses in the step, {self._reason})" if self.choice else ""

    def watch(self, model: nn.Module) -> None:
        """A step begins in which a network may show several heads for the first time."""
        self._heads.watch(model)

    def stop(self) -> None:
        """The step has run."""
        self._heads.stop()

    def forget(self) -> None:
        """Drop what the step computed."""
        self.choice = []
        self._heads.forget()

    def is_returned(self, call: LossCall) -> bool:
        """Return whether the module's own ``forward`` returned the logits of a loss of the first step."""
        return self._heads.have_returned(call.logits)

    def loss_of_step(self, losses: StepLosses, rows_of: RowsOf, choose: Choose, *, first_step: bool) -> LossCall | None:
        """Return the loss that the step is recorded by; None if several may be meant.

        Raises:
            CaptureError: If the logits were changed in place since.
        """
        call = self._find_loss(losses, rows_of, choose, first_step=first_step)
        for each in self.choice or losses.calls:
            if not each.is_as_it_was():
                raise CaptureError(CHANGED_IN_PLACE)
        if call is not None and first_step and (self._has_main or not self.choice):
            self._heads.note_weights(call)
        return call

    def _find_loss(self, losses: StepLosses, rows_of: RowsOf, choose: Choose, *, first_step: bool) -> LossCall | None:
        self.choice = []
        if len(losses.calls) == 1:
            return losses.calls[0]
        calls, later_calls = different(losses.trained_calls), different(losses.later_calls)
        self.calls = calls + later_calls
        column_call = joined_columns(calls) if len(calls) > 1 and not later_calls else None
        if column_call is not None:
            return column_call
        call = same_loss(calls, first_step=first_step)
        # After a pass that trains, the same network may take a second look. Another network trains on its own.
        is_one_network = not later_calls or are_of_one_network(each.logits for each in self.calls)
        if call is not None and later_calls and self._joins is None:
            self._joins = adds_rows(later_calls, call, rows_of)
        if call is not None and is_one_network and not (later_calls and self._joins):
            return call
        # Heads have the same rows: where these are known, they would look like parts that overlap.
        may_merge = is_one_network and not self._has_main and losses.are_of_one_update(self.calls)
        merged_call = merged_loss(self.calls, rows_of, first_step=first_step) if may_merge else None
        if merged_call is not None:
            return merged_call
        call, self._reason = choose(self.calls), _OF_LABELS
        if call is None:
            call, self._reason = self._loss_of_head(self.calls, first_step=first_step)
            self._has_main |= first_step and call is not None
        self.choice = [] if call is None else [call]
        return call

    def numbers_of_step(self, losses: StepLosses, rows_of: RowsOf, *, first_step: bool) -> list[LossCall]:
        """Return the losses of numbers that a step may be recorded by; none if its parts are not those of one loss.

        A second look of the same network is left out, and parts of the batch are joined. Numbers of several networks
        may stand side by side. Of several heads with the same targets, it is the loss of the main one.
        """
        calls = self._of_main_head(self._trained_numbers(losses, rows_of), first_step=first_step)
        are_parts = len(calls) > 1 and all(rows_of(call.targets) is not None for call in calls)
        may_merge = are_parts and not self._are_columns
        merged_call = merged_loss(calls, rows_of, first_step=first_step) if may_merge else None
        self._are_columns |= first_step and are_parts and merged_call is None
        return calls if merged_call is None else [merged_call]

    def _trained_numbers(self, losses: StepLosses, rows_of: RowsOf) -> list[LossCall]:
        calls, later_calls = losses.trained_calls, losses.later_calls
        if not later_calls:
            return calls
        all_calls = calls + later_calls
        if not are_of_one_network(call.logits for call in all_calls):
            return all_calls if all(rows_of(call.targets) is None for call in all_calls) else []
        if self._joins is None:
            self._joins = adds_rows(later_calls, calls[0], rows_of)
        if not self._joins:
            return calls
        return all_calls if losses.are_of_one_update(all_calls) else []

    def _of_main_head(self, calls: list[LossCall], *, first_step: bool) -> list[LossCall]:
        if len(calls) < 2 or not (first_step or self._has_main):
            return calls
        call, self._reason = self._loss_of_head(calls, first_step=first_step)
        if call is None:
            return calls
        self._has_main = True
        if first_step:
            self._heads.note_weights(call)
        return [call]

    def _loss_of_head(self, calls: Sequence[LossCall], *, first_step: bool) -> tuple[LossCall | None, str]:
        if first_step:
            return self._heads.main_of(calls), _MAIN
        return self._heads.with_known_weights(calls), _MAIN if self._has_main else _AS_BEFORE
