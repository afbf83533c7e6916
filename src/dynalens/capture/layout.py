"""Where a batch holds the inputs and the targets of a training step, as seen while the step ran."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynalens.capture.columns import joined_columns
from dynalens.capture.entries import Path, entry_at, leaves
from dynalens.capture.flat_targets import FlatTargets
from dynalens.capture.given_inputs import GivenInputs
from dynalens.capture.graph import is_of_numbers, tells_outputs
from dynalens.capture.input_calls import ModuleCall, calls_to_logits, form_of_inputs, other_inputs, path_of_inputs
from dynalens.capture.labels import class_labels
from dynalens.capture.loss_tap import BINARY, IGNORE_INDEX, TAP, DirectImports, LossCall
from dynalens.capture.network import Network, NetworkRuns
from dynalens.capture.numbering import Numbering
from dynalens.capture.scaling import ScaledView, Scaling, scaled_entries
from dynalens.capture.sequences import label_axis
from dynalens.capture.unit_labels import CLASSES, UnitLabels, UnitTargets, kind_of_units
from dynalens.capture.views import View, entries_among, same_memory
from dynalens.keys import INPUT_KEYS
from dynalens.observation import captured_calls, is_compiled
from dynalens.units import LABELS, PIXELS, TARGETS, TOKEN_LABELS

_STEPS = 3
_CALLS = 64
_FIRST: tuple[Path, ...] = ((), (0,))
"""Paths at which a batch without keys holds the input of the network."""


@dataclass(frozen=True)
class BatchLayout:
    """At which paths of a batch the inputs and targets stand.

    Attributes:
        inputs: Path of the tensor that the network was given; None where it was not seen.
        labels: Path of the targets of the loss; None where they were not seen.
        loss: Name of the loss function; None where none was seen.
        ignore_index: The target that this loss ignores.
        of_numbers: Whether the step had no classification loss, but a loss that compares numbers, as a regression has.
        of_scores: Whether no loss of the step tells what outputs are. They may be embeddings, which it compares with
            each other.
        dense: Whether the loss has a class, or labels, for each token or pixel of a sample.
        units: How the entry at ``labels`` holds the labels of tokens or pixels.
        shift: By how many positions the logits for a token come earlier than the token: 1 in a causal language model.
        form: The view of the input that the network was given; None: the input as it stands in the batch.
        other_inputs: Paths of other inputs that the network was given in the same call, except labels and what
            follows from tokens, such as the mask of their padding.
        renumbered: Paths of labels whose classes have other numbers in the loss.
        scaling: How a step converts and scales the input before the network gets it; None if it does not.
    """

    inputs: Path | None = None
    labels: Path | None = None
    loss: str | None = None
    ignore_index: int = IGNORE_INDEX
    of_numbers: bool = False
    of_scores: bool = False
    dense: bool = False
    units: UnitLabels = CLASSES
    shift: int = 0
    form: View | None = None
    other_inputs: tuple[Path, ...] = ()
    renumbered: frozenset[Path] = frozenset()
    scaling: Scaling | None = None

    @property
    def all_inputs(self) -> list[Path]:
        """Return the paths of all inputs."""
        return [*([] if self.inputs is None else [self.inputs]), *self.other_inputs]

    def input_in(self, batch: Any) -> Tensor | None:
        """Return the input in a batch as the network is given it, or None where it is not known or not there."""
        entry = entry_at(batch, self.inputs)
        return entry if entry is None or self.form is None else self.form.view_of(entry)

    def scaled(self, images: Any) -> Any:
        """Return what the network is given in the place of these inputs."""
        return images if self.scaling is None or not isinstance(images, Tensor) else self.scaling.of(images)


class BatchObserver:
    """Learn the layout of the batches from the first training steps. Later steps are not watched.

    The targets are the entry of the batch that the loss was called with, or of which it got a view. If there is none,
    they are the only entry that holds the same classes. The inputs are the entry that was given to a module whose
    output led to the loss.

    Args:
        is_only_one: Whether this object must also watch for losses that were imported by name. If not, a
            :class:`StepCapture` does.

    Attributes:
        layout: What is known so far.
        network: What was seen of the network that gave the logits.
        num_targets: Number of targets of each sample of a regression, as the tracker has told; 0 if it told none.
        changes_inputs: Whether the step gives the network other inputs than the batch holds, as it scales images.
    """

    def __init__(self, *, is_only_one: bool = True) -> None:
        self.layout, self._is_only_one = BatchLayout(), is_only_one
        self._steps_left = _STEPS
        self._watching = ExitStack()
        self._leaves: list[tuple[Path, Tensor]] = []
        self._calls: list[ModuleCall] = []
        self._losses: list[LossCall] = []
        self._runs, self._given = NetworkRuns(), GivenInputs()
        self._loss: Tensor | None = None
        self.changes_inputs, self._is_confirmed = False, True
        self._scaling_of_step: Scaling | None = None
        self._model: nn.Module | None = None
        self.network = Network()
        self._of_numbers, self.num_targets = False, 0
        self._passes: list[bool] = []  # whether the loss of each backward pass tells what outputs are
        self._numbering = Numbering()

    @property
    def is_done(self) -> bool:
        """Whether no further step is watched."""
        return self._steps_left == 0

    def start(self, model: nn.Module, batch: Any) -> None:
        """A training step begins; watch it if it is one of the first."""
        if not self._steps_left:
            return
        self.close()
        self._leaves, self._model = list(leaves(batch)), model
        TAP.add(self._observe_loss)
        self._watching.callback(TAP.remove, self._observe_loss)
        self._watching.enter_context(captured_calls(model, self._observe_call))
        if self._is_only_one and not is_compiled(model):
            self._watching.enter_context(DirectImports(lambda _loss, _inputs: None))

    def stop(self, loss: Tensor | None = None) -> None:
        """End the watch: what is computed from now on is not part of the step's forward pass.

        Args:
            loss: That of the step, before its backward pass.
        """
        if not self._steps_left:
            return
        self._watching.close()
        if loss is not None and not self._losses:
            self._loss = loss
            with suppress(Exception):  # a graph that says nothing
                self._of_numbers = is_of_numbers(loss)
                self._passes.append(tells_outputs(loss))

    def finish(self, units: tuple[str, Tensor] | None = None) -> None:
        """The training step has ended: work out where its inputs and targets stand.

        Args:
            units: Name of the kind of units, and targets, as a tracker recorded them for the step; None if it recorded
                none.
        """
        if units is not None and units[0] == TARGETS:
            self.num_targets = units[1].shape[1:].numel()
        if not self._steps_left:
            return
        self.stop()
        if not self._leaves:
            return
        with torch._C.DisableTorchFunction():  # no trace of the step follows what is asked of it
            self._learn(units)
        complete = self.layout.inputs is not None and self.layout.labels is not None
        self._steps_left = 0 if complete and self._is_confirmed else self._steps_left - 1
        self.close()

    def close(self) -> None:
        """End the watch, and drop the step's tensors."""
        self.stop()
        self._leaves, self._calls, self._losses, self._model, self._loss = [], [], [], None, None
        self._passes = []
        self._runs.forget()
        self._given.forget()

    def _observe_loss(self, call: LossCall) -> None:
        self._losses.append(call)

    def _learn(self, units: tuple[str, Tensor] | None) -> None:
        with suppress(Exception):  # an odd graph: the model's own `forward` or its only child counts
            self._learn_network()
        with suppress(Exception):  # an odd tensor: the usual keys are looked through instead
            earlier_scaling = self.layout.scaling
            self.layout = self._layout_of_step(units)
            self._learn_changes()
            self._confirm_scaling(earlier_scaling)

    def _learn_network(self) -> None:
        losses = [call.logits for call in self._losses if call.logits.requires_grad]
        if self.network.modules is None and losses and self._model is not None:
            self.network = self._runs.network(self._model, losses)

    def _learn_changes(self) -> None:
        if self._model is None or is_compiled(self._model):  # whose calls are not all seen
            return
        losses = [call.logits for call in self._losses if call.logits.requires_grad]
        losses = losses or ([] if self._loss is None else [self._loss])
        # A causal language model is given the tokens that it predicts.
        self.changes_inputs = self._given.are_changed(None if self.layout.shift else self.layout.labels, losses)

    def _confirm_scaling(self, earlier_scaling: Scaling | None) -> None:
        """Forget a factor that the second step does not have: it is drawn anew, as augmentations do."""
        scaling = self.layout.scaling
        self._is_confirmed = scaling is None or not scaling.factor or earlier_scaling is not None
        if earlier_scaling is not None and not earlier_scaling.is_like(self._scaling_of_step):
            self.layout, self.changes_inputs = replace(self.layout, scaling=None), True

    def _observe_call(self, module: nn.Module, arguments: Any, outputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        with suppress(Exception):  # in the middle of the user's forward pass, which must go on
            self._runs.observe(module, arguments, outputs)
        if len(self._calls) == _CALLS:
            return
        # In the middle of the user's forward pass, which must go on. A trace of the step's functions is not told.
        with suppress(Exception), torch._C.DisableTorchFunction():
            tensors = [tensor for _, tensor in leaves(arguments)]
            matches = entries_among(self._leaves, tensors)
            scalings: dict[Path, ScaledView] = {}
            for path, tensor, scaling in scaled_entries(self._leaves, tensors) if not matches else ():
                matches[path], scalings[path] = tensor, scaling
            self._given.observe(module, arguments, outputs, self._leaves, matches)
            if matches:
                self._calls.append(ModuleCall(matches, [tensor for _, tensor in leaves(outputs)], scalings))

    def _layout_of_step(self, units: tuple[str, Tensor] | None) -> BatchLayout:
        losses = [call for call in self._losses if call.logits.requires_grad]
        loss = (joined_columns(losses) if len(losses) > 1 else None) or next(iter(losses), None)
        entries, layout = dict(self._leaves), self.layout
        kind = units[0] if units is not None and units[0] != LABELS else None
        targets = _Targets() if loss is None else _targets_of(self._leaves, loss, kind)
        if targets.path is None and units is not None:
            targets = _locate_targets(self._leaves, *units)
        if loss is not None and targets.path is None and not targets.dense:
            self._numbering.see(self._leaves, loss)
        # A causal language model is given the tokens that it predicts.
        path_of_labels = None if targets.shift else targets.path
        calls = calls_to_logits(self._calls, entries, path_of_labels, loss.logits if loss is not None else None)
        inputs = path_of_inputs(calls, entries)
        form, scaling = (None, None) if inputs is None else form_of_inputs(calls, inputs, entries[inputs])
        self._scaling_of_step = scaling
        return BatchLayout(
            inputs=layout.inputs or inputs,
            labels=layout.labels or targets.path,
            loss=layout.loss or (loss.name if loss is not None else None),
            ignore_index=loss.ignore_index if loss is not None else layout.ignore_index,
            of_numbers=loss is None and self._of_numbers,
            of_scores=loss is None and bool(self._passes) and not any(self._passes),
            dense=layout.dense or targets.dense,
            units=layout.units if layout.labels else targets.units,
            shift=layout.shift or targets.shift,
            form=layout.form if layout.inputs else form,
            scaling=layout.scaling if layout.inputs else scaling,
            other_inputs=layout.other_inputs
            if inputs is None or layout.inputs
            else other_inputs(calls, inputs, entries, layout.labels or targets.path),
            renumbered=frozenset() if layout.labels or targets.path else self._numbering.paths,
        )


class _Targets(NamedTuple):
    """Where the targets of a loss stand in a batch, as of :class:`BatchLayout`."""

    path: Path | None = None
    shift: int = 0
    dense: bool = False
    units: UnitLabels = CLASSES


def _targets_of(entries: Sequence[tuple[Path, Tensor]], loss: LossCall, kind: str | None) -> _Targets:
    """Return where the targets of a loss stand in the batch.

    That is the entry that the loss was called with, or one that holds its targets of tokens or pixels, or its classes.

    Args:
        entries: Of the batch.
        loss: That was trained on.
        kind: Kind of the units if it is known; None: it follows from the shapes.
    """
    own_entry = [(path, leaf) for path, leaf in entries if same_memory(leaf, loss.targets)][:1]
    tokens = None if own_entry else _units_in(entries, loss)
    if tokens is not None and tokens.begin:
        return _Targets(tokens.path, tokens.begin, dense=True)
    if kind == TOKEN_LABELS:
        return _locate_targets(entries, kind, loss.counted_targets())
    kind = kind or kind_of_units(loss) or _kind_of_flat(loss, own_entry[0][1] if own_entry else None, tokens)
    if kind is None:
        return _Targets(own_entry[0][0] if own_entry else _path_of_classes(entries, loss))
    targets = UnitTargets.of_kind(loss.counted_targets(), kind)
    holder = targets.held_by(own_entry) or targets.held_by(entries)
    if holder is None:
        return _Targets(None if tokens is None else tokens.path, dense=True)
    return _Targets(holder[0], dense=True, units=holder[1])


def _kind_of_flat(loss: LossCall, own_entry: Tensor | None, tokens: FlatTargets | None) -> str | None:
    """Return the kind of units if the loss has those of all samples in one axis; None if these are not units."""
    if tokens is not None:
        return PIXELS
    if own_entry is None or loss.logits.ndim > 2 or own_entry[:1].numel() == 1 or len(loss.logits) != own_entry.numel():
        return None
    # (N, K) that a binary loss is given flat are several labels.
    is_mask = own_entry.ndim > 3 or (own_entry.ndim == 3 and own_entry.shape[1] > 1)
    return PIXELS if is_mask or loss.name not in BINARY else None


def _locate_targets(entries: Sequence[tuple[Path, Tensor]], kind: str, targets: Tensor) -> _Targets:
    """Return where the targets stand that a tracker recorded, for instance those that the step returned."""
    if kind in (TARGETS, LABELS):
        return _Targets(next((path for path, entry in entries if _are_numbers_of(entry, targets, kind)), None))
    samples, axis = len(targets), label_axis(targets, entries) if kind == TOKEN_LABELS else None
    targets = targets if axis is None else targets.movedim(axis, 1)
    flat = FlatTargets.told_by(targets.detach().flatten(), entries, samples) if targets.ndim == 2 else None
    if flat is not None and flat.begin:
        return _Targets(flat.path, flat.begin, dense=True)
    holder = UnitTargets.of_kind(targets, kind).held_by(entries)
    return _Targets(dense=True) if holder is None else _Targets(holder[0], dense=True, units=holder[1])


def _are_numbers_of(entry: Tensor, targets: Tensor, kind: str) -> bool:
    """Return whether an entry holds these targets, as far as they count, in any shape and dtype."""
    if not (entry.ndim and len(entry) == len(targets) and entry.numel() == targets.numel()):
        return False
    numbers = targets.detach().flatten()
    is_counted = ~numbers.isnan() if kind == TARGETS else numbers >= 0
    has_any = bool(is_counted.any())
    return has_any and torch.equal(entry.detach().flatten().to(numbers.dtype)[is_counted], numbers[is_counted])


def _units_in(entries: Sequence[tuple[Path, Tensor]], loss: LossCall) -> FlatTargets | None:
    """Return how the targets of tokens or pixels follow from an entry of the batch; None if they follow from none.

    Tokens that are predicted at their own position do not count: the step drew which of them to hide, as in a masked
    language model.
    """
    targets = loss.counted_targets().detach()
    if loss.name in BINARY or targets.is_floating_point() or targets.is_complex():
        return None
    numbers = dict.fromkeys(len(leaf) for _, leaf in entries if leaf.ndim > 1)
    ways = (FlatTargets.told_by(targets.flatten(), entries, n) for n in numbers if n not in (0, targets.numel()))
    units = next(filter(None, ways), None)
    is_drawn = units is not None and not units.begin and (units.path in _FIRST or units.path[-1] in INPUT_KEYS)
    return None if is_drawn else units


def _path_of_classes(entries: Sequence[tuple[Path, Tensor]], loss: LossCall) -> Path | None:
    classes = class_labels(loss.targets, loss=loss.name)
    if classes is None:
        return None
    paths = [path for path, leaf in entries if _names(classes, class_labels(leaf, loss=loss.name))]
    return paths[0] if len(paths) == 1 else None


def _names(classes: Tensor, other_classes: Tensor | None) -> bool:
    return other_classes is not None and other_classes.shape == classes.shape and torch.equal(other_classes, classes)
