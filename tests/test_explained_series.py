"""Series whose channels come last: maps would show channels in place of times, so one warning says what to pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dynalens.attribution import grad_cam
from test_explained_inputs import explanation
from training import Classifier, K, N, attribution_monitor, fit, labels, loader

STEPS, CHANNELS = 7, 4


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(CHANNELS, 5, batch_first=True), nn.Linear(5, K)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(x)[0].mean(dim=1))
        return logits


class PerStep(nn.Module):
    """Computes features of each step alone, and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(nn.Linear(CHANNELS, 5), nn.ReLU()), nn.Linear(5, K)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).amax(dim=1))
        return logits


class OfSeries(Classifier):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def series(*shape: int) -> Any:
    return loader(TensorDataset(torch.randn(N, *shape, generator=torch.Generator().manual_seed(0)), labels()))


ARGUMENTS: dict[str, Any] = {"methods": "saliency", "metrics": (), "num_samples": 2, "on_error": "raise"}


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize("net", [Recurrent, PerStep])
def test_series_whose_channels_come_last_are_told_once(tmp_path: Path, net: type[nn.Module]) -> None:
    with pytest.warns(UserWarning, match=r"reads the last axis as channels.*7 steps.*4 numbers") as caught:
        fit(
            tmp_path, attribution_monitor(**ARGUMENTS), model=OfSeries(net()), max_epochs=2,
            data=lambda: series(STEPS, CHANNELS),
        )  # fmt: skip
    assert len([warning for warning in caught if "`forward=lambda" in str(warning.message)]) == 1


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_the_advice_for_series_explains_their_steps_without_a_word(tmp_path: Path) -> None:
    monitor = attribution_monitor(
        inputs=lambda batch: (batch[0].transpose(1, 2), batch[1]),
        forward=lambda module, x: module(x.transpose(1, 2)),
        **ARGUMENTS,
    )
    fit(tmp_path, monitor, model=OfSeries(Recurrent()), max_epochs=1, data=lambda: series(STEPS, CHANNELS))
    assert explanation(tmp_path, 0)["saliency.maps"].shape[-1] == STEPS


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_signals_whose_channels_come_first_are_explained_without_a_word(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv1d(CHANNELS, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(25, K))
    fit(
        tmp_path, attribution_monitor(**ARGUMENTS), model=OfSeries(net), max_epochs=1,
        data=lambda: series(CHANNELS, STEPS),
    )  # fmt: skip


def test_grad_cam_has_a_position_for_each_step_of_a_layer_that_computes_steps_alone() -> None:
    torch.manual_seed(0)
    net, x = PerStep(), torch.randn(2, CHANNELS, STEPS)
    maps = grad_cam(net, x, torch.zeros(2, dtype=torch.int64), forward=lambda x: net(x.transpose(1, 2)))
    features = net.features(x.transpose(1, 2)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.head(features.amax(dim=1))[:, 0].sum(), features)
    expected = (gradient.mean(dim=1, keepdim=True) * features).sum(dim=2).relu()
    torch.testing.assert_close(maps.reshape(2, -1), expected.detach())


class OfRows(nn.Module):
    """Takes images with channels last, as numpy has them, and scales them first."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last, self.conv, self.head = last, nn.Conv2d(3, 4, 3), nn.Linear(4, K)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(-1, 1) if self.last else x
        out: Tensor = self.head(self.conv(x / 2 - 1).relu().amax(dim=(2, 3)))
        return out


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_images_with_channels_last_are_told_and_the_advice_shows_pixels(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.randint(0, 9, (N, 7, 6, 3), generator=torch.Generator().manual_seed(1)).to(dtype)

    def explained(name: str, x: Tensor, *, last: bool, **options: Any) -> Any:
        monitor, model = attribution_monitor(**ARGUMENTS, **options), OfSeries(OfRows(last))
        fit(tmp_path / name, monitor, model=model, data=lambda: loader(TensorDataset(x, labels())), max_epochs=1)
        return explanation(tmp_path / name, 0)["saliency.maps"].shape[1:]

    with pytest.warns(UserWarning, match=r"images of shape \(N, C, H, W\), got inputs \(2, 7, 6, 3\) of which a conv"):
        explained("last", x, last=True)
    advice: dict[str, Any] = {
        "inputs": lambda batch: (batch[0].movedim(-1, 1), batch[1]),
        "forward": lambda module, x: module(x.movedim(1, -1)),
    }
    assert explained("advice", x, last=True, **advice) == (7, 6)
    assert explained("first", x.movedim(-1, 1), last=False) == (7, 6)
