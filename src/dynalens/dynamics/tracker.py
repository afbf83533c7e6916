"""Compute the record without Lightning: ``update`` for each batch, ``end_epoch`` after each epoch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics.dense import EARLIER_DOUBT, LATER
from dynalens.dynamics.fold import classes_of, empty_state, fold, read_statistics, with_entropy, with_rival
from dynalens.dynamics.passes import HostBlock
from dynalens.dynamics.probabilities import check_probabilities, probability_room
from dynalens.dynamics.statistics import Array, EpochRecord, SampleStatistics
from dynalens.dynamics.step_rows import (
    CERTAIN,
    EL2N,
    LOG_OTHER,
    LOG_P,
    MARGIN,
    MASKED,
    NOT_A_CLASS,
    ROWS,
    TARGET,
    PendingRows,
    predicted_classes,
)
from dynalens.dynamics.targets import TOLERANCE, largest_errors, residuals, rows_within_tolerance
from dynalens.dynamics.tolerance import checked_tolerance, for_each_target
from dynalens.dynamics.units import changed_units, empty_units, kind_of
from dynalens.dynamics.weighting import GROWTH, TOKEN_GROWTH, EpochWeights, number_weight, unit_weight
from dynalens.units import LABELS, MEANS, PIXEL_LABELS, PIXELS, TARGETS, UnitKind, UnitPresentation
from dynalens.units.kinds import DOUBT, KIND, MEAN_LOSS

VERSION = 4
_ANEW = "`reset()` of a monitor, or another `TrainingDynamics`"
Exchange = Callable[[Array, Array, Array], tuple[Array, Array]]


class TrainingDynamics:
    """Compute the training dynamics of each sample, such as margin and forgetting events, without Lightning.

    Call ``update`` for each batch, ``end_epoch`` after each epoch, and ``compute`` when you want the statistics. A
    step does not wait for the device. A presentation is one time that the network trains on a sample. The record takes
    64 bytes per sample. During an epoch, each presentation takes 32 bytes more, 24 of them on the device of the logits.

    Args:
        num_samples: Number N of samples in the dataset.
        mean_probabilities: Whether to also keep the mean of all K probabilities of each sample. They take 4 N K bytes:
            True allows 1 GiB, a number that many GiB. During an epoch, the device of the logits holds 4 K bytes for
            each presentation, and twice as many while several processes merge their records. The host holds 6 N K
            bytes, and 12 N K bytes more while an epoch ends.
        tolerance: For a regression, the absolute residual below which a prediction is right: a number, or one for each
            of D targets. Default: the median absolute deviation of the first epoch's targets.

    Raises:
        ValueError: If ``num_samples`` is not positive, ``mean_probabilities`` negative, or ``tolerance`` not positive.

    Example:
        The margins of sample 0 are 1 and -3: it was right, then wrong. Those of sample 1 are -1 and -1.

        >>> import torch
        >>> dynamics = TrainingDynamics(2)
        >>> for epoch, logits in enumerate([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 0.0]]]):
        ...     dynamics.update([0, 1], torch.tensor(logits), torch.tensor([0, 1]))
        ...     _ = dynamics.end_epoch(epoch)
        >>> dynamics.compute().forgetting_events, dynamics.compute().margin
        (array([1, 0], dtype=int32), array([-1., -1.]))
    """

    def __init__(
        self,
        num_samples: int,
        *,
        mean_probabilities: bool | float = False,
        tolerance: float | Sequence[float] | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError(
                f"Expected `num_samples` to be at least 1, got {num_samples}. Pass the length of the dataset."
            )
        self.num_samples = num_samples
        self._room = probability_room(mean_probabilities)
        self._tolerance = checked_tolerance(tolerance)
        self._state = empty_state(num_samples)
        self._epoch_weights, self._classes, self._block = EpochWeights(), 0, HostBlock()
        self._pending_rows = self._nothing_pending()

    def update(self, indices: Sequence[int] | Tensor, logits: Tensor, targets: Tensor) -> None:
        """Record one batch: what the network says of each sample before the weights change.

        A sample may occur in a batch more than once.

        Args:
            indices: Dataset index of each row, N integers in [0, num_samples).
            logits: Shape ``(N, K)``, K >= 2. They are not modified, and no reference to them is kept.
            targets: Shape ``(N,)``, int64: the class that each row was trained on.

        Raises:
            ValueError: If the shapes do not agree, or the mean probabilities take more memory than is allowed.
        """
        self._add(indices, logits, targets, None)

    def _add(
        self, indices: Sequence[int] | Tensor, logits: Tensor, targets: Tensor, unit_numbers: Tensor | None
    ) -> None:
        one_each = not isinstance(indices, Tensor) or (indices.ndim == 1 and not indices.is_floating_point())
        has_shape = logits.ndim == 2 and logits.shape[1] > 1 and targets.shape == logits.shape[:1]
        if not has_shape or not one_each or _count(indices) != targets.shape[0]:
            raise ValueError(
                f"Expected `logits` of shape (N, K), K >= 2, with N `targets` and N integer `indices`, got "
                f"{tuple(logits.shape)}, {tuple(targets.shape)} and {_shape_in_words(indices)}. "
                "Pass one row of logits, one class and one dataset index for each sample."
            )
        if unit_numbers is None:
            self._check_kind(None)
        else:
            self._pending_rows.unit_numbers.append(unit_numbers)
        if self._room:
            self._presentations += logits.shape[0]
            rows = max(self.num_samples, self._presentations)
            self._classes = check_probabilities(self._room, rows, logits.shape[1], self._classes)
        self._pending_rows.add(indices, logits, targets)

    def update_units(self, indices: Sequence[int] | Tensor, shown: UnitPresentation) -> None:
        """Record one batch of samples that have several units each.

        Args:
            indices: Dataset index of each sample, N integers in [0, num_samples).
            shown: What :func:`~dynalens.units.multi_label`, :func:`~dynalens.units.dense`,
                :func:`~dynalens.units.dense_labels` or :func:`~dynalens.units.regression` returns.

        Raises:
            ValueError: If earlier batches had another kind or number of units, or ``mean_probabilities`` is set.
        """
        if self._room:
            raise ValueError(
                "Expected `mean_probabilities=False` with several labels or targets for each sample, got a "
                "request to keep probabilities. Leave the argument out: the record has the margin of each label, "
                "or the residual of each target."
            )
        if shown.kind.name == TARGETS and self._tolerance is not None:
            for_each_target(self._tolerance, shown.kind.labels)
        if not len(self._pending_rows):
            self._adopt(shown.kind)
        self._check_kind(shown.kind)
        self._add(indices, shown.logits, shown.targets, shown.numbers)

    @property
    def kind(self) -> UnitKind | None:
        """Kind of the units of the samples. None if each sample has one label, or if nothing was recorded yet."""
        return kind_of(self._state)

    def grow(self, num_samples: int) -> None:
        """Add samples until there are ``num_samples``. They get the next indices. No sample is ever removed."""
        num_new = max(num_samples - self.num_samples, 0)
        new_state = empty_state(num_new, classes_of(self._state)) | empty_units(num_new, kind_of(self._state))
        new_state.pop(TOLERANCE, None)  # which is of all samples
        new_state = {name: values for name, values in new_state.items() if name in self._state}
        self._state |= {k: np.append(self._state[k], v.astype(self._state[k].dtype), 0) for k, v in new_state.items()}
        self.num_samples += len(new_state["label"])

    def end_epoch(self, epoch: int, exchange: Exchange | None = None) -> EpochRecord:
        """End an epoch: move its presentations to the host in one copy, and add them to the record.

        Args:
            epoch: Number of the epoch, from 0.
            exchange: If several processes train, a callable that takes index ``(n,)``, rows ``(R, n)`` and step
                ``(n,)`` of the presentations of this process, and returns index and rows of those of all processes, in
                the order in which they count.

        Returns:
            The presentations of this epoch.

        Raises:
            ValueError: If a target is no class, an index is out of range, or the label of a sample changed
                since its last presentation. The record is then as before.
        """
        pending_rows = self._pending_rows
        index, rows, step = pending_rows.on_host()
        self._pending_rows = self._nothing_pending()
        self._settle_other(rows, pending_rows)
        if exchange is not None:
            index, rows = exchange(index, rows, step)
        if len(rows) > ROWS and len(index) and not self._room:  # this process may have had no presentation
            self._adopt(UnitKind.told_by(len(rows) - ROWS, int(rows[ROWS + KIND, 0])))
        if not len(index) and self.kind is not None:  # nothing has said how many numbers the units have
            rows = np.zeros((ROWS + self.kind.numbers, 0), rows.dtype)
        self._check(index, rows)
        if self._is_regression:
            rows = rows_within_tolerance(self._state, index, rows, self._tolerance)
        has_label = rows[TARGET] >= 0
        rows[MARGIN, rows[MARGIN] > -MASKED] = CERTAIN
        is_finite = self._are_finite(rows)
        is_recorded = has_label & is_finite
        if not is_recorded.all():
            index, rows = index[is_recorded], rows[:, is_recorded]
        self._adopt_classes(len(rows) - ROWS)
        num_forgotten, num_learned = fold(self._state, index, rows, epoch, self._step(rows, epoch))
        return EpochRecord(
            index=index,
            p_label=np.exp(rows[LOG_P]),
            margin=rows[MARGIN],
            predicted=predicted_classes(rows).astype(np.int32),
            p_other=np.exp(rows[LOG_OTHER]),
            forgotten=num_forgotten,
            learned=num_learned,
            non_finite=int((has_label & ~is_finite).sum()),
            **self._values_of_units(rows[ROWS:]),
        )

    def _values_of_units(self, numbers: Array) -> dict[str, Array]:
        """Return what an epoch's history has of several labels, or of the targets of a regression."""
        kind = kind_of(self._state)
        if kind is None or kind.name not in (LABELS, TARGETS):
            return {}
        return {"residual": residuals(numbers)} if kind.name == TARGETS else {"loss": numbers[MEAN_LOSS]}

    def discard_pending(self) -> int:
        """Drop the presentations since the last ``end_epoch``, and return their number."""
        count, self._pending_rows = len(self._pending_rows), self._nothing_pending()
        return count

    def compute(self) -> SampleStatistics:
        """Return the statistics over the epochs that have ended: copies, one value for each of the N samples."""
        return read_statistics(self._state)

    def state_dict(self, *, pending: bool = True) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to continue, as tensors and plain Python.

        Args:
            pending: Also return the presentations of the epoch under way.
        """
        under_way = self._pending_rows if pending else PendingRows()
        presentations = zip(("index", "rows", "step"), under_way.on_host(), strict=True)
        return {
            "version": VERSION,
            "num_samples": self.num_samples,
            **self._epoch_weights.state(),
            "mean_probabilities": bool(self._room),
            "state": {name: torch.from_numpy(values.copy()) for name, values in self._state.items()},
            "pending": {name: torch.from_numpy(values.copy()) for name, values in presentations},
            "heads": sorted(under_way.heads),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: If its version or its number of samples differ, if it lacks the mean probabilities that this
                object keeps, or if it holds tokens or pixels that an earlier version of dynalens recorded.
        """
        version, num_samples = state_dict.get("version"), state_dict.get("num_samples")
        if (version, num_samples) != (VERSION, self.num_samples):
            raise ValueError(
                f"Expected a record of version {VERSION} with {self.num_samples} samples, got version {version} with "
                f"{num_samples}. Resume with the dataset the checkpoint was made with, or begin a new record: {_ANEW}."
            )
        if self._room and not state_dict.get("mean_probabilities", False):
            raise ValueError(
                "Expected a record with mean probabilities, as `mean_probabilities` asks for them, got one without. "
                f"Resume with `mean_probabilities=False`, or begin a new record: {_ANEW}."
            )
        if EARLIER_DOUBT in state_dict["state"]:
            raise ValueError(
                "Expected a record of tokens or pixels with weighted means of their losses, got one of an earlier "
                "version with sums of margins. Finish this training with the version that began it, or begin a new "
                f"record: {_ANEW}."
            )
        index, rows, step = (state_dict["pending"][name].cpu().numpy().copy() for name in ("index", "rows", "step"))
        state = with_rival({name: values.cpu().numpy().copy() for name, values in state_dict["state"].items()})
        self._classes = classes_of(state) or len(rows) - ROWS
        if not self._room:
            self._classes, kind = 0, kind_of(state)
            rows = rows[:ROWS] if kind is None else np.pad(rows, ((0, ROWS + kind.numbers - len(rows)), (0, 0)))
            names = empty_state(0) | empty_units(0, kind)
            state = {name: state[name] for name in names if name in state or name not in LATER}
        self._state, self._epoch_weights = with_entropy(state), EpochWeights(state_dict)
        self._pending_rows = self._nothing_pending()
        self._pending_rows.continue_from(index, rows, step, state_dict["heads"])
        self._presentations = len(self._pending_rows)

    def _nothing_pending(self) -> PendingRows:
        self._presentations = 0  # in this epoch; counted only if memory is limited
        self._block.drop()
        return PendingRows(probabilities=self._room > 0, block=self._block)

    @property
    def _is_regression(self) -> bool:
        return TOLERANCE in self._state

    def _step(self, rows: Array, epoch: int) -> float:
        """Return this epoch's weight as a part of all weights with it."""
        if not rows.shape[1]:
            return 0.0
        kind = kind_of(self._state)
        if kind is None:
            gaps = np.exp(rows[LOG_P] - rows[MARGIN]) - np.exp(rows[LOG_P])
            weight = self._epoch_weights.next(epoch, gaps)
        elif kind.name == TARGETS:
            error, constant_error = largest_errors(self._state, rows[ROWS:])
            least_error = self._epoch_weights.least_so_far(error)
            weight = number_weight(epoch, error=least_error, constant_error=constant_error)
        elif kind.name in (PIXELS, PIXEL_LABELS):
            weight = self._epoch_weights.next_of_masks(epoch, rows[ROWS + DOUBT])
        else:
            weight = unit_weight(epoch, growth=GROWTH if kind.name == LABELS else TOKEN_GROWTH)
        return self._epoch_weights.part(weight)

    def _settle_other(self, rows: Array, pending_rows: PendingRows) -> None:
        """Leave a probability of another class only where it is no mask's, and of a class that is a label elsewhere."""
        label, turn = np.maximum(rows[TARGET], 0).astype(np.int64), pending_rows.turns()
        if pending_rows.classes == 2:  # of two classes, the other class is always known
            with np.errstate(invalid="ignore"):  # what is not finite is not counted
                rows[LOG_OTHER], turn = rows[LOG_P] - rows[MARGIN], 1 - label
        labels = np.append(self._state["label"], rows[TARGET]).astype(np.int64)
        labels = labels[labels >= 0]
        is_label = np.zeros(max(turn.max(initial=0), labels.max(initial=0)) + 2, bool)
        is_label[labels] = True
        is_other = is_label[turn] & (turn != label)  # a turn of -1 reads the last entry, which is False
        rows[LOG_OTHER, ~is_other | (rows[LOG_OTHER] < MASKED)] = np.nan

    def _check(self, index: Array, rows: Array) -> None:
        if len(index) and (index.min() < 0 or index.max() >= self.num_samples):
            num_outside = int(((index < 0) | (index >= self.num_samples)).sum())
            raise ValueError(
                f"Expected `indices` to be in [0, {self.num_samples}), got {num_outside} outside it, the largest of "
                f"all is {index.max()}. If the dataset has grown, begin a new record: {_ANEW}."
            )
        num_wrong = int((rows[TARGET] == NOT_A_CLASS).sum())
        if num_wrong:
            raise ValueError(
                f"Expected the targets to be classes, got {num_wrong} in this epoch that name no class: numbers that "
                "are not below the number of logits, binary targets that are neither 0 nor 1, or soft, mixed or "
                "multi-label ones. Give a monitor `capture='labels'` if a sample may have any number of labels, else "
                "`capture=` with a callable that returns logits and class indices."
            )
        changes = self._changed_labels(index, rows[TARGET]) + changed_units(self._state, index, rows[ROWS:])
        if changes:
            raise ValueError(
                f"Expected the label of a sample to stay the same, got {changes} samples whose label changed "
                "between presentations. If the indices do not belong to the rows of the batch, let the dataset return "
                "the index of each sample, and give it to `update`, or its place in the batch to a monitor as "
                "`index=`. If targets are drawn anew, as noise is, leave the record out."
            )

    def _adopt_classes(self, classes: int) -> None:
        """Make room for mean probabilities, where they are kept, with the first presentations."""
        if self._room and classes > 0 and not classes_of(self._state):
            self._state = empty_state(self.num_samples, classes) | self._state

    def _are_finite(self, rows: Array) -> Array:
        """Return which presentations have a finite number in all that is recorded of them, (M,) bool."""
        is_finite: Array = np.isfinite(rows[: EL2N + 1]).all(axis=0) & (rows[MARGIN] > MASKED)
        if kind_of(self._state) is not None:
            is_finite &= np.isfinite(rows[ROWS:][list(MEANS)]).all(axis=0)
        return is_finite

    def _adopt(self, kind: UnitKind) -> None:
        """Make room for units if nothing is recorded yet."""
        if kind_of(self._state) != kind and not self._state["presentations"].any():
            self._state = empty_state(self.num_samples) | empty_units(self.num_samples, kind)

    def _check_kind(self, kind: UnitKind | None) -> None:
        record_kind = kind_of(self._state)
        if kind != record_kind:
            raise ValueError(
                f"Expected {_in_words(record_kind)}, as in the record so far, got {_in_words(kind)}. Train with one "
                f"kind of targets, or begin a new record: {_ANEW}."
            )

    def _changed_labels(self, index: Array, target: Array) -> int:
        if target.min(initial=0) < 0:
            index, target = index[target >= 0], target[target >= 0]
        labels = self._state["label"].astype(np.float32)
        first_labels = labels[index]
        is_new = first_labels < 0
        if is_new.any():
            labels[index[is_new]] = target[is_new]
            first_labels = labels[index]
        return len(np.unique(index[first_labels != target]))


def _in_words(kind: UnitKind | None) -> str:
    return "one label for each sample" if kind is None else f"{kind.labels or 'several'} {kind.name} for each sample"


def _count(indices: Sequence[int] | Tensor) -> int:
    return indices.shape[0] if isinstance(indices, Tensor) else len(indices)  # ten times as fast


def _shape_in_words(indices: Sequence[int] | Tensor) -> str:
    return f"{tuple(indices.shape)} of {indices.dtype}" if isinstance(indices, Tensor) else f"{len(indices)} of them"
