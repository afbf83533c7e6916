"""A classifier, data that carry their own index, and fits of both, for tests that need a Trainer."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamics

N, K = 22, 3
ACCELERATOR = os.environ.get("DYNALENS_TEST_ACCELERATOR", "cpu")
"""Where the fits of the suite run: "cpu", or "gpu" on a machine with a card."""


def images(n: int = N) -> Tensor:
    """Images (n, 1, 6, 6), the index of each in its first pixel."""
    x = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    x[:, 0, 0, 0] = torch.arange(n)
    return x


def labels(n: int = N) -> Tensor:
    return torch.arange(n) * 7 % K


def dataset(n: int = N) -> TensorDataset:
    return TensorDataset(images(n), labels(n))


def indices_of(x: Tensor) -> list[int]:
    return [int(i) for i in x[:, 0, 0, 0]]


class Classifier(pl.LightningModule):
    """Knows nothing of dynalens; keeps its own record of what every step computed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, K))
        self.seen: list[tuple[int, list[int], Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        assert isinstance(out, Tensor)
        return out

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y)

    def remember(self, x: Tensor, logits: Tensor, y: Tensor) -> None:
        self.seen.append((self.current_epoch, indices_of(x), logits.detach().cpu().clone(), y.cpu().clone()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N)
        self.remember(x, logits, y)
        return self.loss(logits, y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_accuracy", (self(x / N).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader(data: Dataset[Any] | None = None, **options: Any) -> DataLoader[Any]:
    options = {"batch_size": 4, "shuffle": True} | options
    return DataLoader(data if data is not None else dataset(), **options)


def in_order() -> DataLoader[Any]:
    return loader(shuffle=False)


def trainer(tmp_path: Path, *callbacks: Any, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 3,
        "accelerator": ACCELERATOR,
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "default_root_dir": str(tmp_path),
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | options))


def attribution_monitor(**arguments: Any) -> AttributionMonitor:
    """A monitor that explains each epoch, in few steps: those of the tests are far too short for it by default."""
    return AttributionMonitor(**{"max_overhead": None, "steps": 5, **arguments})


def fit(
    tmp_path: Path,
    *callbacks: Any,
    model: pl.LightningModule | None = None,
    data: Callable[[], Any] = loader,
    val: Callable[[], Any] | None = None,
    ckpt_path: str | None = None,
    **options: Any,
) -> Any:
    """Seed, fit and return the model."""
    pl.seed_everything(3, verbose=False)
    module = model if model is not None else Classifier()
    trainer(tmp_path, *callbacks, **options).fit(
        module, data(), val_dataloaders=val() if val else None, ckpt_path=ckpt_path
    )
    return module


def fit_undisturbed(tmp_path: Path, callback: Any, model: Callable[[], pl.LightningModule], **options: Any) -> Any:
    """Fit with the callback and, from the same weights, without; both end alike. Return the model of the first."""
    state = model().state_dict()
    runs = []
    for callbacks in ([callback], []):
        module = model()
        module.load_state_dict(state)
        runs.append(fit(tmp_path, *callbacks, model=module, **options))
    for name, value in runs[0].state_dict().items():
        assert torch.equal(value, runs[1].state_dict()[name]), name
    return runs[0]


def arrays_of(path: Path) -> dict[str, Any]:
    """Read an npz file and close it: one that the garbage collector closes is an error in whatever test runs then."""
    with np.load(path) as arrays:
        return dict(arrays)


def assert_merged_alike(one: TrainingDynamics, other: TrainingDynamics) -> None:
    """End an epoch of two processes of which only the first had samples: both hold the same record."""
    gathered: list[tuple[Any, Any]] = []

    def exchange(index: Any, rows: Any, step: Any) -> tuple[Any, Any]:
        gathered.append((index, rows.copy()))
        return gathered[0][0].copy(), gathered[0][1].copy()

    for each in (one, other):
        each.end_epoch(0, exchange)
    for name, values in one.compute().arrays().items():
        np.testing.assert_array_equal(getattr(other.compute(), name), values, err_msg=name)
