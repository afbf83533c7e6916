"""Losses of numbers: which of them are a regression of the batch's labels, and what a step shows of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.capture.batch import CaptureError
from dynalens.capture.entries import Path, leaves
from dynalens.capture.graph import Node, source_of
from dynalens.capture.loss_tap import IGNORE_INDEX, LossCall
from dynalens.capture.merging import RowsOf
from dynalens.capture.selected_labels import in_rows
from dynalens.keys import INPUT_KEYS, LABEL_KEYS
from dynalens.units import MOST_TARGETS, UnitPresentation, regression

_FEWEST = 4
"""Fewest rows from which the same order shows that targets were computed from a label. By chance, 1 in 24 or fewer
agree."""


class BatchTargets:
    """Tell a regression of the batch's labels from losses of other numbers: inputs, noise, scores of a critic.

    The first batch decides. In a regression, the targets are a tensor of the batch beside its inputs, hold the same
    numbers, or are in the same order if the step rescales them. A tensor that also holds the input does not count,
    because an autoencoder would then be a regression. In later batches, the loss at the same place is taken and nothing
    waits for the device. Only if targets are rescaled, the second batch is compared, too: it shows whether each batch
    has a scale of its own.
    """

    def __init__(self) -> None:
        self._places: list[int] | None = None
        self._kinds: list[Any] = []
        self._rescaled_matches: dict[int, Match] = {}
        self._is_returned = self._puts_back = False

    @property
    def is_known(self) -> bool:
        """Whether the first batch had a regression."""
        return self._places is not None

    def presentation_of(
        self, losses: Sequence[LossCall], outputs: Any, batch: Any, rows_of: RowsOf, *, probabilities: Sequence[Any]
    ) -> tuple[UnitPresentation, Tensor, str, Tensor | None] | None:
        """Return what a step shows of a regression, the targets as the step has them, their source, and which count.

        Args:
            losses: Losses of numbers that are trained on. If several have the same predictions, the first counts.
            outputs: What the step returned; its ``predictions`` and ``targets`` count first.
            batch: What the loader delivered.
            rows_of: Tells which rows of the batch some targets are.
            probabilities: Activations between the network and the first step's loss. If there are any, targets of zeros
                and ones are classes.

        Raises:
            CaptureError: If predictions and targets do not go together.
        """
        returned_loss = _returned_loss(outputs) if not self.is_known or self._is_returned else None
        if returned_loss is not None and not (probabilities and _are_bits(returned_loss.targets)):
            self._is_returned, self._places = True, []
            calls, source = [returned_loss], "predictions and targets: returned by the step"
        else:
            numbers = [call for call in losses if not (probabilities and _are_bits(call.targets))]
            calls = self._calls(numbers, batch, rows_of)
            source = "; ".join(f"predictions: input of {call.name} {list(call.logits.shape)}" for call in calls)
            source += "; targets: labels of the batch"
        if not calls:
            return None
        presentation = shown_targets(calls)
        count = "a number" if presentation.kind.labels == 1 else f"{presentation.kind.labels} numbers"
        return presentation, calls[0].targets, f"{source} ({count} for each sample)", calls[0].is_counted()

    def _calls(self, losses: Sequence[LossCall], batch: Any, rows_of: RowsOf) -> list[LossCall]:
        """Return the losses whose targets are labels of the batch, one for each prediction."""
        if self._places is not None:
            calls = self._as_before([in_rows(call) if self._puts_back else call for call in losses])
            self._check_scales(calls, batch, rows_of)
            return calls
        sources = [_source(call) for call in losses]
        matches = _matches(losses, sources, batch, rows_of)
        # A mask may have selected one number of each sample, such as its last one, or those that are known.
        if len(matches) != 1 and any(call.selection is not None for call in losses):
            whole_losses = [in_rows(call) for call in losses]
            whole_matches = _matches(whole_losses, sources, batch, rows_of)
            self._puts_back = bool(whole_matches)
            losses, matches = (whole_losses, whole_matches) if whole_matches else (losses, matches)
        if matches:
            if not _have_same_rows([losses[place] for place, _ in matches], rows_of):
                raise CaptureError(_OTHER_ROWS)
            self._places = [place for place, _ in matches]
            self._kinds = [_kind(call) for call in losses]
            self._rescaled_matches = {number: match for number, (_, match) in enumerate(matches) if match.is_rescaled}
        return [losses[place] for place, _ in matches]

    def _check_scales(self, calls: Sequence[LossCall], batch: Any, rows_of: RowsOf) -> None:
        """Compare the scale of the second batch's targets with the scale of the first batch's.

        Raises:
            CaptureError: If a step brings each batch to a scale of its own, as by its own mean.
        """
        scaled_matches, self._rescaled_matches = self._rescaled_matches, {}
        _, side_entries = _inputs_and_others(batch)
        for call, match in ((calls[number], match) for number, match in scaled_matches.items() if number < len(calls)):
            targets = _counted_targets(call)
            entries = _with_columns(side_entries, rows_of(call.targets), targets)
            labels = [entry for number, column, entry in entries if (number, column) == match.entry]
            if labels and not match.has_scale_of(targets, labels[0]):
                raise CaptureError(
                    "Expected the targets of the loss to be on one scale in every batch, got another scale in the "
                    "second batch than in the first. A step that divides targets by the mean or the spread of "
                    f"their batch does this. {REMEDY}"
                )

    def _as_before(self, losses: Sequence[LossCall]) -> list[LossCall]:
        assert self._places is not None
        if [_kind(call) for call in losses] == self._kinds:
            return [losses[place] for place in self._places]
        kinds = [self._kinds[place] for place in self._places]
        alike = [[call for call in losses if _kind(call) == kind] for kind in kinds]
        return [calls[0] for calls in alike] if all(len(calls) == 1 for calls in alike) else []


def _source(call: LossCall) -> Any:
    """Return what gave the predictions of a loss, whatever a mask selected of them."""
    node: Node = call.logits.grad_fn
    return source_of(call.logits) if call.selection is None else node.next_functions[0]


def _matches(
    losses: Sequence[LossCall], sources: Sequence[Any], batch: Any, rows_of: RowsOf
) -> list[tuple[int, "Match"]]:
    """Return the places of losses whose targets are labels of the batch, one for each source, and these labels."""
    inputs, side_entries = _inputs_and_others(batch)
    matches: dict[Any, tuple[int, Match]] = {}
    for place, (call, source) in enumerate(zip(losses, sources, strict=True)):
        match = _made_of(call, side_entries, rows_of)
        if match is not None and _made_of(call, inputs, rows_of, inputs=True) is None:
            matches.setdefault((source, match.entry, call.targets.shape), (place, match))
    return list(matches.values())


def _have_same_rows(calls: Sequence[LossCall], rows_of: RowsOf) -> bool:
    """Return whether there are losses, and all of them are of the same rows of the batch."""
    in_order = [list(range(call.targets.shape[:1].numel())) for call in calls]
    known_rows = [rows_of(call.targets) for call in calls]
    rows = [default if each is None else each.tolist() for default, each in zip(in_order, known_rows, strict=True)]
    return len(set(map(tuple, rows))) == 1


def shown_targets(calls: Sequence[LossCall]) -> UnitPresentation:
    """Return what a step shows of a regression; targets of several losses are side by side.

    Raises:
        CaptureError: If predictions and targets have not one shape, or there are too many of them.
    """
    parts = [_columns(call) for call in calls]
    if len({len(part[0]) for part in parts}) > 1:
        raise CaptureError(
            "Expected all losses of the step to have the same number of rows, got "
            f"{[len(part[0]) for part in parts]}. {REMEDY}"
        )
    residuals, targets, losses, is_counted = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    if targets.shape[1] > MOST_TARGETS:
        raise CaptureError(f"Expected at most {MOST_TARGETS} targets for each sample, got {targets.shape[1]}. {REMEDY}")
    return regression(residuals, targets, losses, is_counted)


REMEDY = (
    "Return a dict with `loss`, and with `predictions` and `targets` of shape (N,) or (N, D), from `training_step`, or "
    "leave the monitor out."
)


_OTHER_ROWS = f"Expected all losses of the step to have the same rows of the batch, got others. {REMEDY}"


def _returned_loss(outputs: Any) -> LossCall | None:
    """Return the predictions and targets that a step returned, as a call of a squared loss.

    It is None if they are not numbers.

    If their shapes differ, :func:`shown_targets` raises the error.
    """
    if not isinstance(outputs, Mapping) or "predictions" not in outputs or "targets" not in outputs:
        return None
    predictions, targets = outputs["predictions"], outputs["targets"]
    tensors = isinstance(predictions, Tensor) and isinstance(targets, Tensor)
    if not tensors or not predictions.is_floating_point() or predictions.shape[:1] != targets.shape[:1]:
        return None
    return LossCall("mse_loss", predictions, targets, IGNORE_INDEX, direct=False)


def _are_bits(targets: Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


def _columns(call: LossCall) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return residuals, targets, losses and whether they count, ``(N, D)`` each."""
    if call.logits.shape != call.targets.shape:
        raise CaptureError(
            f"Expected predictions and targets of one shape, got {tuple(call.logits.shape)} and "
            f"{tuple(call.targets.shape)}: a loss would compare each prediction with every target. Bring them to one "
            "shape: `predictions.squeeze(1)` or `targets.unsqueeze(1)`."
        )
    predictions, targets = _in_full(call.logits), _in_full(call.targets)
    option = {"smooth_l1_loss": {"beta": call.option}, "huber_loss": {"delta": call.option}}.get(call.name, {})
    loss: Tensor = getattr(F, call.name)(predictions, targets, reduction="none", **option)
    mask = call.is_counted()
    mask = torch.ones_like(loss, dtype=torch.bool) if mask is None else mask.expand_as(loss)
    n, num_targets = (len(targets), targets.shape[1:].numel()) if targets.ndim else (1, 1)
    values_of_call = (predictions - targets, targets, loss, mask)
    residuals, given_targets, losses, is_counted = (values.reshape(n, num_targets) for values in values_of_call)
    return residuals, given_targets, losses, is_counted


