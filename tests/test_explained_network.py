"""The network that gave the logits of the loss is explained, whatever `forward` is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.capture.network import NetworkRuns
from test_auxiliary_heads import assert_explains, explained
from training import Classifier, K, N, attribution_monitor, fit, in_order

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
]


class Parts(Classifier):
    """Has a backbone and a head, and other layers that would also take its images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: Any = None
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.head, self.teacher = nn.Linear(64, K), nn.Sequential(nn.Flatten(), nn.Linear(36, K))

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError  # as in a module that has none

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.logits(x / N), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class OneOfTwo(Parts):
    """A student and a teacher give logits alike."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(self.backbone, self.head)

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = self.teacher(x)
        logits: Tensor = self.student(x) - 0 * teacher
        return logits


class EndsEarlier(Parts):
    """Its `forward` gives features, as backbones in libraries do."""

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone(x)
        return features

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self(x))
        return logits


class OwnLogits(EndsEarlier):
    """Takes the features through a function that is no module."""

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self(x)))
        return logits


class NoModule(OwnLogits):
    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.backbone(x)))
        return logits


@pytest.mark.parametrize("model", [Parts, OneOfTwo, EndsEarlier])
def test_the_modules_that_gave_the_logits_are_explained(tmp_path: Path, model: type[Parts]) -> None:
    module = model()
    assert_explains(explained(tmp_path, module), nn.Sequential(module.backbone, module.head))


class Net(nn.Module):
    """Takes keywords, as networks of transformers do, and computes the loss with the labels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixels)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class OfBatch(Parts):
    """Its `forward` is given the whole batch."""

    def __init__(self, *, by_name: bool) -> None:
        super().__init__()
        self.inner, self.by_name = Net(nn.Sequential(self.backbone, self.head)), by_name

    def forward(self, batch: Any) -> Any:
        return self.inner(**batch) if self.by_name else self.inner(batch["pixels"], batch["labels"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self(dict(zip(("pixels", "labels"), batch, strict=True)))["loss"]
        return loss


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "by key"])
def test_the_network_within_a_forward_that_takes_the_batch_is_explained(tmp_path: Path, by_name: bool) -> None:
    module = OfBatch(by_name=by_name)
    assert_explains(explained(tmp_path, module), nn.Sequential(module.backbone, module.head))


class Whole(Parts):
    """Its `forward` gives logits, of which the loss takes what a step chooses."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits


class SomeRows(Whole):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        counts = torch.arange(len(y), device=y.device) % 4 > 0
        return F.cross_entropy(self(x / N)[counts], y[counts])


class SomeClasses(Whole):
    """Has an output more than there are classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, K + 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x / N)[:, :K], y)


class OneOfTwoViews(Whole):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        first, second = self(torch.cat([x, x.flip(-1)]) / N).chunk(2)
        return F.cross_entropy(first, y) + F.mse_loss(first, second)


class MeanOfCrops(Whole):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        crops = torch.stack([x, x.flip(-1)], dim=1).flatten(0, 1)
        return F.cross_entropy(self(crops / N).view(len(x), 2, K).mean(dim=1), y)


class Prototypes(EndsEarlier):
    """Compares the features with a parameter of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(K, 64))

    def logits(self, x: Tensor) -> Tensor:
        return -torch.cdist(self(x), self.prototypes)


@pytest.mark.parametrize("model", [SomeRows, SomeClasses, OneOfTwoViews, MeanOfCrops])
def test_a_forward_whose_logits_a_step_takes_in_part_is_explained(tmp_path: Path, model: type[Parts]) -> None:
    module = model()
    assert_explains(explained(tmp_path, module), nn.Sequential(module.backbone, module.head))


class Through(nn.Module):
    def __init__(self, module: Parts) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.logits(x)


@pytest.mark.parametrize("model", [OwnLogits, NoModule])
def test_features_are_never_taken_for_logits_and_the_advice_works(tmp_path: Path, model: type[Parts]) -> None:
    monitor = attribution_monitor(num_samples=3)
    with pytest.warns(UserWarning, match=r"computes something between them\. Pass `forward=` with a callable"):
        fit(tmp_path / "first", monitor, model=model(), val=in_order, max_epochs=1)
    module = model()
    written = explained(tmp_path / "second", module, forward=lambda pl_module, x: pl_module.logits(x))
    assert_explains(written, Through(module))


def test_features_that_are_compared_with_prototypes_are_not_taken_for_logits(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"computes something between them\. Pass `forward=` with a callable"):
        fit(tmp_path, attribution_monitor(num_samples=3), model=Prototypes(), val=in_order, max_epochs=1)


@pytest.mark.parametrize("part", ["observe", "path"])
def test_an_error_while_the_network_is_looked_for_changes_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("an odd graph")

    def fitted(name: str, *monitors: Any) -> Whole:
        model = Whole()
        torch.manual_seed(1)
        fit(tmp_path / name, *monitors, model=model, val=in_order)
        return model

    without = fitted("without")
    monkeypatch.setattr(NetworkRuns, part, fails)
    explained_model = fitted("with", attribution_monitor(num_samples=3))
    assert (tmp_path / "with" / "dynalens" / "explanations").is_dir()  # by its own `forward`
    for name, values in without.state_dict().items():
        assert torch.equal(values, explained_model.state_dict()[name])
