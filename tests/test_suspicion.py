"""Scores equal their definitions, flips are found in each regime, and the estimates are near what is true."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynalens.dynamics import Array, SampleStatistics, TrainingDynamics
from dynalens.dynamics.given_labels import STEPS
from dynalens.dynamics.statistics import HISTORY
from dynalens.suspicion import (
    Assessment,
    assess,
    clean_indices,
    compare_runs,
    flagged,
    samples_table,
    suspects,
    weights,
    worst_samples,
)
from dynalens.suspicion import confusions as rules
from dynalens.suspicion.class_pairs import ClassPairs
from dynalens.suspicion.confusions import confident_joint, deconvolution, one_way, wrong_log_odds
from dynalens.suspicion.history_summary import summarise_history
from dynalens.suspicion.noise_rate import estimate_noise_rate
from dynalens.suspicion.predictions import Predictions
from dynalens.suspicion.published_scores import named_scores
from dynalens.suspicion.refuted_labels import count_candidates, refuted_rate
from dynalens.suspicion.score import log_odds, log_odds_offset, probability, streaming_score

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


# --- the history ---

PRESENTATION = st.tuples(st.integers(0, 3), st.floats(0.01, 0.98), st.floats(-3, 3), st.integers(0, 2))
LABELS = np.array([0, 1, 2, 0])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(PRESENTATION, min_size=1, max_size=6), min_size=1, max_size=24))
def test_the_summary_of_a_history_reads_all_presentations(run: list[list[tuple[int, float, float, int]]]) -> None:
    history = [
        {name: np.array(values) for name, values in zip(HISTORY[:4], zip(*epoch, strict=True), strict=True)}
        for epoch in run
    ]
    suggested = np.array([1, 2, 0, -1])
    summary = summarise_history(LABELS, suggested, history)
    for i in range(4):
        rows = [row for epoch in run for row in epoch if row[0] == i]
        assert summary.presentations[i] == len(rows)
        has_agreement = rows and suggested[i] >= 0
        expected = [k for *_, k in rows].count(suggested[i]) / len(rows) if has_agreement else np.nan
        np.testing.assert_allclose(summary.agreement[i], expected)
        gaps = [p - min(p * np.exp(-m), 1 - p) for _, p, m, _ in rows]
        np.testing.assert_allclose(summary.probability_margin[i], np.mean(gaps) if rows else np.nan, atol=1e-12)


def test_the_agreement_is_that_with_the_suggested_class_of_the_record() -> None:
    # A sample of class 0 is predicted as 2, 1, 0, 2, in epochs of the weights 0, 8, 0, 64 (times c^2). Class 2 leads by
    # (64 - 8) / 72 in the vote, and two of four presentations predicted it. Without history, the record estimates
    # that it was that part of the three that were wrong.
    dynamics, history = TrainingDynamics(1), []
    for epoch, predicted in enumerate((2, 1, 0, 2)):
        dynamics.update(torch.tensor([0]), torch.eye(3)[[predicted]], torch.tensor([0]))
        history.append(dynamics.end_epoch(epoch).presentations())
    for epochs, agreement in ((history, 2 / 4), ([], 56 / 72 * 3 / 4)):
        assessment = assess(dynamics.compute(), epochs)
        assert assessment.suggested.item() == 2
        assert assessment.agreement.item() == pytest.approx(agreement, abs=1e-4)


# --- class pairs ---


def predictions(label: list[int], p: list[list[float]]) -> Predictions:
    """Of probabilities of all classes: the largest one beside the label is the rival's."""
    y, table = np.array(label), np.array(p)
    row = np.arange(len(y))
    others = np.where(np.arange(table.shape[1]) == y[:, None], -1, table)
    p_label, p_rival = table[row, y], others.max(axis=1)
    rival = np.where(p_rival > 0, others.argmax(axis=1), -1)
    return Predictions(y, np.log(p_label + 1e-6) - np.log(p_rival + 1e-6), p_label, rival, p_rival, table.shape[1])


def matrix(pairs: ClassPairs, values: Array) -> Array:
    """The values as row true class, column label; zero where there is no pair."""
    table = np.zeros((pairs.class_count, pairs.class_count))
    table[pairs.true_class, pairs.label] = values
    return table


def joint_of(views: Predictions) -> Array:
    pairs = ClassPairs.from_predictions(views)
    return matrix(pairs, confident_joint(views, pairs))


