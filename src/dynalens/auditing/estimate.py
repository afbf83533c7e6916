"""How many labels are wrong, from a stratified sample, with an interval that holds with few answers.

The functions of this file are plain sums over at most 20 strata, a Newton iteration of two unknowns and bisections. A
page in a browser can repeat them as they stand: :func:`stratified_rate`, :func:`curve`, :func:`shifted` and
:func:`interval`.
"""

from dataclasses import dataclass

import numpy as np

from dynalens.auditing.strata import probability
from dynalens.dynamics import Array

Z = 1.959964
"""Of the standard normal distribution, 95 % lie within this."""

_FEW = np.array([0.0, 0.0513, 0.3554, 0.8177])
"""Means of Poisson distributions that give at least k = 0, 1, 2, 3 with a probability of at most 5 %."""

_STEPS, _HALVINGS, _FARTHEST = 50, 60, 40.0  # log odds; exp(-40) is below the rounding of a probability
_LONGEST_STEP = 2.0  # a Newton step that is longer is cut
_SLOPE = 0.25  # weight of the squared slope: a normal prior with a standard deviation of 1.4 log odds for one of x


@dataclass(frozen=True)
class StratifiedRate:
    """What was answered in each of H strata. The answers may be those of many audits at once.

    Attributes:
        size: Shape ``(H,)``, samples N_h.
        asked: Shape ``(..., H)``, answers n_h, at least one.
        wrong: Shape ``(..., H)``, how many of them are "wrong", k_h.
        score: Shape ``(H,)``, mean log odds that a label of the stratum is wrong, from the run alone.
    """

    size: Array
    asked: Array
    wrong: Array
    score: Array


def stratified_rate(strata: StratifiedRate) -> Array:
    """Return the sum over strata of (N_h / N) k_h / n_h, the unbiased estimate of the fraction of wrong labels.

    It is the Horvitz-Thompson estimator (1952) of a stratified random sample (Cochran, *Sampling Techniques*, 1977,
    Section 5.3): whatever the scores are, its mean over all samples that may be drawn is the true fraction.

    Example:
        >>> whole = StratifiedRate(np.array([10, 90]), np.array([2, 3]), np.array([1, 0]), np.array([2.0, -2.0]))
        >>> float(stratified_rate(whole))  # 0.1 * 1/2 + 0.9 * 0/3
        0.05
    """
    rate: Array = (strata.size / strata.size.sum() * (strata.wrong / strata.asked)).sum(axis=-1)
    return rate


def curve(strata: StratifiedRate) -> Array:
    r"""Return the log odds a + b x_h that a label of each stratum is wrong, fitted on the answers (Platt 1999).

    x_h are the scores, with mean 0 and standard deviation 1 over the H strata. a and b maximise

        sum_h [k_h log q_h + (n_h - k_h) log(1 - q_h)] + sum_h [log q_h + log(1 - q_h)] / (2 H) - b^2 / 4,
        q_h = 1 / (1 + exp(-(a + b x_h))),

    with k_h of n_h answers "wrong" in stratum h. The second sum adds half a wrong and half a right answer in all, so
    that the maximum is finite if all answers are alike. The last term makes it finite if the scores separate wrong
    from right answers. If the answers contradict the scores, b is below 0.

    Returns:
        Shape ``(H,)``.

    Example:
        >>> one = StratifiedRate(np.array([9]), np.array([7]), np.array([0]), np.array([0.0]))
        >>> probability(curve(one))  # (0 + 1/2) / (7 + 1)
        array([0.0625])
    """
    spread = strata.score.std()
    x = (strata.score - strata.score.mean()) / (spread if spread > 0 else 1.0)
    b = np.zeros((*np.broadcast_shapes(strata.asked.shape, strata.wrong.shape)[:-1], 1))
    a, pseudo_answers = b, 0.5 / len(x)
    for _ in range(_STEPS):
        q = probability(a + b * x)
        residual = strata.wrong - strata.asked * q + pseudo_answers * (1 - 2 * q)
        weight = (strata.asked + 2 * pseudo_answers) * q * (1 - q) + 1e-12
        down_a, down_b = _sum(residual), _sum(residual * x) - 2 * _SLOPE * b
        aa, ab, bb = _sum(weight), _sum(weight * x), _sum(weight * x**2) + 2 * _SLOPE
        step_a = (bb * down_a - ab * down_b) / (aa * bb - ab * ab)
        step_b = (aa * down_b - ab * down_a) / (aa * bb - ab * ab)
        longest = np.maximum(np.abs(step_a), np.abs(step_b))
        step_scale = _LONGEST_STEP / np.maximum(longest, _LONGEST_STEP)
        a, b = a + step_scale * step_a, b + step_scale * step_b
        if longest.max() < 1e-10:
            break
    line: Array = a + b * x
    return line


def _sum(values: Array) -> Array:
    total: Array = values.sum(axis=-1, keepdims=True)
    return total


