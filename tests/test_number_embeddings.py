"""Numbers of a regression that are judged by embeddings: what they predict, and the order of run and embeddings."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from dynalens.dynamics import SampleStatistics, TrainingDynamics
from dynalens.embeddings import LabelEvidence, number_evidence
from dynalens.embeddings.probe import fit_probe, number_loss, out_of_fold, principal_components
from dynalens.embeddings.stacking import stacked_numbers
from dynalens.suspicion import assess, joined_numbers
from dynalens.suspicion.labels_and_embeddings import joint_margins
from dynalens.units import regression


def test_the_probe_of_numbers_is_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x, variance = principal_components(torch.from_numpy(rng.normal(size=(200, 5)).astype(np.float32)))
    y = torch.from_numpy(rng.normal(size=(200, 2)).astype(np.float32))
    probe = fit_probe(x, variance, y, 0.1, loss=number_loss)
    # The mean over N samples of half the squared residual plus 0.1 / 2 |W|^2 is Ridge's with alpha = 0.1 N.
    peer = Ridge(alpha=0.1 * 200).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(probe.weight, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(probe.bias, peer.intercept_, atol=2e-3)


def test_each_number_is_predicted_by_a_probe_that_never_saw_it() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = x[:, :1].clone()
    before = out_of_fold(x, y, number_loss)
    y[7] += 3.0
    # Only sample 7 keeps its prediction: the other folds' probes were fitted to its number.
    assert before[7].item() == pytest.approx(x[7, 0].item(), abs=0.05)
    assert out_of_fold(x, y, number_loss)[7].item() == pytest.approx(before[7].item(), abs=0.2)


def linear_numbers(n: int = 300) -> tuple[torch.Tensor, np.ndarray[Any, Any]]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return x, (100 + 10 * x[:, :1]).double().numpy()


def test_a_number_far_from_what_the_embeddings_predict_has_the_smallest_margin() -> None:
    x, y = linear_numbers()
    y[5] += 60
    y[9] = np.nan
    evidence = number_evidence(x, y, np.array([10.0]))
    assert np.nanargmin(evidence.margins) == 5
    # ln(10 / 60) where the prediction is right; a few neighbours and a wrong target move it a little.
    assert evidence.margins[5, 0] == pytest.approx(np.log(10 / 60), abs=0.2)
    assert np.isnan(evidence.margins[9, 0])
    assert evidence.loss < evidence.entropy / 2


def test_embeddings_that_say_nothing_about_the_numbers_have_no_information() -> None:
    _, y = linear_numbers()
    x = torch.randn(300, 20, generator=torch.Generator().manual_seed(2))
    evidence = number_evidence(x, y, np.array([10.0]))
    assert evidence.loss > evidence.entropy - 0.01


def test_embeddings_say_nothing_without_known_numbers() -> None:
    evidence = number_evidence(torch.ones(3, 2), np.array([[np.nan], [np.nan], [1.0]]), np.ones(1))
    assert np.isnan(evidence.margins).all()
    assert (evidence.loss, evidence.entropy) == (0.0, 0.0)


def run_of(residuals: list[list[float]]) -> SampleStatistics:
    """The statistics of one epoch with these residuals of targets that are 0, with a tolerance of 1."""
    r = torch.tensor(residuals)
    dynamics = TrainingDynamics(len(r), tolerance=1.0)
    dynamics.update_units(torch.arange(len(r)), regression(r, torch.zeros_like(r), r.square()))
    dynamics.end_epoch(0)
    return dynamics.compute()


def test_margins_of_run_and_embeddings_are_joined_by_hand() -> None:
    # Both tell as much of the targets: w = 2. The margins -ln|r| of the run are 0, 1 and 2, those of the embeddings 4,
    # 2 and 0, with twice the standard deviation, so that they are halved: (0 + 2 * 2) / 3, (1 + 2) / 3, (2 + 0) / 3.
    run = run_of([[1.0], [float(np.exp(-1))], [float(np.exp(-2))]])
    evidence = LabelEvidence(np.array([[4.0], [2.0], [0.0]]), loss=0.5, entropy=1.0)
    joint = joint_margins(np.array([[0.0], [1.0], [2.0]]), evidence.margins, weight=2.0)
    np.testing.assert_allclose(joint[:, 0], [4 / 3, 1.0, 2 / 3])
    assert np.argsort(-assess(run).score).tolist() == [0, 1, 2]
    assert np.argsort(-joined_numbers(run, assess(run), evidence, run_loss=0.5).score).tolist() == [2, 1, 0]


def test_a_sample_is_as_suspicious_as_its_worst_number() -> None:
    run = run_of([[0.5, 0.5], [0.4, 0.4], [0.3, 0.3]])
    evidence = LabelEvidence(np.array([[1.0, 1.0], [1.0, -9.0], [1.0, np.nan]]), loss=0.5, entropy=1.0)
    assert joined_numbers(run, assess(run), evidence, run_loss=0.5).score.argmax() == 1


def test_the_rate_is_the_mean_of_run_and_embeddings() -> None:
    # Of twenty residuals none of the run stands out, and five of the embeddings: their distances are e^9 and 1 times
    # the tolerance. The run's rate is 0, and so is a geometric mean with it.
    run = run_of([[0.1 + 0.01 * i] for i in range(20)])
    margins = np.where(np.arange(20) < 5, -9.0, 0.0)[:, None]
    evidence = LabelEvidence(margins, loss=0.5, entropy=1.0)
    assessment = joined_numbers(run, assess(run), evidence, run_loss=0.5)
    assert assessment.noise_rate.value == 0
    assert assessment.noise_rate.high == pytest.approx(0.25)


def test_embeddings_that_know_nothing_change_no_number() -> None:
    run = run_of([[1.0], [0.5], [0.1]])
    assessment = assess(run)
    evidence = LabelEvidence(np.array([[4.0], [2.0], [0.0]]), loss=1.1, entropy=1.0)
    assert joined_numbers(run, assessment, evidence, run_loss=0.5) is assessment


@pytest.mark.parametrize("count", [22, 40, 60])
def test_random_embeddings_of_few_samples_tell_no_number(count: int) -> None:
    # The neighbours of each sample are nearly all others, whose mean is low exactly where its own number is high.
    y = np.random.default_rng(0).normal(size=(count, 1))
    evidence = number_evidence(torch.randn(count, 8, generator=torch.Generator().manual_seed(1)), y, np.ones(1))
    assert evidence.loss > evidence.entropy - 0.01


def test_a_model_that_counts_against_itself_is_left_out() -> None:
    z = np.array([[1.0], [2.0], [4.0], [5.0]])
    noise = np.array([[1.0], [-1.0], [-1.0], [1.0]])
    np.testing.assert_allclose(stacked_numbers(-z, z, z), z, atol=1e-9)  # the second alone
    np.testing.assert_allclose(stacked_numbers(z - noise, -noise, z), stacked_numbers(z - noise, 0 * z, z), atol=1e-9)
    np.testing.assert_allclose(stacked_numbers(-z, -z, z), np.full((4, 1), 3.0), atol=1e-9)  # neither: the mean