def test_the_confident_joint_by_hand() -> None:
    # Thresholds: class 0: (0.9 + 0.7) / 2 = 0.8, class 1: (0.8 + 0.2) / 2 = 0.5. Counted as true 0: samples 0 and 3
    # (0.8 of class 0, labelled 1), as true 1: sample 2; sample 1 reaches neither. Leading classes: 0, 0, 1, 0.
    joint = joint_of(predictions([0, 0, 1, 1], [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.8, 0.2]]))
    # [[1 + sqrt(2), 1 + sqrt(1)], [0, 1 + sqrt(1)]], columns scaled to the two labels of each class.
    np.testing.assert_allclose(joint, [[2, 1], [0, 1]])


def test_a_confusion_of_which_no_sample_is_confident_is_counted_all_the_same() -> None:
    # Samples of class 2 are surely of it, those labelled 0 that are of class 2 only just: none reaches 0.9.
    learned = [[0.9, 0.0, 0.1]] * 5 + [[0.4, 0.0, 0.6]] * 4 + [[0.1, 0.0, 0.9]] * 5
    joint = joint_of(predictions([0] * 9 + [2] * 5, learned))
    assert joint[2, 0] > 0
    assert joint[1, 0] == 0


def test_deconvolution_inverts_a_noise_matrix() -> None:
    rates = np.array([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])
    true = np.array([[0.98, 0.01, 0.01], [0.1, 0.8, 0.1]])
    p_true = deconvolution((true @ rates).T, np.stack([rates, rates], axis=2), np.ones((3, 2)), steps=10)
    np.testing.assert_allclose(p_true.T, true, atol=0.06)


def log_odds_with_all_classes(views: Predictions) -> Array:
    """Return what `wrong_log_odds` defines, with the probabilities of all K classes in place of three."""
    classes, n, row = views.class_count, len(views), np.arange(len(views))
    rest = np.maximum(1 - views.p_label - np.where(views.rival >= 0, views.p_rival, 0), 0) / classes
    p_given = np.repeat(rest[:, None], classes, axis=1)
    p_given[row, views.label] += views.p_label
    p_given[row, views.rival] += np.where(views.rival >= 0, views.p_rival, 0)
    p_true, joint, total = p_given + 1e-3, joint_of(views), np.zeros(n)
    for _ in range(rules.ROUNDS):
        joint = joint + 1e-9 * np.eye(classes)
        rates = 0.999 * joint / joint.sum(axis=1, keepdims=True) + 0.001 / classes
        repeated = np.repeat(rates[:, :, None], n, axis=2)
        p_true = deconvolution(p_given.T, repeated, p_true.T, steps=STEPS).T
        posterior = p_true * rates[:, views.label].T
        right = posterior[row, views.label]
        odds = np.clip(np.log(posterior.sum(axis=1) - right) - np.log(right), -np.log(1000), np.log(1000))
        joint = np.zeros((classes, classes))
        for i, wrong in enumerate(1 / (1 + np.exp(-odds))):
            joint[views.label[i], views.label[i]] += 1 - wrong
            joint[views.rival[i] if views.rival[i] >= 0 else (views.label[i] + 1) % classes, views.label[i]] += wrong
        total += odds
    return total / rules.ROUNDS


@pytest.mark.parametrize("classes", [3, 6])
def test_log_odds_of_the_record_are_close_to_bayes_on_all_classes(classes: int) -> None:
    given, true = flips(2000, classes, 0.3, pair=True)
    views = Predictions.from_statistics(simulated(given, true, clarity=3.0)[0])
    slow, fast = log_odds_with_all_classes(views), wrong_log_odds(views)
    assert np.corrcoef(fast, slow)[0, 1] > 0.97
    if classes == 3:  # the third class is all others
        np.testing.assert_allclose(fast, slow, atol=1e-3)  # float32


def test_log_odds_of_few_samples_equal_bayes_on_all_classes() -> None:
    # Nine pairs of classes are more than five samples: only the pairs that occur are counted.
    p = [[0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.6, 0.0, 0.4], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]]
    views = predictions([0, 1, 2, 0, 2], p)
    np.testing.assert_allclose(wrong_log_odds(views), log_odds_with_all_classes(views), atol=1e-3)  # float32


