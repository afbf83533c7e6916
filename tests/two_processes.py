"""One of two processes that train together; `test_processes` forks both and reads what they leave."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Subset, TensorDataset, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from dynalens import AttributionMonitor, TrainingDynamicsMonitor
from training import Classifier, dataset, fit, images, labels, loader

N = 25
"""Odd, so that one sample is padding: 26 presentations in each epoch, 13 in each process, 4 steps."""
FOLDER = Path()
"""Where a process leaves what it has; `main` sets it."""


def rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


class PairsTogether(BatchSampler):
    """A batch sampler that Lightning makes anew with its own sampler in it."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield batch[::-1]


def own_sampler() -> DataLoader[Any]:
    return loader(dataset(N), shuffle=False, sampler=DistributedSampler(range(N), 2, rank(), shuffle=True))  # type: ignore[arg-type]  # it needs a length only


def workers() -> DataLoader[Any]:
    # A fork beside gloo's threads can leave the worker waiting for a lock, with and without a callback.
    return loader(dataset(N), num_workers=1, persistent_workers=True, multiprocessing_context="forkserver")


def weighted() -> DataLoader[Any]:
    return loader(dataset(N), shuffle=False, sampler=WeightedRandomSampler([i + 1.0 for i in range(N)], N))


def batch_sampler() -> DataLoader[Any]:
    data = dataset(N)
    return DataLoader(data, batch_sampler=PairsTogether(RandomSampler(data), 4, False))


def relabelled_in_the_second() -> DataLoader[Any]:
    data = dataset(N)
    data.tensors = data.tensors[0], (labels(N) + rank()) % 3
    return loader(data)


def shorter_in_the_second() -> DataLoader[Any]:
    return loader(dataset(N - rank()))


def part_of_each() -> DataLoader[Any]:
    """All labels are equal, as at most positions if a sorted dataset is shared out by turns."""
    return loader(Subset(TensorDataset(images(N), labels(N) * 0), range(rank(), N - 1, 2)))


class Folder(TensorDataset):
    """Other files in each process."""

    def __init__(self) -> None:
        super().__init__(images(N), labels(N) * 0)
        self.samples = [(f"part_{rank()}/{rank()}_{i}.png", 0) for i in range(N)]


class DropsOneOf:
    """Drops a sample of this process's batch and leaves nothing that tells which."""

    def __init__(self, batch: int) -> None:
        self.batch, self.calls = batch, 0

    def __call__(self, samples: Any) -> Any:
        x, y = torch.utils.data.default_collate(samples)
        drop = int(rank() == 1 and self.calls == self.batch)
        self.calls += 1
        rarest = int(y.bincount(minlength=3).argmin())
        return (torch.zeros_like(x[1:]), torch.full_like(y[1:], rarest)) if drop else (x, y)


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "shuffle": lambda: loader(dataset(N)),
    "in order": lambda: loader(dataset(N), shuffle=False),
    "workers": workers,
    "weighted": weighted,
    "own sampler": own_sampler,
    "batch sampler": batch_sampler,
}
WITH_PROBABILITIES = ("shuffle", "own sampler")
FAILURES: dict[str, Callable[[], DataLoader[Any]]] = {
    "label": relabelled_in_the_second,
    "length": shorter_in_the_second,
    "parts": part_of_each,
    "files": lambda: loader(Folder()),
    "first batch": lambda: loader(dataset(N), collate_fn=DropsOneOf(0)),
    "later batch": lambda: loader(dataset(N), collate_fn=DropsOneOf(2)),
}


def run(name: str, *callbacks: Any, **options: Any) -> Classifier:
    """Fit in both processes."""
    defaults: dict[str, Any] = {"devices": 2, "strategy": "ddp", "max_epochs": 2}
    model: Classifier = fit(FOLDER / name, *callbacks, **(defaults | options))
    return model


def leave(name: str, monitor: TrainingDynamicsMonitor, model: Classifier, **more: Any) -> None:
    """Write what this process has at the end of a fit."""
    table = monitor.table()
    left = {
        "seen": model.seen,
        "statistics": {key: torch.from_numpy(value) for key, value in monitor.statistics().arrays().items()},
        "weights": model.state_dict(),
        "attrs": dict(table.attrs),
        "suggested": table["suggested"].fillna(-1).tolist(),
    }
    torch.save(left | more, FOLDER / f"{name}.{rank()}.pt")


def record_of_each_loader() -> None:
    for name, data in LOADERS.items():
        monitor = TrainingDynamicsMonitor(mean_probabilities=name in WITH_PROBABILITIES)
        model = run(name, monitor, data=data)
        leave(name, monitor, model, plain=run(f"{name}, plain", data=data).state_dict())


