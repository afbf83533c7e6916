"""Gains, controls, noise, agreement and localisation by hand and against peers."""

import itertools
import math
from typing import Any

import captum.metrics
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynalens.faithfulness import (
    CurveSettings,
    area_under_curve,
    attribution_drift,
    average_drop,
    average_increase,
    box_masks,
    cascading_randomisation,
    check_metrics,
    class_sensitivity,
    deletion_curve,
    faithfulness_curves,
    infidelity,
    measure,
    pointing_game,
    random_ranking,
    random_ranking_control,
    randomisation_check,
    randomised,
    rank_correlation,
    relevance_mass,
    replaced_fractions,
    rescaled,
    rescaled_curve,
    runner_up,
    sensitivity_max,
    symmetric_relevance_gain,
)
from toys import Linear, SmallCNN, SumOfPixels

IMAGE = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
FIRST = torch.tensor([0])
ZERO = CurveSettings("zero", steps=4)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def area(*logits: float) -> float:
    """Trapezoid area over evenly spaced points."""
    p = [sigmoid(z) for z in logits]
    return sum((a + b) / 2 for a, b in itertools.pairwise(p)) / (len(p) - 1)


def test_the_gain_is_least_minus_most_relevant_first_by_hand() -> None:
    gain = symmetric_relevance_gain(SumOfPixels(), IMAGE, FIRST, IMAGE[:, 0], ZERO)
    assert float(gain) == pytest.approx(area(10, 9, 7, 4, 0) - area(10, 6, 3, 1, 0), abs=1e-6)
    assert float(gain) > 0


def test_the_gain_is_that_of_the_two_deletion_curves() -> None:
    torch.manual_seed(0)
    model, x, y, maps = SmallCNN(), torch.randn(3, 1, 6, 6), torch.tensor([0, 1, 2]), torch.rand(3, 6, 6)
    areas = [
        area_under_curve(deletion_curve(model, x, y, maps, steps=7, least_first=least), replaced_fractions(36, 7))
        for least in (True, False)
    ]
    gain = symmetric_relevance_gain(model, x, y, maps, CurveSettings(steps=7))
    # round(k * 36 / 7) is symmetric, so both read the same points.
    torch.testing.assert_close(gain, areas[0] - areas[1])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_the_reversed_map_has_the_opposite_gain(seed: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 1, 4, 4, generator=generator)
    maps = torch.randperm(32, generator=generator).view(2, 4, 4).float()
    y, chosen = torch.zeros(2).long(), CurveSettings("mean", steps)
    gain = symmetric_relevance_gain(SumOfPixels(), x, y, maps, chosen)
    torch.testing.assert_close(gain, -symmetric_relevance_gain(SumOfPixels(), x, y, -maps, chosen))


def test_contributions_are_the_best_ranking_of_a_linear_model() -> None:
    model, x, y = Linear(9, 2), torch.rand(1, 1, 3, 3), torch.tensor([1])
    weight = model.layer.weight.detach()
    contribution = ((weight[1] - weight[0]) * x.flatten()).view(1, 3, 3)
    settings_ = CurveSettings("zero", steps=9)
    curve = faithfulness_curves(model, x, y, contribution, settings_)["deletion"]
    bias = float((model.layer.bias[1] - model.layer.bias[0]).detach())
    falling = contribution.flatten().sort(descending=True).values
    logits = [bias + float(falling[k:].sum()) for k in range(10)]
    torch.testing.assert_close(curve.values, torch.tensor([[sigmoid(z) for z in logits]]))
    best = float(symmetric_relevance_gain(model, x, y, contribution, settings_))
    for seed in range(20):
        other = symmetric_relevance_gain(model, x, y, random_ranking(x, seed), settings_)
        assert float(other) <= best + 1e-6


