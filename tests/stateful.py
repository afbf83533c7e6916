"""Modules whose forward pass changes something that is no buffer: each answers otherwise when it was looked at."""

import functools
import random
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import torchmetrics
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


class Stateful(nn.Module):
    """A linear layer, scaled by what the passes before have left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x.flatten(1)) * self.scale(x)
        assert isinstance(out, Tensor)
        return out

    def scale(self, x: Tensor) -> Any:
        raise NotImplementedError


class CountsCalls(Stateful):
    calls = 0

    def scale(self, x: Tensor) -> float:
        self.calls += 1
        return 0.9**self.calls


class CountsOnTheClass(Stateful):
    calls: ClassVar[int] = 0

    def scale(self, x: Tensor) -> float:
        type(self).calls += 1
        return 0.9 ** type(self).calls


class ListOnTheClass(Stateful):
    history: ClassVar[list[float]] = []

    def scale(self, x: Tensor) -> float:
        self.history.append(float(x.detach().mean()))
        return sum(self.history)


class CountsInATensor(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.calls = torch.zeros(())

    def scale(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 0.9**self.calls


class AddsItsOutput(Stateful):
    """The tensor becomes part of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(())

    def scale(self, x: Tensor) -> Tensor:
        self.total += x.mean() * next(iter(self.net.parameters())).sum()
        return self.total.detach()


