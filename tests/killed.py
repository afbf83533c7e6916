"""Kills processes amid their training at random moments, and reads what each has left."""

import json
import os
import random
import signal
import time
import warnings
from collections import Counter
from pathlib import Path

from dynalens import TrainingDynamicsMonitor, load_record
from training import N, fit

MOMENTS = 20
_LONGEST = 1.0
"""Seconds until a kill: a fit begins in about .3 of one, and writes an epoch some thirty times in each."""


def train(folder: Path, run: int) -> None:
    """Train until killed; names tell the samples of each run from those of others."""
    monitor = TrainingDynamicsMonitor(save_dir=folder, name_of=lambda i: f"{run}/{i}", class_names=[str(run)] * 3)
    fit(folder.parent, monitor, max_epochs=10_000)


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
        child = os.fork()
        if not child:
            train(folder / "record", run)
            os._exit(1)
        time.sleep(draw.uniform(0, _LONGEST))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found[left_by(folder / "record", run)] += 1
    (folder / "found.json").write_text(json.dumps(found))
