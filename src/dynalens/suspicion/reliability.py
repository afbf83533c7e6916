"""How often labels disagree with sure predictions: what is left where the network is surest is noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array

_BINS = 200  # of equally many presentations; what tells is in the few surest
_RATES = np.append(0.0, np.geomspace(0.002, 0.6, 30))
_ROUNDS = 40  # of the fit
_RIDGE = 0.01  # on the fit, so that perfectly separated bins have one
_UNLIKELY = 2.0  # log likelihood below the best one: a 95 % interval of one parameter is 1.92
_REFUTED = 16.0  # most that one epoch may say against a rate: where all labels are repeated, it refutes any
_SHARPEST = 0.8  # log of the slope, beyond 1, at which an epoch counts e^-1: a calibrated network has slope 1
_FORGETTING = 0.75  # power of the epoch by which later ones count less: labels that were repeated are memorised


@dataclass(frozen=True)
class Reliability:
    """Predictions of one epoch in B bins, from the least to the most sure.

    Attributes:
        epoch: Number of the epoch, from 0.
        sureness: Shape ``(B,)``, mean log odds of the sureness; see :func:`reliability`.
        count: Shape ``(B,)``, presentations.
        differ: Shape ``(B,)``, how many of them disagree with the label.
    """

    epoch: int
    sureness: Array
    count: Array
    differ: Array


def reliability(epoch: int, p_label: Array, p_rival: Array, classes: int) -> Reliability:
    """Return how often predictions disagree with the label, by how sure they are.

    Sureness is the probability of the predicted class among all classes but one: the label where they differ, since
    training pulls its probability up, and any one of the others, an equal part of what is left, where they agree. With
    two classes nothing would be left to compare; there it is the probability of the predicted class.

    Args:
        epoch: Number of the epoch.
        p_label: Shape ``(M,)``, probability of the label at each presentation.
        p_rival: Shape ``(M,)``, largest probability of another class.
        classes: Number of classes.
    """
    differ = p_rival >= p_label
    predicted = np.where(differ, p_rival, p_label)
    if classes > 2:
        apart = np.where(differ, p_label, (1 - p_label) / (classes - 1))
        predicted = predicted / np.maximum(1 - apart, 1e-9)
    predicted = np.clip(predicted, 1e-4, 1 - 1e-4)
    order = np.argsort(predicted, kind="stable")
    starts = np.unique(np.linspace(0, len(order), _BINS + 1).astype(np.int64)[:-1])
    odds = np.log(predicted / (1 - predicted))[order]
    count = np.diff(np.append(starts, len(order)))
    return Reliability(
        epoch, np.add.reduceat(odds, starts) / count, count, np.add.reduceat(differ[order].astype(float), starts)
    )


def asymptote(epochs: Sequence[Reliability]) -> tuple[float, float, float]:
    r"""Return low, best and high r of P(disagree | sureness u) = r + (1 - r) / (1 + exp(-a + b u)).

    Errors on hard samples vanish where the network is sure, wrong labels do not. a and b are fitted for each epoch and
    r for all epochs together, by maximum likelihood; the ends are the first of 31 rates, each a fifth above the one
    before, whose profile likelihood is 2 below the best. An epoch t counts (t + 1)^-0.75, times exp(-(log b / 0.8)^2)
    where b > 1, and all weights sum to 1, since the epochs see the same labels: later epochs have memorised, and a
    slope far from that of a calibrated network comes from one that does not know yet what it is sure of. For the same
    reason no epoch's log likelihood counts further down than 16.

    Source: the three-parameter logistic of item response theory with its guessing parameter, Birnbaum 1968.
    """
    epochs = [each for each in epochs if len(each.count) > 2]
    if not epochs:
        return 0.0, 0.0, 1.0
    fits = [_profile(each) for each in epochs]
    slope = np.maximum([slopes[likelihood.argmax()] for likelihood, slopes in fits], 1.0)
    number = np.array([each.epoch for each in epochs])
    weight = (number + 1.0) ** -_FORGETTING * np.exp(-((np.log(slope) / _SHARPEST) ** 2))
    weight = weight / weight.sum() if weight.sum() > 0 else np.full(len(fits), 1 / len(fits))
    against = [np.maximum(likelihood - likelihood.max(), -_REFUTED) for likelihood, _ in fits]
    pooled = sum(w * each for w, each in zip(weight, against, strict=True))
    likely = np.flatnonzero(pooled > pooled.max() - _UNLIKELY)
    low, high = max(int(likely[0]) - 1, 0), min(int(likely[-1]) + 1, len(_RATES) - 1)
    return float(_RATES[low]), float(_RATES[pooled.argmax()]), float(_RATES[high])


def _profile(bins: Reliability) -> tuple[Array, Array]:
    """Return the log likelihood of each rate, a and b at their best, and b; Fisher scoring for all rates at once."""
    mean = np.average(bins.sureness, weights=bins.count)
    scale = np.sqrt(np.average((bins.sureness - mean) ** 2, weights=bins.count)) + 1e-9
    u, rate = (bins.sureness - mean) / scale, _RATES[:, None]
    overall = np.clip(bins.differ.sum() / bins.count.sum(), 1e-3, 0.99)
    a, b = np.full(rate.shape, np.log(overall / (1 - overall))), np.ones(rate.shape)
    for _ in range(_ROUNDS):
        rest = 1 / (1 + np.exp(-np.clip(a - b * u, -30, 30)))
        p = np.clip(rate + (1 - rate) * rest, 1e-9, 1 - 1e-9)
        change = (1 - rate) * rest * (1 - rest)
        pull = (bins.differ - bins.count * p) * change / (p * (1 - p))
        weight = bins.count * change**2 / (p * (1 - p))
        g_a, g_b = pull.sum(1, keepdims=True), -(pull * u).sum(1, keepdims=True) - _RIDGE * b
        aa, bb = weight.sum(1, keepdims=True) + _RIDGE, (weight * u * u).sum(1, keepdims=True) + _RIDGE
        ab = -(weight * u).sum(1, keepdims=True)
        determinant = np.maximum(aa * bb - ab * ab, 1e-12)
        a = a + np.clip((bb * g_a - ab * g_b) / determinant, -1, 1)
        b = b + np.clip((aa * g_b - ab * g_a) / determinant, -1, 1)
    p = np.clip(rate + (1 - rate) / (1 + np.exp(-np.clip(a - b * u, -30, 30))), 1e-9, 1 - 1e-9)
    likelihood = (bins.differ * np.log(p) + (bins.count - bins.differ) * np.log(1 - p)).sum(1)
    return likelihood, b[:, 0] / scale
