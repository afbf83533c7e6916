"""Find the logits and class indices that a training step used, or raise one error that says why they were not found."""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.capture.advice import ANOTHER_NETWORK, REMEDY, label_tensor, not_one_loss
from dynalens.capture.batch import CaptureError, labels_beside, summary
from dynalens.capture.capture_argument import Capture, NamedLayer, function_of, layer_name_of
from dynalens.capture.dense import DenseTargets
from dynalens.capture.entries import leaves
from dynalens.capture.graph import Node
from dynalens.capture.graph_loss import ObservedLoss, in_words
from dynalens.capture.label_rows import SeveralLabels, log_odds, mark_ignored, with_ignored
from dynalens.capture.loss_inputs import warn_of_given_probabilities, warn_of_probabilities
from dynalens.capture.loss_tap import BINARY, NUMBERS_TAP, PROBABILITIES, TAP, DirectImports, LossCall
from dynalens.capture.losses import StepLosses, calls_in_words, in_few_words, reach
from dynalens.capture.merging import RowsOf, check_returned
from dynalens.capture.one_loss import Choose, OneLoss
from dynalens.capture.parameters import KnownNetwork
from dynalens.capture.presentation import Presentation, nodes_of_logits, presentation_of_units, source_of_loss
from dynalens.capture.regression import BatchTargets
from dynalens.capture.rows import CapturedRows
from dynalens.capture.selected_labels import with_selection
from dynalens.observation import is_compiled, module_named


