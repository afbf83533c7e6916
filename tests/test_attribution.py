"""Maps equal their definitions, written slowly, and Captum's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from torch import Tensor, nn

from dynalens.attribution import (
    check_methods,
    explain,
    find_forward,
    find_target_layer,
    grad_cam,
    input_x_gradient,
    pixel_relevance,
    reduce_channels,
    resize,
    saliency,
)
from toys import Linear, SmallCNN

Y = torch.tensor([0, 2, 1])


def images(channels: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, channels, 6, 6, generator=torch.Generator().manual_seed(2)).to(dtype)


def cnn(channels: int = 1) -> SmallCNN:
    torch.manual_seed(4)
    model = SmallCNN(channels)
    model.norm.running_mean = torch.randn(4) / 4
    return model


def test_saliency_of_a_linear_model_is_its_signed_weight() -> None:
    model = Linear(36, 3)
    expected = model.layer.weight[Y].view(3, 1, 6, 6)
    torch.testing.assert_close(saliency(model, images(), Y), expected)
    torch.testing.assert_close(input_x_gradient(model, images(), Y), expected * images())
    assert (expected < 0).any()


def test_grad_cam_equals_its_formula_written_with_loops() -> None:
    model, x = cnn().eval(), images()
    activation = model.conv(x).detach().requires_grad_()
    logits = model.head(model.pool(model.norm(activation).relu()).flatten(1))
    gradient = torch.autograd.grad(logits[range(3), Y].sum(), [activation])[0]
    expected = torch.zeros(3, 6, 6)
    for i in range(3):
        for c in range(4):
            weight = sum(float(gradient[i, c, h, w]) for h in range(6) for w in range(6)) / 36
            expected[i] += weight * activation[i, c].detach()
    torch.testing.assert_close(grad_cam(model, x, Y, target_layer="conv"), expected.clamp(min=0))
    assert (expected < 0).any()  # the ReLU does something
    assert (expected > 0).any()


def test_maps_equal_captums() -> None:
    model, x = cnn(3).eval(), images(3)
    theirs = LayerGradCam(model, model.conv).attribute(x, target=Y, relu_attributions=True)
    torch.testing.assert_close(grad_cam(model, x, Y, target_layer="conv"), theirs.squeeze(1).detach())
    theirs = Saliency(model).attribute(x.clone().requires_grad_(), target=Y, abs=False)
    torch.testing.assert_close(saliency(model, x, Y), theirs)


def test_methods_of_one_pass_share_one_forward_and_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model, forwards, backwards = cnn(), [], []
    real = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        backwards.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)

    def forward(x: Tensor) -> Tensor:
        forwards.append(len(x))
        out = model(x)
        assert isinstance(out, Tensor)
        return out

    methods = ("saliency", "input_x_gradient", "grad_cam", "grad_cam_plus_plus", "layer_cam")
    shared = explain(model, images(), Y, methods=methods, target_layer="act", forward=forward)
    assert (forwards, len(backwards)) == ([3], 1)
    for name in methods:
        alone = explain(model, images(), Y, methods=(name,), target_layer="act").maps[name]
        assert torch.equal(alone, shared.maps[name])
    torch.testing.assert_close(shared.logits, model.eval()(images()).detach())


def test_chunks_change_nothing() -> None:
    whole, parts = (explain(cnn(), images(), Y, chunk_size=size) for size in (32, 2))
    for name in whole.maps:
        torch.testing.assert_close(whole.maps[name], parts.maps[name])


def test_images_parameters_and_modes_stay_as_they_were() -> None:
    model, x = cnn(), images()
    explain(model, x, Y)
    assert torch.equal(x, images())
    assert model.training
    assert model.drop.training
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_maps_are_made_where_gradients_are_off(around: Callable[[], torch.no_grad]) -> None:
    model = cnn().eval()
    with around(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = explain(model, images(), Y).maps
    assert {m.dtype for m in maps.values()} == {torch.float32}
    torch.testing.assert_close(maps["saliency"], saliency(model, images(), Y))


def test_a_frozen_model_can_be_explained() -> None:
    model = cnn().requires_grad_(False)
    assert explain(model, images(), Y).maps["saliency"].abs().sum() > 0


def test_a_half_precision_model_gives_float32_maps() -> None:
    maps = explain(cnn().bfloat16(), images(), Y).maps
    assert {m.dtype for m in maps.values()} == {torch.float32}
    torch.testing.assert_close(maps["saliency"], saliency(cnn(), images(), Y), rtol=0.2, atol=0.02)


def test_binary_logits_are_two_classes() -> None:
    model = Linear(36, 1)
    torch.testing.assert_close(
        saliency(model, images(), torch.tensor([1, 1, 0])),
        model.layer.weight.view(1, 1, 6, 6) * torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1, 1),
    )


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.second(self.first(x).relu())
        assert isinstance(out, Tensor)
        return out


TAIL = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
LAYERS = {
    "act": cnn(),
    "1": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *TAIL),
    "2": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Sequential(Block(), Block()), *TAIL),
    "0": nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3)),
    "0.0": nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 6, padding=1), nn.Conv2d(4, 4, 3)), *TAIL[1:]),
}


@pytest.mark.parametrize(("expected", "model"), LAYERS.items(), ids=LAYERS.keys())
def test_the_target_layer_is_the_last_with_a_feature_map(expected: str, model: nn.Module) -> None:
    assert find_target_layer(model, images()) == expected
    assert explain(model, images(), Y).target_layer == expected


def test_a_model_without_feature_maps_has_no_target_layer() -> None:
    message = r"more than one position .*, got Linear, whose last layers give layer \(1, 3\). Pass `target_layer="
    with pytest.raises(ValueError, match=message):
        grad_cam(Linear(36, 3), images(), Y)


class NoForward(nn.Module):
    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss()
        for number, net in enumerate(nets):
            self.add_module(f"net{number}", net)


class Keywords(NoForward):
    """Passes its batch on, as modules around a network of transformers do."""

    def forward(self, **batch: Any) -> Any:
        return self.get_submodule("net0")(**batch)


def test_logits_come_from_the_model_or_its_only_child_that_gives_them() -> None:
    model, inner = cnn(), cnn()
    assert find_forward(model, images()) is model
    assert find_forward(NoForward(inner), images()) is inner
    assert find_forward(Keywords(inner), images()) is inner
    with pytest.raises(ValueError, match=r"one child that gives logits for images, got net0, net1"):
        find_forward(NoForward(inner, cnn()), images())
    with pytest.raises(ValueError, match="logits for images, got none"):
        find_forward(NoForward(), images())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (images().long(), Y, r"`images` to be floating .* torch.int64"),
        (images()[:, 0, 0], Y, r"`images` .* got \(3, 6\)"),
        (images(), Y[:2], r"`targets` of shape \(3,\), int64.* got \(2,\)"),
        (images(), Y.float(), r"`targets` .* torch.float32"),
        (images(), Y + 1, r"`targets` to be in \[0, 3\), got 1 to 3"),
        (images() * torch.inf, Y, "finite maps, got NaN or infinity in"),
    ],
)
def test_bad_images_or_targets_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(cnn(), x, y)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: {"logits": x}, "got a dict. Pass `forward="),
        (lambda x: x, r"got \(3, 1, 6, 6\)"),
        (lambda x: x.detach().flatten(1), "depend on images, got no gradient for images"),
    ],
)
def test_an_output_without_logits_is_refused(forward: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(cnn(), images(), Y, methods=("saliency",), forward=forward)


@pytest.mark.parametrize("methods", [("gradcam",), (), ("saliency", "saliency")])
def test_an_unknown_method_is_refused(methods: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError,
        match=r"among saliency, .*, captum:<Class>, zennit:<Composite>, lxt:<map>, callables .* imported, each once",
    ):
        check_methods(methods)


def test_channels_are_reduced_as_named() -> None:
    maps = torch.tensor([[[[1.0]], [[-3.0]]]])
    assert [float(reduce_channels(maps, how)) for how in ("abs_max", "abs_sum", "sum")] == [3, 4, -2]
    with pytest.raises(ValueError, match="`how` to be one of abs_max, abs_sum, sum, got 'max'"):
        reduce_channels(maps, "max")


def test_resized_maps_put_pixels_at_their_centres() -> None:
    # Halfway between two centres is their mean; beyond the outer centres there is nothing but the edge.
    expected = torch.tensor([[[0.0, 0.25, 0.75, 1.0]]])
    torch.testing.assert_close(resize(torch.tensor([[[0.0, 1.0]]]), (1, 4)), expected)
    with pytest.raises(ValueError, match=r"one to three axes of space, got \(2,\)"):
        resize(torch.zeros(2), ())


def test_pixel_relevance_is_the_usual_reduction_of_each_method() -> None:
    maps = torch.tensor([1.0, -3.0]).view(1, 2, 1, 1)
    assert float(pixel_relevance("saliency", maps, (1, 1))) == 3
    assert float(pixel_relevance("input_x_gradient", maps, (1, 1))) == -2
    assert pixel_relevance("grad_cam", torch.ones(1, 2, 2), (4, 6)).shape == (1, 4, 6)
