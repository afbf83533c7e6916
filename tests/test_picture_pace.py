"""A long training draws fewer pictures, and always those of its last epoch."""

from typing import Any

import numpy as np
import torch

from dynalens.dynamics import TrainingDynamics
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