def test_many_classes_have_only_the_pairs_that_occur() -> None:
    views = predictions([0, 4], [[0.6, 0, 0, 0.4, 0], [0, 0, 0, 0, 1.0]])
    pairs = ClassPairs.from_predictions(views)
    of_rival = matrix(pairs, pairs.counts(pairs.pair_index[1, 0]))
    # The second sample has no rival: the class after its label stands for it.
    assert np.argwhere(of_rival).tolist() == [[0, 4], [3, 0]]
    assert (len(pairs), pairs.pair_index[0, 1].tolist()) == (7, [7, 7])  # nothing of class 0 is labelled 3, nor 4 as 0


def test_a_learned_rule_of_flips_is_detected() -> None:
    # 4 in 10 of each class carry the next class's label, and the network has learned exactly that.
    n, true = 10, np.repeat([0, 1, 2], 10)
    given = np.where(np.tile(np.arange(n) < 4, 3), (true + 1) % 3, true)
    learned = np.array([[0.6, 0.4, 0.0], [0.0, 0.6, 0.4], [0.4, 0.0, 0.6]])[true]
    odds = wrong_log_odds(predictions(given.tolist(), learned.tolist()))
    assert odds[given != true].min() > 2
    assert odds[given == true].max() < -2
    # The margin cannot: 0.4 - 0.6 and 0.6 - 0.4 where three equally certain classes would give the same.
    assert (learned[np.arange(30), given] > 0.3).all()


def confusions(*counts: tuple[int, int, int]) -> tuple[Array, Array]:
    """Return leading classes and labels: so many samples of leading class k and label j."""
    leader, label, times = np.array(counts).T
    return np.repeat(leader, times), np.repeat(label, times)


def test_flips_to_the_next_class_go_one_way_and_flips_to_any_class_do_not() -> None:
    rng = np.random.default_rng(0)
    leader = rng.integers(0, 10, 5000)
    # 500 confusions of each of ten pairs, all one way: 500^2 - 500 for each, less 2 sqrt(2 * 10 * 500 * 499).
    assert one_way(leader, (leader + 1) % 10) == pytest.approx(1, abs=0.02)
    assert one_way(leader, (leader + rng.integers(1, 10, 5000)) % 10) == pytest.approx(0, abs=0.002)
    assert one_way(leader, leader) == 0.0


def test_one_way_confusions_grow_with_the_evidence_up_to_the_squared_difference() -> None:
    # Three pairs, each 3 to 1: the difference is half of the confusions of a pair. Few of them may be chance.
    pairs = [(0, 1, 3), (1, 0, 1), (1, 2, 3), (2, 1, 1), (2, 0, 3), (0, 2, 1)]
    parts = [one_way(*confusions(*((k, j, n * times) for k, j, n in pairs))) for times in (1, 25, 400, 20_000)]
    assert parts == sorted(parts)
    assert parts[0] < 0.05
    assert parts[1] < 0.25
    assert parts[-1] == pytest.approx(0.5**2, rel=0.02)


def test_confusions_that_resemblance_explains_do_not_go_one_way() -> None:
    # Class 0 is named twice as often as the others it resembles: 400 for 200 between it and each of them, 200 for 200.
    pairs = confusions((0, 1, 400), (1, 0, 200), (0, 2, 400), (2, 0, 200), (1, 2, 200), (2, 1, 200))
    assert one_way(*pairs) == pytest.approx(0, abs=1e-3)


def test_a_class_is_named_too_often_by_a_bounded_factor() -> None:
    # All of 1000 are labelled 1 instead of 0: at most 3 for 1 of them are resemblance, so that half are left.
    assert one_way(*confusions((0, 1, 1000))) > 0.2


@pytest.mark.parametrize("classes", [3, 10, 100])
def test_a_few_confusions_show_no_rule(classes: int) -> None:
    rng = np.random.default_rng(0)
    rates = [one_way(*rng.integers(0, classes, (2, 60))) for _ in range(50)]
    assert np.mean(np.array(rates) > 0.01) < 0.2


# --- labels that the network rules out ---


def test_candidates_are_sorted_by_the_log_odds_against_their_class() -> None:
    (found,) = count_candidates(3, np.array([0, 1]), np.array([0.5, 0.1]), np.array([0.2, 0.8]), 3)
    assert found.epoch == 3
    np.testing.assert_allclose(found.log_odds_against, [0, np.log(4), np.log(9)], atol=1e-12)  # .8 is more than a half
    np.testing.assert_allclose(found.count, 1)
    np.testing.assert_allclose(found.label_count, [1, 0, 1])


