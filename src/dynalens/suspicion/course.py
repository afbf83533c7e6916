"""The history of a run in a few periods: what each sample's presentations showed early, later and last."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array, epoch_weight
from dynalens.suspicion.floor import Candidates, candidates

FINE = 4
"""Epochs that are periods of their own; after them, each period is as long as a half or a third of all before it."""


@dataclass(frozen=True)
class Votes:
    """Predictions that disagreed with the label, M pairs of a sample and a class, each pair once.

    Attributes:
        sample: Shape ``(M,)``, int64, ascending.
        predicted: Shape ``(M,)``, the class predicted, int64.
        share: Shape ``(M,)``, fraction of the sample's presentations that predicted this class.
        mass: Shape ``(M,)``, mean over all presentations of the probability of this class where it was predicted.
    """

    sample: Array
    predicted: Array
    share: Array
    mass: Array


@dataclass(frozen=True)
class Course:
    """Means of the presentations in each of P periods, for N samples; NaN where a sample was not seen in a period.

    Attributes:
        label: Shape ``(N,)``.
        margin: Shape ``(P, N)``, mean logit margin.
        p_label: Shape ``(P, N)``, mean probability of the label.
        p_rival: Shape ``(P, N)``, mean of the largest probability of another class.
        votes: Of each period.
        weight: Shape ``(P,)``, sum over the period's epochs of :func:`~dynalens.dynamics.epoch_weight`.
        suggested: Shape ``(N,)``, int64, the class that the disagreeing predictions of all presentations named most
            often, among equally frequent ones the most recent; -1 where none disagreed.
        agreement: Shape ``(N,)``, fraction of the presentations that predicted it; NaN where none disagreed.
        probability_margin: Shape ``(N,)``, mean over all presentations of p_y - max_{k != y} p_k.
        candidates: Of the first epoch of each period; none of a history without ``p_other``.
    """

    label: Array
    margin: Array
    p_label: Array
    p_rival: Array
    votes: Sequence[Votes]
    weight: Array
    suggested: Array
    agreement: Array
    probability_margin: Array
    candidates: Sequence[Candidates]

    def at(self, chosen: Array) -> "Course | None":
        """Return the course of these samples, ascending, or None where one of them is not in it."""
        margin, p_label, p_rival = (values[:, chosen] for values in (self.margin, self.p_label, self.p_rival))
        if np.isnan(margin).all(axis=0).any():
            return None
        votes = [
            Votes(np.searchsorted(chosen, each.sample), each.predicted, each.share, each.mass) for each in self.votes
        ]
        suggested, agreement, gap = (
            values[chosen] for values in (self.suggested, self.agreement, self.probability_margin)
        )
        return Course(
            self.label[chosen],
            margin,
            p_label,
            p_rival,
            votes,
            self.weight,
            suggested,
            agreement,
            gap,
            self.candidates,
        )

    def filled_margin(self) -> Array:
        """Return the margins (P, N); where a sample was not seen, as far from the period's mean as it was elsewhere."""
        if not np.isnan(self.margin).any():
            return self.margin
        period = np.nan_to_num(np.nanmean(self.margin, axis=1, keepdims=True)) if self.margin.size else 0
        return np.where(np.isnan(self.margin), period + np.nanmean(self.margin - period, axis=0), self.margin)


def read_course(label: Array, history: Iterable[Mapping[str, Array]]) -> Course | None:
    """Return the course of a run, or None without history; holds a few periods at a time, never all epochs.

    Args:
        label: Shape ``(N,)``, the class trained on.
        history: For each epoch, in order, ``index``, ``p_label``, ``margin``, ``predicted`` and, for the noise
            rate, ``p_other`` of its presentations.
    """
    periods: list[_Period] = []
    classes = max(len(np.unique(label[label >= 0])), 2)
    asked: list[Candidates] = []
    for number, epoch in enumerate(history):
        new = _Period.of_epoch(label, epoch, number)
        if begins_period(number):
            periods.append(new)
            if len(epoch["index"]) and "p_other" in epoch:
                given = label[epoch["index"]]
                asked += candidates(number, given, epoch["p_label"], epoch["p_other"], classes)
        else:
            periods[-1] = periods[-1].merged(new)
    if not any(period.count.any() for period in periods):
        return None
    periods = [period for period in periods if period.count.any()]
    means = [period.means() for period in periods]
    margin, p_label, p_rival = (np.stack(part) for part in zip(*means, strict=True))
    weight = np.array([period.weight for period in periods])
    votes = [period.votes() for period in periods]
    whole = functools.reduce(_Period.merged, periods)
    _, p_all, rival_all = whole.means()
    return Course(label, margin, p_label, p_rival, votes, weight, *whole.plurality(), p_all - rival_all, asked)


