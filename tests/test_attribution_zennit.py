"""Relevance by zennit's composites: parity with zennit itself, conservation, and what its rules do not fit."""

import importlib.util
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalens.attribution import check_methods, explain
from traces import traces

HAVE = all(importlib.util.find_spec(name) is not None for name in ("torchvision", "zennit"))
needs_zennit = pytest.mark.skipif(not HAVE, reason="zennit and torchvision are not installed")
architectures = pytest.mark.architectures
Y = torch.tensor([0, 2])


def images(channels: int = 1, side: int = 6) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(2))


def net(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(36, 8, bias=bias), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3, bias=bias),
    )  # fmt: skip


def maps_of(model: nn.Module, x: Tensor, name: str, **arguments: Any) -> Tensor:
    return explain(model, x, Y, methods=name, method_args={name: arguments}).maps[name]


def test_the_error_says_what_to_install_where_zennit_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zennit", None)
    with pytest.raises(ValueError, match=r"Expected zennit to be installed .* `pip install zennit`"):
        check_methods("zennit:EpsilonPlusFlat")


@architectures
@needs_zennit
@pytest.mark.parametrize("name", ["EpsilonPlus", "EpsilonPlusFlat", "EpsilonAlpha2Beta1", "ExcitationBackprop"])
def test_maps_are_those_of_zennit_and_nothing_stays_on_the_model(name: str) -> None:
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm

    model, x = net().train(), images()
    model[1].get_buffer("running_mean").add_(0.5)
    before = traces(model)
    ours = maps_of(model, x, f"zennit:{name}")
    assert traces(model) == before
    composite = getattr(composites, name)(canonizers=[SequentialMergeBatchNorm()])
    with Gradient(model.eval(), composite) as attributor:
        _, theirs = attributor(x, lambda logits: torch.eye(3)[Y] * logits)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-6)


@architectures
@needs_zennit
def test_relevance_without_biases_adds_up_to_the_logit() -> None:
    model, x = net(bias=False).eval(), images()
    maps = maps_of(model, x, "zennit:EpsilonPlus", canonizers=[])
    logits = model(x).gather(1, Y[:, None]).squeeze(1)
    torch.testing.assert_close(maps.flatten(1).sum(1), logits, rtol=1e-3, atol=1e-4)


@architectures
@needs_zennit
def test_the_shortcuts_of_a_residual_network_share_the_relevance() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(1)
    model, x = resnet18(num_classes=3).train(), images(3, 32)
    before = traces(model)
    maps = maps_of(model, x, "zennit:EpsilonPlus")
    assert traces(model) == before
    assert maps.shape == x.shape
    logits = model.eval()(x).gather(1, Y[:, None]).squeeze(1)
    # Merged batch norms have biases, which take a part of the relevance; doubled ones would be hundreds of times it.
    assert (maps.flatten(1).sum(1).abs() < 10 * logits.abs()).all()


class Adds(nn.Module):
    """A residual network whose sum is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        return self.head((x + x.relu()).flatten(1))


class Twice(nn.Module):
    """Calls a layer with weights twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.conv(self.conv(x)).flatten(1))


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(72, 3))


class OutOfOrder(nn.Module):
    """Its batch norm is named behind a layer that it does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm, self.flat, self.head = nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)
        self.norm.get_buffer("running_mean").add_(1.0)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.flat(self.other(self.norm(self.conv(x)))))


@architectures
@needs_zennit
@pytest.mark.parametrize(
    ("model", "got"),
    [
        (Adds(), "the function add of two outputs"),
        (Twice(), "conv, which is called 2 times"),
        (normed(), "1: GroupNorm"),
        (OutOfOrder(), "merge a batch norm with a layer that it does not follow.*'canonizers'"),
    ],
)
def test_modules_beyond_the_rules_are_refused_and_leave_no_trace(model: nn.Module, got: str) -> None:
    before = traces(model)
    with pytest.raises(ValueError, match=got):
        maps_of(model, images(), "zennit:EpsilonPlus")
    assert traces(model) == before


class ByFunction(Adds):
    """Calls its activation as a function, which zennit does not see."""

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.relu(self.conv(x)).flatten(1))


@architectures
@needs_zennit
@pytest.mark.parametrize("name", ["zennit:GuidedBackprop", "zennit:DeconvNet", "zennit:BetaSmooth"])
def test_a_relu_that_is_no_module_is_refused_where_only_relus_have_rules(name: str) -> None:
    with pytest.raises(ValueError, match=rf"be a module `nn\.ReLU` for {name}, .* got 1 other calls"):
        maps_of(ByFunction(), images(), name)
    assert maps_of(net(), images(), name).any()


@architectures
@needs_zennit
def test_errors_name_the_composites_and_the_arguments_a_composite_needs() -> None:
    with pytest.raises(ValueError, match=r"Expected `zennit:<Composite>` to be one of BetaSmooth.*got 'Epsilon'"):
        check_methods("zennit:Epsilon")
    with pytest.raises(ValueError, match=r'to have low, high, got none. Pass .*"low": -2.5'):
        check_methods("zennit:EpsilonGammaBox")
    with pytest.raises(ValueError, match=r"Expected `canonizers` to name classes"):
        maps_of(net(), images(), "zennit:EpsilonPlus", canonizers="Nothing")
    box = maps_of(net(), images(), "zennit:EpsilonGammaBox", low=-3.0, high=3.0)
    assert box.shape == images().shape


@architectures
@needs_zennit
def test_a_canonizer_that_fails_leaves_nothing_of_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from zennit import canonizers

    class Failing(canonizers.Canonizer):  # type: ignore[misc, unused-ignore]  # zennit has no types
        def apply(self, root_module: nn.Module) -> Any:
            raise RuntimeError("no such form")

        def register(self, *args: Any) -> None:
            pass

        def remove(self) -> None:
            pass

        def copy(self) -> Any:
            return self

    monkeypatch.setattr(canonizers, "Failing", Failing, raising=False)
    model, x = net().train(), images()
    model.get_buffer("1.running_mean").add_(0.5)
    before, weight = traces(model), model.get_parameter("0.weight").detach().clone()
    with pytest.raises(RuntimeError, match="no such form"):
        maps_of(model, x, "zennit:EpsilonPlus", canonizers=["SequentialMergeBatchNorm", "Failing"])
    assert traces(model) == before
    assert torch.equal(model.get_parameter("0.weight"), weight)
