"""How likely each label of multi-label samples is as it was given; read without torch, as the order of suspects is."""

import numpy as np

from dynalens.dynamics.statistics import Array

STEPS = 3
"""Steps from the probabilities of given labels to those of true ones; from 2 to 10 the order of samples with one label
is the same within half a point, and that of samples with several from 1 to 5 (``docs/results/constants.md``)."""


def given_log_odds(margins: Array, bits: Array) -> Array:
    r"""Return the log odds that each label is as it was given, by Bayes with two rates of noise for all labels.

        o   = a_3 + log(R[g, g] / R[h, g])
        a_s = a_(s-1) + log([p R[g, g] / q + (1 - p) R[g, h] / (1 - q)]
                            / [p R[h, g] / q + (1 - p) R[h, h] / (1 - q)]),  a_0 = m
        q   = x R[g, g] + (1 - x) R[h, g],  x = 1 / (1 + exp(-a_(s-1))),  p = 1 / (1 + exp(-m))

    m is the margin of a label, g what was given, 1 or 0, and h the other one. R[k, j] is the fraction of labels that
    were given as j, of those that are predicted as k. A network that trains on wrong labels learns p, the probability
    that g is *given*. x is the probability that g is *true*, and a are its log odds: if g is true with probability x,
    it is given with probability q. Each step brings q closer to p, as
    :func:`~dynalens.suspicion.confusions.deconvolution` does for classes. The last term is Bayes: where some labels are
    missing, many that are predicted were not given, and hardly any that is not predicted was.

    Sources: Patrini et al., "Making deep neural networks robust to label noise", CVPR 2017, for the noise matrix R,
    which is counted in the run itself here and the same for all labels; Richardson 1972 and Lucy 1974 for the steps.

    Args:
        margins: Shape ``(N, K)``, weighted means of the margins.
        bits: Shape ``(N, K)``, 1 or 0; labels of -1 are not counted, and their log odds mean nothing.

    Returns:
        Shape ``(N, K)``, of the dtype of ``margins``.

    Example:
        Label 0 is predicted everywhere, but missing in half of the samples, and nobody has label 1. A network that
        knows this gives label 0 a probability of 1/2, that is, a margin of 0. Where it is missing, the probability that
        this is right is then 1/3, 1/4 and 1/5 after the steps, which are odds of 1/4. A missing label is given as such
        twice as often if nothing is predicted: odds of 1/2. Where label 0 was given, it is right.

        >>> bits = np.array([[1, 0], [0, 0]] * 10**4)
        >>> margins = np.where(bits == 1, [1e-9, 9.0], [-1e-9, 9.0])
        >>> there, missing = np.exp(given_log_odds(margins, bits)[:2, 0])
        >>> round(float(missing), 3), bool(there > 10**4)
        (0.5, True)
    """
    return _log_odds(margins, np.maximum(bits, 0), noise_rates(margins, bits))


def _log_odds(margins: Array, bits: Array, rates: Array) -> Array:
    # P(given g) and P(given h) where g is true, and where it is not; none is 0, nor are sums of them with weights
    g, h, rates = [0, 1], [1, 0], rates.astype(margins.dtype)
    true, false, true_other, false_other = (rates[k, j].take(bits) for k, j in ((g, g), (h, g), (g, h), (h, h)))
    p, odds = _logistic(margins), margins
    for _ in range(STEPS):
        x = _logistic(odds)
        as_given = p / (false + (true - false) * x)
        as_other = (1 - p) / (true_other * x + false_other * (1 - x))
        odds = odds + np.log((as_given * true + as_other * true_other) / (as_given * false + as_other * false_other))
    result: Array = odds + np.log(true / false)
    return result


def worst_labels(margins: Array, bits: Array) -> Array:
    """Return the label of each sample with the smallest :func:`given_log_odds`, shape ``(N,)``, int.

    Args:
        margins: Shape ``(N, K)``, weighted means of the margins.
        bits: Shape ``(N, K)``, 1 or 0; labels of -1 are not known and never the worst.
    """
    # The log odds rise with the margin, unless predictions are worse than chance, so that only the smallest margin of
    # each kind can have the smallest log odds.
    labels = np.stack([np.where(bits == g, margins, np.inf).argmin(axis=1) for g in (0, 1)], axis=1)
    smallest, kinds = np.take_along_axis(margins, labels, 1), np.array([0, 1])
    odds = _log_odds(smallest, np.broadcast_to(kinds, labels.shape), noise_rates(margins, bits))
    has_label = np.take_along_axis(bits, labels, 1) == kinds
    worst: Array = labels[np.arange(len(labels)), np.where(has_label, odds, np.inf).argmin(axis=1)]
    return worst


def noise_rates(margins: Array, bits: Array) -> Array:
    """Return P(given j | predicted k) as entry k, j of shape ``(2, 2)``, float64.

    Half a label is added to both sides of each fraction, so that it is never 0 (Jeffreys' prior).

    Args:
        margins: Shape ``(N, K)``; the sign says whether a label is predicted as it was given.
        bits: Shape ``(N, K)``, 1 or 0; labels of -1 are not counted.

    Example:
        >>> margins, bits = np.array([[2.0], [2.0], [2.0], [-1.0], [3.0]]), np.array([[1], [1], [1], [0], [0]])
        >>> noise_rates(margins, bits)  # four are predicted to be there, and three of them are; one is not there
        array([[0.75, 0.25],
               [0.3 , 0.7 ]])
    """
    signs, is_label = (margins < 0, margins > 0), (bits == 0, bits == 1)
    counts = [[np.count_nonzero(is_label[j] & signs[int(j == k)]) for j in (0, 1)] for k in (0, 1)]
    smoothed = np.array(counts) + 0.5
    rates: Array = smoothed / smoothed.sum(axis=1, keepdims=True)
    return rates


def _logistic(log_odds: Array) -> Array:
    p: Array = 0.5 * (1 + np.tanh(0.5 * log_odds))  # without overflow
    return p
