"""What every claim is tried with: a small CNN, real images, and a run whose dynamics are recorded."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytorch_lightning as pl
import torch
from noisy_runs import load, network
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from dynalens import SampleStatistics, TrainingDynamicsMonitor, load_record

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """Images and true labels of one seed, apart for training and for testing."""

    images: Tensor
    labels: Array
    test_images: Tensor
    test_labels: Tensor

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


def split(folder: Path, data: str, seed: int, samples: int | None = None) -> Split:
    """Return the images of a seed: four fifths to train on, one fifth to test on."""
    images, labels = load(folder, data, seed)
    images, labels = images[:samples], labels[:samples]
    cut = len(labels) * 4 // 5
    return Split(images[:cut], labels[:cut], images[cut:], torch.from_numpy(labels[cut:]))


class Classifier(pl.LightningModule):
    """Three convolutions with batch norm, Adam, a learning rate that falls to zero by a cosine."""

    def __init__(self, channels: int, classes: int, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs
        self.network = network(channels, classes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the cross-entropy."""
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule."""
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)]


def trained(images: Tensor, labels: Array, data: Split, seed: int, epochs: int, *callbacks: pl.Callback) -> Classifier:
    """Return a network that was trained with this seed on these images and labels."""
    pl.seed_everything(seed, verbose=False)
    model = Classifier(images.shape[1], data.classes, epochs)
    train_set = TensorDataset(images, torch.from_numpy(labels))
    # Whole batches are indexed at once: collating single samples costs as much as the network.
    batches = BatchSampler(RandomSampler(train_set), batch_size=50, drop_last=False)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(train_set, sampler=batches, batch_size=None))
    return model


@torch.no_grad()
def accuracy(model: Classifier, data: Split) -> float:
    """Return the fraction of test images that are classified right."""
    model.eval()
    predicted = torch.cat([model.network(part).argmax(1) for part in torch.split(data.test_images, 500)])
    return float((predicted == data.test_labels).float().mean())


@dataclass(frozen=True)
class Recorded:
    """What the callback left of a run, and how well its network classifies.

    Attributes:
        statistics: Of each sample.
        table: As ``TrainingDynamicsMonitor.table`` returns it.
        right: Shape (N, epochs): whether the presentation was predicted as its given label.
        accuracy: On the test images.
    """

    statistics: SampleStatistics
    table: pd.DataFrame
    right: Array
    accuracy: float


def recorded(data: Split, given: Array, seed: int, epochs: int) -> Recorded:
    """Train on the given labels while the callback records, and return both."""
    with tempfile.TemporaryDirectory() as folder:
        model = trained(data.images, given, data, seed, epochs, TrainingDynamicsMonitor(save_dir=folder))
        record = load_record(folder)
        table = record.table()
        right = np.zeros((len(given), epochs), bool)
        for epoch, presented in record.history():
            right[presented["index"], epoch] = presented["margin"] > 0
    return Recorded(record.statistics, table, right, accuracy(model, data))


def spread(values: Sequence[float] | Array) -> str:
    """Return mean and half width of the 95 % interval of the mean, in percent points, by Student's t."""
    from scipy.stats import t

    percent = 100 * np.asarray(values, dtype=float)
    if len(percent) < 2:
        return f"{percent.mean():.1f}"
    half = t.ppf(0.975, len(percent) - 1) * percent.std(ddof=1) / len(percent) ** 0.5
    return f"{percent.mean():.1f} ± {half:.1f}"
