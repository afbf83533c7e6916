"""What the answers of a person say of the whole record."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dynalens.auditing.answers import Answers
from dynalens.auditing.calibration import FAR, calibrated
from dynalens.auditing.estimate import StratifiedRate, interval, stratified_rate
from dynalens.auditing.order import Signals
from dynalens.auditing.plan import Plan
from dynalens.dynamics import Array
from dynalens.suspicion import PRECISION, NoiseRate, flagged
from dynalens.suspicion.score import scaled_to_rate
from dynalens.text import percent

LEAST_ANSWERS = 30
"""From so many answers on, rate and flags can be relied on (*After few answers*, ``docs/results/audits.md``)."""

_HALVINGS = 50


@dataclass(frozen=True)
class Estimate:
    """An estimated fraction, in [0, 1], with its 95 % confidence interval.

    Attributes:
        low: Lower end of the interval.
        value: The estimate, or NaN if nothing is known.
        high: Upper end of the interval.
    """

    low: float
    value: float
    high: float


class Audit:
    """How many labels are wrong, and which, from the answers of a person: the result of :func:`dynalens.audit`.

    If a sample has several labels, an answer is about all of them, and the rates count samples with a wrong label.

    The answer "unsure" is counted in two ways. ``low`` is the lower end of the interval if all these labels are right,
    ``high`` is the upper end if they are all wrong, and ``value`` lies in the middle of the two estimates.

    Args:
        table: The table of the record, one row per sample.
        plan: The plan that drew the samples.
        answers: The answers about some or all of these samples. A sample without an answer is taken to be like the
            answered samples of its stratum.
        label: Shape ``(N,)``, the class of each label; -1 if never seen. If it is passed, the answers also decide in
            which classes more labels are wrong. If a sample has several labels, it is 1 if its worst one was given, and
            0 if not; for tokens and pixels it is the class of the worst one. None for numbers.
        contrast: Shape ``(N,)``, how much more suspicious each label is to embeddings than to the run
            (:class:`~dynalens.suspicion.Assessment`). If it is passed, the answers also decide how much the embeddings
            count in the order of the samples.
        share: Weight of the embeddings in the ``score`` of the table, in [0, 1].

    Attributes:
        right: Number of labels with the answer "right".
        wrong: Number of labels with the answer "wrong".
        unsure: Number of labels with the answer "unsure".

    Example:
        >>> table = pd.DataFrame({"score": [3.0, 2.0, -2.0, -3.0], "rank": [1, 2, 3, 4], "label": 0, "suggested": 1})
        >>> table["wrong_probability"], table["flagged"], table["suggested_probability"] = 0.5, False, 0.5
        >>> plan = Plan.from_scores(table["score"].to_numpy(), label=np.zeros(4), n=4, seed=0)
        >>> wrong = np.array([True, True, False, False])
        >>> whole = Answers(np.arange(4), ~wrong, wrong, new_label=-np.ones(4), probability=np.ones(4))
        >>> audit = Audit(table, plan, whole)  # every sample was answered
        >>> audit.noise_rate
        NoiseRate(low=0.5, value=0.5, high=0.5, calibrated=True)
        >>> audit.precision_of(3).value, audit.recall_of(1).value
        (0.6666666666666666, 0.5)
        >>> audit.table()["flagged"].tolist()
        [True, True, False, False]
    """

    def __init__(
        self,
        table: pd.DataFrame,
        plan: Plan,
        answers: Answers,
        *,
        label: Array | None = None,
        contrast: Array | None = None,
        share: float = 0.0,
    ) -> None:
        if not len(answers):
            raise ValueError(
                "Expected `answers` to hold at least one answer, got none. Write right, wrong or unsure beside the "
                "samples of the plan."
            )
        self._table, self._answers = table, answers
        self._score = table["score"].to_numpy(np.float64)
        self._is_recorded = ~np.isnan(self._score)
        self._stratum = _completed_stratum(plan.stratum, self._score)
        self._log_odds = np.full(len(self._score), np.nan)
        self._rank = self._judged_rank = np.full(len(self._score), np.inf)
        if self._is_recorded.any():
            self._order(label, contrast, share)
        self.right, self.wrong = int(answers.right.sum()), int(answers.wrong.sum())
        self.unsure = len(answers) - self.right - self.wrong

    def _order(self, label: Array | None, contrast: Array | None, share: float) -> None:
        """Let the answers change the order: how much the embeddings count in it, and in which classes more is wrong."""
        is_recorded, answers = self._is_recorded, self._decided_answers()
        seen_label, seen_contrast = (None if part is None else part[is_recorded] for part in (label, contrast))
        signals = Signals(self._score[is_recorded], seen_label, seen_contrast, share)
        self._log_odds[is_recorded], self._rank[is_recorded] = signals.order(*answers)
        self._judged_rank = self._rank.copy()
        rows = np.flatnonzero(is_recorded)[answers[0]]
        self._judged_rank[rows] = signals.ranks_by_other_half(*answers, self._stratum[rows])

    def __repr__(self) -> str:
        """Show the rate and what it was made from."""
        rate = self.noise_rate
        return (
            f"Audit({self.right} right, {self.wrong} wrong, {self.unsure} unsure: {percent(rate.value)} are wrong, "
            f"{percent(rate.low)} to {percent(rate.high)})"
        )

    @functools.cached_property
    def noise_rate(self) -> NoiseRate:
        """Fraction of wrong labels with its 95 % confidence interval.

        The formulas are those of :func:`~dynalens.auditing.estimate.stratified_rate` and
        :func:`~dynalens.auditing.estimate.interval`. If there are fewer than 30 answers, and samples without an answer,
        ``doubts`` says so.
        """
        estimate = self._wrong_fraction(self._is_recorded)
        return NoiseRate(estimate.low, estimate.value, estimate.high, calibrated=True, doubts=self._doubts())

    def _doubts(self) -> tuple[str, ...]:
        sentences = few_answers_doubts(int(self._is_recorded.sum()))
        return tuple(sentences[len(self._answers) - 1 :][:1])

    def probability(self) -> Array:
        """Return the probability that each label is wrong, shape ``(N,)``, calibrated on the answers.

        It is 0 or 1 for labels with the answer "right" or "wrong", and NaN for samples that were never seen. Samples
        with the answer "unsure" are treated as if nobody had been asked about them.
        """
        return self._probability.copy()

    @functools.cached_property
    def _probability(self) -> Array:
        p = np.full(len(self._score), np.nan)
        rate = self.noise_rate.value
        rows, wrong, _ = self._decided_answers()
        p[self._is_recorded] = calibrated(self._log_odds[self._is_recorded], rows, wrong, rate)
        return p

    def _decided_answers(self) -> tuple[Array, Array, Array]:
        """Return the place of each sample that was answered as right or wrong, among those that were seen.

        Also return which are wrong, and how many samples each stands for.
        """
        answers = self._answers
        is_decided = answers.right | answers.wrong
        rows = answers.rows[is_decided]
        seen_index = np.cumsum(self._is_recorded) - 1
        stratum = self._stratum[rows]
        stratum_sizes = np.bincount(self._stratum[self._is_recorded])
        answer_counts = np.bincount(self._stratum[answers.rows])
        weight = stratum_sizes[stratum] / answer_counts[stratum]
        return seen_index[rows], answers.wrong[is_decided].astype(np.float64), weight

    def table(self, precision: float = PRECISION) -> pd.DataFrame:
        """Return the table of the record, corrected by the answers.

        ``wrong_probability`` is calibrated, and exactly 0 or 1 for labels that were answered. ``flagged`` marks the top
        of the order, cut so that the fraction ``precision`` of it is expected to be wrong, and every label with the
        answer "wrong". If the person named the right class, it is ``suggested``, with a probability of 1. The new
        column ``answer`` has the answer, or an empty text. ``score`` is the log odds that the
        label is wrong. The answers decide how much the score of the record counts in it, and in which classes more
        labels are wrong (:func:`~dynalens.auditing.calibration.answered_log_odds`). They also decide how much the
        embeddings count, if there are any (:func:`~dynalens.auditing.calibration.reweighed`). ``rank`` is the place in
        the order of ``score``, 1 for the most suspicious label.

        Args:
            precision: Expected fraction of wrong labels among the flagged, in (0, 1].
        """
        table, answers, p = self._table.copy(), self._answers, self._probability
        table["score"], table["wrong_probability"] = self._log_odds, p
        if self._is_recorded.any():
            log_odds = self._log_odds[self._is_recorded]
            table.loc[self._is_recorded, "score"] = scaled_to_rate(log_odds, self.noise_rate.value)[0]
        table["rank"] = pd.Series(np.where(self._is_recorded, self._rank, np.nan), table.index).astype("Int64")
        table["flagged"] = flagged(p, precision) | (p == 1)
        has_new_label = answers.new_label >= 0
        words = np.select([answers.right, answers.wrong], ["right", "wrong"], "unsure")
        table["answer"] = ""
        for column, rows, values in (
            ("suggested", answers.rows[has_new_label], answers.new_label[has_new_label]),
            ("suggested_probability", answers.rows[has_new_label], 1.0),
            ("answer", answers.rows, words),
        ):
            if column not in table:  # a regression suggests no class
                continue
            values_of_column = table[column].copy()
            values_of_column.iloc[rows] = values
            table[column] = values_of_column
        return table

    @property
    def new_labels(self) -> Mapping[int, Sequence[int]]:
        """For the row of a sample with several labels, the numbers of all right labels that the person named."""
        return self._answers.new_labels

    @property
    def right_labels(self) -> Mapping[int, Sequence[int]]:
        """For the row of a wrong sample, the numbers of its right class, or of all right labels, that were named."""
        answers = self._answers
        has_class = (answers.new_label >= 0) & answers.wrong
        classes = zip(answers.rows[has_class].tolist(), answers.new_label[has_class].tolist(), strict=True)
        return {**{row: [label] for row, label in classes}, **answers.new_labels}

    def precision_of(self, n: int) -> Estimate:
        """Return which fraction of the n most suspicious labels are wrong, with its 95 % interval.

        It is estimated as the rate is, from the answers about these n samples (post-stratification: Cochran 1977,
        Section 5A.9). If none of them has an answer, the value is the mean of their probabilities, and the
        interval is [0, 1].

        The same answers changed the order. So a sample that was answered counts as one of the first n if the order that
        the other half of the answers makes has it there, but the samples among the n that were answered are known.

        Args:
            n: Number of samples, from the most suspicious on: from 1 to the number of samples that were seen.
        """
        self._check_count(n)
        count = self._wrong_count(self._rank <= n, self._judged_rank <= n)
        return Estimate(count.low / n, count.value / n, count.high / n)

    def recall_of(self, n: int) -> Estimate:
        """Return which fraction of all wrong labels are among the n most suspicious, with its 95 % interval.

        If A of the n labels are wrong and B of the rest, it is A / (A + B). The interval holds each r for which the
        interval of (1 - r) A - r B contains 0. That interval is made from those of A and B (MOVER: Zou and Donner,
        Statistics in Medicine 2008).

        Args:
            n: Number of samples, from the most suspicious on: from 1 to the number of samples that were seen.
        """
        self._check_count(n)
        is_first, is_judged_first = self._rank <= n, self._judged_rank <= n
        rest = self._wrong_count(self._is_recorded & ~is_first, self._is_recorded & ~is_judged_first)
        return _share(self._wrong_count(is_first, is_judged_first), rest)

    def curve(self, points: int = 50) -> pd.DataFrame:
        """Return how many of the n most suspicious labels are wrong, for several n.

        Args:
            points: Largest number of rows. The square roots of n are equally far apart, so that small n lie closer.

        Returns:
            The columns ``n``, ``low``, ``value`` and ``high``. ``low`` and ``high`` are n times the interval of
            :meth:`precision_of` for this n, and never fall. ``value`` is the sum of the calibrated probabilities of the
            n labels, at least ``low`` and at most ``high``.
        """
        seen_count = int(self._is_recorded.sum())
        positions = np.round(seen_count * (np.arange(1, points + 1) / points) ** 2)
        counts = np.unique(np.maximum(1, positions).astype(np.int64))
        parts = [self.precision_of(int(n)) for n in counts]
        # A longer beginning holds at least as many wrong labels: what is known of one n bounds all others.
        low = np.maximum.accumulate(counts * np.array([part.low for part in parts]))
        high = np.minimum.accumulate((counts * np.array([part.high for part in parts]))[::-1])[::-1]
        value = np.clip(self._expected_wrong()[counts - 1], low, np.maximum(low, high))
        return pd.DataFrame({"n": counts, "low": low, "value": value, "high": np.maximum(low, high)})

    def enough(self, recall: float = 0.9) -> int:
        """Return how many of the most suspicious labels you have to look at to see this fraction of the wrong ones.

        The calibrated probabilities say how many wrong labels to expect.

        Args:
            recall: Expected fraction of all wrong labels among the first n, in (0, 1].
        """
        if not 0 < recall <= 1:
            raise ValueError(
                f"Expected `recall` to be in (0, 1], got {recall}. Pass the fraction of the wrong labels that is to be "
                "seen, for instance 0.9."
            )
        expected_wrong = self._expected_wrong()
        if expected_wrong[-1] <= 0:
            return 0
        return int(np.searchsorted(expected_wrong, recall * expected_wrong[-1] - 1e-9)) + 1

    def _expected_wrong(self) -> Array:
        """Return the sum of the probabilities of the n most suspicious labels, for n = 1, 2, ..."""
        order = np.argsort(self._rank, kind="stable")[: int(self._is_recorded.sum())]
        return np.cumsum(self._probability[order])

    def _check_count(self, n: int) -> None:
        seen_count = int(self._is_recorded.sum())
        if not 1 <= n <= seen_count or n != int(n):
            raise ValueError(
                f"Expected `n` to be a whole number from 1 to {seen_count}, the samples that were seen, got {n}. Pass "
                "such a number."
            )

    def _wrong_count(self, mask: Array, judged_mask: Array) -> Estimate:
        """Return how many of the samples of the mask are wrong, judged by the answers of the other mask.

        The masks differ in samples that were answered only, whose labels are known.
        """
        rows, count = self._answers.rows, int(judged_mask.sum())
        fraction = self._wrong_fraction(judged_mask) if count else Estimate(0.0, 0.0, 0.0)
        difference = mask[rows].astype(np.int64) - judged_mask[rows]
        least, most = int(difference @ self._answers.wrong), int(difference @ ~self._answers.right)
        middle = (least + most) / 2
        return Estimate(count * fraction.low + least, count * fraction.value + middle, count * fraction.high + most)

    def _wrong_fraction(self, mask: Array) -> Estimate:
        """Return the fraction of wrong labels among the samples of the mask, with "unsure" counted in both ways."""
        is_inside = mask[self._answers.rows]
        rows = self._answers.rows[is_inside]
        if not len(rows):
            return Estimate(0.0, float(np.mean(self._probability[mask])), 1.0)
        is_wrong = self._answers.wrong[is_inside]
        least_wrong = self._answered_strata(mask, rows, is_wrong)
        most_wrong = self._answered_strata(mask, rows, ~self._answers.right[is_inside])
        value = (stratified_rate(least_wrong) + stratified_rate(most_wrong)) / 2
        return Estimate(float(interval(least_wrong)[0]), float(value), float(interval(most_wrong)[1]))

    def _answered_strata(self, mask: Array, rows: Array, is_wrong: Array) -> StratifiedRate:
        """Count the answers in the strata of the mask; a stratum without an answer is taken together with the next."""
        stratum_count = int(self._stratum.max()) + 1
        answer_counts = np.bincount(self._stratum[rows], minlength=stratum_count)
        answered_strata = np.flatnonzero(answer_counts)
        group = np.minimum(np.searchsorted(answered_strata, np.arange(stratum_count)), len(answered_strata) - 1)
        merged_stratum = group[self._stratum[mask]]
        size = np.bincount(merged_stratum, minlength=len(answered_strata))
        score_sum = np.bincount(merged_stratum, np.clip(self._score[mask], -FAR, FAR), minlength=len(size))
        wrong_counts = np.bincount(group[self._stratum[rows]], is_wrong, minlength=len(size))
        return StratifiedRate(size, answer_counts[answered_strata], wrong_counts, score_sum / size)


def few_answers_doubts(num_samples: int) -> list[str]:
    """Return why an audit of so many samples is doubtful after 1, 2, 3, ... answers; after more it is not.

    Example:
        >>> few_answers_doubts(2)  # both answers make the rate exact
        ['There is only 1 answer: rate and flags can be far off. Answer all 2 samples.']
    """
    is_large = num_samples > LEAST_ANSWERS
    advice = f"Answer at least {LEAST_ANSWERS} of the drawn" if is_large else f"Answer all {num_samples}"
    end = f": rate and flags can be far off. {advice} samples."
    numbers = range(1, min(LEAST_ANSWERS, num_samples))
    return [f"There {'is only 1 answer' if n == 1 else f'are only {n} answers'}{end}" for n in numbers]


def _completed_stratum(stratum: Array, score: Array) -> Array:
    """Return the stratum of each sample; one first seen after the plan is in that of the next higher score.

    Example:
        >>> _completed_stratum(np.array([0, 0, 1, -1, -1, -1]), np.array([4, 3, 1, 2.5, 9, np.nan]))
        array([ 0,  0,  1,  0,  0, -1])
    """
    planned_rows, new_rows = np.flatnonzero(stratum >= 0), np.flatnonzero((stratum < 0) & ~np.isnan(score))
    if not len(new_rows):
        return stratum
    order = planned_rows[np.argsort(score[planned_rows], kind="stable")]
    completed = stratum.copy()
    position = np.searchsorted(score[order], score[new_rows])
    completed[new_rows] = stratum[order[np.minimum(position, len(order) - 1)]]
    return completed


def _share(top: Estimate, rest: Estimate) -> Estimate:
    """Return the part that A is of A + B."""
    total = top.value + rest.value
    value = top.value / total if total > 0 else float("nan")

    def distance(r: float, a: float, b: float) -> float:
        """Return how far 0 is inside the interval of (1 - r) A - r B, whose end is at A = a and B = b."""
        middle = (1 - r) * top.value - r * rest.value
        return float(np.hypot((1 - r) * (a - top.value), r * (b - rest.value)) - abs(middle))

    def end(outermost: float, a: float, b: float) -> float:
        if distance(outermost, a, b) >= 0:
            return outermost
        inner, outer = value, outermost
        for _ in range(_HALVINGS):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if distance(middle, a, b) >= 0 else (inner, middle)
        return inner

    low = end(0.0, top.low, rest.high) if top.low < top.value or rest.high > rest.value else value
    high = end(1.0, top.high, rest.low) if top.high > top.value or rest.low < rest.value else value
    return Estimate(low, value, high)
