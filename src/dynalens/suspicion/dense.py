r"""Suspects among samples with a class for each token or pixel.

    score_i = L(d_i) + constant

    d_i   log of a weighted mean over the epochs: of the largest loss of a token with the weight min(t + 1, 20)^3, or of
          the mean loss of the pixels with min(t + 1, 10)^3, and less once wrong masks are learned by heart
          (`EpochWeights.next_of_masks`)
    L     log odds of two normal distributions with one variance, of as many of the highest d as the noise rate says and
          of the others
    constant  makes the mean probability the estimated noise rate

One wrong token makes a sequence wrong, so that its worst token counts. Pixels at the edge of an object are contradicted
in every mask, so that the worst pixel says little; how many are contradicted, and how clearly, tells masks apart.
"""

from collections.abc import Sequence

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.suspicion.noise_rate import HIGHEST_RATE, NoiseRate, two_standard_errors

ORIGIN = "from the run alone: it counts only samples that stand out; audit 100 samples for a confidence interval"
USUAL_SHARE = 0.95
"""Fraction of the lower half of the samples whose distance from the median is not conspicuous."""


def is_dense(statistics: SampleStatistics) -> bool:
    """Return whether samples have a class for each token or pixel."""
    has_units = statistics.unit is not None
    return has_units and statistics.unit_margins is None and statistics.target is None


def has_classes(statistics: SampleStatistics) -> bool:
    """Return whether the label of a sample, or of its worst token or pixel, is a class."""
    return statistics.unit is None or (is_dense(statistics) and statistics.unit_label is None)


def contradictions(statistics: SampleStatistics) -> Array:
    """Return how much each sample is contradicted, ``(N,)`` float64, higher is more."""
    assert statistics.unit_margin is not None
    losses = -statistics.unit_margin.astype(np.float64)
    positive = losses[losses > 0]
    if losses.min() < 0:  # tokens of a record that has margins, as earlier versions wrote it
        return losses
    return np.log(np.maximum(losses, positive.min() if len(positive) else 1.0))


def dense_noise_rate(statistics: SampleStatistics) -> NoiseRate:
    """Return how many samples stand out from the others.

    Right samples are taken to lie as often at a distance above the median of d as at this distance below it. Let q be
    the distance below the median that 95 % of the lower half do not exceed. The estimate is the fraction of samples
    that are more than q above the median, less the fraction that are more than q below it. It is at most the fraction
    of samples with a negative ``unit_margin``.

    The upper bound is the largest such difference for any distance, plus two standard errors. Of tokens, the fraction
    of samples of which the network contradicted a token when it last saw them counts instead if it is more, because
    what the network has not learned yet does not stand out. The lower bound is 0, as hard samples may stand out.

    Args:
        statistics: Of samples that were seen, with a class for each token or pixel.
    """
    contradiction = contradictions(statistics)
    contradicted_count = int((statistics.margin < 0).sum())
    distance, sample_count = contradiction - np.median(contradiction), len(contradiction)
    distances_above, distances_below = np.sort(distance[distance > 0]), np.sort(-distance[distance < 0])

    def excess(limit: float) -> int:
        return _count_beyond(distances_above, limit) - _count_beyond(distances_below, limit)

    usual_distance = float(np.quantile(distances_below, USUAL_SHARE)) if len(distances_below) else 0.0
    value = min(HIGHEST_RATE, min(contradicted_count, max(0, excess(usual_distance))) / sample_count)
    high = max(value, max(map(excess, np.concatenate([distances_above, distances_below])), default=0) / sample_count)
    if statistics.unit_columns is None:  # of masks, the network contradicts some pixel of each
        high = max(high, float((statistics.probability_gap > 0).mean()))
    return NoiseRate(0.0, value, min(1.0, high + two_standard_errors(value, sample_count)), alone=ORIGIN)


def highest_mask(values: Array, share: float) -> Array:
    """Return which samples are among that fraction with the highest doubts, shape ``(N,)``."""
    is_highest = np.zeros(len(values), dtype=np.bool_)
    is_highest[np.argsort(-values, kind="stable")[: round(share * len(values))]] = True
    return is_highest


def unit_words(statistics: SampleStatistics, samples: Sequence[int]) -> list[str]:
    """Return which token or pixel of each of some samples is the worst; an empty text where samples have none.

    Args:
        statistics: The record.
        samples: Their rows.
    """
    if not is_dense(statistics) or statistics.unit is None:
        return [""] * len(samples)
    units, columns = statistics.unit, statistics.unit_columns
    if columns is None:
        return [f"token {units[sample]}" for sample in samples]
    places = (divmod(int(units[sample]), max(int(columns[sample]), 1)) for sample in samples)
    return [f"pixel {row}, {column}" for row, column in places]


def token_of(statistics: SampleStatistics, sample: int) -> int | None:
    """Return the place of the worst token of a sample; None where samples have no tokens."""
    if not is_dense(statistics) or statistics.unit is None or statistics.unit_columns is not None:
        return None
    return int(statistics.unit[sample])


def _count_beyond(distances: Array, limit: float) -> int:
    return len(distances) - int(np.searchsorted(distances, limit, side="right"))
