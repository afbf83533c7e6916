"""A look leaves no trace, also when it fails."""

import itertools
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dynalens.observation import (
    captured_output,
    captured_outputs,
    floating_dtype,
    is_compiled,
    module_named,
    two_class_logits,
    undisturbed,
    unwrap,
)
from dynalens.observation.own_code import OwnCode
from stateful import STATEFUL, Halves, KeepsObjects, Stateful
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


def answers(kind: type[Stateful], looks: Callable[[nn.Module], None], *, built: bool) -> list[Any]:
    """What a model answers in its first passes, between which it is looked at, and the state it ends with."""
    kind.calls, kind.history = 0, []  # type: ignore[attr-defined]  # some count on the class
    torch.manual_seed(3)
    random.seed(3)
    model, batches = kind(), torch.randn(3, 2, 4)
    found: list[Any] = [model(batches[0]).tolist()] if built else []
    looks(model)
    found += [model(batch).tolist() for batch in batches[1:]]
    modes = [module.training for module in model.modules()]
    return [*found, modes, {name: value.tolist() for name, value in model.state_dict().items()}, torch.rand(1).item()]


def look_twice(model: nn.Module) -> None:
    with undisturbed(model):
        for _ in range(3):
            with undisturbed(model):
                model(torch.ones(1, 4)).sum().backward()
            model(torch.full((5, 2, 2), 7.0))


def look_and_fail(model: nn.Module) -> None:
    with pytest.raises(IndexError), undisturbed(model):
        [model(torch.ones(1, 4))][1]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("looks", [look_twice, look_and_fail])
@pytest.mark.parametrize("built", [True, False], ids=["after a pass", "before any pass"])
@pytest.mark.parametrize("kind", STATEFUL)
def test_changes_of_a_forward_pass_are_put_back(
    kind: type[Stateful], built: bool, looks: Callable[[nn.Module], None]
) -> None:
    assert answers(kind, looks, built=built) == answers(kind, lambda model: None, built=built)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("kind", [kind for kind in STATEFUL if kind is not Halves])
def test_a_look_that_is_not_undisturbed_would_be_noticed(kind: type[Stateful]) -> None:
    def careless(model: nn.Module) -> None:
        model(torch.rand(5, 4))

    assert answers(kind, careless, built=False) != answers(kind, lambda model: None, built=False)


def test_modules_in_lists_and_objects_evaluate_too() -> None:
    model = KeepsObjects()
    with undisturbed(model):
        assert not model.layers[0].training
        assert not model.helper.layer.training
    assert model.layers[0].training
    assert model.helper.layer.training


def test_entries_of_a_long_container_are_put_back_but_not_followed() -> None:
    model: Any = nn.Identity()
    entry = [1.0]
    model.memory = [entry] * 2000
    with undisturbed(model):
        model.memory.append([2.0])
    assert model.memory == [[1.0]] * 2000


def test_a_model_that_refers_to_itself_and_to_a_thread_is_walked_once() -> None:
    model: Any = nn.Sequential(nn.Identity())
    model.parent, model.lock, model.proxy = [model], threading.Lock(), weakref.proxy(model)
    before = dict(vars(model))
    with undisturbed(model):
        model.parent = None
    assert dict(vars(model)) == before


def test_counters_iterators_and_tables_go_on_where_they_stood() -> None:
    model: Any = nn.Linear(1, 1)
    holders: Any = {
        "number": itertools.count(5, 2),
        "turns": [iter([1, 2, 3])],
        "series": pd.Series([0.0]),
        "large": pd.DataFrame(np.zeros((2000, 2))),
    }
    vars(model).update(holders, alias=holders["number"])
    assert next(holders["turns"][0]) == 1
    with undisturbed(model):
        assert [next(holder) for holder in (model.number, model.alias, model.turns[0])] == [5, 7, 2]
        model.series[0] += 1
        model.large.iloc[1999, 1] += 1
    assert all(vars(model)[name] is holder for name, holder in holders.items())
    assert model.alias is model.number
    assert [next(model.number), next(model.turns[0]), model.series[0]] == [5, 2, 0.0]
    assert not model.large.to_numpy().any()


SPENT: list[Any] = [
    (i for i in range(9)),
    itertools.cycle([0, 1]),
    zip([0]),
    iter(DataLoader(TensorDataset(torch.zeros(1)))),
]


@pytest.mark.parametrize("iterator", SPENT)
def test_an_iterator_that_cannot_go_on_where_it_stood_is_not_drawn_from(iterator: Any) -> None:
    model: Any = nn.Identity()
    model.draws = iterator
    with (
        pytest.raises(ValueError, match=r"that leaves no trace, got one that takes an item from a \w+,"),
        undisturbed(model),
    ):
        next(iter(model.draws))
    assert model.draws is iterator
    assert next(iterator) in (0, (0,), [torch.zeros(1)])


def test_globals_that_only_the_loading_of_data_mentions_are_not_copied() -> None:
    code = OwnCode()
    code.add_class(LoadsData)
    assert {name for _, name in code.new_globals()} == {"scale_of_data"}


DATA = [0.0] * 9


def scale_of_data() -> float:
    return 1.0


class LoadsData:
    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x)

    def scaled(self, x: Tensor) -> Tensor:
        return x * scale_of_data()

    def train_dataloader(self) -> Any:
        return DATA


def test_gradients_of_tensors_in_lists_are_put_back() -> None:
    model: Any = nn.Identity()
    model.weights = [torch.ones(2, requires_grad=True)]
    with undisturbed(model):
        model.weights[0].sum().backward()
    assert model.weights[0].grad is None


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


def test_a_wrapper_that_shows_the_attributes_of_a_compiled_network_is_not_taken_off() -> None:
    class Tenfold(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.inner, name)

        def forward(self, x: Tensor) -> Any:
            return 10 * self.inner(x)

    wrapper = Tenfold(torch.compile(nn.Linear(2, 2), backend="eager"))
    assert unwrap(wrapper) is wrapper


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_model_is_compiled_where_a_part_of_it_is_and_not_where_it_is_scripted() -> None:
    parts: list[Any] = [nn.Linear(2, 2), torch.jit.ScriptModule(), torch.compile(nn.Linear(2, 2))]
    assert [is_compiled(nn.Sequential(part)) for part in parts] == [False, False, True]


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
