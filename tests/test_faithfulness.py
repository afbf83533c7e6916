"""Curves and areas by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynalens.faithfulness import (
    CurveSettings,
    area_under_curve,
    baseline_images,
    check_metrics,
    deletion_curve,
    faithfulness_curves,
    insertion_curve,
    patch_relevance,
    replaced_fractions,
    replaced_pixels,
    tie_fraction,
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
    inner = sorted({round(k * pixels / steps) for k in range(steps + 1)} - {0, pixels})
    # All pixels once for both images, which share the baseline; none once for each; the rest, each number once.
    assert counting.ones == [pixels, 0, 0, *inner, *inner]


def test_sixty_percent_zeros_are_replaced_last_and_in_exact_numbers() -> None:
    relevance = torch.zeros(1, 5, 5)
    relevance.view(-1)[:10] = torch.arange(10) + 1.0
    kept: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        kept.extend(x[:, 0])
        return torch.zeros(len(x), 2)

    deletion_curve(model, torch.ones(1, 1, 5, 5), FIRST, relevance, baseline="zero", steps=5)
    assert [int(25 - image.sum()) for image in kept] == [25, 0, 5, 10, 15, 20]
    # After two of five steps, all ten relevant pixels are gone and all zeros are still there.
    assert torch.equal(kept[3], (relevance[0] == 0).float())


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
    curves = faithfulness_curves(model, x, y, maps, CurveSettings(baseline, steps=7))
    both = {name: curve.values for name, curve in curves.items()}
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
    assert {curve.values.dtype for curve in curves.values()} == {torch.float32}


def test_counts_are_pythons_round() -> None:
    assert replaced_pixels(4, 8) == [0, 0, 1, 2, 2, 2, 3, 4, 4]
    assert replaced_fractions(4, 2).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="`steps` to be at least 1, got 0"):
        replaced_pixels(4, 0)


def test_baselines_by_hand() -> None:
    assert torch.equal(baseline_images(IMAGE, "zero"), torch.zeros(1, 1, 2, 2))
    assert torch.equal(baseline_images(IMAGE, "mean"), torch.full((1, 1, 2, 2), 2.5))
    assert torch.equal(baseline_images(IMAGE, torch.tensor(7)), torch.full((1, 1, 2, 2), 7.0))
    with pytest.raises(
        ValueError, match=r"`baseline` to be one of .*mean, an integer, a tensor or a callable, got 'black'"
    ):
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
        ({"maps": torch.zeros(1, 1, 2, 2)}, r"`maps` \(N, \*spatial\), got .*\(1, 1, 2, 2\).*`reduce_channels`"),
        ({"maps": torch.zeros(1, 1, 2)}, r"got .*\(1, 1, 2\)"),
        ({"targets": torch.zeros(2).long()}, r"got .*\(2,\)"),
        ({"images": IMAGE[0, 0]}, r"`images` \(N, C, \*spatial\)"),
        ({"maps": torch.full((1, 2, 2), torch.nan)}, "`maps` to be finite"),
        ({"metrics": ("road",)}, r"among deletion, insertion, got road"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    given_arguments = {"images": IMAGE, "targets": FIRST, "maps": IMAGE[:, 0]} | arguments
    with pytest.raises(ValueError, match=message):
        faithfulness_curves(SumOfPixels(), **given_arguments)


def test_one_name_is_a_list_of_one() -> None:
    assert check_metrics("deletion") == ("deletion",)


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Notes every operation that brings a value to the host, and every pass of the model."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.events: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
            self.events.append("wait")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("baseline", ["blur", "zero", "mean"])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_curves_are_scored_without_waiting_for_the_device(baseline: str, patch_size: int) -> None:
    waits = Waits()

    def model(x: Tensor) -> Tensor:
        waits.events.append("forward")
        return SumOfPixels().forward(x)

    settings = CurveSettings(baseline, 4, patch_size, chunk_size=1)
    with waits:
        faithfulness_curves(model, torch.rand(2, 1, 4, 4), torch.zeros(2).long(), torch.rand(2, 4, 4), settings)
    first_wait = waits.events.index("wait")  # the check of the maps, at the end
    assert set(waits.events[first_wait:]) == {"wait"}
    assert len(waits.events[:first_wait]) == 2 * (2 * 3) + 2 + (1 if baseline == "zero" else 2)


def test_images_are_scored_in_at_most_twice_the_steps_and_known_logits_are_not_scored_again() -> None:
    x, y, maps = torch.rand(3, 1, 8, 8), torch.zeros(3).long(), torch.rand(3, 8, 8)
    seen: list[int] = []

    def model(images: Tensor) -> Tensor:
        seen.append(len(images))
        return SumOfPixels().forward(images)

    whole = faithfulness_curves(model, x, y, maps, CurveSettings("blur", 10))
    assert sum(seen) == 3 * 20
    seen.clear()
    known = faithfulness_curves(model, x, y, maps, CurveSettings("zero", 10), logits=SumOfPixels()(x))
    assert sum(seen) == 3 * 18 + 1
    torch.testing.assert_close(known["deletion"].values[:, 0], whole["deletion"].values[:, 0])
    assert whole["deletion"].evaluations.tolist() == [9] * 3


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from([(1, 4, 4), (3, 5, 3), (2, 7)]),
    chunk_size=st.integers(1, 40),
    steps=st.integers(1, 20),
    baseline=st.sampled_from(["blur", "zero", "mean"]),
    seed=st.integers(0, 9),
)
def test_curves_know_nothing_of_chunks_scales_and_leave_inputs_alone(
    shape: tuple[int, ...], chunk_size: int, steps: int, baseline: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, *shape, generator=generator)
    maps = torch.randint(-4, 5, (3, *shape[1:]), generator=generator).float()  # with ties
    y, before = torch.tensor([0, 1, 0]), (x.clone(), maps.clone())
    whole = faithfulness_curves(SumOfPixels(), x, y, maps, CurveSettings(baseline, steps, seed=seed))
    chunked = CurveSettings(baseline, steps, seed=seed, chunk_size=chunk_size)
    other = faithfulness_curves(SumOfPixels(), x, y, maps.exp() * 3 - 1, chunked)
    p_image = SumOfPixels()(x).softmax(1)[range(3), y]
    p_baseline = SumOfPixels()(baseline_images(x, baseline)).softmax(1)[range(3), y]
    for name, ends in (("deletion", (p_image, p_baseline)), ("insertion", (p_baseline, p_image))):
        torch.testing.assert_close(other[name].values, whole[name].values)
        torch.testing.assert_close(whole[name].values[:, 0], ends[0])
        torch.testing.assert_close(whole[name].values[:, -1], ends[1])
    assert torch.equal(x, before[0])
    assert torch.equal(maps, before[1])


def test_patches_are_replaced_whole_in_the_order_of_their_mean() -> None:
    # Means of the four 2 x 2 patches: 1, 4, 3, 2; the single largest pixel, 5, lies in the last.
    maps = torch.tensor([[[1.0, 1, 4, 4], [1, 1, 4, 4], [3, 3, 1, 1], [3, 3, 1, 5]]])
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.extend(x[:, 0])
        return torch.zeros(len(x), 2)

    deletion_curve(model, torch.ones(1, 1, 4, 4), FIRST, maps, baseline="zero", steps=4, patch_size=2, chunk_size=1)
    gone = [[(r, c) for r in (0, 1) for c in (0, 1) if float(x[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].sum()) == 0]
            for x in seen[2:]]  # fmt: skip
    assert gone == [[(0, 1)], [(0, 1), (1, 0)], [(0, 1), (1, 0), (1, 1)]]
    with pytest.raises(ValueError, match=r"`patch_size` to divide the sides \(4, 4\), got 3"):
        deletion_curve(model, torch.ones(1, 1, 4, 4), FIRST, maps, patch_size=3)
    assert patch_relevance(maps, 2).tolist() == [[[1, 4], [3, 2]]]


def test_signals_have_curves_too() -> None:
    signal = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
    curve = deletion_curve(SumOfPixels(), signal, FIRST, signal[:, 0], steps=4, baseline="zero")
    torch.testing.assert_close(curve, torch.tensor([[sigmoid(z) for z in (10, 6, 3, 1, 0)]]))
    halves = deletion_curve(SumOfPixels(), signal, FIRST, signal[:, 0], steps=2, baseline="zero", patch_size=2)
    torch.testing.assert_close(halves, torch.tensor([[sigmoid(z) for z in (10, 3, 0)]]))
    assert baseline_images(torch.full((2, 3, 9), 2.0), "blur").shape == (2, 3, 9)
    torch.testing.assert_close(baseline_images(torch.full((2, 3, 9), 2.0), "blur"), torch.full((2, 3, 9), 2.0))


def test_least_relevant_first_is_the_exact_reverse() -> None:
    deletion = deletion_curve(SumOfPixels(), IMAGE, FIRST, IMAGE[:, 0], steps=4, baseline="zero", least_first=True)
    insertion = insertion_curve(SumOfPixels(), IMAGE, FIRST, IMAGE[:, 0], steps=4, baseline="zero", least_first=True)
    torch.testing.assert_close(deletion, torch.tensor([[sigmoid(z) for z in (10, 9, 7, 4, 0)]]))
    torch.testing.assert_close(insertion, torch.tensor([[sigmoid(z) for z in (0, 1, 3, 6, 10)]]))
    ties = torch.zeros(1, 2, 2)
    most = insertion_curve(SumOfPixels(), IMAGE, FIRST, ties, steps=4, baseline="zero")
    least = deletion_curve(SumOfPixels(), IMAGE, FIRST, ties, steps=4, baseline="zero", least_first=True)
    torch.testing.assert_close(most, least.flip(1))


def test_ties_are_counted() -> None:
    assert tie_fraction(torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]])).tolist() == [0.75, 0]


def test_a_baseline_may_be_computed_or_given_for_each_image() -> None:
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(baseline_images(x, lambda images: images.flip(3)), x.flip(3))
    assert torch.equal(baseline_images(x, torch.ones(2, 1, 1, 1)), torch.ones(2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"`baseline` to broadcast to images \(2, 1, 2, 2\), got \(3, 1, 2, 2\)"):
        baseline_images(x, torch.ones(3, 1, 2, 2))


def test_a_model_that_cannot_read_channels_last_gets_what_it_can() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return SumOfPixels().forward(x.view(len(x), -1))

    x, maps = torch.rand(2, 3, 4, 4) / 10, torch.rand(2, 4, 4)
    y = torch.zeros(2).long()
    low = faithfulness_curves(Views(), x, y, maps, CurveSettings("zero", 4, precision="bfloat16"))
    exact = faithfulness_curves(Views(), x, y, maps, CurveSettings("zero", 4))
    torch.testing.assert_close(low["deletion"].values, exact["deletion"].values, atol=0.01, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_perturbed_images_have_exactly_the_values_of_image_and_baseline(dtype: torch.dtype) -> None:
    seen = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.flatten(1).float()

    x, baseline = torch.randn(2, 1, 3, 5, 5, dtype=dtype).mul(1e4)  # one image and its baseline, far apart
    faithfulness_curves(forward, x, FIRST, torch.arange(25.0).view(1, 5, 5), CurveSettings(baseline, 25))
    perturbed = torch.cat(seen)
    assert len(perturbed) == 50  # the two ends, and 24 for each curve
    assert ((perturbed == x) | (perturbed == baseline)).all()
    assert (perturbed == x).all(dim=1).sum(dim=(1, 2)).sort().values.tolist() == [0, *sorted([*range(1, 25)] * 2), 25]


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_offered_with_strides_of_channels_last(channels: int) -> None:
    seen, side = [], 128

    def forward(x: Tensor) -> Tensor:  # a module would have what it encloses put back
        seen.append(x.stride())
        return SumOfPixels().forward(x)

    x = torch.zeros(1, channels, side, side)
    x[0, :, 0, 0] = 3 / channels  # deleted with the first half, inserted with it
    maps = torch.arange(0, -(side**2), -1.0).view(1, side, side)
    found = faithfulness_curves(forward, x, torch.tensor([0]), maps, CurveSettings("zero", 2))
    assert set(seen) == {(channels * side * side, 1, side * channels, channels)}
    torch.testing.assert_close(found["deletion"].values, torch.tensor([[sigmoid(3), 0.5, 0.5]]))
    torch.testing.assert_close(found["insertion"].values, torch.tensor([[0.5, sigmoid(3), sigmoid(3)]]))


def test_low_precision_scores_nearly_the_same_and_leaves_no_copies_of_the_weights() -> None:
    torch.manual_seed(0)
    model, x, y, maps = SmallCNN(3), torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), torch.rand(4, 8, 8)
    exact = faithfulness_curves(model, x, y, maps, CurveSettings(steps=8))
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as inside a training step
        low = faithfulness_curves(model, x, y, maps, CurveSettings(steps=8, precision="bfloat16"))
        same = faithfulness_curves(model, x, y, maps, CurveSettings(steps=8))
        assert model.train()(x).sum().requires_grad
        model(x).sum().backward()
    assert model.conv.weight.grad is not None
    assert torch.equal(same["deletion"].values, exact["deletion"].values)
    assert not torch.equal(low["deletion"].values, exact["deletion"].values)
    torch.testing.assert_close(low["deletion"].areas, exact["deletion"].areas, atol=0.005, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "double"}, "`precision` to be one of float32, bfloat16, float16, got 'double'"),
        ({"steps": "fine"}, "`steps` to be a number or 'auto', got 'fine'"),
        ({"steps": 0}, "`steps` to be at least 1, got 0"),
        ({"patch_size": 0}, "`patch_size` to be at least 1, got 0"),
        ({"chunk_size": 0}, "`chunk_size` to be at least 1, got 0"),
        ({"tolerance": 0.0}, r"`tolerance` to be above 0, got 0\.0"),
        ({"baseline": "black"}, "`baseline` to be one of blur"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurveSettings(**arguments)
