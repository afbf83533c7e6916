"""Batches with a mask that says which pixels, tokens, labels and numbers are known: only these are recorded."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dynalens import AttributionMonitor, CaptureError, TrainingDynamicsMonitor
from dynalens.dynamics import SampleStatistics
from training import K, N, fit, fit_undisturbed, images, indices_of, loader

pytestmark = pytest.mark.usefixtures("undrawn")

Loss = Callable[[Tensor, Tensor, Tensor], Any]
D, H, W = 3, 4, 5


class Samples(Dataset[Any]):
    """Images, targets and which of these are known. It shows its targets to nobody, and has a 0 for each other one."""

    def __init__(self, given: Tensor, *, share: float = 0.7, filling: float = 0) -> None:
        known = torch.rand(given.shape, generator=torch.Generator().manual_seed(8)) < share
        known.flatten(1)[torch.arange(N), torch.arange(N) % known[0].numel()] = True  # every sample has one
        self._rows = list(zip(images(), given.masked_fill(~known, filling), known, strict=True))

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return self._rows[i]


class Masked(pl.LightningModule):
    """Keeps outputs, targets and mask of every sample in every step."""

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.of_known = net, loss
        self.seen: dict[int, list[Any]] = {i: [] for i in range(N)}

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x / N)
        return z

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, known = batch
        z = self(x)
        for i, *row in zip(indices_of(x), z.detach(), y, known, strict=True):
            self.seen[i].append([values.cpu().clone() for values in row])
        return self.of_known(z, y, known)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def recorded(
    tmp_path: Path, net: Callable[[], nn.Module], loss: Loss, data: Samples
) -> tuple[SampleStatistics, dict[int, list[Any]]]:
    """The record of two epochs, and what was seen by hand. Training ends as without the monitor."""
    monitor = TrainingDynamicsMonitor(history=False)
    model = fit_undisturbed(tmp_path, monitor, lambda: Masked(net(), loss), data=lambda: loader(data), max_epochs=2)
    return monitor.statistics(), model.seen


def pixel_network(outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, outputs, (1, 2), padding=(0, 1)))


def row_network(outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, outputs))


CLASSES_OF_PIXELS: dict[str, Loss] = {
    "selected": lambda z, y, known: F.cross_entropy(z.movedim(1, -1)[known], y[known]),
    "selected losses": lambda z, y, known: F.cross_entropy(z, y, reduction="none")[known].mean(),
    "log-probabilities": lambda z, y, known: F.nll_loss(z.log_softmax(1).permute(0, 2, 3, 1)[known], y[known]),
    "selected, not reduced": lambda z, y, known: (
        F.cross_entropy(z.movedim(1, -1)[known], y[known], reduction="none").sum() / 40
    ),
}


@pytest.mark.parametrize("loss", CLASSES_OF_PIXELS.values(), ids=CLASSES_OF_PIXELS.keys())
def test_pixels_that_a_mask_selects_are_those_of_the_record(tmp_path: Path, loss: Loss) -> None:
    given = torch.randint(0, K, (N, H, W), generator=torch.Generator().manual_seed(2))
    statistics, seen = recorded(tmp_path, pixel_network(K), loss, Samples(given))
    for i, steps in seen.items():
        losses = [F.cross_entropy(z[:, known].T, y[known]).item() for z, y, known in steps]
        right = [(z.argmax(0) == y)[known].float().mean().item() for z, y, known in steps]
        assert statistics.loss[i] == pytest.approx(np.mean(losses), rel=1e-4)
        assert statistics.correctness[i] == pytest.approx(np.mean(right), rel=1e-4)
        assert steps[0][2].flatten()[statistics.arrays()["unit"][i]], "the worst pixel is one that is known"


BITS_OF_PIXELS: dict[str, Loss] = {
    "selected": lambda z, y, known: F.binary_cross_entropy_with_logits(z.squeeze(1)[known], y[known]),
    "selected probabilities": lambda z, y, known: F.binary_cross_entropy(z.squeeze(1).sigmoid()[known], y[known]),
    "factor": lambda z, y, known: F.binary_cross_entropy_with_logits(z.squeeze(1) * known, y * known),
}


@pytest.mark.parametrize("same", [False, True], ids=["each its own", "all the same"])
@pytest.mark.parametrize("loss", BITS_OF_PIXELS.values(), ids=BITS_OF_PIXELS.keys())
def test_pixels_of_two_classes_that_a_mask_selects_stay_pixels(tmp_path: Path, loss: Loss, same: bool) -> None:
    given = torch.randint(0, 2, (N, H, W), generator=torch.Generator().manual_seed(2)).float()
    data = Samples(given)
    if same:  # then the pixels that count are a table, as several labels are
        data._rows = [(x, y.masked_fill(~data._rows[0][2], 0), data._rows[0][2]) for x, y, _ in data._rows]
    statistics, seen = recorded(tmp_path, pixel_network(1), loss, data)
    assert statistics.arrays()["unit_columns"].tolist() == [W] * N
    for i, steps in seen.items():
        margins = [((2 * y - 1) * z[0])[known] for z, y, known in steps]
        assert statistics.margin[i] == pytest.approx(np.mean([m.min().item() for m in margins]), rel=1e-4, abs=1e-5)


NUMBERS: dict[str, Loss] = {
    "selected": lambda p, y, known: F.mse_loss(p[known], y[known]),
    "masked_select": lambda p, y, known: F.mse_loss(p.masked_select(known), y.masked_select(known)),
    "product": lambda p, y, known: (F.mse_loss(p, y, reduction="none") * known).sum() / known.sum(),
    "selected losses": lambda p, y, known: F.mse_loss(p, y, reduction="none")[known].mean(),
    "factor": lambda p, y, known: F.mse_loss(p * known, known * y),
    "columns": lambda p, y, known: sum(F.mse_loss(p[known[:, d], d], y[known[:, d], d]) for d in range(D)),
    "returned": lambda p, y, known: {
        "loss": (p - y)[known].square().mean(),
        "predictions": p,
        "targets": y.masked_fill(~known, torch.nan),
    },
}


FILLINGS = [(name, 0.0) for name in NUMBERS]
FILLINGS += [(name, torch.nan) for name in ("selected", "masked_select", "columns", "returned")]  # which read no others


@pytest.mark.parametrize(("name", "filling"), FILLINGS)
def test_numbers_that_a_mask_leaves_out_have_no_part_in_their_sample(tmp_path: Path, name: str, filling: float) -> None:
    given = torch.randn(N, D, generator=torch.Generator().manual_seed(2)) * 2 + 1
    statistics, seen = recorded(tmp_path, row_network(D), NUMBERS[name], Samples(given, filling=filling))
    shown = statistics.arrays()
    for i, steps in seen.items():
        squares = [(p - y)[known].square().mean().item() for p, y, known in steps]
        assert statistics.loss[i] == pytest.approx(np.mean(squares), rel=1e-4)
        known = steps[0][2].numpy()
        assert np.isnan(shown["unit_targets"][i]).tolist() == (~known).tolist()
        np.testing.assert_allclose(shown["unit_targets"][i][known], given[i].numpy()[known], rtol=1e-6)


def test_numbers_on_another_scale_may_be_missing(tmp_path: Path) -> None:
    given = torch.randn(N, D, generator=torch.Generator().manual_seed(2)) * 2 + 1
    loss: Loss = lambda p, y, known: F.mse_loss(p[known], ((y - 1) / 2)[known])
    statistics, seen = recorded(tmp_path, row_network(D), loss, Samples(given, filling=torch.nan))
    targets = statistics.arrays()["unit_targets"]
    for i, steps in seen.items():
        known = steps[0][2].numpy()
        np.testing.assert_allclose(targets[i][known], (given[i].numpy()[known] - 1) / 2, rtol=1e-5)


def test_columns_of_numbers_of_different_samples_are_refused(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor, known: Tensor) -> Any:
        rows = [torch.arange(3), torch.arange(1, 4)]  # as many of each column, which stand side by side nowhere
        return sum(F.mse_loss(p[of_column, d], y[of_column, d]) for d, of_column in enumerate(rows))

    given = torch.randn(N, D, generator=torch.Generator().manual_seed(2))
    with pytest.raises(CaptureError, match=r"to have the same rows of the batch, got others\. Return a dict with"):
        recorded(tmp_path, row_network(D), loss, Samples(given, share=1.0))


def test_columns_of_numbers_that_are_first_missing_later_keep_their_samples(tmp_path: Path) -> None:
    """The first batch has all numbers, and the later ones as many of each column, of other samples."""
    given, known = torch.randn(N, D, generator=torch.Generator().manual_seed(2)), torch.ones(N, D, dtype=torch.bool)
    later = torch.arange(6, N)
    known[later, later % D] = False
    data = Samples(given, share=1.0)
    data._rows = list(zip(images(), given.masked_fill(~known, torch.nan), known, strict=True))
    monitor, model = TrainingDynamicsMonitor(history=False), Masked(row_network(D)(), NUMBERS["columns"])
    batches = lambda: loader(data, batch_size=6, shuffle=False, drop_last=True)
    fit(tmp_path, monitor, model=model, data=batches, max_epochs=1)
    shown = monitor.statistics().arrays()["unit_residuals"]
    for i, steps in list(model.seen.items())[:18]:
        p, y, is_known = steps[0]
        np.testing.assert_allclose(shown[i][is_known], (p - y)[is_known].abs(), rtol=1e-4)
        assert np.isnan(shown[i][~is_known]).all()


class LastOf(Masked):
    """Reads the rows of an image as steps of a series, of which one has the output of the sample."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, is_last = batch
        z = self.net(x.squeeze(1) / N)[is_last]
        for i, *row in zip(indices_of(x), z.detach(), y, strict=True):
            self.seen[i].append([values.cpu().clone() for values in row])
        return self.of_known(z, y, is_last)


