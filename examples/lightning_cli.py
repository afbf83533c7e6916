"""Both callbacks from a configuration file, with LightningCLI: no line of Python speaks of dynalens.

Run ``python examples/lightning_cli.py fit --config examples/lightning_cli.yaml``; any value can be changed on the
command line, as in ``--trainer.max_epochs 3``. You will see the suspects that the run left on disk, and the same
pictures in TensorBoard as from Python. A callable, such as the method ``edges``, is named by its dotted path.
Needs jsonargparse: ``pip install "jsonargparse[signatures]"``.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dynalens import load_record

sys.path.insert(0, str(Path(__file__).parent))
from find_mislabeled_digits import Classifier, flip, in_percent, load


class Digits(pl.LightningDataModule):
    """Scikit-learn's digits, some of whose training labels are flipped.

    Args:
        samples: Use only the first ones.
        noise: Fraction of training labels to flip.
        batch_size: Images in a batch.
    """

    def __init__(self, samples: int | None = None, noise: float = 0.05, batch_size: int = 32) -> None:
        super().__init__()
        images, labels = load(None)
        rng, cut = np.random.default_rng(0), len(labels[:samples]) // 5
        given = labels[:samples].copy()
        wrong = rng.choice(np.arange(cut, len(given)), round(noise * (len(given) - cut)), replace=False)
        given = flip(given, wrong, 10, rng)
        self.val = TensorDataset(images[:cut], torch.from_numpy(labels[:cut]))
        self.train = TensorDataset(images[cut : len(given)], torch.from_numpy(given[cut:]))
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        """Return the loader of the training data."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        """Return the loader of the validation data."""
        return DataLoader(self.val, 256)


def edges(_model: nn.Module, images: Tensor, _targets: Tensor) -> Tensor:
    """Return how much each pixel differs from its right neighbour: a map that knows no model, to compare with."""
    return (images - images.roll(-1, dims=-1)).abs()


def main(argv: list[str] | None = None) -> None:
    """Read the command line, do what it says, and print the suspects from the files of the run."""
    cli = LightningCLI(Classifier, Digits, args=argv, save_config_kwargs={"overwrite": True})
    folder = Path(str(cli.trainer.log_dir))
    columns = ["label", "suggested", "wrong_probability", "forgetting_events"]
    worst = load_record(folder).table().sort_values("rank").head(10)[columns]
    print(worst.to_string(formatters={"wrong_probability": in_percent}))
    print(f"\nAll of it: dynalens suspects {folder}\nTensorBoard: tensorboard --logdir {folder}")


if __name__ == "__main__":
    main()
