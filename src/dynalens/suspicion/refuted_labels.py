"""How often labels are given that the network rules out: hard samples do not explain it, wrong labels do."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array

_BINS = 200  # of equally many candidates; what tells is in the least probable ones
_RATES = np.concatenate([[0.0], np.geomspace(0.0015, 0.62, 60), np.linspace(0.65, 0.98, 12)])
_HALF = 0.5  # of those above, wrong labels are missing
_FLATTEST = 0.5  # slope; a calibrated network has 1, and without any slope a floor could not be told from the rest
_ROUNDS = 40  # of the fit
_RIDGE = 0.01  # on the fit, so that perfectly separated bins have one
_UNLIKELY = 2.0  # log likelihood below the best one: a 95 % interval of one parameter is 1.92
_REFUTED = 16.0  # most that one epoch may say against a rate: where all labels are repeated, it refutes any
_KEPT = 64  # fits; a thousand epochs of two classes ask for 40, of 5 kB each
_FORGETTING = 0.75  # power of the epoch by which later ones count less: labels that were repeated are memorised


@dataclass(frozen=True)
class Candidates:
    """Classes that a network was asked about in one epoch, in B bins, from the most to the least probable.

    Attributes:
        epoch: Number of the epoch, from 0.
        against: Shape ``(B,)``, mean log odds against the class.
        count: Shape ``(B,)``, candidates: for each presentation its label and one class that is not its label.
        given: Shape ``(B,)``, how many of them are labels.
        classes: Number L of classes that are given as label.
        others: Candidates that are not labels, for each presentation: fewer than one, as it is the label's turn now and
            then, or that of an output that is never a label.
        asked_class: The class asked about; -1 for any.
    """

    epoch: int
    against: Array
    count: Array
    given: Array
    classes: int
    others: float
    asked_class: int = -1

    @property
    def improbable(self) -> float:
        """Presentations at which the class, probably, is not the right one."""
        labels = float(self.given.sum())
        return labels + (float(self.count.sum()) - labels) / self.others

    @property
    def profile(self) -> Array:
        """Log likelihood of each rate; each later epoch's estimate asks for it again, so it is fitted once."""
        columns = (self.against, self.count, self.given)
        return _profile(*(np.asarray(column, np.float64).tobytes() for column in columns))


def candidates(epoch: int, label: Array, p_label: Array, p_other: Array, classes: int) -> list[Candidates]:
    """Return how often classes are the label, by how improbable the network takes them for.

    Of two classes, each is asked about by itself: where flips go one way, only one of them is given without reason.

    Args:
        epoch: Number of the epoch.
        label: Shape ``(M,)``, the label at each presentation.
        p_label: Shape ``(M,)``, its probability.
        p_other: Shape ``(M,)``, probability of another class, all in turn; NaN where none was asked about.
        classes: How many classes are given as label, at least 2.
    """
    if classes > 2:
        every = [_candidates(epoch, p_label, p_other, classes)]
    else:
        every = [
            _candidates(epoch, p_label[label == k], p_other[label != k], classes, int(k)) for k in np.unique(label)
        ]
    return [each for each in every if each.others > 0]


def _candidates(epoch: int, p_label: Array, p_other: Array, classes: int, label: int = -1) -> Candidates:
    has_other = ~np.isnan(p_other)
    others = float(has_other.mean()) if len(has_other) else 0.0
    p_label, p_other = p_label[p_label <= _HALF], p_other[has_other & (p_other <= _HALF)]
    p = np.clip(np.concatenate([p_label, p_other]).astype(np.float64), 1e-7, _HALF)
    if not len(p):
        return Candidates(epoch, p, p, p, classes, others, label)
    order = np.argsort(-p, kind="stable")
    starts = np.unique(np.linspace(0, len(p), _BINS + 1).astype(np.int64)[:-1])
    log_odds = np.log((1 - p) / p)[order]
    count = np.diff(np.append(starts, len(p)))
    label_counts = np.add.reduceat((order < len(p_label)).astype(np.float64), starts)
    return Candidates(epoch, np.add.reduceat(log_odds, starts) / count, count, label_counts, classes, others, label)


