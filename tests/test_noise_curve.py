"""The estimated noise rate as a curve: that of the record, from a bounded part of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynalens import TrainingDynamicsMonitor
from dynalens.dynamics import TrainingDynamics
from dynalens.logs.noise_curve import NoiseCurve
from dynalens.suspicion import assess
from training import fit


class Rates(TrainingDynamicsMonitor):
    """Asks for its own estimate at each epoch's end."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.rates: list[float] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.rates.append(self.noise_rate().value)


def curve(folder: Path) -> list[float]:
    found = EventAccumulator(str(folder / "run" / "version_0"))
    found.Reload()
    return [event.value for event in found.Scalars("dynalens/dynamics/noise_rate")]


@pytest.mark.parametrize("history", [True, False])
def test_the_curve_is_the_estimate_of_the_record(tmp_path: Path, history: bool) -> None:
    monitor = Rates(history=history)
    fit(tmp_path, monitor, logger=TensorBoardLogger(tmp_path, name="run"), max_epochs=5)
    assert len(monitor.rates) == 5
    assert curve(tmp_path) == pytest.approx(monitor.rates)


def test_a_resumed_run_goes_on_with_the_estimate_of_the_whole_record(tmp_path: Path) -> None:
    first = TrainingDynamicsMonitor()
    fit(tmp_path / "a", first, max_epochs=3)
    second = Rates()
    second.load_state_dict(first.state_dict())
    fit(tmp_path / "b", second, logger=TensorBoardLogger(tmp_path / "b", name="run"), max_epochs=2)
    assert curve(tmp_path / "b") == pytest.approx(second.rates)


def noisy(n: int, classes: int = 3, epochs: int = 4) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """Statistics and history of n samples, a fifth of them labelled wrongly."""
    rng = np.random.default_rng(0)
    true = np.arange(n) % classes
    given = np.where(np.arange(n) % 5 == 0, (true + 1) % classes, true)
    dynamics, history = TrainingDynamics(n), []
    for epoch in range(epochs):
        z = rng.normal(size=(n, classes))
        z[np.arange(n), true] += 4
        dynamics.update(range(n), torch.from_numpy(z), torch.from_numpy(given))
        record = dynamics.end_epoch(epoch)
        history.append(record.presentations())
    return dynamics.compute(), history


def test_a_part_of_the_samples_stands_for_all_samples() -> None:
    statistics, history = noisy(4000)
    part = NoiseCurve(most_samples=1000)
    for epoch in history:
        part.note(epoch, 4000)
    rate = part.rate(statistics, 4)
    assert rate is not None
    assert rate.value != assess(statistics, history).noise_rate.value
    assert rate.value == pytest.approx(0.2, abs=0.05)
    assert part._history is not None
    assert {len(epoch["index"]) for epoch in part._history} == {1000}  # what it keeps does not grow with the dataset
    chosen = part._rows(4000)
    assert len(np.unique(chosen)) == 1000
    np.testing.assert_array_equal(part._history[-1]["margin"], history[-1]["margin"][chosen])


def test_ids_that_come_later_leave_what_is_kept_as_it_is() -> None:
    _, early = noisy(30, epochs=1)
    statistics, late = noisy(60, epochs=1)
    curve = NoiseCurve(most_samples=40)
    curve.note(early[0], 30)
    curve.note(late[0], 60)
    assert curve._rows(60).tolist() == list(range(40))
    assert curve._history is not None
    assert [len(epoch["index"]) for epoch in curve._history] == [30, 40]
    assert curve.rate(statistics, 2) is not None


def test_a_lost_epoch_leaves_the_record_alone() -> None:
    statistics, history = noisy(200)
    curve = NoiseCurve()
    curve.note(history[0], 200)
    curve.note(None, 200)
    curve.note(history[2], 200)
    assert curve._history is None  # of a half, nothing is kept
    assert curve.rate(statistics, 4) == assess(statistics).noise_rate


def test_with_many_classes_the_estimate_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics, history = noisy(100)
    curve = NoiseCurve()
    for epoch in history:
        curve.note(epoch, 100)
    assert all(curve.rate(statistics, epochs) is not None for epochs in range(1, 9))
    monkeypatch.setattr("dynalens.logs.noise_curve.EVERY_EPOCH", 299)  # 100 samples of 3 classes
    made = [epochs for epochs in range(1, 20) if curve.rate(statistics, epochs) is not None]
    assert made == [1, 2, 4, 8, 16]
