"""What a training step shows of its samples: their rows in the record, logits, targets, and features of a layer."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from dynalens.callbacks.layer_features import LayerFeatures
from dynalens.capture import Capture, CaptureError, ClaimedPairs, Presentation, StepCapture
from dynalens.dynamics import NOT_A_CLASS, TARGET, Array
from dynalens.identity import MIXED, RowCountError, SampleIdentity, StepRows, labels_each
from dynalens.notices import warn
from dynalens.observation import has_compiled_functions, is_compiled
from dynalens.units import UnitKind

_NO_CLASSES = (
    "Expected the targets to be classes, got {} in this epoch that name no class: soft or mixed ones, as mixup has "
    "them, numbers that are not below the number of logits, or binary ones that are neither 0 nor 1. Pass "
    "`capture='labels'` if a sample may have any number of labels."
)
_CHANGED = (
    "Expected the targets of the loss to be the labels of the batch, as in the first steps, got {} other ones in this "
    "epoch, into which the step changes labels. To record such steps by the labels of the dataset, return a dict of "
    "`loss`, and `logits` and `targets` in the order of the batch."
)
_OTHER_KIND = (
    "Expected targets of one kind in all steps, such as one class for each sample, got others than in the first steps "
    "({}). Train with one kind, or return a dict of `loss`, and of `logits` and `targets` as in the first steps."
)


class TrainingStep:
    """Reads what each training step presents to the network.

    Call ``install`` once, ``begin_epoch`` for each epoch, and ``start``, ``before_backward``, ``read`` and ``close``
    for each step. ``end_fit`` undoes everything. It may be called at any time, more than once.

    Args:
        identity: Knows the samples of a batch.
        capture: How to find logits and targets, see :class:`~dynalens.capture.StepCapture`.
        features: The layer whose output is kept.
        views: Number of rows of logits per sample.

    Attributes:
        misses: Whether a step of this epoch could not be read, after the first ones could.
        units: Kind and targets of the units of the step's samples; None if each sample has one label.
    """

    def __init__(self, identity: SampleIdentity, capture: Capture, features: LayerFeatures, views: int) -> None:
        self._identity, self._features, self._views = identity, features, views
        self._is_first_step = self._is_automatic = True
        self._capture, self._pairs = StepCapture(capture), ClaimedPairs()
        self.rows = StepRows(identity)
        self.units: tuple[str, Tensor] | None = None
        self._kind: UnitKind | None = None
        self.misses = self._told_of_miss = self._told_of_features = self._has_epoch = False

    def install(self, trainer: Any, pl_module: Any) -> None:
        """A fit begins: install what must be in place before the first loader is made."""
        self._capture.install(pl_module)
        self._pairs = ClaimedPairs()
        self.rows.begin(trainer)
        self._identity.install(trainer)
        self._is_first_step, self._told_of_miss, self._told_of_features, self._has_epoch = True, False, False, False

    def begin_epoch(self) -> None:
        """An epoch begins."""
        self.misses = False
        self.rows.begin_epoch()

    def start(self, pl_module: Any, batch: Any) -> None:
        """A step begins."""
        if self._is_first_step:  # not before, because `configure_model` and later hooks may compile the network
            self.rows.may_trace = not (has_compiled_functions(pl_module) or is_compiled(pl_module))
        self.rows.start(batch)
        if self._is_first_step:
            self._capture.expect_labels(labels_each(self._identity.dataset))
            self._is_first_step = False
        self._capture.start(pl_module)
        self._pairs.start()
        if self._features.name is not None:
            self._is_automatic = bool(getattr(pl_module, "automatic_optimization", True))
            self._features.start(pl_module, self.rows.source_of)

    def before_backward(self, loss: Tensor) -> None:
        """The step's loss is known. What runs from now on is not its forward pass."""
        self._pairs.before_backward(loss)
        self._capture.before_backward(loss)
        if self._features.name is not None:
            self._features.before_backward(loss, is_only=self._is_automatic)

    def stop(self) -> None:
        """The step has run. What other readers of the step compute from now on is not part of it."""
        self._capture.stop()  # its rows are traced on, as losses of parts of the batch are yet to be joined

    def read(self, trainer: Any, outputs: Any, batch: Any) -> tuple[Tensor, Presentation] | None:
        """Return the row of the record of each target, (N,), with logits and targets.

        It is None if the step trained on nothing.

        If a later step cannot be read, training goes on: ``misses`` is then true, and None is returned.

        Raises:
            CaptureError: If logits or targets of one of the first steps are ambiguous or were not seen.
            SampleIdentityError: If the samples cannot be known.
        """
        if self._features.name is not None:
            self._features.close()
        rows = self._identity.rows(trainer, batch) if batch is not None else None
        if rows is None:  # this step trained on no sample of the loader
            with suppress(CaptureError):
                self._capture.finish(outputs, batch)
            return None
        is_later = self.rows.confirms  # the step itself may be the last one of the first, or refute them
        try:
            return self._read(trainer, outputs, batch, rows)
        except (CaptureError, RowCountError) as error:
            if not (is_later and self.rows.confirms):
                raise
            self._miss(error)
            return None

    def _read(self, trainer: Any, outputs: Any, batch: Any, rows: Tensor) -> tuple[Tensor, Presentation] | None:
        choose = partial(self.rows.loss_of_labels, views=self._views)
        presentation = self._capture.finish(
            outputs, batch, self._identity.samples_of(batch),
            rows_of=self.rows.rows_of, choose=choose, count=rows.shape[0] if self._views == 1 else None,
        )  # fmt: skip
        if presentation is None:
            return None
        self._check_kind(presentation)
        units = presentation.units
        self.units = None if units is None else (units.kind.name, presentation.counted_targets())
        self._pairs.check(presentation, self.rows.rows_of, accumulates=trainer.accumulate_grad_batches)
        target_rows = self.rows.rows_of_targets(trainer, batch, rows, presentation, self._views)
        self._capture.trust_targets(self.rows.confirmed)
        return target_rows, self.rows.others.marked(presentation)

    def _check_kind(self, presentation: Presentation) -> None:
        """Raise a CaptureError if a step shows something else than the first ones."""
        kind = None if presentation.units is None else presentation.units.kind
        if not self.rows.confirms:
            self._kind = kind
            return
        if kind != self._kind:
            raise CaptureError(_OTHER_KIND.format(presentation.source))
        if self.rows.leaves_out(presentation):
            raise CaptureError(MIXED)

    def merge(self, processes: Any) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
        """Return a function that checks and merges presentations.

        Steps with targets that are no classes are left out.
        """
        merge_checked = self.rows.checked(processes)

        def merge_readable(index: Array, rows: Array, step: Array) -> tuple[Array, Array]:
            is_wrong = rows[TARGET] == NOT_A_CLASS
            # Of an own loss, other labels than the batch's may tell that all rows so far were in another order.
            is_new = self.rows.confirms and (self._has_epoch or not self._capture.observes)
            self._has_epoch |= not is_wrong.any()
            if is_new and is_wrong.any() and not self.rows.others.are_refused:
                num_changed = self.rows.others.num_changed
                text = _CHANGED.format(num_changed) if num_changed else _NO_CLASSES.format(int(is_wrong.sum()))
                self._miss(CaptureError(text))
                is_readable = ~np.isin(step, step[is_wrong])  # where some labels are mixed, all inputs are
                index, rows, step = index[is_readable], rows[:, is_readable], step[is_readable]
            return merge_checked(index, rows, step)

        return merge_readable

    def _miss(self, error: Exception) -> None:
        """Leave out a step that shows other losses than the first steps, and trace the next ones."""
        self.misses = True
        self.rows.trace_all()
        if not self._told_of_miss:
            self._told_of_miss = True
            warn(
                f"{error} The first steps of this fit could be read, so training goes on. Such steps are not "
                "recorded, and `table().attrs['incomplete_epochs']` names their epochs."
            )

    def keep_features(self, presentation: Presentation, num_samples: int) -> None:
        """Keep the layer's output for the samples of the step, in a record of this length.

        If a step after the first ones has none, training goes on, with one warning.
        """
        if self._features.name is None:
            return
        try:
            self._keep_features(presentation, num_samples)
        except Exception as error:
            if not self.rows.confirms:
                raise
            if not self._told_of_features:
                self._told_of_features = True
                warn(f"{error} The first steps had `features`, so training goes on without those of other steps.")

    def _keep_features(self, presentation: Presentation, num_samples: int) -> None:
        features = self._features.of_step(presentation.nodes, len(presentation.targets), self._views)
        if features is not None:
            rows = self.rows.rows_of_inputs(len(features.values) // self._views, [call.mark for call in features.calls])
            length = len(self._identity.ids or range(num_samples))
            values = features.values
            if len(values) == len(presentation.targets):
                values = self.rows.in_views(values, self._views)
            self._features.record(values, rows, length, self._views)

    def close(self) -> None:
        """The step has been recorded."""
        self.rows.close()

    def end_epoch(self) -> None:
        """Raise a CaptureError if the targets of the epoch turn out to be no classes, or if no loss was seen."""
        self._capture.end_epoch()

    def end_fit(self) -> None:
        """Undo ``install``."""
        self.units = None
        self._capture.close()
        self.rows.close()
        self._features.close()
        self._identity.close()
