"""What steps cost in several versions of dynalens: each runs in a process of its own, and they take turns.

Prints tables of processor time on one thread. A version is a checkout, as of ``git worktree add first COMMIT``:

    python benchmarks/versions.py first=first now=.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dynalens import TrainingDynamics, TrainingDynamicsMonitor

FIRST_STEPS = 4
"""Steps of an epoch that may compare orders and labels."""


class Linear(pl.LightningModule):
    """A training step as small as it can be."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 1), nn.ReLU(), nn.Linear(1, classes))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TimedMonitor(TrainingDynamicsMonitor):
    """Keeps the processor time of its own hooks in each step, in nanoseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def on_train_batch_start(self, *args: Any) -> None:
        """Watch the step."""
        start = time.thread_time_ns()
        super().on_train_batch_start(*args)
        self.steps.append(time.thread_time_ns() - start)

    def on_before_backward(self, *args: Any) -> None:
        """The step's own loss is known."""
        start = time.thread_time_ns()
        super().on_before_backward(*args)
        self.steps[-1] += time.thread_time_ns() - start

    def on_train_batch_end(self, *args: Any) -> None:
        """Record the batch."""
        start = time.thread_time_ns()
        super().on_train_batch_end(*args)
        self.steps[-1] += time.thread_time_ns() - start


def hooks(batch: int, classes: int, steps: int, epochs: int = 1) -> list[int]:
    """Return nanoseconds of the hooks in each step of all epochs."""
    pl.seed_everything(0, verbose=False)
    data = TensorDataset(torch.randn(batch * steps, 16), torch.randint(classes, (batch * steps,)))
    loader = DataLoader(data, batch, shuffle=True)
    monitor = TimedMonitor()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, callbacks=[monitor],
        )  # fmt: skip
        trainer.fit(Linear(classes), loader)
    return monitor.steps


# As in tracking.py, which imports what earlier versions do not have.
def forgetting(stats: dict[int, list[list[Any]]], ids: Sequence[int], logits: Tensor, targets: Tensor) -> None:
    """InterpretDL's ForgettingEventsInterpreter: accuracy and prediction of each presentation, nothing else."""
    predicted = logits.argmax(1).numpy()
    right = predicted == targets.numpy()
    for j, i in enumerate(ids):
        entry = stats.setdefault(i, [[], []])
        entry[0].append(right[j])
        entry[1].append(predicted[j])


def statistics(batch: int, classes: int, steps: int) -> list[float]:
    """Return nanoseconds for each sample: the statistics, one cross-entropy with a copy, and InterpretDL's loop."""
    generator = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(batch, classes, generator=generator), list(range(batch))
    targets, stats = torch.randint(classes, (batch,), generator=generator), dict[int, list[list[Any]]]()

    def ours() -> None:
        dynamics = TrainingDynamics(batch)
        for _ in range(steps):
            dynamics.update(ids, logits, targets)
        dynamics.state_dict()  # so that none is left waiting

    def bound() -> None:
        for _ in range(steps):
            F.cross_entropy(logits, targets, reduction="none")
            logits.clone()

    def loop() -> None:
        for _ in range(steps):
            forgetting(stats, ids, logits, targets)

    return [_nanoseconds(job) / (batch * steps) for job in (ours, bound, loop)]


def _nanoseconds(job: Any) -> int:
    start = time.process_time_ns()
    job()
    return time.process_time_ns() - start


JOBS: dict[str, Callable[..., Any]] = {"hooks": hooks, "statistics": statistics}


