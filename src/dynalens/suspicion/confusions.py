"""Which class is given for which: the noise matrix, what a label says by it, and whether flips are a rule."""

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.predictions import Predictions

STEPS = 10
"""Steps of the deconvolution; from 3 to 30 steps the order is the same within half a point (docs/results.md)."""

LEAST = 1e-3
"""Probability that any class is given for any other, spread over the classes: no flip is impossible."""

FARTHEST = 7.0
"""Largest log odds, a thousand to one: ``LEAST`` allows no more."""

BIAS = 3.0
"""How many times too often, or too rarely, a network may name a class before it counts as a rule of the flips."""

CHANCE = 2.0
"""Standard deviations that chance explains."""

_ROUNDS = 50  # of balancing; numerical


def noise_matrix(predictions: Predictions) -> Array:
    """Return P(given = j | true = k) as row k, column j: the confident joint, normalised.

    A sample is counted for the class whose mean probability is the largest of those that reach the mean probability
    that the class has among the samples that carry it as label; columns are scaled to the number of given labels.

    Source: Northcutt, Jiang, Chuang, "Confident Learning", JAIR 2021, Section 3.1. https://arxiv.org/abs/1911.00068
    Differs from the source: the probabilities are means over a training run, not out-of-sample, and each entry keeps
    a probability of at least 1e-3 / K, so that no flip is impossible. Only the label and its rival are looked at.

    Returns:
        Shape ``(K, K)``, rows sum to 1.
    """
    label, rival, classes = predictions.label, predictions.rival, predictions.classes
    given = np.bincount(label, minlength=classes)
    threshold = np.bincount(label, predictions.p_label, classes) / np.maximum(given, 1)
    threshold[given == 0] = np.inf
    by_label = predictions.p_label >= threshold[label] - 1e-9  # rounding: equal probabilities reach their mean
    by_rival = (rival >= 0) & (predictions.p_rival >= threshold[rival] - 1e-9)
    true = np.where(by_rival & ~(by_label & (predictions.p_label >= predictions.p_rival)), rival, label)
    counted = by_label | by_rival
    joint = np.bincount(true[counted] * classes + label[counted], minlength=classes**2).reshape(classes, classes)
    joint = joint * given / np.maximum(joint.sum(axis=0), 1)
    joint += 1e-9 * np.eye(classes)  # a class that nothing was counted for keeps its own label
    matrix: Array = (1 - LEAST) * joint / joint.sum(axis=1, keepdims=True) + LEAST / classes
    return matrix


def wrong_log_odds(predictions: Predictions) -> Array:
    r"""Return log P(label wrong) / P(label right) of each sample by Bayes, from its probabilities and its label.

    A network that trains on noisy labels learns P(given | x) = sum_k P(true = k | x) T[k, given] with T the noise
    matrix: the rule of the flips is in its probabilities. P(true | x) is found by :func:`deconvolved`, and
    P(true = k | x, given = j) is proportional to P(true = k | x) T[k, j]. The record knows the probabilities of two
    classes, the label y and its rival r; what is left of 1 is spread evenly over all classes, and the others are taken
    together as a third one, o, whose rates are their means.

    Returns:
        Shape ``(N,)``, in [-7, 7].
    """
    p_rival = np.where(predictions.rival >= 0, predictions.p_rival, 0)
    rest = np.maximum(1 - predictions.p_label - p_rival, 0) / predictions.classes
    p_given = np.stack([predictions.p_label + rest, p_rival + rest, (predictions.classes - 2) * rest])
    rates = _rates(predictions)
    true = deconvolved(p_given.astype(np.float32), rates) * rates[:, 0]
    odds: Array = np.log(true[1:].sum(axis=0) + 1e-12) - np.log(true[0] + 1e-12)
    return np.clip(odds, -FARTHEST, FARTHEST)


def _rates(predictions: Predictions) -> Array:
    """Return P(given = j | true = k) of label, rival and all others as entry k, j of shape ``(3, 3, N)``."""
    matrix, y = noise_matrix(predictions), predictions.label
    r = np.where(predictions.rival >= 0, predictions.rival, (y + 1) % predictions.classes)  # any, as good as the others
    of_two = np.stack([[matrix[y, y], matrix[y, r]], [matrix[r, y], matrix[r, r]]])
    of_others = (matrix.sum(axis=0)[np.stack([y, r])] - of_two.sum(axis=0)) / max(predictions.classes - 2, 1)
    rates = np.concatenate([of_two, of_others[None]])
    return np.concatenate([rates, 1 - rates.sum(axis=1, keepdims=True)], axis=1).astype(np.float32)


