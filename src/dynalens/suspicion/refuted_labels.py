"""How often labels are given that the network rules out: hard samples do not explain it, wrong labels do."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array

_BINS = 200  # of equally many candidates; what tells is in the least probable ones
_RATES = np.concatenate([[0.0], np.geomspace(0.0015, 0.62, 60), np.linspace(0.65, 0.98, 12)])
_LARGEST_P = 0.5  # of those above, wrong labels are missing
_LEAST_SLOPE = 0.5  # of b; a calibrated network has 1, and without any slope a floor could not be told from the rest
_ROUNDS = 40  # of the fit
_RIDGE = 0.01  # on the fit, so that perfectly separated bins have one
_LIKELIHOOD_DROP = 2.0  # log likelihood below the best one: a 95 % interval of one parameter is 1.92
_LARGEST_EVIDENCE = 16.0  # most that one epoch may say against a rate: where all labels are repeated, it refutes any
_CACHED_FITS = 64  # fits; a thousand epochs of two classes ask for 40, of 5 kB each
_EPOCH_POWER = 0.75  # power of the epoch by which later ones count less: labels that were repeated are memorised


@dataclass(frozen=True)
class CandidateBins:
    """Classes that a network was asked about in one epoch, in B bins, from the most to the least probable.

    Attributes:
        epoch: Number of the epoch, from 0.
        log_odds_against: Shape ``(B,)``, mean log odds against the class.
        count: Shape ``(B,)``, candidates: for each presentation its label and one class that is not its label.
        label_count: Shape ``(B,)``, how many of them are labels.
        class_count: Number L of classes that are given as label.
        others_per_presentation: Candidates that are not labels, for each presentation. They are fewer than one, as it
            is the label's turn now and then, or that of an output that is never a label.
        asked_class: The class asked about; -1 for any.
    """

    epoch: int
    log_odds_against: Array
    count: Array
    label_count: Array
    class_count: int
    others_per_presentation: float
    asked_class: int = -1

    @property
    def improbable_count(self) -> float:
        """Presentations at which the class, probably, is not the right one."""
        labels = float(self.label_count.sum())
        return labels + (float(self.count.sum()) - labels) / self.others_per_presentation

    @property
    def profile_likelihood(self) -> Array:
        """Log likelihood of each rate; each later epoch's estimate asks for it again, so it is fitted once."""
        columns = (self.log_odds_against, self.count, self.label_count)
        return _profile(*(np.asarray(column, np.float64).tobytes() for column in columns))


def count_candidates(epoch: int, label: Array, p_label: Array, p_other: Array, class_count: int) -> list[CandidateBins]:
    """Return how often classes are the label, by how improbable the network takes them for.

    Of two classes, each is asked about by itself: where flips go one way, only one of them is given without reason.

    Args:
        epoch: Number of the epoch.
        label: Shape ``(M,)``, the label at each presentation.
        p_label: Shape ``(M,)``, its probability.
        p_other: Shape ``(M,)``, probability of another class, all in turn; NaN where none was asked about.
        class_count: How many classes are given as label, at least 2.
    """
    if class_count > 2:
        counts = [_count_in_bins(epoch, p_label, p_other, class_count)]
    else:
        counts = [
            _count_in_bins(epoch, p_label[label == k], p_other[label != k], class_count, int(k))
            for k in np.unique(label)
        ]
    return [bins for bins in counts if bins.others_per_presentation > 0]


def _count_in_bins(
    epoch: int, p_label: Array, p_other: Array, class_count: int, asked_class: int = -1
) -> CandidateBins:
    has_other = ~np.isnan(p_other)
    other_share = float(has_other.mean()) if len(has_other) else 0.0
    p_label, p_other = p_label[p_label <= _LARGEST_P], p_other[has_other & (p_other <= _LARGEST_P)]
    p = np.clip(np.concatenate([p_label, p_other]).astype(np.float64), 1e-7, _LARGEST_P)
    if not len(p):
        return CandidateBins(epoch, p, p, p, class_count, other_share, asked_class)
    order = np.argsort(-p, kind="stable")
    bin_begin = np.unique(np.linspace(0, len(p), _BINS + 1).astype(np.int64)[:-1])
    count = np.diff(np.append(bin_begin, len(p)))
    log_odds = np.add.reduceat(np.log((1 - p) / p)[order], bin_begin) / count
    label_count = np.add.reduceat((order < len(p_label)).astype(np.float64), bin_begin)
    return CandidateBins(epoch, log_odds, count, label_count, class_count, other_share, asked_class)


