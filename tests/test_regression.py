"""Regressions: what is recorded of each target, against plain Python, and what is no regression of labels."""

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

from dynalens import (
    AttributionMonitor,
    CaptureError,
    SampleIdentityError,
    TrainingDynamics,
    TrainingDynamicsMonitor,
    load_explanations,
    load_record,
)
from dynalens.dynamics import Array
from dynalens.dynamics.tolerance import default_tolerance
from dynalens.embeddings import LabelEvidence
from dynalens.record import read_arrays
from dynalens.record.checks import check_statistics
from dynalens.report import to_fiftyone, to_label_studio, write_report
from dynalens.suspicion import compare_runs, target_words
from dynalens.units import multi_label, regression
from training import Classifier, N, assert_merged_alike, fit, images, labels, loader

pytestmark = pytest.mark.usefixtures("undrawn")


def targets(columns: int = 1) -> Tensor:
    """Targets (N, columns), of another scale in each column."""
    values = torch.randn(N, columns, generator=torch.Generator().manual_seed(2))
    return values * torch.tensor([1.0, 10.0, 100.0])[:columns] + 3


class Regressor(Classifier):
    """As the classifier of other tests, with a number for each target."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, outputs))

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits, y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def data(y: Tensor | None = None, **options: Any) -> Callable[[], Any]:
    given = targets() if y is None else y
    return lambda: loader(TensorDataset(images(), given), **options)


def monitored(
    tmp_path: Path, model: Classifier | None = None, y: Tensor | None = None, trainer: Any = None, **options: Any
) -> tuple[TrainingDynamicsMonitor, Any]:
    monitor = TrainingDynamicsMonitor(**options)
    return monitor, fit(tmp_path, monitor, model=model or Regressor(), data=data(y), **(trainer or {}))


def by_hand(residuals: Array, target: Array, tolerance: Array, weights: list[float]) -> dict[str, Any]:
    """The record of one sample from its residuals (epochs, D), in plain Python."""
    ratios = [[abs(r) / e for r, e in zip(row, tolerance, strict=True)] for row in residuals]
    right = [[ratio < 1 for ratio in row] for row in ratios]
    total = sum(weights)
    absolute = [
        sum(w * abs(row[d]) for w, row in zip(weights, residuals, strict=True)) / total for d in range(len(target))
    ]
    worst = max(range(len(target)), key=lambda d: absolute[d] / tolerance[d])
    signed = sum(w * row[worst] for w, row in zip(weights, residuals, strict=True)) / total
    steps = list(itertools.pairwise(right))
    return {
        "margin": np.mean([-math.log(max(row)) for row in ratios]),
        "confidence": np.mean([1 / (1 + max(row)) for row in ratios]),
        "correctness": np.mean(right),
        "loss": np.mean(np.square(residuals)),
        "forgetting_events": sum(all(before) and not all(after) for before, after in steps),
        "unit_forgetting_events": sum(
            b and not a for before, after in steps for b, a in zip(before, after, strict=True)
        ),
        "unit": worst,
        "unit_margin": math.log(tolerance[worst] / absolute[worst]),
        "target": target[worst],
        "residual": signed,
        "prediction": target[worst] + signed,
        "absolute_residual": absolute[worst],
        "tolerance": tolerance[worst],
        "unit_residuals": absolute,
    }


@pytest.mark.parametrize("tolerance", [None, 0.7, [0.5, 20.0, 90.0]])
def test_the_record_of_a_regression_is_that_of_plain_python(tolerance: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    y = targets(3)[:6]
    scale = torch.tensor([1.0, 10.0, 100.0])
    size = torch.tensor([8.0, 1.0, 0.5, 0.2]).reshape(4, 1, 1)  # first worse than a constant, then better
    residuals = torch.randn(4, 6, 3, generator=generator) * scale * size
    dynamics = TrainingDynamics(6, tolerance=tolerance)
    for epoch, r in enumerate(residuals):
        order = torch.randperm(6, generator=generator)
        for rows in (order[:4], order[4:]):
            dynamics.update_units(rows, regression(r[rows], y[rows], r[rows].square()))
        dynamics.end_epoch(epoch)
    columns = y.double().numpy()
    deviations = [float(np.median(np.abs(column - np.median(column)))) for column in columns.T]
    epsilon = np.array(deviations if tolerance is None else tolerance) * np.ones(3)
    errors = (residuals.abs().double().numpy() / epsilon).max(axis=(1, 2))  # one is the largest twentieth of 18
    constant = float((np.abs(columns - np.median(columns, axis=0)) / epsilon).max())
    assert min(errors) < constant < max(errors)
    least = np.minimum.accumulate(errors)
    weights = [(t + 1) * min(error, constant**2 / error) ** 4 for t, error in enumerate(least)]
    statistics = dynamics.compute()
    for sample in range(6):
        expected = by_hand(residuals[:, sample].double().numpy(), columns[sample], epsilon, weights)
        for name, value in expected.items():
            assert getattr(statistics, name)[sample] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_an_epoch_in_which_a_regression_breaks_down_counts_no_more_for_its_residuals() -> None:
    dynamics, targets = TrainingDynamics(2, tolerance=1.0), torch.tensor([[-8.0], [8.0]])
    for epoch, residual in enumerate([4.0, 1.0, 6.0]):
        residuals = torch.full((2, 1), residual)
        dynamics.update_units([0, 1], regression(residuals, targets, residuals.square()))
        dynamics.end_epoch(epoch)
    # The largest residuals are below 8, that of the median. The weights are 1 * 4^4, 2 * 1^4 and 3 * 1^4.
    assert dynamics.compute().absolute_residual == pytest.approx(np.full(2, (256 * 4 + 2 * 1 + 3 * 6) / 261))


def test_the_default_tolerance_is_the_median_absolute_deviation() -> None:
    y = np.array([[1.0, 5.0, 0.0, np.nan], [2.0, 5.0, 0.0, 1.0], [4.0, 5.0, 0.0, 3.0], [9.0, 5.0, 6.0, np.nan]])
    # Medians 3, 5, 0, 2; where the median distance is 0 it is the mean, and 1 where no target differs.
    np.testing.assert_allclose(default_tolerance(y), [1.5, 1.0, 1.5, 1.0])


@pytest.mark.parametrize("tolerance", [0, -1.0, [1.0, 0.0], [], float("nan")])
def test_a_tolerance_that_is_not_above_0_raises(tolerance: Any) -> None:
    with pytest.raises(ValueError, match="`tolerance` to be above 0, a number or one for each target"):
        TrainingDynamicsMonitor(tolerance=tolerance)


def test_a_tolerance_for_another_number_of_targets_raises_in_the_first_batch() -> None:
    dynamics = TrainingDynamics(2, tolerance=[1.0, 2.0])
    with pytest.raises(ValueError, match="a number or one for each of 3 targets, got 2"):
        dynamics.update_units([0, 1], regression(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)))


def test_missing_targets_and_those_of_weight_0_are_left_out() -> None:
    y = torch.tensor([[1.0, torch.nan], [2.0, 7.0], [torch.nan, torch.nan]])
    counted = torch.tensor([[True, True], [True, False], [True, True]])
    r = torch.full((3, 2), 2.0)
    dynamics = TrainingDynamics(3, tolerance=1.0)
    dynamics.update_units([0, 1, 2], regression(r, y, r.square(), counted))
    dynamics.end_epoch(0)
    statistics = dynamics.compute()
    assert statistics.presentations.tolist() == [1, 1, 0]
    assert statistics.unit_residuals is not None
    np.testing.assert_array_equal(statistics.unit_residuals, [[2, np.nan], [2, np.nan], [np.nan, np.nan]])
    assert statistics.loss.tolist()[:2] == [4.0, 4.0]


def test_presentations_whose_prediction_is_not_finite_are_left_out() -> None:
    r = torch.tensor([[torch.nan], [torch.inf], [0.5]])
    dynamics = TrainingDynamics(3, tolerance=1.0)
    dynamics.update_units([0, 1, 2], regression(r, torch.zeros(3, 1), r.square()))
    assert dynamics.end_epoch(0).non_finite == 2
    assert dynamics.compute().presentations.tolist() == [0, 0, 1]


def test_a_target_that_changes_raises() -> None:
    dynamics = TrainingDynamics(2)
    for epoch, y in enumerate([[[1.0], [2.0]], [[1.0], [2.5]]]):
        dynamics.update_units([0, 1], regression(torch.ones(2, 1), torch.tensor(y), torch.ones(2, 1)))
        if not epoch:
            dynamics.end_epoch(0)
    with pytest.raises(ValueError, match="label of a sample to stay the same, got 1 samples"):
        dynamics.end_epoch(1)


def test_a_record_of_labels_takes_no_numbers() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update_units([0, 1], multi_label(torch.zeros(2, 3), torch.ones(2, 3).long()))
    with pytest.raises(ValueError, match=r"Expected 3 labels for each sample, .* got 3 targets for each sample"):
        dynamics.update_units([0, 1], regression(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)))


def test_a_state_of_a_regression_under_way_continues_exactly() -> None:
    y, residuals = targets(2), torch.randn(2, N, 2, generator=torch.Generator().manual_seed(0))
    one, other = TrainingDynamics(N), TrainingDynamics(N)
    for epoch, half in itertools.product(range(2), (slice(0, 9), slice(9, N))):
        rows, r = torch.arange(N)[half], residuals[epoch][half]
        if (epoch, half.start) == (1, 9):
            other.load_state_dict(one.state_dict())
            other.update_units(rows, regression(r, y[half], r.abs()))
        one.update_units(rows, regression(r, y[half], r.abs()))
        if half.start:
            one.end_epoch(epoch)
    other.end_epoch(1)
    for name, values in one.compute().arrays().items():
        np.testing.assert_array_equal(getattr(other.compute(), name), values, err_msg=name)


def test_processes_merge_a_regression_also_where_one_has_no_sample() -> None:
    one, other = TrainingDynamics(2), TrainingDynamics(2)
    one.update_units([1, 0], regression(torch.ones(2, 3), targets(3)[:2], torch.ones(2, 3)))
    assert_merged_alike(one, other)


class Flat(Regressor):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        predictions = self(batch[0] / N).squeeze(1)
        self.remember(batch[0], predictions, batch[1])
        return self.loss(predictions, batch[1])


class Module(Regressor):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = nn.L1Loss()(logits, y)
        return loss


class Smooth(Regressor):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.smooth_l1_loss(logits, y, beta=0.5)


class Huber(Regressor):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.huber_loss(logits, y, delta=0.5)


class Imported(Regressor):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return mse_loss(logits, y) + 0.1 * F.l1_loss(logits, y)


class Scaled(Regressor):
    """Brings the targets to another scale in the step."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits, (y - 3) / 2)


