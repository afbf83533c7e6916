"""Find the wrong labels in a training set, and see whether training without them is better.

Trains a small CNN on scikit-learn's real digits, 5 % of whose training labels were flipped. The model knows nothing
of dynalens: two callbacks are added to the Trainer. ``--data`` takes an npz file with ``images`` (N, H, W) or
(N, H, W, 3) and ``labels`` (N,) instead.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor

Array = npt.NDArray[Any]
SHOWN = 20


class Classifier(pl.LightningModule):
    """An ordinary small CNN."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, classes))

    def forward(self, x: Tensor) -> Any:
        """Return logits."""
        return self.head(self.features(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy on validation data."""
        images, labels = batch
        self.log("val_accuracy", (self(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy on test data."""
        images, labels = batch
        self.log("test_accuracy", (self(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def load(path: str | None) -> tuple[Tensor, Array]:
    """Return images (N, C, H, W), standardised, and labels (N,)."""
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = digits.images, digits.target
    else:
        with np.load(path) as file:
            images, labels = file["images"], file["labels"]
    x = torch.from_numpy(np.ascontiguousarray(images)).float()
    x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return (x - x.mean()) / x.std(), labels.astype(np.int64)


def flip(labels: Array, chosen: Array, classes: int, rng: np.random.Generator) -> Array:
    """Return the labels with another class, drawn uniformly, at the chosen positions."""
    flipped = labels.copy()
    flipped[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return flipped


def train(train_set: Dataset[Any], val_set: Dataset[Any], model: Classifier, **options: Any) -> pl.Trainer:
    """Fit the model and return the Trainer."""
    trainer = pl.Trainer(accelerator="cpu", enable_checkpointing=False, enable_model_summary=False, **options)
    trainer.fit(model, DataLoader(train_set, batch_size=32, shuffle=True), DataLoader(val_set, batch_size=256))
    return trainer


def accuracy(model: Classifier, test_set: Dataset[Any]) -> float:
    """Return the accuracy on the test set."""
    model.eval()
    loader = DataLoader(test_set, batch_size=256)
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    return right / len(loader.dataset)  # type: ignore[arg-type]  # a TensorDataset has a length


def report(dynamics: TrainingDynamicsMonitor, flipped: set[int], samples: int) -> None:
    """Print the worst suspects, and how many of the flipped labels are among the top 5 %."""
    suspects = dynamics.suspects()
    print(f"\nThe {SHOWN} most suspicious labels:")
    shown = suspects.head(SHOWN)[["label", "suggested", "score"]]
    print(shown.rename(columns={"label": "given", "suggested": "suggested", "score": "score"}).round(2).to_string())
    top = round(0.05 * samples)
    found = len(flipped & set(suspects.index[:top]))
    print(
        f"\n{found} of {len(flipped)} flipped labels are among the {top} most suspicious of {samples:,} (top 5 %); "
        f"a random order would have {len(flipped) * top / samples:.0f} there."
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="npz file with `images` and `labels`; default: scikit-learn's digits")
    parser.add_argument("--noise", type=float, default=0.05, help="fraction of training labels to flip")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=".", help="folder for lightning_logs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, show the suspects, train again without them."""
    args = arguments(argv)
    rng = np.random.default_rng(args.seed)
    images, labels = load(args.data)
    classes = int(labels.max()) + 1
    order = rng.permutation(len(labels))
    test, val, kept = np.split(order, [round(0.2 * len(order)), round(0.3 * len(order))])
    flipped = rng.choice(len(kept), round(args.noise * len(kept)), replace=False)
    given = flip(labels[kept], flipped, classes, rng)
    train_set = TensorDataset(images[kept], torch.from_numpy(given))
    val_set, test_set = (TensorDataset(images[part], torch.from_numpy(labels[part])) for part in (val, test))

    dynamics = TrainingDynamicsMonitor()
    pl.seed_everything(args.seed, verbose=False)
    before = Classifier(images.shape[1], classes)
    trainer = train(
        train_set, val_set, before, max_epochs=args.epochs, default_root_dir=args.out,
        callbacks=[dynamics, AttributionMonitor()],
    )  # fmt: skip
    print(f"\nTensorBoard: tensorboard --logdir {Path(str(trainer.log_dir))}")
    report(dynamics, {int(i) for i in flipped}, len(kept))

    clean = dynamics.clean_indices()
    pl.seed_everything(args.seed, verbose=False)
    after = Classifier(images.shape[1], classes)
    print(f"\nTraining again without the {len(kept) - len(clean)} flagged samples.")
    train(Subset(train_set, clean), val_set, after, max_epochs=args.epochs, logger=False)
    print(f"\nTest accuracy with all labels as given: {accuracy(before, test_set):.3f}")
    print(f"Test accuracy on `clean_indices()` only: {accuracy(after, test_set):.3f}")


if __name__ == "__main__":
    main()
