"""Networks that return more than logits while they train: the main head is recorded and explained, others are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from dynalens import CaptureError, TrainingDynamicsMonitor
from dynalens.attribution import explain, pixel_relevance
from dynalens.capture.stacked import entry_behind
from dynalens.faithfulness import CurveSettings, faithfulness_curves
from test_losses import assert_equals_the_definitions
from test_random_combinations import assert_units
from training import (
    Classifier,
    K,
    N,
    arrays_of,
    attribution_monitor,
    fit,
    fit_undisturbed,
    images,
    in_order,
    labels,
    loader,
)

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Outputs(NamedTuple):
    logits: Tensor
    aux_logits: Tensor | None


class Inception(nn.Module):
    """Has an auxiliary head while it trains, and dropout and a batch norm on the way to the main one."""

    outputs = K

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)
        self.block, self.fc, self.aux = nn.Conv2d(4, 4, 3), nn.Linear(16, self.outputs), nn.Linear(64, self.outputs)

    def main(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what both heads see."""
        stem = self.stem(x).relu()
        return self.drop(self.block(self.norm(stem)).relu()).flatten(1), stem.flatten(1)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last, early = self.main(x)
        return self.fc(last), self.aux(early)

    def forward(self, x: Tensor) -> Any:
        main, auxiliary = self.heads(x)
        return Outputs(main, auxiliary) if self.training else main


class AuxiliaryFirst(Inception):
    def forward(self, x: Tensor) -> Any:
        main, auxiliary = self.heads(x)
        return (auxiliary, main) if self.training else main


class Segmented(Inception):
    """Returns both heads in evaluation mode, too, and names them, as segmentation models of torchvision."""

    def forward(self, x: Tensor) -> Any:
        main, auxiliary = self.heads(x)
        return {"aux": auxiliary, "out": main}


class SkipsBlocks(Inception):
    """Stochastic depth: a block is not even computed in some of the steps."""

    def main(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last, early = super().main(x)
        return (last * 0, early) if self.training and bool(torch.rand(()) < 0.5) else (last, early)


class Stacked(Inception):
    """Returns its heads in one tensor, as networks of MONAI with deep supervision."""

    axis = 1

    def forward(self, x: Tensor) -> Any:
        main, auxiliary = self.heads(x)
        return torch.stack([auxiliary, main], dim=self.axis).float() if self.training else main


class StackedAtTheEnd(Stacked):
    axis = -1


def both(outputs: Any) -> tuple[Tensor, Tensor]:
    """Return the logits of the main and of the auxiliary head, as a user knows them."""
    if isinstance(outputs, dict):
        return outputs["out"], outputs["aux"]
    if isinstance(outputs, Tensor):
        auxiliary, main = outputs.unbind(1) if outputs.shape[-1] > 2 else (outputs[..., 0], outputs[:, :, -1])
        return main, auxiliary
    return (outputs[1], outputs[0]) if type(outputs) is tuple else outputs


class TwoHeads(Classifier):
    """Trains on main + 0.4 * auxiliary loss."""

    network: Callable[[], nn.Module] = Inception

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = type(self).network()

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        main, auxiliary = both(self(x / N))
        self.remember(x, main, y)
        return self.result(main, self.loss(main, y) + 0.4 * self.loss(auxiliary, y), y)

    def result(self, main: Tensor, loss: Tensor, y: Tensor) -> Any:
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class OfTuple(TwoHeads):
    network = AuxiliaryFirst


class OfDict(TwoHeads):
    network = Segmented


class OfSkips(TwoHeads):
    network = SkipsBlocks


class OfStack(TwoHeads):
    network = Stacked


class OfStackAtTheEnd(TwoHeads):
    network = StackedAtTheEnd


class AfterViews(TwoHeads):
    """The step converts and reshapes what the network returned."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return super().loss(logits.double().view(-1, K), y.clone())


class InAnotherOrder(TwoHeads):
    """The step orders its rows, so that it is known which ones both heads have."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        order = batch[1].argsort(stable=True)
        return super().training_step([part[order] for part in batch], batch_idx)


class Binary(TwoHeads):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits[:, 0], (y > 0).float())

    def remember(self, x: Tensor, logits: Tensor, y: Tensor) -> None:
        super().remember(x, torch.stack([torch.zeros_like(logits[:, 0]), logits[:, 0]], dim=1), (y > 0).long())


