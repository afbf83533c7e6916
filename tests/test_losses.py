"""Whatever the step's loss and precision: the record is what the module computed, and weights stay bit-identical."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy, nll_loss
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from dynalens import CaptureError, SampleStatistics, TrainingDynamicsMonitor
from training import Classifier, N, fit, images, labels, loader

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


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        x, y = batch
        F.cross_entropy(self(x), y)  # after the step's backward pass: not what was trained on
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

    def __init__(self, shape: tuple[int, ...], *, returns: torch.dtype | None = None, value: float = 1.0) -> None:
        super().__init__()
        self.shape, self.returns, self.value = shape, returns, value

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        z = self(x / N)[:, 0].reshape(self.shape)
        is_one = (y == 1).to(z.dtype).reshape(self.shape) * self.value
        flat = z.detach().flatten()
        rows = torch.stack([torch.zeros_like(flat), flat], dim=1)
        self.remember(x, rows, is_one.flatten().long())
        if self.returns is None:
            return F.binary_cross_entropy_with_logits(z, is_one)
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
OWN = {"capture": "module:net"}
STEPS: dict[str, tuple[Callable[[], Classifier], dict[str, Any], dict[str, Any]]] = {
    **{name: (model, {}, {}) for name, model in LOSSES.items()},
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
    "torch.compile(net), eager": (partial(WrappedByCompile, "eager"), {}, {}),
    "torch.compile(net), aot_eager": (partial(WrappedByCompile, "aot_eager"), {}, {}),
    "net.compile(), eager": (partial(CompiledInPlace, "eager"), {}, {}),
    "net.compile(), aot_eager": (partial(CompiledInPlace, "aot_eager"), {}, {}),
    "two views": (TwoViews, {"views": 2}, {}),
    "binary (B,)": (partial(Binary, (-1,)), {}, {}),
    "binary (B, 1)": (partial(Binary, (-1, 1)), {}, {}),
    **{
        f"binary, returned as {dtype}": (partial(Binary, (-1, 1), returns=dtype), {}, {})
        for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.bfloat16, torch.float64)
    },
    "one of several labels": (MultiLabel, {"capture": second_label}, {}),
    "a dotted path": (MultiLabel, {"capture": "test_losses.second_label"}, {}),
}


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


@pytest.mark.parametrize(("model", "arguments", "options"), STEPS.values(), ids=STEPS.keys())
def test_the_record_is_exact_and_weights_are_bit_identical(
    tmp_path: Path, model: Callable[[], Classifier], arguments: dict[str, Any], options: dict[str, Any]
) -> None:
    state = model().state_dict()
    monitor = TrainingDynamicsMonitor(history=False, **arguments)
    runs = []
    for callbacks in ([monitor], []):
        module = model()
        module.load_state_dict(state)
        runs.append(fit(tmp_path, *callbacks, model=module, data=lambda: loader(batch_size=6), **options))
    assert_equals_the_definitions(monitor.statistics(), runs[0].seen)
    for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


@pytest.mark.parametrize("returns", [None, torch.float16, torch.uint8], ids=str)
def test_binary_targets_that_are_no_classes_are_counted_and_raised_at_the_epochs_end(
    tmp_path: Path, returns: torch.dtype | None
) -> None:
    value = 0.5 if returns is None else 3.0
    wrong = int((labels() == 1).sum())
    with pytest.raises(ValueError, match=f"binary targets to be 0 or 1, got {wrong} other values in this epoch"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Binary((-1,), returns=returns, value=value))


def test_several_labels_raise_one_error_that_names_the_argument(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"multi-label targets .* Pass `capture=` with a callable.* picks one class"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=MultiLabel())


class Contrastive(Classifier):
    """Scores of a view against others; its counterpart always stands first."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        views = self(torch.cat([batch[0], batch[0].flip(3)]) / N)
        return F.cross_entropy(views, torch.zeros_like(views[:, 0], dtype=torch.int64))


def test_a_contrastive_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"classes of the samples, got class 0 throughout the epoch.*`capture=`"):
        fit(tmp_path, TrainingDynamicsMonitor(views=2), model=Contrastive())


def in_order(y: Tensor) -> Callable[[], DataLoader[Any]]:
    return lambda: loader(TensorDataset(images(), y), shuffle=False)


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