class InParts(Regressor):
    """Parts of a split, which are several results of one operation."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        parts = zip(logits.chunk(2), y.chunk(2), strict=True)
        return torch.stack([F.mse_loss(part, of_part) for part, of_part in parts]).mean()


class Returned(Regressor):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        predictions = self(batch[0] / N)
        self.remember(batch[0], predictions, batch[1])
        return {"loss": (predictions - batch[1]).square().mean(), "predictions": predictions, "targets": batch[1]}


class ByHand(Regressor):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class PartsByHand(ByHand):
    """Gradients of all parts add up before the optimizer's step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for x, y in zip(batch[0].split(2), batch[1].split(2), strict=True):
            self.manual_backward(Regressor.training_step(self, [x, y], batch_idx))
        optimizer.step()


class SecondLook(ByHand):
    """The same rows once more, after the weights have changed."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        self.manual_backward(self.loss(self(batch[0] / N), batch[1]))


class BesideACritic(ByHand):
    """The targets of another network's loss are no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))

    def train_critic(self, x: Tensor) -> None:
        self.manual_backward(F.mse_loss(self.critic(x / N), torch.ones(len(x), 1)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        self.train_critic(batch[0])


class AfterACritic(BesideACritic):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.train_critic(batch[0])
        ByHand.training_step(self, batch, batch_idx)


LOSSES: dict[type[Regressor], Callable[[Tensor], Tensor]] = {
    Regressor: torch.square,
    Module: torch.abs,
    Smooth: lambda r: torch.where(r.abs() < 0.5, r**2, r.abs() - 0.25),
    Huber: lambda r: torch.where(r.abs() < 0.5, r**2 / 2, 0.5 * (r.abs() - 0.25)),
    Imported: torch.square,
    InParts: torch.square,
    Returned: torch.square,
    ByHand: torch.square,
    PartsByHand: torch.square,
    SecondLook: torch.square,
    BesideACritic: torch.square,
    AfterACritic: torch.square,
    Flat: torch.square,
}


def test_parts_with_an_update_between_them_are_one_error(tmp_path: Path) -> None:
    class Updates(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            for x, y in zip(batch[0].split(2), batch[1].split(2), strict=True):
                super().training_step([x, y], batch_idx)

    with pytest.raises(CaptureError, match="or one loss of numbers whose targets are labels of the batch, got none"):
        monitored(tmp_path, Updates(), trainer={"max_epochs": 1})


@pytest.mark.parametrize("model", LOSSES, ids=lambda model: model.__name__)
def test_losses_of_numbers_are_recorded(tmp_path: Path, model: type[Regressor]) -> None:
    y = targets().squeeze(1) if model is Flat else targets()
    monitor, trained = monitored(tmp_path, model(), y, trainer={"max_epochs": 2}, tolerance=1.5)
    losses, right = np.zeros(N), np.zeros(N)
    for _, rows, predictions, given in trained.seen:
        residuals = (predictions - given).flatten()
        losses[rows] += LOSSES[model](residuals).numpy() / 2
        right[rows] += (residuals.abs() < 1.5).numpy() / 2
    statistics = monitor.statistics()
    np.testing.assert_allclose(statistics.loss, losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.correctness, right, atol=1e-6)
    np.testing.assert_allclose(statistics.arrays()["target"], targets().flatten(), rtol=1e-6)


def test_predictions_that_a_step_returns_are_the_outputs_of_a_regression(tmp_path: Path) -> None:
    monitor, _ = monitored(tmp_path, Returned(), trainer={"max_epochs": 1}, capture="outputs")
    np.testing.assert_allclose(monitor.statistics().arrays()["target"], targets().flatten(), rtol=1e-6)


def test_targets_of_another_scale_are_recorded_in_it(tmp_path: Path) -> None:
    monitor, _ = monitored(tmp_path, Scaled(), trainer={"max_epochs": 1})
    np.testing.assert_allclose(monitor.statistics().arrays()["target"], (targets().flatten() - 3) / 2, rtol=1e-5)


class ScaledByBatch(Regressor):
    """Brings the targets of each batch to a scale of their own."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits, (y - y.mean()) / y.std())


def test_targets_on_another_scale_in_each_batch_raise_in_the_second(tmp_path: Path) -> None:
    model = ScaledByBatch()
    with pytest.raises(CaptureError, match="on one scale in every batch, got another scale in the second"):
        monitored(tmp_path, model)
    assert len(model.seen) == 2


class OneColumn(Regressor):
    """Learns one of the targets that the batch holds side by side."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits.squeeze(1), y[:, 1])


class TwoColumns(Regressor):
    """Two losses, each of one column of the batch's targets."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits[:, 0], y[:, 0]) + F.l1_loss(logits[:, 1], y[:, 1])


@pytest.mark.parametrize(("model", "columns"), [(OneColumn(), [1]), (TwoColumns(2), [0, 1])], ids=["one", "two"])
def test_columns_of_the_targets_are_recorded(tmp_path: Path, model: Regressor, columns: list[int]) -> None:
    y = targets(2)
    monitor, trained = monitored(tmp_path, model, y, trainer={"max_epochs": 1})
    residuals = np.zeros((N, len(columns)))
    for _, rows, z, _ in trained.seen:
        residuals[rows] = (z - y[rows][:, columns]).abs().numpy()
    np.testing.assert_allclose(monitor.statistics().arrays()["unit_residuals"], residuals, rtol=1e-5)


class ScaledRows(Scaled):
    """The same of rows of a table."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self(batch[0]), batch[1])


def test_a_feature_in_the_order_of_the_labels_is_no_label(tmp_path: Path) -> None:
    features, y = torch.randn(N, 36, generator=torch.Generator().manual_seed(3)), targets()
    features[:, 0] = 2 * y[:, 0]
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=ScaledRows(), data=lambda: loader(TensorDataset(features, y)), max_epochs=1)
    np.testing.assert_allclose(monitor.statistics().arrays()["target"], (y.flatten() - 3) / 2, rtol=1e-5)


class TwoHeads(Regressor):
    """Two losses, each of one column of the targets, and a loss of the inputs beside them."""

    def __init__(self) -> None:
        super().__init__(3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, a, b = batch
        z = self(x / N)
        self.remember(x, z, a)
        rebuilt = z[:, 2:].expand(-1, 36).reshape(x.shape)
        return F.mse_loss(z[:, :1], a) + F.l1_loss(z[:, 1:2], b) + F.mse_loss(rebuilt, x)


def test_losses_of_two_predictions_are_two_targets_of_a_sample(tmp_path: Path) -> None:
    y = targets(2)
    monitor = TrainingDynamicsMonitor(class_names=["width", "height"])
    pairs = TensorDataset(images(), y[:, :1], y[:, 1:])
    model = fit(tmp_path, monitor, model=TwoHeads(), data=lambda: loader(pairs), max_epochs=1)
    residuals = np.zeros((N, 2))
    for _, rows, z, _ in model.seen:
        residuals[rows] = (z[:, :2] - y[rows]).abs().numpy()
    statistics = monitor.statistics()
    np.testing.assert_allclose(statistics.arrays()["unit_residuals"], residuals, rtol=1e-5)
    table = monitor.table()
    assert table["unit_name"].tolist() == [["width", "height"][unit] for unit in table["unit"]]


class Autoencoder(Regressor):
    def __init__(self) -> None:
        super().__init__(36)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = batch[0].flatten(1)
        return F.mse_loss(self(batch[0] / N), x)


class Critic(Regressor):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        z = self(batch[0] / N)
        return F.mse_loss(z, torch.ones_like(z))


class Noise(Regressor):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        z = self(batch[0] / N)
        return F.mse_loss(z, torch.randn_like(z))


@pytest.mark.parametrize("model", [Autoencoder, Critic, Noise])
@pytest.mark.parametrize("y", [labels(), targets()], ids=["classes", "numbers"])
def test_losses_of_other_numbers_are_no_regression(tmp_path: Path, model: type[Regressor], y: Tensor) -> None:
    message = r"got none \(not counting losses whose targets are no labels, 1: mse"
    with pytest.raises(CaptureError, match=message):
        monitored(tmp_path, model(), y)


class Flattened(Regressor):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self(batch[0] / N), batch[1])


def test_targets_that_are_the_inputs_are_no_regression(tmp_path: Path) -> None:
    rows = images().flatten(1)
    with pytest.raises(CaptureError, match="losses whose targets are no labels"):
        fit(
            tmp_path,
            TrainingDynamicsMonitor(),
            model=Flattened(36),
            data=lambda: loader(TensorDataset(rows, rows.clone())),
        )


@dataclass
class Batch:
    signal: Tensor
    price: Tensor


class OfNames(Regressor):
    """Its batch is an object or a dict with names of its own."""

    rebuilds = False

    def __init__(self) -> None:
        super().__init__(36)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = (batch["signal"], batch["price"]) if isinstance(batch, dict) else (batch.signal, batch.price)
        z = self(x / N)
        return F.mse_loss(z, x.flatten(1)) if self.rebuilds else F.mse_loss(z[:, :1], y)


KINDS = {
    "object": Batch,
    "dict": lambda x, y: {"signal": x, "price": y},
    "dict, targets first": lambda x, y: {"price": y, "signal": x},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_the_entry_with_the_most_axes_of_a_batch_with_names_is_its_input(
    tmp_path: Path, kind: Callable[..., Any]
) -> None:
    def together(samples: Any) -> Any:
        return kind(*(torch.stack(column) for column in zip(*samples, strict=True)))

    named, monitor, model = data(collate_fn=together), TrainingDynamicsMonitor(), OfNames()
    fit(tmp_path, monitor, model=model, data=named, max_epochs=1)
    np.testing.assert_allclose(monitor.statistics().arrays()["target"], targets().flatten(), rtol=1e-6)
    model.rebuilds = True
    with pytest.raises(CaptureError, match="losses whose targets are no labels"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=model, data=named, max_epochs=1)


class Auxiliary(Classifier):
    """A classifier with a loss of numbers of the batch beside its own."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, numbers = batch
        logits = self(x / N)
        return self.loss(logits, y) + self.weight * F.mse_loss(logits[:, :1], numbers)

    weight = 0.0


def test_a_classifier_with_a_loss_of_numbers_beside_its_own_keeps_its_record(tmp_path: Path) -> None:
    plain, with_numbers = TrainingDynamicsMonitor(), TrainingDynamicsMonitor()
    alone, both = Classifier(), Auxiliary()
    alone.load_state_dict(both.state_dict())
    fit(tmp_path / "a", plain, model=alone)
    triples = TensorDataset(images(), labels(), targets())
    fit(tmp_path / "b", with_numbers, model=both, data=lambda: loader(triples))
    pd.testing.assert_frame_equal(plain.table(), with_numbers.table())


class Brier(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits.softmax(1), F.one_hot(y, logits.shape[1]).float())


def test_a_loss_of_probabilities_and_bits_stays_one_of_classes(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=Brier(), max_epochs=1)
    assert monitor.statistics().unit is None
    assert monitor.statistics().label.tolist() == labels().tolist()


class Broadcast(Regressor):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            return F.mse_loss(self(batch[0] / N), batch[1])


def test_predictions_that_are_compared_with_every_target_raise(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"one shape, got \(4, 1\) and \(4,\): .*`predictions.squeeze\(1\)`"):
        monitored(tmp_path, Broadcast(), targets().squeeze(1))


class Reordered(Regressor):
    """Trains on the rows in another order, in a way that no function of torch shows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        order = np.argsort(-batch[1][:, 0].numpy())
        y = torch.from_numpy(batch[1].numpy()[order].copy())
        return {"loss": self.loss(self(batch[0] / N), y), "predictions": self(batch[0] / N), "targets": y}


def test_targets_in_another_order_raise(tmp_path: Path) -> None:
    with pytest.raises(SampleIdentityError, match="targets of the loss to be in the order of the batch"):
        monitored(tmp_path, Reordered())


class Chosen(Regressor):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch[0], batch[1].squeeze(1)
        kept = y > 3
        return F.mse_loss(self(x[kept] / N).squeeze(1), y[kept])


def test_rows_that_a_step_of_a_regression_chooses_are_followed(tmp_path: Path) -> None:
    monitor, _ = monitored(tmp_path, Chosen(), trainer={"max_epochs": 1})
    assert monitor.statistics().presentations.tolist() == (targets().flatten() > 3).int().tolist()


def test_precise_targets_keep_their_residuals(tmp_path: Path) -> None:
    """float32 holds 1.6e9 to 128: residuals are computed in the precision of the loss."""

    class Late(Regressor):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            predictions = batch[1] + 1.5 + 0 * self(batch[0] / N).double()
            return F.mse_loss(predictions, batch[1])

    monitor, _ = monitored(tmp_path, Late(), 1.6e9 + targets().double(), trainer={"max_epochs": 1})
    np.testing.assert_allclose(monitor.statistics().arrays()["residual"], 1.5, rtol=1e-6)


def test_accumulated_and_mixed_precision_steps_are_recorded_alike(tmp_path: Path) -> None:
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "precision": "bf16-mixed"}
    monitor, trained = monitored(tmp_path, trainer=options)
    total = np.zeros(N)
    for _, rows, predictions, given in trained.seen:
        total[rows] += (predictions.float() - given).square().flatten().numpy() / 2
    np.testing.assert_allclose(monitor.statistics().loss, total, rtol=1e-5)
    assert monitor.table()["presentations"].tolist() == [2] * N


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> TrainingDynamicsMonitor:
    """A run whose predictions are right up to a tenth; the targets of samples 3 and 8 are off by 5 and -4."""
    truth = torch.linspace(0, 4, N)
    given = truth.clone()
    given[3] += 5
    given[8] -= 4
    off = 0.1 * torch.randn(N, generator=torch.Generator().manual_seed(0))

    class Knows(Regressor):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            rows = batch[0][:, 0, 0, 0].long()
            return F.mse_loss((truth + off)[rows] + 0 * self(batch[0] / N).sum(), batch[1])

    folder = tmp_path_factory.mktemp("exchanged")
    return monitored(folder, Knows(), given, save_dir=folder / "record", trainer={"max_epochs": 2})[0]


def test_wrong_targets_are_named_and_left_out_of_the_clean_samples(exchanged: TrainingDynamicsMonitor) -> None:
    worst = exchanged.suspects(2)
    assert worst.index.tolist() == [3, 8]
    assert worst["target"].tolist() == pytest.approx([4 * 3 / 21 + 5, 4 * 8 / 21 - 4], rel=1e-5)
    assert worst["residual"].tolist() == pytest.approx([-5, 4], abs=0.3)
    classes = {"label", "suggested", "predicted", "agreement", "suggested_probability", "el2n", "unit"}
    assert not classes & set(worst.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 22 samples: anything may be true
        assert set(exchanged.clean_indices()) == set(range(N)) - {3, 8}
    rate = exchanged.noise_rate()
    assert rate.value == pytest.approx(2 / N)
    assert "it counts targets that stand out of the residuals" in str(rate)


def test_a_record_of_a_regression_is_read_back_with_every_residual(exchanged: TrainingDynamicsMonitor) -> None:
    assert exchanged.record.folder is not None
    record = load_record(exchanged.record.folder)
    pd.testing.assert_frame_equal(record.table(), exchanged.table())
    for _, presentations in record.history():
        residual = dict(zip(presentations["index"].tolist(), presentations["residual"].tolist(), strict=True))
        assert residual[3] == pytest.approx(-5, abs=0.3)
    page = write_report(record, exchanged.record.folder / "report.html").read_text()
    assert '"words":["target","predicted","closeness"]' in page
    assert '"5.57143"' in page  # 39 / 7
    assert "samples whose targets are probably wrong" in page


def test_prices_are_written_in_full(exchanged: TrainingDynamicsMonitor) -> None:
    target, prediction = np.full(N, 1_531_116.75), np.full(N, 123_456.5)
    statistics = replace(
        exchanged.record.statistics, target=target, prediction=prediction, residual=prediction - target
    )  # fmt: skip
    assert target_words(statistics, [3]) == (["1531117"], ["123456 (-1407660)"])


def test_exports_and_comparisons_of_a_regression_speak_of_numbers(
    exchanged: TrainingDynamicsMonitor, tmp_path: Path
) -> None:
    tasks = pd.read_json(to_label_studio(exchanged.suspects(1), tmp_path / "tasks.json"))
    assert tasks["data"][0]["given"] == pytest.approx(5.571428)
    assert tasks["predictions"][0][0]["result"][0]["value"]["number"] == pytest.approx(0.571, abs=0.3)
    with pytest.raises(ValueError, match=r"classes for FiftyOne, got the numbers of a regression. Use `to_json`"):
        to_fiftyone(exchanged.suspects(1), tmp_path / "labels.json")
    together = compare_runs([exchanged.table(), exchanged.table()])
    assert together.index.tolist()[:2] == [3, 8]
    assert together["prediction"].iloc[0] == pytest.approx(exchanged.suspects(1)["prediction"].iloc[0])


def test_relabelling_needs_classes(exchanged: TrainingDynamicsMonitor) -> None:
    with pytest.raises(ValueError, match=r"classes, or of several labels for .*, got one of a regression\."):
        exchanged.record.relabelled(TensorDataset(images(), targets()))


def test_embeddings_change_the_order_of_a_live_and_of_a_loaded_record(
    exchanged: TrainingDynamicsMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, vectors = exchanged.table().sort_index(), torch.ones(N, 2)

    def evidence_against_sample_12(_: Tensor, y: Any, tolerance: Any) -> LabelEvidence:
        np.testing.assert_allclose(y[:, 0], table["target"])
        assert tolerance == pytest.approx(table["tolerance"][:1])
        return LabelEvidence(np.where(np.arange(N)[:, None] == 12, -9.0, 0.0), loss=0.0, entropy=1.0)

    monkeypatch.setattr("dynalens.record.embedded.number_evidence", evidence_against_sample_12)
    assert exchanged.suspects(1, embeddings=vectors).index.tolist() == [12]
    assert "score_probe" not in exchanged.suspects(1, embeddings=vectors)
    assert exchanged.record.folder is not None
    loaded = load_record(exchanged.record.folder).table(embeddings=vectors)
    np.testing.assert_allclose(loaded["score"].sort_index(), exchanged.table(embeddings=vectors)["score"].sort_index())
    np.testing.assert_array_equal(exchanged.table()["score"].sort_index(), table["score"])  # the run's own stays


def test_targets_that_are_not_those_of_the_residuals_are_a_damaged_record(exchanged: TrainingDynamicsMonitor) -> None:
    arrays = exchanged.statistics().arrays()
    check_statistics(arrays)
    with pytest.raises(ValueError, match=rf"^unit_targets of shape \({N}, 2\) for unit_residuals of another one$"):
        check_statistics(arrays | {"unit_targets": np.zeros((N, 2), np.float32)})


def test_a_resumed_fit_continues_the_record_of_a_regression(tmp_path: Path) -> None:
    whole, _ = monitored(tmp_path / "whole")
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path / "ckpt", save_top_k=-1, filename="{epoch}")
    fit(
        tmp_path / "a", TrainingDynamicsMonitor(), checkpoint,
        model=Regressor(), data=data(), enable_checkpointing=True,
    )  # fmt: skip
    resumed = TrainingDynamicsMonitor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(tmp_path / "b", resumed, model=Regressor(), data=data(), ckpt_path=str(tmp_path / "ckpt" / "epoch=1.ckpt"))
    assert resumed.statistics().presentations.tolist() == [3] * N
    np.testing.assert_array_equal(resumed.statistics().target, whole.statistics().target)
    np.testing.assert_array_equal(resumed.statistics().tolerance, whole.statistics().tolerance)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_training_on_numbers_ends_bit_identical_with_the_monitors(tmp_path: Path) -> None:
    model = Regressor()
    model.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1))
    alone = fit(tmp_path, model=copy.deepcopy(model), data=data())
    attribution = AttributionMonitor(methods="saliency", metrics=(), on_error="raise", num_samples=2)
    watched = fit(tmp_path, TrainingDynamicsMonitor(), attribution, model=model, data=data())
    for before, after in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_the_default_explanations_of_a_regression_leave_curves_out_without_a_warning(tmp_path: Path) -> None:
    attribution = AttributionMonitor(max_overhead=None, on_error="raise")
    fit(tmp_path, TrainingDynamicsMonitor(), attribution, model=Regressor(), data=data(), max_epochs=2)
    assert set(load_explanations(tmp_path)[1].values) == {"saliency/attribution_drift"}


@pytest.mark.filterwarnings(
    "ignore:Expected the Trainer to have a TensorBoardLogger", "ignore:These metrics are left out"
)
@pytest.mark.parametrize("outputs", [1, 2])
def test_explanations_of_a_regression_are_of_its_outputs(tmp_path: Path, outputs: int) -> None:
    """The input times the gradient of a linear output sums to the output, but for the bias."""
    dynamics = TrainingDynamicsMonitor()
    attribution = AttributionMonitor(methods="input_x_gradient", metrics=("deletion",), on_error="raise", num_samples=4)
    model, linear = Regressor(outputs), nn.Linear(36, outputs)
    model.net = nn.Sequential(nn.Flatten(), linear)
    fit(tmp_path, dynamics, attribution, model=model, data=data(targets(outputs)), max_epochs=2)
    arrays = read_arrays(tmp_path / "dynalens" / "explanations" / "epoch_000001.npz")
    unit = int(outputs == 1)  # a single output is the second one of the logits 0 and z
    assert arrays["targets"].tolist() == [unit] * 4
    maps = arrays["input_x_gradient.maps"].astype(np.float32).reshape(4, -1)
    sums = maps.sum(axis=1) * arrays["input_x_gradient.scales"].flatten()
    np.testing.assert_allclose(sums, arrays["logits"][:, unit] - linear.bias[0].item(), rtol=1e-2, atol=2e-2)
    doubtful = dynamics.statistics().arrays()["unit"][arrays["suspects_label.ids"]]
    assert arrays["suspects_label.targets"].tolist() == ([1] * 4 if outputs == 1 else doubtful.tolist())


class WithBoxes(Regressor):
    """One linear layer, in batches that also hold boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(36, 1)
        self.net = nn.Sequential(nn.Flatten(), self.linear)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self(batch[0]), batch[1])


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_metrics_of_a_regression_are_those_that_compare_maps_with_earlier_ones_and_with_objects(tmp_path: Path) -> None:
    model, metrics = WithBoxes(), ("deletion", "class_sensitivity", "attribution_drift", "relevance_mass")
    boxes = torch.tensor([[0, 0, 3, 6]]).repeat(N, 1)
    samples = TensorDataset(images(), targets(), boxes)
    attribution = AttributionMonitor(methods="saliency", metrics=metrics, masks=2, on_error="raise", num_samples=2)
    callbacks = TrainingDynamicsMonitor(), attribution
    with pytest.warns(UserWarning, match=r"left out: deletion, class_sensitivity\. They need logits of classes"):
        fit(tmp_path, *callbacks, model=model, data=lambda: loader(samples), max_epochs=2)
    arrays = read_arrays(tmp_path / "dynalens" / "explanations" / "epoch_000001.npz")
    weights = model.linear.weight.detach().abs().reshape(6, 6)  # the saliency of a linear output
    expected = float(weights[:, :3].sum() / weights.sum())
    np.testing.assert_allclose(arrays["saliency.relevance_mass.values"], [expected] * 2, rtol=1e-2)
    assert arrays["saliency.attribution_drift.values"].shape == (2,)
    assert not any("deletion" in name or "class_sensitivity" in name for name in arrays)


class WithHead(Regressor):
    """Its ``forward`` returns features, of which the step predicts the second column of the batch's targets."""

    def __init__(self) -> None:
        super().__init__(3)
        self.features, self.head = nn.Linear(36, 3), nn.Linear(3, 1)
        self.net = nn.Sequential(nn.Flatten(), self.features)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self.head(logits).squeeze(1), y[:, 1])


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_explanations_of_a_regression_are_of_predictions_and_not_of_features(tmp_path: Path) -> None:
    """The prediction is a linear function here, so that its saliency is the same for each sample."""
    options: dict[str, Any] = {"methods": "saliency", "metrics": (), "on_error": "raise", "num_samples": 2}

    def explained(**forward: Any) -> WithHead:
        model = WithHead()
        callbacks = TrainingDynamicsMonitor(), AttributionMonitor(**options, **forward)
        fit(tmp_path, *callbacks, model=model, data=data(targets(2)), max_epochs=2)
        return model

    with pytest.raises(ValueError, match=r"as many numbers .* with its targets, 1, got 3. Pass `forward=`"):
        explained()
    model = explained(forward=lambda module, inputs: module.head(module(inputs)))
    arrays = read_arrays(tmp_path / "dynalens" / "explanations" / "epoch_000001.npz")
    expected = (model.head.weight @ model.features.weight).detach().abs().flatten()
    assert expected.max() > 0
    maps = np.abs(arrays["saliency.maps"].astype(np.float32).reshape(2, -1)) * arrays["saliency.scales"].reshape(2, -1)
    np.testing.assert_allclose(maps, np.tile(expected, (2, 1)), rtol=1e-2, atol=1e-3)
    assert set(arrays["targets"]) | set(arrays["suspects_label.targets"]) == {1}  # of the logits 0 and z
