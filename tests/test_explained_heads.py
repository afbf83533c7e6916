"""Of a network that returns several outputs in evaluation mode, the one that the loss was made of is explained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens import TrainingDynamicsMonitor
from test_auxiliary_heads import assert_explains, explained
from training import Classifier, K, attribution_monitor, fit, in_order

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
]


class Heads(Classifier):
    """Returns the logits of two heads, in both modes; the loss is that of the second one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: Any = None
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.first, self.second = nn.Linear(64, K), nn.Linear(64, K)

    def forward(self, x: Tensor) -> Any:
        features = self.stem(x)
        return [self.first(features), self.second(features)]

    def logits(self, output: Any) -> Tensor:
        return torch.as_tensor(output[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.logits(self(x)), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def explained_network(self) -> nn.Module:
        return nn.Sequential(self.stem, self.second)


class Tuple(Heads):
    def forward(self, x: Tensor) -> Any:
        return tuple(super().forward(x))


class AfterTemperature(Heads):
    def logits(self, output: Any) -> Tensor:
        return super().logits(output).float() / 2


class FeaturesFirst(Heads):
    """Returns features of two axes before the logits."""

    def forward(self, x: Tensor) -> Any:
        features = self.stem(x)
        return features, self.second(features)


class Nested(Heads):
    def forward(self, x: Tensor) -> Any:
        first, second = super().forward(x)
        return {"heads": {"coarse": first, "fine": second}, "features": second.detach()}

    def logits(self, output: Any) -> Tensor:
        return torch.as_tensor(output["heads"]["fine"])


class Inner(Heads):
    """The step calls a network of the module, whose `forward` takes no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Heads()
        self.stem, self.second = self.network.stem, self.network.second

    def forward(self, **batch: Any) -> Any:  # type: ignore[override]
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0])[1], batch[1])


class Distilled(Heads):
    """Two heads, one of them distilled; their mean is returned in evaluation mode, as by DeiT."""

    def forward(self, x: Tensor) -> Any:
        first, second = super().forward(x)
        return [first, second] if self.training else (first + second) / 2

    def explained_network(self) -> nn.Module:
        return Mean(self)


class Mean(nn.Module):
    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        features = self.heads.stem(x)
        mean: Tensor = (self.heads.first(features) + self.heads.second(features)) / 2
        return mean


MODELS = [Heads, Tuple, AfterTemperature, FeaturesFirst, Nested, Inner, Distilled]


@pytest.mark.parametrize("model", MODELS)
def test_the_output_of_the_loss_is_explained(tmp_path: Path, model: type[Heads]) -> None:
    module = model()
    assert_explains(explained(tmp_path, module), module.explained_network())


@pytest.mark.parametrize("model", [Heads, Nested])
def test_the_output_of_the_loss_is_explained_beside_a_tracker(tmp_path: Path, model: type[Heads]) -> None:
    module = model()
    fit(tmp_path, TrainingDynamicsMonitor(), attribution_monitor(num_samples=3, on_error="raise"), model=module,
        val=in_order, max_epochs=2)  # fmt: skip
    assert len(list((tmp_path / "dynalens" / "explanations").glob("*.npz"))) == 2


class BothLosses(Heads):
    """Which of two losses is the main one nobody says: the first head counts, as what follows may be auxiliary."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        first, second = self(batch[0])
        return 0.4 * F.cross_entropy(second, batch[1]) + F.cross_entropy(first, batch[1])

    def explained_network(self) -> nn.Module:
        return nn.Sequential(self.stem, self.first)


def test_the_first_of_several_heads_with_a_loss_is_explained(tmp_path: Path) -> None:
    module = BothLosses()
    assert_explains(explained(tmp_path, module), module.explained_network())


class OfMean(Heads):
    """The loss is that of the mean of both heads, which the step computes."""

    def logits(self, output: Any) -> Tensor:
        return torch.as_tensor((output[0] + output[1]) / 2)

    def explained_network(self) -> nn.Module:
        return Mean(self)


def test_a_loss_of_several_outputs_is_told_and_the_advice_works(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="uses 2 outputs. Pass `forward=` with a callable"):
        fit(tmp_path / "first", attribution_monitor(num_samples=3), model=OfMean(), val=in_order, max_epochs=1)
    module = OfMean()
    written = explained(tmp_path / "second", module, forward=lambda pl_module, x: pl_module.logits(pl_module(x)))
    assert_explains(written, Mean(module))


class OtherInEvaluation(Heads):
    """Returns something else in evaluation mode than where the loss took its logits."""

    def forward(self, x: Tensor) -> Any:
        features = self.stem(x)
        second = self.second(features)
        return [self.first(features), second] if self.training else (second, features)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0])[1], batch[1])


def test_features_in_the_place_of_the_logits_are_told_and_the_advice_works(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Expected the model to return logits, got a tuple. Pass `forward=`"):
        fit(tmp_path / "first", attribution_monitor(num_samples=3), model=OtherInEvaluation(), val=in_order,
            max_epochs=1)  # fmt: skip
    module = OtherInEvaluation()
    written = explained(tmp_path / "second", module, forward=lambda pl_module, x: pl_module.eval()(x)[0])
    assert_explains(written, module.explained_network())
