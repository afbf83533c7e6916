"""Steps that train on a loss of the labels and on others: that of the labels is recorded, if only one can be meant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import CaptureError, TrainingDynamicsMonitor
from test_losses import assert_equals_the_definitions
from test_several_losses import ByHand
from training import Classifier, K, N, fit, fit_undisturbed, images, labels, loader

pytestmark = pytest.mark.usefixtures("undrawn")


def binary(scores: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))


class GeneratorFirst(ByHand):
    """A step for samples that are made, with targets of its own, and one for those of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(36, 1)

    def train_on(self, x: Tensor, y: Tensor) -> None:
        scores = self.critic(torch.ones(len(x), 36))
        self.manual_backward(F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores)))
        super().train_on(x, y)


class AuxiliaryClassifierGan(ByHand):
    """The discriminator tells real from made samples and their classes, those of made ones drawn at random."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = nn.Linear(4 + K, 36), nn.Linear(36, 1)

    def made(self, number: int) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(0, K, (number,))
        noise = torch.cat([torch.randn(number, 4), F.one_hot(drawn, K).float()], dim=1)
        return self.generator(noise).view(-1, 1, 6, 6), drawn

    def train_on(self, x: Tensor, y: Tensor) -> None:
        fake, drawn = self.made(len(x))
        critic = binary(self.critic(x.flatten(1) / N), 1.0) + binary(self.critic(fake.detach().flatten(1)), 0.0)
        self.manual_backward(critic + self.remembered(x / N, x, y) + self.loss(self(fake.detach()), drawn))
        fake, drawn = self.made(len(x))
        self.manual_backward(binary(self.critic(fake.flatten(1)), 1.0) + self.loss(self(fake), drawn))


class Contrastive(Classifier):
    """Two views of a sample are told from those of the others, beside its class."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        one, other = (self.net[:3](batch[0] / N + 0.1 * torch.randn_like(batch[0])) for _ in range(2))
        return loss + F.cross_entropy(one @ other.T, torch.arange(len(one)))


class Distilled(Classifier):
    """The same logits have a loss of the labels, and one of what a teacher predicts, at another temperature."""

    temperature = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, K)).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits, teacher = self(x / N), self.teacher(x / N)
        self.remember(x, logits, y)
        soft = F.cross_entropy(logits / self.temperature, (teacher / self.temperature).softmax(dim=1))
        return 0.5 * self.loss(logits, y) + 0.5 * soft


class DistilledAtOne(Distilled):
    temperature = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x / N)
        self.remember(x, logits, y)
        return F.cross_entropy(logits, self.teacher(x / N).softmax(dim=1)) + self.loss(logits, y)


