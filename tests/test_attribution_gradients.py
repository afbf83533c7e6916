"""Maps from gradients equal their closed forms, loops over single points, and Captum's."""

import functools
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients, LayerIntegratedGradients
from torch import Tensor, nn

from dynalens.attribution import (
    completeness_gap,
    contrast,
    explain,
    grad_cam,
    input_x_gradient,
    integrated_gradients,
    interior_gradient,
    saliency,
    smooth_grad,
)
from dynalens.faithfulness import baseline_images
from toys import Linear, SmallCNN

Y = torch.tensor([0, 2, 1])


def images(channels: int = 1) -> Tensor:
    return torch.randn(3, channels, 6, 6, generator=torch.Generator().manual_seed(2))


def cnn() -> SmallCNN:
    torch.manual_seed(4)
    model = SmallCNN()
    model.norm.running_mean = torch.randn(4) / 4
    return model.eval()


class Cubes(nn.Module):
    """Logits (sum of x^3, 0): the gradient is 3 x^2, and the integrated gradients are x^3."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x**3).flatten(1).sum(dim=1)
        return torch.stack([total, torch.zeros_like(total)], dim=1)


ZERO = torch.zeros(3, dtype=torch.int64)


def gradient_at(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[range(len(x)), y].sum(), [x])[0]


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre"])
@pytest.mark.parametrize("baseline", ["number", "tensor", "callable"])
def test_integrated_gradients_of_a_linear_model_are_weight_times_difference(rule: str, baseline: str) -> None:
    model, x = Linear(36, 3), images()
    start: Any = {
        "number": 0.5,
        "tensor": torch.arange(6.0),
        "callable": functools.partial(baseline_images, baseline="mean"),
    }[baseline]
    difference = x - (start(x) if callable(start) else start)
    maps = integrated_gradients(model, x, Y, baseline=start, steps=3, rule=rule)
    torch.testing.assert_close(maps, model.layer.weight[Y].view(3, 1, 6, 6) * difference)
    gap = completeness_gap(model, x, Y, maps, baseline=start)
    torch.testing.assert_close(gap, torch.zeros(3), atol=1e-5, rtol=0)


def test_the_error_of_the_midpoints_is_known_where_the_gradient_is_quadratic() -> None:
    # The mean of (k + 1/2)^2 / n^2 is 1/3 - 1/(12 n^2).
    x, steps = images(), 4
    maps = integrated_gradients(Cubes(), x, ZERO, steps=steps)
    torch.testing.assert_close(maps, x**3 * (1 - 1 / (4 * steps**2)))
    expected = -(x**3).sum(dim=(1, 2, 3)) / (4 * steps**2)
    torch.testing.assert_close(completeness_gap(Cubes(), x, ZERO, maps), expected, atol=1e-5, rtol=1e-4)
    exact = integrated_gradients(Cubes(), x, ZERO, steps=2, rule="gauss_legendre")
    torch.testing.assert_close(exact, x**3)


def test_integrated_gradients_equal_captums() -> None:
    model, x, start = cnn(), images(), torch.full((1, 1, 6, 6), 0.3)
    theirs = IntegratedGradients(model).attribute(x, baselines=start, target=Y, n_steps=20, method="gausslegendre")
    ours = integrated_gradients(model, x, Y, baseline=start, steps=20, rule="gauss_legendre")
    torch.testing.assert_close(ours, theirs.float())
    left = IntegratedGradients(model).attribute(x, target=Y, n_steps=8, method="riemann_middle")
    torch.testing.assert_close(integrated_gradients(model, x, Y, steps=8), left.float())


def test_smooth_grad_of_a_linear_model_is_its_weight() -> None:
    model = Linear(36, 3)
    torch.testing.assert_close(smooth_grad(model, images(), Y, samples=3), model.layer.weight[Y].view(3, 1, 6, 6))


def test_smooth_grad_is_the_mean_over_noisy_copies() -> None:
    model, x = cnn(), images()
    generator = torch.Generator().manual_seed(7)
    draws = [torch.randn(1, 6, 6, generator=generator) for _ in range(5)]
    expected = torch.zeros_like(x)
    for i in range(3):
        sigma = 0.2 * (x[i].max() - x[i].min())
        for draw in draws:
            expected[i] += gradient_at(model, x[i : i + 1] + sigma * draw, Y[i : i + 1])[0] / 5
    torch.testing.assert_close(smooth_grad(model, x, Y, samples=5, noise=0.2, seed=7), expected)
    assert not torch.equal(smooth_grad(model, x, Y, samples=5), smooth_grad(model, x, Y, samples=5, seed=1))


def test_an_image_has_the_same_smooth_grad_in_any_batch() -> None:
    alone = smooth_grad(cnn(), images()[1:2], Y[1:2], samples=4)
    torch.testing.assert_close(smooth_grad(cnn(), images(), Y, samples=4)[1:2], alone)


def test_the_interior_gradient_is_that_between_baseline_and_image() -> None:
    model, x = cnn(), images()
    expected = gradient_at(model, 0.25 * x + 0.75, Y)
    torch.testing.assert_close(interior_gradient(model, x, Y, alpha=0.25, baseline=1.0), expected)
    torch.testing.assert_close(interior_gradient(model, x, Y, alpha=1.0), saliency(model, x, Y))


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", "smooth_grad", "integrated_gradients"])
def test_a_contrast_of_a_linear_map_is_the_difference_of_two(method: str) -> None:
    model, other = cnn(), torch.tensor([1, 0, 2])
    of = {"saliency": saliency, "input_x_gradient": input_x_gradient, "smooth_grad": smooth_grad}
    function: Any = {**of, "integrated_gradients": integrated_gradients}[method]
    expected = function(model, images(), Y) - function(model, images(), other)
    torch.testing.assert_close(contrast(model, images(), Y, other, method=method), expected)


def test_a_contrast_by_grad_cam_has_the_gradient_of_the_difference() -> None:
    model, x = cnn(), images()
    activation = model.conv(x).detach().requires_grad_()
    logits = model.head(model.pool(model.norm(activation).relu()).flatten(1))
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), [activation])
    expected = torch.einsum("nc,nchw->nhw", gradient.mean(dim=(2, 3)), activation.detach()).relu()
    torch.testing.assert_close(contrast(model, x, 1, 0, method="grad_cam", target_layer="conv"), expected)
    pairs = torch.tensor([[1, 0]] * 3)
    torch.testing.assert_close(grad_cam(model, x, pairs, target_layer="conv"), expected)
    assert explain(model, x, pairs, methods=("saliency", "smooth_grad")).maps.keys() == {"saliency", "smooth_grad"}


def test_a_method_that_knows_no_class_has_no_contrast() -> None:
    with pytest.raises(ValueError, match=r"`method` to be one of saliency, .*, got 'attention_rollout'"):
        contrast(cnn(), images(), 0, 1, method="attention_rollout")


class Tokens(nn.Module):
    """An embedding, a nonlinear layer and a head over the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(10, 4)
        self.layer = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out = self.head(torch.tanh(self.layer(self.embedding(tokens))).mean(dim=1))
        assert isinstance(out, Tensor)
        return out


TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def test_tokens_are_explained_at_their_embedding() -> None:
    model = Tokens()
    theirs = LayerIntegratedGradients(model, model.embedding).attribute(
        TOKENS, baselines=torch.zeros_like(TOKENS), target=Y, n_steps=20
    )
    nothing = torch.zeros(1, 3, dtype=torch.int64)
    arguments: dict[str, Any] = {"at": "embedding", "baseline": nothing, "steps": 20, "rule": "gauss_legendre"}
    ours = integrated_gradients(model, TOKENS, Y, **arguments)
    assert ours.shape == (3, 3, 4)
    torch.testing.assert_close(ours, theirs.float())
    gap = completeness_gap(model, TOKENS, Y, ours, at="embedding", baseline=nothing)
    torch.testing.assert_close(gap, torch.zeros(3), atol=1e-5, rtol=0)
    seen = explain(
        model,
        TOKENS,
        Y,
        methods=("saliency", "integrated_gradients"),
        method_args={"saliency": {"at": "embedding"}, "integrated_gradients": arguments},
        chunk_size=2,
    )
    torch.testing.assert_close(seen.maps["integrated_gradients"], ours)
    embedded = model.embedding(TOKENS).detach().requires_grad_()
    logits = model.head(torch.tanh(model.layer(embedded)).mean(dim=1))
    expected = torch.autograd.grad(logits[range(3), Y].sum(), [embedded])[0]
    torch.testing.assert_close(seen.maps["saliency"], expected)
    torch.testing.assert_close(seen.logits, logits.detach())


def test_tokens_without_a_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`images` to be floating .* torch.int64.*embedding with `at=`"):
        saliency(Tokens(), TOKENS, Y)
    with pytest.raises(ValueError, match=r"`at` to name a layer of Tokens, got 'embeding'.*are: embedding"):
        saliency(Tokens(), TOKENS, Y, at="embeding")


