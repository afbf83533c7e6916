"""Whatever the step's loss and precision: the record is what the module computed, and weights stay bit-identical."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy, nll_loss
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from dynalens import CaptureError, SampleStatistics, TrainingDynamicsMonitor
from training import Classifier, N, fit, fit_undisturbed, images, labels, loader

pytestmark = pytest.mark.usefixtures("undrawn")

WEIGHT = torch.tensor([1.0, 2.0, 0.5])


def weight(z: Tensor) -> Tensor:
    return WEIGHT.to(z.device)


class WithLoss(Classifier):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], ignored: int = -100) -> None:
        super().__init__()
        self.function, self.ignored = function, ignored

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.function(logits, y)

    def remember(self, x: Tensor, logits: Tensor, y: Tensor) -> None:
        counted = y != self.ignored
        super().remember(x[counted], logits[counted], y[counted])


def own_loss(logits: Tensor, y: Tensor) -> Tensor:
    return -logits.log_softmax(1)[torch.arange(len(y)), y].mean()


class Manual(WithLoss):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy) -> None:
        super().__init__(function)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        x, y = batch
        F.cross_entropy(self(x), y)  # after the step's backward pass: not what was trained on
        optimizer.step()


class ByHand(Manual):
    """Begins its backward pass without Lightning, and leaves out every third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        x, y = batch
        logits = self(x / N)
        loss = self.loss(logits, y)
        if batch_idx % 3 == 0:
            return
        self.remember(x, logits, y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.loss(self(x), y)
        optimizer.step()


class Returns(WithLoss):
    """Returns a dict."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N)
        self.remember(x, logits, y)
        return {"loss": self.loss(logits, y), "logits": logits, "targets": y, "images": x}


class Checkpointed(Classifier):
    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        out = checkpoint(self.net, x.requires_grad_(), use_reentrant=self.use_reentrant)
        assert isinstance(out, Tensor)
        return out


class WrappedByCompile(Classifier):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.net: Any = torch.compile(self.net, backend=backend)


def larger(graph: Any, _inputs: Any) -> Any:
    """A backend whose numbers differ from those of eager steps, so that a step that is not compiled shows."""

    def run(*arguments: Any) -> Any:
        return tuple(1.01 * out if out.is_floating_point() else out for out in graph(*arguments))

    return run


class CompiledFunction(Classifier):
    """Holds a compiled function, of which no module says that it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.fast = torch.compile(self.net.forward, backend=larger)

    def forward(self, x: Tensor) -> Any:
        return self.fast(x)


class CompiledMethod(Classifier):
    @torch.compile(backend=larger)
    def fast(self, x: Tensor) -> Any:
        return self.net(x)

    def forward(self, x: Tensor) -> Any:
        return self.fast(x)


class CompiledInConfigureModel(Classifier):
    """As Lightning advises: the network is compiled when the strategy is known, which is after ``setup``."""

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self.backend = backend

    def configure_model(self) -> None:
        if isinstance(self.net, nn.Sequential):
            self.net: Any = torch.compile(self.net, backend=self.backend)


class ObservedCompiled(WrappedByCompile):
    def __init__(self) -> None:
        super().__init__("aot_eager")

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return label_smoothing(logits, y)


class ComputesTwice(Classifier):
    """As a model of transformers: with labels it computes a loss, which this module computes once more."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N)
        self.remember(x, logits, y)
        F.cross_entropy(logits.view(-1, 3), y.view(-1))
        return F.cross_entropy(logits.float(), y)


class CompiledInPlace(Classifier):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.net.compile(backend=backend)


class TwoViews(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits, both = self(torch.cat([x, x.flip(3)]) / N), torch.cat([y, y])
        self.remember(torch.cat([x, x]), logits, both)
        return self.loss(logits, both)


class Binary(Classifier):
    """One logit for "is class 1", of shape (B,) or (B, 1)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        returns: torch.dtype | None = None,
        value: float = 1.0,
        function: Callable[[Tensor, Tensor], Tensor] = F.binary_cross_entropy_with_logits,
    ) -> None:
        super().__init__()
        self.shape, self.returns, self.value, self.function = shape, returns, value, function

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        z = self(x / N)[:, 0].reshape(self.shape)
        is_one = (y == 1).to(z.dtype).reshape(self.shape) * self.value
        flat = z.detach().flatten()
        rows = torch.stack([torch.zeros_like(flat), flat], dim=1)
        self.remember(x, rows, is_one.flatten().long())
        if self.returns is None:
            return self.function(z, is_one)
        return {"loss": (z - is_one).square().mean(), "logits": z, "targets": is_one.to(self.returns)}


