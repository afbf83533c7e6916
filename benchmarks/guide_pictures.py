"""Make the pictures of the guide from two real runs: ``python benchmarks/guide_pictures.py --out docs/images``.

scikit-learn's digits with 10 % flipped labels, a small CNN, once as it is and once with a network and as many epochs
as memorise the flips. A minute on a CPU.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor

NOISE = 0.1
CHARTS = ("data_map", "training_data_analysis", "forgetting_events", "margins", "first_learned")
OTHERS = ("film/saliency", "film/grad_cam", "explanations", "suspects")


class Network(pl.LightningModule):
    """A small CNN."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * width, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Any:
        """Return logits."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing is needed of it but that there is a batch to explain."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def data() -> tuple[TensorDataset, TensorDataset]:
    """Return training samples, some with flipped labels, and validation samples."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1)
    images = (images - images.mean()) / images.std()
    labels = digits.target.astype(np.int64)
    order = rng.permutation(len(labels))
    train, val = np.split(order, [round(0.8 * len(order))])
    given = labels[train].copy()
    flipped = rng.choice(len(train), round(NOISE * len(train)), replace=False)
    given[flipped] = (given[flipped] + rng.integers(1, 10, len(flipped))) % 10
    return TensorDataset(images[train], torch.from_numpy(given)), TensorDataset(
        images[val], torch.from_numpy(labels[val])
    )


def train(folder: Path, epochs: int, width: int, dropout: float) -> Path:
    """Train, and return the folder of the pictures."""
    train_set, val_set = data()
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, default_root_dir=folder, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[TrainingDynamicsMonitor(top_k=8), AttributionMonitor(num_samples=3, suspects=1, max_overhead=None)],
    )  # fmt: skip
    loaders = DataLoader(train_set, batch_size=32, shuffle=True), DataLoader(val_set, batch_size=256)
    trainer.fit(Network(width, dropout), *loaders)
    return folder / "dynalens" / "pictures" / "dynalens"


def copy_latest(folder: Path, out: Path) -> None:
    """Copy the last picture in a folder, keeping the end of its name."""
    latest = max((path for path in folder.rglob("*.*") if path.is_file()), key=lambda path: path.stem)
    if latest.suffix == ".png":
        shutil.copy(latest, out.with_suffix(".png"))
    else:
        Image.open(latest).save(out.with_suffix(".jpg"), quality=70, optimize=True)  # half the bytes, to be kept in git


def main(argv: Sequence[str] | None = None) -> None:
    """Train and copy the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--epochs", type=int, nargs=2, default=(8, 40), help="of the ordinary and the memorising run")
    args = parser.parse_args(argv)
    (ordinary, memorising), out = args.epochs, args.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pictures = train(Path(folder, "ordinary"), epochs=ordinary, width=16, dropout=0.2)
        for name in (*(f"charts/{chart}" for chart in CHARTS), *OTHERS):
            copy_latest(pictures / name, out / f"guide_{name.removeprefix('charts/').replace('/', '_')}")
        pictures = train(Path(folder, "memorising"), epochs=memorising, width=48, dropout=0.0)
        for chart in ("data_map", "margins"):
            copy_latest(pictures / "charts" / chart, out / f"guide_memorised_{chart}")


if __name__ == "__main__":
    main()