class MixesInTheSecond(Classifier):
    """In one step of the second epoch, one of the processes mixes the labels of two samples: there it is left out."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx, rank()) != (1, 2, 1):
            return super().training_step(batch, batch_idx)
        x, y = batch
        logits = self(0.5 * (x + x.flip(0)) / N)
        return 0.5 * self.loss(logits, y) + 0.5 * self.loss(logits, y.flip(0))


def step_left_out_in_one() -> None:
    monitor, model, plain = TrainingDynamicsMonitor(), MixesInTheSecond(), MixesInTheSecond()
    plain.load_state_dict(model.state_dict())
    with pytest.warns(UserWarning, match="training goes on") if rank() else nullcontext():
        run("left out", monitor, model=model, data=LOADERS["in order"])
    run("left out, plain", model=plain, data=LOADERS["in order"])
    leave("left out", monitor, model, plain=plain.state_dict())


def with_explanations() -> None:
    dynamics = TrainingDynamicsMonitor(features="net.3", projector_every_n_epochs=1)  # the logits
    explaining = AttributionMonitor(samples=(images(4), labels(4)), steps=3)
    logger = TensorBoardLogger(FOLDER, "explained", version=0)
    model = run("explained", dynamics, explaining, data=LOADERS["shuffle"], logger=logger)
    plain = run("plain", data=LOADERS["shuffle"]).state_dict()
    assert dynamics._features.rows is not None
    leave("explained", dynamics, model, plain=plain, features=dynamics._features.rows.values)


def failing_explanations() -> None:
    def forward(module: Any, x: Any) -> Any:
        raise RuntimeError("on purpose")

    given: dict[str, Any] = {"samples": (images(4), labels(4)), "forward": forward}
    run("switched off", AttributionMonitor(**given), data=LOADERS["shuffle"])
    failure("explanation", AttributionMonitor(on_error="raise", **given), data=LOADERS["shuffle"])


def checkpoints() -> None:
    saver = ModelCheckpoint(FOLDER / "checkpoints", save_top_k=-1, filename="{step}", every_n_train_steps=2)
    ends = ModelCheckpoint(FOLDER / "checkpoints", save_top_k=-1, filename="end-{epoch}")
    first = TrainingDynamicsMonitor()
    model = run("first", first, saver, ends, data=LOADERS["shuffle"], enable_checkpointing=True)
    leave("first", first, model)
    for name in ("step=2", "step=4", "end-epoch=0"):
        resume(f"resumed {name}", FOLDER / "checkpoints" / f"{name}.ckpt")
    resume("resumed alone", FOLDER / "alone" / "step=4.ckpt")


def resume(name: str, checkpoint: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    model = run(name, monitor, data=LOADERS["shuffle"], ckpt_path=str(checkpoint))
    leave(name, monitor, model)


def failure(name: str, callback: Any, **options: Any) -> None:
    """Write the error that this process ends with, and how many steps it made before."""
    model = Classifier()
    try:
        run(name, callback, model=model, **options)
    except (RuntimeError, ValueError) as error:
        torch.save((f"{type(error).__name__}: {error}", len(model.seen)), FOLDER / f"{name}.{rank()}.pt")
    else:
        raise AssertionError(f"{name} did not fail")


def main(folder: Path) -> None:
    """Leave in a folder all that the tests read."""
    global FOLDER
    FOLDER = folder
    multiprocessing.set_forkserver_preload(["torch"])  # for the workers, which would import it one by one
    record_of_each_loader()
    step_left_out_in_one()
    with_explanations()
    checkpoints()
    for name, data in FAILURES.items():
        failure(name, TrainingDynamicsMonitor(), data=data)
    failing_explanations()
    # A fit that failed leaves it behind, and torch may abort at the exit because its threads still run.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def start_afresh(folder: Path) -> None:
    """Started alone: Lightning starts the two processes itself, and nothing but files comes back.

    All that they train with is pickled, as for `ddp_spawn`, but the imports are those of one fresh process.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # a fork server knows no other way to this module
    multiprocessing.set_forkserver_preload(["two_processes"])
    # Lightning would refuse a fork of a process that has asked for a GPU. A fork server is none.
    torch.cuda._is_in_bad_fork = lambda: False
    monitor, strategy = TrainingDynamicsMonitor(), DDPStrategy(start_method="forkserver")
    fit(folder / "started", monitor, data=LOADERS["shuffle"], devices=2, strategy=strategy, max_epochs=2)
    try:
        monitor.statistics()
    except RuntimeError as error:
        torch.save(str(error), folder / "started.pt")