class WarmsUp(TwoHeads):
    """The auxiliary loss begins in the middle of the second epoch, where steps are no longer followed."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        main, auxiliary = both(self(x / N))
        self.remember(x, main, y)
        is_late = self.current_epoch > 0 and batch_idx > 3
        return self.loss(main, y) + (0.4 * self.loss(auxiliary, y) if is_late else 0)


MODELS = [TwoHeads, OfTuple, OfDict, OfSkips, OfStack, OfStackAtTheEnd, AfterViews, InAnotherOrder, Binary, WarmsUp]


@pytest.mark.parametrize("model", MODELS)
def test_the_main_head_is_recorded_and_weights_are_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type[Classifier]
) -> None:
    said: list[str] = []
    monkeypatch.setattr("dynalens.callbacks.training_dynamics.announce", said.append)
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, model, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    which = "that was recorded before" if model is WarmsUp else "whose output the network returns"
    assert f"of 2 losses in the step, that of the head {which}" in said[-1]


def test_slices_of_everything_do_not_hide_what_was_stacked_and_slices_of_a_part_do() -> None:
    first, second = (torch.ones(4, 3, requires_grad=True) * factor for factor in (2, 3))
    stack = torch.stack([first, second], dim=-1)
    whole, part = (torch.ops.aten.slice(stack, 1, 0, end)[..., -1] for end in (2**63 - 1, 2))
    edge = entry_behind(whole.grad_fn, 0)
    assert edge is not None
    assert edge[0] is second.grad_fn
    assert entry_behind(part.grad_fn, 0) is None


class Mean(Inception):
    """Predicts by both heads, so that none is the main one."""

    def forward(self, x: Tensor) -> Any:
        main, auxiliary = self.heads(x)
        return Outputs(main, auxiliary) if self.training else (main + auxiliary) / 2


class BothUnnamed(Inception):
    def forward(self, x: Tensor) -> Any:
        main, auxiliary = self.heads(x)
        return auxiliary, main


class OneLayer(Inception):
    """Both heads have one layer."""

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last, early = self.main(x)
        return self.fc(last), self.fc(early[:, :16])


class FailsInEvaluation(Inception):
    def forward(self, x: Tensor) -> Any:
        assert self.training
        return super().forward(x)


NOT_CLEAR = [Mean, BothUnnamed, OneLayer, FailsInEvaluation]


@pytest.mark.parametrize("network", NOT_CLEAR)
@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_heads_of_which_none_is_the_main_one_are_one_error_whose_advice_works(
    tmp_path: Path, network: type[Inception]
) -> None:
    class Unclear(TwoHeads):
        pass

    class Returns(Unclear):
        def result(self, main: Tensor, loss: Tensor, y: Tensor) -> Any:
            return {"loss": loss, "logits": main, "targets": y}

    Unclear.network = network
    with pytest.raises(CaptureError, match=r"got 2: .* Return a dict with .* or pass `capture=` .* 'module:<name>'"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Unclear(), max_epochs=1, limit_train_batches=1)
    ways: list[tuple[type[Classifier], str]] = [(Returns, "auto")]
    if network is not OneLayer:  # which is called twice
        ways.append((Unclear, "module:net.fc"))
    for model, capture in ways:
        monitor = TrainingDynamicsMonitor(history=False, capture=capture)
        module = fit(tmp_path, monitor, model=model(), max_epochs=2)
        assert_equals_the_definitions(monitor.statistics(), module.seen)


class DeepSupervision(Classifier):
    """Both heads give a class for each pixel; that of the smaller features is enlarged to the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = nn.Conv2d(1, 4, 3, padding=1)
        self.low, self.main, self.early = nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, K, 1), nn.Conv2d(4, K, 1)

    def forward(self, x: Tensor) -> Any:
        features = self.net(x).relu()
        main, early = self.main(features), self.early(self.low(features).relu())
        return self.heads(main, F.interpolate(early, size=x.shape[2:], mode="bilinear")) if self.training else main

    def heads(self, main: Tensor, early: Tensor) -> Any:
        return [early, main]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, masks = batch
        early, main = self(x / N)
        self.remember(x, main.flatten(2), masks.flatten(1))
        return 0.4 * F.cross_entropy(early, masks) + F.cross_entropy(main, masks)


class StackedSupervision(DeepSupervision):
    def heads(self, main: Tensor, early: Tensor) -> Any:
        return torch.stack([early, main])


