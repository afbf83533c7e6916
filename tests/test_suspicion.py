"""Scores equal their definitions, flips are found in each regime, and the estimates are near what is true."""

import itertools
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynalens.dynamics import Array, SampleStatistics, TrainingDynamics
from dynalens.dynamics.statistics import HISTORY
from dynalens.suspicion import (
    Assessment,
    assess,
    clean_indices,
    compared,
    flagged,
    noise,
    ranking,
    rate,
    samples_table,
    suspects,
    weights,
)
from dynalens.suspicion.course import Votes, read_course
from dynalens.suspicion.evidence import Evidence, weighted
from dynalens.suspicion.floor import candidates, floor
from dynalens.suspicion.noise import Confusions, deconvolved, noise_matrix, wrong_log_odds
from dynalens.suspicion.ranking import discriminant, log_odds_offset, probability, shrunk
from dynalens.suspicion.rate import estimate_noise_rate
from dynalens.suspicion.scores import named_scores

History = list[dict[str, Array]]


def simulated(
    given: Array, true: Array, *, epochs: int = 8, clarity: float = 4.0, memorised_after: int = 99, seed: int = 0
) -> tuple[SampleStatistics, History]:
    """A network that sees the true class better and better and, after some epochs, repeats the given label."""
    rng = np.random.default_rng(seed)
    n, classes = len(true), int(true.max()) + 1
    dynamics, history = TrainingDynamics(n), []
    for epoch in range(epochs):
        logits = rng.normal(size=(n, classes))
        logits[np.arange(n), true] += clarity * min(1.0, (epoch + 1) / 3)
        if epoch >= memorised_after:
            logits[np.arange(n), given] = clarity * 2 + rng.normal(size=n)
        order = rng.permutation(n)
        dynamics.update(torch.from_numpy(order), torch.from_numpy(logits[order]), torch.from_numpy(given[order]))
        history.append(dynamics.end_epoch(epoch).presentations())
    return dynamics.compute(), history


def flips(n: int, classes: int, rate: float, *, pair: bool, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    given = true.copy()
    chosen = rng.permutation(n)[: round(rate * n)]
    given[chosen] = (true[chosen] + (1 if pair else rng.integers(1, classes, len(chosen)))) % classes
    return given, true


def average_precision(wrong: Array, score: Array) -> float:
    found = wrong[np.argsort(-score)]
    return float((np.cumsum(found) / np.arange(1, len(found) + 1))[found].mean())


# --- the course of a run ---

PRESENTATION = st.tuples(st.integers(0, 3), st.floats(0.01, 0.98), st.floats(-3, 3), st.integers(0, 2))
LABELS = np.array([0, 1, 2, 0])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(PRESENTATION, min_size=1, max_size=6), min_size=1, max_size=24))
def test_the_course_equals_means_over_its_presentations(run: list[list[tuple[int, float, float, int]]]) -> None:
    history = [
        {name: np.array(values) for name, values in zip(HISTORY[:4], zip(*epoch, strict=True), strict=True)}
        for epoch in run
    ]
    course = read_course(LABELS, history)
    assert course is not None
    bounds = [at for at in [0, 1, 2, 3, 4, 6, 8, 12, 16] if at < len(run)] + [len(run)]
    periods = [[row for epoch in run[a:b] for row in epoch] for a, b in pairwise(bounds)]
    assert len(course.margin) == len(periods)
    for number, period in enumerate(periods):
        for i in range(4):
            rows = [row for row in period if row[0] == i]
            expected = np.mean([m for _, _, m, _ in rows]) if rows else np.nan
            np.testing.assert_allclose(course.margin[number, i], expected)
            rivals = [min(p * np.exp(-m), 1 - p) for _, p, m, _ in rows]
            np.testing.assert_allclose(course.p_rival[number, i], np.mean(rivals) if rows else np.nan)
            votes = course.votes[number]
            shares = dict(zip(votes.predicted[votes.sample == i], votes.share[votes.sample == i], strict=True))
            counted = Counter(k for _, _, _, k in rows if k != LABELS[i])
            assert shares == pytest.approx({k: count / len(rows) for k, count in counted.items()})
    for i in range(4):
        rows = [row for epoch in run for row in epoch if row[0] == i]
        wrong = [k for _, _, _, k in rows if k != LABELS[i]]
        best = max(wrong, key=lambda k: (wrong.count(k), len(wrong) - wrong[::-1].index(k)), default=-1)
        assert course.suggested[i] == best
        if wrong:
            assert course.agreement[i] == pytest.approx(wrong.count(best) / len(rows))


