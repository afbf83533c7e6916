"""Logits and targets that a step returns, or that are asked for by name, are compared with what its loss compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens import CaptureError, TrainingDynamicsMonitor
from dynalens.capture import ClaimedPairs, Presentation
from dynalens.dynamics import IGNORED
from test_losses import assert_equals_the_definitions, own_loss
from training import Classifier, N, fit, loader

ORDER = r"that the loss compared it with, got the targets in another order.*`logits\[order\.argsort\(\)\]`"


def by_torch(y: Tensor) -> Tensor:
    return y.argsort(stable=True)


def by_lists(y: Tensor) -> Tensor:
    """The same, in a way that is not followed."""
    return torch.tensor(sorted(range(len(y)), key=y.tolist().__getitem__))


class Returns(Classifier):
    """Trains on rows in an order of its own, and returns their logits, and labels, as ``returned`` makes them."""

    def __init__(self, order: Callable[[Tensor], Tensor], returned: Callable[..., Any]) -> None:
        super().__init__()
        self.order, self.returned = order, returned

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        order = self.order(y)
        images, classes = torch.stack([x[int(i)] for i in order]), torch.tensor([int(y[int(i)]) for i in order])
        logits = self(images / N)
        self.remember(images, logits, classes)
        return {"loss": self.loss(logits, classes)} | self.returned(logits, y, order)


class Followed(Returns):
    """Orders its rows in a way that is followed."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        order = self.order(y)
        logits = self(x[order] / N)
        self.remember(x[order], logits, y[order])
        return {"loss": own_loss(logits, y[order]), "z": logits}


def nothing(logits: Tensor, y: Tensor, order: Tensor) -> Any:
    return {}


def as_trained(logits: Tensor, y: Tensor, order: Tensor) -> Any:
    return {"logits": logits, "targets": y}


def turned(logits: Tensor, y: Tensor, order: Tensor) -> Any:
    return {"logits": logits.flip(0), "targets": y}


def put_back(logits: Tensor, y: Tensor, order: Tensor) -> Any:
    return {"logits": logits[order.argsort()], "targets": y}


def captured(outputs: Any, batch: Any) -> Any:
    return outputs["z"], batch[1]


class Exchanged(Classifier):
    """Returns two rows of logits in each other's place, whose labels are the same."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N)
        return {"loss": self.loss(logits, y), "logits": logits[[3, 1, 2, 0, 4, 5, 6]], "targets": y}


REFUSED: dict[str, tuple[Callable[[], Classifier], dict[str, Any], int]] = {
    "a callable, rows followed": (lambda: Followed(by_torch, nothing), {"capture": captured}, 1),
    "a layer, rows not followed": (lambda: Returns(by_lists, nothing), {"capture": "module:net"}, 3),
    "the result, rows not followed": (lambda: Returns(by_lists, as_trained), {}, 3),
    "the result, logits turned": (lambda: Returns(lambda y: torch.arange(len(y)), turned), {}, 3),
}


@pytest.mark.parametrize(("model", "arguments", "steps"), REFUSED.values(), ids=REFUSED.keys())
def test_logits_beside_targets_of_other_rows_are_refused_in_the_first_batches(
    tmp_path: Path, model: Callable[[], Classifier], arguments: dict[str, Any], steps: int
) -> None:
    monitor = TrainingDynamicsMonitor(history=False, **arguments)
    with pytest.raises(CaptureError, match=ORDER):
        fit(tmp_path, monitor, model=model(), data=lambda: loader(batch_size=7), limit_train_batches=steps)


def test_rows_of_the_same_label_in_each_others_place_are_refused_too(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=ORDER):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Exchanged(), data=lambda: loader(batch_size=7, shuffle=False))


def test_the_advice_of_the_error_gives_the_exact_record(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=Returns(by_lists, put_back), data=lambda: loader(batch_size=7), max_epochs=1)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class CompiledFunction(torch.autograd.Function):
    """Has the name in autograd's graph of what ``torch.compile`` made."""

    @staticmethod
    def forward(_ctx: Any, _logits: Tensor, loss: Tensor) -> Tensor:
        return loss.clone()


Z = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2, IGNORED, 0])


def see(loss: Tensor, *, of_layer: bool = True) -> None:
    pairs = ClaimedPairs()
    pairs.start()
    z = Z.clone().requires_grad_()
    compiled = CompiledFunction.apply(z, loss)  # type: ignore[no-untyped-call, unused-ignore]  # in some torch releases
    pairs.before_backward(compiled / 2)  # Lightning's factor
    pairs.check(Presentation(Z, Y, "", Y, of_layer=of_layer), lambda _: None, accumulates=2)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_compiled_loss_of_the_layer_and_the_labels_is_told_by_its_value(reduction: str) -> None:
    see(F.cross_entropy(Z, Y, ignore_index=IGNORED, reduction=reduction))


def test_a_compiled_loss_of_rows_in_another_order_is_refused_for_a_layer_alone() -> None:
    loss = F.cross_entropy(Z[by_torch(Y)], Y, ignore_index=IGNORED)
    with pytest.raises(CaptureError, match=r"compiled step to be the mean cross-entropy.*leave `capture` out"):
        see(loss)
    see(loss, of_layer=False)
