"""Which class is given for which: the noise matrix, and what a given label says once it is known."""

import functools
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.evidence import Evidence

_FLOOR = 1e-3  # probability that any class is given for any other, spread over the classes
_STEPS, _FEWEST_STEPS = 10, 3  # of the deconvolution; three are within 0.1 points of average precision of thirty
_COST = 2**32  # products in all steps of all samples, about a second; fewer steps where they would be more
_FITTING = 200  # rounds of Bradley and Terry's iteration
_DIRECTED = 4  # times the part of the disagreement that is one way
_BIAS = 3  # most that a class is named too often, or too rarely
_CHANCE = 2  # standard deviations
_BY_CHANCE, _ITS_SPREAD = 0.108, 0.5  # mean and standard deviation of |z| where that is above two, else 0; z is normal
_DOUBTFUL, _CERTAIN = 2.0, 4.0  # standard deviations between which a sum counts more and more
_FAR = 7.0  # log odds beyond which the probabilities of a few presentations say no more


def noise_matrix(evidence: Evidence) -> Array:
    """Return P(given = j | true = k) as row k, column j: the confident joint (Northcutt et al. 2021), normalised.

    A sample is counted for the class whose mean probability is the largest of those that reach the mean probability
    that the class has among the samples that carry it as label; columns are scaled to the number of given labels.

    Source: Northcutt, Jiang, Chuang, "Confident Learning", JAIR 2021, Section 3.1. https://arxiv.org/abs/1911.00068
    Differs from the source: the probabilities are means over a training run, not out-of-sample, and each entry keeps
    a probability of at least 1e-3 / K, so that no flip is impossible.

    Returns:
        Shape ``(K, K)``, rows sum to 1.
    """
    label, classes = evidence.label, evidence.classes
    given = np.bincount(label, minlength=classes)
    threshold = np.where(given > 0, np.bincount(label, evidence.p_label, classes) / np.maximum(given, 1), np.inf)
    joint = np.zeros((classes, classes))
    for at, p in evidence.blocks():
        reached = np.where(p >= threshold, p, -1)
        counted = reached.max(axis=1) >= 0
        np.add.at(joint, (reached.argmax(axis=1)[counted], label[at][counted]), 1)
    joint *= given / np.maximum(joint.sum(axis=0), 1)
    joint += 1e-9 * np.eye(classes)  # a class that nothing was counted for keeps its own label
    matrix: Array = (1 - _FLOOR) * joint / joint.sum(axis=1, keepdims=True) + _FLOOR / classes
    return matrix