def refuted_rate(epochs: Sequence[Candidates]) -> tuple[float, float, float]:
    r"""Return low, best and high fraction of wrong labels among those that the network rules out.

    A class of probability p is the label of a fraction p of the samples, if the network is calibrated; as p vanishes,
    so do hard samples, but not labels that were drawn without a look at the sample. P(given | log odds u against the
    class) = r + (1 - r) / (1 + exp(-a + b u)) with b >= 1/2 has the floor r; candidates with p > 1/2 are left out,
    where wrong labels are missing. At the floor, a fraction e of wrong labels makes as many candidates and leaves
    m (1 - e / (L - 1)) others, with m of them asked about for each presentation and L classes that are given, so that
    e = r m / (1 - r + r m / (L - 1)). Of two classes, e is the mean of both, weighted by how often each is improbable.

    a and b are fitted for each epoch and r for all epochs together, by maximum likelihood; the ends are the first
    rates, each a tenth above the one before, whose profile likelihood is 2 below the best. An epoch t counts
    (t + 1)^-0.75, and all weights sum to 1, since the epochs see the same labels and later ones have memorised them.
    For the same reason no epoch's log likelihood counts further down than 16.

    Flips that follow the classes are learned as a rule, then they are not ruled out and not counted here; nor are
    those of samples that look like another class, to this class.

    Source: the mixture proportion of Blanchard, Lee, Scott, "Semi-supervised novelty detection", JMLR 2010; the fit is
    the three-parameter logistic of item response theory with its guessing parameter, Birnbaum 1968.
    """
    groups = [
        [each for each in epochs if each.asked_class == label]
        for label in sorted({each.asked_class for each in epochs})
    ]
    groups = [group for group in groups if any(len(each.count) > 2 for each in group)]
    if not groups:
        return 0.0, 0.0, 1.0
    share = [sum(each.improbable for each in group) for group in groups]
    low, best, high = np.minimum(
        np.average([_pooled_estimate(group) for group in groups], axis=0, weights=share), 1.0
    ).tolist()
    return low, best, high


def _pooled_estimate(epochs: Sequence[Candidates]) -> tuple[float, float, float]:
    epochs = [each for each in epochs if len(each.count) > 2]
    weight = np.array([(each.epoch + 1.0) ** -_FORGETTING for each in epochs])
    fits = [each.profile for each in epochs]
    evidence = [np.maximum(likelihood - likelihood.max(), -_REFUTED) for likelihood in fits]
    log_likelihood = sum(w * each for w, each in zip(weight / weight.sum(), evidence, strict=True))
    likely = np.flatnonzero(log_likelihood > log_likelihood.max() - _UNLIKELY)
    low, high = max(int(likely[0]) - 1, 0), min(int(likely[-1]) + 1, len(_RATES) - 1)
    r, m = _RATES[[low, int(log_likelihood.argmax()), high]], epochs[0].others
    ends = r * m / (1 - r + r * m / (epochs[0].classes - 1))
    return float(ends[0]), float(ends[1]), float(ends[2])


@functools.lru_cache(_KEPT)
def _profile(*columns: bytes) -> Array:
    """Return the log likelihood of each rate, a and b at their best; Fisher scoring for all rates at once.

    Args:
        *columns: ``against``, ``count`` and ``given`` of :class:`Candidates`, as the bytes of float64.
    """
    against, count, given = map(np.frombuffer, columns)
    mean = np.average(against, weights=count)
    scale = np.sqrt(np.average((against - mean) ** 2, weights=count)) + 1e-9
    u, rate = (against - mean) / scale, _RATES[:, None]
    overall = np.clip(given.sum() / count.sum(), 1e-3, 0.99)
    a, b = np.full(rate.shape, np.log(overall / (1 - overall))), np.ones(rate.shape)
    for _ in range(_ROUNDS):
        p_hard = 1 / (1 + np.exp(-np.clip(a - b * u, -30, 30)))
        p = np.clip(rate + (1 - rate) * p_hard, 1e-9, 1 - 1e-9)
        change = (1 - rate) * p_hard * (1 - p_hard)
        pull = (given - count * p) * change / (p * (1 - p))
        weight = count * change**2 / (p * (1 - p))
        g_a, g_b = pull.sum(1, keepdims=True), -(pull * u).sum(1, keepdims=True) - _RIDGE * b
        aa, bb = weight.sum(1, keepdims=True) + _RIDGE, (weight * u * u).sum(1, keepdims=True) + _RIDGE
        ab = -(weight * u).sum(1, keepdims=True)
        determinant = np.maximum(aa * bb - ab * ab, 1e-12)
        steeper = b + np.clip((aa * g_b - ab * g_a) / determinant, -1, 1)
        flat = steeper < _FLATTEST * scale
        a = a + np.clip(np.where(flat, g_a / aa, (bb * g_a - ab * g_b) / determinant), -1, 1)
        b = np.where(flat, _FLATTEST * scale, steeper)
    p = np.clip(rate + (1 - rate) / (1 + np.exp(-np.clip(a - b * u, -30, 30))), 1e-9, 1 - 1e-9)
    likelihood: Array = (given * np.log(p) + (count - given) * np.log(1 - p)).sum(1)
    return likelihood