ONE_EACH: dict[str, tuple[int, Loss, Callable[[], Tensor]]] = {
    "class": (K, lambda z, y, _: F.cross_entropy(z, y), lambda: torch.arange(N) % K),
    "class with another number": (K, lambda z, y, _: F.cross_entropy(z, (y + 1) % K), lambda: torch.arange(N) % K),
    "two classes": (
        1,
        lambda z, y, _: F.binary_cross_entropy_with_logits(z.squeeze(1), y),
        lambda: (torch.arange(N) % 2).float(),
    ),
    "number": (1, lambda z, y, _: F.mse_loss(z.squeeze(1), y), lambda: torch.arange(N) / 7),
}


@pytest.mark.parametrize(("outputs", "loss", "given"), ONE_EACH.values(), ids=ONE_EACH.keys())
def test_a_mask_that_selects_one_step_of_each_sample_selects_no_units(
    tmp_path: Path, outputs: int, loss: Loss, given: Callable[[], Tensor]
) -> None:
    steps, y = F.one_hot(torch.arange(N) % 6, 6).bool(), given()
    data = Samples(torch.zeros(N, 1))
    data._rows = list(zip(images(), y, steps, strict=True))
    monitor, model = TrainingDynamicsMonitor(history=False), LastOf(nn.Linear(6, outputs), loss)
    fit(tmp_path, monitor, model=model, data=lambda: loader(data), max_epochs=2)
    statistics = monitor.statistics()
    assert statistics.presentations.tolist() == [2] * N
    assert (statistics.arrays().get("unit") is None) == (statistics.target is None)
    for i, seen in model.seen.items():
        losses = [float(loss(z[None], y[None], steps)) for z, y in seen]
        assert statistics.loss[i] == pytest.approx(np.mean(losses), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", ["labels", "classes", "numbers"])
def test_units_of_which_one_is_known_in_each_sample_stay_units(tmp_path: Path, kind: str) -> None:
    draw = torch.Generator().manual_seed(3)
    values = {
        "labels": torch.randint(0, 2, (N, 6), generator=draw).float(),
        "classes": torch.randint(0, K, (N, 6), generator=draw),
        "numbers": torch.randn(N, 6, generator=draw),
    }[kind]
    losses: dict[str, Any] = {"labels": F.binary_cross_entropy_with_logits, "classes": F.cross_entropy}
    loss = losses.get(kind, F.mse_loss)
    known = F.one_hot(torch.arange(N) % 6, 6).bool()
    data = Samples(values)
    data._rows = list(zip(images(), values, known, strict=True))
    of_known: Loss = lambda z, y, known: loss(z[known] if kind == "classes" else z.squeeze(2)[known], y[known])

    class Steps(Masked):
        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.net(x.squeeze(1) / N)
            return z

    monitor, model = (
        TrainingDynamicsMonitor(history=False),
        Steps(nn.Linear(6, K if kind == "classes" else 1), of_known),
    )
    fit(tmp_path, monitor, model=model, data=lambda: loader(data), max_epochs=1)
    assert monitor.statistics().arrays()["unit"].tolist() == (torch.arange(N) % 6).tolist()


EXPLAINED: dict[str, tuple[Callable[[], nn.Module], Loss, Callable[[], Tensor]]] = {
    "numbers": (row_network(D), NUMBERS["selected"], lambda: torch.randn(N, D)),
    "numbers, column by column": (row_network(D), NUMBERS["columns"], lambda: torch.randn(N, D)),
    "numbers, returned": (row_network(D), NUMBERS["returned"], lambda: torch.randn(N, D)),
    "pixels": (pixel_network(1), BITS_OF_PIXELS["selected"], lambda: torch.randint(0, 2, (N, H, W)).float()),
    "classes of pixels": (
        pixel_network(K),
        CLASSES_OF_PIXELS["selected"],
        lambda: torch.randint(0, K, (N, H, W)),
    ),
    "labels": (
        row_network(D),
        lambda z, y, known: F.binary_cross_entropy_with_logits(z[known], y[known]),
        lambda: torch.randint(0, 2, (N, D)).float(),
    ),
    "labels, returned": (
        row_network(D),
        lambda z, y, known: {
            "loss": F.multilabel_soft_margin_loss(z, y),
            "logits": z,
            "targets": y.masked_fill(~known, -100),
        },
        lambda: torch.randint(0, 2, (N, D)).float(),
    ),
}


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize(("net", "loss", "given"), EXPLAINED.values(), ids=EXPLAINED.keys())
def test_samples_whose_batch_has_a_mask_beside_the_targets_are_explained(
    tmp_path: Path, net: Callable[[], nn.Module], loss: Loss, given: Callable[[], Tensor]
) -> None:
    torch.manual_seed(4)
    data = Samples(given())
    attribution = AttributionMonitor(methods="saliency", metrics=(), on_error="raise", num_samples=2, suspects=2)

    def batches() -> DataLoader[Any]:
        return loader(data)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Explanations are switched off")
        fit(tmp_path, TrainingDynamicsMonitor(), attribution, model=Masked(net(), loss), data=batches, max_epochs=2)
    assert (tmp_path / "dynalens" / "explanations" / "epoch_000001.npz").exists()