def deconvolved(p_given: Array, rates: Array, steps: int = STEPS) -> Array:
    """Return the probabilities of J classes from which ``rates`` make those closest to ``p_given``.

    Source: expectation maximisation, Richardson 1972, Lucy 1974. More steps come closer.

    Args:
        p_given: Shape ``(J, N)``, probabilities of the given labels.
        rates: Shape ``(J, J, N)``, P(given = j | true = k) as entry k, j.
        steps: How many steps.

    Example:
        >>> import numpy as np
        >>> flips = np.array([[0.6, 0.4], [0.0, 1.0]])  # 4 in 10 of class 0 are labelled 1
        >>> p_given = np.array([[0.6, 0.0], [0.4, 1.0]])  # of two samples; the limit is [[1, 0], [0, 1]]
        >>> deconvolved(p_given, np.stack([flips, flips], axis=2)).round(1)
        array([[0.9, 0. ],
               [0.1, 1. ]])
    """
    p_true = p_given + LEAST
    p_true /= p_true.sum(axis=0)
    for _ in range(steps):
        ratio = p_given / np.maximum(np.einsum("kn,kjn->jn", p_true, rates), 1e-9)
        p_true *= np.einsum("jn,kjn->kn", ratio, rates)
        p_true /= p_true.sum(axis=0)
    return p_true


def one_way(leader: Array, label: Array) -> float:
    r"""Return, in [0, 1], how far confusions of classes go one way, so that the flips follow a rule.

    With n(k, j) samples of label j whose leading class is k, each pair of classes has t = n(k, j) + n(j, k) confusions
    and a difference of a = n(k, j) - n(j, k). Where confusions go both ways alike, a^2 is t in the mean and a^2 - t
    has the variance 2 t (t - 1). So the part of the confusions that goes one way, beyond chance, is the root of

        A = (sum of a^2 - t, less two standard deviations of it) / sum of t^2

    over the pairs. Classes that resemble each other are mistaken for each
    other both ways, up to how often each is named at all: n(k, j) / n(j, k) = r_k / r_j, quasi-symmetry (Caussinus
    1965). Before, :func:`_balanced` takes that out.

    Args:
        leader: Shape ``(N,)``, the class that the network names.
        label: Shape ``(N,)``, the class that is given.

    Example:
        >>> import numpy as np
        >>> classes = np.arange(300) % 3
        >>> round(one_way(classes, (classes + 1) % 3), 4)  # (3 (100^2 - 100) - 2 sqrt(3 x 2 x 9900)) / 30000
        0.9738
        >>> one_way(classes, (classes + np.arange(300) // 150 + 1) % 3)  # as often the other way
        0.0
    """
    differ = leader != label
    if not differ.any():
        return 0.0
    classes = int(max(leader.max(), label.max())) + 1
    pair, count = np.unique(leader[differ].astype(np.int64) * classes + label[differ], return_counts=True)
    first, second = pair // classes, pair % classes
    count = _balanced(first, second, count, classes)
    _, place = np.unique(np.minimum(first, second) * classes + np.maximum(first, second), return_inverse=True)
    total = np.bincount(place, count)
    difference = np.bincount(place, np.where(first < second, count, -count))
    beyond = (difference**2 - total).sum() - CHANCE * np.sqrt(2 * (total * np.maximum(total - 1, 0)).sum())
    return float(np.clip(beyond / (total**2).sum(), 0, 1))


def _balanced(leader: Array, label: Array, count: Array, classes: int) -> Array:
    """Return the counts scaled by d_leader / d_label so that each class is named as often as it is given.

    Source: balancing of matrices, Osborne 1960. Differs from the source: d stays within sqrt(3) of its mean.
    """
    scale, limit = np.ones(classes), np.sqrt(BIAS)
    for _ in range(_ROUNDS):
        scaled = count * scale[leader] / scale[label]
        named, given = np.bincount(leader, scaled, classes) + 0.5, np.bincount(label, scaled, classes) + 0.5
        scale *= (given / named) ** 0.25
        scale = np.clip(scale / np.exp(np.log(scale).mean()), 1 / limit, limit)
    balanced: Array = count * scale[leader] / scale[label]
    return balanced
