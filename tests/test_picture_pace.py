"""A long training draws fewer pictures, a short one has little time for them, and both draw the last ones."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers.logger import DummyLogger
from torch import nn

from dynalens import ConceptMonitor, LayerMonitor, TrainingDynamicsMonitor
from dynalens.dynamics import TrainingDynamics
from dynalens.logs import ConceptLog, LayerLog, LayerPictures, LayerSettings
from dynalens.logs.dynamics_pictures import DynamicsPictures
from dynalens.schedule import Schedule
from training import Classifier, fit, images, labels, loader


class Sink:
    """Notes which tags were written at which step."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = {}

    def _note(self, tag: str, content: Any, step: int) -> None:
        self.steps.setdefault(tag.split("/epochs")[0], []).append(step)

    image = chart = text = histogram = _note


def test_charts_are_drawn_in_the_first_ten_epochs_then_less_often_and_in_the_last() -> None:
    dynamics, sink = TrainingDynamics(2), Sink()
    pictures = DynamicsPictures(sink, "dynalens", top_k=1, class_names=None, normalisation=None)
    for epoch in range(14):
        dynamics.update([0, 1], torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
        record = dynamics.end_epoch(epoch)
        pictures.end_epoch(epoch, dynamics.compute(), record)
        pictures.write(dynamics.compute(), epoch, 100 * epoch)
    pictures.finish()
    pictures.finish()
    drawn = [*range(0, 1000, 100), 1000, 1200, 1300]
    assert sink.steps["dynalens/charts/data_map"] == drawn
    assert sink.steps["dynalens/suspects/table"] == drawn
    np.testing.assert_array_equal(sink.steps["dynalens/dynamics/margin"], np.arange(0, 1400, 100))


def test_pictures_of_layers_are_drawn_less_often_too_and_the_last_as_they_were_in_their_epoch() -> None:
    written: list[tuple[int, np.ndarray[Any, Any]]] = []

    class Images(Sink):
        def chart(self, tag: str, content: Any, step: int) -> None:
            written.append((step, np.asarray(content)))

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    log = LayerLog(LayerSettings(None, (0,), True, 0, 0, None, (0,), 1))
    drawn: list[list[Any]] = []
    for changes_after in (True, False):
        pictures, written[:] = LayerPictures(Images(), "dynalens"), []
        for epoch in range(12):
            nn.init.constant_(model[0].weight, float(epoch))  # type: ignore[arg-type]  # a parameter
            model[0].weight.data[0, 0, 0, 0] = -1.0  # type: ignore[operator]  # a tensor
            log.draw(pictures, model, lambda model, _: model, epoch=epoch, step=epoch)
        if changes_after:
            nn.init.zeros_(model[0].weight)  # type: ignore[arg-type]  # a parameter
        pictures.finish()
        drawn.append(written.copy())
    assert [step for step, _ in drawn[0]] == [*range(11), 11]
    np.testing.assert_array_equal(drawn[0][-1][1], drawn[1][-1][1])


class Fitted:
    """A fit whose charts take a quarter of a second, with a clock of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Any], **arguments: Any):
        self.now = 0.0
        self.folder, self.drawn, self.said, self.logged = folder, list[int](), list[str](), list[dict[str, float]]()
        pictures = "dynalens.logs.dynamics_pictures"
        monkeypatch.setattr("dynalens.schedule.time.perf_counter", lambda: self.now)
        monkeypatch.setattr(f"{pictures}.announce", self.said.append)
        monkeypatch.setattr(f"{pictures}.CHARTS", {"one": self.draw, "two": self.draw})
        self.monitor = TrainingDynamicsMonitor(**arguments)
        train(self)

    def draw(self, statistics: Any, subtitle: str) -> Image.Image:
        self.now += 0.25
        self.drawn.append(int(subtitle.split()[1]))
        return Image.new("RGB", (1, 1))

    @property
    def epochs(self) -> list[int]:
        return sorted(set(self.drawn))


def slow_fit(fitted: Fitted, *, epochs: int = 7, stop: int | None = None, fits: int = 1) -> None:
    """Six steps of half a second and three of validation in each epoch, beside callbacks that take much longer."""

    class Slow(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            fitted.now += 0.5
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            fitted.now += 0.5
            self.trainer.should_stop = self.current_epoch == stop

    class Other(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            fitted.now += 1000

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            fitted.now += 1000

    class Notes(DummyLogger):
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            fitted.logged.append({name: value for name, value in metrics.items() if name.startswith("dynalens/")})

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    for _ in range(fits):
        torch.manual_seed(0)
        fit(
            fitted.folder, Other(), fitted.monitor, model=Slow(), val=lambda: loader(shuffle=False), logger=Notes(),
            max_epochs=epochs, num_sanity_val_steps=0,
        )  # fmt: skip


def test_charts_take_a_twentieth_of_the_training_time_and_no_number_depends_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Fitted(tmp_path / "short", monkeypatch, slow_fit)
    # An epoch is six seconds: 42 allow two, which are four times the charts.
    assert short.epochs == [0, 2, 4, 6]
    assert len(short.said) == 1
    assert re.search(
        r"pictures took 8\.3 % .* `max_overhead=0\.05`\. The next ones are of epoch 2, and .* last", short.said[0]
    )
    whole = Fitted(tmp_path / "whole", monkeypatch, slow_fit, max_overhead=None)
    assert (whole.epochs, whole.said) == (list(range(7)), [])
    assert short.logged == whole.logged
    assert len([values for values in short.logged if values]) == 7
    assert short.monitor.table().equals(whole.monitor.table())


def test_charts_of_the_last_epoch_are_drawn_where_training_stops_sooner_and_in_a_second_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Fitted(tmp_path / "a", monkeypatch, lambda fitted: slow_fit(fitted, stop=3))
    assert stopped.epochs == [0, 2, 3]
    twice = Fitted(tmp_path / "b", monkeypatch, lambda fitted: slow_fit(fitted, epochs=3, fits=2), max_overhead=0.001)
    assert twice.epochs == [0, 2, 3, 5]


def test_the_training_time_of_an_epoch_that_a_checkpoint_cut_begins_with_the_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("dynalens.schedule.time.perf_counter", lambda: now[0])
    schedule = Schedule(1, 0.05)  # Lightning tells nothing of the beginning of an epoch that goes on
    now[0] += 6
    schedule.end_step()
    now[0] += 50  # other callbacks
    schedule.end_epoch()
    assert schedule.overhead(0.3) == pytest.approx(0.05)


class Paced(Fitted):
    """A fit whose layer is looked at for half a second."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, **options: Any) -> None:
        self.now, self.folder, self.monitor = 0.0, folder, paced_monitor(kind, **options)
        self.drawn, self.said, self.logged = list[int](), list[str](), list[dict[str, float]]()
        monkeypatch.setattr("dynalens.schedule.time.perf_counter", lambda: self.now)
        monkeypatch.setattr("dynalens.callbacks.paced.announce", self.said.append)
        monkeypatch.setattr(LayerLog, "draw", lambda *_, epoch, **__: self.look(epoch))
        monkeypatch.setattr(ConceptLog, "sheet", lambda _, __, ___, epoch: self.look(epoch))

    def look(self, epoch: int) -> None:
        self.now += 0.5
        self.drawn.append(epoch)


def paced_monitor(kind: str, **options: Any) -> Any:
    if kind == "layers":
        return LayerMonitor(weights=True, on_error="raise", **options)
    masks = {"all": torch.ones(4, 6, 6)}
    return ConceptMonitor(layer="net.1", samples=(images(4), labels(4)), masks=masks, on_error="raise", **options)


@pytest.mark.parametrize("kind", ["layers", "concepts"])
def test_layers_and_concepts_take_a_twentieth_of_the_training_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    short = Paced(tmp_path / "a", monkeypatch, kind)
    slow_fit(short)
    assert short.epochs == [0, 2, 4, 6]  # 2.1 of 42 seconds are four times half a second
    words = {"layers": "pictures of layers", "concepts": "concepts"}[kind]
    assert [said.split(" took ")[0] for said in short.said] == [f"dynalens: {words}"]
    whole = Paced(tmp_path / "b", monkeypatch, kind, max_overhead=None, every_n_epochs=2)
    slow_fit(whole)
    assert (whole.epochs, whole.said) == ([0, 2, 4, 6], [])
    stopped = Paced(tmp_path / "c", monkeypatch, kind, max_overhead=0.001)
    slow_fit(stopped, stop=3)
    assert stopped.epochs == [0, 3]
    with pytest.raises(ValueError, match=r"`max_overhead` to be above 0 or None, got -1"):
        paced_monitor(kind, max_overhead=-1)


@pytest.mark.parametrize("kind", ["layers", "concepts"])
def test_a_resumed_training_keeps_to_the_time_of_layers_and_concepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    first = Paced(tmp_path, monkeypatch, kind, max_overhead=0.001)
    slow_fit(first, epochs=9, stop=1)
    resumed = paced_monitor(kind, max_overhead=0.001)
    resumed.load_state_dict(first.monitor.state_dict())
    assert first.epochs == [0, 1]
    assert resumed.state_dict()["newest_epoch"] == 1
    assert resumed.state_dict()["next_epoch"] > 1
