"""What the callbacks take at an epoch's end by default: processor seconds, and images through the network.

One process of one thread; the medians of the epochs after the first, which finds layers and loads what is needed. Run
it in two checkouts in turn to compare them.

    PYTHONPATH=src python benchmarks/epoch_end.py
    PYTHONPATH=OTHER_CHECKOUT/src python benchmarks/epoch_end.py
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from networks import random_images, resnet18
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import dynalens
from dynalens import AttributionMonitor, TrainingDynamicsMonitor

PASSED = [0]
"""Images that passed the network; here, because what a module counts itself is put back after a look at it."""


class Classifier(pl.LightningModule):
    """A classifier.

    Args:
        network: Gives logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        PASSED[0] += len(x)
        out = self.network(x)
        assert isinstance(out, Tensor)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Validate nothing: the callbacks take their samples from the batch."""

    def configure_optimizers(self) -> Any:
        """Return plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def timed(callback: pl.Callback, taken: list[tuple[float, int]]) -> pl.Callback:
    """Let the callback's last hook of an epoch note its processor seconds and the images that it passes."""
    hook = callback.on_train_epoch_end

    def on_train_epoch_end(trainer: Any, pl_module: Any) -> None:
        start, passed = time.process_time(), PASSED[0]
        hook(trainer, pl_module)
        taken.append((time.process_time() - start, PASSED[0] - passed))

    callback.on_train_epoch_end = on_train_epoch_end  # type: ignore[method-assign]  # timed in place of the method
    return callback


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="a tiny network: whether it runs, not how fast")
    parser.add_argument("--side", type=int, default=32, help="of the images")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    data = TensorDataset(*random_images(options.samples, options.side))
    dynamics: list[tuple[float, int]] = []
    explanations: list[tuple[float, int]] = []
    callbacks = [
        timed(TrainingDynamicsMonitor(), dynamics),
        timed(AttributionMonitor(max_overhead=None), explanations),  # each epoch, to have one to measure
    ]
    pl.seed_everything(0, verbose=False)
    network: nn.Module = resnet18(32).train()
    if options.quick:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=options.epochs, accelerator="cpu", callbacks=callbacks, logger=TensorBoardLogger(folder),
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        start = time.process_time()
        trainer.fit(Classifier(network), DataLoader(data, 32, shuffle=True), DataLoader(data, 32))
        whole = time.process_time() - start
    print(f"{Path(dynalens.__file__).parent}")
    for name, taken in (("TrainingDynamicsMonitor", dynamics), ("AttributionMonitor", explanations)):
        seconds, passed = (statistics.median(column) for column in zip(*taken[1:], strict=True))
        print(f"  {name:<24} {seconds:6.3f} s at an epoch's end, {passed:.0f} images forward")
    print(f"  everything               {whole / options.epochs:6.3f} s an epoch")


if __name__ == "__main__":
    main()
