"""How likely each label of multi-label samples is as it was given; read without torch, as the order of suspects is."""

import numpy as np

from dynalens.dynamics.statistics import Array


def given_log_odds(margins: Array, given: Array) -> Array:
    r"""Return the log odds that each label is as it was given, by Bayes with two rates of noise for all labels.

        m_k + log(P(given g | predicted g) / P(given g | predicted 1 - g))

    m_k is the margin of label k, g what was given, 1 or 0, and ``predicted`` the sign of the mean logit. Where some of
    the labels are missing, a network is less sure of all that are there, so that their margins are as small as those of
    the missing ones. The second term tells them apart: many labels that are predicted are missing, and hardly any that
    is not predicted was given. It is the noise matrix of Patrini et al., "Making deep neural networks robust to label
    noise", CVPR 2017, counted in the run itself and the same for all labels.

    Args:
        margins: Shape ``(N, K)``, weighted means of the margins.
        given: Shape ``(N, K)``, 1 or 0; labels of -1 are not counted.

    Returns:
        Shape ``(N, K)``, float64.

    Example:
        >>> import numpy as np
        >>> margins = np.array([[2.0], [2.0], [2.0], [-1.0], [3.0]])
        >>> given = np.array([[1], [1], [1], [0], [0]])
        >>> np.exp(given_log_odds(margins, given) - margins).round(6).T  # 3.5 / 5 : .5 / 2 and 1.5 / 2 : 1.5 / 5
        array([[2.8, 2.8, 2.8, 2.5, 2.5]])
    """
    odds = margins.astype(np.float64)
    for g in (0, 1):
        as_predicted, against = (_part_given(g, margins, given, sign) for sign in (1, -1))
        odds[given == g] += np.log(as_predicted) - np.log(against)
    return odds


def _part_given(g: int, margins: Array, given: Array, sign: int) -> float:
    """Return the fraction given as g, of the labels that are predicted as g (sign 1) or not (-1).

    Half a label is added to both sides, so that it is never 0 (Jeffreys' prior).
    """
    is_g, is_other = ((given == g) & (sign * margins > 0)), ((given == 1 - g) & (sign * margins < 0))
    return float((is_g.sum() + 0.5) / (is_g.sum() + is_other.sum() + 1))