def begins_period(epoch: int) -> bool:
    """Return whether a new period begins: memorisation follows the logarithm of time, so periods grow.

    Example:
        >>> [epoch for epoch in range(40) if begins_period(epoch)]
        [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    """
    return epoch < FINE or epoch % 2 ** (epoch.bit_length() - 2) == 0


def _probabilities(epoch: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return those of the label and of its rival, from margin = log(p_y / p_rival)."""
    margin, p_label = epoch["margin"].astype(np.float64), epoch["p_label"].astype(np.float64)
    p_rival = np.minimum(p_label * np.exp(-np.clip(margin, -80, 80)), 1 - p_label)  # rounding stays below 1
    return p_label, np.where(margin < -80, 1 - p_label, p_rival)  # p_label has lost its digits there


@dataclass(frozen=True)
class _Period:
    count: Array
    sums: Array  # (3, N): margin, p_label, p_rival
    key: Array  # sample * classes + predicted, of the predictions that disagreed
    key_sums: Array  # (2, M): how often, and the sum of the predicted class's probability
    key_last: Array  # place in the run of the last such prediction
    weight: float

    _CLASSES = 2**31  # of one sample before the next one's keys begin
    _PLACES = 2**33  # of one epoch before the next one's begin

    @classmethod
    def of_epoch(cls, label: Array, epoch: Mapping[str, Array], number: int) -> "_Period":
        index, n = epoch["index"].astype(np.int64), len(label)
        margin, (p_label, p_rival) = epoch["margin"].astype(np.float64), _probabilities(epoch)
        sums = np.stack([np.bincount(index, values, n) for values in (margin, p_label, p_rival)])
        wrong = epoch["predicted"] != label[index]
        key = index[wrong] * cls._CLASSES + epoch["predicted"][wrong]
        key_sums = np.stack([np.ones(wrong.sum()), p_rival[wrong]])
        error = float((margin <= 0).mean()) if len(index) else 0.0
        last = number * cls._PLACES + np.flatnonzero(wrong)
        return cls(np.bincount(index, minlength=n), sums, *_once(key, key_sums, last), epoch_weight(number, error))

    def merged(self, other: "_Period") -> "_Period":
        key, last = np.append(self.key, other.key), np.append(self.key_last, other.key_last)
        key_sums = np.append(self.key_sums, other.key_sums, axis=1)
        count, sums = self.count + other.count, self.sums + other.sums
        return _Period(count, sums, *_once(key, key_sums, last), self.weight + other.weight)

    def means(self) -> Array:
        seen = self.count > 0
        means: Array = np.full(self.sums.shape, np.nan)
        means[:, seen] = self.sums[:, seen] / self.count[seen]
        return means

    def votes(self) -> Votes:
        sample = self.key // self._CLASSES
        share, mass = self.key_sums / self.count[sample]
        return Votes(sample, self.key % self._CLASSES, share, mass)

    def plurality(self) -> tuple[Array, Array]:
        """Return the class predicted most often instead of the label, and how often of all presentations."""
        suggested, agreement = np.full(len(self.count), -1), np.full(len(self.count), np.nan)
        # The last assignment wins: by count, then by how recent the prediction is.
        order = np.lexsort((self.key_last, self.key_sums[0]))
        sample = self.key[order] // self._CLASSES
        suggested[sample] = self.key[order] % self._CLASSES
        agreement[sample] = self.key_sums[0, order] / self.count[sample]
        return suggested, agreement


def _once(key: Array, values: Array, last: Array) -> tuple[Array, Array, Array]:
    """Return each key once, ascending, with the sum of its values and its latest place."""
    unique, place = np.unique(key, return_inverse=True)
    latest = np.zeros(len(unique), np.int64)
    np.maximum.at(latest, place, last)
    return unique, np.stack([np.bincount(place, row, len(unique)) for row in values]), latest
