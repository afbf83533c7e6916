"""What tracking costs: its statistics next to peers, all its hooks, the epoch's end, and bytes for each sample.

Prints tables. All times are CPU time of this process on one thread; candidates take turns on the same numbers, and the
least of the rounds is shown, since everything else on a machine only adds to it. ``pip install '.[benchmarks]'``.
"""

import argparse
import io
import logging
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from aum import AUMCalculator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dynalens import TrainingDynamics, TrainingDynamicsMonitor
from dynalens.record import RecordFolder, RecordMeta

Job = Callable[[], object]


class Sizes(NamedTuple):
    """What is measured, and how often."""

    batches: Sequence[int] = (128, 512)
    classes: Sequence[int] = (10, 100, 1000)
    samples: Sequence[int] = (50_000, 1_280_000, 10_000_000)
    steps: int = 200
    rounds: int = 9


QUICK = Sizes(batches=(8,), classes=(10,), samples=(1000,), steps=3, rounds=2)


def cpu_seconds(job: Job) -> float:
    """Return the CPU time that a call takes."""
    start = time.process_time()
    job()
    return time.process_time() - start


def in_turns(jobs: Mapping[str, Job], rounds: int) -> dict[str, float]:
    """Run the jobs in turns and return the least CPU time of each, in microseconds."""
    times = defaultdict(list)
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(cpu_seconds(job))
    return {name: 1e6 * min(each) for name, each in times.items()}


def shown(value: object) -> str:
    """Return a number with three digits that count, anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of numbers below their names."""
    cells = [{name: shown(value) for name, value in row.items()} for row in rows]
    width = {name: max(len(name), *(len(row[name]) for row in cells)) for name in rows[0]}
    print(f"\n{title}")
    print("  ".join(name.rjust(width[name]) for name in rows[0]))
    for row in cells:
        print("  ".join(value.rjust(width[name]) for name, value in row.items()), flush=True)


# The peers' loops, written from their definitions; each keeps what the peer keeps, for as long as it is measured.


def toneva(stats: dict[int, list[list[float]]], ids: Sequence[int], logits: Tensor, targets: Tensor) -> None:
    """Loss, accuracy and margin of each presentation, one sample at a time (Toneva et al. 2019, run_cifar.py)."""
    loss = F.cross_entropy(logits, targets, reduction="none")
    right = logits.max(1).indices == targets
    for j, i in enumerate(ids):
        ordered = logits[j].sort().values
        margin = logits[j, targets[j]].item() - ordered[-2 if right[j] else -1].item()
        entry = stats.setdefault(i, [[], [], []])
        entry[0].append(loss[j].item())
        entry[1].append(right[j].item())
        entry[2].append(margin)


def forgetting(stats: dict[int, list[list[Any]]], ids: Sequence[int], logits: Tensor, targets: Tensor) -> None:
    """InterpretDL's ForgettingEventsInterpreter: accuracy and prediction of each presentation, nothing else."""
    predicted = logits.argmax(1).numpy()
    right = predicted == targets.numpy()
    for j, i in enumerate(ids):
        entry = stats.setdefault(i, [[], []])
        entry[0].append(right[j])
        entry[1].append(predicted[j])


def softmax_rows(stats: dict[int, list[Any]], ids: Sequence[int], logits: Tensor) -> None:
    """InterpretDL's TrainingDynamics: the whole softmax of each presentation, nothing computed from it."""
    rows = logits.softmax(1).numpy()
    for j, i in enumerate(ids):
        stats.setdefault(i, []).append(rows[j])


def statistics_row(batch: int, classes: int, rounds: int) -> dict[str, object]:
    """Return microseconds for each sample: ours, a bound, and the peers', on the same logits."""
    logits, targets, ids = torch.randn(batch, classes), torch.randint(classes, (batch,)), list(range(batch))
    steps = max(64, 2**21 // (batch * classes))  # several of the blocks that are computed together
    aum = AUMCalculator("unused")

    def ours() -> None:
        dynamics = TrainingDynamics(batch)
        for _ in range(steps):
            dynamics.update(ids, logits, targets)
        dynamics.state_dict()  # so that none is left waiting

    stats: list[Any] = [{}, {}, {}]
    least = in_turns(
        {
            "dynalens": ours,
            "cross_entropy": lambda: [F.cross_entropy(logits, targets, reduction="none") for _ in range(steps)],
            "aum": lambda: aum.update(logits, targets, ids),
            "Toneva": lambda: toneva(stats[0], ids, logits, targets),
            "IDL forgetting": lambda: forgetting(stats[1], ids, logits, targets),
            "IDL dynamics": lambda: softmax_rows(stats[2], ids, logits),
        },
        rounds,
    )
    once = {name: value / (steps if number < 2 else 1) for number, (name, value) in enumerate(least.items())}
    return {
        "batch": batch,
        "classes": classes,
        "us/step": once["dynalens"],
        **{name: value / batch for name, value in once.items()},
        "x aum": once["aum"] / once["dynalens"],
        "x Toneva": once["Toneva"] / once["dynalens"],
        "x IDL forgetting": once["IDL forgetting"] / once["dynalens"],
    }


class Clock(pl.Callback):
    """Stands first: CPU time of an epoch's steps, without what others do at its end."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End."""
        self.seconds = time.process_time() - self.start


class Linear(pl.LightningModule):
    """A training step as small as it can be, or with ``hidden`` features a heavier one."""

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TimedMonitor(TrainingDynamicsMonitor):
    """Adds up the CPU time of its own hooks in the step."""

    seconds = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        """Watch the step."""
        self.seconds += cpu_seconds(lambda: super(TimedMonitor, self).on_train_batch_start(*args))

    def on_before_backward(self, *args: Any) -> None:
        """The step's own loss is known."""
        self.seconds += cpu_seconds(lambda: super(TimedMonitor, self).on_before_backward(*args))

    def on_train_batch_end(self, *args: Any) -> None:
        """Record the batch."""
        self.seconds += cpu_seconds(lambda: super(TimedMonitor, self).on_train_batch_end(*args))


def fit(folder: str, batch: int, classes: int, hidden: int, steps: int, monitors: Sequence[pl.Callback]) -> float:
    """Return the CPU seconds of one epoch's steps."""
    pl.seed_everything(0, verbose=False)
    # Few samples, often: the files that end a fit are not what is measured.
    clock, data = Clock(), TensorDataset(torch.randn(1000, 16), torch.randint(classes, (1000,)))
    loader = DataLoader(data, batch, sampler=RandomSampler(data, replacement=True, num_samples=batch * steps))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tempfile.mkdtemp(dir=folder), callbacks=[clock, *monitors],
    )  # fmt: skip
    trainer.fit(Linear(classes, hidden), loader)
    return clock.seconds