def test_two_classes_are_asked_about_separately() -> None:
    zero, one = count_candidates(0, np.array([0, 1, 1]), np.array([0.4, 0.8, 0.3]), np.array([0.6, 0.2, 0.7]), 2)
    assert (zero.asked_class, one.asked_class) == (0, 1)
    np.testing.assert_allclose(zero.log_odds_against, [np.log(0.6 / 0.4), np.log(0.8 / 0.2)])
    np.testing.assert_allclose(zero.label_count, [1, 0])
    np.testing.assert_allclose(one.log_odds_against, [np.log(0.7 / 0.3)])
    np.testing.assert_allclose(one.label_count, [1])


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
    _, best, _ = refuted_rate(count_candidates(0, label, p_label, 1 - p_label, 2))
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
    low, best, high = refuted_rate(count_candidates(2, *calibrated(20000, classes, rate), classes))
    assert low <= rate <= high
    assert best == pytest.approx(rate, rel=0.25, abs=0.003)
    assert high - low < max(0.15, 0.6 * rate)


def test_the_floor_does_not_depend_on_how_many_other_classes_are_asked_about() -> None:
    label, p_label, p_other = calibrated(60000, 10, 0.2)
    p_other[np.arange(len(p_other)) % 5 > 0] = np.nan  # one in five is left
    _, best, _ = refuted_rate(count_candidates(2, label, p_label, p_other, 10))
    assert best == pytest.approx(0.2, rel=0.25)


def test_an_epoch_that_repeats_all_labels_does_not_outweigh_earlier_epochs() -> None:
    honest = count_candidates(0, *calibrated(20000, 10, 0.2), 10)
    _, best, _ = refuted_rate(honest)
    sure = np.random.default_rng(0).uniform(0.97, 1, 20000)
    _, pooled, high = refuted_rate(honest + count_candidates(5, np.zeros(20000, int), sure, 1 - sure, 10))
    assert 0.15 < pooled <= best
    assert high >= 0.2


def test_one_way_flips_of_two_classes_are_counted_although_the_network_has_learned_these_flips() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 20000)
    label = np.where(rng.random(len(true)) < 0.2, 1, true)  # a fifth of the zeros are labelled 1
    p_one = 1 / (1 + np.exp(-np.where(true == 1, 4, -1.4) - rng.normal(0, 0.7, len(true))))
    p_label = np.where(label == 1, p_one, 1 - p_one)
    _, best, _ = refuted_rate(count_candidates(0, label, p_label, 1 - p_label, 2))
    assert best == pytest.approx((label != true).mean(), rel=0.2)


def test_the_profile_of_an_epoch_is_fitted_once() -> None:
    # Each later epoch's estimate reads all of the history again.
    first, other = (count_candidates(2, *calibrated(2000, 3, rate), 3)[0].profile_likelihood for rate in (0.1, 0.2))
    assert count_candidates(2, *calibrated(2000, 3, 0.1), 3)[0].profile_likelihood is first
    assert not np.array_equal(first, other)


def test_the_floor_is_not_known_without_an_epoch() -> None:
    assert refuted_rate([]) == (0.0, 0.0, 1.0)


# --- the order ---


def test_log_odds_equal_the_density_ratio_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    doubted = np.arange(1000) < 200
    values = rng.normal(size=1000) * 2 + np.where(doubted, 3, 1)
    wrong, right = values[doubted], values[~doubted]
    variance = 0.2 * wrong.var() + 0.8 * right.var()

    def density(mean: float) -> Array:
        return np.asarray(-((values - mean) ** 2) / (2 * variance))

    expected = density(wrong.mean()) - density(right.mean())
    np.testing.assert_allclose(np.diff(log_odds(values, doubted)), np.diff(expected), rtol=1e-6, atol=1e-9)


def test_values_count_as_far_as_they_separate_doubted_samples_from_the_others() -> None:
    rng = np.random.default_rng(0)
    doubted = np.arange(2000) < 400
    telling, random = doubted + rng.normal(size=2000), rng.normal(size=2000)
    assert log_odds(telling, doubted).std() > 5 * log_odds(random, doubted).std()
    assert (log_odds(-telling, doubted) == 0).all()
    np.testing.assert_allclose(log_odds(7 * telling - 3, doubted), log_odds(telling, doubted))


