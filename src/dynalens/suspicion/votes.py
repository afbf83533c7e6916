"""What the history of a run adds to its record: the class that predictions named most often, exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.disagreement import Disagreement, WeightedMeans
from dynalens.suspicion.refuted_labels import CandidateBins, count_candidates

_CLASSES = 2**31  # of one sample before the next one's keys begin


@dataclass(frozen=True)
class Votes:
    """Votes of all presentations of N samples.

    Attributes:
        suggested_class: Shape ``(N,)``, int64, the class that the disagreeing predictions named most often, among
            equally frequent ones the most recent; -1 where none disagreed.
        agreement: Shape ``(N,)``, fraction of the presentations that predicted it; NaN where none disagreed.
        probability_margin: Shape ``(N,)``, mean over all presentations of p_y - max_{k != y} p_k.
        candidates: Of some epochs, for :func:`~dynalens.suspicion.refuted_labels.refuted_rate`.
        presentations: Shape ``(N,)``.
        disagreements: How far the network disagreed with the labels, after some of the epochs.
        epoch_count: How many epochs there are.
    """

    suggested_class: Array
    agreement: Array
    probability_margin: Array
    candidates: list[CandidateBins]
    presentations: Array
    disagreements: list[Disagreement]
    epoch_count: int


def count_votes(label: Array, history: Iterable[Mapping[str, Array]]) -> Votes:
    """Return the votes of a run, none without history; holds one epoch at a time.

    Args:
        label: Shape ``(N,)``, the class trained on.
        history: For each epoch, in order, ``index``, ``p_label``, ``margin``, ``predicted`` and, for the noise
            rate, ``p_other`` of its presentations.
    """
    count = VoteCount()
    for epoch in history:
        count.add(label, epoch)
    return count.votes(label)


class VoteCount:
    """Counts the votes of a run epoch by epoch, so that no epoch is read again.

    It keeps some numbers for each sample and 24 bytes for each class that was predicted of a sample against its label.

    Attributes:
        epoch_count: How many epochs were counted.
    """

    def __init__(self) -> None:
        self._presentations, self._gap = np.zeros(0, np.int64), np.zeros(0)
        self._keys, self._counts, self._latest = (np.zeros(0, np.int64) for _ in range(3))
        self._means, self._disagreements = WeightedMeans(0), list[Disagreement]()
        self._candidates: list[CandidateBins] = []
        self._past_presentations = self.epoch_count = 0

    def add(self, label: Array, epoch: Mapping[str, Array]) -> None:
        """Count an epoch.

        Args:
            label: Shape ``(N,)``, the class trained on, -1 of samples that were never seen. N may grow.
            epoch: Its presentations, as for :func:`count_votes`.
        """
        self._make_room(len(label))
        epoch_number, index, n = self.epoch_count, epoch["index"].astype(np.int64), len(label)
        self._presentations += np.bincount(index, minlength=n)
        probability_margin = _probability_margin(epoch)
        self._gap += np.bincount(index, probability_margin, n)
        vote_index = np.flatnonzero(epoch["predicted"] != label[index])
        self._keys, self._counts, self._latest = _merge_votes(
            np.append(self._keys, index[vote_index] * _CLASSES + epoch["predicted"][vote_index]),
            np.append(self._counts, np.ones(len(vote_index), int)),
            np.append(self._latest, self._past_presentations + vote_index),
        )
        self._past_presentations, self.epoch_count = self._past_presentations + len(index), epoch_number + 1
        self._means.add(epoch_number, index, epoch["p_label"], epoch["p_label"] - probability_margin)
        if is_rate_epoch(epoch_number) and len(index):
            self._disagreements += self._means.disagreement(epoch_number)
            if "p_other" in epoch:
                presentations = label[index], epoch["p_label"], epoch["p_other"]
                self._candidates += count_candidates(epoch_number, *presentations, _count_classes(label))

    def votes(self, label: Array) -> Votes:
        """Return the votes so far; of labels ``(N,)`` as for :meth:`add`."""
        sample_count = len(label)
        self._make_room(sample_count)
        presentations = np.where(self._presentations > 0, self._presentations, np.nan)
        suggested_class, agreement = np.full(sample_count, -1), np.full(sample_count, np.nan)
        # The last assignment wins: by count, then by how recent the prediction is.
        order = np.lexsort((self._latest, self._counts))
        sample = self._keys[order] // _CLASSES
        suggested_class[sample] = self._keys[order] % _CLASSES
        agreement[sample] = self._counts[order] / presentations[sample]
        return Votes(
            suggested_class=suggested_class,
            agreement=agreement,
            probability_margin=self._gap / presentations,
            candidates=_usable_candidates(self._candidates, _count_classes(label)),
            presentations=self._presentations.copy(),
            disagreements=list(self._disagreements),
            epoch_count=self.epoch_count,
        )

    def _make_room(self, num_samples: int) -> None:
        new_count = num_samples - len(self._gap)
        self._presentations = np.append(self._presentations, np.zeros(new_count, np.int64))
        self._gap = np.append(self._gap, np.zeros(new_count))
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


def _merge_votes(key: Array, counts: Array, latest: Array) -> tuple[Array, Array, Array]:
    """Return each key once, ascending, with the sum of its counts and its latest place."""
    unique_key, place = np.unique(key, return_inverse=True)
    latest_place = np.zeros(len(unique_key), np.int64)
    np.maximum.at(latest_place, place, latest)
    return unique_key, np.bincount(place, counts, len(unique_key)).astype(np.int64), latest_place
