"""Suspects of a regression: the targets that the run is farthest from, weighted over the epochs."""

from collections.abc import Sequence

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.suspicion.noise_rate import HIGHEST_RATE, NoiseRate, two_standard_errors
from dynalens.text import number_in_words

OUTLIER_SCORE = 3.5
"""Modified z-score from which a number is taken for an outlier (Iglewicz and Hoaglin 1993)."""
_NORMAL_QUARTILE = 0.6745
"""Third quartile of the standard normal distribution: the median absolute deviation of normal numbers over theirs."""
ORIGIN = "from the run alone: it counts targets that stand out of the residuals; audit 100 samples to count the others"


def target_noise_rate(statistics: SampleStatistics) -> NoiseRate:
    r"""Return how many samples have a target that stands out of the residuals.

    With the weighted mean absolute residual :math:`a_{id}` of sample i and target d, a target stands out where
    :math:`0.6745 \, a_{id} / \mathrm{median}_j \, a_{jd} > 3.5`, the modified z-score about 0. Of normal residuals 5 in
    10,000 do. Residuals cannot tell a target that is slightly wrong from one that is hard to predict, so the lower
    bound is 0. The upper bound is the estimate, or the fraction of samples whose residual is above the tolerance if
    that is more, plus two standard errors.

    Source: Iglewicz and Hoaglin, "How to Detect and Handle Outliers", ASQC 1993.

    Args:
        statistics: Of samples of a regression that were seen.
    """
    assert statistics.unit_residuals is not None
    assert statistics.unit_margin is not None
    residuals = statistics.unit_residuals.astype(np.float64)
    value = min(HIGHEST_RATE, outlier_share(residuals))
    high = max(value, float((statistics.unit_margin <= 0).mean()))
    return NoiseRate(0.0, value, min(1.0, high + two_standard_errors(value, len(residuals))), alone=ORIGIN)


def outlier_share(residuals: Array) -> float:
    """Return the fraction of the samples of which a residual has a modified z-score above 3.5.

    Args:
        residuals: Shape ``(N, D)``, at least 0; NaN where a target is not known.

    Example:
        >>> outlier_share(np.array([[1.0], [1.0], [2.0], [6.0]]))  # the median is 1.5, and .6745 * 6 / 1.5 = 2.7
        0.0
        >>> outlier_share(np.array([[1.0], [1.0], [2.0], [8.0]]))
        0.25
    """
    is_known = ~np.isnan(residuals).all(axis=0)
    median_residual = np.nanmedian(residuals[:, is_known], axis=0)
    is_outlier = _NORMAL_QUARTILE * residuals[:, is_known] > OUTLIER_SCORE * median_residual
    return float(is_outlier.any(axis=1).mean())


def label_word(statistics: SampleStatistics) -> str:
    """Return what may be wrong about a sample: its label, or the target of a regression."""
    return "label" if statistics.target is None else "target"


def words_of(statistics: SampleStatistics) -> tuple[str, str, str]:
    """Return what the label of a sample, what stands against it and what the network thinks of it are called.

    The last one is followed over the epochs: a probability, or the closeness of a regression.
    """
    if statistics.target is not None:
        return "target", "predicted", statistics.probability_name
    return "given", "suggested", "p(given)"


def target_words(
    statistics: SampleStatistics, samples: Sequence[int], names: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return what was given to each of some samples, and the prediction with its residual, as text.

    Args:
        statistics: Of a regression.
        samples: Their rows.
        names: Of the targets; without it they are numbered where a sample has several.
    """
    assert statistics.unit is not None
    assert statistics.unit_residuals is not None
    assert statistics.target is not None
    assert statistics.prediction is not None
    assert statistics.residual is not None
    labels, predicted = [], []
    for sample in samples:
        unit = int(statistics.unit[sample])
        has_several_targets = statistics.unit_residuals.shape[1] > 1
        name = names[unit] if names is not None and unit < len(names) else str(unit) if has_several_targets else ""
        labels.append(f"{name}: {number_in_words(statistics.target[sample])}".removeprefix(": "))
        residual = statistics.residual[sample]
        sign = "+" if residual >= 0 else ""
        predicted.append(f"{number_in_words(statistics.prediction[sample], 4)} ({sign}{number_in_words(residual, 3)})")
    return labels, predicted