def test_the_order_while_training_is_the_order_afterwards() -> None:
    given, true = flips(500, 6, 0.2, pair=True)
    statistics, history = simulated(given, true)
    after = assess(statistics, history).score
    assert np.argsort(-streaming_score(statistics)).tolist() == np.argsort(-after).tolist()
    worst = suspects(samples_table(statistics, assess(statistics, history)), 20)
    assert worst_samples(statistics, 20) == worst.index.tolist()


def test_the_worst_samples_were_seen() -> None:
    dynamics = TrainingDynamics(5)
    dynamics.update([1, 3], torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([1, 1]))
    dynamics.end_epoch(0)
    assert worst_samples(dynamics.compute(), 4) == [1, 3]
    assert worst_samples(TrainingDynamics(5).compute(), 4) == []


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
    assert average_precision(wrong, found.score) > 0.93
    assert average_precision(wrong, found.score) >= average_precision(wrong, -statistics.margin) - 0.01
    # After three epochs, hard samples are many beside 150 flips.
    assert found.noise_rate.value == pytest.approx(rate, rel=0.4 if (kind, rate) == ("few epochs", 0.05) else 1 / 3)
    assert found.noise_rate.low <= rate <= found.noise_rate.high
    chosen = flagged(found.probability, 0.8)
    assert wrong[chosen].mean() > (0.6 if (kind, rate) == ("few epochs", 0.05) else 0.7)
    assert chosen[wrong].mean() > 0.6
    right_name = found.suggested[wrong & chosen] == true[wrong & chosen]
    assert right_name.mean() > 0.9
    assert found.suggested_probability[wrong & chosen].mean() > 0.45
    assert found.agreement[wrong & chosen].mean() > 0.3


def doubts_of(surest: int, *, times: int = 1) -> Predictions:
    """A quarter of 40 labels is doubted; of the ten samples whose leading class is surest, so many."""
    sure = [[0.01, 0.99]] * surest + [[0.99, 0.01]] * (10 - surest)
    unsure = [[0.4, 0.6]] * (10 - surest) + [[0.8, 0.2]] * (20 + surest)
    return predictions([0] * 40 * times, (sure + unsure) * times)


def test_the_estimate_counts_all_doubted_labels_where_the_surest_samples_are_doubted_as_often() -> None:
    rates = estimate_noise_rate(doubts_of(5), 0.0)
    assert rates.low == 0.0
    assert rates.value == pytest.approx(0.25)
    assert rates.high > 0.25


def test_the_estimate_is_nearer_to_the_doubts_of_the_surest_than_to_all_doubts() -> None:
    value = estimate_noise_rate(doubts_of(1), 0.0).value
    assert 0.1 <= value < (0.1 + 0.25) / 2
    assert estimate_noise_rate(doubts_of(0), 0.0).value == 0.0


def test_the_estimate_rises_with_the_one_way_part_to_all_doubted_labels() -> None:
    values = [estimate_noise_rate(doubts_of(1), part).value for part in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)]
    assert values == sorted(values)
    assert values[0] < values[2] < values[3]
    assert values[-1] == pytest.approx(0.25)


def test_the_upper_end_of_the_estimate_comes_nearer_with_the_root_of_the_samples() -> None:
    few, many = (estimate_noise_rate(doubts_of(5, times=times), 0.0).high for times in (1, 100))
    assert few - 0.25 == pytest.approx(10 * (many - 0.25), rel=1e-6)


def test_a_network_that_doubts_everything_says_nothing() -> None:
    rates = estimate_noise_rate(predictions([0, 0], [[0.2, 0.8], [0.1, 0.9]]), 0.0)
    assert (rates.low, rates.value, rates.high) == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_flips_of_two_classes_are_counted_and_flagged(rate: float) -> None:
    given, true = flips(3000, 2, rate, pair=False)
    found, wrong = assess(*simulated(given, true)), given != true
    assert found.noise_rate.value == pytest.approx(rate, rel=1 / 3)
    chosen = flagged(found.probability, 0.8)
    assert wrong[chosen].mean() > 0.7
    assert chosen[wrong].mean() > 0.6


@pytest.mark.parametrize("memorised_after", [3, 99])
def test_next_to_nothing_is_flagged_without_wrong_labels(memorised_after: int) -> None:
    true = np.random.default_rng(0).integers(0, 6, 3000)
    statistics, history = simulated(true, true, memorised_after=memorised_after)
    for found in (assess(statistics, history), assess(statistics)):
        assert found.noise_rate.value < 0.01
        assert flagged(found.probability, 0.8).mean() < 0.005
        assert np.isfinite(found.score).all()


