"""Which class is given for which: the noise matrix, what a label says by it, and whether flips are a rule."""

import numpy as np

from dynalens.dynamics import Array, given_labels
from dynalens.suspicion.class_pairs import ClassPairs
from dynalens.suspicion.predictions import Predictions

ROUNDS = 5
"""How often the noise matrix is estimated; from 3 to 7 the order is the same within .3 points.

``docs/results/constants.md`` has the curve.
"""

LEAST = 1e-3
"""Probability that any class is given for any other, spread over the classes: no flip is impossible."""

BIAS = 3.0
"""How many times too often, or too rarely, a network may name a class before it counts as a rule of the flips."""

CHANCE = 2.0
"""Standard deviations that chance explains."""

_BALANCING_ROUNDS = 50  # numerical


def confident_rate(predictions: Predictions) -> float:
    """Return the fraction of wrong labels by the confident joint: what it has beside its diagonal, in [0, 1]."""
    pairs = ClassPairs.from_predictions(predictions)
    joint = confident_joint(predictions, pairs)
    return 1 - float(joint[pairs.is_diagonal()].sum() / joint.sum())


def confident_joint(predictions: Predictions, pairs: ClassPairs) -> Array:
    """Return how many samples are of one class and carry another one as label: the confident joint, by pair.

    A sample is counted for the class whose mean probability is the largest of those that reach the mean probability
    that the class has among the samples that carry it as label; the counts of a label are scaled to the number of
    samples that carry it.

    Source: Northcutt, Jiang, Chuang, "Confident Learning", JAIR 2021, Section 3.1. https://arxiv.org/abs/1911.00068
    Differs from the source: the probabilities are means over a training run, not out-of-sample. Each count is raised by
    the square root of how many samples of the label have the other class as leading class: a count c has a standard
    deviation of sqrt(c), and the few samples that are confident may hold none of a pair of classes that does occur.
    Only the label and its rival are looked at.

    Returns:
        Shape ``(P,)``, of the pairs of ``pairs``.
    """
    label, rival, class_count = predictions.label, predictions.rival, predictions.class_count
    label_counts = np.bincount(label, minlength=class_count)
    threshold = np.bincount(label, predictions.p_label, class_count) / np.maximum(label_counts, 1)
    threshold[label_counts == 0] = np.inf
    reaches_label = predictions.p_label >= threshold[label] - 1e-9  # rounding: equal probabilities reach their mean
    reaches_rival = (rival >= 0) & (predictions.p_rival >= threshold[rival] - 1e-9)
    is_rival_true = reaches_rival & ~(reaches_label & (predictions.p_label >= predictions.p_rival))
    is_confident, (right_pair, wrong_pair) = reaches_label | reaches_rival, pairs.pair_index[:, 0]
    joint = pairs.counts(np.where(is_rival_true, wrong_pair, right_pair)[is_confident])
    joint += np.sqrt(pairs.counts(np.where(predictions.leader() == label, right_pair, wrong_pair)))
    joint *= (label_counts / np.maximum(pairs.sum_by_label(joint), 1))[pairs.label]
    return joint


def wrong_log_odds(predictions: Predictions) -> Array:
    r"""Return log P(label wrong) / P(label right) of each sample by Bayes, from its probabilities and its label.

    A network that trains on noisy labels learns P(given | x) = sum_k P(true = k | x) T[k, given] with T the noise
    matrix: the rule of the flips is in its probabilities. P(true | x) is found by :func:`deconvolution`, and
    P(true = k | x, given = j) is proportional to P(true = k | x) T[k, j]. The record knows the probabilities of two
    classes, the label y and its rival r; what is left of 1 is spread evenly over all classes, and the others are taken
    together as a third one, o, whose rates are their means.

    T[k, j] = P(given = j | true = k) is first that of :func:`confident_joint`. The log odds that it gives make the
    next one, as the expected number of samples of each pair of classes (expectation maximisation, Dawid and Skene
    1979). A network that has memorised draws later rounds to its own labels, so that the result is the mean over the
    first rounds.

    Returns:
        Shape ``(N,)``, in [-log 1000, log 1000], since ``LEAST`` is a thousandth.
    """
    p_given = _given_probabilities(predictions)
    p_true = p_given + LEAST
    pairs = ClassPairs.from_predictions(predictions)
    odds_sum = np.zeros(len(predictions))
    joint = confident_joint(predictions, pairs)
    for _ in range(ROUNDS):
        rates = _rates(pairs, joint)
        p_true = deconvolution(p_given, rates, p_true, steps=given_labels.STEPS)
        posterior = p_true * rates[:, 0]
        odds = np.log(posterior[1:].sum(axis=0) + 1e-12) - np.log(posterior[0] + 1e-12)
        odds = np.clip(odds, np.log(LEAST), -np.log(LEAST))  # about as far as LEAST allows
        joint = _expected_counts(pairs, 1 / (1 + np.exp(-odds)))
        odds_sum += odds
    mean_odds: Array = odds_sum / ROUNDS
    return mean_odds


