"""Curves and areas by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynalens.faithfulness import (
    area_under_curve,
    baseline_images,
    check_metrics,
    deletion_curve,
    faithfulness_curves,
    insertion_curve,
    replaced_fractions,
    replaced_pixels,
)
from toys import SmallCNN, SumOfPixels

IMAGE = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
FIRST = torch.tensor([0])


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_curves_of_a_sum_of_pixels_by_hand() -> None:
    # The sum falls 10, 6, 3, 1, 0 as the largest pixels go; it rises 0, 4, 7, 9, 10 as they come.
    deletion = deletion_curve(SumOfPixels(), IMAGE, FIRST, IMAGE[:, 0], steps=4, baseline="zero")
    insertion = insertion_curve(SumOfPixels(), IMAGE, FIRST, IMAGE[:, 0], steps=4, baseline="zero")
    torch.testing.assert_close(deletion, torch.tensor([[sigmoid(z) for z in (10, 6, 3, 1, 0)]]))
    torch.testing.assert_close(insertion, torch.tensor([[sigmoid(z) for z in (0, 4, 7, 9, 10)]]))


def test_areas_by_hand() -> None:
    curve = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 1.0]])
    fractions = torch.tensor([0.0, 0.2, 1.0])
    # 0.2 * 0.75 + 0.8 * 0.25 and 0.8 * 0.5.
    torch.testing.assert_close(area_under_curve(curve, fractions), torch.tensor([0.35, 0.4]))


def test_the_target_is_the_class_asked_for() -> None:
    curve = deletion_curve(SumOfPixels(), IMAGE, torch.tensor([1]), IMAGE[:, 0], steps=1, baseline="zero")
    torch.testing.assert_close(curve, torch.tensor([[sigmoid(-10), 0.5]]))


class Counting:
    """Notes how many pixels of each image are 1, and gives logits that say nothing."""

    def __init__(self) -> None:
        self.ones: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.ones += [int(n) for n in x.flatten(1).sum(dim=1)]
        return torch.zeros(len(x), 2)


@settings(deadline=None, max_examples=60)
@given(
    side=st.integers(1, 7),
    steps=st.integers(1, 12),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 5),
    chunk_size=st.integers(1, 9),
)
def test_each_step_replaces_exactly_its_number_of_pixels_whatever_the_ties(
    side: int, steps: int, zeros: float, seed: int, chunk_size: int
) -> None:
    pixels, counting = side * side, Counting()
    relevance = torch.rand(2, side, side)
    relevance.view(2, -1)[:, : round(zeros * pixels)] = 0
    deletion_curve(
        counting, torch.zeros(2, 1, side, side), torch.zeros(2).long(), relevance,
        baseline=torch.ones(1), steps=steps, seed=seed, chunk_size=chunk_size,
    )  # fmt: skip
    assert counting.ones == [round(k * pixels / steps) for k in range(steps + 1)] * 2


def test_sixty_percent_zeros_are_replaced_last_and_in_exact_numbers() -> None:
    relevance = torch.zeros(1, 5, 5)
    relevance.view(-1)[:10] = torch.arange(10) + 1.0
    kept: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        kept.extend(x[:, 0])
        return torch.zeros(len(x), 2)

    deletion_curve(model, torch.ones(1, 1, 5, 5), FIRST, relevance, baseline="zero", steps=5)
    assert [int(25 - image.sum()) for image in kept] == [0, 5, 10, 15, 20, 25]
    # After two of five steps, all ten relevant pixels are gone and all zeros are still there.
    assert torch.equal(kept[2], (relevance[0] == 0).float())


def test_ties_are_broken_by_the_seed_alone() -> None:
    x, flat = torch.arange(16.0).view(1, 1, 4, 4) / 100, torch.zeros(1, 4, 4)

    def curve(images: Tensor, seed: int) -> Tensor:
        maps = flat.expand(len(images), 4, 4)
        return deletion_curve(SumOfPixels(), images, torch.zeros(len(images)).long(), maps, seed=seed, baseline="zero")

    state = torch.get_rng_state()
    first = curve(x, 0)
    torch.manual_seed(123)
    assert torch.equal(curve(x, 0), first)
    assert not torch.equal(curve(x, 1), first)
    torch.testing.assert_close(curve(torch.cat([x * 2, x]), 0)[1:], first)  # whatever else is in the batch
    torch.set_rng_state(state)
    curve(x, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_channels_of_a_pixel_go_at_once() -> None:
    x = torch.tensor([[[[1.0, 2.0]], [[10.0, 20.0]]]]) / 10
    curve = deletion_curve(SumOfPixels(), x, FIRST, x[:, 0], steps=2, baseline="zero")
    torch.testing.assert_close(curve, torch.tensor([[sigmoid(3.3), sigmoid(1.1), 0.5]]))


@pytest.mark.parametrize("baseline", ["blur", "zero", "mean"])
def test_chunks_and_shared_metrics_change_nothing_and_images_stay(baseline: str) -> None:
    torch.manual_seed(0)
    model, x, y = SmallCNN(), torch.randn(3, 1, 8, 6), torch.tensor([0, 1, 2])
    before, maps = x.clone(), torch.rand(3, 8, 6)
    both = faithfulness_curves(model, x, y, maps, baseline=baseline, steps=7)
    for name, function in (("deletion", deletion_curve), ("insertion", insertion_curve)):
        torch.testing.assert_close(function(model, x, y, maps, baseline=baseline, steps=7, chunk_size=5), both[name])
    assert torch.equal(x, before)
    assert model.training
    p = model.eval()(x).softmax(1)[range(3), y].detach()
    torch.testing.assert_close(both["deletion"][:, 0], p)
    torch.testing.assert_close(both["insertion"][:, -1], p)
    torch.testing.assert_close(both["deletion"][:, -1], both["insertion"][:, 0])


def test_a_half_precision_model_is_scored() -> None:
    curves = faithfulness_curves(SmallCNN().bfloat16(), torch.randn(2, 1, 4, 4), FIRST.expand(2), torch.rand(2, 4, 4))
    assert {curve.dtype for curve in curves.values()} == {torch.float32}


def test_counts_are_pythons_round() -> None:
    assert replaced_pixels(4, 8) == [0, 0, 1, 2, 2, 2, 3, 4, 4]
    assert replaced_fractions(4, 2).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="`steps` to be at least 1, got 0"):
        replaced_pixels(4, 0)


def test_baselines_by_hand() -> None:
    assert torch.equal(baseline_images(IMAGE, "zero"), torch.zeros(1, 1, 2, 2))
    assert torch.equal(baseline_images(IMAGE, "mean"), torch.full((1, 1, 2, 2), 2.5))
    assert torch.equal(baseline_images(IMAGE, torch.tensor(7)), torch.full((1, 1, 2, 2), 7.0))
    with pytest.raises(ValueError, match="`baseline` to be one of blur, zero, mean or a tensor, got 'black'"):
        baseline_images(IMAGE, "black")


def test_the_blur_is_a_gaussian_that_keeps_the_mean_of_mirrored_edges() -> None:
    x = torch.zeros(1, 1, 17, 33)
    x[0, 0, 8, 16] = 1
    blurred = baseline_images(x, "blur")
    sigma = 33 / 8
    ratio = blurred[0, 0, 8, 20] / blurred[0, 0, 8, 16]
    assert float(ratio) == pytest.approx(math.exp(-0.5 * (4 / sigma) ** 2), rel=1e-4)
    torch.testing.assert_close(baseline_images(torch.full((2, 3, 5, 4), 2.0), "blur"), torch.full((2, 3, 5, 4), 2.0))
    assert baseline_images(torch.ones(1, 1, 1, 1), "blur").item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": torch.zeros(1, 1, 2, 2)}, r"`maps` \(N, H, W\), got .*\(1, 1, 2, 2\).*`reduce_channels`"),
        ({"maps": torch.zeros(1, 1, 2)}, r"got .*\(1, 1, 2\)"),
        ({"targets": torch.zeros(2).long()}, r"got .*\(2,\)"),
        ({"images": IMAGE[0]}, r"`images` \(N, C, H, W\)"),
        ({"maps": torch.full((1, 2, 2), torch.nan)}, "`maps` to be finite"),
        ({"metrics": ("road",)}, r"among deletion, insertion, got \['road'\]"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    given_arguments = {"images": IMAGE, "targets": FIRST, "maps": IMAGE[:, 0]} | arguments
    with pytest.raises(ValueError, match=message):
        faithfulness_curves(SumOfPixels(), **given_arguments)


def test_one_name_is_a_list_of_one() -> None:
    assert check_metrics("deletion") == ("deletion",)


def test_curves_are_scored_without_waiting_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def waited(*args: object) -> None:
        raise AssertionError("a value was read on the host")

    class Model(SumOfPixels):
        def forward(self, x: Tensor) -> Tensor:
            for name in ("item", "tolist", "cpu", "__bool__", "__int__", "__float__"):
                monkeypatch.setattr(Tensor, name, waited)
            return super().forward(x)

    try:
        deletion_curve(Model(), IMAGE, FIRST, IMAGE[:, 0], steps=4, chunk_size=1)
    finally:
        monkeypatch.undo()
