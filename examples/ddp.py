"""Two processes train together, and each ends with the same record of all samples.

Lightning starts the second process by itself: ``python examples/ddp.py``. You will see from both processes how many
samples each saw itself, how many the merged record holds, and that they agree on the suspects. The sampler repeats a
sample where their number is odd; the record counts each presentation once, so one sample has more of them. One process
writes files and TensorBoard.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor

sys.path.insert(0, str(Path(__file__).parent))
from find_mislabeled_digits import Classifier, flip, load


class Counting(Classifier):
    """The same network; counts the samples that this process sees."""

    seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss."""
        self.seen += len(batch[1])
        return super().training_step(batch, batch_idx)


def main(argv: Sequence[str] | None = None) -> None:
    """Train in two processes and let each of them say what it knows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1257)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", default=".", help="folder for lightning_logs")
    args = parser.parse_args(argv)
    pl.seed_everything(0, verbose=False)
    images, labels = load(None)
    images, labels, rng = images[: args.samples], labels[: args.samples], np.random.default_rng(0)
    flipped = rng.choice(len(labels), len(labels) // 20, replace=False)
    data = TensorDataset(images, torch.from_numpy(flip(labels, flipped, 10, rng)))

    dynamics, model = TrainingDynamicsMonitor(), Counting(1, 10)
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="cpu", devices=2, strategy="ddp", default_root_dir=args.out,
        callbacks=[dynamics, AttributionMonitor(num_samples=4)], enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, 32, shuffle=True))
    presentations, suspects = dynamics.statistics().presentations, dynamics.suspects()
    found = len(set(flipped.tolist()) & set(suspects.index[: len(flipped)]))
    print(
        f"process {trainer.global_rank}: saw {model.seen} samples in {args.epochs} epochs; the record has "
        f"{presentations.sum()} presentations of {len(presentations)} samples, the worst suspects are "
        f"{suspects.index[:5].tolist()}, {found} of {len(flipped)} flipped labels are among the {len(flipped)} worst",
        flush=True,
    )


if __name__ == "__main__":
    main()
