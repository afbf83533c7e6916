"""Curves and masks are those of RISE, written slowly, and of torchcam."""

import contextlib
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalens.faithfulness import CurveSettings, average_drop, average_increase, faithfulness_curves
from toys import SmallCNN


def rise(model: nn.Module, image: Tensor, target: int, relevance: Tensor, steps: int, *, insert: bool) -> list[float]:
    """The curve of Petsiuk et al.'s `CausalMetric` with a zero baseline, one image and one step after the other."""
    order = relevance.flatten().argsort(descending=True)
    start, finish = (torch.zeros_like(image), image) if insert else (image, torch.zeros_like(image))
    picture, per_step = start.clone().flatten(1), relevance.numel() // steps
    curve = []
    for step in range(steps + 1):
        p = model(picture.view(1, *image.shape)).softmax(1)[0, target]
        curve.append(float(p))
        chosen = order[per_step * step : per_step * (step + 1)]
        picture[:, chosen] = finish.flatten(1)[:, chosen]
    return curve


def test_curves_are_those_of_rise_written_slowly() -> None:
    torch.manual_seed(2)
    model, x, y = SmallCNN(channels=3).eval(), torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    maps = torch.rand(4, 8, 8)
    curves = faithfulness_curves(model, x, y, maps, CurveSettings("zero", 16))
    with torch.no_grad():
        for name, curve in curves.items():
            slow = [rise(model, *sample, 16, insert=name == "insertion") for sample in zip(x, y, maps, strict=True)]
            torch.testing.assert_close(curve.values, torch.tensor(slow), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:.*non-tuple sequence.*")
def test_areas_are_those_of_torchcam() -> None:
    metrics = pytest.importorskip("torchcam.metrics")
    torch.manual_seed(3)
    model, x, y = SmallCNN(channels=3).eval(), torch.randn(4, 3, 8, 8), torch.tensor([2, 1, 0, 1])
    maps = torch.rand(4, 8, 8)

    class Extractor:
        """What torchcam asks of an extractor, with maps that are given."""

        def __init__(self) -> None:
            self.model = model

        def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
            return [maps]

        def fuse_cams(self, cams: list[Tensor]) -> Tensor:
            return cams[0]

        def _hooks_off(self) -> Any:
            return contextlib.nullcontext()

    black = torch.full((3, 8, 8), -1.0)
    for baseline in (None, black):
        peer = metrics.DeletionInsertionMetric(
            Extractor(), functools.partial(torch.softmax, dim=-1), steps=16, baseline=baseline
        )
        peer.update(x, y.tolist())
        own = faithfulness_curves(model, x, y, maps, CurveSettings("zero" if baseline is None else baseline, 16))
        for name, curve in own.items():
            assert float(curve.areas.mean()) == pytest.approx(peer.summary()[f"{name}_auc"], abs=1e-6)
    peer = metrics.ClassificationMetric(Extractor(), functools.partial(torch.softmax, dim=-1))
    peer.update(x, y.tolist())
    scale = maps.amax(dim=(1, 2), keepdim=True) - maps.amin(dim=(1, 2), keepdim=True)
    maps = (maps - maps.amin(dim=(1, 2), keepdim=True)) / scale  # as torchcam's extractors hand them out
    peer.reset()
    peer.update(x, y.tolist())
    assert float(average_drop(model, x, y, maps).mean()) == pytest.approx(peer.summary()["avg_drop"], abs=1e-5)
    assert float(average_increase(model, x, y, maps).mean()) == peer.summary()["conf_increase"]
