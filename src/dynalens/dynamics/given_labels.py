"""How likely each label of multi-label samples is as it was given; read without torch, as the order of suspects is."""

import numpy as np

from dynalens.dynamics.statistics import Array


def given_log_odds(margins: Array, bits: Array) -> Array:
    r"""Return the log odds that each label is as it was given, by Bayes with two rates of noise for all labels.

        m_k + log(P(given g | predicted g) / P(given g | predicted 1 - g))

    m_k is the margin of label k, g what was given, 1 or 0, and ``predicted`` the sign of the mean logit. Where some of
    the labels are missing, a network is less sure of all that are there, so that their margins are as small as those of
    the missing ones. The second term tells them apart: many labels that are predicted are missing, and hardly any that
    is not predicted was given. It is the noise matrix of Patrini et al., "Making deep neural networks robust to label
    noise", CVPR 2017, counted in the run itself and the same for all labels.

    Args:
        margins: Shape ``(N, K)``, weighted means of the margins.
        bits: Shape ``(N, K)``, 1 or 0; labels of -1 are not counted.

    Returns:
        Shape ``(N, K)``, of the dtype of ``margins``.

    Example:
        >>> import numpy as np
        >>> margins = np.array([[2.0], [2.0], [2.0], [-1.0], [3.0]])
        >>> given = np.array([[1], [1], [1], [0], [0]])
        >>> np.exp(given_log_odds(margins, given) - margins).round(6).T  # 3.5 / 5 : .5 / 2 and 1.5 / 2 : 1.5 / 5
        array([[2.8, 2.8, 2.8, 2.5, 2.5]])
    """
    odds: Array = margins + log_ratios(margins, bits)[bits].astype(margins.dtype)
    return odds


def worst_labels(margins: Array, bits: Array) -> Array:
    """Return the label of each sample with the smallest :func:`given_log_odds`, shape ``(N,)``, int.

    Args:
        margins: Shape ``(N, K)``, weighted means of the margins.
        bits: Shape ``(N, K)``, 1 or 0; labels of -1 are not known and never the worst.
    """
    worst: Array = np.where(bits >= 0, given_log_odds(margins, bits), np.inf).argmin(axis=1)
    return worst


def log_ratios(margins: Array, bits: Array) -> Array:
    """Return log(P(given g | predicted g) / P(given g | predicted 1 - g)) for g = 0 and 1, shape ``(2,)``, float64.

    Half a label is added to both sides of each fraction, so that it is never 0 (Jeffreys' prior).

    Args:
        margins: Shape ``(N, K)``; the sign says whether a label is predicted as it was given.
        bits: Shape ``(N, K)``, 1 or 0; labels of -1 are not counted.
    """
    bit_masks = [bits == g for g in (0, 1)]
    with_it, against_it = ([int((mask & signs).sum()) for mask in bit_masks] for signs in (margins > 0, margins < 0))
    predicted = [_fraction(with_it[g], against_it[1 - g]) for g in (0, 1)]
    other_predicted = [_fraction(against_it[g], with_it[1 - g]) for g in (0, 1)]
    ratios: Array = np.log(predicted) - np.log(other_predicted)
    return ratios


def _fraction(count: int, other_count: int) -> float:
    return (count + 0.5) / (count + other_count + 1)
