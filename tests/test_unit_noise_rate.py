"""Which multi-label samples have a wrong label and how many, from records of which both can be worked out by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from dynalens import SampleStatistics, TrainingDynamics
from dynalens.dynamics.given_labels import given_log_odds, worst_labels
from dynalens.suspicion import assess
from dynalens.suspicion.confusions import deconvolution
from dynalens.suspicion.dense import dense_noise_rate
from dynalens.suspicion.rate_doubts import bounds_doubts
from dynalens.suspicion.units import all_as_given, odds_as_given, unit_noise_rate
from dynalens.units import dense, multi_label

N = 200


def record(logits: torch.Tensor, given: torch.Tensor) -> SampleStatistics:
    """Return the statistics of samples that were seen once."""
    dynamics = TrainingDynamics(len(logits))
    dynamics.update_units(torch.arange(len(logits)), multi_label(logits, given))
    dynamics.end_epoch(0)
    return dynamics.compute()


def missing_labels(*, doubted: int = 40) -> SampleStatistics:
    """Return a record of two labels: one is predicted everywhere, and the other, far more surely, nowhere.

    The given labels lack the first one in so many samples, of which one is among the 10 with the largest logit.
    """
    logits = torch.stack([torch.arange(1.0, N + 1), -1000 - torch.arange(1.0, N + 1)], dim=1)
    given = torch.tensor([[1, 0]]).repeat(N, 1)
    given[: doubted - 1, 0] = 0
    given[-1, 0] = 0
    return record(logits, given)


def test_present_labels_are_believed_where_most_are_missing() -> None:
    logits = torch.tensor([[0.5, -5.0], *4 * [[3.0, -5.0]], [0.4, -0.5]])
    given = torch.tensor([[1, 0], *4 * [[0, 0]], [1, 0]])
    statistics = record(logits, given)
    # Predicted: 6 labels, of which 2 are given; not predicted: 6 labels, of which none is given. With half a label more
    # on both sides, P(1 | predicted) = 2.5 / 7, P(1 | not) = .5 / 7, P(0 | not) = 6.5 / 7, P(0 | predicted) = 4.5 / 7.
    there, missing = (2.5 / 7, 0.5 / 7), (6.5 / 7, 4.5 / 7)
    odds = [
        (as_given(0.5, *there), as_given(5, *missing)),
        *4 * [(as_given(-3, *missing), as_given(5, *missing))],
        (as_given(0.4, *there), as_given(0.5, *missing)),
    ]
    np.testing.assert_allclose(odds_as_given(statistics), [log_odds_of_all(each) for each in odds], rtol=1e-5)
    assert statistics.arrays()["unit"].tolist() == [0, 0, 0, 0, 0, 1]
    assert statistics.arrays()["unit_margin"][-1] == 0.5


def as_given(margin: float, true: float, false: float) -> float:
    """Return the log odds that a label is as given, by the steps for classes; given at these rates if it is, if not."""
    p_given = np.array([[1 / (1 + math.exp(-margin))], [1 / (1 + math.exp(margin))]])
    rates = np.array([[true, 1 - true], [false, 1 - false]])[:, :, np.newaxis]
    (x,), (rest,) = deconvolution(p_given, rates, p_given, steps=3)
    return float(math.log(x * true / (rest * false)))


def log_odds_of_all(odds: Sequence[float]) -> float:
    """Return the log odds that all are as given, from the probability of each."""
    p = math.prod(1 / (1 + math.exp(-each)) for each in odds)
    return math.log(p / (1 - p))


def test_the_worst_label_has_the_smallest_log_odds_of_those_that_count() -> None:
    rng = np.random.default_rng(0)
    margins, bits = rng.normal(size=(400, 5)), rng.integers(-1, 2, (400, 5))
    bits[:, 4] = rng.integers(0, 2, 400)  # one label of each sample counts
    odds = np.where(bits >= 0, given_log_odds(margins, bits), np.inf)
    assert worst_labels(margins, bits).tolist() == [int(np.argmin(row)) for row in odds]


def test_a_label_that_is_sure_is_not_the_worst_of_millions_that_the_network_knows() -> None:
    is_there = np.broadcast_to(np.arange(544) == 7, (2**15, 544))  # so many that 1 - 1 / count rounds to 1
    margins = np.where(is_there, 0.5, 20.0).astype(np.float32)
    assert set(worst_labels(margins, is_there.astype(np.int8))) == {7}


def test_two_labels_in_doubt_are_more_suspicious_than_one_of_them() -> None:
    assert all_as_given(np.array([[-1.0, -0.5]]))[0] == pytest.approx(log_odds_of_all([-1.0, -0.5]))
    assert all_as_given(np.array([[-1.0, -0.5]]))[0] < all_as_given(np.array([[-1.0, 4.0]]))[0]


def test_log_odds_of_all_labels_stay_exact_where_probabilities_round_to_0_or_1() -> None:
    # log(prod (1 + x) - 1) with x = exp(-o): log x of one label, log 2x of two small ones, 60 + 60 of two large ones
    odds = np.array([[800.0, np.inf], [40.0, 40.0], [-60.0, -60.0]])
    np.testing.assert_allclose(all_as_given(odds), [800, 40 - math.log(2), -120], rtol=1e-12)


def test_a_record_without_the_given_labels_is_ordered_by_the_margins() -> None:
    logits = torch.tensor([[0.5, -5.0], *4 * [[3.0, -5.0]]])
    statistics = replace(record(logits, torch.tensor([[1, 0], *4 * [[0, 0]]])), unit_given=None)
    expected = [log_odds_of_all([0.5, 5.0]), *4 * [log_odds_of_all([-3.0, 5.0])]]
    np.testing.assert_allclose(odds_as_given(statistics), expected, rtol=1e-6)


def test_labels_that_the_loss_ignored_do_not_count_in_the_order() -> None:
    both = record(torch.tensor([[0.5, -5.0], [3.0, -5.0]]), torch.tensor([[1, 0], [1, 0]]))
    assert both.unit_margins is not None
    one = replace(
        both, unit_given=None, unit_margins=np.where([[False, True], [True, True]], np.nan, both.unit_margins)
    )
    np.testing.assert_allclose(odds_as_given(one), [0.5, np.nan], rtol=1e-6)


def test_missing_labels_count_although_others_are_predicted_more_surely() -> None:
    # there: c = 40 / 200, f = 1 / 10, so that v = .1 + .1 (.2 - .1) = .11 of 200 labels; missing: 0 of 200
    assert unit_noise_rate(missing_labels()).value == pytest.approx(1 - (1 - 0.11 / 2) ** 2)


def test_no_more_samples_are_wrong_than_have_a_doubted_label() -> None:
    rate = unit_noise_rate(missing_labels(doubted=1))
    # c = 1 / 200 and f, which is 1 / 10 of the surest, at most c: v = 1 / 400 of all labels
    assert rate.value == pytest.approx(1 - (1 - 1 / 400) ** 2)
    assert rate.low == 0
    assert rate.value < 1 / N < rate.high


def test_the_bound_of_tokens_counts_samples_that_are_not_learned_yet() -> None:
    dynamics = TrainingDynamics(40)
    logits = torch.zeros(40, 2, 5)
    logits[:, 1] = torch.linspace(-2, 2, 40)[:, None]  # half of them are contradicted, and none stands out
    dynamics.update_units(list(range(40)), dense(logits, torch.zeros(40, 5, dtype=torch.int64)))
    dynamics.end_epoch(0)
    rate = dense_noise_rate(dynamics.compute())
    assert rate.value == 0
    assert rate.high >= 0.5
    assert bounds_doubts(rate)


def test_a_rate_of_nothing_is_doubted() -> None:
    dynamics = TrainingDynamics(40)
    logits = torch.zeros(40, 2, 2, 5)
    logits[:, 1] = torch.linspace(-2, -1, 40)[:, None, None]
    dynamics.update_units(list(range(40)), dense(logits, torch.zeros(40, 2, 5, dtype=torch.int64)))
    dynamics.end_epoch(0)
    rate = assess(dynamics.compute()).noise_rate
    assert rate.value == 0
    assert rate.doubts[-1].startswith("Not one sample stands out")


def test_more_than_half_of_the_samples_may_have_a_wrong_label() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2000, 10, generator=generator) < 0.5
    flipped = torch.rand(2000, 10, generator=generator) < 0.15
    logits = torch.where(truth, 1.0, -1.0) * (1 + torch.rand(2000, 10, generator=generator))
    rate = unit_noise_rate(record(logits, (truth ^ flipped).long())).value
    assert rate == pytest.approx(1 - 0.85**10, abs=0.05)  # .80


def test_a_record_without_the_given_labels_counts_all_labels_together() -> None:
    statistics = replace(missing_labels(), unit_given=None)
    assert unit_noise_rate(statistics).value == 0  # the twentieth that is surest is of the label nobody has