class MultiLabel(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits, several = self(x / N), torch.stack([y == 0, y != 1, y == 2], dim=1).float()
        second = logits[:, 1].detach()
        self.remember(x, torch.stack([torch.zeros_like(second), second], dim=1), several[:, 1].long())
        return {"loss": F.binary_cross_entropy_with_logits(logits, several), "rows": logits, "several": several}


def second_label(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return outputs["rows"][:, 1], outputs["several"][:, 1]


def loss(function: Callable[[Tensor, Tensor], Tensor], ignored: int = -100) -> Callable[[], Classifier]:
    return partial(WithLoss, function, ignored)


def relabelled(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y.masked_fill(y == 2, -2), ignore_index=-2)


LOSSES: dict[str, Callable[[], Classifier]] = {
    "F.cross_entropy": loss(F.cross_entropy),
    "all by position": loss(lambda z, y: F.cross_entropy(z, y, weight(z), None, -100, None, "mean", 0.1)),
    "all by keyword": loss(lambda z, y: F.cross_entropy(reduction="sum", ignore_index=1, target=y, input=z), 1),
    "multi_margin_loss": loss(F.multi_margin_loss),
    "multi_margin_loss, squared": loss(
        lambda z, y: nn.MultiMarginLoss(2, 0.5, torch.tensor([1.0, 2.0, 1.0]), reduction="none")(z, y).mean()
    ),
    "no reduction": loss(lambda z, y: F.cross_entropy(z, y, reduction="none").mean()),
    "nn.CrossEntropyLoss": loss(nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1, ignore_index=2), 2),
    "ignore_index by position": loss(lambda z, y: F.cross_entropy(z, y, None, None, 0), 0),
    "ignore_index that is our own mark": loss(relabelled, 2),
    "cross_entropy imported by name": loss(lambda z, y: cross_entropy(z, y, ignore_index=1), 1),
    "nll_loss": loss(lambda z, y: F.nll_loss(z.log_softmax(1), y)),
    "nll_loss by position": loss(lambda z, y: F.nll_loss(z.log_softmax(1), y, weight(z), None, 1), 1),
    "nn.NLLLoss": loss(lambda z, y: nn.NLLLoss(weight=weight(z), ignore_index=0)(F.log_softmax(z, dim=1), y), 0),
    "nll_loss imported by name": loss(lambda z, y: nll_loss(target=y, input=z.log_softmax(1))),
}


def label_smoothing(z: Tensor, y: Tensor) -> Tensor:
    """As in timm's LabelSmoothingCrossEntropy."""
    log_p = F.log_softmax(z, dim=-1)
    chosen = -log_p.gather(dim=-1, index=y.unsqueeze(1)).squeeze(1)
    return (0.9 * chosen + 0.1 * -log_p.mean(dim=-1)).mean()


def focal(z: Tensor, y: Tensor) -> Tensor:
    log_p = z.log_softmax(dim=1).gather(1, y[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2 * weight(z)[y] * log_p).mean()


def focal_of_two_calls(z: Tensor, y: Tensor) -> Tensor:
    one_hot = F.one_hot(y, 3).to(z.dtype)
    return -((1 - F.softmax(z, dim=1)) ** 2 * F.log_softmax(z, dim=1) * one_hot).sum(dim=1).mean()


def sigmoid_focal(z: Tensor, y: Tensor) -> Tensor:
    """As in torchvision's sigmoid_focal_loss, of one-hot targets."""
    targets = F.one_hot(y, 3).to(z.dtype)
    p = torch.sigmoid(z)
    entropy = F.binary_cross_entropy_with_logits(z, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    return ((0.25 * targets + 0.75 * (1 - targets)) * entropy * (1 - p_t) ** 2).mean()


def hidden(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a part of a sum, with a weight decay by hand."""
    return lambda z, y: 0.5 * function(z, y) + 1e-4 * z.square().mean()


OBSERVED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "label smoothing": label_smoothing,
    "focal": focal,
    "focal of two calls": focal_of_two_calls,
    "log_softmax by index": own_loss,
    "log of softmax": lambda z, y: -(nn.Softmax(dim=1)(z).gather(1, y[:, None]) + 1e-12).log().mean(),
    "logsumexp": lambda z, y: (z.logsumexp(1) - z.gather(1, y[:, None]).squeeze(1)).mean(),
    "softmax as float": lambda z, y: -z.softmax(1).float().contiguous().gather(1, y[:, None]).log().mean(),
    "one-hot by hand": lambda z, y: torch.sum(-F.one_hot(y, 3) * z.log_softmax(-1), dim=-1).mean(),
    "smoothed by hand": lambda z, y: -((0.9 * F.one_hot(y, 3) + 0.1 / 3) * nn.LogSoftmax(1)(z)).sum(1).mean(),
    "sigmoids and binary_cross_entropy": lambda z, y: F.binary_cross_entropy(z.sigmoid(), F.one_hot(y, 3).to(z.dtype)),
    "where": lambda z, y: -torch.where(F.one_hot(y, 3) > 0, z.log_softmax(1), torch.zeros_like(z)).sum(1).mean(),
    "temperature and mask": lambda z, y: own_loss((z / 2).masked_fill(F.one_hot((y + 1) % 3, 3) > 0, -torch.inf), y),
    "part of a sum": hidden(label_smoothing),
    "factors in nll_loss": lambda z, y: F.nll_loss((1 - z.softmax(1)) ** 2 * z.log_softmax(1), y),
    "temperature in nll_loss": lambda z, y: F.nll_loss(z.log_softmax(1) / 2, y),
}


class Masked(WithLoss):
    """Its logits are those that the loss sees."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N)
        masked = logits.masked_fill(F.one_hot((y + 1) % 3, 3) > 0, -torch.inf)
        self.remember(x, masked, y)
        return own_loss(masked, y)


OWN = {"capture": "module:net"}
STEPS: dict[str, tuple[Callable[[], Classifier], dict[str, Any], dict[str, Any]]] = {
    **{name: (model, {}, {}) for name, model in LOSSES.items()},
    **{f"observed: {name}": (loss(function), {}, {}) for name, function in OBSERVED.items() if "mask" not in name},
    "observed: temperature and mask": (partial(Masked, own_loss), {}, {}),
    "observed: bf16-mixed": (loss(label_smoothing), {}, {"precision": "bf16-mixed"}),
    "observed: a compiled network": (ObservedCompiled, {}, {}),
    "observed: manual optimisation": (partial(Manual, focal), {}, {}),
    "observed: a backward pass by hand": (partial(ByHand, focal), {}, {}),
    "a backward pass by hand": (partial(ByHand, F.cross_entropy), {}, {}),
    "sigmoid focal loss": (loss(sigmoid_focal), {}, {}),
    "one-hot targets": (loss(lambda z, y: F.cross_entropy(z, F.one_hot(y, 3).to(z.dtype))), {}, {}),
    "smoothed targets": (loss(lambda z, y: F.cross_entropy(z, F.one_hot(y, 3) * 0.9 + 0.1 / 3)), {}, {}),
    "a model that computes its loss, too": (ComputesTwice, {}, {}),
    "own loss, a module": (loss(own_loss), OWN, {}),
    "own loss, the head by its dotted name": (loss(own_loss), {"capture": "module:net.3"}, {}),
    "a dict": (partial(Returns, own_loss), {}, {}),
    "a dict, asked for": (partial(Returns, own_loss), {"capture": "outputs"}, {}),
    "the loss, not the dict": (partial(Returns, F.cross_entropy), {"capture": "loss"}, {}),
    "bf16-mixed": (Classifier, {}, {"precision": "bf16-mixed"}),
    "bf16-mixed, a module": (loss(own_loss), OWN, {"precision": "bf16-mixed"}),
    "bf16-true": (Classifier, {}, {"precision": "bf16-true"}),
    "manual optimisation": (Manual, {}, {}),
    "checkpointing, reentrant": (partial(Checkpointed, use_reentrant=True), {}, {}),
    "checkpointing, not reentrant": (partial(Checkpointed, use_reentrant=False), {}, {}),
    "torch.compile(net.forward)": (CompiledFunction, {}, {}),
    "@torch.compile of a method": (CompiledMethod, {}, {}),
    "torch.compile(net), eager": (partial(WrappedByCompile, "eager"), {}, {}),
    "torch.compile(net), aot_eager": (partial(WrappedByCompile, "aot_eager"), {}, {}),
    "net.compile(), eager": (partial(CompiledInPlace, "eager"), {}, {}),
    "net.compile(), aot_eager": (partial(CompiledInPlace, "aot_eager"), {}, {}),
    "two views": (TwoViews, {"views": 2}, {}),
    "binary, smoothed": (
        partial(Binary, (-1,), function=lambda z, y: F.binary_cross_entropy_with_logits(z, 0.9 * y + 0.05)),
        {},
        {},
    ),
    "binary (B,)": (partial(Binary, (-1,)), {}, {}),
    "binary (B, 1)": (partial(Binary, (-1, 1)), {}, {}),
    **{
        f"binary, returned as {dtype}": (partial(Binary, (-1, 1), returns=dtype), {}, {})
        for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.bfloat16, torch.float64)
    },
    "one of several labels": (MultiLabel, {"capture": second_label}, {}),
    "a dotted path": (MultiLabel, {"capture": "test_losses.second_label"}, {}),
}


ONE_EPOCH = [name for name in STEPS if name.startswith(("observed", "binary, returned"))]
"""Whose second epoch has steps like the first's; those of others differ from epoch to epoch, and forget."""


def assert_equals_the_definitions(
    statistics: SampleStatistics, seen: list[tuple[int, list[int], Tensor, Tensor]]
) -> None:
    """Compare with a record of the presentations that is made one row at a time, in float64."""
    histories: dict[int, list[tuple[Tensor, int]]] = {}
    for _, index, logits, targets in seen:
        for i, z, y in zip(index, logits.double(), targets.tolist(), strict=True):
            histories.setdefault(i, []).append((z, y))
    assert statistics.presentations.tolist() == [len(histories.get(i, [])) for i in range(N)]
    for i, history in histories.items():
        margins = [float(z[y] - max(z[k] for k in range(len(z)) if k != y)) for z, y in history]
        correct = [margin > 0 for margin in margins]
        log_p = [float(z.log_softmax(0)[y]) for z, y in history]
        # The inputs of nll_loss were rounded once more: to float32, as log-probabilities.
        np.testing.assert_allclose(statistics.margin[i], np.mean(margins), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(statistics.loss[i], -np.mean(log_p), rtol=1e-5)
        np.testing.assert_allclose(statistics.confidence[i], np.exp(log_p).mean(), rtol=1e-5)
        assert statistics.correctness[i] == np.mean(correct)
        assert statistics.forgetting_events[i] == sum(a and not b for a, b in pairwise(correct))
        assert {statistics.label[i]} == {y for _, y in history}
        assert statistics.predicted[i] == int(history[-1][0].argmax())


@pytest.mark.parametrize("name", STEPS)
def test_the_record_is_exact_and_weights_are_bit_identical(tmp_path: Path, name: str) -> None:
    model, arguments, options = STEPS[name]
    torch.compiler.reset()  # after some compilations of one function, as tests make them, it runs without the compiler
    monitor = TrainingDynamicsMonitor(history=False, **arguments)
    options = {"data": lambda: loader(batch_size=6), "max_epochs": 1 if name in ONE_EPOCH else 2} | options
    module = fit_undisturbed(tmp_path, monitor, model, **options)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_a_network_that_configure_model_compiles_is_compiled_as_often_as_without_the_monitor(tmp_path: Path) -> None:
    def graph_count(*monitors: Any) -> int:
        graphs: list[Any] = []

        def backend(graph: Any, _inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        torch.compiler.reset()
        model, data = CompiledInConfigureModel(backend), lambda: loader(batch_size=6)
        fit(tmp_path, *monitors, model=model, max_epochs=2, data=data)
        return len(graphs)

    assert graph_count(TrainingDynamicsMonitor(history=False)) == graph_count() > 0


class OneLogit(Classifier):
    """One logit for each sample, whose labels are 0 and 1 in the batch."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *, turned: bool = False) -> None:
        super().__init__()
        self.function, self.turned = function, turned

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        z = self(x / N)[:, :1]
        flat = z.detach().flatten() * (-1 if self.turned else 1)
        self.remember(x, torch.stack([torch.zeros_like(flat), flat], dim=1), y.flatten().long())
        return self.function(z, y)


def by_hand(z: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(z).flatten()
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def squeezed(z: Tensor, y: Tensor) -> Tensor:
    """As by hand, but of numbers instead of vectors for a batch of one, and times a constant that is a tensor."""
    p, y = torch.sigmoid(z).squeeze(), y.squeeze()
    return -torch.tensor(0.5) * (y * p.log() + (1 - y) * (1 - p).log()).mean()


def of_class_0(z: Tensor, y: Tensor) -> Tensor:
    return by_hand(z, 1 - y)


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary_cross_entropy": lambda z, y: F.binary_cross_entropy(torch.sigmoid(z).squeeze(), y.float().squeeze()),
    "nn.BCELoss": lambda z, y: nn.BCELoss()(nn.Sigmoid()(z), y.view(-1, 1).float()),
    "smoothed": lambda z, y: F.binary_cross_entropy(torch.sigmoid(z).flatten(), 0.9 * y.float() + 0.05),
    "by hand": by_hand,
    "by hand, squeezed": squeezed,
    "focal": lambda z, y: (by_hand(z, y) * torch.where(y > 0, 1 - z.sigmoid().flatten(), z.sigmoid().flatten())).mean(),
    "logsigmoid": lambda z, y: -(y * F.logsigmoid(z).flatten() + (1 - y) * F.logsigmoid(-z).flatten()).mean(),
    "logsigmoid, turned": lambda z, y: -((1 - y) * F.logsigmoid(-z)[:, 0] + y * F.logsigmoid(z)[:, 0]).mean(),
    "weighted": lambda z, y: F.binary_cross_entropy(z.sigmoid().flatten(), y.float(), weight=1.0 + torch.rand(len(y))),
    "the logit of class 0": of_class_0,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
@pytest.mark.parametrize("function", BINARY.values(), ids=BINARY.keys())
def test_a_binary_loss_is_observed_exactly_down_to_a_last_batch_of_one(
    tmp_path: Path, function: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    data, monitor = TensorDataset(images(), (labels() == 1).to(dtype)), TrainingDynamicsMonitor(history=False)
    model = OneLogit(function, turned=function is of_class_0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fit(tmp_path, monitor, model=model, data=lambda: loader(data, batch_size=7), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), model.seen)
    plain = OneLogit(function)
    plain.load_state_dict(state)
    fit(tmp_path, model=plain, data=lambda: loader(data, batch_size=7), max_epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_binary_loss_of_squeezed_logits_is_recorded_down_to_a_last_batch_of_one(tmp_path: Path) -> None:
    model = OneLogit(lambda z, y: F.binary_cross_entropy_with_logits(z.squeeze(), y.squeeze()))
    monitor, data = TrainingDynamicsMonitor(history=False), TensorDataset(images(), (labels() == 1).float()[:, None])
    fit(tmp_path, monitor, model=model, data=lambda: loader(data, batch_size=7))
    assert_equals_the_definitions(monitor.statistics(), model.seen)


def two_heads(z: Tensor, y: Tensor) -> Tensor:
    return own_loss(z, y) + own_loss(z * 2, y)


def mixed(z: Tensor, y: Tensor) -> Tensor:
    return 0.7 * own_loss(z, y) + 0.3 * own_loss(z, y.flip(0))


def of_pairs(z: Tensor, y: Tensor) -> Tensor:
    return -(z @ z.T).log_softmax(1).diag().mean()


def of_mixed_targets(z: Tensor, y: Tensor) -> Tensor:
    one_hot = F.one_hot(y, 3).float()
    return -((0.7 * one_hot + 0.3 * one_hot.flip(0)) * z.log_softmax(1)).sum(1).mean()


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "two heads": (two_heads, r"one classification loss .* got the input of LogSoftmax .*\(2 times\)\. .*`capture=`"),
    "mixed": (mixed, r"loss of the batch's labels and the input of LogSoftmax .*`capture=`"),
    "mixed targets": (of_mixed_targets, r"loss of the batch's labels and the input of LogSoftmax .*`capture=`"),
    "pairs": (of_pairs, r"loss of the batch's labels and the input of LogSoftmax \[4, 4\]"),
    "other labels": (lambda z, y: own_loss(z, (y + 1) % 3), "loss of the batch's labels and"),
    "rows in an order that is not followed": (
        lambda z, y: own_loss(z.flip(0), torch.from_numpy(y.numpy()[::-1].copy())),
        "loss of the batch's labels and",
    ),
    "squares": (lambda z, y: (z - F.one_hot(y, 3)).square().mean(), "one classification loss .* got none"),
    "over rows": (
        lambda z, y: -z.log_softmax(0)[torch.arange(len(y)), y].mean(),
        "one classification loss .* got none",
    ),
}


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_loss_that_cannot_be_told_is_refused_in_the_first_batch(
    tmp_path: Path, function: Callable[[Tensor, Tensor], Tensor], message: str
) -> None:
    model = WithLoss(function)
    with pytest.raises(CaptureError, match=message):
        fit(tmp_path, TrainingDynamicsMonitor(), model=model)
    assert len(model.seen) == 1


class MixesLater(WithLoss):
    """In one step, the loss is given the labels of other rows."""

    step = 5

    def __init__(self) -> None:
        super().__init__(own_loss)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y.flip(0) if len(self.seen) == self.step else y)


class MixesInTheSecondEpoch(MixesLater):
    step = 11


WRONG = int((labels()[16:20] != labels()[16:20].flip(0)).sum())


def test_an_observed_loss_that_mixes_in_the_first_epoch_is_an_error_as_all_rows_may_be_in_another_order(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=f"targets to be classes, got {WRONG} in this epoch that name no class"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=MixesLater(), data=lambda: loader(shuffle=False))


def test_a_step_of_an_observed_loss_that_mixes_in_a_later_epoch_is_left_out(tmp_path: Path) -> None:
    monitor, model = TrainingDynamicsMonitor(), MixesInTheSecondEpoch()
    reasons = "soft or mixed ones, as mixup has them, numbers that are not below the number of logits, or binary ones"
    with pytest.warns(UserWarning, match=f"got {WRONG} in this epoch that name no class: {reasons}.* training goes on"):
        fit(tmp_path, monitor, model=model, data=lambda: loader(shuffle=False), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), [*model.seen[:10], *model.seen[11:]])
    assert monitor.record.meta.incomplete_epochs == [1]


def test_the_announcement_names_the_observed_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("dynalens.callbacks.training_dynamics.announce", said.append)
    fit(tmp_path, TrainingDynamicsMonitor(), model=WithLoss(focal), max_epochs=1)
    assert said == [
        "dynalens: logits: the input of LogSoftmax [4, 3] on the way to the loss; targets: labels of the batch; "
        "samples: identified by their positions, which the sampler drew"
    ]


class Skips(WithLoss):
    """Returns nothing for some batches, before or after it has computed the loss."""

    def __init__(self, skipped: tuple[int, ...], *, computes: bool, manual: bool = False) -> None:
        super().__init__(F.cross_entropy)
        self.skipped, self.computes, self.automatic_optimization = skipped, computes, not manual

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        if batch_idx in self.skipped and not self.computes:
            return None
        logits = self(x / N)
        loss = self.loss(logits, y)
        if batch_idx in self.skipped:
            return None
        self.remember(x, logits, y)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .None.")
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("computes", [False, True], ids=["at once", "after the loss"])
@pytest.mark.parametrize("skipped", [(0, 1), (2, 4), (5,)], ids=["the first", "some", "the last"])
def test_a_step_that_trained_on_nothing_is_no_presentation(
    tmp_path: Path, skipped: tuple[int, ...], computes: bool, manual: bool
) -> None:
    monitor, model = TrainingDynamicsMonitor(history=False), Skips(skipped, computes=computes, manual=manual)
    fit(tmp_path, monitor, model=model)
    assert_equals_the_definitions(monitor.statistics(), model.seen)


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_a_manual_fit_without_a_loss_that_is_seen_is_refused(tmp_path: Path, manual: bool) -> None:
    class Squares(Skips):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return logits.square().mean()

    with pytest.raises(CaptureError, match=r"one classification loss .* got none"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Squares((), computes=True, manual=manual))


def test_the_extra_epoch_of_weight_averaging_is_none_of_the_record(tmp_path: Path) -> None:
    class Normalised(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net.insert(1, nn.BatchNorm2d(4))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor, model = TrainingDynamicsMonitor(), Normalised()
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    fit(tmp_path, monitor, averaging, model=model)
    assert {epoch for epoch, *_ in model.seen} == {0, 1, 2, 3}
    trained = [seen for seen in model.seen if seen[0] < 3]
    assert_equals_the_definitions(monitor.statistics(), trained)
    assert monitor.statistics().presentations.tolist() == [3] * N
    assert monitor.table().attrs["epochs"] == [0, 1, 2]


@pytest.mark.parametrize("returns", [None, torch.float16, torch.uint8], ids=str)
def test_binary_targets_that_are_no_classes_are_refused_in_the_first_batch_that_has_them(
    tmp_path: Path, returns: torch.dtype | None
) -> None:
    value = 0.5 if returns is None else 3.0
    model = Binary((-1,), returns=returns, value=value)
    with pytest.raises(CaptureError, match=r"binary targets to be 0 or 1, .*, got \d other values in this batch"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=model, data=lambda: loader(batch_size=6))
    assert len(model.seen) == 1


def test_binary_targets_that_are_no_classes_in_one_of_the_first_steps_are_refused_in_it(tmp_path: Path) -> None:
    class Later(Binary):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.value = 0.5 if batch_idx == 2 else 1.0
            return super().training_step(batch, batch_idx)

    wrong, model = int((labels()[8:12] == 1).sum()), Later((-1,))
    with pytest.raises(CaptureError, match=f"first steps to be classes, got {wrong} that name no class in one of them"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=model, data=lambda: loader(shuffle=False))
    assert len(model.seen) == 3


class Contrastive(Classifier):
    """Scores of a view against others; its counterpart always stands first."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        views = self(torch.cat([batch[0], batch[0].flip(3)]) / N)
        return F.cross_entropy(views, torch.zeros_like(views[:, 0], dtype=torch.int64))


def test_a_contrastive_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"classes of the samples, got class 0 throughout batches.*`capture=`"):
        fit(tmp_path, TrainingDynamicsMonitor(views=2), model=Contrastive())


def in_order(y: Tensor) -> Callable[[], DataLoader[Any]]:
    return lambda: loader(TensorDataset(images(), y), shuffle=False)


class Renumbers(Classifier):
    """Learns whether a label is 0; a list of Python holds the answers, so that nothing can be followed."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits, answers = self(x / N), torch.tensor([int(label == 0) for label in y.tolist()])
        self.remember(x, logits, answers)
        return F.cross_entropy(logits, answers)


def test_a_first_batch_of_class_0_alone_after_a_renumbering_is_not_taken_for_a_contrastive_loss(tmp_path: Path) -> None:
    y = torch.tensor([1, 2, 2, 1] + [0, 1, 2] * 6)
    monitor, model = TrainingDynamicsMonitor(), Renumbers()
    fit(tmp_path, monitor, model=model, data=in_order(y))
    assert [targets.tolist() for *_, targets in model.seen[:2]] == [[0, 0, 0, 0], [1, 0, 0, 1]]
    assert_equals_the_definitions(monitor.statistics(), model.seen)


@pytest.mark.parametrize(
    ("model", "views", "y"),
    [(TwoViews, 2, labels().sort().values), (Classifier, 1, torch.zeros(N, dtype=torch.int64))],
    ids=["batches of class 0 alone", "a dataset of class 0 alone"],
)
def test_labels_of_class_0_are_not_taken_for_a_contrastive_loss(
    tmp_path: Path, model: Callable[[], Classifier], views: int, y: Tensor
) -> None:
    monitor = TrainingDynamicsMonitor(views=views)
    fit(tmp_path, monitor, model=model(), data=in_order(y))
    assert monitor.statistics().label.tolist() == y.tolist()
    assert monitor.statistics().presentations.tolist() == [3 * views] * N
