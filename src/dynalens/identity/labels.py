"""Compare the targets of the first steps with the labels of their batches, and an epoch's targets with the dataset."""

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from dynalens.capture import CHANCE_OF_ANY_COLUMN, ENOUGH_FOR_ORDER, CaptureError, OrderCheck, is_reordered
from dynalens.dynamics import NOT_A_CLASS
from dynalens.identity.columns import Column, Path, is_integer_vector
from dynalens.identity.dataset_labels import Array, disagreements, given_labels
from dynalens.identity.drawn_targets import are_unrelated
from dynalens.identity.errors import SampleIdentityError, check_step_before
from dynalens.keys import LABEL_KEYS

GIVEN = ("labels of the dataset",)
_FIRST_STEPS = 3
"""Number of steps whose targets the host compares. One step with several classes is enough; some have one class
only."""
_ENOUGH_TARGETS = 100
"""Number of targets that are compared if they do not follow from the labels. With two balanced classes and a fifth
of the labels drawn anew, 80 of 100 agree, with a standard error of 4. Four standard errors above chance are 70."""
ANOTHER_ORDER = (
    "Expected the targets of the loss to be in the order of the batch, got its labels in another order. Let a step "
    "that reorders rows return a dict of `loss`, and `logits` and `targets` in the order of the batch. Where a hook "
    "reorders them, wrap the dataset in `IndexedDataset` and let the hook reorder the index too."
)

LAYER_ORDER = (
    "Expected the layer that `capture` names to compute with the samples in the order of the batch, as its labels are, "
    "got them in another order. Pass `capture='auto'`, or return a dict of `loss`, and `logits` and `targets` in the "
    "order of the batch."
)
OTHER_LATER = (
    "Expected the targets of the loss to be the labels of the batch, as in the first steps, got {} other "
    "targets in this epoch. Either the step reorders rows in a way that cannot be followed, or it changes labels. "
    "Reorder inputs and labels with torch's functions, as in `labels = labels[order]`, or return a dict of "
    "`loss`, and `logits` and `targets` in the order of the batch."
)
MIXED = (
    "Expected each target of the loss to be the label of one row of the batch, got numbers made of several rows, "
    "as `torch.where(choice, labels, labels[order])` makes them. Return a dict of `loss`, and `logits` and "
    "`targets` in the order of the batch, with the samples' own labels as targets."
)
NOT_GIVEN = (
    "Expected the targets of the samples to be the labels that {} shows, got {}. This happens if the dataset "
    "returns another sample in the place of a broken one, if it returns other labels than it keeps in an attribute "
    "such as `targets`, if rows are reordered, or if labels are changed. Leave broken samples out with a Subset, write "
    "the labels that are returned into that attribute, or let each sample carry its own index and pass `index=`."
)
_CHANGED = (
    "Expected the targets of the loss to follow from the labels of the batch, as most of them do, got {} of "
    "{} targets in the first steps that do not. Either rows are reordered, or the step changes labels or draws "
    "them anew. Let the dataset return the labels that are trained on, or return a dict of `loss`, and `logits` "
    "and `targets` in the order of the batch, with the samples' own labels as targets."
)
_MIXED_LATER = (
    "Expected the targets of the first steps to be classes, got {} that name no class in one of them: soft or mixed "
    "ones, or binary ones that are neither 0 nor 1. Return a dict of `loss`, and `logits` and `targets` in the order "
    "of the batch, with the samples' own labels as targets. Pass `capture='labels'` if a sample may have any number "
    "of labels."
)
_UNLABELLED = (
    "Expected samples without a label, {} in the batch, to be left out of the loss, got class {} for them as for "
    "others. Let their target be -100, or return a dict of `loss`, and `logits` and `targets` of the whole batch with "
    "-100 there."
)
_CLASSIFIER = (
    "Return a dict with `loss`, and with `logits` and `targets` of a classifier, pass `capture=` with a "
    "callable(outputs, batch) -> (logits, targets), or leave the monitor out."
)
NO_CLASSES = (
    "Expected the targets of the loss to be classes of the samples, got {}, as a contrastive loss has it. "
    f"{_CLASSIFIER}"
)
DRAWN = (
    "Expected the targets of the loss to be classes of the samples, got numbers that have nothing to do with the "
    f"labels of the batch, which the step or a hook draws, as pretext tasks do. {_CLASSIFIER}"
)
DRAWN_BEFORE = (
    "Expected the targets of the loss to be classes of the samples, got numbers that have nothing to do with their "
    "labels, and other ones where the same samples are read again: the dataset or the collate function draws them, "
    f"as pretext tasks do. {_CLASSIFIER}"
)
_RENUMBERED = (
    "Expected each class to have the same number in all steps, got targets that number the classes of each batch anew, "
    "as few-shot learning does, so that a number means another class in each step. If the module also has logits of "
    "all classes, return a dict of `loss`, and of these `logits` and their `targets` in the order of the batch. Else "
    "leave the monitor out."
)


