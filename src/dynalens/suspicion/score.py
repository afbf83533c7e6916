r"""How suspicious each label is.

The whole order, for sample i with label y:

    score_i = (1 - s) L(-m_i) + s L(B_i) + constant

    m_i   margin: mean of z_y - max_{k != y} z_k over the epochs, weighted by g_t^3 c_t^2, c_t how far the network
          contradicts labels, g_0 = 0, g_t = t + 1 up to the tenth epoch, and later (t + 1) min(1, c_t / c_9)
          (`epoch_weight`)
    B_i   class pairs: log odds that the label is wrong by Bayes, from the weighted mean probabilities and the noise
          matrix, in the mean over the first rounds of estimating the matrix (`confusions.wrong_log_odds`)
    s     how much class pairs count: A / (1/4)^2, at least 0.2 and at most 1, with A how far confusions go one way
          (`confusions.one_way`), times how far the network knows its classes (`predictions.knowledge`)
    L     log odds of two normal distributions with one variance, of the samples whose leading class is not their
          label and of the others
    constant  makes the mean probability the estimated noise rate

All of it is in the record's 64 bytes for each sample, so that what is shown while training goes on has the same order.

Constants, all of them:

    name               value  why
    epoch_weight       3, 2   powers of g_t and of c_t; the same within .2 points from 2 to 4 and 1 to 4
    weighting.GROWTH   10     epochs over which g_t grows in any case; the same within .2 points from 8 to 15
    PAIRS              0.2    least share of class pairs; human labels the same within .2 points from .1 to .4
    ONE_WAY            0.25   part of one-way confusions from which flips are a rule; A is 0 in 88 stored trainings
                              without a rule, and above 1/16 in 24 of 52 with one
    predictions.SURE   .25, 4 sureness from which class pairs count in full, and the power of it below; the same within
                              .1 points from .15 to .3 and within .2 with the power 2, and 15 points better than without
                              where networks learn slowly
    confusions.BIAS    3      how many times too often a network may name a class; the same from 1.5 to 10
    confusions.CHANCE  2      standard deviations: 95 %
    confusions.ROUNDS  5      of the noise matrix; the same within .3 points from 3 to 7
    given_labels.STEPS 3      of the deconvolution in each round; the same within .5 points from 2 to 10
    confusions.LEAST   0.001  least probability of a flip, which bounds B as well; the same from .0001 to .01

`docs/results/constants.md` has the curves (`benchmarks/sensitivity.py`).
"""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.suspicion.confusions import one_way, wrong_log_odds
from dynalens.suspicion.dense import contradictions, dense_noise_rate, highest_mask, is_dense
from dynalens.suspicion.history_summary import HistorySummary, summarise_history
from dynalens.suspicion.noise_rate import NoiseRate, estimate_halfway, estimate_noise_rate, with_earlier_bound
from dynalens.suspicion.predictions import Predictions
from dynalens.suspicion.rate_doubts import bounds_doubts, doubts, has_memorised, still_falls, zero_doubts
from dynalens.suspicion.regression import target_noise_rate
from dynalens.suspicion.units import has_doubted_unit, odds_as_given, unit_noise_rate

PAIRS = 0.2
"""Share of class pairs in the score where flips follow no rule: people mistake classes for each other both ways."""

ONE_WAY = 0.25
"""Where this part of the confusions goes one way (five for three in the other direction), flips are a rule."""

_LEAST_WRONG = 0.1  # samples: without noise the order still needs finite scores


@dataclass(frozen=True)
class Assessment:
    """How suspicious the labels of N samples are, as :func:`assess` returns it.

    All arrays have the shape ``(N,)``. Samples that were never seen have NaN, or -1 as suggested class.

    Attributes:
        score: Log odds that the label is wrong. Higher is more suspicious.
        probability: Probability that the label is wrong. Its mean is the estimated noise rate.
        suggested: The ``candidate`` of the statistics, int64: the class that most often came first of all but the
            label, or -1 if the label always came before it.
        suggested_probability: Probability that the suggested class is the true one.
        agreement: Fraction of the presentations that predicted the suggested class.
        probability_margin: Mean of p_y - max_{k != y} p_k over the presentations, or NaN without history.
        noise_rate: Estimated fraction of wrong labels, or NaN if nothing was seen.
        contrast: How much more suspicious each label is to embeddings than to the run, in the log odds of ``score``,
            with mean 0. It is 0 if the embeddings say nothing about a sample. None without embeddings, or if they say
            nothing at all.
        share: Weight of the embeddings in ``score``, in [0, 1], or 0 without embeddings. With another share a, the
            score would be ``score + (a - share) * contrast``.
    """

    score: Array
    probability: Array
    suggested: Array
    suggested_probability: Array
    agreement: Array
    probability_margin: Array
    noise_rate: NoiseRate
    contrast: Array | None = None
    share: float = 0.0


