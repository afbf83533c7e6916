"""A full disk ends no explanations and no pictures: it is said once, tried again, and named at the end."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger

from dynalens import LayerMonitor, TrainingDynamicsMonitor, load_explanations
from dynalens.record import Writes
from training import attribution_monitor, fit, loader

pytestmark = pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")


def full(*args: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class FullDisk(pl.Callback):
    """Lets each file fail in the first epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.replace = monkeypatch, os.replace

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.monkeypatch.setattr(os, "replace", self.replace if trainer.current_epoch else full)


def test_explanations_go_on_when_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fit(tmp_path / "plain", val=lambda: loader(shuffle=False), max_epochs=3)
    monitor = attribution_monitor(methods="saliency", metrics=(), num_samples=2)
    with pytest.warns(UserWarning, match="No space left on device") as said:
        model = fit(tmp_path / "full", FullDisk(monkeypatch), monitor, val=lambda: loader(shuffle=False), max_epochs=3)
    messages = [str(each.message) for each in said if "No space left" in str(each.message)]
    assert len(messages) == 2  # once meanwhile, once at the end
    assert "explanations to" in messages[0]
    assert "Training goes on, and writing is tried again" in messages[0]
    assert "Missing or old: epoch_000000.npz." in messages[1]
    assert [epoch.epoch for epoch in load_explanations(tmp_path / "full")] == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_pictures_of_layers_go_on_when_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = LayerMonitor(weights=True, max_overhead=None)
    with pytest.warns(UserWarning, match="pictures of layers to .*No space left.*writing is tried again") as said:
        fit(tmp_path, FullDisk(monkeypatch), monitor, val=lambda: loader(shuffle=False), max_epochs=3)
    assert len([each for each in said if "No space left" in str(each.message)]) == 1
    assert list(tmp_path.glob("**/pictures/**/*.png")) or list(tmp_path.glob("**/pictures/**/*.jpg"))


def test_a_full_disk_raises_where_errors_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = attribution_monitor(methods="saliency", metrics=(), num_samples=2, on_error="raise")
    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, FullDisk(monkeypatch), monitor, val=lambda: loader(shuffle=False), max_epochs=1)


class Away(DummyLogger):
    """A server that is away in the first epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[str] = []

    def log_hyperparams(self, *args: Any, **options: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        if not any(name.startswith("dynalens/") for name in metrics):
            return
        if step < 6:
            raise ConnectionError("server is away")
        self.taken += metrics


def test_numbers_that_a_logger_does_not_take_end_no_fit_and_are_tried_again(tmp_path: Path) -> None:
    plain, away = fit(tmp_path / "plain", val=lambda: loader(shuffle=False), max_epochs=2), Away()
    monitors = TrainingDynamicsMonitor(), attribution_monitor(methods="saliency", num_samples=2, on_error="raise")
    with pytest.warns(UserWarning, match="log numbers to Away, got ConnectionError: server is away") as said:
        model = fit(tmp_path / "away", *monitors, val=lambda: loader(shuffle=False), max_epochs=2, logger=away)
    assert len([each for each in said if "server is away" in str(each.message)]) == 1
    assert {"dynamics", "faithfulness"} <= {name.split("/")[1] for name in away.taken}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_file_that_is_written_later_is_not_missing() -> None:
    writes = Writes("maps to a folder", "Training goes on.")
    with pytest.warns(UserWarning, match="Expected to write maps to a folder, got OSError: .*No space.* Training goes"):
        writes.attempt("a", full)
    writes.attempt("b", full)  # said once
    writes.attempt("a", lambda: None)
    with pytest.warns(UserWarning, match="Missing or old: b. Make room."):
        writes.say_missing("Make room.")


def test_memory_that_is_short_while_a_file_is_written_is_said_as_a_full_disk_is() -> None:
    def short() -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    writes = Writes("maps to a folder", "Training goes on.")
    with pytest.warns(UserWarning, match="Expected to write maps to a folder, got MemoryError: Unable.* Training goes"):
        writes.attempt("a", short)
    assert list(writes.errors) == ["a"]