def test_among_equally_frequent_suggestions_the_most_recent_wins() -> None:
    one = {"index": np.array([0]), "p_label": np.array([0.2]), "margin": np.array([-1.0])}
    for order in ([1, 2], [2, 1]):
        course = read_course(np.array([0]), [{**one, "predicted": np.array([k])} for k in order])
        assert course is not None
        assert course.suggested.tolist() == [order[-1]]


def test_a_period_without_the_sample_does_not_count_for_it() -> None:
    epochs = [([0, 1], [2.0, -4.0]), ([0], [6.0])]
    history = [
        {
            "index": np.array(i),
            "p_label": np.full(len(i), 0.5),
            "margin": np.array(m),
            "predicted": np.zeros(len(i), int),
        }
        for i, m in epochs
    ]
    course = read_course(np.array([0, 1]), history)
    assert course is not None
    assert weighted(course, np.array([1.0, 3.0])).margin.tolist() == [5.0, -4.0]
    # Sample 1 was 3 below the first period's mean of -1, so 3 below the second's, 6.
    np.testing.assert_allclose(course.filled_margin(), [[2, -4], [6, 3]])


# --- class pairs ---


def evidence(label: list[int], p: list[list[float]]) -> Evidence:
    """Votes carry all that is not on the label."""
    y, table = np.array(label), np.array(p)
    sample, predicted = np.nonzero((np.arange(table.shape[1]) != y[:, None]) & (table > 0))
    votes = Votes(sample, predicted, table[sample, predicted], table[sample, predicted])
    p_label = table[np.arange(len(y)), y]
    zero = np.zeros(len(y))
    return Evidence(y, table.shape[1], zero, p_label, zero, p_label, votes)


def test_blocks_give_the_probabilities_back() -> None:
    p = [[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]
    ((at, found),) = evidence([0, 2], p).blocks()
    assert (at.start, at.stop) == (0, 2)
    np.testing.assert_allclose(found, p)


def test_the_noise_matrix_by_hand() -> None:
    # Thresholds: class 0: (0.9 + 0.7) / 2 = 0.8, class 1: (0.8 + 0.2) / 2 = 0.5. Counted as true 0: samples 0 and 3
    # (0.8 of class 0, labelled 1), as true 1: sample 2; sample 1 reaches neither.
    found = noise_matrix(evidence([0, 0, 1, 1], [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.8, 0.2]]))
    # Columns scaled to the two labels of each class: [[2, 1], [0, 1]], rows normalised, a floor of 0.001 spread.
    np.testing.assert_allclose(found, [[0.999 * 2 / 3 + 0.0005, 0.999 / 3 + 0.0005], [0.0005, 0.9995]], atol=1e-6)


def test_deconvolution_inverts_a_noise_matrix() -> None:
    matrix = np.array([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])
    true = np.array([[0.98, 0.01, 0.01], [0.1, 0.8, 0.1]])
    np.testing.assert_allclose(deconvolved(true @ matrix, matrix), true, atol=0.06)


def test_fewer_steps_of_deconvolution_where_it_is_dear_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(4, 0.5), 400)
    views = evidence(rng.integers(0, 4, 400).tolist(), p.tolist())
    full = wrong_log_odds(views)
    monkeypatch.setattr(noise, "_COST", 1)
    fewer = wrong_log_odds(views)
    assert (fewer != full).any()
    assert (
        np.corrcoef(full.argsort().argsort(), fewer.argsort().argsort())[0, 1] > 0.9
    )  # one that differed in kind would be near 0


def test_a_rule_of_flips_that_was_learned_is_seen_through() -> None:
    # 4 in 10 of each class carry the next class's label, and the network has learned exactly that.
    n, true = 10, np.repeat([0, 1, 2], 10)
    given = np.where(np.tile(np.arange(n) < 4, 3), (true + 1) % 3, true)
    learned = np.array([[0.6, 0.4, 0.0], [0.0, 0.6, 0.4], [0.4, 0.0, 0.6]])[true]
    odds = wrong_log_odds(evidence(given.tolist(), learned.tolist()))
    assert odds[given != true].min() > 2
    assert odds[given == true].max() < -2
    # The margin cannot: 0.4 - 0.6 and 0.6 - 0.4 where three equally certain classes would give the same.
    assert (learned[np.arange(30), given] > 0.3).all()


