"""Find flipped labels in a table: scikit-learn's bundled breast cancer data, 569 rows of 30 measurements.

A table has no pictures, so one callback is enough. You will see the rows that are most probably mislabeled, how many of
the flipped ones are found, how large the callback believes the noise to be, and the test accuracy before and after
dropping what it flags. In TensorBoard: the data map, margins, and the suspects as a table (tab Text).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from dynalens import TrainingDynamicsMonitor


class Table(TensorDataset):
    """Rows and labels; the callback finds the names of the classes and of the columns here."""

    classes = ("malignant", "benign")
    feature_names: Sequence[str] = ()


class Classifier(pl.LightningModule):
    """A small network for standardised columns."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(columns, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def train(data: Dataset[Any], columns: int, args: argparse.Namespace, **options: Any) -> tuple[Classifier, pl.Trainer]:
    """Return the fitted model and its Trainer."""
    pl.seed_everything(args.seed, verbose=False)
    model = Classifier(columns)
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="auto", enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=args.out, **options,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=32, shuffle=True))
    return model.eval(), trainer


def in_percent(probability: float) -> str:
    """Return an estimated probability in percent, which is never rounded to certainty."""
    return ">99 %" if probability > 0.99 else f"{100 * probability:.0f} %"


def main(argv: Sequence[str] | None = None) -> None:
    """Flip labels, train, print the suspects, train again without them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, default=0.08, help="fraction of training labels to flip")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=".", help="folder for lightning_logs")
    args = parser.parse_args(argv)
    table = load_breast_cancer()
    rng = np.random.default_rng(args.seed)
    test, kept = np.split(rng.permutation(len(table.target)), [150])
    x = (table.data - table.data[kept].mean(0)) / table.data[kept].std(0)
    flipped = rng.choice(len(kept), round(args.noise * len(kept)), replace=False)
    given = table.target[kept].copy()
    given[flipped] = 1 - given[flipped]
    data = Table(torch.tensor(x[kept]).float(), torch.tensor(given))
    data.feature_names = table.feature_names.tolist()

    dynamics = TrainingDynamicsMonitor(name_of=lambda i: f"row {kept[i]}")
    before, trainer = train(data, x.shape[1], args, callbacks=[dynamics])
    suspects = dynamics.suspects()
    found = len(set(flipped.tolist()) & set(suspects.index[: len(flipped)]))
    rate, clean = dynamics.noise_rate(), dynamics.clean_indices()
    columns = ["name", "label_name", "suggested_name", "wrong_probability", "margin"]
    print(suspects.head(10)[columns].round(2).to_string(index=False, formatters={"wrong_probability": in_percent}))
    print(
        f"\n{found} of {len(flipped)} flipped labels are among the {len(flipped)} worst suspects of {len(kept)} rows."
    )
    print(f"Noise rate: {rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f}); true: {len(flipped) / len(kept):.3f}.")

    after, _ = train(Subset(data, clean), x.shape[1], args, logger=False)
    truth, rows = torch.tensor(table.target[test]), torch.tensor(x[test]).float()
    for name, model in ("all rows as given", before), (f"without the {len(kept) - len(clean)} flagged rows", after):
        right = (model.net(rows.to(model.device)).argmax(1).cpu() == truth).float().mean()
        print(f"Test accuracy, {name}: {float(right):.3f}")
    print(f"TensorBoard: tensorboard --logdir {Path(str(trainer.log_dir))}")


if __name__ == "__main__":
    main()
