"""What a whole fit costs with the callbacks, and how the record's cost grows with samples, classes and epochs.

Prints tables. All times are CPU time of this process on one thread. Fits with and without callbacks take turns on the
same images, and the least of the rounds is shown. What grows is varied by itself: each row has the other sizes of a
small record, since the largest ones together would be 10 million samples x 20,000 classes x 300 epochs.
"""

import argparse
import functools
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from tracking import cpu_seconds, in_turns, print_table

from dynalens import AttributionMonitor, TrainingDynamics, TrainingDynamicsMonitor, load_record
from dynalens.record import RecordFolder, RecordMeta

_BLOCK = 2**22  # logits that are made at once, so that the largest sizes fit into memory


_LARGEST_TABLE = 10**6
"""Samples up to which suspects are asked for: a table takes more than a kilobyte for each, of ten millions 12 GB."""


class Size(NamedTuple):
    """Sizes of a record."""

    samples: int
    classes: int
    epochs: int


class Fit(NamedTuple):
    """What is trained."""

    convolutional: bool
    classes: int
    epochs: int


FITS = [
    *(Fit(convolutional, classes, 10) for convolutional in (False, True) for classes in (10, 100, 1000)),
    Fit(False, 10, 100),
    Fit(True, 10, 40),
]


class Sizes(NamedTuple):
    """What is measured, and how often."""

    images: int = 500
    fits: Sequence[Fit] = FITS
    rounds: int = 2
    record: Size = Size(10_000, 10, 3)
    samples_of_records: Sequence[int] = (10_000, 100_000, 1_000_000, 10_000_000)
    classes_of_records: Sequence[int] = (10, 100, 1000, 20_000)
    epochs_of_records: Sequence[int] = (10, 30, 100, 300)


QUICK = Sizes(40, (Fit(False, 3, 1),), 1, Size(40, 3, 1), (50, 100), (3, 6), (1, 2))


class Small(pl.LightningModule):
    """A classifier of images (3, 32, 32).

    Args:
        classes: Number of logits.
        convolutional: Three convolutions with batch norm, or an MLP of 64 hidden units.
    """

    def __init__(self, classes: int, *, convolutional: bool) -> None:
        super().__init__()
        self.net = convolutions(classes) if convolutional else mlp(classes)

    def forward(self, x: Tensor) -> Any:
        """Return logits."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def mlp(classes: int) -> nn.Module:
    """Return two layers, whose epoch is as short as epochs are."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 64), nn.ReLU(), nn.Linear(64, classes))


def convolutions(classes: int) -> nn.Module:
    """Return convolutions of 32, 64 and 128 channels, with pooling between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


def train(fit: Fit, images: int, callbacks: Callable[[], Sequence[pl.Callback]], written: list[float]) -> None:
    """Train on noise whose brightness tells the class, and add the MB of TensorBoard's files to ``written``."""
    pl.seed_everything(0, verbose=False)
    labels = torch.randint(fit.classes, (images,))
    inputs = torch.randn(images, 3, 32, 32) + labels.view(-1, 1, 1, 1) / fit.classes
    data, validation = TensorDataset(inputs, labels), TensorDataset(inputs[:256], labels[:256])
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=fit.epochs, accelerator="cpu", logger=pl.loggers.TensorBoardLogger(folder),
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, callbacks=list(callbacks()), log_every_n_steps=10,
        )  # fmt: skip
        model = Small(fit.classes, convolutional=fit.convolutional)
        trainer.fit(model, DataLoader(data, 128, shuffle=True), DataLoader(validation, 128))
        written.append(sum(file.stat().st_size for file in Path(folder).rglob("events.out.*")) / 1e6)


def fit_row(fit: Fit, images: int, rounds: int) -> dict[str, object]:
    """Return the seconds of a fit without and with callbacks, what these add in percent, and what TensorBoard gets."""
    sets: dict[str, Callable[[], Sequence[pl.Callback]]] = {
        "without": list,
        "recorded": lambda: [TrainingDynamicsMonitor()],
        "explained": lambda: [AttributionMonitor()],
        "both": lambda: [TrainingDynamicsMonitor(), AttributionMonitor()],
    }
    written: dict[str, list[float]] = {name: [] for name in sets}
    jobs = {name: functools.partial(train, fit, images, callbacks, written[name]) for name, callbacks in sets.items()}
    seconds = {name: value / 1e6 for name, value in in_turns(jobs, rounds).items()}
    more = {f"{name} %": 100 * (value / seconds["without"] - 1) for name, value in seconds.items() if name != "without"}
    network = "3 convolutions" if fit.convolutional else "MLP"
    what = {"network": network, "classes": fit.classes, "epochs": fit.epochs}
    return {**what, **seconds, **more, "MB of both": written["both"][-1]}


def record_seconds(size: Size) -> dict[str, float]:
    """Return the seconds of an epoch's statistics, of its end with all files, and of the suspects after the last."""
    dynamics, labels = TrainingDynamics(size.samples), torch.randint(size.classes, (size.samples,))
    statistics, ends = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = RecordFolder(Path(name) / "dynalens")
        for epoch in range(size.epochs):
            spent = 0.0
            for index in torch.split(torch.randperm(size.samples), max(1, _BLOCK // size.classes)):
                logits, targets = torch.randn(len(index), size.classes), labels[index]
                spent += cpu_seconds(functools.partial(dynamics.update, index, logits, targets))
            statistics.append(spent)

            def end(epoch: int = epoch) -> None:
                record = dynamics.end_epoch(epoch)
                folder.write_history(epoch, record)
                meta = RecordMeta(size.samples, list(range(epoch + 1)))
                folder.write(dynamics.compute(), np.arange(size.samples), meta)

            ends.append(cpu_seconds(end))
        asks = size.samples <= _LARGEST_TABLE
        suspects = cpu_seconds(lambda: load_record(name).suspects(100)) if asks else float("nan")
    return {"statistics": float(np.median(statistics)), "epoch's end": float(np.median(ends)), "suspects": suspects}


def growth(record: Size, field: str, values: Sequence[int]) -> list[dict[str, object]]:
    """Return a row for each value of one size, the others fixed, and the exponents of the growth as the last row."""
    rows: list[Mapping[str, Any]] = []
    for value in values:
        size = record._replace(**{field: value})
        rows.append({**{name: str(number) for name, number in size._asdict().items()}, **record_seconds(size)})
    last: dict[str, object] = {"samples": "", "classes": "", "epochs": "", field: "exponent"}
    for name in list(rows[0])[3:]:
        seconds = np.maximum([row[name] for row in rows], 1e-9)
        is_run = np.isfinite(seconds)
        last[name] = float(np.polyfit(np.log(values)[is_run], np.log(seconds[is_run]), 1)[0])
    return [*map(dict, rows), dict(last)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--rounds", type=int, help="how often each fit has its turn; 0 leaves fits out")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else Sizes()
    sizes = sizes._replace(rounds=sizes.rounds if args.rounds is None else args.rounds)
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    if sizes.rounds:
        rows = [fit_row(fit, sizes.images, sizes.rounds) for fit in sizes.fits]
        print_table("Whole fits: CPU seconds, and percent more than without", rows)
    grows = {
        "samples": sizes.samples_of_records,
        "classes": sizes.classes_of_records,
        "epochs": sizes.epochs_of_records,
    }
    for field, values in grows.items():
        print_table(
            f"Growth with {field}: CPU seconds of an epoch, and of suspects at the end",
            growth(sizes.record, field, values),
        )


if __name__ == "__main__":
    main()