def test_structure_is_none_for_uniform_flips_and_all_for_pairs() -> None:
    rng = np.random.default_rng(0)
    leader = rng.integers(0, 10, 5000)
    uniform = (leader + rng.integers(1, 10, 5000)) % 10
    assert Confusions.of(leader, uniform, 10).explained() == pytest.approx(0, abs=0.01)
    assert Confusions.of(leader, (leader + 1) % 10, 10).explained() == pytest.approx(1, abs=0.01)
    assert Confusions.of(leader, leader, 10).explained() == 0.0
    # Each label seen once tells nothing of the others.
    assert Confusions.of(np.arange(10), (np.arange(10) + 1) % 10, 10).explained() == pytest.approx(0, abs=1e-9)


def test_confusions_that_resemblance_explains_are_not_directed() -> None:
    # Class 0 is named twice as often as the others it resembles: 40 for 20 between it and each of them, 20 for 20 else.
    leader = np.repeat([0, 1, 0, 2, 1, 2], [40, 20, 40, 20, 20, 20])
    label = np.repeat([1, 0, 2, 0, 2, 1], [40, 20, 40, 20, 20, 20])
    assert Confusions.of(leader, label, 3).directed == 0.0


def test_a_class_is_named_too_often_by_a_bounded_factor() -> None:
    # 100 of class 0 are labelled 1, none the other way: at most 3 / (3 + 1 / 3) of them are expected there.
    assert Confusions.of(np.zeros(100, int), np.ones(100, int), 2).directed == pytest.approx(2 * (100 - 90))


