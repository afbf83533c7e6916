"""What is recorded of tokens and pixels is explained, in whatever form a batch holds their classes or labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor
from dynalens.explanations.dense import by_class
from dynalens.explanations.pictures import ExplanationPictures
from training import arrays_of, trainer

N, K, H, W = 12, 3, 4, 6
WORDS, T = 9, 5
Z = torch.randn(N, 1, H, W, generator=torch.Generator().manual_seed(2)).round(decimals=1)
CLASSES = ((Z > 0).long() + (Z > 1).long())[:, 0]
ONE_HOT = F.one_hot(CLASSES, K).movedim(-1, 1).float()
SEVERAL = torch.cat([Z > 0, Z > 0.5, Z < 1], dim=1).float()
VOLUMES = Z.repeat(1, 1, 2, 1).view(N, 1, 2, H, W)
SIGNALS = Z.view(N, 2, H * W // 2)
SENTENCES = torch.randint(1, WORDS, (N, T), generator=torch.Generator().manual_seed(2))
TAGS = F.one_hot(SENTENCES % K, K).float()


class Dense(pl.LightningModule):
    """A network that keeps space or time, and a loss of its logits and the targets."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Any], net: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.loss = net or nn.Conv2d(1, K, 3, padding=1), loss

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.05)


class Returned(Dense):
    """Has a loss of its own, and returns what it compared."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch[0])
        p, y = logits.sigmoid(), batch[1]
        return {"loss": 1 - 2 * (p * y).sum() / (p + y).sum(), "logits": logits, "targets": y}


def binary(logits: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, y.float())


def on_last_axis(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits.movedim(-1, 1), y.movedim(-1, 1))


def of_each_class(logits: Tensor, y: Tensor) -> Any:
    return sum(binary(logits[:, k], y == k) for k in range(K))


def tagger() -> nn.Module:
    return nn.Sequential(nn.Embedding(WORDS, 4), nn.Linear(4, K))


def fit(folder: Path, model: Dense, x: Tensor, y: Tensor, *callbacks: Any) -> dict[str, Any]:
    """Train, and return what the last epoch's explanations have on disk; the model is then in evaluation mode."""
    logger = pl.loggers.TensorBoardLogger(folder)
    run = trainer(folder, *callbacks, max_epochs=2, logger=logger)
    run.fit(model, DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True))
    model.eval()
    return arrays_of(max(folder.rglob("explanations/*.npz")))


