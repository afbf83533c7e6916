"""Class activation maps and rollouts equal their formulas written with loops."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalens.attribution import (
    ablation_cam,
    attention_rollout,
    explain,
    grad_cam,
    grad_cam_plus_plus,
    gradient_rollout,
    layer_cam,
    pixel_relevance,
    score_cam,
    transition_attention,
)
from toys import SmallCNN, ToyTransformer

Y = torch.tensor([0, 2, 1])


def images() -> Tensor:
    return torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(2))


def cnn() -> SmallCNN:
    torch.manual_seed(4)
    return SmallCNN().eval()


def activation_and_gradient(model: SmallCNN) -> tuple[Tensor, Tensor]:
    """Return A (3, 4, 6, 6) after the ReLU and the gradient of the target's logit there."""
    activation = model.norm(model.conv(images())).relu().detach().requires_grad_()
    # The head squares what it is given, so that gradients differ from position to position.
    logits = model.head((activation**2).mean(dim=(2, 3)))
    return activation.detach(), torch.autograd.grad(logits[range(3), Y].sum(), [activation])[0]


class SquaredCNN(SmallCNN):
    def forward(self, x: Tensor) -> Tensor:
        out = self.head((self.act(self.norm(self.conv(x))) ** 2).mean(dim=(2, 3)))
        assert isinstance(out, Tensor)
        return out


def squared() -> SquaredCNN:
    model = SquaredCNN().eval()
    model.load_state_dict(cnn().state_dict())
    return model


def test_grad_cam_plus_plus_equals_its_formula_written_with_loops() -> None:
    a, g = activation_and_gradient(cnn())
    expected = torch.zeros(3, 6, 6)
    for i in range(3):
        for c in range(4):
            weight = 0.0
            for p in range(36):
                slope, total = float(g[i, c].flatten()[p]), float(a[i, c].sum())
                if slope != 0:
                    alpha = slope**2 / (2 * slope**2 + total * slope**3)
                    weight += alpha * max(slope, 0)
            expected[i] += weight * a[i, c]
    maps = grad_cam_plus_plus(squared(), images(), Y, target_layer="act")
    torch.testing.assert_close(maps, expected.clamp(min=0))
    assert (maps > 0).any()


def test_layer_cam_equals_its_formula_written_with_loops() -> None:
    a, g = activation_and_gradient(cnn())
    expected = torch.zeros(3, 6, 6)
    for i in range(3):
        for row in range(6):
            for column in range(6):
                parts = [max(float(g[i, c, row, column]), 0) * float(a[i, c, row, column]) for c in range(4)]
                expected[i, row, column] = max(sum(parts), 0)
    maps = layer_cam(squared(), images(), Y, target_layer="act")
    torch.testing.assert_close(maps, expected)
    assert (maps > 0).any()


def test_score_cam_equals_its_formula_written_with_loops() -> None:
    torch.manual_seed(9)
    conv, head = nn.Conv2d(1, 3, 2, stride=2), nn.Linear(27, 3)
    model, x = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head), images()
    nn.init.zeros_(conv.weight[1].data)  # a feature map that is the same everywhere covers nothing
    a = conv(x).relu().detach()
    expected = torch.zeros(3, 3, 3)
    for i in range(3):
        scores = []
        for c in range(3):
            mask = nn.functional.interpolate(a[i, c].view(1, 1, 3, 3), size=(6, 6), mode="bilinear")[0, 0]
            low, high = float(mask.min()), float(mask.max())
            mask = (mask - low) / (high - low) if high > low else mask * 0
            scores.append(float(model(x[i : i + 1] * mask).detach()[0, Y[i]]))
        total = sum(math.exp(score) for score in scores)
        for c in range(3):
            expected[i] += math.exp(scores[c]) / total * a[i, c]
    torch.testing.assert_close(score_cam(model, x, Y, target_layer="1"), expected.clamp(min=0))
    torch.testing.assert_close(score_cam(model, x, Y, target_layer="1", chunk_size=2), expected.clamp(min=0))


def test_ablation_cam_equals_its_formula_written_with_loops() -> None:
    torch.manual_seed(9)
    model, x = squared(), images()
    a = model.act(model.norm(model.conv(x))).detach()
    expected = torch.zeros(3, 6, 6)
    for i in range(3):
        whole = float(model.head((a[i : i + 1] ** 2).mean(dim=(2, 3))).detach()[0, Y[i]])
        for c in range(4):
            without = a[i : i + 1].clone()
            without[:, c] = 0
            fall = whole - float(model.head((without**2).mean(dim=(2, 3))).detach()[0, Y[i]])
            expected[i] += fall / abs(whole) * a[i, c]
    for chunk_size in (None, 3):
        maps = ablation_cam(model, x, Y, target_layer="act", chunk_size=chunk_size)
        torch.testing.assert_close(maps, expected.clamp(min=0))
        assert (maps > 0).any()