def shifted(log_odds: Array, weight: Array, mean: Array) -> Array:
    """Return the number d for which the weighted mean of 1 / (1 + exp(-(log_odds + d))) is ``mean``, by bisection.

    Args:
        log_odds: Shape ``(..., H)``.
        weight: Shape ``(H,)``, with the sum 1.
        mean: Shape ``(...)``, in [0, 1]; for 0 and 1 the answer is -40 and 40.

    Example:
        >>> round(float(shifted(np.zeros(2), np.array([0.5, 0.5]), np.array(0.75))), 4)  # log 3
        1.0986
    """
    low, high = np.full(np.shape(mean), -_FARTHEST), np.full(np.shape(mean), _FARTHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_low = probability(log_odds + middle[..., None]) @ weight < mean
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    shift: Array = np.asarray((low + high) / 2)
    return shift


def interval(strata: StratifiedRate) -> tuple[Array, Array]:
    r"""Return the ends of the 95 % interval of the fraction of wrong labels.

    It is Wilson's interval (1927) for strata. It holds every fraction t that is compatible with the estimate r: r is at
    most 1.96 standard errors away from t, where the standard error is that of the estimate if t were the true fraction:

        (r - t)^2 <= 1.96^2 V(t),
        V(t) = sum_h (N_h / N)^2 (1 - n_h / N_h) N_h / (N_h - 1) q_h(t) (1 - q_h(t)) / n_h,
        q_h(t) = 1 / (1 + exp(-(a + b x_h + d))), with d such that sum_h (N_h / N) q_h(t) = t,

    with N_h samples and n_h answers in stratum h, N samples in all, and a + b x_h from :func:`curve`. If all answers
    agree with the score, a normal interval around r would have no width. Here V(t) is above zero for every t between 0
    and 1. At the ends both sides are equal, and a bisection over d finds them.

    Where few labels are wrong, an estimate from one to three wrong answers is often too high, and so is the lower end.
    With k wrong answers it is therefore at most r m_k / k, where m_k is the mean of the Poisson distribution that gives
    k or more with a probability of 5 %. The upper end is treated alike if there are one to three right answers.

    Labels that were answered are known. So no end is below the fraction of labels with the answer "wrong", or above one
    minus the fraction with the answer "right". If every sample was answered, both ends are r.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927; Yan and Su,
    "Stratified Wilson and Newcombe confidence intervals for multiple binomial proportions", Statistics in
    Biopharmaceutical Research 2010. For few wrong answers: Brown, Cai and DasGupta, "Interval estimation for a binomial
    proportion", Statistical Science 2001, Section 4.1.1. Differs from these: the variance of each stratum under t is
    that of a curve fitted on all answers, as one stratum has too few of its own.

    Example:
        >>> none_wrong = StratifiedRate(np.array([10**9]), np.array([10]), np.array([0]), np.array([0.0]))
        >>> [round(float(end), 4) for end in interval(none_wrong)]  # 0 and, as Wilson's, 1.96^2 / (10 + 1.96^2)
        [0.0, 0.2775]
    """
    weight, rate = strata.size / strata.size.sum(), stratified_rate(strata)
    # A stratum that was answered in full adds no error.
    open_part = (strata.size - strata.asked) / np.maximum(strata.size - 1, 1)
    factor = weight**2 * open_part / strata.asked
    line = curve(strata)
    start = shifted(line, weight, rate)

    def end(outermost: float) -> Array:
        inner, outer = start, np.full(start.shape, outermost)
        for _ in range(_HALVINGS):
            middle = (inner + outer) / 2
            q = probability(line + middle[..., None])
            is_inside = (rate - q @ weight) ** 2 <= Z**2 * (factor * q * (1 - q)).sum(axis=-1)
            inner, outer = np.where(is_inside, middle, inner), np.where(is_inside, outer, middle)
        fraction: Array = probability(line + inner[..., None]) @ weight
        return fraction

    wrong_count, right_count = strata.wrong.sum(axis=-1), (strata.asked - strata.wrong).sum(axis=-1)
    low = np.minimum(end(-_FARTHEST), _least(rate, wrong_count))
    high = np.maximum(end(_FARTHEST), 1 - _least(1 - rate, right_count))
    low = np.where(rate > 0, np.maximum(low, wrong_count / strata.size.sum()), 0.0)
    high = np.where(rate < 1, np.minimum(high, 1 - right_count / strata.size.sum()), 1.0)
    is_exact = ~factor.any(axis=-1)
    return np.where(is_exact, rate, np.minimum(rate, low)), np.where(is_exact, rate, np.maximum(rate, high))


def _least(rate: Array, count: Array) -> Array:
    """Return how low the fraction may be that is estimated from so many answers; the estimate if they are not few."""
    few = np.minimum(count, len(_FEW) - 1).astype(np.int64)
    return np.asarray(np.where(count == few, rate * _FEW[few] / np.maximum(few, 1), rate))