def _given_probabilities(predictions: Predictions) -> Array:
    """Return the probabilities of the label, the rival and all other classes, shape ``(3, N)``, float32."""
    p_rival = np.where(predictions.rival >= 0, predictions.p_rival, 0)
    p_each_other = np.maximum(1 - predictions.p_label - p_rival, 0) / predictions.class_count
    p_given = np.stack(
        [predictions.p_label + p_each_other, p_rival + p_each_other, (predictions.class_count - 2) * p_each_other]
    )
    return p_given.astype(np.float32)


def _expected_counts(pairs: ClassPairs, p_wrong: Array) -> Array:
    """Return the joint of samples whose true class is the rival with probability ``p_wrong``, else the label."""
    right_pair, wrong_pair = pairs.pair_index[:, 0]
    return pairs.counts(right_pair, 1 - p_wrong) + pairs.counts(wrong_pair, p_wrong)


def _rates(pairs: ClassPairs, joint: Array) -> Array:
    """Return P(given = j | true = k) of label, rival and all others as entry k, j of shape ``(3, 3, N)``, float32.

    Each probability of two classes is at least 1e-3 / K, and a class that nothing was counted for keeps its own label.
    """
    class_count, pair_index = pairs.class_count, pairs.pair_index
    joint = joint + 1e-9 * pairs.is_diagonal()
    scaled_counts = joint * ((1 - LEAST) / pairs.sum_by_true_class(joint))[pairs.true_class]
    columns = pairs.sum_by_label(scaled_counts) + LEAST
    # The last one is of pairs that do not occur.
    probabilities = np.append(scaled_counts + LEAST / class_count, LEAST / class_count)
    rates = np.empty((3, 3, pair_index.shape[2]), np.float32)
    rates[:2, :2] = probabilities[pair_index]
    columns_of_pairs = columns[pairs.label]
    for column in (0, 1):
        rest_rate = columns_of_pairs[pair_index[column, column]] - rates[0, column] - rates[1, column]
        rates[2, column] = rest_rate / max(class_count - 2, 1)
    rates[:, 2] = 1 - rates[:, 0] - rates[:, 1]
    return rates


def deconvolution(p_given: Array, rates: Array, start: Array, *, steps: int) -> Array:
    """Return the probabilities of J classes from which ``rates`` make those closest to ``p_given``.

    Source: expectation maximisation, Richardson 1972, Lucy 1974. More steps come closer.

    Args:
        p_given: Shape ``(J, N)``, probabilities of the given labels.
        rates: Shape ``(J, J, N)``, P(given = j | true = k) as entry k, j.
        start: Shape ``(J, N)``, positive, the first probabilities up to a factor for each sample.
        steps: How many steps.

    Example:
        >>> import numpy as np
        >>> flips = np.array([[0.6, 0.4], [0.0, 1.0]])  # 4 in 10 of class 0 are labelled 1
        >>> p_given = np.array([[0.6, 0.0], [0.4, 1.0]])  # of two samples; the limit is [[1, 0], [0, 1]]
        >>> deconvolution(p_given, np.stack([flips, flips], axis=2), np.ones((2, 2)), steps=10).round(1)
        array([[0.9, 0. ],
               [0.1, 1. ]])
    """
    p_true: Array = start / start.sum(axis=0)
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

    over the pairs. Classes that resemble each other are mistaken for each other both ways, up to how often each is
    named at all: n(k, j) / n(j, k) = r_k / r_j, quasi-symmetry (Caussinus 1965). Before the counts are compared,
    :func:`_balanced_counts` takes that out.

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
    is_confused = leader != label
    if not is_confused.any():
        return 0.0
    class_count = int(max(leader.max(), label.max())) + 1
    key, count = np.unique(leader[is_confused].astype(np.int64) * class_count + label[is_confused], return_counts=True)
    row, column = key // class_count, key % class_count
    count = _balanced_counts(row, column, count, class_count)
    pair_key = np.minimum(row, column) * class_count + np.maximum(row, column)
    _, pair_index = np.unique(pair_key, return_inverse=True)
    total = np.bincount(pair_index, count)
    difference = np.bincount(pair_index, np.where(row < column, count, -count))
    excess = (difference**2 - total).sum() - CHANCE * np.sqrt(2 * (total * np.maximum(total - 1, 0)).sum())
    return float(np.clip(excess / (total**2).sum(), 0, 1))


def _balanced_counts(leader: Array, label: Array, count: Array, class_count: int) -> Array:
    """Return the counts scaled by d_leader / d_label so that each class is named as often as it is given.

    Source: balancing of matrices, Osborne 1960. Differs from the source: d stays within a factor of sqrt(3) of 1.
    """
    scale, limit = np.ones(class_count), np.sqrt(BIAS)
    for _ in range(_BALANCING_ROUNDS):
        weights = count * scale[leader] / scale[label]
        leader_weight, label_weight = (
            np.bincount(leader, weights, class_count) + 0.5,
            np.bincount(label, weights, class_count) + 0.5,
        )
        scale = np.clip(scale * (label_weight / leader_weight) ** 0.25, 1 / limit, limit)
    balanced_count: Array = count * scale[leader] / scale[label]
    return balanced_count