def test_random_rankings_gain_nothing_on_average_and_know_only_their_seed() -> None:
    x, y = IMAGE.repeat(2000, 1, 1, 1) / 4, torch.zeros(2000).long()
    control = random_ranking_control(SumOfPixels(), x, y, ZERO)
    gains = control["insertion"].areas - control["deletion"].areas
    # The largest gain, that of the true ranking; 2,000 draws of at most that leave a standard error of 0.0024.
    largest = area(2.5, 2.25, 1.75, 1, 0) - area(2.5, 1.5, 0.75, 0.25, 0)
    assert float(gains.max()) == pytest.approx(largest, abs=1e-5)
    assert largest > 0.1
    assert abs(float(gains.mean())) < 0.01
    again = random_ranking_control(SumOfPixels(), x[:3], y[:3], ZERO)
    assert torch.equal(again["deletion"].values, control["deletion"].values[:3])
    other = random_ranking_control(SumOfPixels(), x[:3], y[:3], CurveSettings("zero", 4, seed=1))
    assert not torch.equal(again["deletion"].values, other["deletion"].values)
    assert control["deletion"].evaluations.tolist() == [3] * 2000  # the budget of a map


def test_rescaled_curves_run_from_one_to_zero_unless_there_is_nothing_between() -> None:
    curves = faithfulness_curves(SumOfPixels(), IMAGE / 4, FIRST, IMAGE[:, 0], ZERO)
    own = rescaled(curves)
    top, bottom = sigmoid(2.5), 0.5
    by_hand = [(sigmoid(z / 4) - bottom) / (top - bottom) for z in (10, 6, 3, 1, 0)]
    torch.testing.assert_close(own["deletion"].values, torch.tensor([by_hand]))
    by_hand = [(sigmoid(z / 4) - bottom) / (top - bottom) for z in (0, 4, 7, 9, 10)]
    torch.testing.assert_close(own["insertion"].values, torch.tensor([by_hand]))
    flat = rescaled_curve(torch.tensor([[0.52, 0.5]]), torch.tensor([0.52]), torch.tensor([0.5]))
    assert flat.isnan().all()
    rising = rescaled_curve(torch.tensor([[0.1, 0.9]]), torch.tensor([0.1]), torch.tensor([0.9]))
    assert rising.tolist() == [[1, 0]]


def test_drop_and_increase_by_hand() -> None:
    x = torch.tensor([[[[1.0, 5.0]]], [[[-3.0, 1.0]]], [[[1.0, 2.0]]]])
    maps = torch.tensor([[[0.0, 8.0]], [[2.0, 4.0]], [[7.0, 7.0]]])  # as masks (0, 1), (0, 1) and (1, 1)
    y = torch.zeros(3).long()
    drop = average_drop(SumOfPixels(), x, y, maps)
    torch.testing.assert_close(drop, torch.tensor([(sigmoid(6) - sigmoid(5)) / sigmoid(6), 0.0, 0.0]))
    assert average_increase(SumOfPixels(), x, y, maps, logits=SumOfPixels()(x)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_captums_for_the_same_perturbations(normalize: bool) -> None:
    torch.manual_seed(1)
    model, x, y = SmallCNN().eval(), torch.randn(3, 1, 6, 6), torch.tensor([2, 0, 1])
    maps, noises = torch.randn(3, 1, 6, 6), torch.randn(4, 3, 1, 6, 6)
    mine, theirs = iter(noises), noises.transpose(0, 1).reshape(12, 1, 6, 6)

    def perturb(images: Tensor) -> tuple[Tensor, Tensor]:
        return theirs, images - theirs

    found = infidelity(model, x, y, maps, perturb=lambda *_: next(mine), samples=4, normalize=normalize)
    peer = captum.metrics.infidelity(model, perturb, x, maps, target=y, n_perturb_samples=4, normalize=normalize)
    torch.testing.assert_close(found, peer.detach(), rtol=1e-4, atol=1e-5)


def test_a_linear_model_is_explained_by_its_weights_without_infidelity() -> None:
    model, x = Linear(6, 2), torch.randn(2, 1, 2, 3)
    weights = model.layer.weight.detach()[1].view(1, 1, 2, 3).expand(2, 1, 2, 3)
    exact = infidelity(model, x, torch.tensor([1, 1]), weights)
    torch.testing.assert_close(exact, torch.zeros(2), atol=1e-6, rtol=0)
    assert (infidelity(model, x, torch.tensor([1, 1]), weights + 1) > 1e-3).all()
    with pytest.raises(ValueError, match=r"`maps` of the shape of `images`, \(2, 1, 2, 3\), got \(2, 2, 3\)"):
        infidelity(model, x, torch.tensor([1, 1]), weights[:, 0])


def test_sensitivity_is_captums_for_the_same_noise() -> None:
    torch.manual_seed(1)
    x, noises = torch.randn(3, 1, 4, 4), torch.randn(5, 3, 1, 4, 4) / 10
    theirs, mine = noises.transpose(0, 1).reshape(15, 1, 4, 4), iter(noises)

    def explain(images: Any) -> Any:
        return (images[0] ** 2,) if isinstance(images, tuple) else images**2

    peer = captum.metrics.sensitivity_max(explain, x, perturb_func=lambda images: images + theirs, n_perturb_samples=5)
    torch.testing.assert_close(sensitivity_max(explain, x, perturb=lambda *_: next(mine), samples=5), peer)


def test_noise_is_own_and_seeded() -> None:
    state, x = torch.get_rng_state(), torch.ones(2, 1, 4, 4)
    first = sensitivity_max(lambda images: images**3, x)
    assert torch.equal(first, sensitivity_max(lambda images: images**3, x))
    assert not torch.equal(first, sensitivity_max(lambda images: images**3, x, seed=1))
    assert (first < 0.07).all()  # 1.02^3 - 1
    infidelity(SumOfPixels(), x, torch.zeros(2).long(), x)
    assert torch.equal(torch.get_rng_state(), state)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30))
