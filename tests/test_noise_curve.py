"""The estimated noise rate as a curve: that of the record, from a bounded part of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynalens import SampleStatistics, TrainingDynamicsMonitor
from dynalens.dynamics import TrainingDynamics
from dynalens.logs.noise_curve import NoiseCurve
from dynalens.suspicion import assess
from training import fit

pytestmark = pytest.mark.usefixtures("undrawn")


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
        part.note(epoch, statistics)
    rate = part.rate(statistics, 4)
    assert rate is not None
    assert rate.value != assess(statistics, history).noise_rate.value
    assert rate.value == pytest.approx(0.2, abs=0.05)
    chosen = part._rows(4000)
    assert len(np.unique(chosen)) == 1000
    place = {row: k for k, row in enumerate(chosen)}
    of_part = [  # those of the chosen samples, one by one
        {name: values[[i in place for i in epoch["index"]]] for name, values in epoch.items()} for epoch in history
    ]
    renumbered = [epoch | {"index": np.array([place[i] for i in epoch["index"]])} for epoch in of_part]
    assert rate == assess(statistics.part(chosen), renumbered).noise_rate


def test_no_epoch_is_read_again() -> None:
    statistics, history = noisy(300, epochs=9)
    curve, expected = NoiseCurve(), assess(statistics, history).noise_rate
    for number, epoch in enumerate(history):
        curve.note(epoch, statistics)
        assert curve.rate(statistics, number + 1) is not None
        epoch.clear()
    assert curve.rate(statistics, 9) == expected


def test_epochs_before_a_third_class_came_do_not_count() -> None:
    statistics, history = noisy(300, epochs=3)
    two = np.flatnonzero(statistics.label < 2)
    first = {name: values[np.isin(history[0]["index"], two)] for name, values in history[0].items()}
    known = statistics.arrays() | {"label": np.where(statistics.label < 2, statistics.label, -1)}
    curve = NoiseCurve()
    curve.note(first, SampleStatistics(**known))
    for epoch in history[1:]:
        curve.note(epoch, statistics)
    rate = curve.rate(statistics, 3)
    assert rate is not None
    assert rate.value == pytest.approx(0.2, abs=0.05)


def test_later_ids_leave_kept_counts_as_they_are() -> None:
    few, early = noisy(30, epochs=1)
    statistics, late = noisy(60, epochs=1)
    curve = NoiseCurve(most_samples=40)
    curve.note(early[0], few)
    curve.note(late[0], statistics)
    of_first = {name: values[late[0]["index"] < 40] for name, values in late[0].items()}
    first = np.arange(40)
    assert curve.rate(statistics, 2) == assess(statistics.part(first), [early[0], of_first]).noise_rate


def test_a_lost_epoch_leaves_the_record_alone() -> None:
    statistics, history = noisy(200)
    curve = NoiseCurve()
    curve.note(history[0], statistics)
    curve.note(None, statistics)
    curve.note(history[2], statistics)
    assert curve.rate(statistics, 4) == assess(statistics).noise_rate


def test_the_estimate_of_many_classes_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics, history = noisy(100)
    curve = NoiseCurve()
    for epoch in history:
        curve.note(epoch, statistics)
    assert all(curve.rate(statistics, epochs) is not None for epochs in range(1, 9))
    monkeypatch.setattr("dynalens.logs.noise_curve.EVERY_EPOCH", 299)  # 100 samples of 3 classes
    made = [epochs for epochs in range(1, 20) if curve.rate(statistics, epochs) is not None]
    assert made == [1, 2, 4, 8, 16]
