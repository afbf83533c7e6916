"""Points set where a curve bends: counted, compared with the whole curve, and honest about their error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynalens.faithfulness import Curve, CurveSettings, deletion_curve, faithfulness_curves
from toys import SumOfPixels


def auto(tolerance: float = 0.02) -> CurveSettings:
    return CurveSettings("zero", "auto", tolerance=tolerance)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.006, 0.1), st.floats(0.1, 5))
def test_the_estimate_reaches_the_tolerance_and_covers_the_error_of_monotone_curves(
    seed: int, tolerance: float, scale: float
) -> None:
    # Only positive pixels: the sum, and so the probability, falls and rises monotonically.
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * scale / 10
    y = torch.zeros(3).long()
    found = faithfulness_curves(SumOfPixels(), x, y, x[:, 0], auto(tolerance))
    exact = faithfulness_curves(SumOfPixels(), x, y, x[:, 0], CurveSettings("zero", 256))
    for name, curve in found.items():
        assert (curve.errors <= tolerance + 1e-6).all()
        assert ((curve.areas - exact[name].areas).abs() <= curve.errors + 1e-6).all()
        # Every point is a point of the whole curve.
        at = (curve.fractions * 256).round().long()
        torch.testing.assert_close(curve.values, exact[name].values.gather(1, at), atol=1e-5, rtol=0)


def test_a_flat_curve_needs_no_more_than_the_first_points_and_a_step_is_bisected() -> None:
    class Threshold(torch.nn.Module):
        """Certain while more than 100 of 256 pixels are there."""

        def forward(self, x: Tensor) -> Tensor:
            there = (x.flatten(1).sum(dim=1) > 100).float() * 40 - 20
            return torch.stack([there, torch.zeros_like(there)], dim=1)

    x, maps = torch.ones(1, 1, 16, 16), torch.arange(256.0).view(1, 16, 16)
    flat = faithfulness_curves(SumOfPixels(), x * 0, torch.tensor([0]), maps, auto())["deletion"]
    assert flat.fractions.tolist() == [[0, 0.25, 0.5, 0.75, 1]]
    assert flat.evaluations.tolist() == [3]
    assert flat.errors.tolist() == [0]
    # It falls between 155 and 156 replaced pixels: in 128-192, 128-160, 144-160, 152-160, and 8 / 256 / 2 < 0.02.
    step = faithfulness_curves(Threshold(), x, torch.tensor([0]), maps, auto())["deletion"]
    assert (step.fractions * 256).tolist() == [[0, 64, 128, 144, 152, 160, 192, 256]]
    assert step.evaluations.tolist() == [6]
    assert float(step.errors) == pytest.approx(8 / 256 / 2, rel=1e-4)


def test_curves_with_fewer_points_repeat_their_last() -> None:
    x = torch.cat([torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.3)])
    curve = faithfulness_curves(SumOfPixels(), x, torch.zeros(2).long(), torch.rand(2, 8, 8), auto())["insertion"]
    few = int(curve.evaluations[0])
    assert few < int(curve.evaluations[1])
    assert (curve.fractions[0, few + 1 :] == 1).all()
    assert float(curve.areas[0]) == pytest.approx(0.5)


def test_tiny_images_end_at_single_pixels() -> None:
    x = torch.tensor([[[[9.0, 0.0]]]])
    curve = faithfulness_curves(SumOfPixels(), x, torch.tensor([0]), x[:, 0], auto(1e-6))["deletion"]
    assert curve.fractions.tolist() == [[0, 0.5, 1]]
    torch.testing.assert_close(curve.values, torch.tensor([[sigmoid(9), 0.5, 0.5]]))


def test_a_curve_that_never_gets_smooth_is_left() -> None:
    class Wild(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wild = (x.flatten(1).sum(dim=1) * 12.9898).sin() * 20
            return torch.stack([wild, torch.zeros_like(wild)], dim=1)

    x = torch.ones(1, 1, 41, 41)
    curve = faithfulness_curves(Wild(), x, torch.tensor([0]), torch.rand(1, 41, 41), auto(1e-4))["deletion"]
    assert 100 < int(curve.evaluations) <= 128
    assert float(curve.errors) > 1e-4


def test_curves_are_resampled_by_straight_lines() -> None:
    curve = Curve(
        torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.0, 0.25, 1.0]], dtype=torch.float64), torch.tensor([1])
    )
    drawn = curve.resampled(torch.tensor([0, 0.125, 0.25, 0.625, 1], dtype=torch.float64))
    torch.testing.assert_close(drawn, torch.tensor([[1, 0.75, 0.5, 0.25, 0]]))


def test_single_curves_have_a_number_of_steps() -> None:
    with pytest.raises(ValueError, match="`steps` to be a number, got 'auto'"):
        deletion_curve(SumOfPixels(), torch.ones(1, 1, 2, 2), torch.tensor([0]), torch.rand(1, 2, 2), steps="auto")  # type: ignore[arg-type]  # on purpose
