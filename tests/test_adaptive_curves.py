"""Points set where a curve bends: counted, compared with the whole curve, and honest about their error."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynalens.explanations.dense import joined_curve
from dynalens.faithfulness import Curve, CurveSettings, deletion_curve, faithfulness_curves
from toys import SumOfPixels


def auto(tolerance: float = 0.006) -> CurveSettings:
    return CurveSettings("zero", "auto", tolerance=tolerance)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


class Falling(torch.nn.Module):
    """Gives class 0 the probability that a function says of the number of pixels, all 1, that were replaced by 0."""

    def __init__(self, probability: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        z = self.probability(x[0].numel() - x.flatten(1).sum(dim=1)).clamp(1e-7, 1 - 1e-7).logit()
        return torch.stack([z, torch.zeros_like(z)], dim=1)


def deletion(probability: Callable[[Tensor], Tensor], chosen: CurveSettings) -> Curve:
    """Return the curve of 256 pixels."""
    x, maps = torch.ones(1, 1, 16, 16), torch.arange(256.0).view(1, 16, 16)
    return faithfulness_curves(Falling(probability), x, torch.tensor([0]), maps, chosen)["deletion"]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.006, 0.1), st.floats(0.1, 5))
def test_no_steep_interval_is_left_and_the_estimate_covers_the_error_of_monotone_curves(
    seed: int, tolerance: float, scale: float
) -> None:
    # Only positive pixels: the sum, and so the probability, falls and rises monotonically.
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * scale / 10
    y = torch.zeros(3).long()
    found = faithfulness_curves(SumOfPixels(), x, y, x[:, 0], auto(tolerance))
    exact = faithfulness_curves(SumOfPixels(), x, y, x[:, 0], CurveSettings("zero", 256))
    for name, curve in found.items():
        # At least half of an interval's rise counts, whatever is beside it.
        rise, width = curve.values.diff(dim=1).abs(), curve.fractions.diff(dim=1)
        assert ((rise * width <= 2 * tolerance + 1e-6) | (width <= 1 / 256)).all()
        assert ((curve.areas - exact[name].areas).abs() <= curve.errors + 1e-6).all()
        # Every point is a point of the whole curve.
        at = (curve.fractions * 256).round().long()
        torch.testing.assert_close(curve.values, exact[name].values.gather(1, at), atol=1e-5, rtol=0)


def test_a_flat_curve_needs_no_more_than_the_first_points() -> None:
    flat = deletion(lambda replaced: torch.full_like(replaced, 0.5), auto())
    assert (flat.fractions * 8).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8]]
    assert flat.evaluations.tolist() == [7]
    assert flat.errors.tolist() == [0]


def test_a_line_is_halved_by_its_rise_times_width() -> None:
    def line(replaced: Tensor) -> Tensor:
        return 0.75 - replaced / 512

    # Each eighth weighs 1/16 * 1/8 = 0.0078, each sixteenth 1/32 * 1/16 = 0.002.
    coarse, fine = deletion(line, auto(0.008)), deletion(line, auto(0.006))
    assert coarse.evaluations.tolist() == [7]
    assert (fine.fractions[0] * 16).tolist() == list(range(17))
    assert float(fine.areas) == pytest.approx(0.5, abs=1e-6)
    assert float(fine.errors) == pytest.approx(0.5 / 16 / 2, rel=1e-4)


def test_a_step_is_bisected() -> None:
    # It falls behind 155 replaced pixels. With t = 0.02, an interval with the step is halved down to a width of 1/32,
    # for half of its rise counts: 128-160, 144-160. A quarter counts beside it, down to 1/16: 96-128, 160-192.
    step = deletion(lambda replaced: (replaced < 156).float(), auto(0.02))
    expected = [0, 32, 64, 96, 112, 128, 144, 152, 160, 176, 192, 224, 256]
    assert (step.fractions * 256).tolist() == [expected]
    assert step.evaluations.tolist() == [11]
    assert float(step.errors) == pytest.approx(8 / 256 / 2, rel=1e-4)


def test_a_bump_beside_a_step_is_found_between_ends_that_agree() -> None:
    def bumpy(replaced: Tensor) -> Tensor:
        return ((replaced < 116) | ((replaced >= 140) & (replaced <= 148))).float()

    # 1: the step weighs 1/2 * 1/8 > 0.02 and either side of it 1/4 * 1/8: 80, 112 and, in the bump, 144.
    # 2: of the sixteenths 112-160 the rises are 1, 1, 1, of weights 3/4, 1, 3/4 over 16: 120, 136, 152; 1/4 of the
    #    last lies beside 160-192: 176.  3: beside each other, 136-144-152 weigh 3/4 over 32: 140, 148.
    curve = deletion(bumpy, auto(0.02))
    expected = [0, 32, 64, 80, 96, 112, 120, 128, 136, 140, 144, 148, 152, 160, 176, 192, 224, 256]
    assert (curve.fractions * 256).tolist() == [expected]
    # By hand: 112 + 8 / 2 for the step, 8 + 2 * 4 / 2 for the bump; in truth 115.5 and 9.
    assert float(curve.areas) == pytest.approx(128 / 256, abs=1e-5)
    assert float(curve.errors) == pytest.approx((8 + 4 + 4) / 256 / 2, rel=1e-4)


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


def test_curves_of_single_samples_with_other_numbers_of_points_keep_their_areas() -> None:
    two = Curve(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 1.0]]).double(), torch.tensor([0]))
    three = Curve(torch.tensor([[1.0, 0.5, 0.25]]), torch.tensor([[0.0, 0.5, 1.0]]).double(), torch.tensor([1]))
    joined = joined_curve([two, three])
    assert joined.values.tolist() == [[1.0, 0.5, 0.5], [1.0, 0.5, 0.25]]
    assert joined.fractions.tolist() == [[0.0, 1.0, 1.0], [0.0, 0.5, 1.0]]
    assert joined.areas.tolist() == [0.75, 0.5625]