def test_rank_correlation_is_that_of_pandas_mean_ranks(pairs: list[tuple[int, int]]) -> None:
    a, b = (torch.tensor([[float(pair[i]) for pair in pairs]]) for i in (0, 1))
    found = float(rank_correlation(a, b))
    ranks = [pd.Series(values[0].numpy()).rank() for values in (a, b)]
    if any(r.nunique() == 1 for r in ranks):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(np.corrcoef(ranks[0], ranks[1])[0, 1], abs=1e-5)


def test_drift_compares_maps_of_one_image_with_an_earlier_epoch() -> None:
    maps = torch.arange(12.0).view(2, 2, 3)
    assert attribution_drift(maps, maps.exp()).tolist() == pytest.approx([1, 1])
    assert attribution_drift(maps, -maps).tolist() == pytest.approx([-1, -1])
    with pytest.raises(ValueError, match=r"`others` of the shape of `maps`, \(2, 2, 3\), got \(1, 2, 3\)"):
        attribution_drift(maps, maps[:1])


def test_class_sensitivity_tells_maps_that_ignore_the_class() -> None:
    x, y, other = torch.rand(2, 3, 3), torch.tensor([0, 1]), torch.tensor([1, 0])
    assert class_sensitivity(lambda images, _: images, x, y, other).tolist() == pytest.approx([1, 1])
    signs = torch.tensor([1.0, -1.0])
    opposite = class_sensitivity(lambda images, targets: images * signs[targets].view(-1, 1, 1), x, y, other)
    assert opposite.tolist() == pytest.approx([-1, -1])
    with pytest.raises(ValueError, match=r"`other_targets` to name another class .* got the same class for 2 of 2"):
        class_sensitivity(lambda images, _: images, x, y, y)
    assert runner_up(torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([1])).tolist() == [2]


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).gather(1, y.unsqueeze(1)).sum(), x)[0].abs().amax(dim=1)


def test_random_weights_change_a_gradient_and_not_an_edge_detector() -> None:
    torch.manual_seed(0)
    model, x, y = SmallCNN().eval(), torch.randn(2, 1, 6, 6), torch.tensor([0, 1])
    state, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    assert randomisation_check(model, lambda _, images, __: images[:, 0], x, y).tolist() == pytest.approx([1, 1])
    changed = randomisation_check(model, gradient, x, y)
    assert (changed < 0.95).all()
    assert torch.equal(changed, randomisation_check(model, gradient, x, y))
    layers = cascading_randomisation(model, gradient, x, y)
    assert list(layers) == ["head", "norm", "conv"]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    other = dict(randomised(model).named_parameters())
    assert not torch.equal(model.conv.weight, other["conv.weight"])
    assert not torch.equal(model.head.weight, other["head.weight"])


def test_parameters_that_no_layer_initialises_are_randomised_too() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.full((1000,), 7.0))

    position = next(randomised(Positions()).parameters()).detach()
    assert float(position.mean()) == pytest.approx(0, abs=0.003)
    assert float(position.std()) == pytest.approx(0.02, rel=0.1)


