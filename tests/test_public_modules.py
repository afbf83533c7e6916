"""Steps as public repositories write them: the record is exact, or the first batches say what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dynalens import CaptureError, TrainingDynamicsMonitor
from dynalens.identity.inputs import InputUse
from test_losses import assert_equals_the_definitions
from test_random_combinations import assert_units
from training import Classifier, K, N, dataset, fit, fit_undisturbed, images, labels, loader

pytestmark = pytest.mark.usefixtures("undrawn")


def bits() -> Tensor:
    return (labels()[:, None] >= torch.arange(K)).float()


def several_labels() -> DataLoader[Any]:
    return loader(TensorDataset(images(), bits()), batch_size=6)


class LossOfEachColumn(Classifier):
    """Trainings on face attributes sum a binary loss over the columns."""

    def of_columns(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.stack([F.binary_cross_entropy_with_logits(logits[:, k], y[:, k]) for k in range(K)]).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x / N)
        self.remember(x, logits, y)
        return self.of_columns(logits, y)


class LossOfEachColumnBackwards(LossOfEachColumn):
    def of_columns(self, logits: Tensor, y: Tensor) -> Tensor:
        losses = [F.binary_cross_entropy_with_logits(logits[:, k : k + 1], y[:, k : k + 1]) for k in (2, 0, 1)]
        return torch.stack(losses).mean()


class OneAgainstAll(Classifier):
    """The focal loss of several classes in segmentation_models_pytorch, as torchgeo's tasks use it."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.stack([self.of_class(logits[:, k, ...], y == k) for k in range(K)]).sum()

    def of_class(self, logits: Tensor, is_class: Tensor) -> Tensor:
        log_p = -F.binary_cross_entropy_with_logits(logits, is_class.type(logits.type()), reduction="none")
        focus = (1 - log_p.exp()) ** 2
        return (-focus * log_p / focus.sum().clamp_min(1e-6)).mean()


@pytest.mark.parametrize("model", [LossOfEachColumn, LossOfEachColumnBackwards])
def test_binary_losses_of_all_columns_are_one_loss_of_several_labels(
    tmp_path: Path, model: type[LossOfEachColumn]
) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, model, data=several_labels, max_epochs=2)
    assert_units(monitor.statistics(), module.seen)


def test_losses_of_one_class_against_all_others_are_one_loss_of_classes(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, OneAgainstAll, data=lambda: loader(batch_size=6), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class SomeColumns(LossOfEachColumn):
    def of_columns(self, logits: Tensor, y: Tensor) -> Tensor:
        losses = [F.binary_cross_entropy_with_logits(logits[:, k], y[:, k]) for k in range(K - 1)]
        return torch.stack(losses).sum()


class ColumnsOfOneLabel(LossOfEachColumn):
    def of_columns(self, logits: Tensor, y: Tensor) -> Tensor:
        label = y[:, 1]
        return torch.stack([F.binary_cross_entropy_with_logits(logits[:, k], label) for k in range(K)]).sum()


@pytest.mark.parametrize("model", [SomeColumns, ColumnsOfOneLabel])
def test_losses_of_some_columns_or_of_one_label_are_an_error_that_speaks_of_no_regression(
    tmp_path: Path, model: type[LossOfEachColumn]
) -> None:
    with pytest.raises(CaptureError, match=r"Expected one classification loss .* got [23]: binary") as error:
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=model(), data=several_labels, max_epochs=1)
    assert "regression" not in str(error.value)


class OnlineProbe(Classifier):
    """The benchmarks of lightly: a contrastive loss, and a linear probe on features detached from it."""

    def __init__(self, *, views: int) -> None:
        super().__init__()
        self.views, self.probe = views, nn.Linear(64, K)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        features = self.net[:3](torch.cat([x, x.flip(3)]) / N).flatten(start_dim=1)
        one, other = features.chunk(2)
        contrastive = F.cross_entropy(one @ other.T, torch.arange(len(x)))
        probed, targets = (features, y.repeat(2)) if self.views == 2 else (one, y)
        logits = self.probe(probed.detach().flatten(start_dim=1))
        self.remember(torch.cat([x] * self.views), logits, targets)
        return contrastive + F.cross_entropy(logits, targets)