def test_ablation_cam_weighs_a_linear_head_by_what_each_feature_map_gives() -> None:
    model, x = cnn(), images()
    scores = model(x).gather(1, Y[:, None]).detach()
    a = model.act(model.norm(model.conv(x))).detach()
    given = model.head.weight[Y].detach() * a.mean(dim=(2, 3))
    expected = torch.einsum("nc,nchw->nhw", given / scores.abs(), a).clamp(min=0)
    torch.testing.assert_close(ablation_cam(model, x, Y, target_layer="act"), expected)


def test_the_call_of_a_layer_that_the_logits_need_is_explained() -> None:
    class WithFeatures(SquaredCNN):
        """Runs the layers once more, for features that the logits do not need."""

        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            self.features = self.act(self.norm(self.conv(x + 1)))
            return out

    model = WithFeatures().eval()
    model.load_state_dict(cnn().state_dict())
    for layer in ("act", "norm"):
        expected = grad_cam(squared(), images(), Y, target_layer=layer)
        torch.testing.assert_close(grad_cam(model, images(), Y, target_layer=layer), expected)
    torch.testing.assert_close(grad_cam(model, images(), Y), grad_cam(squared(), images(), Y))


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_ablation_cam_sets_the_channel_to_zero_wherever_it_stands(last: bool) -> None:
    class Moved(nn.Module):
        """Gives its channels last."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            out = self.inner(x)
            assert isinstance(out, Tensor)
            return out.movedim(1, -1) if last else out

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.features = Moved(nn.Conv2d(1, 5, 3))
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            out = self.head(features.mean(dim=(1, 2) if last else (2, 3)))
            assert isinstance(out, Tensor)
            return out

    model = Net().eval()
    a = model.features.inner(images()).detach()
    weights = model.head.weight[Y].detach() * a.mean(dim=(2, 3))
    scores = model(images()).gather(1, Y[:, None]).detach().abs()
    expected = torch.einsum("nc,nchw->nhw", weights / scores, a).clamp(min=0)
    torch.testing.assert_close(ablation_cam(model, images(), Y, target_layer="features"), expected)


class ChannelsLast(nn.Module):
    """A layer whose output is (N, h, w, C), as in a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.conv, self.norm, self.head = nn.Conv2d(1, 5, 2, stride=2), nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.conv(x).permute(0, 2, 3, 1))
        out = self.head((features**2).mean(dim=(1, 2)))
        assert isinstance(out, Tensor)
        return out


def test_channels_that_come_last_are_moved() -> None:
    model = ChannelsLast()
    x = torch.randn(3, 1, 6, 8, generator=torch.Generator().manual_seed(2))
    seen = explain(model, x, Y, methods=("grad_cam",))
    assert seen.target_layer == "norm"
    a = model.norm(model.conv(x).permute(0, 2, 3, 1)).detach().requires_grad_()
    (g,) = torch.autograd.grad(model.head((a**2).mean(dim=(1, 2)))[range(3), Y].sum(), [a])
    expected = torch.zeros(3, 3, 4)
    for c in range(5):
        expected += g[..., c].mean(dim=(1, 2)).view(3, 1, 1) * a.detach()[..., c]
    torch.testing.assert_close(seen.maps["grad_cam"], expected.relu())


def transformer(kind: str, depth: int = 2) -> ToyTransformer:
    torch.manual_seed(8)
    return ToyTransformer(kind, depth).eval()


def attention_by_hand(model: ToyTransformer, x: Tensor) -> list[Tensor]:
    """Return softmax(q k' / 2) of each block, (N, heads, 10, 10), as leaves that the logits were computed from."""
    patches = model.patches(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.class_token.expand(len(x), -1, -1), patches], dim=1)
    found = []
    for norm, attention in zip(model.norms, model.attention, strict=True):
        assert isinstance(attention, nn.MultiheadAttention)
        q, k, v = model.heads_of(norm(tokens), attention)
        weights = torch.exp(q @ k.transpose(-2, -1) / 2)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        found.append(weights)
        tokens = tokens + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    gradients = torch.autograd.grad(model.head(tokens[:, 0])[range(len(x)), Y].sum(), found)
    return [torch.stack([w.detach(), g]) for w, g in zip(found, gradients, strict=True)]