class AppendsActivations(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def scale(self, x: Tensor) -> Tensor:
        self.history.append(x.mean())
        return torch.stack([entry.detach() for entry in self.history]).sum()


class MovingAverage(Stateful):
    """A buffer is replaced by a new one."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def scale(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return self.mean


class CachesByShape(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[Any, dict[str, Tensor]] = {}

    def scale(self, x: Tensor) -> Tensor:
        entry = self.cache.setdefault(x.shape[1:], {"n": torch.zeros(())})
        entry["n"] += len(x)
        return entry["n"].clone()


class BuildsATableLazily(Stateful):
    def scale(self, x: Tensor) -> Tensor:
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.full((), float(x.detach().mean())))
        assert isinstance(self.table, Tensor)
        return self.table


class BuildsALayerLazily(Stateful):
    """Its weights are random numbers."""

    def scale(self, x: Tensor) -> Any:
        if not hasattr(self, "gate"):
            self.gate = nn.Linear(4, 1)
        assert isinstance(self.gate, nn.Linear)
        return self.gate(x.flatten(1))


class RegistersAHook(Stateful):
    def scale(self, x: Tensor) -> float:
        self.net.register_forward_hook(lambda _module, _args, output: 0.5 * output)
        return 1.0


class NormalisesItsWeights(Stateful):
    """In place, so that rounding changes them again and again, as in cosine classifiers."""

    def scale(self, x: Tensor) -> float:
        self.net.weight.data.mul_(0.9)
        return 1.0


class SetsItsWeights(Stateful):
    def scale(self, x: Tensor) -> float:
        self.net.weight.data = F.normalize(self.net.weight.data + 0.1)
        return 1.0


class Spectral(Stateful):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.spectral_norm(self.net)

    def scale(self, x: Tensor) -> float:
        self.net.train()  # the power iteration goes on
        return 1.0


class OldWeightNorm(Stateful):
    """Its hook sets a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.utils.weight_norm(nn.Linear(4, 3))

    def scale(self, x: Tensor) -> float:
        assert isinstance(self.net.weight_g, nn.Parameter)
        self.net.weight_g.data.mul_(0.9)
        return 1.0


class OwnsGenerators(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.torch, self.numpy = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.legacy, self.python = np.random.RandomState(1), random.Random(1)

    def scale(self, x: Tensor) -> float:
        drawn = float(torch.rand((), generator=self.torch)), self.numpy.random(), self.legacy.rand()
        return float(sum(drawn)) + self.python.random()


class KeepsContainers(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.last: deque[float] = deque([1.0], maxlen=2)
        self.seen, self.counts = {0}, Counter({"a": 1})
        self.recent: OrderedDict[str, int] = OrderedDict(a=1, b=2)
        self.array, self.bytes, self.nested = np.zeros(2), bytearray(b"\x01"), ([1.0], {"deep": [2.0]})

    def scale(self, x: Tensor) -> float:
        self.last.append(len(self.last) + 1.0)
        self.seen.add(len(self.seen))
        self.counts["a"] += 1
        self.recent.move_to_end(next(iter(self.recent)))
        self.array += 1
        self.bytes[0] += 1
        self.nested[1]["deep"].append(1.0)
        numbers = [*self.last, *self.seen, *self.counts.values(), *self.array, *self.bytes, *self.nested[1]["deep"]]
        return float(sum(numbers)) + next(iter(self.recent.values()))


@dataclass
class Statistics:
    calls: int = 0
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slotted:
    values: list[float] = field(default_factory=list)


class Helper:
    """An object with a module, which is no submodule of whoever holds it."""

    __slots__ = ("calls", "layer")

    def __init__(self) -> None:
        self.calls, self.layer = 0, nn.BatchNorm1d(4)


class KeepsObjects(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.statistics, self.slotted, self.space = Statistics(), Slotted(), SimpleNamespace(calls=0)
        self.helper = Helper()
        self.layers = [nn.BatchNorm1d(4)]

    def scale(self, x: Tensor) -> Tensor:
        self.statistics.calls += 1
        self.space.calls += 1
        self.helper.calls += 1
        for values in (self.statistics.values, self.slotted.values):
            values.append(0.5)
        total = sum(self.slotted.values) + self.statistics.calls + self.space.calls + self.helper.calls
        hidden = self.helper.layer(x.flatten(1)) + self.layers[0](x.flatten(1))
        return torch.add(hidden.mean(dim=1, keepdim=True), total)


class EnclosesACounter(Stateful):
    """Functions that are attributes hold a number, a dict and another object."""

    def __init__(self) -> None:
        super().__init__()
        calls = 0

        def tick() -> int:
            nonlocal calls
            calls += 1
            return calls

        counts: Counter[str] = Counter()
        self.tick, self.count = tick, functools.partial(counts.update, ["calls"])
        self.total = functools.partial(counts.get, "calls")
        self.helper = Ticks().tick

    def scale(self, x: Tensor) -> float:
        self.count()
        return 0.9 ** (self.tick() + 2 * (self.total() or 0) + 4 * self.helper())


class MadeInAFunction(Stateful):
    """Its class is made in a function, whose variables the methods of the class use."""

    def __new__(cls) -> "MadeInAFunction":
        calls, counts = 0, [0]

        def count() -> None:
            counts[0] += 1

        class Made(MadeInAFunction):
            def scale(self, x: Tensor) -> float:
                nonlocal calls
                calls += 1
                count()
                return float(0.9 ** (calls + 2 * counts[0]))

        return super().__new__(Made)


class Ticks:
    calls = 0

    def tick(self) -> int:
        self.calls += 1
        return self.calls


class ComputesAProperty(Stateful):
    """Once, from the first input."""

    first = 0.0

    @functools.cached_property
    def size(self) -> float:
        return self.first

    def scale(self, x: Tensor) -> float:
        self.first = float(x.detach().mean())
        return self.size


class UpdatesMetrics(Stateful):
    """One of its own, one in a collection, one that keeps lists, and the cached value of one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torchmetrics.MeanMetric()
        self.all = torchmetrics.MetricCollection({"max": torchmetrics.MaxMetric(), "cat": torchmetrics.CatMetric()})
        self.plain = [torchmetrics.SumMetric()]

    def scale(self, x: Tensor) -> Any:
        value = x.detach().mean()
        self.mean.update(value)
        self.all.update(value)
        self.plain[0].update(value)
        values = self.all.compute()
        return self.mean.compute() + values["max"] + values["cat"].sum() + self.plain[0].compute()


calls_of_all = 0
calls_by_kind: dict[str, list[float]] = {}


class Settings:
    """Its class counts, in a method that only a global function of the forward pass calls."""

    calls = 0

    def count(self) -> None:
        type(self).calls += 1


SETTINGS = Settings()


def count_in_globals(value: float) -> float:
    global calls_of_all
    calls_of_all += 1
    SETTINGS.count()
    calls_by_kind.setdefault("forward", []).append(value)
    return calls_of_all + 2 * Settings.calls + 4 * sum(calls_by_kind["forward"])


class CountsInGlobals(Stateful):
    """In variables of its own Python module."""

    def __init__(self) -> None:
        global calls_of_all
        super().__init__()
        calls_of_all = Settings.calls = 0
        calls_by_kind.clear()

    def scale(self, x: Tensor) -> float:
        return float(0.9 ** count_in_globals(float(x.detach().mean())))


class Counting(Callback):
    """A callback of Lightning that counts in a hook."""

    calls = 0

    def hook(self, _module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
        self.calls += 1
        return output * 0.9**self.calls


class CountedByACallback(Stateful):
    def __init__(self) -> None:
        super().__init__()
        self.net.register_forward_hook(Counting().hook)

    def scale(self, x: Tensor) -> float:
        return 1.0


class Halves(Stateful):
    """Changes its own type of numbers, as code for deployment does."""

    def scale(self, x: Tensor) -> float:
        if not self.training:
            self.net.double().float()
            self.net.bias.requires_grad_(False)
        return 1.0


STATEFUL: tuple[type[Stateful], ...] = (
    CountsCalls, CountsOnTheClass, ListOnTheClass, CountsInATensor, AddsItsOutput, AppendsActivations, MovingAverage,
    CachesByShape, BuildsATableLazily, BuildsALayerLazily, RegistersAHook, NormalisesItsWeights, SetsItsWeights,
    Spectral, OldWeightNorm, OwnsGenerators, KeepsContainers, KeepsObjects, EnclosesACounter, MadeInAFunction,
    ComputesAProperty, UpdatesMetrics, CountsInGlobals, CountedByACallback, Halves,
)  # fmt: skip