def test_a_series_is_explained_like_an_image() -> None:
    torch.manual_seed(3)
    conv, head = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4, 3)
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), head)
    x = torch.randn(3, 2, 12)
    seen = explain(model, x, Y, methods=("saliency", "grad_cam", "score_cam", "smooth_grad", "guided_grad_cam"))
    assert seen.target_layer == "1"
    assert {name: tuple(m.shape) for name, m in seen.maps.items()} == {
        "saliency": (3, 2, 12), "grad_cam": (3, 12), "score_cam": (3, 12), "smooth_grad": (3, 2, 12),
        "guided_grad_cam": (3, 2, 12),
    }  # fmt: skip
    activation = conv(x).relu()
    weights = head.weight[Y] / 12  # the mean over the series
    torch.testing.assert_close(seen.maps["grad_cam"], torch.einsum("nc,nct->nt", weights, activation).relu())


def test_a_float16_model_has_gradients_that_would_underflow() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 5e-5)
    expected = (torch.full((2, 4), 5e-5).half().float() @ torch.full((4, 4), 5e-5).half().float())[:1]
    assert float(expected[0, 0].half()) == 0  # less than the smallest number in float16
    maps = saliency(model.half(), torch.ones(1, 1, 2, 2), torch.tensor([0]))
    assert maps.dtype is torch.float32
    torch.testing.assert_close(maps.view(1, 4), expected, rtol=1e-3, atol=0)


def test_a_float16_model_has_gradients_that_would_overflow_when_scaled() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).half()
    nn.init.constant_(next(model.parameters()), 100.0)
    torch.testing.assert_close(saliency(model, torch.ones(1, 1, 2, 2), ZERO[:1]), torch.full((1, 1, 2, 2), 100.0))


@pytest.mark.parametrize("function", [smooth_grad, integrated_gradients])
def test_autocast_is_a_choice_and_near_the_exact_map(function: Any) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):  # what surrounds the call is no choice
        exact = function(cnn(), images(), Y)
    fast = function(cnn(), images(), Y, autocast=True)
    torch.testing.assert_close(exact, function(cnn(), images(), Y), rtol=0, atol=0)
    assert not torch.equal(fast, exact)
    assert float((fast - exact).norm() / exact.norm()) < 0.05
    assert fast.dtype is torch.float32


class Square(nn.Module):
    """Keeps one copy of its input for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x * x).flatten(1).sum(dim=1)
        return torch.stack([total, -total], dim=1)


def test_the_batch_is_what_the_memory_allows() -> None:
    def sizes_of_passes(x: Tensor, samples: int) -> list[int]:
        model, sizes = Square(), []

        def forward(batch: Tensor) -> Any:
            sizes.append(len(batch))
            return model(batch)

        smooth_grad(model, x, ZERO[: len(x)], samples=samples, forward=forward)
        return sizes

    large = torch.randn(1, 1, 1024, 2048)  # a little more than 8 MiB, of 44
    assert sizes_of_passes(large, 25) == [2, 1, 5, 5, 5, 5, 5]
    assert sizes_of_passes(torch.randn(2, 1, 2, 2), 40) == [2, 1, 32, 32, 16]  # and not more than 32
    assert sizes_of_passes(torch.randn(2, 1, 2, 2), 4) == [8]  # too few to be worth a measurement


def test_the_memory_layout_of_the_images_reaches_the_model() -> None:
    seen = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x.flatten(1)[:, :2] * 2

    x = images(3).contiguous(memory_format=torch.channels_last)
    for function in (saliency, smooth_grad, integrated_gradients):
        function(nn.Identity(), x, ZERO, forward=forward)
    assert all(seen)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (smooth_grad, {"samples": 0}, "`samples` to be at least 1, got 0"),
        (smooth_grad, {"noise": -1.0}, "`noise` to be at least 0, got -1.0"),
        (smooth_grad, {"chunk_size": 0}, "`chunk_size` to be at least 1, got 0"),
        (integrated_gradients, {"steps": 0}, "`steps` to be at least 1, got 0"),
        (integrated_gradients, {"rule": "left"}, "`rule` to be 'midpoint' or 'gauss_legendre', got 'left'"),
        (integrated_gradients, {"baseline": torch.zeros(5)}, r"`baseline` to broadcast to \(3, 1, 6, 6\), got \(5,\)"),
        (completeness_gap, {"maps": torch.zeros(1, 1, 6, 6)}, "`maps` to hold one map for each of 3 images, got 1"),
        (interior_gradient, {"alpha": 2.0}, r"`alpha` to be in \[0, 1\], got 2.0"),
    ],
)
def test_bad_arguments_are_refused(function: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(cnn(), images(), Y, **arguments)


@pytest.mark.parametrize("function", [saliency, smooth_grad, integrated_gradients])
def test_a_batch_without_images_has_no_maps(function: Any) -> None:
    assert function(cnn(), images()[:0], Y[:0]).shape == (0, 1, 6, 6)


def test_a_layer_is_not_looked_for_without_images() -> None:
    with pytest.raises(ValueError, match=r"`images` to hold at least one image, got shape \(0, 1, 6, 6\)"):
        grad_cam(cnn(), images()[:0], Y[:0])
