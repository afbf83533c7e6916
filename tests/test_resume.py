"""What a checkpoint keeps is continued, and what it loses is said."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from dynalens import SampleIdentityError, TrainingDynamics, TrainingDynamicsMonitor, load_record
from test_dynamics import assert_same
from training import Classifier, K, N, dataset, fit, images, in_order, loader

STEPS = 6
"""Of an epoch."""
pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


def checkpointed(tmp_path: Path, monitor: Any, saver: dict[str, Any] | None = None, **options: Any) -> Any:
    """Fit two epochs and save ``<steps done>.ckpt``."""
    saving = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, filename="{step}", **(saver or {}))
    saving.CHECKPOINT_EQUALS_CHAR = ""
    return fit(tmp_path / "first", monitor, saving, enable_checkpointing=True, max_epochs=2, **options)


def by_the_models(*parts: list[tuple[int, list[int], Tensor, Tensor]]) -> TrainingDynamics:
    """The record of what several runs saw, one after the other; an epoch may begin in one and end in the next."""
    seen = [entry for part in parts for entry in part]
    expected = TrainingDynamics(N)
    for epoch in sorted({entry[0] for entry in seen}):
        for _, index, logits, y in [entry for entry in seen if entry[0] == epoch]:
            expected.update(index, logits, y)
        expected.end_epoch(epoch)
    return expected


# How checkpoints are saved, options of the Trainer, and after how many steps.
SAVED: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    "at an epoch's end": ({}, {}, [6, 12]),
    "after some steps": ({"every_n_train_steps": 4}, {}, [4, 8, 12]),
    "after the last step of an epoch": ({"every_n_train_steps": 6}, {}, [6, 12]),
    "in a validation amid the epoch": ({}, {"val": in_order, "val_check_interval": 3}, [3, 6, 9, 12]),
    "in the epoch's validation": ({"save_on_train_epoch_end": False}, {"val": in_order}, [6, 12]),
    "every other epoch": ({}, {"val": in_order, "check_val_every_n_epoch": 2}, [12]),
}


@pytest.mark.parametrize(("saver", "options", "steps"), SAVED.values(), ids=SAVED.keys())
def test_a_resumed_fit_has_every_presentation_in_its_epoch(
    tmp_path: Path, saver: dict[str, Any], options: dict[str, Any], steps: list[int]
) -> None:
    first = checkpointed(tmp_path, TrainingDynamicsMonitor(), saver, **options)
    assert {int(path.stem.removeprefix("step")) for path in (tmp_path / "checkpoints").iterdir()} == set(steps)
    for step in steps:
        resumed, second, folder = TrainingDynamicsMonitor(), Classifier(), tmp_path / f"after {step}"
        path = str(tmp_path / "checkpoints" / f"step{step}.ckpt")
        fit(folder, resumed, model=second, ckpt_path=path, max_epochs=2, **options)
        assert_same(resumed.statistics(), by_the_models(first.seen[:step], second.seen).compute())
        record = load_record(folder)
        assert_same(record.statistics, resumed.statistics())
        assert record.table().equals(resumed.table())
        assert record.table().attrs == resumed.table().attrs
        assert resumed.table().attrs | {"doubts": []} == {"epochs": [0, 1], "incomplete_epochs": [], "doubts": []}
        assert [epoch for epoch, _ in record.history()] == [0, 1]


def test_a_checkpoint_loads_with_weights_only(tmp_path: Path) -> None:
    checkpointed(tmp_path, TrainingDynamicsMonitor())
    state = torch.load(tmp_path / "checkpoints" / "step6.ckpt", weights_only=True)["callbacks"]
    assert any("TrainingDynamicsMonitor" in key for key in state)


class Keeps(pl.Callback):
    """Holds the state of a monitor as it is while training goes on, as an asynchronous writer does."""

    def __init__(self, monitor: TrainingDynamicsMonitor) -> None:
        self.monitor, self.held, self.copied = monitor, {}, {}  # type: ignore[var-annotated]  # filled below

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == STEPS + 2:
            self.held = tensors(self.monitor.state_dict())
            self.copied = {name: value.clone() for name, value in self.held.items()}


def tensors(state: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found = {prefix + name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in state.items():
        found |= tensors(value, f"{prefix}{name}.") if isinstance(value, dict) else {}
    return found


def test_a_state_that_is_held_does_not_change_while_training_goes_on(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    keeps = Keeps(monitor)
    fit(tmp_path, monitor, keeps)
    assert keeps.held["dynamics.pending.index"].tolist() != []
    assert all(torch.equal(value, keeps.copied[name]) for name, value in keeps.held.items())
    assert not torch.equal(
        keeps.held["dynamics.state.presentations"], tensors(monitor.state_dict())["dynamics.state.presentations"]
    )


# A Trainer with this callback looks for such a file before it starts.
@pytest.mark.filterwarnings("ignore:.*was called without a model", "ignore:.*no last checkpoint available")
def test_an_epoch_that_an_exception_cut_off_is_named_after_the_resume(tmp_path: Path) -> None:
    class Stops(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == STEPS + 2:
                raise RuntimeError("stop here")
            return super().training_step(batch, batch_idx)

    first = Stops()
    saver = OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="stop here"):
        fit(tmp_path, TrainingDynamicsMonitor(), saver, model=first, enable_checkpointing=True)
    resumed, second = TrainingDynamicsMonitor(), Classifier()
    fit(tmp_path / "resumed", resumed, model=second, ckpt_path=str(tmp_path / "on_exception.ckpt"))
    assert_same(resumed.statistics(), by_the_models(first.seen[:STEPS], second.seen).compute())
    assert resumed.table().attrs | {"doubts": []} == {"epochs": [0, 1, 2], "incomplete_epochs": [1], "doubts": []}
    assert load_record(tmp_path / "resumed").meta.incomplete_epochs == [1]
    assert load_record(tmp_path / "resumed").table().attrs["incomplete_epochs"] == [1]


def test_a_checkpoint_of_another_dataset_is_refused(tmp_path: Path) -> None:
    checkpointed(tmp_path, TrainingDynamicsMonitor())
    path = tmp_path / "checkpoints" / "step6.ckpt"
    with pytest.raises(SampleIdentityError, match=f"{N} samples, got one of 30. Resume with the dataset"):
        fit(tmp_path, TrainingDynamicsMonitor(), ckpt_path=str(path), data=lambda: loader(dataset(30)))


TWINS = TensorDataset(images(), torch.arange(N) // 2 % K)
EVEN, ODD = (Subset(TWINS, range(start, N, 2)) for start in (0, 1))
NAMES = [f"{i:02}.png" for i in range(N)]


class Files(TensorDataset):
    """As an image folder, which shows the paths of its samples."""

    def __init__(self, root: str, names: list[str]) -> None:
        super().__init__(*TWINS.tensors)
        self.samples = [(f"{root}/{name}", 0) for name in names]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (EVEN, EVEN, None),
        (Files("old", NAMES), Files("new", NAMES), None),
        (Files("old", NAMES), TWINS, None),
        (
            EVEN,
            ODD,
            r"got 11 other samples, of which the first is sample 1 of the whole dataset",
        ),
        (Files("old", NAMES), Files("old", NAMES[::-1]), r"files of .* 22 samples, got .* 'old/21\.png' is the first"),
    ],
    ids=["the same subset", "another folder", "files that are not known", "another subset", "other files"],
)
def test_a_checkpoint_goes_on_in_another_process_with_the_same_samples_alone(
    tmp_path: Path, first: Any, second: Any, message: str | None
) -> None:
    saver = ModelCheckpoint(tmp_path, filename="first")
    fit(tmp_path, TrainingDynamicsMonitor(), saver, data=lambda: loader(first), max_epochs=1, enable_checkpointing=True)
    monitor = TrainingDynamicsMonitor()
    with pytest.raises(SampleIdentityError, match=message) if message else nullcontext():
        fit(tmp_path, monitor, data=lambda: loader(second), ckpt_path=str(tmp_path / "first.ckpt"), max_epochs=2)
    if message is None:
        assert monitor.statistics().presentations.tolist() == [2] * len(second)


def test_a_history_that_is_gone_is_said_and_not_half_counted(tmp_path: Path) -> None:
    checkpointed(tmp_path, TrainingDynamicsMonitor())
    shutil.rmtree(tmp_path / "first")
    resumed = TrainingDynamicsMonitor()
    with pytest.warns(UserWarning, match=r"history of the epochs before this fit .* got none of epochs \[0\]"):
        fit(tmp_path, resumed, ckpt_path=str(tmp_path / "checkpoints" / "step6.ckpt"))
    sketch = resumed.statistics().candidate
    for table in (resumed.table(), load_record(tmp_path).table()):
        np.testing.assert_array_equal(table["suggested"].fillna(-1), sketch)