def assess(statistics: SampleStatistics, history: Iterable[Mapping[str, Array]] = ()) -> Assessment:
    """Return how suspicious each label is, with the estimated noise rate and a suggested class.

    The order of the labels and the suggested classes follow from the statistics alone. Noise rate, agreement and
    probability margin are computed from the history. If the history does not cover all samples, the noise rate is
    computed from the statistics. ``docs/numbers.md`` has the formulas.

    Args:
        statistics: Statistics of the N samples.
        history: For each epoch, in order, its presentations: the arrays ``index``, ``p_label``, ``margin``,
            ``predicted`` and, for the noise rate, ``p_other`` of :class:`~dynalens.dynamics.EpochRecord`.
    """
    if statistics.unit is not None:
        history = ()
    labels, suggested = statistics.label.astype(np.int64), statistics.candidate.astype(np.int64)
    return assess_summary(statistics, summarise_history(labels, suggested, history))


def assess_summary(statistics: SampleStatistics, summary: HistorySummary) -> Assessment:
    """Return :func:`assess` of a history that was summed up."""
    rows = np.flatnonzero(statistics.presentations > 0)
    if not len(rows):
        return _empty_assessment(len(statistics))
    if statistics.unit is not None:
        return _assess_units(statistics, rows)
    predictions = Predictions.from_statistics(statistics.part(rows))
    direction = one_way(predictions.leader(), predictions.label)
    score = score_of_parts(score_parts(predictions, direction), predictions)
    has_history = summary.presentations > 0
    accuracy = float((statistics.predicted[rows] == statistics.label[rows]).mean())
    whole_summary = summary if has_history[rows].all() else summarise_history(predictions.label, predictions.rival, ())
    rate = _run_rate(predictions, direction * predictions.knowledge(), whole_summary, accuracy)
    scores = scaled_to_rate(score, rate.value)
    score, p_wrong = (_at_rows(len(statistics), rows, values) for values in scores)
    agreement = np.where(has_history, summary.agreement, statistics.candidate_share)
    return Assessment(
        score=score,
        probability=p_wrong,
        suggested=statistics.candidate.astype(np.int64),
        suggested_probability=p_wrong * _share_of_disagreement(agreement, statistics.correctness),
        agreement=agreement,
        probability_margin=summary.probability_margin,
        noise_rate=rate,
    )


def _run_rate(predictions: Predictions, direction: float, summary: HistorySummary, accuracy: float) -> NoiseRate:
    """Return the noise rate, and what speaks against it; without history, from the means of the run alone."""
    rate, sample_count = estimate_noise_rate(predictions, direction, summary.candidates), len(predictions)
    halfway_rate = estimate_halfway(summary.disagreements, summary.candidates, summary.epoch_count)
    rate = with_earlier_bound(
        rate,
        summary.disagreements,
        summary.epoch_count,
        is_falling=still_falls(rate.value, sample_count, halfway_rate),
        has_memorised=has_memorised(rate.value, sample_count, accuracy),
    )
    return replace(rate, doubts=doubts(rate, sample_count=sample_count, accuracy=accuracy, halfway_rate=halfway_rate))


def _assess_units(statistics: SampleStatistics, rows: Array) -> Assessment:
    """Return how suspicious samples with several units are; they have no class that is given for another."""
    part = statistics.part(rows)
    rate = _unit_rate(part)
    score, p_wrong = (
        _at_rows(len(statistics), rows, values) for values in scaled_to_rate(_unit_score(part), rate.value)
    )
    return Assessment(
        score=score,
        probability=p_wrong,
        suggested=statistics.candidate.astype(np.int64),
        suggested_probability=p_wrong,
        agreement=statistics.candidate_share,
        probability_margin=statistics.weighted_confidence - statistics.weighted_rival,
        noise_rate=rate,
    )


def _unit_rate(part: SampleStatistics) -> NoiseRate:
    """Return the noise rate of samples with several units, and what speaks against it."""
    if part.target is not None or is_dense(part):
        rate = dense_noise_rate(part) if is_dense(part) else target_noise_rate(part)
        reasons = bounds_doubts(rate)
    else:
        rate = unit_noise_rate(part)
        reasons = doubts(rate, sample_count=len(part), accuracy=float((part.probability_gap == 0).mean()))
    return replace(rate, doubts=(*reasons, *zero_doubts(rate, len(part))))


def _unit_score(statistics: SampleStatistics) -> Array:
    if is_dense(statistics):
        contradiction = contradictions(statistics)
        return log_odds(contradiction, highest_mask(contradiction, dense_noise_rate(statistics).value))
    return log_odds(-odds_as_given(statistics), has_doubted_unit(statistics))


def streaming_score(statistics: SampleStatistics) -> Array:
    """Return the score of :func:`assess` up to a constant, shape ``(N,)``, from the record alone; NaN if never seen.

    Several pictures of an epoch ask for it, so it is worked out once for each statistics.
    """
    if statistics not in _STREAMED:
        _STREAMED[statistics] = _streaming_score(statistics)
    return _STREAMED[statistics]