def test_the_record_suggests_its_candidate_without_history() -> None:
    given, true = flips(300, 6, 0.2, pair=False)
    statistics, _ = simulated(given, true)
    alone = assess(statistics)
    assert alone.suggested.tolist() == statistics.candidate.tolist()
    assert np.isnan(alone.probability_margin).all()


def test_the_noise_rate_does_not_read_a_history_that_leaves_samples_out() -> None:
    given, true = flips(200, 4, 0.2, pair=False)
    statistics, history = simulated(given, true)
    cut = [{name: values[epoch["index"] < 150] for name, values in epoch.items()} for epoch in history]
    assert assess(statistics, cut).noise_rate == assess(statistics).noise_rate


def test_samples_never_seen_have_no_score_and_change_nothing() -> None:
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


def test_an_empty_record_gives_no_score_rate_or_flag() -> None:
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
def test_flagged_samples_are_the_largest_set_of_the_expected_precision(values: list[float], precision: float) -> None:
    p = np.sort(values)[::-1]
    chosen = flagged(p, precision)
    sizes = [k for k in range(1, len(p) + 1) if p[:k].mean() >= precision - 1e-12 and p[k - 1] > 0]
    assert chosen.sum() == (sizes[-1] if sizes else 0)
    assert p[chosen].min(initial=1) >= p[~chosen].max(initial=0)


@pytest.mark.parametrize("precision", [0, -0.1, 1.5, float("nan")])
def test_a_precision_out_of_range_is_refused(precision: float) -> None:
    with pytest.raises(ValueError, match=r"`precision` to be in \(0, 1\], got"):
        flagged(np.array([0.5]), precision)


def test_suspects_clean_samples_and_weights_agree() -> None:
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
    assert rows.columns.tolist()[:3] == ["name", "label", "label_name"]
    assert rows["name"].tolist() == ["a", "b", "c"]


# --- several runs ---


def test_runs_are_compared_by_their_mean_rank() -> None:
    given, true = flips(400, 4, 0.2, pair=False)
    tables = [table(*simulated(given, true, seed=seed)) for seed in range(3)]
    together = compare_runs(tables)
    ranks = pd.concat([one["rank"] for one in tables], axis=1).astype(float).mean(axis=1)
    assert together["mean_rank"].tolist() == sorted(ranks)
    pd.testing.assert_series_equal(together["mean_rank"].astype(float).sort_index(), ranks, check_names=False)
    assert together["flagged_in"].sort_index().tolist() == np.sum([one["flagged"] for one in tables], axis=0).tolist()
    assert together["suggested_in"].max() == 3
    assert (given != true)[together.index[:60]].mean() > 0.95


def test_runs_suggest_together_the_most_frequent_class_and_the_smallest_of_several() -> None:
    labels = np.array([0, 1, 2, 3])
    tables = [table(*simulated(labels, labels)) for _ in range(3)]
    for rows, suggested in zip(tables, ([1, 3, None, None], [2, 0, 1, None], [2, 2, None, None]), strict=True):
        rows["suggested"] = pd.array(suggested, "Int64")
    together = compare_runs(tables).sort_index()
    assert together["suggested"].fillna(-1).tolist() == [2, 0, 1, -1]
    assert together["suggested_in"].tolist() == [2, 1, 1, 0]


def test_runs_on_other_data_are_refused() -> None:
    given, true = flips(60, 4, 0.2, pair=False)
    one, other = table(*simulated(given, true)), table(*simulated(true, true))
    with pytest.raises(ValueError, match="two or more runs to compare, got 1"):
        compare_runs([one])
    with pytest.raises(ValueError, match="on the same labels, got 12 samples with another label in run 2"):
        compare_runs([one, other])
    with pytest.raises(ValueError, match="on the same samples, got 60 in the first and 59 in run 3"):
        compare_runs([one, one, one.iloc[:59]])
    names = [f"{i}.png" for i in range(60)]
    with pytest.raises(ValueError, match="on the same samples, got 59 samples with another name in run 2"):
        compare_runs([one.assign(name=names), one.assign(name=[names[0], *names[2:], names[1]])])


def test_an_assessment_names_all_that_a_table_needs() -> None:
    given, true = flips(100, 3, 0.2, pair=False)
    found = assess(*simulated(given, true))
    assert isinstance(found, Assessment)
    assert all(len(getattr(found, name)) == 100 for name in ("score", "probability", "suggested", "agreement"))
