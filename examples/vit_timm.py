"""What a vision transformer attends to while it learns from random weights: attention rollout next to Grad-CAM.

A small ViT of timm learns scikit-learn's real digits (or ``--data``, an npz file with ``images`` and ``labels``). You
will see, in TensorBoard, both kinds of map for the same digits in every epoch, and numbers for how much better than
chance each names the patches that the model uses. Rollout is the same for every class; Grad-CAM and the
gradient-weighted rollout are not. Needs timm: ``pip install timm``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import timm
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor

sys.path.insert(0, str(Path(__file__).parent))
from find_mislabeled_digits import load

METHODS = ("attention_rollout", "gradient_rollout", "grad_cam")


class Vit(pl.LightningModule):
    """A vision transformer of timm, made small."""

    def __init__(self, channels: int, side: int, patch: int, classes: int) -> None:
        super().__init__()
        self.net = timm.models.VisionTransformer(
            img_size=side, patch_size=patch, in_chans=channels, num_classes=classes, embed_dim=64, depth=4, num_heads=4
        )

    def forward(self, x: Tensor) -> Any:
        """Return logits."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy."""
        self.log("val_accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and print what the maps are worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="npz file with `images` and `labels`; default: scikit-learn's digits")
    parser.add_argument("--samples", type=int, help="use only the first ones")
    parser.add_argument("--patch", type=int, default=2, help="side of a patch; 4 for images of 28 or 32 pixels")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", default=".", help="folder for lightning_logs")
    args = parser.parse_args(argv)
    pl.seed_everything(0, verbose=False)
    images, labels = load(args.data)
    data = TensorDataset(images[: args.samples], torch.from_numpy(labels[: args.samples]))
    cut = len(data) // 5
    val, train = (torch.utils.data.Subset(data, part) for part in (range(cut), range(cut, len(data))))
    maps = AttributionMonitor(methods=METHODS, patch_size=args.patch, num_samples=16)
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="auto", devices=1, callbacks=[TrainingDynamicsMonitor(), maps],
        default_root_dir=args.out,
    )  # fmt: skip
    model = Vit(images.shape[1], images.shape[2], args.patch, int(labels.max()) + 1)
    trainer.fit(model, DataLoader(train, 32, shuffle=True), DataLoader(val, 256))
    print("\nSymmetric relevance gain of the last epoch, 16 images; the random order says how much is chance:")
    last = max(Path(str(trainer.log_dir)).glob("dynalens/explanations/*.npz"))
    with np.load(last) as found:
        for name in (*METHODS, "random"):
            gain = found[f"{name}.symmetric_relevance_gain.values"]
            print(f"{name:<20} {gain.mean():+.3f} (from {gain.min():+.3f} to {gain.max():+.3f})")
    print(f"TensorBoard: tensorboard --logdir {Path(str(trainer.log_dir))}")


if __name__ == "__main__":
    main()
