"""Steps that change the labels of their batch in place."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens import CaptureError, IndexedDataset, SampleIdentityError, TrainingDynamicsMonitor
from test_losses import assert_equals_the_definitions, own_loss
from training import Classifier, N, dataset, fit, loader

pytestmark = pytest.mark.usefixtures("undrawn")


def by_copy(values: Tensor, order: Tensor) -> None:
    values.copy_(values[order])


def by_item(values: Tensor, order: Tensor) -> None:
    values[:] = values[order]


def by_numpy(values: Tensor, order: Tensor) -> None:
    np.copyto(values.numpy(), values.numpy()[order.numpy()])


def by_data(values: Tensor, order: Tensor) -> None:
    values.data = values[order]


class Reorders(Classifier):
    def __init__(self, reorder: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self.reorder = reorder

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        order = torch.arange(len(batch[1])).flip(0)
        for part in batch:
            self.reorder(part, order)
        return super().training_step(batch[:2], batch_idx)


@pytest.mark.parametrize("reorder", [by_copy, by_item, by_numpy, by_data])
def test_labels_put_into_another_order_in_place_are_an_error_in_the_first_batch(
    tmp_path: Path, reorder: Callable[[Tensor, Tensor], None]
) -> None:
    with pytest.raises(SampleIdentityError, match=r"another order in the same tensor.*labels = labels\[order\]"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Reorders(reorder), limit_train_batches=1, max_epochs=1)


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"])
@pytest.mark.parametrize("reorder", [by_copy, by_item, by_numpy])
def test_labels_that_a_hook_puts_into_another_order_in_place_are_an_error_in_the_first_batch(
    tmp_path: Path, hook: str, reorder: Callable[[Tensor, Tensor], None]
) -> None:
    def in_place(batch: Any, *_: Any) -> Any:
        for part in batch:
            reorder(part, torch.arange(len(part)).flip(0))
        return batch

    model = Classifier()
    setattr(model, hook, in_place)
    items: Any = [dataset()[i] for i in range(N)]  # a list shows no labels
    with pytest.raises(SampleIdentityError, match=r"hooks before it to leave.*another order in the same tensor"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=model, data=lambda: loader(items), limit_train_batches=1)


def test_an_index_in_the_batch_may_go_along(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(
        tmp_path, monitor, model=Reorders(by_copy), data=lambda: loader(IndexedDataset(dataset())), max_epochs=2
    )
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_copies_that_are_reordered_are_followed_as_the_error_advises(tmp_path: Path) -> None:
    class Copies(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            order = torch.tensor(random.Random(batch_idx).sample(range(len(batch[1])), len(batch[1])))
            return super().training_step([part[order] for part in batch], batch_idx)

    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=Copies(), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_labels_may_be_renumbered_and_ignored_in_place(tmp_path: Path) -> None:
    class Renumbers(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            y += 1
            y %= 3
            y[y == 2] = -100
            logits, counted = self(x / N), y >= 0
            self.remember(x[counted], logits[counted], y[counted])
            return F.cross_entropy(logits, y)

    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=Renumbers(), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_probabilities_given_to_nll_loss_are_recorded_by_their_logarithm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("dynalens.callbacks.training_dynamics.announce", said.append)

    class OfProbabilities(Classifier):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return F.nll_loss(logits.softmax(dim=1), y)

    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=OfProbabilities(), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert "logarithm of the probabilities" in " ".join(said)


def of_classes(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, y: F.cross_entropy(activation(z), y)


def binary(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, y: F.binary_cross_entropy_with_logits(activation(z[:, 0]), (y == 1).float())


def temperature(z: Tensor) -> Tensor:
    """A positive factor, as of contrastive models, and numbers in [0, 1]."""
    return z.sum().exp().detach().log().exp() * 0 + z.abs() / z.abs().max().detach()


ACTIVATED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str | None]] = {
    "softmax": (of_classes(lambda z: z.softmax(1)), "`cross_entropy`, got the result of a softmax"),
    "softmax by hand": (
        of_classes(lambda z: (z - z.max()).exp() / (z - z.max()).exp().sum(1, keepdim=True)), "result of a softmax",
    ),
    "exponential of log-softmax": (of_classes(lambda z: z.log_softmax(1).exp()), "got the result of a softmax"),
    "sigmoid of classes": (of_classes(torch.sigmoid), "got the result of a sigmoid: the loss takes the softmax"),
    "clamp of classes": (of_classes(lambda z: (9 * z).clamp(0, 1)), "`cross_entropy`, got the result of a clamp"),
    "sigmoid": (binary(torch.sigmoid), "`binary_cross_entropy_with_logits`, got the result of a sigmoid"),
    "sigmoid by hand": (binary(lambda z: 1 / (1 + torch.exp(-z))), "got the result of a sigmoid"),
    "sigmoid by hand, the other form": (binary(lambda z: z.exp() / (1 + z.exp())), "got the result of a sigmoid"),
    "clamp": (binary(lambda z: (9 * z).clamp(0, 1)), "got the result of a clamp to 0 and 1"),
    "logits": (of_classes(lambda z: z), None),
    "logarithm of a softmax": (of_classes(lambda z: z.softmax(1).log()), None),  # its softmax is the same again
    "logits in [0, 1]": (binary(lambda z: z.abs() / (1 + z.abs())), None),
    "logits in [0, 1] with a temperature": (binary(temperature), None),
    "logits within wide limits": (binary(lambda z: z.clamp(-10, 10)), None),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "message"), ACTIVATED.values(), ids=ACTIVATED.keys())
def test_a_loss_of_logits_that_is_given_probabilities_is_warned_of_once(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, loss: Callable[[Tensor, Tensor], Tensor], message: str | None
) -> None:
    class Activated(Classifier):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return loss(logits, y)

    fit(tmp_path, TrainingDynamicsMonitor(history=False), model=Activated(), max_epochs=1)
    warned = [str(each.message) for each in recwarn if "by itself" in str(each.message)]
    assert len(warned) == (message is not None)
    assert message is None or re.search(f"{message}.*Leave the .* out and pass logits", warned[0])


class ReturnsProbabilities(Classifier):
    """Returns a softmax under the key of logits; its last layer is a softmax, too."""

    def __init__(self) -> None:
        super().__init__()
        self.net.append(nn.Softmax(dim=1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        probabilities = self(x / N)
        self.remember(x, probabilities.log(), y)
        loss = F.nll_loss(probabilities.log(), y)
        return {"loss": loss, "logits": probabilities.detach(), "targets": y, "log": probabilities.detach().log()}


@pytest.mark.parametrize(
    ("capture", "warns"),
    [
        ("auto", True),
        (lambda outputs, batch: (outputs["logits"], batch[1]), True),
        ("module:net", True),
        (lambda outputs, batch: (outputs["log"], batch[1]), False),
        ("module:net.3", False),
    ],
    ids=["returned", "callable", "layer", "logarithm", "layer before"],
)
def test_probabilities_that_are_named_as_logits_are_warned_of_once(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capture: Any, warns: bool
) -> None:
    monitor = TrainingDynamicsMonitor(history=False, capture=capture)
    module = fit(tmp_path, monitor, model=ReturnsProbabilities(), max_epochs=1)
    warned = [str(each.message) for each in recwarn if "got probabilities" in str(each.message)]
    assert len(warned) == warns
    if warns:
        assert re.search("each row sums to 1.*Return the logits, or the logarithm of the probabilities", warned[0])
    else:
        assert_equals_the_definitions(monitor.statistics(), module.seen)


class ChangesScores(Classifier):
    """For a log: ``detach`` shares memory."""

    def changed(self, logits: Tensor) -> Tensor:
        return logits.detach()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N)
        self.remember(x, logits, y)
        loss = self.loss(logits, y)
        self.changed(logits)[:, 0] = -1
        return loss


class ChangesACopy(ChangesScores):
    def changed(self, logits: Tensor) -> Tensor:
        return logits.detach().clone()


class ChangesScoresOfOwnLoss(ChangesScores):
    """Autograd keeps the result of the softmax."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class ChangesScoresLater(ChangesScores):
    def changed(self, logits: Tensor) -> Tensor:
        if not self.current_epoch:
            return logits.clone()
        self.seen.pop()
        return logits.detach()


def test_logits_changed_in_place_after_their_loss_are_an_error_in_the_first_batch(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"changed in place afterwards.*logits\.detach\(\)\.clone\(\)"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=ChangesScores(), limit_train_batches=1, max_epochs=1)


@pytest.mark.parametrize("model", [ChangesACopy, ChangesScoresOfOwnLoss])
def test_logits_are_recorded_as_the_loss_had_them(tmp_path: Path, model: type[Classifier]) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=model(), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_later_steps_whose_logits_were_changed_are_left_out(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    with pytest.warns(UserWarning, match="changed in place afterwards.*training goes on"):
        module = fit(tmp_path, monitor, model=ChangesScoresLater(), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert monitor.record.meta.incomplete_epochs == [1]
