"""What the history of a run adds to its record: how the course of training speaks about each label."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.disagreement import Disagreement, WeightedMeans
from dynalens.suspicion.refuted_labels import CandidateBins, count_candidates


@dataclass(frozen=True)
class HistorySummary:
    """What the presentations of N samples say, summed over the epochs of a history.

    Attributes:
        agreement: Shape ``(N,)``, fraction of the presentations that predicted the suggested class; NaN without one.
        probability_margin: Shape ``(N,)``, mean over all presentations of p_y - max_{k != y} p_k.
        candidates: Of some epochs, for :func:`~dynalens.suspicion.refuted_labels.refuted_rate`.
        presentations: Shape ``(N,)``.
        disagreements: How far the network disagreed with the labels, after some of the epochs.
        epoch_count: How many epochs there are.
    """

    agreement: Array
    probability_margin: Array
    candidates: list[CandidateBins]
    presentations: Array
    disagreements: list[Disagreement]
    epoch_count: int


def summarise_history(label: Array, suggested: Array, history: Iterable[Mapping[str, Array]]) -> HistorySummary:
    """Return the summary of a run, which holds one epoch at a time; one without presentations if there is no history.

    Args:
        label: Shape ``(N,)``, the class trained on.
        suggested: Shape ``(N,)``, the class suggested instead, or -1.
        history: For each epoch, in order, ``index``, ``p_label``, ``margin``, ``predicted`` and, for the noise
            rate, ``p_other`` of its presentations.
    """
    sums = HistorySums(suggested)
    for epoch in history:
        sums.add(label, epoch)
    return sums.summary(label)


class HistorySums:
    """Sums up the history of a run epoch by epoch, so that no epoch is read again; some numbers for each sample.

    Args:
        suggested: Shape ``(N,)``, the class suggested instead of each label, or -1; None if no agreement is wanted.

    Attributes:
        epoch_count: How many epochs were counted.
    """

    def __init__(self, suggested: Array | None = None) -> None:
        self._suggested = suggested
        self._presentations, self._agreeing, self._gap = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        self._means, self._disagreements = WeightedMeans(0), list[Disagreement]()
        self._other = np.zeros(0, np.int32)  # the class that was predicted last instead of the label; -1 for none
        self._candidates: list[CandidateBins] = []
        self.epoch_count = 0

    def add(self, label: Array, epoch: Mapping[str, Array]) -> None:
        """Add an epoch.

        Args:
            label: Shape ``(N,)``, the class trained on, -1 of samples that were never seen. N may grow.
            epoch: Its presentations, as for :func:`summarise_history`.
        """
        self._make_room(len(label))
        epoch_number, index, n = self.epoch_count, epoch["index"].astype(np.int64), len(label)
        self._presentations += np.bincount(index, minlength=n)
        probability_margin = _probability_margin(epoch)
        self._gap += np.bincount(index, probability_margin, n)
        if self._suggested is not None:
            self._agreeing += np.bincount(index[epoch["predicted"] == self._suggested[index]], minlength=n)
        self.epoch_count = epoch_number + 1
        self._means.add(epoch_number, index, epoch["p_label"], epoch["p_label"] - probability_margin)
        differs = epoch["predicted"] != label[index]
        self._other[index[differs]] = epoch["predicted"][differs]
        if is_rate_epoch(epoch_number) and len(index):
            self._disagreements += self._means.disagreement(epoch_number, label, self._other)
            if "p_other" in epoch:
                presentations = label[index], epoch["p_label"], epoch["p_other"]
                self._candidates += count_candidates(epoch_number, *presentations, _count_classes(label))

    def summary(self, label: Array) -> HistorySummary:
        """Return the summary so far; of labels ``(N,)`` as for :meth:`add`."""
        sample_count = len(label)
        self._make_room(sample_count)
        presentations = np.where(self._presentations > 0, self._presentations, np.nan)
        has_suggestion = self._suggested >= 0 if self._suggested is not None else np.zeros(sample_count, bool)
        return HistorySummary(
            agreement=np.where(has_suggestion, self._agreeing, np.nan) / presentations,
            probability_margin=self._gap / presentations,
            candidates=_usable_candidates(self._candidates, _count_classes(label)),
            presentations=self._presentations.copy(),
            disagreements=list(self._disagreements),
            epoch_count=self.epoch_count,
        )

    def _make_room(self, num_samples: int) -> None:
        new_count = num_samples - len(self._gap)
        self._presentations = np.append(self._presentations, np.zeros(new_count, np.int64))
        self._agreeing = np.append(self._agreeing, np.zeros(new_count, np.int64))
        self._gap = np.append(self._gap, np.zeros(new_count))
        self._other = np.append(self._other, np.full(new_count, -1, np.int32))
        self._means.make_room(num_samples)


def _count_classes(label: Array) -> int:
    return max(len(np.unique(label[label >= 0])), 2)


def _usable_candidates(candidates: list[CandidateBins], class_count: int) -> list[CandidateBins]:
    """Return the candidates for so many classes; those from when only two of more were known are of no use then."""
    return [
        replace(bins, class_count=class_count)
        for bins in candidates
        if bins.class_count == class_count or min(bins.class_count, class_count) > 2
    ]


def is_rate_epoch(epoch: int) -> bool:
    """Return whether the noise rate reads this epoch: memorisation follows the logarithm of time, so gaps grow.

    Example:
        >>> [epoch for epoch in range(40) if is_rate_epoch(epoch)]
        [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    """
    return epoch < 4 or epoch % 2 ** (epoch.bit_length() - 2) == 0


def _probability_margin(epoch: Mapping[str, Array]) -> Array:
    """Return p_y - p_rival, from margin = log(p_y / p_rival)."""
    margin, p_label = epoch["margin"].astype(np.float64), epoch["p_label"].astype(np.float64)
    p_rival = np.minimum(p_label * np.exp(-np.clip(margin, -80, 80)), 1 - p_label)  # rounding stays below 1
    gap: Array = p_label - np.where(margin < -80, 1 - p_label, p_rival)  # p_label has lost its digits there
    return gap
