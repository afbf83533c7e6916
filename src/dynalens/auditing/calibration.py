"""From answers to the probability that each label is wrong."""

from collections.abc import Sequence

import numpy as np

from dynalens.auditing.estimate import shifted
from dynalens.auditing.strata import probability
from dynalens.dynamics import Array

FAR = 7.0
"""Log odds beyond which a score says no more: a thousand to one."""

_STEPS, _LONGEST_STEP = 50, 2.0
_SLOPE = 0.1  # precision of the normal prior of each slope; 0.5 flattens the curve, which costs 6 % of recall
_CONTRAST = 4.0  # precision of the normal prior of the slope of the contrast; from 1 to 16 the orders are alike
_PSEUDO_ANSWERS = 0.5  # half a wrong and half a right answer are spread over all of them


def features(score: Array) -> Array:
    """Return the two features of each score that the calibration uses: log odds in [-7, 7], and log odds of its rank.

    The first feature suits scores that are log odds, the second one scores that are only an order. Both have mean 0 and
    standard deviation 1.

    Args:
        score: Shape ``(N,)``, without NaN.

    Returns:
        Shape ``(N, 2)``.
    """
    ranks = np.empty(len(score))
    ranks[np.argsort(score, kind="stable")] = (np.arange(len(score)) + 0.5) / len(score)
    log_odds_pair = np.stack([np.clip(score, -FAR, FAR), np.log(ranks / (1 - ranks))], axis=1)
    spread = log_odds_pair.std(axis=0)
    result: Array = (log_odds_pair - log_odds_pair.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return result


def calibrated(score: Array, asked: Array, wrong: Array, weight: Array, rate: float) -> Array:
    r"""Return the probability that each label is wrong, calibrated on the answers.

    .. math:: p_i = \frac{1}{1 + \exp(-(a + b_1 z_{i1} + b_2 z_{i2} + d))}

    - :math:`z_{i1}` and :math:`z_{i2}` are the :func:`features` of sample i.
    - a, :math:`b_1` and :math:`b_2` maximise the log likelihood of the answers less :math:`(b_1^2 + b_2^2) / 20`. An
      answer has the weight N_h / n_h, relative to the mean weight, with N_h samples and n_h answers in its stratum.
      Half a wrong and half a right answer, spread over all answers, are added, as in Platt 1999. A slope below 0 is
      set to 0, so that the probability never falls where the score rises.
    - d shifts the probabilities so that their mean over all samples is ``rate``. Answered samples count as 0 or 1.

    Source: J. Platt, "Probabilistic outputs for support vector machines", 1999. Differs from it: two slopes, weights.

    Args:
        score: Shape ``(N,)``, log odds of the run alone, without NaN.
        asked: Shape ``(n,)``, rows that were answered as right or wrong.
        wrong: Shape ``(n,)``, 1 where the answer was "wrong", else 0.
        weight: Shape ``(n,)``, samples that each answer stands for.
        rate: Estimated fraction of wrong labels.

    Returns:
        Shape ``(N,)``: 0 or 1 for those that were answered.

    Example:
        >>> calibrated(np.zeros(4), np.array([0, 1]), np.array([1, 0]), np.array([2.0, 2.0]), rate=0.5)
        array([1. , 0. , 0.5, 0.5])
    """
    z = features(score)
    column_index = list(range(z.shape[1]))
    slopes = np.zeros(z.shape[1])
    while column_index:
        relative_weight = weight / weight.mean() if len(weight) else weight
        fitted_slopes = _fit(z[asked][:, column_index], wrong, relative_weight, precision=[_SLOPE] * len(column_index))
        if (fitted_slopes >= 0).all():
            slopes[column_index] = fitted_slopes
            break
        del column_index[int(np.argmin(fitted_slopes))]
    log_odds = z @ slopes
    p = np.zeros(len(score))
    p[asked] = wrong
    is_unasked = np.ones(len(score), dtype=np.bool_)
    is_unasked[asked] = False
    if is_unasked.any():
        mean = np.clip((rate * len(score) - wrong.sum()) / is_unasked.sum(), 0, 1)
        log_odds = log_odds[is_unasked]
        p[is_unasked] = probability(log_odds + shifted(log_odds, np.full(len(log_odds), 1 / len(log_odds)), mean))
    return p


def reweighed(score: Array, contrast: Array, share: float, asked: Array, wrong: Array, weight: Array) -> Array:
    r"""Return the scores with the share of the embeddings that the answers of a person speak for.

    Let s be the score of the run, e the score of the embeddings on the same scale, and a the share of the embeddings.
    The score is (1 - a) s + a e, up to a constant. Another share, a', adds (a' - a) times the contrast e - s.

    The log odds that a label is wrong are modelled as :math:`\alpha + b\,z(\text{score}) + c\,z(\text{contrast})`,
    where z has mean 0 and standard deviation 1 over the samples. :math:`\alpha`, b and c are fitted as in
    :func:`calibrated`. The prior of c is a normal distribution around 0 with a standard deviation of 1/2, so that few
    answers change little. With the standard deviations :math:`\sigma`, the new share is

    .. math:: a' = a + \frac{c / \sigma_{\text{contrast}}}{b / \sigma_{\text{score}}},

    but at least 0 and at most 1: neither signal counts against itself.

    Args:
        score: Shape ``(N,)``, log odds by run and embeddings, without NaN.
        contrast: Shape ``(N,)``, e - s.
        share: a, in [0, 1].
        asked: Shape ``(n,)``, rows that were answered as right or wrong.
        wrong: Shape ``(n,)``, 1 where the answer was "wrong", else 0.
        weight: Shape ``(n,)``, samples that each answer stands for.

    Returns:
        Shape ``(N,)``. The scores as they are where the answers do not follow them (b at most 0).

    Example:
        >>> run, embeddings = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])
        >>> score, contrast = (run + embeddings) / 2, embeddings - run  # the share is 1/2
        >>> reweighed(score, contrast, 0.5, np.arange(4), np.array([1, 0, 0, 0]), np.ones(4))  # for neither of them
        array([ 1.,  0.,  0., -1.])
        >>> _, second, third, _ = reweighed(score, contrast, 0.5, np.arange(4), np.array([1, 0, 1, 0]), np.ones(4))
        >>> bool(second < third)  # the answers are as the embeddings say
        True
    """
    signals = np.stack([score, contrast], axis=1)
    spread = signals.std(axis=0)
    if not spread.all() or not len(asked):
        return score
    z = (signals[asked] - signals.mean(axis=0)) / spread
    score_slope, contrast_slope = _fit(z, wrong, weight / weight.mean(), precision=(_SLOPE, _CONTRAST)) / spread
    if score_slope <= 0:
        return score
    result: Array = score + np.clip(contrast_slope / score_slope, -share, 1 - share) * contrast
    return result


def _fit(z: Array, is_wrong: Array, weight: Array, precision: Sequence[float]) -> Array:
    """Return the slopes, given the precision of the normal prior of each; the intercept is fitted as well."""
    x = np.concatenate([np.ones((len(z), 1)), z], axis=1)
    pseudo_answers = _PSEUDO_ANSWERS / max(len(z), 1)
    penalty = np.diag([1e-9, *precision])
    b = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        q = probability(x @ b)
        gradient = x.T @ (weight * (is_wrong - q) + pseudo_answers * (1 - 2 * q)) - penalty @ b
        step = np.linalg.solve((x * ((weight + 2 * pseudo_answers) * q * (1 - q))[:, None]).T @ x + penalty, gradient)
        longest = float(np.abs(step).max())
        b = b + step * min(1.0, _LONGEST_STEP / max(longest, 1e-300))
        if longest < 1e-10:
            break
    slopes: Array = b[1:]
    return slopes