def work() -> None:
    """Do what each line of the input asks for: a job, batch, classes and steps."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    hooks(16, 10, 5)
    print("ready", flush=True)
    for line in sys.stdin:
        job, *sizes = line.split()
        print(json.dumps(JOBS[job](*map(int, sizes))), flush=True)


class Worker:
    """A process of one version."""

    def __init__(self, source: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(source.resolve() / "src"), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while self._line() != "ready":
            pass

    def ask(self, *words: object) -> list[float]:
        """Return the numbers that it measures."""
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        numbers: list[float] = json.loads(self._line())
        return numbers

    def end(self) -> None:
        """Let it end."""
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A version ended: run its checkout's own tests.")
        return line.strip()


@contextmanager
def workers(versions: Mapping[str, Path]) -> Iterator[dict[str, Worker]]:
    """Yield a process for each version."""
    with ExitStack() as stack:
        started = {name: Worker(source) for name, source in versions.items()}
        for worker in started.values():
            stack.callback(worker.end)
        yield started


def in_turns(processes: Mapping[str, Worker], turns: int, *words: object) -> dict[str, np.ndarray[Any, Any]]:
    """Return what each version measures, one row for each turn; every second turn begins with the last version."""
    names, measured = list(processes), {name: list[list[float]]() for name in processes}
    for turn in range(turns):
        for name in names if turn % 2 else names[::-1]:
            measured[name].append(processes[name].ask(*words))
    return {name: np.array(rows) / 1e3 for name, rows in measured.items()}


def summaries(steps: np.ndarray[Any, Any], epochs: int) -> dict[str, float]:
    """Return microseconds of a step: from the least of each step over all fits, and from the median of all fits.

    ``steps`` has one row for each fit, with the steps of all epochs.
    """
    of_epochs = steps.reshape(len(steps), epochs, -1)
    least, later = of_epochs.min(axis=0), of_epochs[:, :, FIRST_STEPS:]
    return {
        "least, mean": float(least.mean()),
        "least, later": float(least[:, FIRST_STEPS:].mean()),
        "middle, mean": float(np.median(of_epochs.mean(axis=(1, 2)))),
        "middle, later": float(np.median(later.mean(axis=(1, 2)))),
    }


def show(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of a table of Markdown."""
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        print("| " + " | ".join(cells) + " |", flush=True)


def compare(
    versions: Mapping[str, Path], sizes: Sequence[tuple[int, int]], *, steps: int, epochs: int, turns: int
) -> None:
    """Measure and print; numbers in brackets are parts of the first version's."""
    with workers(versions) as processes:
        tables: dict[str, list[dict[str, object]]] = {"Hooks, microseconds a step": [], "Statistics": []}
        for batch, classes in sizes:
            size = {"batch x classes": f"{batch} x {classes}"}
            measured_steps = in_turns(processes, turns, "hooks", batch, classes, steps, epochs)
            of_hooks = {name: summaries(rows, epochs) for name, rows in measured_steps.items()}
            first = next(iter(of_hooks.values()))
            for name, summary in of_hooks.items():
                cells = {key: f"{value:.0f} ({value / first[key]:.2f})" for key, value in summary.items()}
                tables["Hooks, microseconds a step"].append({**size, "version": name, **cells})
            repeats = max(16, 2**21 // (batch * classes))  # several of the blocks that are computed together
            of_statistics = in_turns(processes, turns, "statistics", batch, classes, repeats)
            for name, measured in of_statistics.items():
                ours, bound, loop = measured.min(axis=0)
                row = {"microseconds a sample": ours, "bound": bound, "times it": ours / bound, "InterpretDL": loop}
                tables["Statistics"].append({**size, "version": name, **row})
    for title, rows in tables.items():
        print(f"\n{title}\n")
        show(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", help="NAME=FOLDER of a checkout; the first one is compared with")
    parser.add_argument("--turns", type=int, default=12, help="how often each version has its turn")
    parser.add_argument("--steps", type=int, default=150, help="steps of an epoch")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of a fit")
    parser.add_argument(
        "--sizes", nargs="+", default=["128x10", "512x10", "128x100", "512x100", "128x1000", "512x1000"]
    )
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.work:
        work()
        return
    versions = {name: Path(folder) for name, _, folder in (each.partition("=") for each in args.versions)}
    sizes = [(int(batch), int(classes)) for batch, _, classes in (size.partition("x") for size in args.sizes)]
    versions = versions or {"now": Path(__file__).parent.parent}
    compare(versions, sizes, steps=args.steps, epochs=args.epochs, turns=args.turns)


if __name__ == "__main__":
    main()
