"""Find the wrong labels in one training run, act on them, train again, and compare over several seeds.

There are three ways to act: leave the flagged samples out, weight every sample by the probability that its label is
right, or give the flagged samples their suggested labels. Two more trainings serve as comparison: one leaves out as
many samples at random, the other leaves out exactly the wrong ones. Each seed is compared with itself: the gain is the
mean of these differences, with a 95 % interval by Student's t.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from dynalens import TrainingDynamicsMonitor

sys.path.insert(0, str(Path(__file__).parent))
from find_mislabeled_digits import Array, Classifier, accuracy, flip, hush, load

# Of Student's t with 1, 2, ... degrees of freedom, two-sided 95 %.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class Weighted(Classifier):
    """The same network where each sample of the batch carries a weight."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the weighted mean loss."""
        images, labels, weights = batch
        loss = F.cross_entropy(self(images), labels, reduction="none")
        mean: Tensor = (loss * weights).sum() / weights.sum()
        return mean


def train(model: Classifier, data: Dataset[Any], args: argparse.Namespace, *callbacks: pl.Callback) -> None:
    """Fit the model; nothing but the record is written."""
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, default_root_dir=args.out,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=32, shuffle=True))


def accuracies(images: Tensor, labels: Array, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the test accuracy of each way to act."""
    rng = np.random.default_rng(seed)
    test, kept = np.split(rng.permutation(len(labels)), [round(0.3 * len(labels))])
    classes = int(labels.max()) + 1
    wrong = rng.choice(len(kept), round(args.noise * len(kept)), replace=False)
    given = torch.from_numpy(flip(labels[kept], wrong, classes, rng))
    data, held_out = TensorDataset(images[kept], given), TensorDataset(images[test], torch.from_numpy(labels[test]))

    def trained(train_set: Dataset[Any], network: type[Classifier] = Classifier, *callbacks: pl.Callback) -> float:
        pl.seed_everything(seed, verbose=False)
        model = network(images.shape[1], classes)
        train(model, train_set, args, *callbacks)
        return accuracy(model, held_out)

    dynamics = TrainingDynamicsMonitor(save_dir=Path(args.out) / f"seed_{seed}")
    results = {"as given": trained(data, Classifier, dynamics)}
    clean, rate = dynamics.clean_indices(), dynamics.noise_rate()
    at_random = rng.permutation(len(kept))[: len(clean)].tolist()
    right = np.setdiff1d(np.arange(len(kept)), wrong).tolist()
    weights = torch.from_numpy(dynamics.weights()).float()
    results["flagged left out"] = trained(Subset(data, clean))
    results["weighted"] = trained(TensorDataset(images[kept], given, weights), Weighted)
    results["flagged relabelled"] = trained(dynamics.relabelled(data))
    results["as many left out at random"] = trained(Subset(data, at_random))
    results["exactly the wrong left out"] = trained(Subset(data, right))
    print(
        f"seed {seed}: {len(kept) - len(clean)} of {len(kept)} flagged, noise rate {rate.value:.3f} "
        f"({rate.low:.3f} to {rate.high:.3f}), true {args.noise}"
    )
    return results


def interval(differences: Array) -> tuple[float, float]:
    """Return mean and half width of the 95 % interval of the mean."""
    n = len(differences)
    t = T_95[n - 2] if n - 2 < len(T_95) else 2.0
    return float(differences.mean()), t * float(differences.std(ddof=1)) / math.sqrt(n)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="npz file with `images` and `labels`; default: scikit-learn's digits")
    parser.add_argument("--noise", type=float, default=0.2, help="fraction of training labels to flip")
    parser.add_argument("--samples", type=int, help="use only the first ones")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5, help="two or more")
    parser.add_argument("--out", default="clean_and_retrain", help="folder of the records")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the accuracies and what each way gains."""
    args = arguments(argv)
    hush()
    images, labels = load(args.data)
    images, labels = images[: args.samples], labels[: args.samples]
    runs = [accuracies(images, labels, seed, args) for seed in range(args.seeds)]
    print(f"\nTest accuracy, mean of {len(runs)} seeds, and the gain over training on the labels as given:")
    for name in runs[0]:
        values = np.array([run[name] for run in runs])
        mean, half = interval(values - np.array([run["as given"] for run in runs]))
        print(f"{name:<28} {values.mean():.3f}   {mean:+.3f} +- {half:.3f}")


if __name__ == "__main__":
    main()