@pytest.mark.parametrize(
    ("model", "x", "y", "classes"),
    [
        (lambda: Dense(F.cross_entropy), Z, ONE_HOT, CLASSES),
        (lambda: Dense(binary), Z, ONE_HOT.long(), CLASSES),
        (lambda: Dense(lambda z, y: F.cross_entropy(z, y.movedim(-1, 1))), Z, ONE_HOT.movedim(1, -1), CLASSES),
        (lambda: Dense(lambda z, y: F.cross_entropy(z, y.argmax(1))), Z, ONE_HOT, CLASSES),
        (lambda: Dense(lambda z, y: binary(z, F.one_hot(y, K).movedim(-1, 1))), Z, CLASSES, CLASSES),
        (lambda: Dense(of_each_class), Z, CLASSES, CLASSES),
        (lambda: Dense(F.cross_entropy, nn.Conv3d(1, K, 1)), VOLUMES, (VOLUMES[:, 0] > 0).long(), VOLUMES[:, 0] > 0),
        (lambda: Dense(F.cross_entropy, nn.Conv1d(2, K, 1)), SIGNALS, (SIGNALS[:, 0] > 0).long(), SIGNALS[:, 0] > 0),
        (lambda: Dense(on_last_axis, tagger()), SENTENCES, TAGS, SENTENCES % K),
    ],
    ids=["one-hot", "whole numbers", "last axis", "argmax", "in the step", "each class", "volumes", "signals", "tags"],
)
def test_units_of_one_class_are_explained_whatever_holds_it(
    tmp_path: Path, model: Callable[[], Dense], x: Tensor, y: Tensor, classes: Tensor
) -> None:
    network = model()
    explained = AttributionMonitor(on_error="raise", methods="saliency", metrics=(), num_samples=2, suspects=2)
    arrays = fit(tmp_path, network, x, y, TrainingDynamicsMonitor(), explained)
    for row, sample in enumerate(arrays["ids"].tolist()):
        given = classes[sample].long()
        k = int(given[0]) if given.ndim == 1 else int(given[given > 0].mode().values)
        region = torch.arange(len(given)) == 0 if given.ndim == 1 else given == k
        logits = network(x[sample : sample + 1])[0]
        logits = logits.movedim(-1, 0) if x is SENTENCES else logits
        assert arrays["labels"][row] == k
        np.testing.assert_allclose(arrays["logits"][row], logits[:, region].mean(dim=1).detach(), rtol=1e-4, atol=1e-5)
    assert len(arrays["suspects_label.labels"]) == 2
    assert arrays["suspects_prediction.targets"].tolist() == arrays["suspects_label.logits"].argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (lambda: Dense(binary), SEVERAL),
        (lambda: Dense(binary), SEVERAL.movedim(1, -1).bool()),
        (lambda: Dense(lambda z, y: F.binary_cross_entropy(z.sigmoid(), 0.9 * y + 0.05)), SEVERAL),
        (lambda: Returned(binary), SEVERAL),
    ],
    ids=["logits", "last axis", "smoothed", "returned"],
)
def test_labels_of_pixels_are_explained_where_the_network_contradicts_the_doubted_one(
    tmp_path: Path, model: Callable[[], Dense], y: Tensor
) -> None:
    network = model()
    if y.dtype is torch.bool:
        network.loss = lambda z, bits: binary(z, bits.movedim(-1, 1))
    monitor = TrainingDynamicsMonitor()
    explained = AttributionMonitor(on_error="raise", methods="saliency", metrics=(), num_samples=2, suspects=3)
    arrays = fit(tmp_path, network, Z, y, monitor, explained)
    z = network(Z).detach()
    for row, sample in enumerate(arrays["ids"].tolist()):
        k = int(SEVERAL[sample].flatten(1).sum(dim=1).argmax())
        assert arrays["labels"][row] == k
        expected = z[sample][:, SEVERAL[sample, k] == 1].mean(dim=1)
        np.testing.assert_allclose(arrays["logits"][row], expected, rtol=1e-4, atol=1e-5)
    statistics = monitor.statistics()
    assert statistics.unit_label is not None
    assert len(arrays["suspects_label.ids"]) == 3
    assert not [name for name in arrays if name.startswith("suspects_prediction")]  # one map tells for and against
    for row, sample in enumerate(arrays["suspects_label.ids"].tolist()):
        k, bit = int(statistics.unit_label[sample]), int(statistics.label[sample])
        pixels = SEVERAL[sample, k] == bit
        wrong = pixels & ((z[sample, k] > 0) != bit)
        assert arrays["suspects_label.labels"][row] == k
        expected = z[sample][:, wrong if wrong.any() else pixels].mean(dim=1)
        np.testing.assert_allclose(arrays["suspects_label.logits"][row], expected, rtol=1e-4, atol=1e-5)


def test_sheets_name_classes_as_the_tracker_was_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[Any] = []
    finish = ExplanationPictures.finish

    def noted(pictures: ExplanationPictures) -> None:
        names.append(pictures.names)
        finish(pictures)

    monkeypatch.setattr(ExplanationPictures, "finish", noted)
    monitor = TrainingDynamicsMonitor(class_names=["paper", "ink", "blot"])
    explained = AttributionMonitor(on_error="raise", methods="saliency", metrics=(), num_samples=1, suspects=0)
    fit(tmp_path, Dense(F.cross_entropy), Z, CLASSES, monitor, explained)
    assert names == [["paper", "ink", "blot"]]


def test_targets_that_a_step_makes_of_masks_end_explanations_with_one_warning(tmp_path: Path) -> None:
    model, monitor = Dense(lambda z, y: F.cross_entropy(z, y.clamp(max=1))), TrainingDynamicsMonitor()
    run = trainer(tmp_path, monitor, AttributionMonitor(), max_epochs=2, logger=pl.loggers.TensorBoardLogger(tmp_path))
    message = r"switched off.*that the loss is given.*Perhaps `training_step` makes the targets"
    with pytest.warns(UserWarning, match=message) as told:
        run.fit(model, DataLoader(TensorDataset(Z, CLASSES), batch_size=4))
    assert len([each for each in told if "Explanations" in str(each.message)]) == 1
    assert monitor.statistics().presentations.tolist() == [2] * N


def test_logits_that_are_coarser_than_the_mask_are_read_at_its_size() -> None:
    z = torch.tensor([[[[0.0, 4.0]], [[1.0, 1.0]]]])
    assert by_class(z, torch.Size([1, 4]))[0].tolist() == [[[0.0, 1.0, 3.0, 4.0]], [[1.0, 1.0, 1.0, 1.0]]]
