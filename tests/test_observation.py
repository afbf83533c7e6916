"""A look leaves no trace, also when it fails."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynalens.observation import (
    captured_output,
    captured_outputs,
    floating_dtype,
    module_named,
    two_class_logits,
    undisturbed,
)
from toys import SmallCNN
from traces import traces


class Mutating(SmallCNN):
    """Changes a buffer even in evaluation mode, and refuses to have its mode set."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.nothing = torch.ones(1)
        return super().forward(x)

    def train(self, mode: bool = True) -> "Mutating":
        raise AssertionError("`train` was called")


def prepared() -> Mutating:
    model = Mutating()
    model.norm.training = False  # frozen
    model.conv.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    return model


def look(model: nn.Module) -> None:
    """Do all the harm that one can."""
    x = torch.rand(2, 1, 6, 6, requires_grad=True) + random.random() + np.random.rand()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model(x).sum().backward()
    dropout = model.get_submodule("drop")
    dropout.training = not dropout.training


def fail(model: nn.Module) -> None:
    look(model)
    raise KeyboardInterrupt


@pytest.mark.parametrize("around", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("nested", [False, True])
def test_everything_is_put_back(around: Callable[[], Any], nested: bool) -> None:
    model = prepared()
    with around():
        before = traces(model)
        with undisturbed(model), undisturbed(model) if nested else nullcontext():
            look(model)
        assert traces(model) == before


def test_everything_is_put_back_when_the_body_raises() -> None:
    model = prepared()
    before = traces(model)
    with pytest.raises(KeyboardInterrupt), undisturbed(model):
        fail(model)
    assert traces(model) == before


def test_the_test_would_notice_harm() -> None:
    model = prepared()
    before = traces(model)
    look(model)
    after = traces(model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= {
        "modes", "requires_grad", "grad identities", "grads", "buffers", "absent buffers", "torch", "numpy", "python",
    }  # fmt: skip


def test_inside_the_model_evaluates_with_gradients_in_full_precision() -> None:
    model = SmallCNN()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert all(p.grad is None for p in model.parameters())
        out = model(torch.rand(2, 1, 6, 6))
        assert out.requires_grad
        assert out.dtype is torch.float32


def test_hooks_see_a_model_that_was_compiled_and_run_before() -> None:
    inner = SmallCNN().eval()
    compiled = torch.compile(inner, backend="eager")
    x = torch.rand(2, 1, 6, 6)
    compiled(x)
    with undisturbed(inner), captured_output(inner.conv) as captured:
        compiled(x)
    assert captured.value.shape == (2, 4, 6, 6)


def test_a_captured_output_keeps_its_graph() -> None:
    model = SmallCNN().eval()
    with captured_output(model.conv) as captured:
        logits = model(torch.rand(2, 1, 6, 6))
    (gradient,) = torch.autograd.grad(logits.sum(), [captured.value])
    assert gradient.abs().sum() > 0
    assert not model.conv._forward_hooks


@pytest.mark.parametrize(
    ("layer", "seen"), [(nn.Linear(2, 2), "no call of it"), (nn.LSTM(1, 2), "a tuple")], ids=["not run", "no tensor"]
)
def test_an_output_that_was_not_seen_raises(layer: nn.Module, seen: str) -> None:
    with captured_output(layer) as captured:
        if isinstance(layer, nn.LSTM):
            layer(torch.zeros(3, 1))
    with pytest.raises(RuntimeError, match=f"Expected the layer to run and give a tensor, got {seen}"):
        _ = captured.value


def test_outputs_are_captured_in_the_order_modules_finish() -> None:
    model = SmallCNN()
    with captured_outputs(model) as seen:
        model(torch.rand(2, 1, 6, 6))
    assert [name for name, _, _ in seen] == ["conv", "norm", "act", "drop", "pool", "head"]
    assert seen[0][2].shape == (2, 4, 6, 6)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_module_is_found_by_name_and_a_wrong_name_lists_the_nearest() -> None:
    model = SmallCNN()
    assert module_named(model, "conv") is model.conv
    with pytest.raises(ValueError, match=r"`target_layer` to name a layer of SmallCNN, got 'convv'.*are: conv"):
        module_named(model, "convv")
    with pytest.raises(ValueError, match="got ''"):
        module_named(model, "")


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_binary_logit_becomes_two_classes(shape: tuple[int, ...]) -> None:
    z = torch.tensor([3.0, -1.0])
    probability = two_class_logits(z.view(shape)).softmax(dim=1)[:, 1]
    torch.testing.assert_close(probability, z.sigmoid())


def test_the_dtype_is_that_of_the_parameters() -> None:
    assert floating_dtype(SmallCNN().bfloat16(), torch.zeros(1)) is torch.bfloat16
    assert floating_dtype(nn.Flatten(), torch.zeros(1).double()) is torch.float64