class StepCapture:
    """Find the logits and targets of each training step.

    Call ``install`` once, then ``start``, ``before_backward`` and ``finish`` for each step. ``close`` undoes everything
    and may be called at any time, more than once.

    Args:
        capture: "auto" (what ``training_step`` returns under ``logits`` and ``targets``, else the loss call),
            "labels" (the same, each column of (N, K) binary targets a label of its own), "loss", "outputs",
            "module:<dotted name>" or callable(outputs, batch) -> (logits, targets), also as the dotted path of one.
            Where a step calls none of the known losses, the softmax or sigmoid on the way to its
            loss is looked for.

    Attributes:
        observes: Whether labels of the batch are compared with those in the graph of a loss that the user wrote.

    Raises:
        ValueError: If ``capture`` is none of these.
    """

    def __init__(self, capture: Capture = "auto") -> None:
        self.capture = capture
        self._function = function_of(capture)
        self._layer_name = layer_name_of(capture)
        self._listens = capture in ("auto", "labels", "loss")
        self._losses, self._of_numbers = StepLosses(), StepLosses()
        self._armed = self._is_trained = False
        self._automatic: bool | None = None
        self._step = ExitStack()
        self._mode: DirectImports | None = None
        self._begin()

    def _begin(self) -> None:
        """Forget what was learned in a fit."""
        self._is_resolved = self.observes = self._is_clear = False
        self._needs_mode, self._unknown_steps = True, 0
        self._layer = None if self._layer_name is None else NamedLayer(self._layer_name)
        self._rows = CapturedRows()
        self._multi_labels = SeveralLabels(is_fixed=self.capture == "labels")
        self._dense = DenseTargets(multi_label=self.capture == "labels")
        self._observed_loss = ObservedLoss()
        self._targets = BatchTargets()
        self._labels_in_batch = False
        self._class_above_0: Tensor | None = None
        self._one_loss, self._network = OneLoss(), KnownNetwork()

    def install(self, model: nn.Module) -> None:
        """Begin to listen for losses, or look for the layer that ``capture`` names."""
        if self._layer_name is not None:
            module_named(model, self._layer_name, argument="capture")
        elif self._listens:
            TAP.add(self._listen)
            NUMBERS_TAP.add(self._listen_to_numbers)

    def close(self) -> None:
        """Stop listening, and undo everything."""
        self._armed = False
        self._clear(None)
        TAP.remove(self._listen)
        NUMBERS_TAP.remove(self._listen_to_numbers)
        self._begin()

    def start(self, model: nn.Module) -> None:
        """A training step begins."""
        self._armed, self._is_trained = True, False
        automatic = getattr(model, "automatic_optimization", None)
        if not self._is_clear or automatic is not self._automatic:  # else `finish` has done it
            self._clear(automatic)
        self._automatic, self._is_clear = automatic, False
        if self._listens and not self._is_resolved:
            self._one_loss.watch(model)
        if self._layer is not None:
            self._layer.start(model)
        # Under a mode every graph would be compiled once more, and break at each operation.
        elif self._listens and self._needs_mode and not is_compiled(model):
            self._mode = self._step.enter_context(DirectImports(self._before_own_backward))

    def stop(self) -> None:
        """The step has run: functions of torch that are called from now on are not part of it."""
        self._one_loss.stop()
        if self._mode is not None:
            self._step.close()
            self._mode = None

    def _clear(self, automatic: bool | None) -> None:
        self.stop()
        if self._layer is not None:
            self._layer.close()
        self._observed_loss.forget()
        self._one_loss.forget()
        self._losses.start(automatic, fully=not self._is_resolved)
        self._of_numbers.start(automatic, fully=not self._is_resolved)

    def before_backward(self, loss: Tensor | None = None) -> None:
        """The backward pass begins: what runs now, as recomputed activations, is not the step's loss.

        If the step begins its backward passes itself, a pass for an attack on its inputs may come first.
        """
        if self._layer is not None and loss is not None:
            self._layer.before_backward(loss)
        if not self._armed and self._automatic is False and loss is not None and not self._losses.calls:
            with suppress(RuntimeError):  # as below
                self._observed_loss.look_again(loss, self._mode.inputs if self._mode else {})
        if not self._is_resolved and loss is not None and self._losses.calls:
            with torch._C.DisableTorchFunction(), suppress(RuntimeError):  # no trace follows it; as below
                self._observed_loss.look_beside(loss, self._losses.calls)
        if not self._armed or (self._automatic is False and self._losses.calls):
            return
        self._is_trained = True
        self._losses.begin_backward(loss)
        self._of_numbers.begin_backward(loss)
        is_open = self.observes or not self._is_resolved
        if self._listens and is_open and loss is not None and not self._losses.calls:
            with suppress(RuntimeError):  # autograd has freed what it saved: then no loss was seen
                self._observed_loss.look(loss, self._mode.inputs if self._mode else {})
        self._armed = self._automatic is False and loss is not None and not self._ends_step(loss)

    def _ends_step(self, loss: Tensor) -> bool:
        if not self._observed_loss.activations:
            return False  # a loss without classes may be that of the first of several optimizers
        return not loss.requires_grad or reach(loss, fully=not self._is_resolved).ends_step

    def _before_own_backward(self, loss: Tensor, inputs: Any) -> None:
        """The step begins a backward pass itself. It does not count if Lightning begins another one."""
        leaves = [inputs] if isinstance(inputs, Tensor) else inputs
        if not self._automatic and (leaves is None or any(isinstance(leaf, nn.Parameter) for leaf in leaves)):
            self.before_backward(loss)

    def finish(
        self,
        outputs: Any,
        batch: Any,
        samples: Any = None,
        *,
        rows_of: RowsOf = lambda _targets: None,
        choose: Choose = lambda _calls: None,
        count: int | None = None,
    ) -> Presentation | None:
        """The step has ended: return the logits and targets that it trained on, or None if it trained on nothing.

        Args:
            outputs: What ``training_step`` returned.
            batch: The batch.
            samples: The part of the batch in which to look for the labels. Default: the whole batch.
            rows_of: Returns the rows of the batch that some targets are; None if these are all in order, or not known.
            choose: Returns the loss that has the labels of the batch, of several losses; None if it is not known.
            count: Number of samples in the batch, if each has one row; None if it is not known.

        Raises:
            CaptureError: If that is ambiguous or was not seen.
        """
        part = batch if samples is None else samples
        self._dense.begin_batch(part, count)
        try:
            presentation = None
            if self._has_trained(outputs):
                presentation = self._find(outputs, batch, part, rows_of, choose)
            if presentation is not None:
                presentation = self._with_nodes(presentation, outputs)
        finally:
            self._dense.begin_batch(None, None)
            self._armed = False
            is_direct = self._needs_mode and any(call.direct for call in self._losses.calls + self._of_numbers.calls)
            self._clear(self._automatic)
            self._is_clear = self._is_resolved  # of the first step more is asked
        if presentation is not None:
            self._is_resolved = True
            self._needs_mode = self.observes or is_direct  # else something else sees the loss
        return presentation

    def _with_nodes(self, presentation: Presentation, outputs: Any) -> Presentation:
        """Return the presentation with what is known of the step's graph and of its other losses."""
        if not presentation.nodes:
            presentation = presentation._replace(nodes=self._nodes(outputs))
        if not self._one_loss.choice:
            return presentation
        source = presentation.source + self._one_loss.announcement
        return presentation._replace(source=source, has_other_losses=True)

    def _has_trained(self, outputs: Any) -> bool:
        """Return whether the step computed gradients. Without a Trainer, return whether it had a loss or a result."""
        if self._automatic:
            return self._is_trained
        is_empty = outputs is None or (isinstance(outputs, Mapping) and not outputs)
        if self._automatic is None:
            return bool(self._losses.calls) or not self._is_resolved or not is_empty
        self._is_trained |= self._losses.have_gradients or (self._targets.is_known and self._of_numbers.have_gradients)
        # By hand, a layer that is named and a callable see nothing of the backward pass.
        if self._listens and is_empty:
            self._unknown_steps += not self._is_trained
            return self._is_trained
        return True

    def _listen(self, call: LossCall) -> None:
        if not self._armed or (call.name == "nll_loss" and self._rows.weighs(call.logits)):
            return
        call = with_selection(call)
        is_whole = call.name != PROBABILITIES or self._multi_labels.takes(call.logits.detach(), call.targets)
        if not (is_whole or call.selection is not None) and not self._dense.has_masks(call.targets):
            return  # of two classes: the sigmoid before it is looked for, which has all digits
        self._losses.add(call)

    def _listen_to_numbers(self, call: LossCall) -> None:
        if self._armed:
            self._of_numbers.add(with_selection(call))

    def expect_labels(self, labels: int | None) -> None:
        """Remember how many labels the dataset shows for each sample; None if it does not show rows of labels."""
        self._multi_labels.expected_labels = labels

    def trust_targets(self, is_trusted: bool) -> None:
        """Remember whether the targets are known to be labels of the batches."""
        self._labels_in_batch |= is_trusted

    def end_epoch(self) -> None:
        """The epoch has ended; waits for the device.

        Raises:
            CaptureError: If no loss was seen, or all targets were 0 and not those of the batches: they are no classes.
        """
        if self._unknown_steps and not self._is_resolved:
            raise self._ambiguous("none")
        above_0, is_trusted = self._class_above_0, self._labels_in_batch
        self._unknown_steps, self._labels_in_batch, self._class_above_0 = 0, False, None
        if above_0 is not None and not is_trusted and not above_0.item():
            raise CaptureError(
                "Expected the targets of the loss to be classes of the samples, got class 0 for every sample of "
                f"the epoch, in a tensor that does not come from the batch. Contrastive losses do this. {REMEDY}"
            )

    def _find(self, outputs: Any, batch: Any, samples: Any, rows_of: RowsOf, choose: Choose) -> Presentation | None:
        if self._function:
            return self._given(*with_ignored(*self._function(outputs, batch)), source="logits and targets: `capture`")
        if self._layer is not None:
            source, output = f"logits: output of {self._layer.name}; targets: of the batch", self._layer.output()
            if output is None:
                return None
            return self._given(output, labels_beside(samples, output), source=source)._replace(of_layer=True)
        keys = isinstance(outputs, (dict, Mapping)) and "logits" in outputs and "targets" in outputs
        if self.capture == "outputs" or (self.capture in ("auto", "labels") and keys):
            numbers = None if keys else self._from_numbers(outputs, samples, rows_of)
            if numbers is not None:
                return numbers
            if not keys:
                raise CaptureError(
                    "Expected `training_step` to return a dict with `logits` and `targets`, got "
                    f"{summary(outputs)}. Add both to it, or use `capture='auto'`."
                )
            if not self._is_resolved:
                check_returned(outputs, self._losses.calls, rows_of)
            tensors = with_ignored(outputs["logits"], outputs["targets"])
            return self._given(*tensors, source="logits and targets: of the result")
        return self._observed(outputs, batch, samples, rows_of, choose)

    def _given(self, logits: Any, targets: Any, loss_mask: Tensor | None = None, *, source: str) -> Presentation:
        """Return logits that the user named, with their targets."""
        if not self._is_resolved:
            warn_of_given_probabilities(logits, source)
        return self._checked(logits, targets, loss_mask, source=source)

    def _observed(self, outputs: Any, batch: Any, samples: Any, rows_of: RowsOf, choose: Choose) -> Presentation:
        if self._losses.calls:
            presentation = self._from_loss(batch, rows_of, choose)
        else:
            presentation = self._from_numbers(outputs, samples, rows_of) or self._from_graph(samples, rows_of)
        nodes = self._nodes(outputs)
        if not self._network.gave(nodes):
            raise CaptureError(f"{ANOTHER_NETWORK} {REMEDY}")
        return presentation._replace(nodes=nodes)

    def _nodes(self, outputs: Any) -> tuple[Node, ...]:
        calls = self._one_loss.choice or self._losses.calls or self._of_numbers.calls
        return nodes_of_logits(outputs, calls, self._observed_loss.activations)

    def _from_loss(self, batch: Any, rows_of: RowsOf, choose: Choose) -> Presentation:
        call = self._one_loss.loss_of_step(self._losses, rows_of, choose, first_step=not self._is_resolved)
        if call is None:
            raise self._ambiguous(calls_in_words(self._one_loss.calls))
        if not self._is_resolved:
            if self._observed_loss.has_another and not self._one_loss.is_returned(call):
                raise self._ambiguous(f"{calls_in_words(self._losses.calls)}; and one of another kind")
            warn_of_probabilities(call)
        if call.name in BINARY:
            return self._from_binary(call)
        shape, call = call.logits.shape, self._dense.in_rows(call)
        logits, targets = call.logits, call.counted_targets()
        if call.name == "nll_loss":
            logits, targets = self._rows.log_probabilities(logits, targets)
        source = source_of_loss(call.name, shape, logarithm=bool(self._rows.takes_logarithm))
        loss_mask = call.is_counted()
        if self._dense.are_samples(logits, targets):
            logits = logits.detach()
        else:
            units = self._dense.units_of_classes(logits, targets, loss_mask, call.weight)
            if units is not None:
                return presentation_of_units(units, source, call.targets, loss_mask)
            logits, targets, source = self._rows.classes(logits, targets, source)
        self._look_for_classes(call.targets, batch)
        return Presentation(logits, mark_ignored(targets, loss_mask, call.weight), source, call.targets)

    def _from_binary(self, call: LossCall) -> Presentation:
        logits = log_odds(call.logits) if call.name == PROBABILITIES else call.logits
        source = source_of_loss(call.name, call.logits.shape, logarithm=False)
        rows = self._dense.in_rows(call._replace(logits=logits))
        return self._checked(rows.logits, rows.targets, rows.is_counted(), source=source)

    def _from_numbers(self, outputs: Any, samples: Any, rows_of: RowsOf) -> Presentation | None:
        """Return a regression of the batch's labels, or of the targets that the step returned.

        It is None if it is not one.
        """
        if self.observes or (self._is_resolved and not self._targets.is_known):
            return None
        losses = self._one_loss.numbers_of_step(self._of_numbers, rows_of, first_step=not self._is_resolved)
        result = self._targets.presentation_of(
            losses, outputs, samples, rows_of, probabilities=self._observed_loss.activations
        )
        if result is None and self._targets.is_known:
            raise self._ambiguous(calls_in_words(losses or self._of_numbers.calls))
        if result is None:
            return None
        units, targets, source, loss_mask = result
        return Presentation(units.logits, units.targets, source, targets, units, loss_mask=loss_mask)

    def _from_graph(self, samples: Any, rows_of: RowsOf) -> Presentation:
        activations = self._observed_loss.activations
        if self._observed_loss.passes > 1:
            raise self._ambiguous(f"{self._observed_loss.passes} backward passes from losses of another kind")
        if len(activations) != 1:
            raise self._ambiguous("none" if not activations else in_few_words(map(in_words, activations)))
        rows = self._observed_loss.several_labels(samples, rows_of)
        if rows is None:
            labels, selection = self._observed_loss.labels_in(samples, rows_of)
            labels = label_tensor(labels)
            own_labels = labels if selection is None else labels.flatten()[rows_of(selection)]
            rows = (*self._observed_loss.rows(own_labels), labels if selection is None else selection)
        self.observes = True
        logits, targets, step_targets = rows
        source = f"logits: {in_words(activations[0])}; targets: labels of the batch"
        loss_mask = self._observed_loss.is_counted(logits, targets)
        return self._checked(logits, targets, loss_mask, source=source)._replace(step_targets=step_targets)

    def _checked(self, logits: Any, targets: Any, loss_mask: Tensor | None = None, *, source: str) -> Presentation:
        if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
            raise CaptureError(
                f"Expected tensors of logits and targets, got {summary(logits)} and {summary(targets)}. {REMEDY}"
            )
        own_targets, (logits, targets, loss_mask) = targets, self._dense.rows_of_samples(logits, targets, loss_mask)
        if self._multi_labels.takes(logits, targets, loss_mask):
            presentation = self._multi_labels.presentation(logits, targets, loss_mask)
            return presentation_of_units((presentation, targets), source, own_targets, loss_mask)
        units = self._dense.units_of_labels(logits, targets, loss_mask)
        if units is not None:
            return presentation_of_units(units, source, own_targets, loss_mask)
        logits, targets, source = self._rows.checked(logits, targets, source)
        return Presentation(logits, mark_ignored(targets, loss_mask), source, own_targets)

    def _ambiguous(self, calls: str) -> CaptureError:
        return not_one_loss(calls, self._losses, self._of_numbers, is_manual=self._automatic is False)

    def _look_for_classes(self, targets: Tensor, batch: Any) -> None:
        """Note whether targets that the step made itself ever differ from 0; if they never do, they are not classes."""
        if not self._labels_in_batch:
            self._labels_in_batch = any(leaf is targets or leaf is targets._base for _, leaf in leaves(batch))
        if self._labels_in_batch:
            return
        above_0 = (targets != 0).any()
        self._class_above_0 = above_0 if self._class_above_0 is None else self._class_above_0 | above_0