def test_pointing_and_mass_by_hand() -> None:
    maps = torch.tensor([[[0.0, 9.0], [1.0, 2.0]], [[5.0, 5.0], [0.0, -1.0]]])
    boxes = torch.tensor([[1, 0, 2, 2], [0, 0, 1, 1]])
    assert box_masks(boxes, (2, 2)).tolist() == [[[False, True], [False, True]], [[True, False], [False, False]]]
    assert pointing_game(maps, boxes).tolist() == [1, 0.5]
    torch.testing.assert_close(relevance_mass(maps, boxes), torch.tensor([11 / 12, 0.5]))
    assert pointing_game(maps, box_masks(boxes, (2, 2))).tolist() == [1, 0.5]
    several = [torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]]), torch.tensor([[1, 1, 2, 2]])]
    assert pointing_game(maps, several).tolist() == [0, 0]
    assert pointing_game(maps, several, tolerance=1).tolist() == [1, 1]
    assert relevance_mass(-maps[:1] - 1, boxes[:1]).isnan().all()
    with pytest.raises(ValueError, match=r"`regions` to be masks of the shape of `maps`, \(2, 2, 2\), or boxes"):
        pointing_game(maps, torch.ones(2, 3, 3))


def test_metrics_by_name_are_the_functions_of_that_name() -> None:
    torch.manual_seed(0)
    model, x, y, maps = SmallCNN(), torch.randn(3, 1, 6, 6), torch.tensor([0, 1, 2]), torch.rand(3, 6, 6)
    chosen = CurveSettings("mean", 6)
    names = (
        "deletion", "symmetric_relevance_gain", "insertion_rescaled", "deletion_rescaled", "average_drop",
        "average_increase", "attribution_drift",
    )  # fmt: skip
    found = measure(model, x, y, maps, names, chosen)
    curves = faithfulness_curves(model, x, y, maps, chosen)
    expected = {
        "deletion": curves["deletion"].areas,
        "symmetric_relevance_gain": symmetric_relevance_gain(model, x, y, maps, chosen),
        "insertion_rescaled": rescaled(curves)["insertion"].areas,
        "deletion_rescaled": rescaled(curves)["deletion"].areas,
        "average_drop": average_drop(model, x, y, maps),
        "average_increase": average_increase(model, x, y, maps),
    }
    assert list(found.values) == [name for name in names if name != "attribution_drift"]
    for name, values in expected.items():
        torch.testing.assert_close(found.values[name], values, equal_nan=True)
    assert measure(model, x, y, maps, ("attribution_drift",)).values == {}
    assert check_metrics("deletion") == ("deletion",)


def test_maps_with_nan_have_no_rank_correlation() -> None:
    maps = torch.tensor([[1.0, math.nan, 3.0], [1.0, 2.0, 3.0]])
    assert rank_correlation(maps, torch.tensor([[1.0, 2.0, 3.0]] * 2)).isnan().tolist() == [True, False]


def test_maps_of_half_precision_are_measured_in_float32() -> None:
    change = sensitivity_max(lambda x: x.half(), torch.full((1, 1, 2, 2), 3e4), perturb=lambda x, _: x / 10)
    torch.testing.assert_close(change, torch.tensor([0.1]), rtol=5e-3, atol=0)  # squares exceed 65504
    of_range = torch.tensor([[[-6e4, 6e4], [0.0, 0.0]]], dtype=torch.float16)  # 12e4 from end to end
    drop = average_drop(SumOfPixels(), IMAGE, FIRST, of_range)
    left = 0 * 4 + 1 * 3 + 0.5 * (2 + 1)
    torch.testing.assert_close(drop, torch.tensor([1 - sigmoid(left) / sigmoid(10)]))


@pytest.mark.parametrize("steps", [4, "auto"])
def test_a_batch_without_images_has_no_curves(steps: Any) -> None:
    control = random_ranking_control(SumOfPixels(), IMAGE[:0], FIRST[:0], CurveSettings("zero", steps=steps))
    assert [curve.areas.shape for curve in control.values()] == [(0,), (0,)]


def test_noise_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="`samples` to be at least 1, got 0"):
        infidelity(SumOfPixels(), IMAGE, FIRST, IMAGE, samples=0)
    with pytest.raises(ValueError, match="`samples` to be at least 1, got 0"):
        sensitivity_max(lambda x: x, IMAGE, samples=0)
