"""Kills processes amid their training at random moments, and reads what each has left."""

import json
import os
import random
import signal
import time
import warnings
from collections import Counter
from pathlib import Path

import pytorch_lightning as pl

from dynalens import TrainingDynamicsMonitor, load_record
from training import N, fit

MOMENTS = 20
_LONGEST = 0.3
"""Seconds until a kill, in which some ten epochs are written. Most kills come early: a fit that begins takes away what
the run before has left."""


class Begins(pl.Callback):
    """Says when a fit begins: its process has only imported before, and written nothing."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        os.write(self.pipe, b"now")


def train(folder: Path, run: int, pipe: int) -> None:
    """Train until killed; names tell the samples of each run from those of others."""
    monitor = TrainingDynamicsMonitor(save_dir=folder, name_of=lambda i: f"{run}/{i}", class_names=[str(run)] * 3)
    fit(folder.parent, Begins(pipe), monitor, max_epochs=10_000)


def left_by(folder: Path, run: int) -> str:
    """Return whose record there is, after checking that all of it is of one moment."""
    if not (folder / "record.npz").exists():
        return "none"
    record = load_record(folder)
    epochs = record.meta.epochs
    assert epochs == list(range(len(epochs)))
    assert record.statistics.presentations.tolist() == [len(epochs)] * N
    assert set(record.meta.incomplete_epochs) <= {len(epochs)}
    assert record.meta.class_names is not None
    owner = int(record.meta.class_names[0])
    assert owner <= run
    if owner == run:  # a run that follows takes the history of the one before away first, then its names
        assert [epoch for epoch, _ in record.history()] == epochs
        assert record.names() == [f"{run}/{i}" for i in range(N)]
    assert len(record.suspects()) == N
    return "own" if owner == run else "earlier"


def main(folder: Path) -> None:
    """Kill trainings that write to one folder, and leave beside it whose record there was after how many kills."""
    draw, found = random.Random(1), Counter[str]()
    warnings.simplefilter("ignore")
    for run in range(MOMENTS):
        beginning, pipe = os.pipe()
        child = os.fork()
        if not child:
            try:
                train(folder / "record", run, pipe)
            finally:
                os._exit(1)
        os.close(pipe)
        assert os.read(beginning, 3) == b"now"  # nothing, where the child has ended
        os.close(beginning)
        time.sleep(_LONGEST * draw.random() ** 2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found[left_by(folder / "record", run)] += 1
    (folder / "found.json").write_text(json.dumps(found))
