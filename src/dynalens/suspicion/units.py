r"""Suspects among samples that have several units, each with a target of its own.

    score_i = L(-o_i) + constant

    o_i   log odds that all units of the sample are as given. Of labels they are -log(prod_k (1 + exp(-o_ik)) - 1), as
          if labels were wrong independently. The log odds o_ik of label k follow from the mean of its margin, weighted
          over the epochs by min(t + 1, 10)^3, and from how often a label is given where it is predicted and where it is
          not (given_labels.py). Of a number they are log(tolerance / mean absolute residual)
    L     log odds of two normal distributions with one variance, of the samples with a doubted unit and of the others
    constant  makes the mean probability the estimated noise rate

The unit that is named is the one with the smallest log odds. They come after the mean over time, so that it is the one
that the whole run contradicts.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dynalens.dynamics import Array, SampleStatistics
from dynalens.dynamics.given_labels import given_log_odds
from dynalens.suspicion.disagreement import SUREST_SHARE
from dynalens.suspicion.noise_rate import HIGHEST_RATE, NoiseRate, two_standard_errors
from dynalens.text import label_positions

_SMALL = 1e-8  # below it, log(1 + x) and x are the same number


def odds_as_given(statistics: SampleStatistics) -> Array:
    r"""Return the log odds that all units of each sample are as given, ``(N,)`` float64; NaN if never seen.

    Of several labels with the log odds :math:`o_k`, they are those of labels that are wrong independently of each
    other: P(all as given) is the product of :math:`1 / (1 + e^{-o_k})`. A person who names another class than the true
    one makes two labels wrong, of which each may look only a little suspicious. :math:`o_k` are
    :func:`~dynalens.dynamics.given_labels.given_log_odds`, or, in a record without ``unit_given``, the margins. Of a
    regression they are the log of the tolerance divided by the weighted mean absolute residual.

    Raises:
        ValueError: If each sample has one label.
    """
    if statistics.unit_margin is None:
        raise ValueError("Expected statistics of samples with several units, got those of one label each.")
    if statistics.unit_margins is None:
        return statistics.unit_margin.astype(np.float64)
    odds = statistics.unit_margins
    if statistics.unit_given is not None:
        odds = given_log_odds(odds, statistics.unit_given)
    odds = odds.astype(np.float64)
    return np.where(np.isnan(odds).all(axis=1), np.nan, all_as_given(np.where(np.isnan(odds), np.inf, odds)))


def all_as_given(odds: Array) -> Array:
    r"""Return the log odds that K independent units are all as given: -log(prod_k (1 + exp(-o_k)) - 1), shape ``(N,)``.

    Args:
        odds: Shape ``(N, K)``, o, the log odds of each unit.

    Example:
        >>> all_as_given(np.log([[1.0, 3.0], [1.0, 1e9]])).round(3)  # 1/2 * 3/4 = 3/8, so log(3 / 5); 1/2, so 0
        array([-0.511, -0.   ])
    """
    log_product = (np.maximum(-odds, 0) + np.log1p(np.exp(-np.abs(odds)))).sum(axis=1)
    is_small = log_product <= _SMALL  # the product rounds to 1, and the sum of small numbers replaces it
    with np.errstate(divide="ignore"):
        result: Array = -(log_product + np.log(-np.expm1(-log_product)))
    result[is_small] = -np.logaddexp.reduce(-odds[is_small], axis=1)
    return result


def has_doubted_unit(statistics: SampleStatistics) -> Array:
    """Return which samples have a unit with a negative mean margin, or residual above the tolerance, ``(N,)`` bool."""
    assert statistics.unit_margin is not None
    is_negative: Array = statistics.unit_margin < 0
    if statistics.unit_margins is not None:
        is_negative = np.any(statistics.unit_margins < 0, axis=1)
    return is_negative


def unit_noise_rate(statistics: SampleStatistics) -> NoiseRate:
    """Return how many samples have a wrong label.

    Labels are counted in two groups: those that the mean logits predict to be there, and those that they predict to be
    missing. Most labels of most samples are missing, which a network learns first, so an estimate from all labels
    together would say nothing of those that are there. In each group, let c be the fraction of doubted labels, which
    have a negative mean margin, and f the fraction of doubted labels among the twentieth with the largest absolute
    margin, at most c. Then v = f + f (c - f) of the group are wrong, at most half, as
    :func:`~dynalens.suspicion.noise_rate.estimate_noise_rate` counts classes.

    If a fraction v of all labels is wrong and wrong labels are independent, 1 - (1 - v)^K of the samples with K labels
    have a wrong one. The estimate is at most the fraction of samples with a doubted label. That fraction plus two
    standard errors is the upper bound. The lower bound is 0, as no label is ruled out.

    Args:
        statistics: Of multi-label samples that were seen. Without ``unit_given`` all labels are one group.
    """
    assert statistics.unit_margins is not None
    margins, given_bits = statistics.unit_margins.astype(np.float64), statistics.unit_given
    is_counted = np.isfinite(margins)
    is_predicted = np.zeros(margins.shape, np.bool_) if given_bits is None else (margins > 0) == (given_bits == 1)
    groups = [margins[is_counted & group] for group in (is_predicted, ~is_predicted)]
    wrong_share = sum(len(group) * _wrong_share(group) for group in groups) / max(int(is_counted.sum()), 1)
    doubted_share = float(has_doubted_unit(statistics).mean())
    value = min(doubted_share, 1 - (1 - wrong_share) ** margins.shape[1])
    return NoiseRate(0.0, value, min(1.0, doubted_share + two_standard_errors(value, len(margins))))


def _wrong_share(margins: Array) -> float:
    """Return the fraction of these labels that is wrong: f + f (c - f), at most half."""
    if not len(margins):
        return 0.0
    is_doubted, sureness = margins < 0, np.abs(margins)
    doubted_share = float(is_doubted.mean())
    surest_share = min(doubted_share, float(is_doubted[sureness >= np.quantile(sureness, 1 - SUREST_SHARE)].mean()))
    return min(HIGHEST_RATE, surest_share + surest_share * (doubted_share - surest_share))


def corrections(
    statistics: SampleStatistics, suspects: pd.DataFrame, right_labels: Mapping[int, Sequence[int]] | None = None
) -> dict[int, tuple[int | str, int | str]]:
    """Return the label of each of some samples and the one that it has if the suggestion is followed.

    They are classes. Of a sample with several labels they are the numbers of all of them as text, and the suggestion is
    about the worst one.

    Args:
        statistics: The record.
        suspects: Index: the rows of the samples. ``suggested`` is a class, or 0 or 1 for the worst label; where nothing
            is suggested nothing is corrected.
        right_labels: Numbers of all right labels of some samples, by their rows, which a person named.

    Raises:
        ValueError: If samples have neither classes nor labels that the record keeps, or a person named one that does
            not exist.
    """
    if statistics.unit_given is None and statistics.unit is not None:
        kind = "labels for each token or pixel" if statistics.target is None else "a regression"
        raise ValueError(
            f"Expected a record of classes, or of several labels for each sample, for relabelling, got one of {kind}. "
            "Correct them in your own data, where `suspects()` says. `clean_indices()` leaves the flagged samples out."
        )
    suggestions = suspects["suggested"].dropna()
    pairs = [(int(row), int(suggestion)) for row, suggestion in zip(suggestions.index, suggestions, strict=True)]
    if statistics.unit_given is None or statistics.unit is None:
        return {row: (int(statistics.label[row]), suggestion) for row, suggestion in pairs}
    changes: dict[int, tuple[int | str, int | str]] = {}
    for row, suggestion in pairs:
        given_bits = statistics.unit_given[row].tolist()
        suggested_bits = given_bits.copy()
        suggested_bits[int(statistics.unit[row])] = suggestion
        changes[row] = label_positions(given_bits), label_positions(suggested_bits)
    return changes | _changes_to_labels(statistics.unit_given, right_labels or {})


def _changes_to_labels(
    given_bits: Array, right_labels: Mapping[int, Sequence[int]]
) -> dict[int, tuple[int | str, int | str]]:
    changes: dict[int, tuple[int | str, int | str]] = {}
    for row, labels in right_labels.items():
        if max(labels, default=0) >= given_bits.shape[1]:
            raise ValueError(
                f"Expected `new_label` to name labels from 0 to {given_bits.shape[1] - 1}, got "
                f"{' '.join(map(str, labels))!r} for the sample in row {row} of the record. Correct the answer."
            )
        is_right = np.isin(np.arange(given_bits.shape[1]), labels)
        corrected_bits = np.where(given_bits[row] < 0, -1, is_right)
        changes[row] = label_positions(given_bits[row].tolist()), label_positions(corrected_bits.tolist())
    return changes


def unit_codes(statistics: SampleStatistics) -> tuple[Array, Array]:
    """Return a number for what was given for the worst unit of each sample, and one for what is suggested instead.

    Label k of a multi-label sample, or of a pixel with several, is 2 k + 1 where it was given and 2 k where it was not:
    their places in :func:`unit_names`. -1 for a sample never seen.
    """
    labels = statistics.unit if statistics.unit_label is None else statistics.unit_label
    assert labels is not None
    has_unit, unit = labels >= 0, 2 * labels.astype(np.int64)
    return np.where(has_unit, unit + statistics.label, -1), np.where(has_unit, unit + statistics.candidate, -1)


def named_targets(
    statistics: SampleStatistics, class_names: Sequence[str] | None
) -> tuple[Array, Array, Sequence[str] | None]:
    """Return what was given and what is suggested, ``(N,)`` each, and the names of these numbers; None: no names.

    They are classes where each sample has one label. Of samples with several they say which label it is about.
    """
    if statistics.unit_label is not None:
        label_count = max(1 + int(statistics.unit_label.max(initial=0)), len(class_names or ()))
    elif statistics.unit_margins is not None:
        label_count = statistics.unit_margins.shape[1]
    else:
        return statistics.label, statistics.candidate, class_names
    return *unit_codes(statistics), unit_names(class_names, label_count)


def unit_names(class_names: Sequence[str] | None, label_count: int) -> list[str]:
    """Return what each number of :func:`unit_codes` is called.

    Example:
        >>> unit_names(["cat", "dog"], 2)
        ['no cat', 'cat', 'no dog', 'dog']
    """
    given_names = list(class_names or ())
    names = [*given_names[:label_count], *map(str, range(len(given_names), label_count))]
    return [text for name in names for text in (f"no {name}", name)]
