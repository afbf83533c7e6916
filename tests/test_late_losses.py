"""Losses that begin after the first steps: what can still be told is recorded, what cannot ends no training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import CaptureError, SampleIdentityError, TrainingDynamicsMonitor, load_record
from test_loss_of_labels import FixMatch, two_loaders
from test_losses import assert_equals_the_definitions
from test_several_losses import AdversaryFirst, InTurn, TwoNetworks
from training import Classifier, K, N, fit, fit_undisturbed, loader

pytestmark = pytest.mark.usefixtures("undrawn")


class Late(Classifier):
    """Another loss begins in the second epoch, or in the middle of the first."""

    begins = 1, 0

    def is_late(self, batch_idx: int) -> bool:
        return (self.current_epoch, batch_idx) >= self.begins

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.late_step(batch) if self.is_late(batch_idx) else super().training_step(batch, batch_idx)

    def late_step(self, batch: Any) -> Any:
        raise NotImplementedError


class Mixup(Late):
    """Two labels for each row: no number of a sample's own is there any more."""

    def late_step(self, batch: Any) -> Any:
        x, y = batch
        order = torch.arange(len(y)).roll(1)
        logits = self((0.7 * x + 0.3 * x[order]) / N)
        if torch.equal(y, y[order]):  # the loss is that of the samples' own labels
            self.remember(x, logits, y)
        return 0.7 * self.loss(logits, y) + 0.3 * self.loss(logits, y[order])


class MixupInTheFirstEpoch(Mixup):
    begins = 0, 4  # when steps are no longer traced


class Distilled(Late):
    """The second epoch has no classification loss."""

    def late_step(self, batch: Any) -> Any:
        log_p = F.log_softmax(self(batch[0] / N), dim=1)
        return F.kl_div(log_p, torch.full_like(log_p, 1 / 3), reduction="batchmean")


class EveryOther(Distilled):
    """Each second step of the second epoch has one."""

    def is_late(self, batch_idx: int) -> bool:
        return super().is_late(batch_idx) and batch_idx % 2 == 1


class SecondView(Late):
    def late_step(self, batch: Any) -> Any:
        x, y = batch
        return self.loss(self(x / N), y) + self.loss(self(x.flip(3) / N), y)


class Corrects(Late):
    """From the second epoch on, the step replaces labels by what the network predicts."""

    def late_step(self, batch: Any) -> Any:
        x, y = batch
        logits = self(x / N)
        targets = self.corrected(y, logits.detach().argmax(dim=1))
        if torch.equal(targets, y):
            self.remember(x, logits, y)
        return self.loss(logits, targets)

    def corrected(self, y: Tensor, prediction: Tensor) -> Tensor:
        return torch.where(torch.arange(len(y)) % 2 == 0, prediction, y)


class CorrectsByMask(Corrects):
    def corrected(self, y: Tensor, prediction: Tensor) -> Tensor:
        targets, is_sure = y.clone(), prediction != y
        targets[is_sure] = prediction[is_sure]
        return targets


class CorrectsByIndex(Corrects):
    def corrected(self, y: Tensor, prediction: Tensor) -> Tensor:
        return y.clone().index_put_((torch.tensor([1]),), prediction[1:2])


class CorrectsOneOfEach(Corrects):
    """Labels of each step are changed, first where steps are no longer traced."""

    begins = 1, 3

    def corrected(self, y: Tensor, prediction: Tensor) -> Tensor:
        return torch.where(torch.arange(len(y)) == 0, (y + 1) % K, y)


class CorrectsConverted(CorrectsOneOfEach):
    """The targets are never the batch's own tensor."""

    begins = 1, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([batch[0], batch[1].double().long()], batch_idx)


class CutMix(Late):
    """Half of the labels are those of the row before."""

    def late_step(self, batch: Any) -> Any:
        x, y = batch
        return self.loss(self(x / N), torch.where(torch.arange(len(y)) % 2 == 0, y.roll(1), y))


class CutMixInTheMiddle(CutMix):
    """It begins where steps are no longer traced."""

    begins = 1, 3


class SoftMixup(Late):
    """Targets of some batches are one-hot by chance, as all of their labels were mixed with the same ones."""

    def late_step(self, batch: Any) -> Any:
        x, y = batch
        order, given = torch.arange(len(y)).roll(1), F.one_hot(y, K)
        return self.loss(self((0.7 * x + 0.3 * x[order]) / N), 0.7 * given + 0.3 * given[order])


