"""What the history of a run adds to its record: the class that predictions named most often, exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.course import Disagreement, WeightedMeans
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
    n, all_candidates = len(label), list[Candidates]()
    presentations, gap = np.zeros(n, np.int64), np.zeros(n)
    keys, counts, latest = (np.zeros(0, np.int64) for _ in range(3))
    classes, past_presentations, epochs = max(len(np.unique(label[label >= 0])), 2), 0, 0
    means, course = WeightedMeans(n), list[Disagreement]()
    for number, epoch in enumerate(history):
        index = epoch["index"].astype(np.int64)
        presentations += np.bincount(index, minlength=n)
        lead = _probability_margin(epoch)
        gap += np.bincount(index, lead, n)
        wrong = np.flatnonzero(epoch["predicted"] != label[index])
        key = np.append(keys, index[wrong] * _CLASSES + epoch["predicted"][wrong])
        keys, counts, latest = _once(
            key, np.append(counts, np.ones(len(wrong), int)), np.append(latest, past_presentations + wrong)
        )
        past_presentations, epochs = past_presentations + len(index), number + 1
        means.add(number, index, epoch["p_label"], epoch["p_label"] - lead)
        if is_read(number) and len(index):
            course += means.disagreement(number)
            if "p_other" in epoch:
                all_candidates += candidates(number, label[index], epoch["p_label"], epoch["p_other"], classes)
    times = np.where(presentations > 0, presentations, np.nan)
    suggested, agreement = np.full(n, -1), np.full(n, np.nan)
    order = np.lexsort((latest, counts))  # the last assignment wins: by count, then by how recent the prediction is
    sample = keys[order] // _CLASSES
    suggested[sample], agreement[sample] = keys[order] % _CLASSES, counts[order] / times[sample]
    return Votes(suggested, agreement, gap / times, all_candidates, presentations, course, epochs)


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


def _once(key: Array, counts: Array, latest: Array) -> tuple[Array, Array, Array]:
    """Return each key once, ascending, with the sum of its counts and its latest place."""
    unique, place = np.unique(key, return_inverse=True)
    last = np.zeros(len(unique), np.int64)
    np.maximum.at(last, place, latest)
    return unique, np.bincount(place, counts, len(unique)).astype(np.int64), last
