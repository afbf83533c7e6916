"""What the history of a run adds to its record: the class that predictions named most often, exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.disagreement import Disagreement, WeightedMeans
from dynalens.suspicion.refuted_labels import Candidates, candidates

_CLASSES = 2**31  # of one sample before the next one's keys begin


@dataclass(frozen=True)
class Votes:
    """Votes of all presentations of N samples.

    Attributes:
        suggested: Shape ``(N,)``, int64, the class that the disagreeing predictions named most often, among equally
            frequent ones the most recent; -1 where none disagreed.
        agreement: Shape ``(N,)``, fraction of the presentations that predicted it; NaN where none disagreed.
        probability_margin: Shape ``(N,)``, mean over all presentations of p_y - max_{k != y} p_k.
        candidates: Of some epochs, for :func:`~dynalens.suspicion.refuted_labels.refuted_rate`.
        presentations: Shape ``(N,)``.
        course: How far the network disagreed with the labels, after some of the epochs.
        epochs: How many there are.
    """

    suggested: Array
    agreement: Array
    probability_margin: Array
    candidates: list[Candidates]
    presentations: Array
    course: list[Disagreement]
    epochs: int


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
        epochs: How many were counted.
    """

    def __init__(self) -> None:
        self._presentations, self._gap = np.zeros(0, np.int64), np.zeros(0)
        self._keys, self._counts, self._latest = (np.zeros(0, np.int64) for _ in range(3))
        self._means, self._course = WeightedMeans(0), list[Disagreement]()
        self._candidates: list[Candidates] = []
        self._past_presentations = self.epochs = 0

    def add(self, label: Array, epoch: Mapping[str, Array]) -> None:
        """Count an epoch.

        Args:
            label: Shape ``(N,)``, the class trained on, -1 of samples that were never seen. N may grow.
            epoch: Its presentations, as for :func:`count_votes`.
        """
        self._make_room(len(label))
        number, index, n = self.epochs, epoch["index"].astype(np.int64), len(label)
        self._presentations += np.bincount(index, minlength=n)
        lead = _probability_margin(epoch)
        self._gap += np.bincount(index, lead, n)
        wrong = np.flatnonzero(epoch["predicted"] != label[index])
        self._keys, self._counts, self._latest = _one_vote_each(
            np.append(self._keys, index[wrong] * _CLASSES + epoch["predicted"][wrong]),
            np.append(self._counts, np.ones(len(wrong), int)),
            np.append(self._latest, self._past_presentations + wrong),
        )
        self._past_presentations, self.epochs = self._past_presentations + len(index), number + 1
        self._means.add(number, index, epoch["p_label"], epoch["p_label"] - lead)
        if is_read(number) and len(index):
            self._course += self._means.disagreement(number)
            if "p_other" in epoch:
                shown = label[index], epoch["p_label"], epoch["p_other"]
                self._candidates += candidates(number, *shown, _count_classes(label))

    def votes(self, label: Array) -> Votes:
        """Return the votes so far; of labels ``(N,)`` as for :meth:`add`."""
        n = len(label)
        self._make_room(n)
        times = np.where(self._presentations > 0, self._presentations, np.nan)
        suggested, agreement = np.full(n, -1), np.full(n, np.nan)
        # The last assignment wins: by count, then by how recent the prediction is.
        order = np.lexsort((self._latest, self._counts))
        sample = self._keys[order] // _CLASSES
        suggested[sample], agreement[sample] = self._keys[order] % _CLASSES, self._counts[order] / times[sample]
        return Votes(
            suggested=suggested,
            agreement=agreement,
            probability_margin=self._gap / times,
            candidates=_of_classes(self._candidates, _count_classes(label)),
            presentations=self._presentations.copy(),
            course=list(self._course),
            epochs=self.epochs,
        )

    def _make_room(self, num_samples: int) -> None:
        new = num_samples - len(self._gap)
        self._presentations = np.append(self._presentations, np.zeros(new, np.int64))
        self._gap = np.append(self._gap, np.zeros(new))
        self._means.make_room(num_samples)


def _count_classes(label: Array) -> int:
    return max(len(np.unique(label[label >= 0])), 2)


def _of_classes(every: list[Candidates], classes: int) -> list[Candidates]:
    """Return these where so many classes are given; those of when only two of more were known are of no use then."""
    usable = [each for each in every if each.classes == classes or min(each.classes, classes) > 2]
    return [replace(each, classes=classes) for each in usable]


def is_read(epoch: int) -> bool:
    """Return whether the noise rate reads this epoch: memorisation follows the logarithm of time, so gaps grow.

    Example:
        >>> [epoch for epoch in range(40) if is_read(epoch)]
        [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    """
    return epoch < 4 or epoch % 2 ** (epoch.bit_length() - 2) == 0


def _probability_margin(epoch: Mapping[str, Array]) -> Array:
    """Return p_y - p_rival, from margin = log(p_y / p_rival)."""
    margin, p_label = epoch["margin"].astype(np.float64), epoch["p_label"].astype(np.float64)
    p_rival = np.minimum(p_label * np.exp(-np.clip(margin, -80, 80)), 1 - p_label)  # rounding stays below 1
    gap: Array = p_label - np.where(margin < -80, 1 - p_label, p_rival)  # p_label has lost its digits there
    return gap


def _one_vote_each(key: Array, counts: Array, latest: Array) -> tuple[Array, Array, Array]:
    """Return each key once, ascending, with the sum of its counts and its latest place."""
    unique, place = np.unique(key, return_inverse=True)
    last = np.zeros(len(unique), np.int64)
    np.maximum.at(last, place, latest)
    return unique, np.bincount(place, counts, len(unique)).astype(np.int64), last