def _in_full(values: Tensor) -> Tensor:
    return values.detach() if values.dtype is torch.float64 else values.detach().float()


def _kind(call: LossCall) -> tuple[str, torch.Size, torch.Size]:
    return call.name, call.logits.shape[1:], call.targets.shape[1:]


def _inputs_and_others(batch: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of a batch that are inputs, and its other tensors.

    Inputs are what stands under the usual keys of a dict or attributes of an object, or else its first tensor that is
    not under a usual key of labels, of those with the most axes. Of a tuple they are the first entry.
    """
    entries = list(leaves(batch))
    names = [path[0] for path, _ in sorted(entries, key=lambda entry: -entry[1].ndim) if path]
    usual = [name for name in names if name in INPUT_KEYS]
    first_name = [name for name in names if name not in LABEL_KEYS][:1]
    inputs: set[Any] = {0} if 0 in names else set(usual or first_name)

    def is_input(path: Path) -> bool:
        return not path or path[0] in inputs

    return [leaf for path, leaf in entries if is_input(path)], [leaf for path, leaf in entries if not is_input(path)]


class Match(NamedTuple):
    """An entry of the batch that targets were computed from.

    Attributes:
        entry: Its number among the entries, and the column; None: the whole of it.
        targets: Shape ``(N, D)``, float32.
        labels: Shape ``(N, D)``, those of the entry, in float32.
        is_rescaled: Whether the targets are on another scale.
    """

    entry: tuple[int, int | None]
    targets: Tensor
    labels: Tensor
    is_rescaled: bool

    def has_scale_of(self, targets: Tensor, labels: Tensor) -> bool:
        """Return whether these targets and its own are together ordered as their labels are."""
        if targets.numel() != labels.numel() or targets.numel() != len(targets) * self.targets.shape[1]:
            return False
        batch_values = (values.detach().float().reshape(-1, self.targets.shape[1]) for values in (targets, labels))
        pairs = zip((self.targets, self.labels), batch_values, strict=True)
        return bool(_is_ordered_alike(*(torch.cat(pair) for pair in pairs)))


def _made_of(call: LossCall, entries: Sequence[Tensor], rows_of: RowsOf, *, inputs: bool = False) -> Match | None:
    """Return the entry of the batch that the targets are, or a column of one; None if there is none.

    Waits for the device.

    A column of the inputs must hold the same numbers, not just the same order, because a good feature may be in the
    order of the labels. Where a target does not count, the entry may hold any number.
    """
    targets = call.targets
    if targets.ndim > 3 or targets.requires_grad or targets.is_complex():
        return None
    rows, targets = rows_of(targets), _counted_targets(call)
    for number, column, entry in _with_columns(entries, rows, targets):
        with suppress(RuntimeError, TypeError):  # an entry of another kind, as a sparse one
            is_same = _is_same(targets, entry, is_choice=rows is not None)
            if is_same or (not (inputs and column is not None) and _same_order(targets, entry)):
                numbers, labels = (values.detach().float().reshape(len(targets), -1) for values in (targets, entry))
                return Match((number, column), numbers, labels, is_rescaled=not is_same)
    return None


def _counted_targets(call: LossCall) -> Tensor:
    """Return the targets, with NaN for those that do not count."""
    targets, mask = call.targets, call.is_counted()
    if mask is None or not targets.is_floating_point():
        return targets
    return targets.masked_fill(~mask.expand_as(targets), torch.nan)


def _with_columns(
    entries: Sequence[Tensor], rows: Tensor | None, targets: Tensor
) -> Iterator[tuple[int, int | None, Tensor]]:
    """Yield the entries at the rows of the targets, and the columns of the entries if a row has one target."""
    single = bool(targets.ndim) and targets.numel() == len(targets)
    for number, entry in enumerate(entries):
        if rows is not None and not (entry.ndim and len(entry)):
            continue
        selection = entry if rows is None else entry[rows.to(entry.device)]
        yield number, None, selection
        if single and selection.ndim == 2 and len(selection) == len(targets) and 1 < selection.shape[1] <= MOST_TARGETS:
            yield from ((number, column, selection[:, column]) for column in range(selection.shape[1]))


def _is_same(targets: Tensor, entry: Tensor, *, is_choice: bool) -> bool:
    """Return whether an entry holds these numbers in this order.

    A single number counts only if it is the entry itself, or was selected from one.
    """
    if targets.numel() != entry.numel() or not targets.numel() or targets.shape[:1] != entry.shape[:1]:
        return False
    numbers, other_numbers = targets.flatten(), entry.detach().flatten().to(targets.dtype)
    is_known = ~numbers.isnan()
    numbers, other_numbers = numbers[is_known], other_numbers[is_known]
    varies = bool((numbers != numbers[:1]).any())
    is_entry = is_choice or entry is targets or entry.data_ptr() == targets.data_ptr()
    return bool(len(numbers)) and torch.equal(numbers, other_numbers) and (varies or is_entry)


def _same_order(targets: Tensor, entry: Tensor) -> bool:
    """Return whether each column of the targets is in the order of the entry's column, as after a change of scale."""
    if entry.shape[:1] != targets.shape[:1] or entry.numel() != targets.numel() or len(targets) < _FEWEST:
        return False
    if not entry.is_floating_point():  # classes, of which a step makes other numbers
        return False
    columns, other_columns = (values.detach().float().reshape(len(targets), -1) for values in (targets, entry))
    return bool(_is_ordered_alike(columns, other_columns))


def _is_ordered_alike(columns: Tensor, other_columns: Tensor) -> Tensor:
    """Return whether numbers rise together in each column, as far as they are known; NaN stands for others."""
    is_missing = columns.isnan()
    order = columns.argsort(dim=0, stable=True)  # with NaN at the end
    steps, other_steps = (
        values.masked_fill(is_missing, torch.nan).gather(0, order).diff(dim=0) for values in (columns, other_columns)
    )
    are_enough = (~is_missing).sum() >= _FEWEST
    has_no_pair = (~is_missing).sum(dim=0) < 2
    rises = (other_steps > 0) == (steps > 0)
    return are_enough & rises.all() & ((steps > 0).any(dim=0) | has_no_pair).all() & ~(other_steps < 0).any()