@pytest.mark.parametrize("kind", ["module", "function", "softmax"])
def test_rollouts_equal_explicit_matrix_products(kind: str) -> None:
    model, x, eye = transformer(kind, depth=3), images(), torch.eye(10)
    plain, weighted = [eye] * 3, [eye] * 3
    for weights, gradient in attention_by_hand(model, x):
        for i in range(3):
            plain[i] = (0.5 * sum(weights[i], torch.zeros(10, 10)) / 2 + 0.5 * eye) @ plain[i]
            relevant = (gradient[i] * weights[i]).clamp(min=0)
            weighted[i] = weighted[i] + sum(relevant, torch.zeros(10, 10)) / 2 @ weighted[i]
    for function, products in ((attention_rollout, plain), (gradient_rollout, weighted)):
        expected = torch.stack([product[0, 1:].view(3, 3) for product in products])  # from patches to the class token
        torch.testing.assert_close(function(model, x, Y), expected)
        torch.testing.assert_close(function(model, x, Y, chunk_size=2), expected)
    torch.testing.assert_close(attention_rollout(model, x), attention_rollout(model, x, Y))


@pytest.mark.parametrize("kind", ["module", "function", "softmax"])
@pytest.mark.parametrize("start_layer", [None, 0, 2])
def test_transition_attention_equals_the_authors_definition(kind: str, start_layer: int | None) -> None:
    """Yuan et al. 2021, with their code: states of a Markov chain, times the integrated gradient of the last layer."""
    model, x, steps = transformer(kind, depth=3), images(), 4
    attention = [weights[0] for weights in attention_by_hand(model, x)]
    expected = torch.zeros(3, 3, 3)
    for i in range(3):
        chain = [sum(layer[i], torch.zeros(10, 10)) / 2 for layer in attention]  # the mean of two heads
        state = chain[2][0].clone()  # the row of the class token
        for layer in range(1, (1 if start_layer is None else start_layer) - 1, -1):
            state = torch.tensor([float(state @ chain[layer][:, j]) for j in range(10)]) + state
        integral = torch.zeros(2, 10, 10)
        for k in range(steps):
            integral += attention_by_hand(model, x * k / (steps - 1))[2][1, i] / steps
        weight = integral.clamp(min=0).mean(dim=0)[0]
        expected[i] = (state * weight)[1:].view(3, 3)
    options: dict[str, Any] = {"steps": steps, "start_layer": start_layer}
    torch.testing.assert_close(transition_attention(model, x, Y, **options), expected)
    torch.testing.assert_close(transition_attention(model, x, Y, chunk_size=2, **options), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_layer": 2}, "`start_layer` to be one of the 2 layers .* got 2"),
        ({"steps": 0}, "`steps` to be at least 1"),
    ],
)
def test_layers_and_steps_that_there_are_not_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {message}"):
        transition_attention(transformer("function"), images(), Y, **options)


def test_the_norm_before_the_last_attention_is_the_target_layer_of_a_class_token() -> None:
    seen = explain(transformer("function"), images(), Y, methods=("grad_cam",))
    assert seen.target_layer == "norms.1"
    assert seen.maps["grad_cam"].shape == (3, 3, 3)


def test_a_model_without_attention_cannot_be_rolled_out() -> None:
    with pytest.raises(ValueError, match=r"attention of shape \(3, heads, tokens, tokens\).* got none"):
        attention_rollout(cnn(), images())


class SeriesTransformer(nn.Module):
    """A transformer whose tokens are the steps of a series."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, series: Tensor) -> Tensor:
        """Return the logits of series (N, 4, T)."""
        steps = series.transpose(1, 2)
        logits: Tensor = self.head(self.attention(steps, steps, steps)[0].mean(dim=1))
        return logits


def test_a_transformer_of_series_cannot_be_rolled_out() -> None:
    with pytest.raises(ValueError, match=r"tokens stand for patches of the image, got 6 tokens for images of \(6,\)"):
        attention_rollout(SeriesTransformer(), torch.randn(2, 4, 6))


def test_a_layer_without_positions_is_refused_with_the_candidates() -> None:
    with pytest.raises(ValueError, match=r"got 'head' with \(1, 3\).*have one: conv \(1, 4, 6, 6\), norm"):
        grad_cam(cnn(), images(), Y, target_layer="head")


def test_a_small_map_is_enlarged_for_pixels() -> None:
    assert pixel_relevance("layer_cam", torch.ones(1, 2, 2), (4, 6)).shape == (1, 4, 6)
    assert pixel_relevance("captum:LayerConductance", torch.ones(1, 5, 2, 2), (4, 6)).tolist() == [[[5.0] * 6] * 4]
    assert pixel_relevance("grad_cam", torch.ones(1, 3), (6,)).shape == (1, 6)
    assert float(pixel_relevance("smooth_grad", torch.tensor([1.0, -3.0]).view(1, 2, 1, 1), (1, 1))) == 3
    with pytest.raises(ValueError, match=r"maps of mine to be \(N, \*spatial\).* got \(1, 2\)"):
        pixel_relevance("mine", torch.ones(1, 2), (4, 6))