class OfTwoClasses(Classifier):
    """Two logits, and labels 0 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :2]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch[0], batch[1].clamp(max=1)
        logits = self(x / N)
        self.remember(x, logits, y)
        return self.loss(logits, y) + F.cross_entropy(logits, self.soft(x / N, y))

    def soft(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError


class DistilledOfTwoClasses(OfTwoClasses):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).requires_grad_(False)

    def soft(self, x: Tensor, y: Tensor) -> Tensor:
        teacher: Tensor = self.teacher(x)
        return (teacher / 4).softmax(dim=1)


class DistilledWithoutGradients(DistilledOfTwoClasses):
    def soft(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return super().soft(x, y).clone()


class DomainAdversary(Classifier):
    """Features of the samples and of another domain, which a head tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.domain = nn.Linear(64, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        source, target = self.domain(self.net[:3](batch[0] / N)), self.domain(self.net[:3](torch.randn(5, 1, 6, 6)))
        domains = F.cross_entropy(source, torch.zeros(len(source), dtype=torch.long))
        return loss + domains + F.cross_entropy(target, torch.ones(len(target), dtype=torch.long))


class Rotations(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.turns = nn.Linear(64, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        turns = torch.randint(0, 4, (len(batch[0]),))
        turned = torch.stack([torch.rot90(x, int(turn), (1, 2)) for x, turn in zip(batch[0], turns, strict=True)])
        return loss + F.cross_entropy(self.turns(self.net[:3](turned / N)), turns)


class RotationsLater(Rotations):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        both = self.current_epoch > 0
        loss: Tensor = super().training_step(batch, batch_idx) if both else Classifier.training_step(self, batch, 0)
        return loss


class LateInTheEpoch(Rotations):
    """The second loss begins where steps are no longer followed."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        both = batch_idx == 5
        loss: Tensor = super().training_step(batch, batch_idx) if both else Classifier.training_step(self, batch, 0)
        return loss


class BinaryBesideAnother(Rotations):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y.float())

    def remember(self, x: Tensor, logits: Tensor, y: Tensor) -> None:
        super().remember(x, torch.stack([torch.zeros_like(logits), logits], dim=1), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([batch[0], batch[1].clamp(max=1)], batch_idx)


def assert_recorded(tmp_path: Path, model: type[Classifier], data: Callable[[], Any], **options: Any) -> None:
    """Compare with the record that the model keeps and with a fit without the monitor."""
    monitor = TrainingDynamicsMonitor(history=False, **options)
    module = fit_undisturbed(tmp_path, monitor, model, data=data, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


@pytest.mark.parametrize(
    "model",
    [
        GeneratorFirst, AuxiliaryClassifierGan, Contrastive, Distilled, DistilledAtOne, DistilledOfTwoClasses,
        DistilledWithoutGradients, DomainAdversary, Rotations, RotationsLater, LateInTheEpoch, BinaryBesideAnother,
    ],
)  # fmt: skip
def test_the_loss_of_the_labels_is_recorded_beside_others_and_weights_are_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type[Classifier]
) -> None:
    said: list[str] = []
    monkeypatch.setattr("dynalens.callbacks.training_dynamics.announce", said.append)
    assert_recorded(tmp_path, model, lambda: loader(batch_size=3 if model is LateInTheEpoch else 6))
    assert len(said) == (2 if model in (RotationsLater, LateInTheEpoch) else 1)
    way = (
        "that of the head that was recorded before"
        if model is LateInTheEpoch
        else "the one with the labels of the batch"
    )
    assert way in said[-1]


class FixMatch(Classifier):
    """Pseudo-labels of a weak view are the targets of a strong one, where the network is sure."""

    def outputs(self, x: Tensor, weak: Tensor, strong: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self(torch.cat([x, weak, strong]))
        return (logits[: len(x)], *logits[len(x) :].chunk(2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x, y), (u,) = batch["labelled"], batch["unlabelled"]
        logits, weak, strong = self.outputs(x / N, u, u + 0.3 * torch.randn_like(u))
        self.remember(x, logits, y)
        sure, pseudo = weak.detach().softmax(dim=1).max(dim=1)
        unlabelled = F.cross_entropy(strong, pseudo, reduction="none") * (sure > 0.4)
        return self.loss(logits, y) + unlabelled.mean()


class InPasses(FixMatch):
    def outputs(self, x: Tensor, weak: Tensor, strong: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self(x), self(weak), self(strong)


def two_loaders() -> CombinedLoader:
    unlabelled = TensorDataset(torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(9)))
    loaders = {"labelled": loader(batch_size=6), "unlabelled": loader(unlabelled, batch_size=10)}
    return CombinedLoader(loaders, "max_size_cycle")


@pytest.mark.parametrize("model", [FixMatch, InPasses])
def test_pseudo_labels_of_other_samples_are_no_labels(tmp_path: Path, model: type[Classifier]) -> None:
    assert_recorded(tmp_path, model, two_loaders, loader="labelled")


class MixedByNumpy(Classifier):
    """Mixed labels, the second ones by a way that cannot be followed."""

    def second(self, logits: Tensor) -> Tensor:
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        order = torch.randperm(len(y)).numpy()
        logits = self((0.7 * x + 0.3 * torch.from_numpy(x.numpy()[order])) / N)
        return 0.7 * self.loss(logits, y) + 0.3 * self.loss(self.second(logits), torch.from_numpy(y.numpy()[order]))


class MixedAndSharpened(MixedByNumpy):
    def second(self, logits: Tensor) -> Tensor:
        return logits / 0.5


class MixedAndSliced(MixedByNumpy):
    def second(self, logits: Tensor) -> Tensor:
        return logits[:]


class MixedAndChosen(MixedByNumpy):
    def second(self, logits: Tensor) -> Tensor:
        return logits[torch.arange(len(logits))]


class MixedAndSmoothed(Classifier):
    """The same logits have a loss of the labels and one of mixed and smoothed ones, which cannot be followed."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        one_hot = np.eye(K, dtype=np.float32)[y.numpy()]
        soft = 0.9 * (0.7 * one_hot + 0.3 * one_hot[::-1]) + 0.1 / K
        logits = self(x / N)
        return self.loss(logits, y) + F.cross_entropy(logits, torch.from_numpy(soft))


class MixedByRow(Classifier):
    """Each row has another weight of the second label, in a way that cannot be followed."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        weight = np.random.default_rng(0).uniform(0.5, 1, (len(y), 1)).astype(np.float32)
        mixed = weight * x.flatten(1).numpy() + (1 - weight) * x.flatten(1).numpy()[::-1]
        one_hot = np.eye(K, dtype=np.float32)[y.numpy()]
        soft = torch.from_numpy(weight * one_hot + (1 - weight) * one_hot[::-1])
        logits = self(torch.from_numpy(mixed).view_as(x) / N)
        return self.loss(logits, y) + F.cross_entropy(logits, soft)


class MixedByRowOfTwoClasses(OfTwoClasses):
    def soft(self, x: Tensor, y: Tensor) -> Tensor:
        weight = np.random.default_rng(0).uniform(0.5, 1, (len(y), 1)).astype(np.float32)
        one_hot = np.eye(2, dtype=np.float32)[y.numpy()]
        return torch.from_numpy(weight * one_hot + (1 - weight) * (1 - one_hot))


class AuxiliaryHead(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, K)

    def second_labels(self, y: Tensor) -> Tensor:
        return y

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss + 0.3 * self.loss(self.head(self.net[:3](batch[0] / N)), self.second_labels(batch[1]))


class AuxiliaryHeadOfCopies(AuxiliaryHead):
    def second_labels(self, y: Tensor) -> Tensor:
        return torch.tensor(y.tolist())


class AuxiliaryHeadBesidePart(AuxiliaryHead):
    """Neither logits are what ``forward`` returned."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x) * 1
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self.net(x / N), y) + self.loss(self.head(self.net[:3](x / N)), y)


class AuxiliaryHeadInAnotherOrder(AuxiliaryHead):
    def second_labels(self, y: Tensor) -> Tensor:
        return torch.tensor(y.tolist()[::-1])


class AuxiliaryHeadOfCoarseLabels(AuxiliaryHead):
    def second_labels(self, y: Tensor) -> Tensor:
        return torch.tensor([0, 0, 1])[y]


class SmoothedHead(AuxiliaryHead):
    def second_labels(self, y: Tensor) -> Tensor:
        return 0.9 * F.one_hot(y, K) + 0.1 / K


class ConditionalGenerator(ByHand):
    """What is made for a label is told by a classifier, and is no sample of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = nn.Linear(4 + K, 36), nn.Linear(36, 1)

    def train_on(self, x: Tensor, y: Tensor) -> None:
        fake = self.generator(torch.cat([torch.randn(len(y), 4), F.one_hot(y, K).float()], dim=1))
        real = binary(self.critic(x.flatten(1) / N), 1.0)
        self.manual_backward(real + binary(self.critic(fake), 1.0) + self.loss(self(fake.view(-1, 1, 6, 6)), y))


@pytest.mark.parametrize(
    "model",
    [
        MixedByNumpy, MixedAndSharpened, MixedAndSliced, MixedAndChosen, MixedAndSmoothed, MixedByRow,
        MixedByRowOfTwoClasses, AuxiliaryHeadBesidePart, AuxiliaryHeadOfCoarseLabels, SmoothedHead,
        ConditionalGenerator,
    ],
)  # fmt: skip
def test_losses_of_which_several_or_none_may_be_meant_are_one_error(tmp_path: Path, model: type[Classifier]) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    with pytest.raises(CaptureError, match=r"Expected one classification loss .* got [2-4]"):
        fit(
            tmp_path, monitor, model=model(), data=lambda: loader(batch_size=11), limit_train_batches=1,
            max_epochs=1,
        )  # fmt: skip


class OneHotCondition(ConditionalGenerator):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        _, condition, y = batch
        fake = self.generator(torch.cat([torch.randn(len(y), 4), condition], dim=1))
        self.manual_backward(binary(self.critic(fake), 1.0) + self.loss(self(fake.view(-1, 1, 6, 6)), y))


class TwoTasks(AuxiliaryHead):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, condition, y = batch
        other = condition.argmax(dim=1).flip(0)
        return self.loss(self(x / N), y) + self.loss(self.head(self.net[:3](x / N)), other)


@pytest.mark.parametrize("model", [OneHotCondition, TwoTasks])
def test_losses_of_what_is_made_of_other_labels_of_the_batch_are_one_error(
    tmp_path: Path, model: type[Classifier]
) -> None:
    data = TensorDataset(images(), F.one_hot(labels(), K).float(), labels())
    with pytest.raises(CaptureError, match="Expected one classification loss"):
        fit(
            tmp_path, TrainingDynamicsMonitor(history=False), model=model(), data=lambda: loader(data),
            limit_train_batches=1, max_epochs=1,
        )  # fmt: skip


def test_labels_in_another_order_by_a_way_that_cannot_be_followed_are_told_within_the_first_steps(
    tmp_path: Path,
) -> None:
    with pytest.raises(CaptureError, match="Expected one classification loss"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=AuxiliaryHeadInAnotherOrder(), max_epochs=1)


class ChangesAView(Classifier):
    """After the change, torch raises where it is asked for the view's place in the graph."""

    flat = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] / N
        inputs = (x.flatten(1) if self.flat else x).requires_grad_()
        with torch.no_grad():
            inputs.chunk(2)[0].mul_(1.0)
        logits = self(inputs.view_as(x))
        self.remember(batch[0], logits, batch[1])
        return self.loss(logits, batch[1])


class ChangesAViewOfRows(ChangesAView):
    flat = True


@pytest.mark.parametrize("model", [ChangesAView, ChangesAViewOfRows])
def test_a_view_of_the_inputs_that_is_changed_without_gradients_ends_no_fit(
    tmp_path: Path, model: type[Classifier]
) -> None:
    assert_recorded(tmp_path, model, loader)
