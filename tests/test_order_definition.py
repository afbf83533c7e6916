"""The order of suspects, against a slow definition written from the page `docs/numbers.md` alone."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dynalens.dynamics import SampleStatistics, TrainingDynamics
from dynalens.suspicion import assess

Array = npt.NDArray[Any]


def log_odds(v: Array, doubted: Array) -> Array:
    a, b = v[doubted], v[~doubted]
    within = (len(a) * a.var() + len(b) * b.var()) / len(v)
    result: Array = max(0.0, float(a.mean() - b.mean())) / within * (v - v.mean())
    return result


def one_way(leader: Array, y: Array, classes: int) -> float:
    counts = np.zeros((classes, classes))
    np.add.at(counts, (leader, y), 1)
    np.fill_diagonal(counts, 0)
    c = np.ones(classes)
    for _ in range(2000):  # slowly towards the balance
        n = counts * c[:, np.newaxis] / c
        c *= ((n.sum(0) + 0.5) / (n.sum(1) + 0.5)) ** 0.1
        c = np.clip(c, 3**-0.5, 3**0.5)
    n = counts * c[:, np.newaxis] / c
    k, j = np.triu_indices(classes, 1)
    t, d = n[k, j] + n[j, k], n[k, j] - n[j, k]
    chance = 2 * np.sqrt((2 * t * np.maximum(t - 1, 0)).sum())
    return float(np.clip(((d**2 - t).sum() - chance) / (t**2).sum(), 0, 1))


def first_counts(y: Array, r: Array, p: Array, q: Array, leader: Array, classes: int) -> Array:
    number = np.bincount(y, minlength=classes)
    usual = [p[y == k].mean() if number[k] else np.inf for k in range(classes)]
    counts, roots = np.zeros((2, classes, classes))
    for i in range(len(y)):
        reached = [(value, k) for value, k in ((p[i], y[i]), (q[i], r[i])) if k >= 0 and value >= usual[k] - 1e-9]
        if reached:
            counts[max(reached, key=lambda pair: pair[0])[1], y[i]] += 1
        roots[leader[i], y[i]] += 1
    counts += np.sqrt(roots)
    scaled: Array = counts * (number / np.maximum(counts.sum(0), 1))
    return scaled


def class_pairs(y: Array, r: Array, p: Array, q: Array, leader: Array, classes: int) -> Array:
    counts, x, b = first_counts(y, r, p, q, leader, classes), dict[int, Array](), np.zeros((5, len(y)))
    for number in range(5):
        own = counts + 1e-9 * np.eye(classes)  # a class of which nothing is known keeps its label
        rates = 0.999 * own / own.sum(1, keepdims=True) + 0.001 / classes
        counts = np.zeros((classes, classes))
        for i in range(len(y)):
            pair = [y[i], r[i] if r[i] >= 0 else (y[i] + 1) % classes]
            others = [k for k in range(classes) if k not in pair]
            t = np.zeros((3, 3))
            t[:2, :2] = rates[np.ix_(pair, pair)]
            t[2, :2] = rates[np.ix_(others, pair)].mean(0) if others else 0
            t[:, 2] = 1 - t[:, 0] - t[:, 1]
            rival_p = q[i] if r[i] >= 0 else 0.0
            u = max(0.0, 1 - p[i] - rival_p) / classes
            z = np.array([p[i] + u, rival_p + u, (classes - 2) * u])
            x_i = x.get(i, z + 0.001)
            x_i = x_i / x_i.sum()
            for _ in range(3):
                x_i = x_i * (t @ (z / np.maximum(x_i @ t, 1e-9)))  # of two classes, there is no rest
                x_i = x_i / x_i.sum()
            x[i], posterior = x_i, x_i * t[:, 0]
            b[number, i] = np.clip(np.log(posterior[1:].sum()) - np.log(posterior[0]), -np.log(1000), np.log(1000))
            wrong = 1 / (1 + np.exp(-b[number, i]))
            counts[pair[1], y[i]] += wrong
            counts[y[i], y[i]] += 1 - wrong
    mean: Array = b.mean(0)
    return mean


def knowledge(p_leader: Array, classes: int) -> float:
    sureness = (float(p_leader.mean()) - 1 / classes) / (1 - 1 / classes)
    return min(1, max(0, 4 * sureness)) ** 4


def order(m: Array, y: Array, r: Array, p: Array, q: Array, classes: int) -> tuple[Array, float]:
    """Return the score up to a constant, and s."""
    leader = np.where((r >= 0) & (q > p), r, y)
    s = knowledge(np.where(leader == y, p, q), classes) * float(np.clip(16 * one_way(leader, y, classes), 0.2, 1))
    pairs = class_pairs(y, r, p, q, leader, classes)
    return (1 - s) * log_odds(-m, leader != y) + s * log_odds(pairs, leader != y), s


def true_classes(classes: int) -> Array:
    return np.random.default_rng(classes).integers(0, classes, 60 * classes)


def trained(flips: str, classes: int, epochs: int, learning_rate: float = 3.0) -> tuple[SampleStatistics, Array, Array]:
    """Return the record of a linear network on three clusters or more, its logits (E, N, K) and labels (N,)."""
    true, rng = true_classes(classes), np.random.default_rng([classes, 1])
    x = torch.from_numpy(rng.normal(size=(classes, 8))[true] * 1.5 + rng.normal(size=(len(true), 8))).float()
    step = np.ones(len(true), np.int64) if flips == "pair" else rng.integers(1, classes, len(true))
    y = np.where(rng.random(len(true)) < 0.25, (true + step) % classes, true)
    weight = torch.zeros(classes, 8, requires_grad=True)
    dynamics, logits, labels = TrainingDynamics(len(true)), [], torch.from_numpy(y)
    for epoch in range(epochs):
        z = x @ weight.T
        dynamics.update(torch.arange(len(true)), z, labels)
        dynamics.end_epoch(epoch)
        logits.append(z.detach().double().numpy())
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(z, labels), weight)
        weight = (weight - learning_rate * gradient).detach().requires_grad_()
    return dynamics.compute(), np.stack(logits), y


def recorded_by_definition(logits: Array, y: Array) -> dict[str, Array]:
    """Return the weighted means of margin, p and q, and the votes for each class but the label, by their weights."""
    row, p = np.arange(len(y)), np.exp(logits - np.logaddexp.reduce(logits, axis=2, keepdims=True))
    own, others = logits[:, row, y], logits.copy()
    others[:, row, y] = -np.inf
    margins, rivals = own - others.max(2), others.argmax(2)
    errors = (margins <= 0).mean(1)
    q = p[np.arange(len(p))[:, np.newaxis], row, rivals]
    gaps = q - p[:, row, y]
    contradictions = [np.mean(np.maximum(0, gap) ** 2) ** 2 / np.mean(gap**2) if gap.any() else 0 for gap in gaps]
    c = [contradictions[max(np.flatnonzero(errors[: t + 1] == min(errors[: t + 1])))] for t in range(len(errors))]
    g = [0] + [(t + 1) * (min(1, c[t] / c[9]) if t >= 10 else 1) for t in range(1, len(c))]
    w = np.array(g) ** 3 * np.array(c) ** 2
    w /= w.sum()
    return {"m": w @ margins, "p": w @ p[:, row, y], "q": w @ q, "wrong_once": (margins <= 0).any(0)}


@pytest.mark.parametrize(
    ("flips", "classes", "epochs", "learning_rate"),
    [("uniform", 3, 4, 3.0), ("pair", 4, 13, 3.0), ("uniform", 6, 12, 3.0), ("pair", 2, 5, 3.0), ("pair", 6, 6, 0.2)],
)
def test_the_score_is_that_of_the_page(flips: str, classes: int, epochs: int, learning_rate: float) -> None:
    statistics, logits, y = trained(flips, classes, epochs, learning_rate)
    own = recorded_by_definition(logits, y)
    np.testing.assert_allclose(statistics.weighted_margin, own["m"], atol=1e-5)
    np.testing.assert_allclose(statistics.weighted_rival, own["q"], atol=1e-5)
    np.testing.assert_array_equal(statistics.candidate >= 0, own["wrong_once"])
    expected, s = order(own["m"], y, statistics.candidate, own["p"], own["q"], classes)
    score = assess(statistics).score
    np.testing.assert_allclose(score - score.mean(), expected - expected.mean(), atol=0.002 * np.ptp(expected))
    assert (s == 1) == (classes == 4)  # two classes are mistaken for each other both ways
    assert (0.2 < s < 1) == (learning_rate < 1)  # this network does not know its classes well yet


def test_a_network_that_hardly_knows_its_classes_has_the_order_of_its_mean_margins() -> None:
    statistics, logits, y = trained("uniform", 9, 3, learning_rate=0.1)
    row, others, wrong = np.arange(len(y)), logits.copy(), y != true_classes(9)
    others[:, row, y] = -np.inf
    margin = (logits[:, row, y] - others.max(2)).mean(0)
    shares = [wrong[np.argsort(values)[: wrong.sum()]].mean() for values in (-assess(statistics).score, margin)]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    assert shares[1] > 0.8


def test_outputs_of_classes_that_no_sample_has_do_not_turn_the_order_around() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 200)
    y = np.where(rng.random(200) < 0.1, 1 - true, true)
    logits = np.zeros((200, 100))  # the network hardly knows anything, and 98 of its classes do not occur
    logits[np.arange(200), true] = 0.1
    logits += rng.normal(size=logits.shape) * 0.01
    dynamics = TrainingDynamics(200)
    for epoch in range(3):
        dynamics.update(torch.arange(200), torch.from_numpy(logits).float(), torch.from_numpy(y))
        dynamics.end_epoch(epoch)
    score, wrong = assess(dynamics.compute()).score, y != true
    assert score[wrong].min() > score[~wrong].max()


@pytest.mark.parametrize(("flips", "classes", "epochs", "learning_rate"), [("pair", 4, 13, 3.0), ("pair", 6, 6, 0.2)])
def test_the_rate_counts_confusions_only_as_far_as_the_network_knows_its_classes(
    flips: str, classes: int, epochs: int, learning_rate: float
) -> None:
    statistics, logits, y = trained(flips, classes, epochs, learning_rate)
    own = recorded_by_definition(logits, y)
    leader = np.where((statistics.candidate >= 0) & (own["q"] > own["p"]), statistics.candidate, y)
    p_leader, doubted = np.where(leader == y, own["p"], own["q"]), leader != y
    c = doubted.mean()
    f = min(c, doubted[p_leader >= np.quantile(p_leader, 0.95)].mean())
    rule = 4 * one_way(leader, y, classes) * knowledge(p_leader, classes)
    assert (0.01 < rule < 0.5) == (learning_rate < 1)
    assert assess(statistics).noise_rate.value == pytest.approx(f + max(f, min(1, rule)) * (c - f), abs=1e-3)
