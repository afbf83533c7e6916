"""Look through the labels of CIFAR-10 while a ResNet-18 learns them, on whatever accelerator there is, in bf16-mixed.

You will see, in TensorBoard, where the network looks and a gallery of the labels that are most probably wrong. No label
is flipped unless ``--noise`` says so: real suspects are ambiguous and odd pictures.
``--data`` takes an npz file with ``images`` (N, 32, 32, 3), uint8, ``labels`` (N,) and perhaps ``names``; without it
torchvision downloads CIFAR-10. An epoch of all 50,000 images is long on a processor: try ``--samples 4000`` there.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor

sys.path.insert(0, str(Path(__file__).parent))
from find_mislabeled_digits import Classifier, flip, in_percent


class Images(Dataset[tuple[Tensor, int]]):
    """Standardised images, shifted at random for training; the callbacks read ``classes``."""

    def __init__(self, images: Any, labels: Any, classes: Sequence[str], *, augment: bool = False) -> None:
        self.images, self.labels, self.classes = torch.from_numpy(images).permute(0, 3, 1, 2), labels, list(classes)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x = (self.images[i].float() / 255 - 0.47) / 0.25
        if self.augment:
            dy, dx = torch.randint(0, 5, (2,)).tolist()
            x = F.pad(x, (2, 2, 2, 2))[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
        return x, int(self.labels[i])


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.shortcut = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps."""
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet18(Classifier):
    """ResNet-18 for small images (He et al. 2016; no pooling before the blocks), with the steps of a classifier."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(3, classes)
        widths = [width * times for times in (1, 1, 1, 2, 2, 4, 4, 8, 8)]
        blocks = [Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
        stem = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        self.features = nn.Sequential(*stem, *blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes))


def load(path: str | None, root: str) -> tuple[Any, Any, Sequence[str]]:
    """Return images, labels and class names, of the file or of torchvision's CIFAR-10."""
    if path is None:
        from torchvision.datasets import CIFAR10

        data = CIFAR10(root, download=True)
        return data.data, np.array(data.targets), data.classes
    with np.load(path) as file:
        labels = file["labels"].astype(np.int64)
        return file["images"], labels, file["names"].tolist() if "names" in file else [str(k) for k in range(10)]


def main(argv: Sequence[str] | None = None) -> None:
    """Train and print the worst suspects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="npz file; default: torchvision's CIFAR-10, downloaded to --out")
    parser.add_argument("--samples", type=int, help="use only so many, drawn at random")
    parser.add_argument("--noise", type=float, default=0.0, help="fraction of training labels to flip")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--width", type=int, default=64, help="channels of the first layer")
    parser.add_argument("--out", default=".", help="folder for lightning_logs")
    args = parser.parse_args(argv)
    pl.seed_everything(0, verbose=False)
    images, labels, names = load(args.data, args.out)
    rng = np.random.default_rng(0)
    val, kept = np.split(rng.permutation(len(labels))[: args.samples], [(args.samples or len(labels)) // 10])
    flipped = rng.choice(len(kept), round(args.noise * len(kept)), replace=False)
    given = flip(labels[kept], flipped, len(names), rng)
    train_set, val_set = Images(images[kept], given, names, augment=True), Images(images[val], labels[val], names)

    dynamics = TrainingDynamicsMonitor()
    maps = AttributionMonitor(methods=("grad_cam", "smooth_grad"), method_args={"smooth_grad": {"samples": 10}})
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="auto", devices=1, precision="bf16-mixed", callbacks=[dynamics, maps],
        enable_model_summary=False, default_root_dir=args.out,
    )  # fmt: skip
    trainer.fit(ResNet18(len(names), args.width), DataLoader(train_set, 64, shuffle=True), DataLoader(val_set, 256))
    suspects, rate = dynamics.suspects(), dynamics.noise_rate()
    columns = ["label_name", "suggested_name", "wrong_probability"]
    print(suspects.head(12)[columns].to_string(formatters={"wrong_probability": in_percent}))
    print(f"\nNoise rate: {rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f}); flipped: {args.noise}.")
    found = set(flipped.tolist()) & set(suspects.index[: len(flipped)])
    print(f"{len(found)} of {len(flipped)} flipped labels are among the {len(flipped)} worst suspects.")
    print(f"TensorBoard: tensorboard --logdir {Path(str(trainer.log_dir))}")


if __name__ == "__main__":
    main()