@pytest.mark.parametrize("views", [1, 2])
def test_a_probe_on_detached_features_is_recorded_beside_a_contrastive_loss(tmp_path: Path, views: int) -> None:
    monitor = TrainingDynamicsMonitor(history=False, views=views)
    module = fit_undisturbed(
        tmp_path, monitor, lambda: OnlineProbe(views=views), data=lambda: loader(batch_size=6), max_epochs=2
    )
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_detached_features_lead_to_the_inputs_that_they_were_computed_from() -> None:
    use, layer = InputUse(), nn.Linear(2, 2)
    x, noise = torch.ones(3, 2), torch.zeros(3, 2)
    use.begin([x])
    results = []
    for inputs in (x, noise):
        features = layer(inputs)
        use.note((inputs,), {}, features)
        detached = features.detach()
        use.note((features,), {}, detached)
        use.note((detached,), {}, logits := layer(detached))
        results.append(use.lead_to(logits))
    assert results == [True, False]


class Episodes(torch.utils.data.Sampler[list[int]]):
    """Two classes in each batch, two samples of each to learn from and two to ask."""

    def __iter__(self) -> Iterator[list[int]]:
        for pair in ((0, 1), (1, 2), (0, 2)):
            of_pair = [(labels() == k).nonzero().flatten()[:4].tolist() for k in pair]
            yield [*of_pair[0][:2], *of_pair[1][:2], *of_pair[0][2:], *of_pair[1][2:]]

    def __len__(self) -> int:
        return 3


class Prototypes(Classifier):
    """The prototypical network of Lightning's tutorial on meta-learning."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        (support, query), (of_support, of_query) = self(x / N).chunk(2), y.chunk(2)
        classes = of_support.unique()
        means = torch.stack([support[torch.where(of_support == each)[0]].mean(dim=0) for each in classes])
        numbers = (classes[None, :] == of_query[:, None]).long().argmax(dim=-1)
        self.seen.append((0, [], x, y))
        return F.cross_entropy(-((means[None] - query[:, None]) ** 2).sum(dim=2), numbers)


def test_classes_that_each_step_numbers_anew_are_an_error_in_the_first_batches(tmp_path: Path) -> None:
    model = Prototypes()
    with pytest.raises(CaptureError, match="number the classes of each batch anew, as few-shot learning does"):
        fit(
            tmp_path,
            TrainingDynamicsMonitor(history=False),
            model=model,
            data=lambda: DataLoader(dataset(), batch_sampler=Episodes()),
        )
    assert len(model.seen) == 2


class MasksInAChannel(Classifier):
    """Tutorials of MONAI hold masks as floating numbers (N, 1, H, W), and train on a Dice loss alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, K, 3, padding=1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, mask = batch
        logits = self(x / N)
        p, one_hot = logits.softmax(dim=1), torch.zeros_like(logits).scatter_(1, mask.long(), 1)
        dice = 2 * (p * one_hot).sum((2, 3)) / (p + one_hot).sum((2, 3)).clamp_min(1e-5)
        self.remember(x, logits.flatten(2), mask.flatten(1).long())
        return {"loss": (1 - dice).mean(), "logits": logits, "targets": mask}


def test_masks_that_are_returned_in_a_channel_of_their_own_are_classes_of_pixels(tmp_path: Path) -> None:
    masks = (torch.arange(N)[:, None] + torch.arange(36)) % K
    data = TensorDataset(images(), masks.view(N, 1, 6, 6).float())
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, MasksInAChannel, data=lambda: loader(data), max_epochs=2)
    assert_units(monitor.statistics(), module.seen)
