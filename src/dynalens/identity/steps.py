"""The rows of the record that the rows of a step's loss belong to, whatever the step did to its batch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynalens.capture import CaptureError
from dynalens.dynamics import ROWS, TARGET, given_units
from dynalens.identity.collate_order import Labels
from dynalens.identity.columns import Column, Path, columns_of_batch, is_integer_vector, part_at, parts
from dynalens.identity.dataset_labels import Array, given_labels, given_rows
from dynalens.identity.drawn_targets import OwnLabels, RandomDraws
from dynalens.identity.errors import OTHER_ROWS, SampleIdentityError, check_one_target_each, check_rows, check_views
from dynalens.identity.in_place import NotedLabels, check_in_place, noted_labels
from dynalens.identity.labels import (
    ANOTHER_ORDER,
    DRAWN_BEFORE,
    GIVEN,
    MIXED,
    NO_CLASSES,
    LabelCheck,
    check_given,
)
from dynalens.identity.later_targets import OtherTargets
from dynalens.identity.loss_choice import LossOfLabels
from dynalens.identity.order import OrderError, order_of_rows
from dynalens.identity.recorder import has_batch_hooks
from dynalens.identity.samples import SampleIdentity
from dynalens.identity.target_rows import (
    are_side_by_side,
    check_layer,
    columns_of_samples,
    in_views,
    num_out_of_order,
    rows_of_all,
    rows_of_layer,
)
from dynalens.identity.trace import TRACE, RowSource
from dynalens.identity.units import check_given_rows, class_columns, coded_columns, row_codes, what_counts

_COMPARED_BATCHES = 3
"""Number of batches that are compared before and after the module's hooks. After a hook has reordered one, all are."""
_TRACED_STEPS = 3
"""Number of steps of each epoch that are traced. After a step has selected rows, all are."""


