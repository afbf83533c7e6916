"""The noise of the last layer's gradients against gradients of autograd, sample by sample, and in a fit."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens import GradientNoise, TrainingDynamicsMonitor
from dynalens.capture import CaptureError
from training import Classifier, fit

Step = tuple[Tensor, Tensor]


def by_autograd(layer: nn.Linear, steps: list[Step]) -> dict[str, float]:
    """The definition, in plain loops over the gradients that autograd gives for each sample alone."""
    norms, variances, lengths = [], [], []
    for features, targets in steps:
        rows = []
        for h, y in zip(features, targets, strict=True):
            if y < 0:
                continue
            logits = layer(h.unsqueeze(0))
            loss = (
                F.binary_cross_entropy_with_logits(logits, y.float().view(1, 1))
                if logits.shape[1] == 1
                else F.cross_entropy(logits, y.unsqueeze(0))
            )
            parts = torch.autograd.grad(loss, list(layer.parameters()))
            rows.append(torch.cat([part.flatten() for part in parts]).double())
        mean = torch.stack(rows).mean(dim=0)
        variance = sum(float(((row - mean) ** 2).sum()) for row in rows) / (len(rows) - 1)
        norms.append(float(mean.norm()))
        variances.append(variance)
        lengths.append(float(mean @ mean) - variance / len(rows))
    expected = {"gradient_norm": statistics.mean(norms), "gradient_variance": statistics.mean(variances)}
    return expected | ({"noise_scale": sum(variances) / sum(lengths)} if sum(lengths) > 0 else {})


def steps_of(classes: int, *, sizes: tuple[int, ...] = (6, 6, 3)) -> list[Step]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 5, generator=generator) + 1, torch.randint(0, max(classes, 2), (size,), generator=generator))
        for size in sizes
    ]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_the_noise_is_that_of_the_gradients_of_each_sample(classes: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, steps, noise = nn.Linear(5, classes, bias=bias), steps_of(classes), GradientNoise()
    for features, targets in steps:
        noise.update(features, layer(features), targets, bias=bias)
    assert noise.end_epoch() == pytest.approx(by_autograd(layer, steps), rel=1e-4)
    assert noise.end_epoch() == {}  # begins anew


def test_samples_that_do_not_count_and_steps_without_noise_are_left_out() -> None:
    torch.manual_seed(0)
    layer, (first, second, _), noise = nn.Linear(5, 3), steps_of(3), GradientNoise()
    first[1][2] = -100
    for features, targets in (first, second, (second[0][:1], second[1][:1]), (second[0] * float("nan"), second[1])):
        noise.update(features, layer(features), targets)
    assert noise.end_epoch() == pytest.approx(by_autograd(layer, [first, second]), rel=1e-4)


def test_processes_add_up_their_steps() -> None:
    torch.manual_seed(0)
    layer, steps, other = nn.Linear(5, 3), steps_of(3), steps_of(3, sizes=(4,))
    here, there = GradientNoise(), GradientNoise()
    for noise, own in ((here, steps), (there, other)):
        for features, targets in own:
            noise.update(features, layer(features), targets)
    sent: list[Tensor] = []
    there.end_epoch(lambda sums: [sent.append(sums) or sums])  # type: ignore[func-returns-value]  # append, then sums
    assert here.end_epoch(lambda sums: [sums, *sent]) == pytest.approx(by_autograd(layer, steps + other), rel=1e-4)


def test_rows_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Expected `features` \(B, D\), `logits` .* got \(2, 5\), \(3, 3\) and \(3,\)"
    ):
        GradientNoise().update(torch.zeros(2, 5), torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64))


class Remembers(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.weights: list[dict[str, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        features = self.net[:3](x / 22)
        self.steps.append((features.detach().clone(), y))
        self.weights.append({name: value.clone() for name, value in self.net[3].state_dict().items()})
        return self.loss(self.net[3](features), y)


def assert_logged(folder: Path, model: Remembers) -> None:
    noise = GradientNoise()
    layer = nn.Linear(64, 3)
    for weights, (features, targets) in zip(model.weights, model.steps, strict=True):
        layer.load_state_dict(weights)
        noise.update(features, layer(features), targets)
    events = EventAccumulator(str(folder))
    events.Reload()
    for name, value in noise.end_epoch().items():
        assert events.Scalars(f"dynalens/dynamics/{name}")[0].value == pytest.approx(value, rel=1e-4)


def test_a_fit_logs_the_noise_of_each_epoch(tmp_path: Path) -> None:
    model = Remembers()
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(tmp_path, TrainingDynamicsMonitor(gradient_noise=True), model=model, logger=logger, max_epochs=1)
    assert_logged(tmp_path, model)
    assert not model.net[3]._forward_hooks


class Pooled(Classifier):
    """Its last linear layer is that of tokens, before they are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(2), nn.Linear(36, 3))

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x).mean(dim=1)
        assert isinstance(out, Tensor)
        return out


class Unused(Classifier):
    """Its last linear layer never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 3)


class Doubled(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Several(Classifier):
    """Any number of labels."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, (torch.arange(3) <= y[:, None]).float())


@pytest.mark.parametrize(
    ("model", "name", "error", "message"),
    [
        (Classifier, "net.0", ValueError, "Expected `gradient_noise` to name a linear layer, got a Conv2d"),
        (Classifier, "head", ValueError, "Expected `gradient_noise` to name a layer"),
        (
            Pooled,
            True,
            CaptureError,
            r"Expected the layer of `gradient_noise` to get one row for each sample, got .* \(4, 1, 36\)",
        ),
        (Unused, True, CaptureError, "got no call of the layer with a tensor. Pass `gradient_noise=`"),
        (
            Several,
            True,
            CaptureError,
            "Expected one class for each sample with `gradient_noise`, got samples with several labels",
        ),
        (
            Doubled,
            True,
            CaptureError,
            "Expected `gradient_noise` to name the layer that gives the logits, got a layer with other outputs",
        ),
    ],
)
def test_a_layer_that_does_not_give_the_logits_is_refused_at_once(
    tmp_path: Path, model: type[Classifier], name: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(tmp_path, TrainingDynamicsMonitor(gradient_noise=name), model=model(), max_epochs=1)


class DoubledLater(Remembers):
    """The loss gets other logits than the layer gives in one of the later steps."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx != 4:
            return super().training_step(batch, batch_idx)
        x, y = batch
        return self.loss(2 * self.net(x / 22), y)


def test_later_steps_whose_logits_are_not_the_layers_are_left_out_of_the_noise(tmp_path: Path) -> None:
    model = DoubledLater()
    logger = TensorBoardLogger(tmp_path, name="", version="")
    with pytest.warns(UserWarning, match="left out of the gradient noise, training goes on.* had logits that are not"):
        fit(tmp_path, TrainingDynamicsMonitor(gradient_noise=True), model=model, logger=logger, max_epochs=1)
    assert_logged(tmp_path, model)
