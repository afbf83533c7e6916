"""Of samples that are several crops, whose logits are averaged, one crop is explained and shown."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import TrainingDynamicsMonitor, load_record
from dynalens.attribution import explain, pixel_relevance
from dynalens.faithfulness import CurveSettings, faithfulness_curves
from training import Classifier, K, N, arrays_of, attribution_monitor, fit, labels, loader

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
]


def crops(number: int) -> Tensor:
    """Shape (N, V, 1, 6, 6)."""
    return torch.randn(N, number, 1, 6, 6, generator=torch.Generator().manual_seed(number))


class InStep(Classifier):
    """The step gives the crops to the network as samples, and averages the logits, as torchvision's guide says."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x.flatten(0, 1)).view(*x.shape[:2], K).mean(dim=1), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class InForward(InStep):
    """`forward` takes all crops of a sample, and averages their logits."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.flatten(0, 1)).view(*x.shape[:2], K).mean(dim=1)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class InOrder(InForward):
    """A layer looks at the images of a sample in their order, as of a film."""

    def __init__(self) -> None:
        super().__init__()
        self.over_time = nn.GRU(K, K, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.over_time(self.net(x.flatten(0, 1)).view(*x.shape[:2], K))[0][:, -1]
        return logits


def fitted(folder: Path, model: Classifier, number: int, **arguments: Any) -> dict[str, Any]:
    data = TensorDataset(crops(number), labels())
    monitor = attribution_monitor(num_samples=3, **{"on_error": "raise", **arguments})
    fit(folder, monitor, model=model, max_epochs=1, data=lambda: loader(data, shuffle=False))
    return arrays_of(folder / "dynalens" / "explanations" / "epoch_000000.npz")


def assert_explains(written: dict[str, Any], network: nn.Module, x: Tensor) -> None:
    y = labels()[: len(x)]
    expected = explain(network, x, y)
    np.testing.assert_allclose(written["logits"], expected.logits, rtol=1e-5)
    for method, maps in expected.maps.items():
        relevance = pixel_relevance(method, maps, (6, 6))
        for metric, curve in faithfulness_curves(network, x, y, relevance, CurveSettings(steps=5)).items():
            np.testing.assert_allclose(written[f"{method}.{metric}.curves"], curve.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("number", "shown"), [(5, 4), (10, 4), (2, 0)])
@pytest.mark.parametrize("model", [InStep, InForward])
def test_one_crop_is_explained_by_the_network_that_sees_it_alone(
    tmp_path: Path, model: type[InStep], number: int, shown: int
) -> None:
    module = model()
    written = fitted(tmp_path, module, number)
    assert_explains(written, module.net, crops(number)[:3, shown])


@pytest.mark.parametrize("model", [InStep, InForward])
def test_pictures_show_the_crop_and_training_ends_alike(tmp_path: Path, model: type[InStep]) -> None:
    module, without = model(), model()
    data = TensorDataset(crops(5), labels())
    monitors = TrainingDynamicsMonitor(top_k=2), attribution_monitor(num_samples=3)
    fit(tmp_path, *monitors, model=module, data=lambda: loader(data))
    fit(tmp_path / "without", model=without, data=lambda: loader(data))
    for name, values in without.state_dict().items():
        assert torch.equal(values, module.state_dict()[name])
    pictures = load_record(tmp_path).pictures()
    assert pictures
    for row, picture in pictures.items():
        x = crops(5)[row, 4, 0]
        expected = (255 * (x - x.min()) / (x.max() - x.min())).numpy()
        assert np.abs(picture[..., 0] - expected).max() <= 1


def test_a_network_that_looks_at_the_order_of_images_is_told_and_the_advice_works(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="average the logits of the V images of a sample"):
        fitted(tmp_path / "first", InOrder(), 4)
    module = InOrder()
    written = fitted(
        tmp_path / "second",
        module,
        4,
        inputs=lambda batch: (batch[0].flatten(1, 2), batch[1]),
        forward=lambda pl_module, images: pl_module(images.unflatten(1, (4, 1))),
        methods=("saliency",),
    )
    with torch.no_grad():
        np.testing.assert_allclose(written["logits"], module(crops(4)[:3]), rtol=1e-5)