def hooks_row(batch: int, classes: int, hidden: int, sizes: Sizes) -> dict[str, object]:
    """Return what a whole step takes with and without the monitor, and its hooks alone."""
    without, with_monitor, hooks = [], [], []
    timer = min(cpu_seconds(lambda: None) for _ in range(1000))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(sizes.rounds):
            without.append(fit(folder, batch, classes, hidden, sizes.steps, []))
            with_monitor.append(fit(folder, batch, classes, hidden, sizes.steps, [TrainingDynamicsMonitor()]))
            timed = TimedMonitor()
            fit(folder, batch, classes, hidden, sizes.steps, [timed])
            hooks.append(timed.seconds - 3 * sizes.steps * timer)
    least = [1e6 * min(each) / sizes.steps for each in (without, with_monitor, hooks)]
    return {
        "batch": batch,
        "classes": classes,
        "us/step without": least[0],
        "with": least[1],
        "difference": least[1] - least[0],
        "median difference": 1e6 * float(np.median(np.subtract(with_monitor, without))) / sizes.steps,
        "us/sample": (least[1] - least[0]) / batch,
        "ratio": least[1] / least[0],
        "hooks alone": least[2],
    }


def filled(dynamics: TrainingDynamics, order: Tensor, labels: Tensor) -> None:
    """Give an epoch's presentations to the record, in large batches."""
    for index in torch.split(order, 2**15):
        dynamics.update(index, torch.randn(len(index), 10), labels[index])


def epoch_end_row(samples: int, *, repeats: bool, rounds: int) -> dict[str, object]:
    """Return milliseconds of the epoch's end, with each sample once or drawn with replacement."""
    dynamics, labels = TrainingDynamics(samples), torch.randint(10, (samples,))
    times = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = RecordFolder(Path(name))
        for epoch in range(rounds):
            order = torch.randint(samples, (samples,)) if repeats else torch.randperm(samples)
            filled(dynamics, order, labels)
            start = time.process_time()
            record = dynamics.end_epoch(epoch)
            ended = time.process_time()
            statistics = dynamics.compute()
            computed = time.process_time()
            folder.write_history(epoch, record)
            folder.write(statistics, np.arange(samples), RecordMeta(samples, [epoch]))
            times["end_epoch"].append(ended - start)
            times["compute"].append(computed - ended)
            times["files"].append(time.process_time() - computed)
    least = {name: 1e3 * min(each) for name, each in times.items()}
    return {
        "samples": samples,
        "order": "with replacement" if repeats else "permutation",
        "end_epoch": least["end_epoch"],
        "compute": least["compute"],
        "statistics": least["end_epoch"] + least["compute"],
        "files": least["files"],
    }


def bytes_row(samples: int) -> dict[str, object]:
    """Return bytes for each sample."""
    dynamics, labels = TrainingDynamics(samples), torch.randint(10, (samples,))
    filled(dynamics, torch.randperm(samples), labels)
    pending = dynamics.state_dict()["pending"]
    dynamics.end_epoch(0)
    state, file = dynamics.state_dict(), io.BytesIO()
    torch.save(state, file)
    return {
        "samples": samples,
        "record": sum(values.nbytes for values in state["state"].values()) / samples,
        "checkpoint": len(file.getvalue()) / samples,
        "epoch under way": (pending["index"].nbytes + pending["rows"].nbytes) / samples,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--rounds", type=int, help="how often each candidate has its turn")
    parser.add_argument("--samples", type=int, nargs="+", help="numbers of samples for the epoch's end")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else Sizes()
    sizes = sizes._replace(rounds=args.rounds or sizes.rounds, samples=args.samples or sizes.samples)
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    pairs = [(batch, classes) for batch in sizes.batches for classes in sizes.classes]
    print_table(
        "Statistics: CPU microseconds for each sample",
        [statistics_row(batch, classes, sizes.rounds) for batch, classes in pairs],
    )
    print_table(
        "All hooks, identity and capture: CPU microseconds for each step of a model as small as can be",
        [hooks_row(batch, classes, 1, sizes) for batch, classes in pairs],
    )
    print_table(
        "The same with a model of some work",
        [hooks_row(sizes.batches[0], sizes.classes[0], 20 if args.quick else 20_000, sizes)],
    )
    print_table(
        "The epoch's end: CPU milliseconds",
        [
            epoch_end_row(samples, repeats=repeats, rounds=max(2, min(sizes.rounds, 10**7 // samples)))
            for samples in sizes.samples
            for repeats in (False, True)
        ],
    )
    print_table("Bytes for each sample", [bytes_row(samples) for samples in sizes.samples])


if __name__ == "__main__":
    main()
