"""What all methods have in common: chunks change nothing, nothing is left behind, and several can be asked for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalens.attribution import BUILT_IN, check_methods, explain
from toys import SmallCNN, ToyTransformer
from traces import traces

Y = torch.tensor([0, 2, 1])
ROLLOUTS = ("attention_rollout", "gradient_rollout", "transition_attention")


def images() -> Tensor:
    return torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(2))


def model_for(method: str) -> nn.Module:
    torch.manual_seed(4)
    model = ToyTransformer() if method in ROLLOUTS else SmallCNN()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    return model


@pytest.mark.parametrize("method", BUILT_IN)
def test_chunks_change_nothing(method: str) -> None:
    whole, *parts = (BUILT_IN[method](model_for(method), images(), Y, chunk_size=size) for size in (None, 2, 1, 100))
    assert whole.dtype is torch.float32
    assert len(whole) == 3
    for part in parts:
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", BUILT_IN)
def test_a_method_leaves_no_trace(method: str) -> None:
    model, x = model_for(method), images()
    before = traces(model)
    with torch.no_grad():
        BUILT_IN[method](model, x, Y)
    assert traces(model) == before | {"gradients on": True}
    assert torch.equal(x, images())
    assert not x.requires_grad


@pytest.mark.parametrize("method", BUILT_IN)
@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_method_leaves_no_trace_when_the_model_raises(method: str, fails_at: int) -> None:
    model, calls = model_for(method), []
    before = traces(model)

    def forward(x: Tensor) -> Any:
        calls.append(1)
        torch.rand(1)
        logits = model(x)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        return logits

    with pytest.raises(KeyboardInterrupt):
        BUILT_IN[method](model, images(), Y, forward=forward, chunk_size=1)
    assert traces(model) == before


@pytest.mark.parametrize("method", BUILT_IN)
def test_a_method_sees_through_wrappers(method: str) -> None:
    model = model_for(method).eval()
    compiled: Any = torch.compile(model, backend="eager")
    plain = BUILT_IN[method](model, images(), Y)
    compiled(images())  # a compilation before it does not hide hooks and modified functions
    torch.testing.assert_close(BUILT_IN[method](compiled, images(), Y), plain)


@pytest.mark.parametrize("method", BUILT_IN)
def test_a_bfloat16_model_gives_float32_maps_near_the_exact_ones(method: str) -> None:
    exact = BUILT_IN[method](model_for(method), images(), Y)
    half = BUILT_IN[method](model_for(method).bfloat16(), images(), Y)
    assert half.dtype is torch.float32
    assert half.shape == exact.shape


def test_methods_take_their_arguments_and_keep_their_order() -> None:
    def half(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        assert not model.training
        return images / 2

    model = model_for("")
    methods = ("smooth_grad", half, "grad_cam", "saliency")
    seen = explain(model, images(), Y, methods=methods, method_args={"smooth_grad": {"samples": 2, "noise": 0.0}})
    assert list(seen.maps) == ["smooth_grad", "half", "grad_cam", "saliency"]
    torch.testing.assert_close(seen.maps["smooth_grad"], seen.maps["saliency"])
    assert torch.equal(seen.maps["half"], images() / 2)
    assert seen.target_layer == "act"
    own = explain(model, images(), Y, methods="grad_cam", method_args={"grad_cam": {"target_layer": "conv"}})
    assert own.target_layer is None  # none was found for all methods
    assert not torch.equal(own.maps["grad_cam"], seen.maps["grad_cam"])
    torch.testing.assert_close(own.logits, seen.logits)


def test_the_layer_is_looked_for_once() -> None:
    calls = []

    def forward(x: Tensor) -> Any:
        calls.append(len(x))
        return model(x)

    model = model_for("")
    explain(model, images(), Y, methods=("saliency", "grad_cam", "layer_cam", "guided_grad_cam"), forward=forward)
    assert calls == [1, 3, 3, 3]  # search, shared pass, and the two of guided Grad-CAM


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda model, x, y: x[:1], r"a finite map for each of 3 images, got a tensor of shape \(1, 1, 6, 6\)\."),
        (lambda model, x, y: "map", r"<lambda> to return a finite map for each of 3 images, got a str"),
        (lambda model, x, y: x * torch.nan, r"<lambda> to return a finite map .* shape \(3, 1, 6, 6\) with NaN"),
    ],
)
def test_a_method_that_returns_no_map_is_refused(method: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(model_for(""), images(), Y, methods=method)


@pytest.mark.parametrize(
    ("methods", "arguments", "message"),
    [
        ("smooth_grad", {"smooth_grad": {"sample": 2}}, r"of smooth_grad to be among samples, noise, .*, got sample"),
        ("smooth_grad", {"saliency": {}}, r"entries for smooth_grad only, got saliency"),
        ("smooth_grad", {"smooth_grad": {"forward": 2}}, r"got forward"),
        (("saliency", "captum"), None, r"got \['captum'\]"),
    ],
)
def test_arguments_and_names_are_checked(methods: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_methods(methods, arguments)