def confusions(classes: int, forward: dict[tuple[int, int], int], each: int) -> Confusions:
    """Return confusions of all pairs, ``each`` both ways together, half of them forward where nothing else is said."""
    found = []
    for i, j in itertools.combinations(range(classes), 2):
        n = forward.get((i, j), each - forward[j, i] if (j, i) in forward else each // 2)
        found += [(i, j)] * n + [(j, i)] * (each - n)
    leader, label = np.array(found).T
    return Confusions.of(leader, label, classes)


def test_what_chance_leaves_of_confusions_is_not_directed() -> None:
    # Three pairs of 36 go round and round: 20 of 100 beyond 50, four standard deviations, 60 in all. Of 36 pairs chance
    # leaves 36 x 5 x .108 = 19.44 with a standard deviation of 6 x 5 x .5: 60 is 2.704 of them above, (2.704 - 2) / 2.
    assert confusions(9, {(0, 1): 70, (1, 2): 70, (2, 0): 70}, 100).directed == pytest.approx(2 * 60 * 0.352, rel=1e-3)
    assert confusions(9, {(0, 1): 62, (1, 2): 62, (2, 0): 62}, 100).directed == 0.0  # 36: 1.1 above
    assert confusions(3, {(0, 1): 62, (1, 2): 62, (2, 0): 62}, 100).directed == pytest.approx(2 * 36)  # of 3 pairs: 7.9
    # Fewer than five confusions of a pair are never two deviations off: here 4,950 pairs have two, both ways.
    few = confusions(100, {(0, 1): 30, (1, 2): 30, (2, 0): 30}, 2)
    assert few.directed == pytest.approx(2 * 3 * 15, rel=0.2)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(50):
        both_ways = {pair: int(rng.binomial(28, 0.5)) for pair in itertools.combinations(range(10), 2)}
        found.append(confusions(10, both_ways, 28).directed)
    assert np.mean(np.array(found) > 0) < 0.2


def test_structure_is_what_goes_one_way() -> None:
    true = np.arange(240) % 4
    for label, structure in (((true + 1) % 4, 1.0), (true ^ 1, 0.0)):
        given = np.where(np.arange(240) < 60, label, true)
        found = evidence(given.tolist(), np.eye(4)[true].tolist())
        assert ranking._structure(found) == structure
        assert ranking._structure(found, first=True) == 1.0


@pytest.mark.parametrize("classes", [4, 10, 100])
def test_flips_to_the_next_class_are_directed_among_any_confusions(classes: int) -> None:
    rng = np.random.default_rng(0)
    leader = rng.integers(0, classes, 20000)
    label = (leader + rng.integers(1, classes, len(leader))) % classes  # any other class
    flipped = rng.integers(0, classes, 4000)
    assert Confusions.of(leader, label, classes).directed < 0.1 * len(leader)
    both = np.append(leader, flipped), np.append(label, (flipped + 1) % classes)
    chance = Confusions.of(leader, label, classes).directed
    assert Confusions.of(*both, classes).directed - chance == pytest.approx(4000, rel=0.2)


# --- labels that the network rules out ---


def test_candidates_are_sorted_by_what_speaks_against_them() -> None:
    (found,) = candidates(3, np.array([0, 1]), np.array([0.5, 0.1]), np.array([0.2, 0.8]), 3)
    assert found.epoch == 3
    np.testing.assert_allclose(found.against, [0, np.log(4), np.log(9)], atol=1e-12)  # .8 is more than a half
    np.testing.assert_allclose(found.count, 1)
    np.testing.assert_allclose(found.given, [1, 0, 1])


def test_of_two_classes_each_is_asked_about_by_itself() -> None:
    zero, one = candidates(0, np.array([0, 1, 1]), np.array([0.4, 0.8, 0.3]), np.array([0.6, 0.2, 0.7]), 2)
    assert (zero.of, one.of) == (0, 1)
    np.testing.assert_allclose(zero.against, [np.log(0.6 / 0.4), np.log(0.8 / 0.2)])
    np.testing.assert_allclose(zero.given, [1, 0])
    np.testing.assert_allclose(one.against, [np.log(0.7 / 0.3)])
    np.testing.assert_allclose(one.given, [1])


def calibrated(n: int, classes: int, rate: float, seed: int = 0) -> tuple[Array, Array, Array]:
    """Labels, their probabilities and those of another class each, by a network that is right as often as it says."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.2), n)
    true = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    label = np.where(rng.random(n) < rate, (true + rng.integers(1, classes, n)) % classes, true)
    other = (label + rng.integers(1, classes, n)) % classes
    return label, p[np.arange(n), label], p[np.arange(n), other]


@pytest.mark.parametrize(
    ("ones", "of_zeros", "of_ones"), [(0.2, 0.2, 0.0), (0.2, 0.0, 0.2), (0.2, 0.1, 0.3), (0.05, 0.2, 0.0)]
)
def test_the_floors_of_two_classes_count_as_often_as_each_can_be_given_wrongly(
    ones: float, of_zeros: float, of_ones: float
) -> None:
    rng = np.random.default_rng(0)
    p_true = np.where(rng.random(200_000) < ones, rng.beta(20, 1, 200_000), rng.beta(1, 20, 200_000))  # of class 1
    true = (rng.random(len(p_true)) < p_true).astype(int)
    label = np.where(rng.random(len(true)) < np.where(true == 1, of_ones, of_zeros), 1 - true, true)
    p_label = np.where(label == 1, p_true, 1 - p_true)
    _, best, _ = floor(candidates(0, label, p_label, 1 - p_label, 2))
    assert best == pytest.approx((label != true).mean(), rel=0.25)


@pytest.mark.parametrize(("labels", "classes"), [(2, 3), (2, 10), (10, 40)])
def test_outputs_that_are_never_labels_hide_no_flips(labels: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, labels, 6000)
    given = np.where(rng.random(len(true)) < 0.3, (true + rng.integers(1, labels, len(true))) % labels, true)
    dynamics, history = TrainingDynamics(len(true)), []
    for epoch in range(4):
        logits = rng.normal(size=(len(true), classes))
        logits[:, labels:] -= 8
        logits[np.arange(len(true)), true] += 3
        dynamics.update(range(len(true)), torch.from_numpy(logits), torch.from_numpy(given))
        history.append(dynamics.end_epoch(epoch).presentations())
    assert np.isnan(history[0]["p_other"]).mean() == pytest.approx(1 - (labels - 1) / classes, abs=0.02)
    found = assess(dynamics.compute(), history)
    assert found.noise_rate.value == pytest.approx((given != true).mean(), rel=1 / 3)


@pytest.mark.parametrize("flips", [0.0, 0.02])
@pytest.mark.parametrize("classes", [10, 20, 100])
def test_classes_that_resemble_each_other_are_no_flips(classes: int, flips: float) -> None:
    rng = np.random.default_rng(0)
    n = 5000
    true = rng.integers(0, classes, n)
    given = np.where(rng.random(n) < flips, rng.integers(0, classes, n), true)
    doubt = rng.normal(size=n) * 1.5  # whether it is the class or the one that resembles it: 0 and 1, 2 and 3, ...
    dynamics, history = TrainingDynamics(n), []
    for epoch in range(6):
        logits = rng.normal(size=(n, classes)) * 0.5
        logits[np.arange(n), true] += 6 + 1.5 + doubt
        logits[np.arange(n), true ^ 1] += 6
        dynamics.update(range(n), torch.from_numpy(logits), torch.from_numpy(given))
        history.append(dynamics.end_epoch(epoch).presentations())
    found = assess(dynamics.compute(), history)
    assert found.noise_rate.value <= 0.01 + 1.5 * (given != true).mean()
    assert found.noise_rate.low <= (given != true).mean() <= found.noise_rate.high


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2, 0.4])
def test_the_floor_of_a_calibrated_network_is_the_rate(rate: float, classes: int) -> None:
    low, best, high = floor(candidates(2, *calibrated(20000, classes, rate), classes))
    assert low <= rate <= high
    assert best == pytest.approx(rate, rel=0.25, abs=0.003)
    assert high - low < max(0.15, 0.6 * rate)


def test_the_floor_does_not_depend_on_how_many_other_classes_are_asked_about() -> None:
    label, p_label, p_other = calibrated(60000, 10, 0.2)
    p_other[np.arange(len(p_other)) % 5 > 0] = np.nan  # one in five is left
    _, best, _ = floor(candidates(2, label, p_label, p_other, 10))
    assert best == pytest.approx(0.2, rel=0.25)


def test_an_epoch_that_repeats_all_labels_does_not_refute_the_others() -> None:
    honest = candidates(0, *calibrated(20000, 10, 0.2), 10)
    _, best, _ = floor(honest)
    sure = np.random.default_rng(0).uniform(0.97, 1, 20000)
    _, pooled, high = floor(honest + candidates(5, np.zeros(20000, int), sure, 1 - sure, 10))
    assert 0.15 < pooled <= best
    assert high >= 0.2


def test_one_way_flips_of_two_classes_are_seen_though_the_network_has_learned_them() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 20000)
    label = np.where(rng.random(len(true)) < 0.2, 1, true)  # a fifth of the zeros are labelled 1
    p_one = 1 / (1 + np.exp(-np.where(true == 1, 4, -1.4) - rng.normal(0, 0.7, len(true))))
    p_label = np.where(label == 1, p_one, 1 - p_one)
    _, best, _ = floor(candidates(0, label, p_label, 1 - p_label, 2))
    assert best == pytest.approx((label != true).mean(), rel=0.2)


def test_without_an_epoch_the_floor_is_not_known() -> None:
    assert floor([]) == (0.0, 0.0, 1.0)


# --- the order ---


def test_a_round_of_the_discriminant_is_fishers_with_a_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_ROUNDS", 1)
    rng = np.random.default_rng(1)
    n, order = 500, rng.permutation(500).astype(float)
    margin = rng.normal(size=(3, n)) * np.array([[1.0], [2.0], [1.0]]) - order / n
    margin[2] += margin[0]
    place = np.array([sorted(order, reverse=True).index(value) + 0.5 for value in order]) / n
    wrong = 1 / (1 + np.exp((place - 0.1) / (0.3 * 0.1)))
    covariance = sum(np.cov(margin, aweights=each, ddof=0) * each.mean() for each in (wrong, 1 - wrong))
    ridged = covariance + 0.1 * np.diag(np.diag(covariance))
    difference = np.average(margin, axis=1, weights=1 - wrong) - np.average(margin, axis=1, weights=wrong)
    found, weight = discriminant(margin, order, 0.1)
    np.testing.assert_allclose(weight, np.linalg.solve(ridged, difference), rtol=1e-6)
    np.testing.assert_allclose(found, -(weight @ margin))


def test_the_learned_weights_count_with_the_number_of_flips() -> None:
    learned, first = np.array([-1.0, 3.0]), np.array([1.0, 0.0])
    np.testing.assert_allclose(shrunk(learned, first, 0), [1, 0])
    # A fifth: 250 of 1250.
    np.testing.assert_allclose(shrunk(learned, first, 250), [0.8 - 0.25 / 5, 0.75 / 5])
    np.testing.assert_allclose(shrunk(learned, 0 * first, 0), [0.5, 0.5])


@pytest.mark.parametrize("mean", [0.001, 0.2, 0.9])
def test_the_offset_gives_probabilities_their_mean(mean: float) -> None:
    values = np.random.default_rng(0).normal(0, 20, 999)
    assert probability(values + log_odds_offset(values, mean)).mean() == pytest.approx(mean, rel=1e-6)


RUNS: dict[str, Any] = {
    "uniform": {"pair": False},
    "pair": {"pair": True, "clarity": 3.0},
    "memorised": {"pair": False, "memorised_after": 5},
    "few epochs": {"pair": False, "epochs": 3},
    "long": {"pair": False, "epochs": 21},
}


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4])
def test_flips_are_found_counted_and_named(kind: str, rate: float) -> None:
    options = dict(RUNS[kind])
    given, true = flips(3000, 6, rate, pair=options.pop("pair"))
    statistics, history = simulated(given, true, **options)
    found, wrong = assess(statistics, history), given != true
    assert average_precision(wrong, found.score) > 0.95
    # Few flips are ranked by the weights that the discriminant begins with, for safety on hard data.
    given_away = 0.05 if rate == 0.05 else 0.003
    assert average_precision(wrong, found.score) >= average_precision(wrong, -statistics.margin) - given_away
    assert found.noise_rate.value == pytest.approx(rate, rel=1 / 3)
    assert found.noise_rate.low <= rate <= found.noise_rate.high
    chosen = flagged(found.probability, 0.8)
    assert wrong[chosen].mean() > 0.7
    assert chosen[wrong].mean() > 0.6
    right_name = found.suggested[wrong & chosen] == true[wrong & chosen]
    assert right_name.mean() > 0.9
    assert found.suggested_probability[wrong & chosen].mean() > 0.45
    assert found.agreement[wrong & chosen].mean() > 0.3


def seen(monkeypatch: pytest.MonkeyPatch, low: float, best: float, high: float) -> Any:
    """Let the floor be what is said; the epochs are then not looked at."""
    monkeypatch.setattr(rate, "floor", lambda epochs: (low, best, high))
    return [None]


def test_the_estimate_rises_from_the_floor_with_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten of 40 samples disagree, each steadily, in all directions alike: c = d = .25.
    pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2)] * 2
    label = [y for y, _ in pairs] + [0, 1, 2] * 10
    leader = [k for _, k in pairs] + [0, 1, 2] * 10
    found = evidence(label, np.eye(3)[leader].tolist())
    rates = estimate_noise_rate(found, seen(monkeypatch, 0.04, 0.08, 0.3))
    a = 3 * 0.08
    assert rates.value == pytest.approx(0.08 ** (1 - a) * 0.25**a)
    error = 2 * (rates.value * (1 - rates.value) / 40) ** 0.5
    assert rates.low == 0.0  # .04 is less than the error
    assert rates.high == pytest.approx(0.3 + error)
    # At most .3; never above the ceiling where nothing is directed; nothing seen, nothing estimated.
    assert estimate_noise_rate(found, seen(monkeypatch, 0, 0.2, 1)).value == pytest.approx(0.2**0.7 * 0.25**0.3)
    assert estimate_noise_rate(found, seen(monkeypatch, 0, 0.4, 1)).value == pytest.approx(0.25)
    assert estimate_noise_rate(found, seen(monkeypatch, 0, 0, 1)).value == 0
    # Two thirds of those that agree are not steady, so c = .75; no estimate rises above all disagreement for that.
    p = np.eye(3)[leader]
    p[20:] = 0.7 * p[20:] + 0.1
    found = evidence(label, p.tolist())
    assert estimate_noise_rate(found, seen(monkeypatch, 0, 0.08, 1)).value == pytest.approx(0.08 ** (1 - a) * 0.25**a)


def test_flips_that_follow_a_rule_raise_the_estimate_to_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    # 60 of 240 samples of four classes have the next class as label, and the predictions say so: c = .25.
    true = np.arange(240) % 4
    label = np.where(np.arange(240) < 60, (true + 1) % 4, true)
    found = evidence(label.tolist(), np.eye(4)[true].tolist())
    assert estimate_noise_rate(found, seen(monkeypatch, 0, 0, 1)).value == pytest.approx(0.25)
    # Half of those that agree are not steady, so c = .5.
    p = np.eye(4)[true]
    p[60:150] = 0.7 * p[60:150] + 0.075
    found = evidence(label.tolist(), p.tolist())
    assert estimate_noise_rate(found, seen(monkeypatch, 0, 0, 1)).value == pytest.approx(0.5)
    # Of the confusions both ways, nothing: classes explain as much, but 0 is taken for 1 as often as 1 for 0.
    swapped = np.where(np.arange(240) < 60, true ^ 1, true)
    found = evidence(swapped.tolist(), np.eye(4)[true].tolist())
    assert estimate_noise_rate(found, seen(monkeypatch, 0, 0, 1)).value == 0


def test_one_way_confusions_count_among_the_samples_whose_class_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 900, 90 go round and round and 90 in all directions: directed 90, d = .2, known (1 - .2) / (1 - .1).
    round_and_round = [(0, 1), (1, 2), (2, 0)] * 30
    both_ways = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] * 15
    pairs = round_and_round + both_ways + [(k, k) for k in range(3)] * 240
    leader, label = np.array(pairs).T
    share = np.eye(3)[leader] * 0.6 + 0.4 / 3  # not steady: the ceiling is 0
    found = evidence(label.tolist(), share.tolist())
    assert Confusions.of(leader, label, 3).directed == pytest.approx(90)
    value = estimate_noise_rate(found, seen(monkeypatch, 0, 0, 1)).value
    assert value == pytest.approx(0.1 / (0.8 / 0.9))


def test_of_two_classes_all_steady_disagreement_counts() -> None:
    # All predictions are steady and three of ten disagree; of which the network is surest is not asked.
    found = estimate_noise_rate(
        evidence([0] * 7 + [1] * 3, [[0.9, 0.1]] * 7 + [[0.85, 0.15], [0.9, 0.1], [0.95, 0.05]])
    )
    assert found.value == pytest.approx(0.3)
    assert found.low == 0.0
    assert found.high == pytest.approx(0.3 + 2 * (0.3 * 0.7 / 10) ** 0.5)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_flips_of_two_classes_are_counted_and_flagged(rate: float) -> None:
    given, true = flips(3000, 2, rate, pair=False)
    found, wrong = assess(*simulated(given, true)), given != true
    assert found.noise_rate.value == pytest.approx(rate, rel=1 / 3)
    chosen = flagged(found.probability, 0.8)
    assert wrong[chosen].mean() > 0.7
    assert chosen[wrong].mean() > 0.6


@pytest.mark.parametrize("memorised_after", [3, 99])
def test_without_wrong_labels_next_to_nothing_is_flagged(memorised_after: int) -> None:
    true = np.random.default_rng(0).integers(0, 6, 3000)
    statistics, history = simulated(true, true, memorised_after=memorised_after)
    for found in (assess(statistics, history), assess(statistics)):
        assert found.noise_rate.value < 0.01
        assert flagged(found.probability, 0.8).mean() < 0.005
        assert np.isfinite(found.score).all()


@pytest.mark.parametrize("kind", ["uniform", "pair"])
def test_the_record_alone_is_nearly_as_good(kind: str) -> None:
    options = dict(RUNS[kind])
    given, true = flips(3000, 6, 0.2, pair=options.pop("pair"))
    statistics, history = simulated(given, true, **options)
    with_history, alone = assess(statistics, history), assess(statistics)
    difference = average_precision(given != true, with_history.score) - average_precision(given != true, alone.score)
    assert difference < 0.02
    assert alone.suggested.tolist() == statistics.candidate.tolist()
    assert np.isnan(alone.probability_margin).all()


def test_a_history_that_leaves_samples_out_is_not_used() -> None:
    given, true = flips(200, 4, 0.2, pair=False)
    statistics, history = simulated(given, true)
    cut = [{name: values[epoch["index"] < 150] for name, values in epoch.items()} for epoch in history]
    np.testing.assert_array_equal(assess(statistics, cut).score, assess(statistics).score)


def test_samples_never_seen_have_no_score_and_change_nothing() -> None:
    given, true = flips(200, 4, 0.2, pair=False)
    statistics, history = simulated(given, true)
    more = TrainingDynamics(300)
    for number in range(8):
        rng = np.random.default_rng(number)
        index = torch.from_numpy(rng.permutation(300)[:200] if number == 0 else np.arange(0, 300, 3))
        more.update(index, torch.from_numpy(rng.normal(size=(len(index), 4))), index % 4)
        more.end_epoch(number)
    unseen = more.compute().presentations == 0
    assert unseen.any()
    found = assess(more.compute())
    for values in (found.score, found.probability, found.suggested_probability):
        assert np.isnan(values[unseen]).all()
    assert np.isfinite(found.score[~unseen]).all()
    del statistics, history


def test_nothing_seen_says_nothing() -> None:
    found = assess(TrainingDynamics(3).compute())
    assert np.isnan(found.score).all()
    assert np.isnan(found.noise_rate.value)
    assert not flagged(found.probability, 0.8).any()


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_handful_of_samples_has_finite_scores(n: int, classes: int) -> None:
    true = np.append(np.arange(n - 1) % classes, classes - 1)
    statistics, history = simulated(true, true, epochs=2)
    assert np.isfinite(assess(statistics, history).score).all()
    assert np.isfinite(assess(statistics).score).all()


# --- what a user sees ---


def table(statistics: SampleStatistics, history: History) -> pd.DataFrame:
    return samples_table(statistics, assess(statistics, history))


def test_named_scores_by_hand() -> None:
    dynamics = TrainingDynamics(3)
    # Sample 0 is learned and forgotten, 1 is never learned, 2 is never seen.
    for number, logits in enumerate([[[3.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [1.0, 0.0]]]):
        dynamics.update([0, 1], torch.tensor(logits), torch.tensor([0, 1]))
        dynamics.end_epoch(number)
    found = named_scores(dynamics.compute(), np.array([0.25, -0.5, np.nan]))
    p = 1 / (1 + np.exp(-np.array([[3.0, -1.0, 2.0], [-2.0, -1.0, -1.0]])))
    expected: Mapping[str, Array] = {
        "score_aum": np.array([-4 / 3, 4 / 3]),
        "score_probability_margin": np.array([-0.25, 0.5]),
        "score_confidence": -p.mean(axis=1),
        "score_loss": -np.log(p).mean(axis=1),
        "score_el2n": np.sqrt(2) * (1 - p).mean(axis=1),
        "score_forgetting": np.array([1, 3]),
        "score_correctness": np.array([-2 / 3, 0]),
        "score_first_learned": np.array([0, 1]),
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][:2], values, rtol=1e-6, err_msg=name)
        assert np.isnan(found[name][2])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.05, 1))
def test_the_flagged_are_the_largest_set_of_that_precision(values: list[float], precision: float) -> None:
    p = np.sort(values)[::-1]
    chosen = flagged(p, precision)
    sizes = [k for k in range(1, len(p) + 1) if p[:k].mean() >= precision - 1e-12 and p[k - 1] > 0]
    assert chosen.sum() == (sizes[-1] if sizes else 0)
    assert p[chosen].min(initial=1) >= p[~chosen].max(initial=0)


@pytest.mark.parametrize("precision", [0, -0.1, 1.5, float("nan")])
def test_a_precision_out_of_range_is_refused(precision: float) -> None:
    with pytest.raises(ValueError, match=r"`precision` to be in \(0, 1\], got"):
        flagged(np.array([0.5]), precision)


def test_suspects_clean_ones_and_weights_agree() -> None:
    given, true = flips(600, 4, 0.2, pair=False)
    rows = table(*simulated(given, true))
    worst = suspects(rows)
    assert worst["rank"].tolist() == list(range(1, 601))
    assert worst["score"].is_monotonic_decreasing
    assert suspects(rows, 3).index.tolist() == worst.index[:3].tolist()
    strict, loose = suspects(rows, precision=0.95), suspects(rows, precision=0.6)
    assert 0 < len(strict) < rows["flagged"].sum() < len(loose)
    assert strict["flagged"].all()
    assert suspects(rows, 5, precision=0.95).index.tolist() == worst.index[:5].tolist()
    assert set(clean_indices(rows, 0.6)) == set(rows.index) - set(loose.index)
    assert set(clean_indices(rows)) == set(rows.index[~rows["flagged"]])
    np.testing.assert_allclose(weights(rows), 1 - rows["wrong_probability"])
    assert weights(rows).mean() == pytest.approx(1 - assess(*simulated(given, true)).noise_rate.value, abs=1e-6)


def test_names_stand_beside_the_labels() -> None:
    statistics, history = simulated(np.array([0, 1, 1]), np.array([0, 1, 1]), epochs=1)
    rows = samples_table(statistics, assess(statistics, history), names=["a", "b", "c"], class_names=["cat", "dog"])
    assert rows.columns.tolist()[:4] == ["root_index", "name", "label", "label_name"]
    assert rows["name"].tolist() == ["a", "b", "c"]


# --- several runs ---


def test_runs_are_compared_by_their_mean_rank() -> None:
    given, true = flips(400, 4, 0.2, pair=False)
    tables = [table(*simulated(given, true, seed=seed)) for seed in range(3)]
    together = compared(tables)
    ranks = pd.concat([one["rank"] for one in tables], axis=1).astype(float).mean(axis=1)
    assert together["mean_rank"].tolist() == sorted(ranks)
    pd.testing.assert_series_equal(together["mean_rank"].astype(float).sort_index(), ranks, check_names=False)
    assert together["flagged_in"].sort_index().tolist() == np.sum([one["flagged"] for one in tables], axis=0).tolist()
    assert together["suggested_in"].max() == 3
    assert (given != true)[together.index[:60]].mean() > 0.95


def test_runs_on_other_data_are_refused() -> None:
    given, true = flips(60, 4, 0.2, pair=False)
    one, other = table(*simulated(given, true)), table(*simulated(true, true))
    with pytest.raises(ValueError, match="two or more runs to compare, got 1"):
        compared([one])
    with pytest.raises(ValueError, match="on the same labels, got 12 samples with another label in run 2"):
        compared([one, other])
    with pytest.raises(ValueError, match="on the same samples, got 60 in the first and 59 in run 3"):
        compared([one, one, one.iloc[:59]])


def test_an_assessment_names_all_that_a_table_needs() -> None:
    given, true = flips(100, 3, 0.2, pair=False)
    found = assess(*simulated(given, true))
    assert isinstance(found, Assessment)
    assert all(len(getattr(found, name)) == 100 for name in ("score", "probability", "suggested", "agreement"))