@pytest.mark.parametrize("model", [DeepSupervision, StackedSupervision])
def test_the_main_head_of_deep_supervision_of_masks_is_recorded(tmp_path: Path, model: type[DeepSupervision]) -> None:
    masks = ((torch.arange(N)[:, None] + torch.arange(36)) % K).view(N, 6, 6)
    monitor, data = TrainingDynamicsMonitor(history=False), TensorDataset(images(), masks)
    module = fit_undisturbed(tmp_path, monitor, model, data=lambda: loader(data), max_epochs=2)
    assert_units(monitor.statistics(), module.seen)


class OfNumbers(TwoHeads):
    """A regression: the first column of both heads."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits[:, 0], y)


def test_the_main_head_of_a_regression_is_recorded(tmp_path: Path) -> None:
    numbers = torch.randn(N, generator=torch.Generator().manual_seed(2))
    monitor = TrainingDynamicsMonitor(history=False)
    data = TensorDataset(images(), numbers)
    module = fit_undisturbed(tmp_path, monitor, OfNumbers, data=lambda: loader(data), max_epochs=1)
    predictions = torch.zeros(N)
    for _, index, logits, _ in module.seen:
        predictions[index] = logits[:, 0]
    statistics = monitor.statistics()
    assert statistics.prediction is not None
    np.testing.assert_allclose(statistics.prediction.ravel(), predictions, rtol=1e-4, atol=1e-6)


class ModelOutput(dict[str, Any]):
    """A dictionary whose entries are attributes, too, as of transformers."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class OfModelOutput(Classifier):
    def forward(self, x: Tensor) -> Any:
        hidden = self.net[:3](x)
        return ModelOutput(loss=None, hidden_states=hidden, logits=self.net[3](hidden))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N)["logits"]
        self.remember(x, logits, y)
        return self.loss(logits, y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class Reentrant(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_() if self.training and x.is_leaf else x
        hidden = checkpoint(self.net[:3], x, use_reentrant=True)
        logits: Tensor = self.net[3](hidden)
        return logits


class Steep(Classifier):
    """Gradients of its logits for pixels, some 2^17, are beyond float16; the logits are not."""

    def __init__(self) -> None:
        super().__init__()
        net: Any = self.net
        with torch.no_grad():
            net[0].weight.mul_(2.0**10)
            net[0].bias.zero_()
            net[3].weight.mul_(2.0**10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x * 2.0**-12)
        return logits

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def explained(folder: Path, model: Classifier, forward: Any = None, **options: Any) -> dict[str, Any]:
    monitor = attribution_monitor(num_samples=3, steps=5, on_error="raise", forward=forward)
    fit(folder, monitor, model=model, val=in_order, max_epochs=1, **options)
    return arrays_of(folder / "dynalens" / "explanations" / "epoch_000000.npz")


def assert_explains(written: dict[str, Any], network: nn.Module, *, rtol: float = 1e-5, atol: float = 0.0) -> None:
    """Compare logits and curves with those of a network that returns logits alone."""
    x, y = images()[:3], labels()[:3]
    expected = explain(network, x, y)
    np.testing.assert_allclose(written["logits"], expected.logits, rtol=rtol)
    for method, maps in expected.maps.items():
        assert bool((maps != 0).any())
        relevance = pixel_relevance(method, maps, (6, 6))
        for metric, curve in faithfulness_curves(network, x, y, relevance, CurveSettings(steps=5)).items():
            np.testing.assert_allclose(written[f"{method}.{metric}.curves"], curve.values, rtol=rtol, atol=atol)


class MainHead(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        network = self.network.eval()
        logits: Tensor = network.fc(network.block(network.norm(network.stem(x).relu())).relu().flatten(1))
        return logits


@pytest.mark.parametrize("model", [TwoHeads, OfTuple, OfDict])
def test_the_main_head_is_explained(tmp_path: Path, model: type[TwoHeads]) -> None:
    module = model()
    assert_explains(explained(tmp_path, module), MainHead(module.net))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # in the validation
@pytest.mark.parametrize("model", [OfModelOutput, Reentrant])
def test_outputs_with_names_and_reentrant_checkpoints_are_explained_by_their_logits(
    tmp_path: Path, model: type[Classifier]
) -> None:
    module = model()
    assert_explains(explained(tmp_path, module), module.net)


def test_a_float16_network_whose_gradients_overflow_is_explained(tmp_path: Path) -> None:
    module = Steep()
    written = explained(tmp_path, module, precision="16-true")
    assert next(module.parameters()).dtype is torch.float16
    x, y = images()[:3], labels()[:3]
    assert float(explain(module.net.double(), x.double(), y).maps["saliency"].abs().max()) > 65504
    assert_explains(written, module.double(), rtol=2e-2, atol=1e-3)
