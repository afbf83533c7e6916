"""The per-sample record of a training run: what is counted and summed, and nothing of loaders or files.

The step writes one small row for each presentation and never waits for the device; all else happens once,
at the epoch's end, on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

VERSION = 1
IGNORED = -1
"""Target of a presentation that the loss ignored (``ignore_index``): it is not counted."""
NOT_A_CLASS = -2
"""Target that is no class, met on the device; it is raised at the epoch's end."""

_MARGIN, _LOG_P, _EL2N, _PREDICTED, _TARGET = range(5)
# Integers start as int16 and widen together when one needs more: 63 bytes for each sample.
_INTEGERS = {
    "label": -1,
    "presentations": 0,
    "correct": 0,
    "forgetting_events": 0,
    "first_learned": -1,
    "last_forgotten": -1,
    "predicted": -1,
    "candidate": -1,
    "candidate_count": 0,
}
_SUMS = ("margin_sum", "p_mean", "p_m2", "loss_sum", "el2n_sum")

Array = npt.NDArray[Any]


def presentation_rows(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return margin, log-probability of the label, EL2N, prediction and target of each presentation.

    With logits :math:`z`, label :math:`y` and :math:`p = \mathrm{softmax}(z)`:
    :math:`z_y - \max_{k \ne y} z_k` (Pleiss et al. 2020, equation 1), :math:`\log p_y`,
    :math:`\lVert p - \mathrm{onehot}(y) \rVert_2` (Paul et al. 2021), :math:`\arg\max_k z_k`, :math:`y`.
    No operation waits for the device.

    Args:
        logits: Shape ``(N, K)``, K >= 2, any floating dtype; computed in float32.
        targets: Shape ``(N,)``, int64, in [0, K). A negative value marks a presentation that is not counted.

    Returns:
        Shape ``(5, N)``, float32, on the device of ``logits``.

    Example:
        >>> import torch
        >>> presentation_rows(torch.tensor([[2.0, 0.5]]), torch.tensor([1]))[[0, 3, 4], 0]
        tensor([-1.5000,  0.0000,  1.0000])
    """
    z = logits.detach().float()
    labels = targets.detach().clamp(min=0).unsqueeze(1)
    z_label = z.gather(1, labels).squeeze(1)
    margin = z_label - z.scatter(1, labels, -torch.inf).amax(dim=1)
    log_p = F.log_softmax(z, dim=1)
    p_others = log_p.exp().scatter(1, labels, 0.0)
    # 1 - p_y as a sum of the others keeps its digits when p_y is close to 1.
    el2n = (p_others.square().sum(dim=1) + p_others.sum(dim=1).square()).sqrt()
    rows = (margin, log_p.gather(1, labels).squeeze(1), el2n, z.argmax(dim=1), targets.detach())
    return torch.stack([row.float() for row in rows])


@dataclass(frozen=True)
class SampleStatistics:
    """Statistics of each of the N samples over its T presentations; a sample never seen has NaN.

    Attributes:
        label: Class that was trained on, int; -1 where never seen.
        presentations: Number T of times seen (Toneva et al. 2019), int.
        forgetting_events: Transitions correct -> wrong between consecutive presentations (Toneva et al. 2019), int.
        learned: Whether it was ever correct, bool.
        first_learned: Epoch of the first correct presentation; NaN where never learned.
        last_forgotten: Epoch of the last forgetting event; NaN where there was none.
        margin: Mean of z_y - max_{k != y} z_k over presentations, the AUM (Pleiss et al. 2020).
        confidence: Mean of p_y, in [0, 1] (Swayamdipta et al. 2020).
        variability: Population standard deviation of p_y, in [0, 0.5] (Swayamdipta et al. 2020).
        correctness: Correct presentations / T, in [0, 1]. Correct is margin > 0, so that a tie is wrong.
        loss: Mean of -log p_y, in nats.
        el2n: Mean of ||p - onehot(y)||_2, in [0, sqrt(2)] (Paul et al. 2021, who average over seeds).
        probability_gap: max_k p_k - p_y at the last presentation, in [0, 1].
        predicted: Class of the largest logit at the last presentation, int; -1 where never seen.
        candidate: Majority among the predictions that disagree with the label (Boyer and Moore's sketch, so
            exact where one class has more than half of them), int; -1 where none disagreed.
    """

    label: Array
    presentations: Array
    forgetting_events: Array
    learned: Array
    first_learned: Array
    last_forgotten: Array
    margin: Array
    confidence: Array
    variability: Array
    correctness: Array
    loss: Array
    el2n: Array
    probability_gap: Array
    predicted: Array
    candidate: Array

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class EpochRecord:
    """The presentations of one epoch in the order they were made, and what changed in it.

    Attributes:
        index: Dataset index of each presentation, int64.
        p_label: Probability of the label, float32.
        margin: Logit margin, float32.
        predicted: Class of the largest logit, int32.
        forgotten: Number of forgetting events in this epoch.
        learned: Number of samples that were correct for the first time.
        non_finite: Number of presentations left out because a logit was NaN or infinite.
    """

    index: Array
    p_label: Array
    margin: Array
    predicted: Array
    forgotten: int
    learned: int
    non_finite: int

    @property
    def accuracy(self) -> float:
        """Fraction of presentations with a positive margin; NaN for an epoch without any."""
        return float((self.margin > 0).mean()) if len(self.margin) else float("nan")


class TrainingDynamics:
    """Count and sum what training shows of each sample, exactly and without waiting for the device.

    ``update`` is called for each batch, ``end_epoch`` once an epoch, ``compute`` whenever the statistics are
    wanted. Works without Lightning.

    Args:
        num_samples: Number N of samples in the dataset.

    Raises:
        ValueError: If ``num_samples`` is not positive.

    Example:
        >>> import torch
        >>> dynamics = TrainingDynamics(2)
        >>> for epoch, logits in enumerate([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 0.0]]]):
        ...     dynamics.update([0, 1], torch.tensor(logits), torch.tensor([0, 1]))
        ...     _ = dynamics.end_epoch(epoch)
        >>> dynamics.compute().forgetting_events, dynamics.compute().margin
        (array([1, 0], dtype=int32), array([-1., -1.]))
    """

    def __init__(self, num_samples: int) -> None:
        if num_samples < 1:
            raise ValueError(
                f"Expected `num_samples` to be at least 1, got {num_samples}. Pass the length of the dataset."
            )
        self.num_samples = num_samples
        self._state = _empty_state(num_samples)
        self._pending: list[tuple[Tensor, Tensor]] = []

    def update(self, indices: Sequence[int] | Tensor, logits: Tensor, targets: Tensor) -> None:
        """Record one batch; a sample may occur in it more than once.

        Args:
            indices: Dataset index of each row, N integers in [0, num_samples).
            logits: Shape ``(N, K)``, K >= 2. Not modified.
            targets: Shape ``(N,)``, int64, the classes trained on.

        Raises:
            ValueError: If the shapes do not agree.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        if logits.ndim != 2 or targets.shape != logits.shape[:1] or index.shape != targets.shape:
            raise ValueError(
                f"Expected `logits` of shape (N, K) with N `targets` and N `indices`, got "
                f"{tuple(logits.shape)}, {tuple(targets.shape)} and {tuple(index.shape)}. "
                "Pass one row of logits, one class and one dataset index for each sample."
            )
        self._pending.append((index, presentation_rows(logits, targets)))

    def end_epoch(self, epoch: int) -> EpochRecord:
        """Move the epoch's rows to the host, once, and fold them into the record.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            The presentations of this epoch.

        Raises:
            ValueError: If a target is no class, an index is out of range, or the label of a sample changed
                since its last presentation. The record is then as before.
        """
        index, rows = self._take_pending()
        self._check(index, rows)
        counted = rows[_TARGET] >= 0
        finite = np.isfinite(rows[: _EL2N + 1]).all(axis=0)
        index, rows, non_finite = (
            index[counted & finite],
            rows[:, counted & finite],
            (counted & ~finite).sum(),
        )
        self._widen(index, rows, epoch)
        forgotten, learned = self._fold(index, rows, epoch)
        return EpochRecord(
            index=index,
            p_label=np.exp(rows[_LOG_P]),
            margin=rows[_MARGIN],
            predicted=rows[_PREDICTED].astype(np.int32),
            forgotten=forgotten,
            learned=learned,
            non_finite=int(non_finite),
        )

    def discard_pending(self) -> int:
        """Drop the presentations since the last ``end_epoch`` and return how many there were."""
        dropped = sum(len(index) for index, _ in self._pending)
        self._pending = []
        return dropped

    def compute(self) -> SampleStatistics:
        """Return the statistics of the epochs that have ended; arrays of length N, copies."""
        state = {
            name: values.astype(np.int32 if name in _INTEGERS else values.dtype) for name, values in self._state.items()
        }
        times = np.where(state["presentations"] > 0, state["presentations"], np.nan)
        derived = {
            "learned": state["first_learned"] >= 0,
            "first_learned": _or_nan(state["first_learned"]),
            "last_forgotten": _or_nan(state["last_forgotten"]),
            "margin": state["margin_sum"] / times,
            "confidence": np.where(np.isnan(times), np.nan, state["p_mean"]),
            "variability": np.sqrt(state["p_m2"] / times),
            "correctness": state["correct"] / times,
            "loss": state["loss_sum"] / times,
            "el2n": state["el2n_sum"] / times,
            "probability_gap": np.where(np.isnan(times), np.nan, state["probability_gap"]),
        }
        values = state | derived
        return SampleStatistics(**{field.name: values[field.name] for field in fields(SampleStatistics)})

    def state_dict(self) -> dict[str, Any]:
        """Return version, N, the record and the presentations of the epoch under way: tensors and plain Python."""
        index, rows = self._joined_pending()
        state = {name: torch.from_numpy(values.copy()) for name, values in self._state.items()}
        return {
            "version": VERSION,
            "num_samples": self.num_samples,
            "state": state,
            "pending_index": index.clone(),
            "pending_rows": rows.clone(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``.

        Raises:
            ValueError: If it has another version or another number of samples.
        """
        found = (state_dict.get("version"), state_dict.get("num_samples"))
        if found != (VERSION, self.num_samples):
            raise ValueError(
                f"Expected a record of version {VERSION} with {self.num_samples} samples, got version {found[0]} "
                f"with {found[1]}. Resume with the dataset the checkpoint was made with, or call `reset()`."
            )
        self._state = {name: state_dict["state"][name].cpu().numpy().copy() for name in self._state}
        index, rows = state_dict["pending_index"], state_dict["pending_rows"]
        self._pending = [(index.clone(), rows.clone())] if len(index) else []

    def _joined_pending(self) -> tuple[Tensor, Tensor]:
        if not self._pending:
            return torch.empty(0, dtype=torch.int64), torch.empty(5, 0)
        index = torch.cat([index.cpu() for index, _ in self._pending])
        return index, torch.cat([rows for _, rows in self._pending], dim=1).cpu()

    def _take_pending(self) -> tuple[Array, Array]:
        index, rows = self._joined_pending()
        self._pending = []
        return index.numpy(), rows.numpy()

    def _check(self, index: Array, rows: Array) -> None:
        outside = int(((index < 0) | (index >= self.num_samples)).sum())
        if outside:
            raise ValueError(
                f"Expected `indices` to be in [0, {self.num_samples}), got {outside} outside it, "
                f"the largest {index.max()}. Did the dataset grow? Start a new record."
            )
        wrong = int((rows[_TARGET] == NOT_A_CLASS).sum())
        if wrong:
            raise ValueError(
                f"Expected binary targets to be 0 or 1, got {wrong} other values in this epoch. "
                "Pass `capture=` with a callable that returns logits and class indices."
            )
        changed = self._changed_labels(index, rows[_TARGET])
        if changed:
            raise ValueError(
                f"Expected the label of a sample to stay the same, got {changed} samples whose label changed between "
                "presentations. Indices and rows of the batch do not belong together, or labels are drawn anew: "
                "let the dataset return its index and pass `index=`."
            )

    def _changed_labels(self, index: Array, target: Array) -> int:
        counted = target >= 0
        index, label = index[counted], target[counted].astype(np.int32)
        known = self._state["label"].astype(np.int32)
        unknown = known[index] < 0
        known[index[unknown]] = label[unknown]
        return len(np.unique(index[known[index] != label]))

    def _widen(self, index: Array, rows: Array, epoch: int) -> None:
        classes = rows[[_PREDICTED, _TARGET]].max(initial=0)
        counts = self._state["presentations"].max() + np.bincount(index, minlength=1).max()
        if max(epoch, int(classes), int(counts)) > np.iinfo(self._state["label"].dtype).max:
            self._state.update({name: self._state[name].astype(np.int32) for name in _INTEGERS})

    def _fold(self, index: Array, rows: Array, epoch: int) -> tuple[int, int]:
        state, n = self._state, self.num_samples
        order = np.argsort(index, kind="stable")  # presentations of one sample together, still in their order
        index, rows = index[order], rows[:, order]
        correct = rows[_MARGIN] > 0
        first = np.ones(len(index), dtype=bool)
        first[1:] = index[1:] != index[:-1]
        last = np.ones(len(index), dtype=bool)
        last[:-1] = first[1:]
        before = np.where(first, state["was_correct"][index], np.roll(correct, 1))
        forgot = before & ~correct
        newly = np.unique(index[correct & (state["first_learned"][index] < 0)])

        integer = state["label"].dtype
        state["label"][index] = rows[_TARGET].astype(integer)
        state["forgetting_events"] += np.bincount(index[forgot], minlength=n).astype(integer)
        state["last_forgotten"][index[forgot]] = epoch
        state["first_learned"][newly] = epoch
        state["correct"] += np.bincount(index[correct], minlength=n).astype(integer)
        state["was_correct"][index[last]] = correct[last]
        state["predicted"][index[last]] = rows[_PREDICTED][last].astype(integer)
        # max_k p_k is p_y or, where the margin m is not positive, p_y * exp(-m).
        log_p, margin = rows[_LOG_P][last], rows[_MARGIN][last]
        state["probability_gap"][index[last]] = np.exp(log_p - np.minimum(margin, 0)) - np.exp(log_p)
        self._add_moments(index, rows)
        self._vote(index, rows, first)
        return int(forgot.sum()), len(newly)

    def _add_moments(self, index: Array, rows: Array) -> None:
        """Chan's parallel form of Welford's update: exact for any number of presentations of a sample."""
        state, n = self._state, self.num_samples
        p = np.exp(rows[_LOG_P]).astype(np.float64)
        count = np.bincount(index, minlength=n)
        seen = np.maximum(count, 1)
        mean = np.bincount(index, p, n) / seen
        m2 = np.bincount(index, (p - mean[index]) ** 2, n)
        total = np.maximum(state["presentations"] + count, 1)
        delta = mean - state["p_mean"]
        state["p_m2"] += m2 + delta**2 * state["presentations"] * count / total
        state["p_mean"] += delta * count / total
        state["margin_sum"] += np.bincount(index, rows[_MARGIN], n)
        state["loss_sum"] -= np.bincount(index, rows[_LOG_P], n)
        state["el2n_sum"] += np.bincount(index, rows[_EL2N], n)
        state["presentations"] += count.astype(state["presentations"].dtype)

    def _vote(self, index: Array, rows: Array, first: Array) -> None:
        """Boyer and Moore's majority vote among predictions that disagree; one round for each repeat in the epoch."""
        candidate, count = self._state["candidate"], self._state["candidate_count"]
        start = np.maximum.accumulate(np.where(first, np.arange(len(index)), 0))
        repeat = np.arange(len(index)) - start
        disagrees = rows[_PREDICTED] != rows[_TARGET]
        for round_ in range(int(repeat.max()) + 1 if len(index) else 0):
            chosen = (repeat == round_) & disagrees
            i, vote = index[chosen], rows[_PREDICTED][chosen].astype(candidate.dtype)
            candidate[i] = np.where(count[i] == 0, vote, candidate[i])
            count[i] += np.where(candidate[i] == vote, 1, -1)


def _empty_state(num_samples: int) -> dict[str, Array]:
    state: dict[str, Array] = {name: np.full(num_samples, start, np.int16) for name, start in _INTEGERS.items()}
    state.update({name: np.zeros(num_samples) for name in _SUMS})
    state["probability_gap"] = np.zeros(num_samples, np.float32)
    state["was_correct"] = np.zeros(num_samples, np.bool_)
    return state


def _or_nan(epochs: Array) -> Array:
    return np.where(epochs >= 0, epochs, np.nan)