class StepRows:
    """Follow rows from the batch that the loader delivered to the targets of the step's loss.

    A batch that hooks of the module change is compared with the delivered batch. What the step selects or reorders is
    traced from the labels of the batch to the targets. The targets of the first steps are compared with the labels.

    Attributes:
        may_trace: Whether steps may be traced: a mode of torch's functions makes a compiled graph break.
        others: Targets of later steps that are not the labels of their rows.
    """

    def __init__(self, identity: SampleIdentity) -> None:
        self._identity = identity
        self.begin(None)

    def begin(self, trainer: Any) -> None:
        """A fit begins. Until ``may_trace`` is set, no step is traced."""
        self.may_trace = self._traces_all = False
        self._num_traced, self._is_traced = 0, False
        self._has_hooks = trainer is not None and has_batch_hooks(trainer)
        self._comparisons_left, self._has_moved = _COMPARED_BATCHES, False
        self._labels, self._losses, self._draws = LabelCheck(), LossOfLabels(), RandomDraws()
        self._own_labels: OwnLabels | None = OwnLabels()
        self._has_classes, self._has_half_precision, self._is_side_by_side = True, False, False
        self._has_changed_batch = False
        self._dataset_labels: Array | None = None
        self._step_rows: tuple[Tensor, Tensor, int] | None = None
        self._noted_labels: NotedLabels = []
        self.others, self._was_own = OtherTargets(), False

    def begin_epoch(self) -> None:
        """An epoch begins. Its first steps are traced, because some modules select rows only from a later epoch on."""
        self._num_traced = 0

    def start(self, batch: Any) -> None:
        """A step begins."""
        if self._is_traced:
            self.close()
        self._noted_labels = noted_labels(self._identity.part_of(batch)) if self._labels.needs_steps else []
        if self._labels.needs_steps:
            self._draws.begin()
        if self.traces:
            self._num_traced, self._is_traced = self._num_traced + 1, True
            TRACE.start(self, self._identity.part_of(batch))

    @property
    def traces(self) -> bool:
        """Whether the next step is traced."""
        return self.may_trace and (self._traces_all or self._labels.needs_steps or self._num_traced < _TRACED_STEPS)

    @property
    def confirms(self) -> bool:
        """Whether the first steps were read and compared with their labels, and no later step has contradicted them."""
        return not self._labels.needs_steps and not self._losses.is_refuted

    def trace_all(self) -> None:
        """Trace all further steps: a step was not understood, and a trace may help."""
        self._traces_all = True

    def close(self) -> None:
        """The step has ended."""
        if self._is_traced:
            TRACE.close(self)
            self._is_traced = False

    def leaves_out(self, presentation: Any) -> bool:
        """Return whether a step made targets of the labels of several rows, as a trace shows."""
        is_mixed = TRACE.mixes(presentation.step_targets)
        if is_mixed:
            self.others.count_changed(len(presentation.targets))
        return is_mixed

    def rows_of_targets(self, trainer: Any, batch: Any, rows: Tensor, presentation: Any, views: int) -> Tensor:
        """Return the row of the record of each target of the loss.

        Args:
            trainer: The Trainer.
            batch: The batch that the step was given.
            rows: Shape ``(N,)``, the row of the record of each sample of the delivered batch.
            presentation: The logits and targets of the step.
            views: Number of rows of logits per sample.

        Raises:
            SampleIdentityError: If they cannot be known.
            CaptureError: If the targets of the first steps are no classes.
        """
        part = self._identity.part_of(batch)
        is_own = self._is_own(part, presentation.step_targets)
        self.others.begin_step()
        # A step that replaces its labels from now on may change or reorder them: a trace tells.
        self._traces_all |= self._was_own and not is_own
        self._was_own |= is_own
        self._has_classes = presentation.units is None
        self._has_half_precision = presentation.step_targets.dtype in (torch.float16, torch.bfloat16)
        if is_own and not TRACE.follows and views == 1 and presentation.targets.shape == rows.shape:
            self._step_rows = rows, rows, 1  # as in nearly all steps
            return rows
        return self._rows_of_followed(trainer, part, rows, presentation, views=views, is_own=is_own)

    def _rows_of_followed(
        self, trainer: Any, part: Any, rows: Tensor, presentation: Any, *, views: int, is_own: bool
    ) -> Tensor:
        """Return the row of the record of each target, for a step whose targets are not just those of its batch."""
        TRACE.stop()
        if TRACE.mixes(presentation.step_targets):
            raise SampleIdentityError(MIXED)
        delivery = self._identity.delivery(trainer, rows)
        delivered = None if is_own or self._identity.is_carried else delivery.batch
        order = self._order_after_hooks(delivered, part, len(rows))
        after_hooks = rows if order is None else rows[order]
        source = TRACE.source(presentation.step_targets)
        choice = source.rows if source is not None and source.is_choice else None
        target_rows = self._chosen_rows(source, after_hooks, presentation, views)
        self._note_rows(choice, after_hooks, target_rows, views)
        self._traces_all |= choice is not None or _are_chosen(TRACE.of_layers(), len(after_hooks) * views)
        batch = part if delivered is None else delivered
        if self._labels.needs_steps:
            self._losses.check_inputs(presentation.nodes)
            check_views(presentation.targets, views if choice is None else 1)
            if presentation.of_layer:
                check_layer(TRACE.of_layers(), len(after_hooks))
            check_in_place(self._noted_labels, carried=delivered is None)
            check_in_place(delivery.noted, carried=delivered is None)
            self._identity.check_index_moves(trainer, rows, self._noted_labels, presentation)
            if presentation.units is None:
                self._identity.check_index(target_rows, presentation.targets)
                check_one_target_each(target_rows, presentation.targets)
            is_traced = source is not None and not self._has_hooks
            self._has_changed_batch = self._has_hooks and delivered is not None
            self._compare(batch, rows, target_rows.cpu(), presentation, is_traced=is_traced)
            if presentation.units is None:
                self._check_drawn(batch, delivery.labels_of_samples, rows, target_rows.cpu(), presentation)
        elif not is_own and presentation.units is None and views == 1:
            self._compare_later(batch, order, presentation, source)
        return target_rows

    def _chosen_rows(self, source: RowSource | None, after_hooks: Tensor, presentation: Any, views: int) -> Tensor:
        """Return the row of the record of each target.

        Of the rows that the step selected, or else of the whole batch.
        """
        count, targets = len(after_hooks), presentation.targets
        if source is None or not source.is_choice or len(source.rows) > count * views:
            return rows_of_all(after_hooks, targets, views) if len(targets) else after_hooks[:0]
        check_rows(source.num_rows, count, 1)
        if len(source.rows) == count * views and not (TRACE.chose_inputs_of(source) or presentation.chose_rows()):
            self._expect_order(source.rows, count, is_joined=presentation.joined_rows())
        return after_hooks.to(source.rows.device, non_blocking=True)[source.rows]  # moved with the rest of the epoch

    def rows_of(self, targets: Tensor) -> Tensor | None:
        """Return the rows of the step's batch that some targets belong to; None if all in order, or not known."""
        return TRACE.rows_of(targets)

    def loss_of_labels(self, calls: Sequence[Any], views: int) -> Any:
        """Return the loss that has the labels of the batch, or None. If there is one, all further steps are traced."""
        call = self._losses.call_of_labels(calls, views) if self._is_traced else None
        self._traces_all |= call is not None
        return call

    def source_of(self, layer_input: Any) -> RowSource | None:
        """Return what is known of the rows of a layer's input. It is called while the step runs."""
        return TRACE.source_of(self, layer_input)

    def rows_of_inputs(self, count: int, sources: Sequence[RowSource | None]) -> Tensor:
        """Return the rows of the record that a layer computed: the whole batch, or what the step selected of it.

        If nothing is known of the inputs and their number is that of the batch, the step may have reordered them. It
        did so before the layer if it reordered more than the targets.

        Args:
            count: Number of rows per view.
            sources: What is known of the input of each call of the layer.
        """
        assert self._step_rows is not None
        known_sources = [source for source in sources if source is not None]
        inputs = known_sources[0] if known_sources else None
        if inputs is not None and len(known_sources) > 1:
            inputs = inputs.choice(torch.cat([source.rows for source in known_sources]))
        if inputs is not None and inputs.is_choice and len(inputs.rows) == count * self._step_rows[2]:
            inputs = inputs.choice(self.in_views(inputs.rows, self._step_rows[2]))
        choices = rows_of_layer(inputs if len(known_sources) == len(sources) else None, *self._step_rows)
        return next((rows for rows in choices if len(rows) == count), choices[0])

    @property
    def confirmed(self) -> bool:
        """Whether the targets of the first steps are labels of their batches."""
        return self._labels.confirmed

    def checked(self, processes: Any) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
        """Return how the presentations of all processes are merged, after each has been checked with its dataset.

        If samples are positions in the dataset, their targets are compared with the labels that it shows.
        """

        def check(index: Array, rows: Array) -> None:
            self.others.check()
            if not self._identity.known_by_loader:
                return
            is_same = self._labels.given_is_target
            if self._has_classes:
                check_given(self._identity.dataset, index, rows[TARGET], is_same=is_same)
            elif not self._has_half_precision and (labels_of_units := given_units(rows[ROWS:])) is not None:
                check_given_rows(self._identity.dataset, index, labels_of_units, is_same=is_same)

        def merge_checked(index: Array, rows: Array, step: Array) -> tuple[Array, Array]:
            processes.run_in_all(lambda: check(index, rows))
            merged_index, merged_rows = processes.merge(index, rows, step)
            return merged_index, merged_rows

        return merge_checked

    def _note_rows(self, choice: Tensor | None, after_hooks: Tensor, target_rows: Tensor, views: int) -> None:
        """Remember the rows of the step's samples and of its first view. Layers may have computed either."""
        if views > 1 and choice is not None and (self._labels.needs_steps or choice.device.type == "cpu"):
            self._is_side_by_side = are_side_by_side(choice, views)
        of_first_view = self.in_views(target_rows, views)[: len(target_rows) // views]
        self._step_rows = after_hooks, of_first_view, views

    def in_views(self, values: Tensor, views: int) -> Tensor:
        """Return rows of all views, one view of all samples after another."""
        return in_views(values, views) if self._is_side_by_side else values

    def _expect_order(self, choice: Tensor, count: int, *, is_joined: bool) -> None:
        """Note targets that were reordered although nothing shows that the logits were."""
        num_others = num_out_of_order(choice, count, is_joined=is_joined)
        if self._labels.needs_steps and int(num_others):
            raise SampleIdentityError(ANOTHER_ORDER)
        self.others.count_moved(num_others)

    def _is_own(self, part: Any, targets: Tensor) -> bool:
        """Return whether the targets are the very tensor that the first batches held them in.

        Then nothing must be compared.
        """
        place = self._labels.witness
        return (
            place is not None and not (self._has_hooks or self._labels.needs_steps) and part_at(part, place) is targets
        )

    def _compare_later(self, batch: Any, order: list[int] | None, presentation: Any, source: RowSource | None) -> None:
        """Compare targets with the labels of their rows, on the device."""
        place, targets = self._labels.witness, presentation.targets
        label = None if place is None else part_at(batch, place)
        if label is None or label is presentation.step_targets:
            return
        labels = torch.as_tensor(label)
        labels = (labels if order is None else labels[order]).to(targets.device, non_blocking=True)
        if source is not None and source.is_choice:
            labels = labels[source.rows.to(labels.device)]
        if labels.shape == targets.shape:
            self.others.compare(labels, targets, is_traced=source is not None)

    def _order_after_hooks(self, delivered: Any, part: Any, count: int) -> list[int] | None:
        if not self._has_hooks or delivered is None or not (self._has_moved or self._comparisons_left > 0):
            return None
        self._comparisons_left -= 1
        columns_before = {path: list(column) for path, column in columns_of_batch(delivered, length=count).items()}
        columns_after = columns_of_batch(part, copies=True)
        try:
            order = order_of_rows(columns_before, columns_after)
        except OrderError as error:
            raise SampleIdentityError(f"{ANOTHER_ORDER} (After a hook of the module, {error}.)") from None
        self._has_moved |= order is not None
        return order

    def _compare(self, batch: Any, rows: Tensor, target_rows: Tensor, presentation: Any, *, is_traced: bool) -> None:
        columns = columns_of_batch(batch, copies=True, length=len(rows))
        if target_rows is not rows:
            columns = columns_of_samples(columns, rows.tolist(), target_rows.tolist())
        targets, classes, step_targets = presentation.targets, presentation.logits.shape[1], presentation.step_targets
        if presentation.units is None:
            columns |= class_columns(columns, classes)
        else:
            mask = what_counts(step_targets, presentation.loss_mask)
            columns |= coded_columns(columns, step_targets, mask)
            targets, classes = torch.tensor(row_codes(step_targets, mask)), 0
        if (dataset_labels := self._labels_of_dataset(target_rows, presentation)) is not None:
            columns[GIVEN] = dataset_labels
        if TRACE.are_of_pairs(step_targets):
            raise CaptureError(NO_CLASSES.format("marks of the pairs of samples that have the same label"))
        integers = step_targets.tolist() if is_integer_vector(step_targets) else None
        draws = partial(self._may_draw, presentation)
        self._labels.see(columns, targets, classes=classes, is_traced=is_traced, integers=integers, draws=draws)
        if TRACE.makes(step_targets):
            raise CaptureError(NO_CLASSES.format("numbers that the step itself makes"))

    def _may_draw(self, presentation: Any) -> bool:
        """Return whether the step may have drawn its targets with random numbers that are not torch's.

        What it computes from its inputs may be a class of them.
        """
        draws = presentation.units is None and (self._has_changed_batch or self._draws.have_begun())
        return draws and not TRACE.inputs.lead_to_constant(presentation.step_targets)

    def _check_drawn(self, batch: Any, labels: Labels, rows: Tensor, target_rows: Tensor, presentation: Any) -> None:
        """Raise if the dataset or the collate function draws the targets.

        They then have nothing to do with the samples' own labels, and samples that are read again have other ones. No
        sample is read again where the targets follow from these labels.
        """
        if self._own_labels is None:
            return
        columns: dict[Path, Any] = {path: values for path, values in labels.items() if len(values) == len(rows)}
        if len(columns) and target_rows is not rows:
            columns = columns_of_samples(columns, rows.tolist(), target_rows.tolist())
        if isinstance(dataset_labels := self._labels_of_dataset(target_rows, presentation), Tensor):
            columns[GIVEN] = dataset_labels.tolist()
        self._own_labels.see(columns, presentation.targets.tolist())
        if self._own_labels.are_reordered:
            raise SampleIdentityError(OTHER_ROWS)
        self._labels.needs_steps |= bool(columns) and self._own_labels.is_open  # only the first batches have them
        own_places = (path for path, part in parts(batch) if part is presentation.step_targets)
        place = self._labels.witness or next(own_places, None)
        if place is not None and self._own_labels.are_unrelated:
            self._own_labels = None  # once is enough
            if self._identity.draws_targets(rows, batch, place):
                raise CaptureError(DRAWN_BEFORE)

    def _labels_of_dataset(self, target_rows: Tensor, presentation: Any) -> Column | None:
        """Return the dataset's labels of the targets' samples.

        It is None for masks, which are augmented together with images.
        """
        units = presentation.units
        if not self._identity.known_by_loader or (units is not None and not units.kind.labels):
            return None
        if self._dataset_labels is None:
            self._dataset_labels = (given_labels if units is None else given_rows)(self._identity.dataset)
        if self._dataset_labels is None or not len(target_rows) or int(target_rows.max()) >= len(self._dataset_labels):
            return None
        values = torch.from_numpy(self._dataset_labels[target_rows.numpy()])
        if units is None:
            return values
        mask = what_counts(presentation.step_targets, presentation.loss_mask)
        return coded_columns({GIVEN: values}, presentation.step_targets, mask).get(GIVEN)


def _are_chosen(inputs: RowSource | None, max_rows: int) -> bool:
    """Return whether a step selected or reordered its inputs.

    Inputs with more rows than the batch, such as frames, do not count.
    """
    return inputs is not None and inputs.is_choice and len(inputs.rows) <= max_rows
