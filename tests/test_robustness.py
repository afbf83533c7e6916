"""The smallest step against the distance to a linear boundary; corruptions against their formulas; both in a fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dynalens import (
    AttributionMonitor,
    TrainingDynamicsMonitor,
    corrupted,
    corrupted_margins,
    load_explanations,
    smallest_step,
)
from dynalens.robustness import CHECKS, CORRUPTIONS
from toys import Linear, SmallCNN
from training import Classifier, N, fit, images, labels, loader

WIDE = (-100.0, 100.0)
UNIT = 1 / 128


def linear() -> tuple[Linear, Tensor, Tensor]:
    """A model of two classes, images, and how far each is from the boundary: |z_0 - z_1| / |w_0 - w_1|_1."""
    torch.manual_seed(0)
    model, x = Linear(12, 2), torch.randn(6, 3, 2, 2)
    difference = model(x).detach().diff(dim=1).squeeze(1)
    weights = model.layer.weight.detach().diff(dim=0)
    return model, x, difference.abs() / weights.abs().sum()


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_the_smallest_step_on_a_linear_model_is_the_distance_to_its_boundary(attack: str) -> None:
    model, x, distance = linear()
    found = smallest_step(model, x, attack=attack, largest=1.0, bounds=WIDE)
    assert bool(found.changed.all())
    # The first of the steps that are told apart behind the boundary.
    assert bool((distance < found.steps).all())
    assert bool((found.steps <= distance + UNIT + 1e-6).all())
    torch.testing.assert_close((found.images - x).abs().flatten(1).amax(dim=1), found.steps)
    assert found.changed_to.tolist() == (1 - found.predicted).tolist()
    assert model(found.images).argmax(dim=1).tolist() == found.changed_to.tolist()


def test_random_signs_need_no_smaller_step_than_the_gradients() -> None:
    model, x, _ = linear()
    best = smallest_step(model, x, largest=1.0, bounds=WIDE).steps
    assert bool((smallest_step(model, x, attack="random_sign", largest=1.0, bounds=WIDE).steps >= best).all())


def test_a_sure_model_has_a_step_although_its_cross_entropy_is_flat() -> None:
    model, x, distance = linear()
    with torch.no_grad():
        model.layer.weight.mul_(1e4)
        model.layer.bias.mul_(1e4)
    found = smallest_step(model, x, largest=1.0, bounds=WIDE)
    assert bool(((found.steps - distance).abs() <= UNIT + 1e-6).all())


def test_no_step_is_infinite_and_values_stay_within_the_bounds() -> None:
    model, x, distance = linear()
    found = smallest_step(model, x, largest=float(distance.min()) / 2, bounds=WIDE)
    assert found.steps.tolist() == [float("inf")] * 6
    assert torch.equal(found.images, x)
    inside = smallest_step(model, x)  # by default within the range of each channel
    low, high = x.amin(dim=(0, 2, 3), keepdim=True), x.amax(dim=(0, 2, 3), keepdim=True)
    assert bool(((inside.images >= low) & (inside.images <= high)).all())


def test_a_network_and_its_gradients_are_as_before() -> None:
    torch.manual_seed(0)
    model, x = SmallCNN(), torch.randn(2, 1, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    for attack in ("fgsm", "pgd", "random_sign"):
        smallest_step(model, x, attack=attack)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [list(vars(module)) for module in model.modules()] == [list(each) for each in attributes]
    assert not x.requires_grad


def test_corruptions_are_their_formulas() -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = corrupted(x, "gaussian_noise", bounds=WIDE) - x
    assert float(noise.std()) == pytest.approx(0.1 * 200, rel=0.03)
    assert torch.equal(corrupted(x, "gaussian_noise"), corrupted(x, "gaussian_noise"))
    torch.testing.assert_close(corrupted(x, "brightness", bounds=(0, 1)), (x + 0.3).clamp(0, 1))
    mean = x.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(corrupted(x, "contrast", bounds=(0, 1)), mean + 0.15 * (x - mean))
    point = torch.zeros(1, 1, 32, 32)
    point[0, 0, 16, 16] = 1
    kernel = torch.exp(-0.5 * torch.arange(-3.0, 4.0) ** 2)  # of one pixel, cut at three
    kernel /= kernel.sum()
    torch.testing.assert_close(corrupted(point, "blur")[0, 0, 13:20, 13:20], kernel.outer(kernel))


@pytest.mark.parametrize("shape", [(3, 2, 9), (3, 1, 4, 5, 6)], ids=["signals", "volumes"])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_signals_and_volumes_are_corrupted_within_their_range(shape: tuple[int, ...], corruption: str) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    changed = corrupted(x, corruption)
    assert changed.shape == x.shape
    assert not torch.equal(changed, x)
    assert float(changed.min()) >= float(x.min())
    assert float(changed.max()) <= float(x.max())


def test_margins_of_corrupted_images_are_the_labels_lead() -> None:
    model, x, _ = linear()
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    logits = model(corrupted(x, "contrast")).detach()
    expected = [float(logits[i, c] - logits[i, 1 - c]) for i, c in enumerate(y.tolist())]
    torch.testing.assert_close(corrupted_margins(model, x, y, "contrast"), torch.tensor(expected))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, x: smallest_step(m, x, attack="bim"),
            "Expected `attack` to be one of fgsm, pgd, random_sign, got 'bim'",
        ),
        (lambda m, x: smallest_step(m, x, largest=0.0), "Expected `largest` to be a step above 0, got 0.0"),
        (lambda m, x: smallest_step(m, 0 * x), "Expected `largest` to be a step above 0, got 0.0"),
        (lambda m, x: smallest_step(m, x[:0]), "Expected `images` to hold at least one image, got"),
        (lambda m, x: smallest_step(m, x, bounds=(1, 0)), r"Expected `bounds` .* got \(1, 0\)"),
        (lambda m, x: smallest_step(m, x, iterations=0), "Expected `iterations` to be at least 1"),
        (lambda m, x: smallest_step(m, x * float("nan"), largest=1.0), "Expected finite logits"),
        (lambda m, x: corrupted(x, "fog"), "Expected `corruption` to be one of gaussian_noise, .* got 'fog'"),
        (lambda m, x: AttributionMonitor(robustness=("fog",)), "Expected `robustness` to be among fgsm, .* got fog"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(call: Any, message: str) -> None:
    model, x, _ = linear()
    with pytest.raises(ValueError, match=message):
        call(model, x)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("robustness")
    monitor = AttributionMonitor(
        methods="saliency", metrics=(), num_samples=3, suspects=0, robustness=CHECKS, on_error="raise"
    )
    logger = TensorBoardLogger(folder, name="", version="")
    return folder, fit(folder, monitor, logger=logger, max_epochs=1, val=lambda: loader(shuffle=False))


def test_a_fit_keeps_what_the_functions_return_for_its_samples(run: tuple[Path, Any]) -> None:
    folder, model = run
    (epoch,) = load_explanations(folder)
    x, y = images()[:3], labels()[:3]
    for attack in ("fgsm", "pgd", "random_sign"):
        found = smallest_step(model, x, attack=attack)
        np.testing.assert_array_equal(epoch.values[f"{attack}/smallest_step"], found.steps)
        np.testing.assert_array_equal(epoch.values[f"{attack}/changed_to"], found.changed_to)
    for corruption in CORRUPTIONS:
        expected = corrupted_margins(model, x, y, corruption)
        np.testing.assert_allclose(epoch.values[f"{corruption}/margin"], expected, rtol=1e-5)
    np.testing.assert_allclose(epoch.values["none/margin"], corrupted_margins(model, x, y), rtol=1e-5)


def test_a_fit_logs_means_of_its_samples_and_a_picture(run: tuple[Path, Any]) -> None:
    folder, _ = run
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    (epoch,) = load_explanations(folder)
    logged = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if "/robustness/" in tag}
    margins = epoch.values["blur/margin"]
    assert logged["dynalens/robustness/blur/margin"] == pytest.approx(margins.mean())
    assert logged["dynalens/robustness/blur/accuracy"] == pytest.approx((margins > 0).mean())
    steps = epoch.values["pgd/smallest_step"]
    assert logged["dynalens/robustness/pgd/changed"] == pytest.approx(np.isfinite(steps).mean())
    assert ("dynalens/robustness/pgd/median_step" in logged) == bool(np.isfinite(np.median(steps)))
    assert [tag for tag in events.Tags()["images"] if "/robustness" in tag] == ["dynalens/robustness"]


class OfColumns(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(36, 3))

    def remember(self, *args: Any) -> None: ...


class OfTokens(OfColumns):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Flatten(), torch.nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self(batch[0]), batch[1])


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_rows_of_a_table_have_steps_and_no_blur(tmp_path: Path) -> None:
    data = TensorDataset(images().flatten(1), labels())

    def fitted(folder: str, *checks: str) -> None:
        monitor = AttributionMonitor(methods="saliency", metrics=(), robustness=checks, on_error="raise", num_samples=2)
        fit(tmp_path / folder, monitor, model=OfColumns(), data=lambda: DataLoader(data, 4), max_epochs=1)

    fitted("steps", "fgsm", "contrast")
    (epoch,) = load_explanations(tmp_path / "steps")
    assert epoch.values["fgsm/smallest_step"].shape == (2,)
    assert list((tmp_path / "steps").rglob("robustness/*.jpg"))
    with pytest.raises(ValueError, match="Expected `robustness` without 'blur' for rows of a table"):
        fitted("blur", "blur")


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_tokens_have_no_steps(tmp_path: Path) -> None:
    tokens = TensorDataset(torch.randint(0, 5, (N, 4)), labels())
    monitor = AttributionMonitor(methods="saliency", metrics=(), robustness="fgsm", on_error="raise")
    with pytest.raises(ValueError, match="Expected `robustness` to be empty for tokens"):
        fit(tmp_path, monitor, data=lambda: DataLoader(tokens, 4), model=OfTokens(), max_epochs=1)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_a_check_that_fails_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no gradient")

    monkeypatch.setattr("dynalens.explanations.robustness.smallest_step", fails)
    monitor = AttributionMonitor(methods="saliency", metrics=(), robustness=("fgsm", "contrast"), num_samples=2)
    with pytest.warns(UserWarning, match="fgsm is left out of the explanations, training goes on: RuntimeError"):
        fit(tmp_path, monitor, max_epochs=1)
    assert {"contrast/margin", "none/margin"} <= set(load_explanations(tmp_path)[0].values)


class OfLabels(Classifier):
    """Any number of labels."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_several_labels_have_no_steps_and_this_is_said_once(tmp_path: Path) -> None:
    data = TensorDataset(images(), (torch.arange(3) <= labels()[:, None]).float())
    monitor = AttributionMonitor(
        methods="saliency", metrics=(), robustness=("fgsm", "blur"), num_samples=2, max_overhead=None
    )
    with pytest.warns(UserWarning, match="left out: fgsm, blur. They need one predicted class") as caught:
        fit(
            tmp_path,
            TrainingDynamicsMonitor(),
            monitor,
            model=OfLabels(),
            data=lambda: DataLoader(data, 4),
            max_epochs=3,
        )
    assert len([w for w in caught if "left out" in str(w.message)]) == 1