class LabelCheck:
    """Compare the targets of the first steps with the labels of their batches."""

    def __init__(self) -> None:
        self._steps: list[tuple[dict[Path, list[Any]], list[int]]] = []
        self.given_is_target = False
        """Whether the targets of the first steps equal the labels that the dataset shows."""

        self.confirmed = False
        """Whether the targets are labels of the batch in its order, or follow from them."""

        self.needs_steps = True
        """Whether ``see`` must be called for the next step. It is stored, not computed, because each step asks for
        it."""

        # Most columns are no labels, but those of the dataset are.
        self._orders = defaultdict[Path, OrderCheck](partial(OrderCheck, CHANCE_OF_ANY_COLUMN), {GIVEN: OrderCheck()})
        self._reordered, self._draws_always = set[Path](), True
        self.witness: Path | None = None
        """Path at which the batches of the first steps hold their targets; None if there is none."""

    def see(
        self,
        columns: Mapping[Path, Column],
        targets: Tensor,
        *,
        classes: int,
        is_traced: bool,
        integers: list[int] | None = None,
        draws: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compare the targets of one of the first steps with its labels. Waits for the device.

        Args:
            columns: Columns of integers or strings of the step's rows by their paths, each as long as ``targets``.
            targets: Shape ``(M,)``; negative where a row is not counted.
            classes: Number of logits for each row.
            is_traced: Whether a trace showed that the step made them from a vector of the batch, row by row.
            integers: The targets with those that the loss ignores, if they are integers.
            draws: Returns whether the step may have drawn the targets with random numbers that are not torch's. It is
                asked only where nothing tells what the targets have to do with the batch.

        Raises:
            SampleIdentityError: If they are in another order than the labels.
            CaptureError: If they are no classes.
        """
        row_targets = targets.tolist()
        if NOT_A_CLASS in row_targets:
            raise CaptureError(_MIXED_LATER.format(row_targets.count(NOT_A_CLASS)))
        rows = [row for row, target in enumerate(row_targets) if target >= 0]
        if not rows:
            self.confirmed |= is_traced
            return
        columns = {path: column for path, column in columns.items() if len(column) == len(row_targets)}
        values, target = _integer_columns(columns, rows), [row_targets[row] for row in rows]
        self._steps.append((values, target))
        self._reordered |= {path for path in values if self._orders[path].refutes(values[path], target)}
        relations = self._relations()
        usual_paths = {path for path in relations if path == GIVEN or path == (1,) or path[-1] in LABEL_KEYS}
        label_paths = usual_paths or set(relations)
        labels_alike = {"same", "function"} & set(relations.values()) or "equal" in map(relations.get, label_paths)
        self.confirmed = is_traced or bool(labels_alike)
        open_paths = {path for path in values if self._orders[path].is_open}
        if not labels_alike:
            self._check_changed((usual_paths | open_paths) - {GIVEN})
            self._check_renumbered(label_paths)
            check_step_before(self._steps)
        # Nothing may have told what targets have to do with labels, and rows of numbers may become several labels.
        is_settled = self._are_settled(label_paths, relations) and bool(labels_alike) and (integers or not classes)
        tells_little = sum(len(step[1]) for step in self._steps) < (ENOUGH_FOR_ORDER if open_paths else _ENOUGH_TARGETS)
        self.needs_steps = len(self._steps) < _FIRST_STEPS or (tells_little and not is_settled)
        if not self.confirmed:
            has_ignored = integers is not None and len(integers) == len(row_targets)
            usual_columns = {path: columns[path] for path in usual_paths if path in columns}
            self._check_order(usual_columns, rows, integers if has_ignored else None)
            self._check_drawn(label_paths, relations, draws=draws())
            self._check_contrastive(classes, {path for path in usual_paths if relations[path] == "constant"})

    def _relations(self) -> dict[Path, str]:
        """Return how the targets so far follow from each column, and note the columns that they equal."""
        relations = {path: _relation(*self._labels_and_targets(path)) for path in self._steps[0][0]}
        equal_columns = [path for path, relation in relations.items() if relation == "same"]
        self.given_is_target = GIVEN in equal_columns
        self.witness = next((path for path in equal_columns if path != GIVEN), None)
        return relations

    def _are_settled(self, label_paths: set[Path], relations: Mapping[Path, str]) -> bool:
        """Return whether the usual columns of labels need no further steps; raise where one refutes the targets."""
        is_given_open = GIVEN in label_paths and not relations[GIVEN]
        if is_given_open:
            self._check_given()
        unlabelled = [_trains_unlabelled(*self._labels_and_targets(path), relations[path]) for path in label_paths]
        return not (is_given_open or any(unlabelled))

    def _check_order(self, labels: Mapping[Path, Column], rows: list[int], integers: list[int] | None) -> None:
        """Raise if the targets are the numbers of a column of labels in another order, or by no accident of any column.

        If ``integers`` are given, they are compared instead of the targets, with all rows.
        """
        numbers = self._steps[-1][1] if integers is None else integers
        rows_to_read = rows if integers is None else list(range(len(integers)))
        columns = _integer_columns(labels, rows_to_read)
        if self._reordered or any(is_reordered(values, numbers) for values in columns.values()):
            raise SampleIdentityError(ANOTHER_ORDER)

    def _check_drawn(self, label_paths: set[Path], relations: Mapping[Path, str], *, draws: bool) -> None:
        """Raise if each step drew random numbers, and the targets have to do with nothing in the batches.

        Columns of one value tell nothing. If all values differ, as those of names, the targets may follow from them.
        """
        self._draws_always &= draws
        if self._draws_always and label_paths:
            columns = {path: self._labels_and_targets(path) for path in relations}
            several = [pair for pair in columns.values() if len(set(pair[0])) > 1]
            if several and all(are_unrelated(*pair) for pair in several):
                raise CaptureError(DRAWN)

    def _check_contrastive(self, classes: int, constant: set[Path]) -> None:
        """Raise if each row's target is its own number, or always 0, as in contrastive losses.

        Labels of a few samples may be the numbers of their rows by chance. A step that renumbers labels may get some
        batches of class 0 alone, so that error comes only after batches with as many labels as there are classes, or at
        the end of the steps that are compared.
        """
        target, targets = self._steps[-1][1], [numbers for _, numbers in self._steps]
        are_numbers = classes >= len(target) > 2 and all(numbers == list(range(len(numbers))) for numbers in targets)
        if are_numbers and sum(map(len, targets)) * math.log(classes) > -math.log(CHANCE_OF_ANY_COLUMN):
            raise CaptureError(NO_CLASSES.format("the numbers of the rows"))
        if not any(target) and classes > 2:
            labels = [set(self._labels_and_targets(path)[0]) for path in constant]
            if any(not self.needs_steps or len(labels_of_path) >= classes for labels_of_path in labels):
                raise CaptureError(NO_CLASSES.format("class 0 throughout batches with several labels"))

    def _check_changed(self, label_paths: set[Path]) -> None:
        """Raise if most targets follow from the labels, and the others from nothing in the batches."""
        for path in label_paths & set(self._steps[-1][0]):
            label, target = self._labels_and_targets(path)
            other_columns = (
                self._labels_and_targets(candidate)[0] for candidate in self._steps[0][0] if candidate != path
            )
            if _are_mostly_equal(label, target) and not any(
                _explain(label, candidate, target) for candidate in other_columns
            ):
                num_wrong = sum(map(operator.ne, label, target))
                raise SampleIdentityError(_CHANGED.format(num_wrong, len(target)))

    def _check_renumbered(self, label_paths: set[Path]) -> None:
        """Raise if each step numbers its labels anew, so that a label has other numbers in other steps."""
        for path in label_paths:
            pairs_of_steps = [(columns[path], target) for columns, target in self._steps if path in columns]
            if len(pairs_of_steps) > 1 and all(_is_numbering(label, target) for label, target in pairs_of_steps):
                raise CaptureError(_RENUMBERED)

    def _check_given(self) -> None:
        """Raise if most targets, but not all, are the label that the dataset shows (Cohen's kappa above one half).

        Raise as well if they are these labels in another order.
        """
        if GIVEN in self._reordered:
            raise SampleIdentityError(NOT_GIVEN.format("the dataset", "the same in another order in the first steps"))
        pairs = [
            pair for pair in zip(*self._labels_and_targets(GIVEN), strict=True) if pair[0] >= 0
        ]  # others have no label
        label, target = [value for value, _ in pairs], [value for _, value in pairs]
        agreement, chance = agreement_and_chance(label, target)
        if agreement - chance > (1 - chance) / 2 and _are_mostly_equal(label, target):
            num_wrong = sum(map(operator.ne, label, target))
            dataset_label, returned_label = next(pair for pair in pairs if pair[0] != pair[1])
            report = (
                f"{num_wrong} of {len(target)} samples with another one in the first steps, such as {returned_label} "
                f"where {dataset_label} is shown"
            )
            raise SampleIdentityError(NOT_GIVEN.format("the dataset", report))

    def _labels_and_targets(self, path: Path) -> tuple[list[Any], list[int]]:
        label = [value for columns, _ in self._steps for value in columns.get(path, ())]
        target = [value for columns, targets in self._steps if path in columns for value in targets]
        return label, target


def check_given(dataset: Any, index: Array, targets: Array, *, is_same: bool) -> None:
    """Compare an epoch's targets with the labels that the dataset shows.

    Args:
        dataset: The dataset of the loader.
        index: Shape ``(M,)``, the position of each presentation's sample in it.
        targets: Shape ``(M,)``, integers; negative where a presentation is not counted.
        is_same: Whether they were equal in the first steps. Then each target that differs is wrong.

    Raises:
        SampleIdentityError: If most agree and some do not.
    """
    dataset_labels = given_labels(dataset)
    if dataset_labels is None or not len(index) or index.max() >= len(dataset_labels):
        return
    label = dataset_labels[index]
    places = np.flatnonzero((targets >= 0) & (label >= 0))
    label, target = label[places], targets[places].astype(np.int64)
    wrong_samples = np.unique(
        index[places[np.flatnonzero(label != target) if is_same else disagreements(label, target)]]
    )
    refuse(dataset, wrong_samples)


def refuse(dataset: Any, wrong_samples: Array) -> None:
    """Raise a SampleIdentityError that names samples with another label than the dataset shows, if there are any."""
    if len(wrong_samples):
        positions = ", ".join(map(str, wrong_samples[:5].tolist()))
        report = f"{len(wrong_samples)} samples with another one, at position {positions}"
        raise SampleIdentityError(
            NOT_GIVEN.format(type(dataset).__name__, f"{report}{' and so on' if len(wrong_samples) > 5 else ''}")
        )


def _trains_unlabelled(label: list[Any], target: list[int], relation: str) -> bool:
    """Return whether samples with a negative label are trained on as a class of their own.

    Raise if their class is also the class of samples with other labels.
    """
    if relation != "function" or not all(isinstance(value, int) for value in label):
        return False
    pairs = set(zip(label, target, strict=True))
    classes = {number for value, number in pairs if value >= 0}
    for value, number in pairs:
        if value < 0 and number in classes:
            raise CaptureError(_UNLABELLED.format(value, number))
    return any(value < 0 for value, _ in pairs)


def _integer_columns(columns: Mapping[Path, Column], rows: list[int]) -> dict[Path, list[Any]]:
    """Return these rows of the columns that are lists or vectors of integers."""
    lists = {
        path: column.tolist() if isinstance(column, Tensor) else column
        for path, column in columns.items()
        if isinstance(column, list) or is_integer_vector(column)
    }
    return {path: [values[row] for row in rows] for path, values in lists.items()}


def _relation(label: list[Any], target: list[int]) -> str:
    """Return how the targets follow from a column of labels.

    It is "same" if they are its values, "equal" if this is one value only, "function" if repeated labels always have
    the same target, "constant" if all targets are equal, and "" otherwise. If the targets are the same numbers, equally
    often, it is another order and not a "function": two alternating classes, read backwards, would look like a
    renumbering.
    """
    values = set(label)
    if label == target:
        return "same" if len(values) > 1 else "equal"
    if len(set(target)) == 1:
        return "constant" if len(values) > 1 else ""
    functional = len(set(zip(label, target, strict=True))) == len(values)
    return "function" if functional and len(values) < len(label) and not is_reordered(label, target) else ""


def _is_numbering(label: list[Any], target: list[int]) -> bool:
    """Return whether the targets of a step number its labels one to one. At least two samples of each label show it."""
    repeats = Counter(label).values()
    pairs = set(zip(label, target, strict=True))
    return len(repeats) > 1 and min(repeats) > 1 and len(pairs) == len(repeats) == len(set(target))


def _are_mostly_equal(label: list[Any], target: list[int]) -> bool:
    """Return whether targets equal their label more often than by chance, by four standard errors, but not always.

    Chance makes this so for one of 30,000 unrelated columns.
    """
    agreement, chance = agreement_and_chance(label, target)
    return 0 < chance < 1 and agreement < 1 and agreement - chance > 4 * (chance * (1 - chance) / len(target)) ** 0.5


def agreement_and_chance(label: list[Any], target: list[Any]) -> tuple[float, float]:
    """Return the fraction of targets that equal their label, and the fraction that would by chance."""
    n, label_counts, target_counts = max(len(target), 1), Counter(label), Counter(target)
    chance = sum(label_counts[number] * target_counts[number] for number in target_counts) / n**2
    return sum(map(operator.eq, label, target)) / n, chance


def _explain(label: list[Any], other_label: list[Any], target: list[int]) -> bool:
    """Return whether labels and another column together determine the target, which repeated pairs show."""
    pairs = set(zip(label, other_label, strict=False))
    return len(label) == len(other_label) > len(pairs) == len(set(zip(label, other_label, target, strict=False)))
