"""Losses that users wrote.

The softmax or sigmoid before the loss has the logits, and its labels are those of the batch.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynalens.capture.batch import CALLABLE, CaptureError, label_vectors, labels_of
from dynalens.capture.entries import Path, entry_at, leaves
from dynalens.capture.graph import SIGMOID, Activation, LossGraph, Node, look_behind, pull
from dynalens.capture.loss_tap import LossCall
from dynalens.capture.losses import leads_to
from dynalens.capture.masked_rows import MaskedRows
from dynalens.capture.merging import RowsOf
from dynalens.capture.parameters import are_of_one_network, weights_before, weights_behind
from dynalens.capture.soft import FixedLevels
from dynalens.dynamics import NOT_A_CLASS

_REMEDY = f"Return a dict with `loss`, `logits` and `targets` from `training_step`, or pass {CALLABLE}."
_NO_GRAPH = LossGraph(torch.empty(0), [], [], [], [])
_NEITHER = 0.5
"""Stands for the labels of rows in which the loss used other labels than the batch has."""


class _Constant(NamedTuple):
    """What a constant of the loss says about the labels."""

    agrees: Tensor
    """Shape ``(N,)``: whether the constant agrees with the label of each row."""
    decides: bool
    """Whether the loss selects classes by the constant. If not, it may be anything, such as a weight of each sample."""


class ObservedLoss:
    """Take the logits from the graph of a loss and the labels from the batch, and check that they belong together.

    The batch's labels are accepted only if the loss multiplies by them, selects by them or compares with them. This
    rules out scores of pairs, for instance, which may have the shape of logits. In the first step the host compares. In
    later steps the device marks the rows that do not agree.
    """

    def __init__(self) -> None:
        self.passes = 0
        """Number of losses in this step that were computed from probabilities."""
        self.has_another = False
        """Whether another network trains on the labels of torch's losses in this step."""
        self._graph = _NO_GRAPH
        self._pull: Tensor | None = None
        self._masked: MaskedRows | None = None
        self._known_kinds: list[tuple[torch.Size, torch.dtype]] | None = None
        self._agreements: list[bool] = []
        self._levels: list[FixedLevels] = []
        self._turned = False
        self._path: Path | None = None
        self._place: int | None = None

    @property
    def activations(self) -> list[Activation]:
        """The activations between the network and the step's loss."""
        return self._graph.activations

    def look(self, loss: Tensor, inputs: Mapping[Node, Tensor]) -> None:
        """Look at a loss before its backward pass; ``inputs`` are the inputs of activations that were seen."""
        graph = look_behind(loss, inputs)
        if not graph.activations:
            return  # as of another optimizer's loss
        self.passes += 1
        self._graph, self._pull = graph, None
        if len(self.activations) == 1 and self.activations[0].name in SIGMOID and self._kinds() != self._known_kinds:
            self._pull = pull(loss, self.activations[0])
        self._masked = MaskedRows(graph) if len(self.activations) == 1 else None

    def look_again(self, loss: Tensor, inputs: Mapping[Node, Tensor]) -> None:
        """Look at the loss of a later pass. It counts as another one if another network trains on the same labels."""
        graph = look_behind(loss, inputs)
        if not (self.activations and graph.activations) or are_of_one_network([self._graph.loss, loss]):
            return
        pairs = itertools.product(self._graph.constants, graph.constants)
        if any(_are_one_index(*pair, waits=self._known_kinds is None) for pair in pairs):
            self.passes = 2

    def look_beside(self, loss: Tensor, calls: Sequence[LossCall]) -> None:
        """Look for another loss beside those of torch that were called: of the same labels, by another last layer."""
        graph, known_layers = look_behind(loss, {}), {weights_before(call.logits) for call in calls}
        others = [each for each in graph.activations if weights_behind(each.node) not in known_layers]
        num_calls = len(leads_to(loss, calls))  # each of them keeps its targets
        for activation, targets in itertools.product(others, [call.targets.flatten() for call in calls]):
            classes = activation.logits.shape[1] if activation.logits.ndim == 2 else 1
            if targets.is_floating_point() or len(targets) * classes != activation.logits.numel():
                continue
            comparisons = (_comparison(each, targets, classes, FixedLevels()) for each in graph.constants)
            self.has_another |= sum(bool(each.agrees.all()) for each in comparisons) > num_calls

    def is_counted(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Return which targets the step trained on, bool, in the shape of the targets; None if all."""
        return None if self._masked is None else self._masked.is_counted(logits, targets)

    def forget(self) -> None:
        """Drop the step's graph."""
        if self._masked is not None:
            self._masked.close()
        self._graph, self._pull, self._masked = _NO_GRAPH, None, None
        self.passes, self.has_another = 0, False

    def followed_constant(self, rows_of: RowsOf) -> Tensor | None:
        """Return a constant of the loss that was traced to selected or reordered rows of the batch.

        It is None if there is none.
        """
        return next((constant for constant in self._graph.constants if rows_of(constant) is not None), None)

    def several_labels(self, samples: Any, rows_of: RowsOf) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return logits (N, K), labels (N, K) and the step's own labels, if the loss has a sigmoid for each label.

        Else None.

        Args:
            samples: The batch.
            rows_of: Tells which rows of the batch a tensor of the step is.

        Raises:
            CaptureError: If it cannot be told whether a sigmoid stands for a label or for its absence.
        """
        (activation,) = self.activations
        logits, selection = activation.logits, self.followed_constant(rows_of)
        if activation.name not in SIGMOID or logits.ndim != 2 or logits.shape[1] < 2:
            return None
        tables = [constant.float() for constant in self._graph.constants if constant.shape == logits.shape]
        is_new = self._kinds() != self._known_kinds
        for path, entry in leaves(samples) if is_new else [(self._path, entry_at(samples, self._path))]:
            rows_of_entry = entry if entry is None or selection is None else entry[rows_of(selection)]
            if rows_of_entry is None or rows_of_entry.shape != logits.shape or rows_of_entry.is_complex():
                continue
            labels, step_targets = _bits(rows_of_entry), rows_of_entry if selection is None else selection
            agrees = [_agreeing_rows(table, labels) for table in tables]
            if is_new and not _tells(tables, labels, agrees, self._pull):
                continue
            if is_new:
                self._turned, self._path, self._known_kinds = self._is_turned(labels.flatten()), path, self._kinds()
            is_same = torch.stack(agrees).any(dim=0).unsqueeze(1) if agrees else labels.new_zeros(len(labels), 1).bool()
            return -logits if self._turned else logits, torch.where(is_same, labels, _NEITHER), step_targets
        return None

    def labels_in(self, samples: Any, rows_of: RowsOf) -> tuple[Any, Tensor | None]:
        """Return the labels of a batch, and the constant of the loss that was traced to rows of it, or None.

        Of several vectors in the batch, such as a label and the weight of each sample, it is the one that the loss was
        computed with.

        Raises:
            CaptureError: If there is no such vector, or more than one.
        """
        vectors, selection = label_vectors(samples), self.followed_constant(rows_of)
        vectors = vectors or [leaf for _, leaf in leaves(samples) if leaf.ndim == 1]  # under keys of the user's own
        if len(vectors) < 2:
            return vectors[0] if vectors else labels_of(samples, remedy=_REMEDY), selection
        if self._place is None:
            chosen_rows = slice(None) if selection is None else rows_of(selection)
            places = [place for place, vector in enumerate(vectors) if self._uses(vector, chosen_rows)]
            integers = [place for place in places if _holds_integers(vectors[place])]
            self._place = next((choice[0] for choice in (places, integers) if len(choice) == 1), None)
        if self._place is None or self._place >= len(vectors):
            return labels_of(samples, remedy=_REMEDY), selection
        return vectors[self._place], selection

    def _uses(self, labels: Any, chosen_rows: Any) -> bool:
        """Return whether the first loss was computed with these labels. Nothing is remembered of them.

        A mask of a binary loss agrees with itself, too. Of the logits that it keeps, the loss raises some and lowers
        others.
        """
        trial = copy.copy(self)
        with suppress(CaptureError):
            _, classes = trial.rows(labels.flatten()[chosen_rows])
            pull = self._pull
            return pull is None or pull.numel() != len(classes) or _share_pulled_to(classes, pull) in (0, 1)
        return False

    def rows(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, (N, K), (N, 1) or (N,), and the class of each row, (N,) int64.

        Args:
            labels: Those of the batch, or of its rows that the loss was computed with.

        Raises:
            CaptureError: If the loss was not computed with these labels, as far as can be seen.
        """
        (activation,) = self.activations
        labels, logits = labels.flatten(), activation.logits
        classes = logits.shape[1] if logits.ndim == 2 else 1
        if len(labels) * classes != logits.numel():
            raise self._disagreement(activation)
        if self._kinds() != self._known_kinds:
            self._begin(labels, classes)
        labels = _classes_of(labels, classes, self._levels[-1])
        constants = zip(self._graph.constants, self._levels, self._agreements, strict=False)
        comparisons = [
            _comparison(constant, labels, classes, levels) for constant, levels, agreement in constants if agreement
        ]
        agrees = torch.stack([comparison.agrees for comparison in comparisons]).all(dim=0)
        return -logits if self._turned else logits, torch.where(agrees, labels, NOT_A_CLASS)

    def _begin(self, labels: Tensor, classes: int) -> None:
        all_levels = [FixedLevels() for _ in range(len(self._graph.constants) + 1)]  # the last are the labels'
        labels = _classes_of(labels, classes, all_levels[-1])
        constants = zip(self._graph.constants, all_levels, strict=False)
        comparisons = [_comparison(constant, labels, classes, levels) for constant, levels in constants]
        agreements = [bool(comparison.agrees.all()) for comparison in comparisons]
        is_contradicted = any(
            comparison.decides and not agreement for comparison, agreement in zip(comparisons, agreements, strict=True)
        )
        if is_contradicted or not any(agreements):
            raise self._disagreement(self._graph.activations[0])
        self._turned = classes == 1 and self._is_turned(labels)
        # Not before, because later steps go on with what earlier ones showed if this one is left out.
        self._levels, self._agreements, self._known_kinds = all_levels, agreements, self._kinds()

    def _is_turned(self, labels: Tensor) -> bool:
        """Return whether the loss lowers the logit for class 1. Then it is the logit of class 0."""
        assert self._pull is not None
        share = _share_pulled_to(labels, self._pull)
        if share is None or share == 0.5:
            raise self._disagreement(self.activations[0])
        return share < 0.5

    def _kinds(self) -> list[tuple[torch.Size, torch.dtype]]:
        return [(constant.shape[1:], constant.dtype) for constant in self._graph.constants]

    def _disagreement(self, activation: Activation) -> CaptureError:
        return CaptureError(
            f"Expected a loss of the batch's labels and {in_words(activation)}, got one that does not use these "
            f"labels, or uses others, too. {_REMEDY} If it uses the batch's labels in another form, as losses of ranks "
            "and overlaps do, pass `capture='module:<name>'` with the layer that gives the logits."
        )


def _classes_of(labels: Tensor, classes: int, levels: FixedLevels) -> Tensor:
    return levels.binary(labels) if classes == 1 else labels.long()


def _bits(labels: Tensor) -> Tensor:
    """Return labels with 0 in the place of a number for a missing one, -1 for instance, which a loss has to mask."""
    return torch.where(labels >= 0, labels, 0).float()


def _agreeing_rows(table: Tensor, labels: Tensor) -> Tensor:
    """Return the rows in which a constant equals the labels. If it is their complement in all rows, return all rows."""
    is_same, is_turned = (table == labels).all(dim=1), (table == 1 - labels).all(dim=1)
    return torch.where(is_turned.all(), is_turned, is_same)


def _tells(tables: Sequence[Tensor], labels: Tensor, agrees: Sequence[Tensor], pull: Tensor | None) -> bool:
    """Return whether the labels are zeros and ones, and so are constants of the loss that agree with them.

    All other constants of zeros and ones must be masks: where they are 0, nothing is trained on. Waits for the device.
    """
    are_bits = [bool(((values == 0) | (values == 1)).all()) for values in (labels, *tables)]
    agreements = [bool(agreement.all()) for agreement in agrees]
    masks = [
        table for table, agreement, bits in zip(tables, agreements, are_bits[1:], strict=True) if bits and not agreement
    ]
    if not are_bits[0] or not any(agreements):
        return False
    if not masks:
        return True
    is_masked = torch.stack(masks).eq(0).any(dim=0)
    if pull is None or pull.shape != labels.shape or bool(pull[is_masked].any()):
        return False
    return _share_pulled_to(labels.flatten(), pull) in (0, 1)


def _holds_integers(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex() or values.dtype is torch.bool)


def _are_one_index(a: Tensor, b: Tensor, *, waits: bool) -> bool:
    """Return whether two constants are the same labels: one tensor, or, if it may wait for the device, equal ones."""
    if not (_holds_integers(a) and _holds_integers(b)) or a.numel() != b.numel():
        return False
    return a.data_ptr() == b.data_ptr() or (waits and torch.equal(a.flatten(), b.flatten()))


def _share_pulled_to(labels: Tensor, pull: Tensor) -> float | None:
    """Return the share of the logits that the loss raises if their label is 1, and lowers if it is 0.

    Those that it does not change, as those that are masked, do not count; None if it changes none.
    """
    pull_to_label = -pull.flatten() * (2 * labels - 1)
    number = int((pull_to_label != 0).sum())
    return int((pull_to_label > 0).sum()) / number if number else None


def in_words(activation: Activation) -> str:
    """Return a description of logits that were found in the graph, for announcements and errors."""
    name = activation.name.removesuffix("Backward0")
    return f"the input of {name} {list(activation.logits.shape)} on the way to the loss"


def _comparison(constant: Tensor, labels: Tensor, classes: int, levels: FixedLevels) -> _Constant:
    n, binary = len(labels), classes == 1
    integers = not constant.is_floating_point() and constant.dtype is not torch.bool
    if not binary and integers and constant.shape in ((n,), (n, 1)):
        return _Constant(constant.flatten() == labels, decides=True)
    if not binary and constant.shape == (n, classes):
        return _Constant(levels.rows(constant.float().abs()) == labels, decides=True)
    if binary and constant.numel() == n:
        classes_of_constant = levels.binary(constant.float().abs().flatten())
        agrees = classes_of_constant == labels
        disagrees = classes_of_constant == 1 - labels
        # One of the two holds for all rows, or neither.
        return _Constant(torch.where(agrees.all(), agrees, disagrees), decides=False)
    return _Constant(torch.zeros_like(labels, dtype=torch.bool), decides=False)
