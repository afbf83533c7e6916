"""From answers to the probability that each label is wrong."""

from dataclasses import replace

import numpy as np

from dynalens.auditing.estimate import shifted
from dynalens.auditing.logistic import AnswerModel, fit_answers
from dynalens.auditing.strata import probability
from dynalens.dynamics import Array

FAR = 7.0
"""Log odds beyond which a score says no more: a thousand to one."""

DEVIATIONS = (0.0, 0.5, 1.0)
"""Standard deviations between classes in log odds: none, and one that multiplies odds by 1.6 or 2.7. Orders and flags
of grids with more of them, or finer ones, are the same within .1 points and 1 % (``docs/results/audits.md``)."""

_DIGITS = 6  # of the log odds; the fit ends where its steps are below 1e-10
_SLOPE = 0.1  # precision of the normal prior of each slope; 0.5 flattens the curve, which costs 6 % of recall
_CONTRAST = 4.0  # precision of the normal prior of the slope of the contrast; from 1 to 16 the orders are alike


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


def answered_log_odds(score: Array, rows: Array, wrong: Array, weight: Array, label: Array | None = None) -> Array:
    r"""Return the log odds that each label is wrong, fitted on the answers, up to a constant.

    With the :func:`features` z of the score and the label y, they are

    .. math:: b_1 z_1 + b_2 z_2 + u_y .

    - b_1 and b_2 say how much the score counts. A slope below 0 is set to 0, so that within a class the log odds never
      fall where the score rises.
    - u_y says how many more labels of class y are wrong than their scores tell. It has a normal prior with mean 0,
      because a class has few answers.

    Nobody knows beforehand how much classes differ. So the result is the mean over three models: each has another
    standard deviation of u (:data:`DEVIATIONS`) and is weighted by its evidence
    (:func:`~dynalens.auditing.logistic.fit_answers`).

    Source: J. Hoeting et al., "Bayesian model averaging: a tutorial", Statistical Science 1999, Section 2.

    Args:
        score: Shape ``(N,)``, log odds of the run alone, without NaN.
        rows: Shape ``(n,)``, rows that were answered as right or wrong.
        wrong: Shape ``(n,)``, 1 where the answer was "wrong", else 0.
        weight: Shape ``(n,)``, samples that each answer stands for.
        label: Shape ``(N,)``, the class of each label, integers from 0. Default: nothing is said of classes.

    Returns:
        Shape ``(N,)``.

    Example:
        >>> classes, rows = np.array([0, 0, 1, 1]), np.array([0, 2])
        >>> same = answered_log_odds(np.zeros(4), rows, np.array([1, 0]), np.array([2.0, 2.0]))
        >>> bool((same == 0).all())  # all scores are alike
        True
        >>> by_class = answered_log_odds(np.zeros(4), rows, np.array([1, 0]), np.array([2.0, 2.0]), classes)
        >>> bool(by_class[1] > 0 > by_class[3])  # the one with the label of the wrong answer is more suspicious
        True
    """
    # Answers that are all alike show no class that differs from the others.
    differs = label is not None and 0 < wrong.sum() < len(wrong)
    z, deviations = features(score), DEVIATIONS if differs else DEVIATIONS[:1]
    classes = np.zeros(len(score), np.int64) if label is None else label
    models = [_rising_model(z[rows], wrong, weight, classes[rows], int(classes.max()) + 1, d) for d in deviations]
    evidence = np.array([model.evidence for model in models])
    shares = np.exp(evidence - evidence.max()) / np.exp(evidence - evidence.max()).sum()
    log_odds = sum(
        share * (z @ model.slopes + model.offsets[classes]) for share, model in zip(shares, models, strict=True)
    )
    # Slopes and offsets that should be 0 have rounding errors, which must not make an order.
    return np.asarray(log_odds).round(_DIGITS)


def _rising_model(z: Array, wrong: Array, weight: Array, label: Array, classes: int, deviation: float) -> AnswerModel:
    """Return the model without the features whose slope would be below 0: their slope is 0."""
    columns = list(range(z.shape[1]))
    while True:
        model = fit_answers(
            z[:, columns],
            wrong,
            weight,
            precision=[_SLOPE] * len(columns),
            label=label,
            classes=classes,
            deviation=deviation,
        )
        if (model.slopes >= 0).all():
            slopes = np.zeros(z.shape[1])
            slopes[columns] = model.slopes
            return replace(model, slopes=slopes)
        del columns[int(np.argmin(model.slopes))]


def calibrated(log_odds: Array, rows: Array, wrong: Array, rate: float) -> Array:
    """Return the probability that each label is wrong, 1 / (1 + exp(-(x + d))) with the log odds x.

    d shifts the mean of all samples, answered ones as they were answered, to ``rate``.

    Args:
        log_odds: Shape ``(N,)``, of :func:`answered_log_odds`.
        rows: Shape ``(n,)``, rows that were answered as right or wrong.
        wrong: Shape ``(n,)``, 1 where the answer was "wrong", else 0.
        rate: Estimated fraction of wrong labels.

    Returns:
        Shape ``(N,)``: 0 or 1 for those that were answered.

    Example:
        >>> calibrated(np.zeros(4), np.array([0, 1]), np.array([1, 0]), rate=0.5)
        array([1. , 0. , 0.5, 0.5])
    """
    p = np.zeros(len(log_odds))
    p[rows] = wrong
    is_open = np.ones(len(log_odds), dtype=np.bool_)
    is_open[rows] = False
    count = int(is_open.sum())
    if count:
        mean = np.clip((rate * len(log_odds) - wrong.sum()) / count, 0, 1)
        open_odds = log_odds[is_open]
        p[is_open] = probability(open_odds + shifted(open_odds, np.full(count, 1 / count), mean))
    return p


def reweighed(score: Array, contrast: Array, share: float, rows: Array, wrong: Array, weight: Array) -> Array:
    r"""Return the scores with the share of the embeddings that the answers of a person speak for.

    Let s be the score of the run, e the score of the embeddings on the same scale, and a the share of the embeddings.
    The score is (1 - a) s + a e, up to a constant. Another share, a', adds (a' - a) times the contrast e - s.

    The log odds that a label is wrong are modelled as :math:`\alpha + b\,z(\text{score}) + c\,z(\text{contrast})`,
    where z has mean 0 and standard deviation 1 over the samples. :math:`\alpha`, b and c are fitted by
    :func:`~dynalens.auditing.logistic.fit_answers`. The prior of c is a normal distribution around 0 with a standard
    deviation of 1/2, so that few answers change little. With the standard deviations :math:`\sigma`, the new share is

    .. math:: a' = a + \frac{c / \sigma_{\text{contrast}}}{b / \sigma_{\text{score}}},

    but at least 0 and at most 1: neither signal counts against itself.

    Args:
        score: Shape ``(N,)``, log odds by run and embeddings, without NaN.
        contrast: Shape ``(N,)``, e - s.
        share: a, in [0, 1].
        rows: Shape ``(n,)``, rows that were answered as right or wrong.
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
    if not spread.all() or not len(rows):
        return score
    z = (signals[rows] - signals.mean(axis=0)) / spread
    score_slope, contrast_slope = fit_answers(z, wrong, weight, precision=(_SLOPE, _CONTRAST)).slopes / spread
    if score_slope <= 0:
        return score
    result: Array = score + np.clip(contrast_slope / score_slope, -share, 1 - share) * contrast
    return result