class TwoViewsInOne(Late):
    """From now on the loss has rows that are not those of the batch."""

    def late_step(self, batch: Any) -> Any:
        x, y = batch
        return self.loss(self(torch.cat([x, x.flip(3)]) / N), torch.cat([y, y]))


class Replays(Late):
    def late_step(self, batch: Any) -> Any:
        x, y = batch
        return self.loss(self(torch.cat([x, x[:1]]) / N), torch.cat([y, y[:1]]))


class LeavesOutByNumPy(Late):
    def late_step(self, batch: Any) -> Any:
        x, y = batch
        return self.loss(self(torch.from_numpy(x.numpy()[1:]) / N), torch.from_numpy(y.numpy()[1:]))


class SeveralLabels(Late):
    def late_step(self, batch: Any) -> Any:
        labels = (torch.arange(K) <= batch[1][:, None]).float()
        return F.binary_cross_entropy_with_logits(self(batch[0] / N), labels)


class Pixels(Late):
    def late_step(self, batch: Any) -> Any:
        x, y = batch
        return self.loss(self.net[0](x / N)[:, :K], y[:, None, None].expand(-1, 4, 4))


class Alone(TwoNetworks):
    """The classifier is trained alone in the first epoch, and in two of three steps of the second."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if self.current_epoch and batch_idx % 3 == 2:
            super().training_step(batch, batch_idx)
            return
        self.zero_grad()
        self.train_on(*batch)
        optimizers: Any = self.optimizers()
        optimizers[0].step()


class AnotherNetwork(InTurn):
    """The second epoch trains another network, as of a student after its teacher."""

    def is_second(self, batch_idx: int) -> bool:
        return self.current_epoch == 1


class Adversary(Alone, AdversaryFirst):
    """Both losses have the logits of one last layer."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        if self.current_epoch and batch_idx % 3 == 2:
            self.seen.pop()


MODELS = [
    Mixup, MixupInTheFirstEpoch, Distilled, EveryOther, SecondView, Adversary, AnotherNetwork, Corrects,
    TwoViewsInOne, Replays, LeavesOutByNumPy, SeveralLabels, Pixels,
    CorrectsByMask, CorrectsByIndex, CorrectsOneOfEach, CorrectsConverted, CutMix,
    CutMixInTheMiddle, SoftMixup,
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_loss_that_cannot_be_told_from_another_ends_no_training_and_its_steps_are_left_out(
    tmp_path: Path, model: type[Classifier]
) -> None:
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "record")
    with pytest.warns(UserWarning, match="Expected .* training goes on.* not recorded") as said:
        module = fit_undisturbed(tmp_path, monitor, model, max_epochs=2)
    assert len([each for each in said if "training goes on" in str(each.message)]) == 1
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    recorded = sorted({epoch for epoch, *_ in module.seen})
    incomplete = [0, 1] if model is MixupInTheFirstEpoch else [1]
    for record in (monitor.record, load_record(tmp_path / "record")):
        assert record.meta.epochs == recorded
        assert record.meta.incomplete_epochs == incomplete
        assert record.table().attrs["incomplete_epochs"] == incomplete


@pytest.mark.parametrize("model", [SeveralLabels, Pixels])
def test_later_targets_of_another_kind_are_called_so(tmp_path: Path, model: type[Classifier]) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    with pytest.warns(UserWarning, match=r"one kind in all steps, such as .* got others than in the first steps \(log"):
        fit(tmp_path, monitor, model=model(), max_epochs=2)


class Reorders(Corrects):
    def corrected(self, y: Tensor, prediction: Tensor) -> Tensor:
        return torch.tensor(y.tolist()[::-1])


class ReordersTraced(Corrects):
    def corrected(self, y: Tensor, prediction: Tensor) -> Tensor:
        return y.flip(0)


@pytest.mark.parametrize("model", [Reorders, ReordersTraced])
def test_labels_that_only_the_loss_has_in_another_order_are_an_error_later_too(
    tmp_path: Path, model: type[Classifier]
) -> None:
    with pytest.raises(SampleIdentityError, match=r"Expected the targets .* got \d+ other targets in this epoch"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=model(), max_epochs=2)


