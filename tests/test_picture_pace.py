"""A long training draws fewer pictures, and always those of its last epoch."""

from typing import Any

import numpy as np
import torch
from torch import nn

from dynalens.dynamics import TrainingDynamics
from dynalens.logs import LayerLog, LayerPictures, LayerSettings
from dynalens.logs.dynamics_pictures import DynamicsPictures


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
            log.draw(pictures, model, None, epoch=epoch, step=epoch)
        if changes_after:
            nn.init.zeros_(model[0].weight)  # type: ignore[arg-type]  # a parameter
        pictures.finish()
        drawn.append(written.copy())
    assert [step for step, _ in drawn[0]] == [*range(11), 11]
    np.testing.assert_array_equal(drawn[0][-1][1], drawn[1][-1][1])
