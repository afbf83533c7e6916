"""What a run says of each sample when its presentations are weighted: one view, whatever it was made from."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.suspicion.course import Course, Votes

_BLOCK = 2**22  # probabilities held at a time


@dataclass(frozen=True)
class Evidence:
    """Weighted means over the presentations of N samples, all of them seen.

    Attributes:
        label: Shape ``(N,)``.
        classes: Number K of classes that occur as label or prediction.
        margin: Shape ``(N,)``, logit margin.
        p_label: Shape ``(N,)``, probability of the label.
        p_rival: Shape ``(N,)``, largest probability of another class.
        right: Shape ``(N,)``, fraction of presentations that predicted the label.
        votes: The predictions that disagreed; share and mass are weighted means.
    """

    label: Array
    classes: int
    margin: Array
    p_label: Array
    p_rival: Array
    right: Array
    votes: Votes

    def __len__(self) -> int:
        return len(self.label)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield slices of samples with their mean probabilities (n, K), never all at once.

        The history names the probability of the label and of the predicted class; what is left of 1 is spread evenly.
        """
        size = max(1, _BLOCK // self.classes)
        starts = np.searchsorted(self.votes.sample, np.arange(0, len(self) + size, size))
        for number, start in enumerate(range(0, len(self), size)):
            at = slice(start, min(start + size, len(self)))
            p = np.zeros((at.stop - start, self.classes))
            p[np.arange(len(p)), self.label[at]] = self.p_label[at]
            votes = slice(starts[number], starts[number + 1])
            p[self.votes.sample[votes] - start, self.votes.predicted[votes]] += self.votes.mass[votes]
            p += np.maximum(1 - p.sum(axis=1, keepdims=True), 0) / self.classes
            yield at, p

    def leading(self) -> tuple[Array, Array, Array]:
        """Return the class with the largest mean probability, that probability, and how often it was predicted."""
        named = self.p_label + np.bincount(self.votes.sample, self.votes.mass, len(self))
        rest = np.maximum(1 - named, 0) / self.classes
        leader, p, share = self.label.copy(), self.p_label.copy(), self.right.copy()
        ahead = np.flatnonzero(self.votes.mass > self.p_label[self.votes.sample])
        ahead = ahead[np.argsort(self.votes.mass[ahead], kind="stable")]  # the last assignment wins: the largest mass
        sample = self.votes.sample[ahead]
        leader[sample], p[sample] = self.votes.predicted[ahead], self.votes.mass[ahead]
        share[sample] = self.votes.share[ahead]
        return leader, p + rest, share

    def share_of(self, named: Array) -> Array:
        """Return the probability of the class ``named`` (N,) as a part of that of all classes but the label.

        A negative class is of no sample; its value has no meaning.
        """
        key = np.arange(len(self)) * self.classes + named
        keys = self.votes.sample * self.classes + self.votes.predicted
        place = np.minimum(np.searchsorted(keys, key), max(len(keys) - 1, 0))
        found = keys[place] == key if len(keys) else np.zeros(len(self), bool)
        mass = np.where(found, self.votes.mass[place], 0) if len(keys) else np.zeros(len(self))
        total = np.bincount(self.votes.sample, self.votes.mass, len(self))
        rest = np.maximum(1 - self.p_label - total, 0) / self.classes
        share: Array = (mass + rest) / np.maximum(total + (self.classes - 1) * rest, 1e-12)
        return np.minimum(share, 1)


def weighted(course: Course, weight: Array) -> Evidence:
    """Return the means over periods; a period in which a sample was not seen does not count for it.

    Args:
        course: Every sample seen in at least one period.
        weight: Shape ``(P,)``, not negative.
    """
    seen = ~np.isnan(course.margin)
    each = np.where(seen, weight[:, None], 0.0)
    # Where all of a sample's own periods have no weight, they count equally.
    each = np.where(each.sum(axis=0) > 0, each, seen)
    each /= each.sum(axis=0)
    margin, p_label, p_rival = (
        np.where(seen, each * values, 0).sum(axis=0) for values in (course.margin, course.p_label, course.p_rival)
    )
    votes = _mean_votes(course, each)
    right = 1 - np.bincount(votes.sample, votes.share, len(course.label))
    classes = int(max(course.label.max(), votes.predicted.max(initial=0), 1)) + 1
    return Evidence(course.label, classes, margin, p_label, p_rival, right, votes)


def streamed(statistics: SampleStatistics) -> Evidence:
    """Return the means that the record alone keeps, for samples that were seen; the votes are its candidates."""
    chosen = np.flatnonzero(statistics.candidate >= 0)
    share = statistics.candidate_share[chosen]
    votes = Votes(chosen, statistics.candidate[chosen].astype(np.int64), share, statistics.weighted_rival[chosen])
    label = statistics.label.astype(np.int64)
    classes = int(max(label.max(), statistics.candidate.max(), 1)) + 1
    return Evidence(
        label, classes, statistics.weighted_margin, statistics.weighted_confidence, statistics.weighted_rival,
        statistics.correctness, votes,
    )  # fmt: skip


def _mean_votes(course: Course, each: Array) -> Votes:
    sample = np.concatenate([votes.sample for votes in course.votes])
    predicted = np.concatenate([votes.predicted for votes in course.votes])
    weights = np.concatenate([weight[votes.sample] for weight, votes in zip(each, course.votes, strict=True)])
    classes = int(predicted.max(initial=0)) + 1
    key, place = np.unique(sample * classes + predicted, return_inverse=True)
    share, mass = (
        np.bincount(place, weights * np.concatenate([getattr(votes, name) for votes in course.votes]), len(key))
        for name in ("share", "mass")
    )
    return Votes(key // classes, key % classes, share, mass)