def refuted_rate(candidates: Sequence[CandidateBins]) -> tuple[float, float, float]:
    r"""Return low, best and high fraction of wrong labels among those that the network rules out.

    If a network is calibrated, a class of probability p is the label of a fraction p of the samples. As p vanishes, so
    do hard samples, but not labels that were drawn without a look at the sample. So the probability that a class is
    the label, given the log odds u against the class, has a floor r:

        P(label | u) = r + (1 - r) / (1 + exp(-a + b u)), b >= 1/2

    Candidates with p > 1/2 are left out, because wrong labels are missing there. At the floor, a fraction e of wrong
    labels makes as many candidates. It leaves m (1 - e / (L - 1)) others, where m of them are asked about for each
    presentation and L is the number of classes that are given. So e = r m / (1 - r + r m / (L - 1)). Of two classes, e
    is the mean of both, weighted by how often each is improbable.

    a and b are fitted for each epoch and r for all epochs together, by maximum likelihood. The rates that are tried
    are each a tenth above the one before. The bounds are the first ones whose profile likelihood is 2 below the best.
    An epoch t has the weight (t + 1)^-0.75, and all weights sum to 1, since the epochs see the same labels and later
    ones have memorised them. For the same reason no epoch's log likelihood counts further down than 16.

    Flips that follow the classes are learned as a rule. Then they are not ruled out and not counted here. Neither are
    flips of samples that look like another class to this class.

    Source: the mixture proportion of Blanchard, Lee, Scott, "Semi-supervised novelty detection", JMLR 2010; the fit is
    the three-parameter logistic of item response theory with its guessing parameter, Birnbaum 1968.
    """
    groups = [
        [bins for bins in candidates if bins.asked_class == asked_class]
        for asked_class in sorted({bins.asked_class for bins in candidates})
    ]
    groups = [group for group in groups if any(len(bins.count) > 2 for bins in group)]
    if not groups:
        return 0.0, 0.0, 1.0
    improbable_counts = [sum(bins.improbable_count for bins in group) for group in groups]
    estimates = np.average([_pooled_estimate(group) for group in groups], axis=0, weights=improbable_counts)
    low, best, high = np.minimum(estimates, 1.0).tolist()
    return low, best, high


def _pooled_estimate(candidates: Sequence[CandidateBins]) -> tuple[float, float, float]:
    candidates = [bins for bins in candidates if len(bins.count) > 2]
    weight = np.array([(bins.epoch + 1.0) ** -_EPOCH_POWER for bins in candidates])
    likelihoods = [bins.profile_likelihood for bins in candidates]
    evidence = [np.maximum(likelihood - likelihood.max(), -_LARGEST_EVIDENCE) for likelihood in likelihoods]
    log_likelihood = sum(w * values for w, values in zip(weight / weight.sum(), evidence, strict=True))
    likely_index = np.flatnonzero(log_likelihood > log_likelihood.max() - _LIKELIHOOD_DROP)
    low, high = max(int(likely_index[0]) - 1, 0), min(int(likely_index[-1]) + 1, len(_RATES) - 1)
    r, m = _RATES[[low, int(log_likelihood.argmax()), high]], candidates[0].others_per_presentation
    rates = r * m / (1 - r + r * m / (candidates[0].class_count - 1))
    return float(rates[0]), float(rates[1]), float(rates[2])


@functools.lru_cache(_CACHED_FITS)
def _profile(*columns: bytes) -> Array:
    """Return the log likelihood of each rate, a and b at their best; Fisher scoring for all rates at once.

    Args:
        *columns: ``log_odds_against``, ``count`` and ``label_count`` of :class:`CandidateBins`, as bytes of float64.
    """
    log_odds_against, count, label_count = map(np.frombuffer, columns)
    mean = np.average(log_odds_against, weights=count)
    scale = np.sqrt(np.average((log_odds_against - mean) ** 2, weights=count)) + 1e-9
    u, rate = (log_odds_against - mean) / scale, _RATES[:, None]
    label_share = np.clip(label_count.sum() / count.sum(), 1e-3, 0.99)
    a, b = np.full(rate.shape, np.log(label_share / (1 - label_share))), np.ones(rate.shape)
    for _ in range(_ROUNDS):
        p_hard = 1 / (1 + np.exp(-np.clip(a - b * u, -30, 30)))
        p = np.clip(rate + (1 - rate) * p_hard, 1e-9, 1 - 1e-9)
        derivative = (1 - rate) * p_hard * (1 - p_hard)
        logit_gradient = (label_count - count * p) * derivative / (p * (1 - p))
        weight = count * derivative**2 / (p * (1 - p))
        g_a, g_b = logit_gradient.sum(1, keepdims=True), -(logit_gradient * u).sum(1, keepdims=True) - _RIDGE * b
        aa, bb = weight.sum(1, keepdims=True) + _RIDGE, (weight * u * u).sum(1, keepdims=True) + _RIDGE
        ab = -(weight * u).sum(1, keepdims=True)
        determinant = np.maximum(aa * bb - ab * ab, 1e-12)
        new_b = b + np.clip((aa * g_b - ab * g_a) / determinant, -1, 1)
        is_flat = new_b < _LEAST_SLOPE * scale
        a = a + np.clip(np.where(is_flat, g_a / aa, (bb * g_a - ab * g_b) / determinant), -1, 1)
        b = np.where(is_flat, _LEAST_SLOPE * scale, new_b)
    p = np.clip(rate + (1 - rate) / (1 + np.exp(-np.clip(a - b * u, -30, 30))), 1e-9, 1 - 1e-9)
    likelihood: Array = (label_count * np.log(p) + (count - label_count) * np.log(1 - p)).sum(1)
    return likelihood