class BurnIn(Late):
    """Its labels have a loss in the first epoch only, as of a network that learns variances after means."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.loss_of_labels, self.net = loss, nn.Sequential(network)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        output = self.net(x)
        return output.exp().mean() if self.is_late(batch_idx) else self.loss_of_labels(output, y)


@pytest.mark.parametrize(
    ("loss", "network", "targets"),
    [
        (F.mse_loss, nn.Linear(4, 2), torch.randn(N, 2)),
        (F.binary_cross_entropy_with_logits, nn.Linear(4, K), torch.randint(2, (N, K)).float()),
        (F.cross_entropy, nn.Conv1d(4, K, 1), torch.randint(K, (N, 5))),
        (F.cross_entropy, nn.Linear(4, K), torch.randint(K, (N,))),
    ],
    ids=["numbers", "several labels", "tokens", "classes"],
)
def test_epochs_without_one_recorded_step_end_no_training(
    tmp_path: Path, loss: Callable[[Tensor, Tensor], Tensor], network: nn.Module, targets: Tensor
) -> None:
    inputs = torch.randn(N, 4, *targets.shape[1:2] if isinstance(network, nn.Conv1d) else ())
    monitor = TrainingDynamicsMonitor(mean_probabilities=targets.ndim == 1)
    with pytest.warns(UserWarning, match="training goes on.* not recorded"):
        fit(
            tmp_path,
            monitor,
            model=BurnIn(loss, network),
            data=lambda: loader(TensorDataset(inputs, targets)),
            max_epochs=3,
        )
    assert monitor.record.meta.incomplete_epochs == [1, 2]
    assert monitor.statistics().presentations.tolist() == [1] * N


def test_the_classifier_is_recorded_beside_a_probe_that_begins_later(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, Alone, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert monitor.record.meta.incomplete_epochs == []


class WarmsUp(FixMatch):
    """The pseudo-labels of a second loader count from the middle of the second epoch on; the head is the same."""

    left_out = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) >= (1, 3):
            loss = super().training_step(batch, batch_idx)
            if not self.left_out:  # the first such step is not traced
                self.left_out = True
                self.seen.pop()
            return loss
        x, y = batch["labelled"]
        logits = self(x / N)
        self.remember(x, logits, y)
        return self.loss(logits, y)


def test_the_loss_of_the_labels_is_told_by_a_trace_after_one_step_that_is_left_out(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False, loader="labelled")
    with pytest.warns(UserWarning, match=r"got 2: .* training goes on"):
        module = fit(tmp_path, monitor, model=WarmsUp(), data=two_loaders, max_epochs=3)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert monitor.record.meta.epochs == [0, 1, 2]
    assert monitor.record.meta.incomplete_epochs == [1]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_loss_that_begins_within_the_first_steps_is_an_error(tmp_path: Path, batch: int) -> None:
    class Early(Mixup):
        begins = 0, batch

    with pytest.raises(CaptureError, match=r"Expected one classification loss|first steps to be classes"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=Early(), data=loader, max_epochs=1)


class WithoutLabelsOnce(Classifier):
    """One step of the second epoch has a loss of probabilities that uses no labels."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        return -(log_p * F.one_hot(y, K)).sum(1).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (1, 1):
            return -self(batch[0] / N).log_softmax(1).mean()
        return super().training_step(batch, batch_idx)


def test_steps_after_one_whose_loss_uses_no_labels_are_recorded(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    with pytest.warns(UserWarning, match="Expected a loss of the batch's labels"):
        module = fit(tmp_path, monitor, model=WithoutLabelsOnce())
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert monitor.record.meta.incomplete_epochs == [1]


class Reconstructs(Classifier):
    """Trains on reconstructions in the first epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch:
            return super().training_step(batch, batch_idx)
        return self.result(F.mse_loss(self.net[0](batch[0] / N).mean(dim=1), batch[0][:, 0, 1:5, 1:5]), batch[1])

    def result(self, loss: Tensor, y: Tensor) -> Any:
        return loss


class ReturnsNoTargets(Reconstructs):
    def result(self, loss: Tensor, y: Tensor) -> Any:
        return {"loss": loss, "logits": torch.zeros(len(y), K), "targets": torch.full_like(y, -100)}


@pytest.mark.parametrize("capture", ["auto", "module:net.3"])
def test_steps_that_pretrain_are_an_error_that_says_what_to_return(tmp_path: Path, capture: str) -> None:
    with pytest.raises(CaptureError, match=r"pretrains the network, return any `logits` .* and `targets` of -100"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False, capture=capture), model=Reconstructs(), max_epochs=1)


def test_the_record_begins_after_steps_that_return_no_targets(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, ReturnsNoTargets, max_epochs=3)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
