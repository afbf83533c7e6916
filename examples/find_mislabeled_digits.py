"""Find the wrong labels in a training set, and see whether training without them is better.

Trains a small CNN on scikit-learn's real digits, 30 % of whose training labels are wrong: the next digit, as when an
annotator confuses classes. The model knows nothing of dynalens: two callbacks are added to the Trainer. Then pairs of
new networks are trained, with all labels and without the flagged ones, and compared on test images whose labels are
right. ``--data`` takes an npz file with ``images`` (N, H, W) or (N, H, W, 3) and ``labels`` (N,) instead.
"""

import argparse
import logging
import math
import warnings
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
from dynalens.report import write_report

Array = npt.NDArray[Any]
SHOWN = 20
# Quantiles of Student's t for two-sided 95 % intervals, with 1, 2, ... degrees of freedom.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


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

    def configure_optimizers(self) -> Any:
        """Return Adam with a learning rate that falls to 0, so that the last epoch decides nothing by luck."""
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs or 1)
        return [optimizer], [schedule]


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


def confuse(labels: Array, chosen: Array, classes: int) -> Array:
    """Return the labels with the next class at the chosen positions: a confusion that a network learns as a rule."""
    confused = labels.copy()
    confused[chosen] = (labels[chosen] + 1) % classes
    return confused


def train(
    train_set: Dataset[Any], model: Classifier, val_loader: DataLoader[Any] | None = None, **options: Any
) -> pl.Trainer:
    """Fit the model and return the Trainer."""
    trainer = pl.Trainer(
        accelerator="cpu", enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, **options
    )
    trainer.fit(model, DataLoader(train_set, batch_size=32, shuffle=True), val_loader)
    return trainer


def accuracy(model: Classifier, test_set: Dataset[Any]) -> float:
    """Return the accuracy on the test set."""
    model.eval()
    loader = DataLoader(test_set, batch_size=256)
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    return right / len(loader.dataset)  # type: ignore[arg-type]  # a TensorDataset has a length


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences and the half width of its 95 % interval; infinite for one pair."""
    values = np.array(differences)
    if len(values) < 2:
        return float(values.mean()), math.inf
    return float(values.mean()), T_95[len(values) - 2] * float(values.std(ddof=1)) / math.sqrt(len(values))


def in_percent(probability: float) -> str:
    """Return an estimated probability in percent, which is never rounded to certainty."""
    return ">99 %" if probability > 0.99 else f"{100 * probability:.0f} %"


def show_suspects(dynamics: TrainingDynamicsMonitor, wrong: set[int], samples: int) -> str:
    """Print the worst suspects, and return how many of the wrong labels are among as many of the worst."""
    suspects = dynamics.suspects()
    print(f"\nThe {SHOWN} most suspicious labels, and the probability that each is wrong:")
    shown = suspects.head(SHOWN)[["label", "suggested", "wrong_probability"]]
    shown = shown.rename(columns={"label": "given", "wrong_probability": "wrong"})
    print(shown.to_string(formatters={"wrong": in_percent}))
    number = len(wrong)
    top = len(wrong & set(suspects.index[:number]))
    return (
        f"Of the {number} most suspicious labels {top} are wrong; in a random order it would be "
        f"{number * number / samples:.0f}."
    )


def compare(
    data: Dataset[Any], clean: Dataset[Any], test_set: Dataset[Any], args: argparse.Namespace, shape: tuple[int, int]
) -> str:
    """Train pairs of networks from equal starts, and return what the cleaned labels are worth, as a sentence."""
    results: list[tuple[float, float]] = []
    for seed in range(args.pairs):
        pair = []
        for part in (data, clean):
            pl.seed_everything(args.seed + 1 + seed, verbose=False)
            model = Classifier(*shape)
            train(part, model, max_epochs=args.epochs, logger=False)
            pair.append(accuracy(model, test_set))
        print(f"pair {seed + 1} of {args.pairs}: {pair[0]:.3f} with all labels, {pair[1]:.3f} without the flagged ones")
        results.append((pair[0], pair[1]))
    before, after = np.mean(results, axis=0)
    gain, half = interval([with_clean - with_all for with_all, with_clean in results])
    known = f"{100 * (gain - half):+.1f} to {100 * (gain + half):+.1f}" if math.isfinite(half) else "unknown"
    return (
        f"Test accuracy is {before:.3f} with all labels and {after:.3f} without the flagged ones: "
        f"{100 * gain:+.1f} points (95 % interval {known}, {args.pairs} pairs of trainings)."
    )


def hush() -> None:
    """Leave out what Lightning says of devices, worker processes and deprecations: it is not about labels."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers",
        "The number of training batches",
        "You defined a `valid",
        ".*LeafSpec",
    ):
        warnings.filterwarnings("ignore", message)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="npz file with `images` and `labels`; default: scikit-learn's digits")
    parser.add_argument("--noise", type=float, default=0.3, help="fraction of wrong training labels (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5, choices=range(1, 11), help="trainings to compare (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=".", help="folder for lightning_logs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, show the suspects, train again without them."""
    args = arguments(argv)
    hush()
    rng = np.random.default_rng(args.seed)
    images, labels = load(args.data)
    shape = images.shape[1], int(labels.max()) + 1
    order = rng.permutation(len(labels))
    test, val, kept = np.split(order, [round(0.2 * len(order)), round(0.3 * len(order))])
    wrong = rng.choice(len(kept), round(args.noise * len(kept)), replace=False)
    given = confuse(labels[kept], wrong, shape[1])
    train_set = TensorDataset(images[kept], torch.from_numpy(given))
    val_set, test_set = (TensorDataset(images[part], torch.from_numpy(labels[part])) for part in (val, test))

    print(f"Training on {len(kept):,} images; {len(wrong)} of their labels are wrong ({100 * args.noise:.0f} %).")
    dynamics = TrainingDynamicsMonitor(audit=100)  # for `dynalens audit`: draws samples, and keeps their pictures
    pl.seed_everything(args.seed, verbose=False)
    trainer = train(
        train_set, Classifier(*shape), DataLoader(val_set, batch_size=256), max_epochs=args.epochs,
        default_root_dir=args.out, callbacks=[dynamics, AttributionMonitor()],
    )  # fmt: skip
    ranking = show_suspects(dynamics, {int(i) for i in wrong}, len(kept))
    clean = dynamics.clean_indices()
    print(f"\nTraining again, with and without the {len(kept) - len(clean)} flagged samples:")
    worth = compare(train_set, Subset(train_set, clean), test_set, args, shape)
    print(f"\n{ranking}\n{worth}\n\nNext, look and decide:")
    folder = Path(str(trainer.log_dir))
    report = write_report(dynamics.record, folder / "dynalens" / "report.html", dataset=train_set)
    for what, why in (
        (str(report), "open this page in a browser, to keep, relabel or drop each suspect"),
        (f"tensorboard --logdir {folder}", "the record, the suspects and where the model looks"),
        (f"dynalens audit {folder}", "a page that asks about 100 labels"),
    ):
        print(f"  {what:{len(str(report))}}   {why}")


if __name__ == "__main__":
    main()