def wrong_log_odds(evidence: Evidence) -> Array:
    r"""Return log P(label wrong) / P(label right) of each sample by Bayes, from its probabilities and its label.

    A network that trains on noisy labels learns P(given | x) = sum_k P(true = k | x) T[k, given] with T the noise
    matrix: the rule of the flips is in its probabilities. P(true | x) is found by expectation maximisation
    (Richardson 1972, Lucy 1974) and P(true = k | x, given = j) is proportional to P(true = k | x) T[k, j].

    Returns:
        Shape ``(N,)``, in [-7, 7].
    """
    matrix = noise_matrix(evidence)
    odds = np.empty(len(evidence))
    steps = int(np.clip(_COST // (len(evidence) * evidence.classes**2), _FEWEST_STEPS, _STEPS))
    matrix = matrix.astype(np.float32)
    for at, p in evidence.blocks():
        label = evidence.label[at]
        true = deconvolved(p.astype(np.float32), matrix, steps) * matrix[:, label].T
        row = np.arange(len(p))
        right = true[row, label].copy()
        true[row, label] = 0
        odds[at] = np.log(true.sum(axis=1) + 1e-12) - np.log(right + 1e-12)
    return np.clip(odds, -_FAR, _FAR)


def deconvolved(p_given: Array, matrix: Array, steps: int = _STEPS) -> Array:
    """Return the probabilities whose product with ``matrix`` is closest to ``p_given``; more steps come closer.

    Example:
        >>> import numpy as np
        >>> flips = np.array([[0.6, 0.4], [0.0, 1.0]])  # 4 in 10 of class 0 are labelled 1
        >>> deconvolved(np.array([[0.6, 0.4], [0.0, 1.0]]), flips).round(1)  # the limit is [[1, 0], [0, 1]]
        array([[0.9, 0.1],
               [0. , 1. ]])
    """
    p_true = p_given + 1e-3
    p_true /= p_true.sum(axis=1, keepdims=True)
    for _ in range(steps):
        p_true = p_true * ((p_given / np.maximum(p_true @ matrix, 1e-9)) @ matrix.T)
        p_true /= p_true.sum(axis=1, keepdims=True)
    return p_true


@dataclass(frozen=True)
class Confusions:
    """Of the samples whose leading class is not their label: how often each label stands for each class.

    Attributes:
        pair: Shape ``(M,)``, leading class * K + label, ascending.
        count: Shape ``(M,)``.
        classes: K.
        labels: How many of the classes are given at all.
    """

    pair: Array
    count: Array
    classes: int
    labels: int

    @classmethod
    def of(cls, leader: Array, label: Array, classes: int) -> "Confusions":
        """Count the samples that disagree."""
        differ = leader != label
        pair, count = np.unique(leader[differ].astype(np.int64) * classes + label[differ], return_counts=True)
        return cls(pair, count, classes, len(np.unique(label)))

    def explained(self) -> float:
        """Return the share, in [0, 1], of the uncertainty about the label that the leading class explains.

        1 - H / log(L - 1) with H the mean of -log P(label | leading class), estimated for each sample from the others
        of its class, and L the number of classes that are given. 0 where flips go anywhere, near 1 where each class has
        its own wrong label.

        Example:
            >>> import numpy as np
            >>> leader, to_next = np.arange(4000) % 4, (np.arange(4000) + 1) % 4
            >>> round(Confusions.of(leader, to_next, 4).explained(), 2)
            1.0
        """
        if self.labels < 3 or not len(self.pair):
            return 0.0
        others = self.labels - 1
        leader = self.pair // self.classes
        total = np.bincount(leader, self.count, self.classes)[leader]
        p = (self.count - 1 + 1 / others) / total
        return max(0.0, 1 + float((self.count * np.log(p)).sum() / self.count.sum() / np.log(others)))

    def expected(self, p: Array, leader: Array) -> Array:
        """Return for each row of ``p`` (n, K) its mean over the labels that stand for the row's leading class."""
        rates = np.full((self.classes, self.classes), 1e-3)
        np.add.at(rates, (self.pair // self.classes, self.pair % self.classes), self.count)
        np.fill_diagonal(rates, 0)
        rates /= rates.sum(axis=1, keepdims=True)
        mean: Array = (p * rates[leader]).sum(axis=1)
        return mean

    @functools.cached_property  # half a second for 1,000 classes; the rate needs it itself and in `one_way`
    def directed(self) -> float:
        """How many disagree one way more often than resemblance explains.

        Two classes that look alike are taken for each other both ways, up to how often each is named at all:
        n(j for k) / n(k for j) = s_k / s_j, quasi-symmetry (Caussinus 1965). s is fitted by Bradley and Terry's (1952)
        iteration, with half a win and half a loss for each class, within a factor of three of the mean: no network
        names a class many times too often. Where one direction of a pair is more than two standard deviations above
        that, the difference counts, twice, as the other direction lacks as many. Chance leaves some such differences of
        pairs that go both ways; the sum fades where it is less than four standard deviations above these, to none at
        two.

        Example:
            >>> import numpy as np
            >>> both_ways = np.repeat([[0, 1], [1, 0]], 50, axis=0)
            >>> Confusions.of(*both_ways.T, 3).directed
            0.0
            >>> round_and_round = np.repeat([[0, 1], [1, 2], [2, 0]], 40, axis=0)
            >>> Confusions.of(*round_and_round.T, 3).directed
            120.0
        """
        leader, label = self.pair // self.classes, self.pair % self.classes
        low, high = np.minimum(leader, label), np.maximum(leader, label)
        _, place = np.unique(low * self.classes + high, return_inverse=True)
        total = np.bincount(place, self.count)
        forward = np.bincount(place, self.count * (leader < label))
        first, second = (np.zeros(len(total), np.int64) for _ in range(2))
        first[place], second[place] = low, high
        named = np.bincount(leader, self.count, self.classes) + 0.5
        strength = np.ones(self.classes)
        for _ in range(_FITTING):
            of_pair = total / (strength[first] + strength[second])
            meetings = np.bincount(first, of_pair, self.classes) + np.bincount(second, of_pair, self.classes)
            strength = named / (meetings + 1 / (strength + 1))
            strength = np.clip(strength / np.exp(np.log(strength).mean()), 1 / _BIAS, _BIAS)
        expected = total * strength[first] / (strength[first] + strength[second])
        beyond = np.abs(forward - expected)
        spread = np.sqrt(np.maximum(expected * (total - expected) / np.maximum(total, 1), 0.25))
        found = float(beyond[beyond > _CHANCE * spread].sum())
        # Of pairs that go both ways, so much is above two standard deviations, with its own standard deviation; not of
        # those that have too few confusions for it.
        spread = spread[np.maximum(expected, total - expected) > _CHANCE * spread]
        by_chance, spread_of_all = _BY_CHANCE * spread.sum(), _ITS_SPREAD * np.sqrt((spread**2).sum())
        certain = (found - by_chance) / max(spread_of_all, 1e-9)
        return 2 * found * float(np.clip((certain - _DOUBTFUL) / (_CERTAIN - _DOUBTFUL), 0, 1))

    def one_way(self) -> float:
        """Return, in [0, 1], how far disagreement follows the flips of a rule: all of it where a quarter is one way.

        Resembling classes are confused where labels are right, too, but both ways.
        """
        return min(1.0, _DIRECTED * self.directed / max(float(self.count.sum()), 1.0))