_STREAMED: "weakref.WeakKeyDictionary[SampleStatistics, Array]" = weakref.WeakKeyDictionary()


def _streaming_score(statistics: SampleStatistics) -> Array:
    rows = np.flatnonzero(statistics.presentations > 0)
    if not len(rows):
        return np.full(len(statistics), np.nan)
    if statistics.unit is not None:
        return _at_rows(len(statistics), rows, _unit_score(statistics.part(rows)))
    return _at_rows(len(statistics), rows, predicted_score(Predictions.from_statistics(statistics.part(rows))))


def predicted_score(predictions: Predictions) -> Array:
    """Return the score of these predictions up to a constant, shape ``(N,)``, whoever made them."""
    return score_of_parts(score_parts(predictions, one_way(predictions.leader(), predictions.label)), predictions)


def score_parts(predictions: Predictions, direction: float) -> dict[str, tuple[float, Array]]:
    """Return weight and values of each part of the score, by name."""
    pairs = predictions.knowledge() * float(np.clip(direction / ONE_WAY**2, PAIRS, 1))
    return {"margin": (1 - pairs, -predictions.margin), "pairs": (pairs, wrong_log_odds(predictions))}


def score_of_parts(parts: Mapping[str, tuple[float, Array]], predictions: Predictions) -> Array:
    """Return the sum over the parts of weight * L(values), shape ``(N,)``; what is added here is part of the order."""
    is_doubted = predictions.leader() != predictions.label
    score = np.zeros(len(predictions))
    for weight, values in parts.values():
        score += weight * log_odds(values, is_doubted)
    return score


def log_odds(values: Array, is_doubted: Array) -> Array:
    """Return the log odds, up to a constant, of two groups that are normal in ``values`` with one variance.

    With means a of the doubted and b of the others and the variance v within the groups, (a - b) / v times the
    distance from the mean: what tells the groups apart counts as far as it does, and nothing where the doubted are the
    lower ones. Where there is only one group, v is its variance and a - b one standard deviation.

    Args:
        values: Shape ``(N,)``, finite.
        is_doubted: Shape ``(N,)``, bool.

    Example:
        >>> import numpy as np
        >>> log_odds(np.array([0.0, 2.0, 4.0, 6.0]), np.array([False, False, True, True])).round(6)
        array([-12.,  -4.,   4.,  12.])
    """
    distances: Array = values - values.mean()
    doubted, undoubted = distances[is_doubted], distances[~is_doubted]
    if not len(doubted) or not len(undoubted):
        deviation = float(distances.std())
        return distances / deviation if deviation else distances
    variance = (len(doubted) * doubted.var() + len(undoubted) * undoubted.var()) / (len(doubted) + len(undoubted))
    slope: float = max(0.0, doubted.mean() - undoubted.mean()) / (variance + 1e-9)
    return slope * distances


def log_odds_offset(log_odds: Array, mean: float) -> float:
    """Return the constant to add so that the probabilities have this mean in (0, 1).

    Example:
        >>> import numpy as np
        >>> round(log_odds_offset(np.zeros(3), 0.5), 6)
        0.0
    """
    low, high = -float(log_odds.max()) - 60, -float(log_odds.min()) + 60
    for _ in range(100):
        middle = (low + high) / 2
        if not low < middle < high:
            break  # no number is between them
        low, high = (low, middle) if probability(log_odds + middle).mean() > mean else (middle, high)
    return (low + high) / 2


def probability(log_odds: Array) -> Array:
    """Return 1 / (1 + exp(-log_odds))."""
    values: Array = 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
    return values


def ranks(values: Array) -> Array:
    """Return 1 for the largest value, 2 for the next; among equals the first, NaN last."""
    places = np.empty(len(values), dtype=np.int64)
    places[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return places


def _share_of_disagreement(agreement: Array, correctness: Array) -> Array:
    """Return how often the suggested class was predicted, of the presentations that disagreed; NaN where none did."""
    error = np.where(correctness < 1, 1 - correctness, np.nan)
    share: Array = np.minimum(agreement / error, 1)
    return share


def scaled_to_rate(score: Array, rate: float) -> tuple[Array, Array]:
    """Return the scores with the constant whose probabilities have the mean ``rate``, and these probabilities.

    Without noise the scores are still finite, those of a tenth of a sample, and the probabilities are 0.
    """
    least_rate = _LEAST_WRONG / len(score)
    score = score + log_odds_offset(score, float(np.clip(rate, least_rate, 1 - least_rate)))
    return score, probability(score) if rate > 0 else np.zeros(len(score))


def _at_rows(sample_count: int, rows: Array, values: Array) -> Array:
    result: Array = np.full(sample_count, np.nan)
    result[rows] = values
    return result


def _empty_assessment(sample_count: int) -> Assessment:
    nans: Array = np.full(sample_count, np.nan)
    return Assessment(nans, nans, np.full(sample_count, -1), nans, nans, nans, NoiseRate(np.nan, np.nan, np.nan))
