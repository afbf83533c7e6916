"""A loss that a user wrote, with some of its rows masked: only the others are presentations of their samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import CaptureError, TrainingDynamicsMonitor
from test_losses import assert_equals_the_definitions
from training import Classifier, K, N, fit, fit_undisturbed, images, indices_of, labels, loader

pytestmark = pytest.mark.usefixtures("undrawn")

Rows = Callable[[Tensor, Tensor], Tensor]
SOFTMAX: dict[str, Rows] = {
    "log-softmax": lambda z, y: -z.log_softmax(1).gather(1, y[:, None])[:, 0],
    "logarithm of softmax": lambda z, y: -z.softmax(1)[torch.arange(len(y)), y].log(),
    "limited softmax": lambda z, y: -z.softmax(1).clamp(1e-7, 1 - 1e-7)[torch.arange(len(y)), y].log(),
    "one-hot": lambda z, y: -(F.one_hot(y, K) * z.log_softmax(1)).sum(1),
    "logsumexp": lambda z, y: z.logsumexp(1) - z.gather(1, y[:, None])[:, 0],
    "focal": lambda z, y: (lambda p: -((1 - p) ** 2) * p.log())(z.softmax(1).gather(1, y[:, None])[:, 0]),
    "smoothing": lambda z, y: -(F.one_hot(y, K) * 0.9 + 0.1 / K).mul(z.log_softmax(1)).sum(1),
}
MASKS: dict[str, Rows] = {
    "product": lambda loss, keep: (loss * keep).sum() / keep.sum(),
    "selection": lambda loss, keep: loss[keep].mean(),
    "where": lambda loss, keep: torch.where(keep, loss, 0.0).sum() / 4,
    "filled": lambda loss, keep: loss.masked_fill(~keep, 0.0).sum() / 4,
    "one by one": lambda loss, keep: torch.stack([v for v, k in zip(loss, keep, strict=True) if k]).mean(),
    "weights": lambda loss, keep: loss @ torch.tensor([0.25 * float(k) for k in keep], device=loss.device),
}


def kept(y: Tensor, x: Tensor) -> Tensor:
    """Return which rows are trained on: two of three samples, whatever their class."""
    return (x[:, 0, 0, 0] % 3 > 0) | (torch.arange(len(y), device=y.device) == 0)


class Masks(Classifier):
    def __init__(self, rows: Rows, mask: Rows, *, outputs: int = K) -> None:
        super().__init__()
        self.rows, self.mask = rows, mask
        self.net[3] = nn.Linear(64, outputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits, keep = self(x / N), kept(y, x)
        self.remember(x[keep], logits[keep], y[keep])
        return self.mask(self.rows(logits, y), keep)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("rows", SOFTMAX.values(), ids=SOFTMAX.keys())
def test_rows_that_a_loss_by_hand_masks_are_no_presentations(tmp_path: Path, rows: Rows, mask: Rows) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, lambda: Masks(rows, mask), max_epochs=1)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert monitor.statistics().presentations.sum() == sum(len(index) for _, index, *_ in module.seen)


SIGMOID: dict[str, Rows] = {
    "two logarithms": lambda z, y: -(y * z.sigmoid().log() + (1 - y) * (1 - z.sigmoid()).log()),
    "limited": lambda z, y: (
        -(y * z.sigmoid().clamp(min=1e-6).log() + (1 - y) * (1 - z.sigmoid()).clamp(min=1e-6).log())
    ),
    "log-sigmoid": lambda z, y: -(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)),
}


@pytest.mark.parametrize("mask", [MASKS["product"], MASKS["selection"]], ids=["product", "selection"])
@pytest.mark.parametrize("rows", SIGMOID.values(), ids=SIGMOID.keys())
def test_rows_of_two_classes_that_a_loss_by_hand_masks_are_no_presentations(
    tmp_path: Path, rows: Rows, mask: Rows
) -> None:
    class Binary(Masks):
        def remember(self, x: Tensor, logits: Tensor, y: Tensor) -> None:
            super().remember(x, torch.cat([torch.zeros_like(logits), logits], dim=1), y)

    monitor = TrainingDynamicsMonitor(history=False)
    data = lambda: loader(TensorDataset(images(), (labels() > 0).long()))
    model = lambda: Binary(lambda z, y: rows(z[:, 0], y), mask, outputs=1)
    module = fit_undisturbed(tmp_path, monitor, model, data=data, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


@pytest.mark.parametrize("mask", [MASKS["product"], MASKS["selection"]], ids=["product", "selection"])
def test_samples_with_several_labels_that_a_loss_by_hand_masks_are_no_presentations(tmp_path: Path, mask: Rows) -> None:
    y = torch.stack([labels() == k for k in range(K)], dim=1).float()
    y[::2] = y[::2].roll(1, 1) + y[::2]  # two labels each

    def rows(z: Tensor, y: Tensor) -> Tensor:
        return -(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)).sum(dim=1)

    monitor = TrainingDynamicsMonitor(history=False, capture="labels")
    data = lambda: loader(TensorDataset(images(), y))
    module = fit(tmp_path, monitor, model=Masks(rows, mask), data=data, max_epochs=1)
    expected = {
        i: float(((2 * given - 1) * z).min())
        for _, index, logits, targets in module.seen
        for i, z, given in zip(index, logits.double(), targets, strict=True)
    }
    assert monitor.statistics().presentations.tolist() == [int(i in expected) for i in range(N)]
    for i, margin in expected.items():
        assert monitor.statistics().margin[i] == pytest.approx(margin, rel=1e-4, abs=1e-5)


class Certain(Classifier):
    """Is certain of class 0 in float32, so that the focal factor is exactly 0 for its samples."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N) + torch.tensor([200.0, 0.0, 0.0], device=x.device)
        self.remember(x, logits, y)
        return SOFTMAX["focal"](logits, y).nan_to_num(posinf=0.0).mean() + 0 * logits.sum()


def test_samples_whose_focal_factor_is_0_are_presentations(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    data = lambda: loader(TensorDataset(images(), torch.zeros(N, dtype=torch.long)))
    fit(tmp_path, monitor, model=Certain(), data=data, max_epochs=1)
    assert monitor.statistics().presentations.tolist() == [1] * N


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_the_hardest_rows_of_a_loss_by_hand_leave_all_rows_presentations(tmp_path: Path) -> None:
    # as with `reduction="none"`: a sample that is too easy is one whose prediction is looked at, too
    for hardest in (
        lambda loss: loss.topk(2).values.mean(), lambda loss: loss.sort().values[-2:].mean(),
        lambda loss: loss.clamp(min=1.0).mean(),
    ):  # fmt: skip
        monitor = TrainingDynamicsMonitor(history=False)
        model = Masks(SOFTMAX["log-softmax"], lambda loss, keep, hardest=hardest: hardest(loss))  # type: ignore[misc]
        fit(tmp_path, monitor, model=model, max_epochs=1)
        assert monitor.statistics().presentations.tolist() == [1] * N


def test_a_class_of_weight_0_in_a_loss_by_hand_has_no_presentations(tmp_path: Path) -> None:
    weight = torch.tensor([1.0, 0.0, 2.0])

    class Weighs(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return (SOFTMAX["one-hot"](self(x / N), y) * weight.to(x.device)[y]).mean()

    monitor = TrainingDynamicsMonitor(history=False)
    fit(tmp_path, monitor, model=Weighs(), max_epochs=1)
    np.testing.assert_array_equal(monitor.statistics().presentations, (labels() != 1).long().numpy())


def test_a_loss_that_uses_predicted_classes_is_refused(tmp_path: Path) -> None:
    class Predicted(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            log_p = self(batch[0] / N).log_softmax(1)
            return -log_p.max(dim=1).values.mean()

    with pytest.raises(CaptureError, match="does not use these labels"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Predicted(), max_epochs=1)


class Weighs(Classifier):
    """Weighs its samples by the numbers that come with them, before or behind the labels."""

    def __init__(self, rows: Rows, place: int, *, outputs: int = K) -> None:
        super().__init__()
        self.rows, self.place = rows, place
        self.net[3] = nn.Linear(64, outputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, (y, weight) = batch[0], (batch[1:] if self.place == 2 else batch[:0:-1])
        logits, keep = self(x / N), weight > 0
        both = logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)
        self.remember(x[keep], both[keep], y[keep].long())
        return (self.rows(logits, y) * weight).sum() / weight.sum()


BITS = (torch.arange(N) % 5 > 1).float()
WEIGHTS = {"mask": BITS, "booleans": BITS.bool(), "weights": 0.25 + torch.arange(N) % 5 / 4}


@pytest.mark.parametrize("place", [1, 2], ids=["before the labels", "behind the labels"])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
@pytest.mark.parametrize("outputs", [1, K])
def test_labels_are_told_from_weights_beside_them_by_the_loss(
    tmp_path: Path, outputs: int, weight: Tensor, place: int
) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    y = labels() if outputs == K else (labels() > 0).float()
    data = TensorDataset(images(), *((weight, y) if place == 1 else (y, weight)))
    rows: Rows = SOFTMAX["log-softmax"] if outputs == K else lambda z, y: SIGMOID["log-sigmoid"](z[:, 0], y)
    model = Weighs(rows, place, outputs=outputs)
    module = fit(tmp_path, monitor, model=model, data=lambda: loader(data, batch_size=11), max_epochs=1)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert monitor.statistics().presentations.sum() == sum(len(index) for _, index, *_ in module.seen)


def test_two_vectors_of_which_the_loss_uses_both_as_labels_are_refused(tmp_path: Path) -> None:
    class Both(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, other = batch
            log_p = self(x / N).log_softmax(1)
            return -(log_p.gather(1, y[:, None]) + log_p.gather(1, other[:, None])).mean()

    data = lambda: loader(TensorDataset(images(), labels(), labels().flip(0)))
    with pytest.raises(CaptureError, match="one label in the batch"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Both(), data=data, max_epochs=1)


LABEL_BY_LABEL: dict[str, Rows] = SIGMOID | {
    "focal": lambda z, y: (
        -(y * z.sigmoid().neg().add(1) ** 2 * F.logsigmoid(z) + (1 - y) * z.sigmoid() ** 2 * F.logsigmoid(-z))
    ),
}


@pytest.mark.parametrize("kept_share", [0.3, 0.8])
@pytest.mark.parametrize("losses", LABEL_BY_LABEL.values(), ids=LABEL_BY_LABEL.keys())
def test_labels_that_a_mask_leaves_out_have_no_part_in_their_sample(
    tmp_path: Path, losses: Rows, kept_share: float
) -> None:
    draw = torch.Generator().manual_seed(6)
    y, keep = (torch.rand(N, 4, generator=draw) < 0.4).float(), (torch.rand(N, 4, generator=draw) < kept_share).float()
    margins: dict[int, list[float]] = {}

    class Partial(Masks):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, keep = batch
            logits = self(x / N)
            rows = torch.where(keep > 0, (2 * y - 1) * logits.detach(), torch.inf)
            for i, row in zip(x[:, 0, 0, 0].long().tolist(), rows, strict=True):
                if row.isfinite().any():
                    margins.setdefault(i, []).append(float(row.min()))
            return (self.rows(logits, y) * keep).sum() / keep.sum()

    monitor = TrainingDynamicsMonitor(history=False)
    data = lambda: loader(TensorDataset(images(), y, keep), batch_size=11)
    fit(tmp_path, monitor, model=Partial(losses, losses, outputs=4), data=data, max_epochs=2)
    assert monitor.statistics().presentations.tolist() == [len(margins.get(i, [])) for i in range(N)]
    for i, values in margins.items():
        assert monitor.statistics().margin[i] == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-5)


def test_zeros_and_ones_that_mask_nothing_are_refused_beside_the_labels(tmp_path: Path) -> None:
    class Weighted(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, other = batch
            return (LABEL_BY_LABEL["log-sigmoid"](self(x / N), y) * (1 + other)).mean()

    bits = torch.stack([labels() == k for k in range(K)], dim=1).float()
    data = lambda: loader(TensorDataset(images(), (bits + bits.roll(1, 0)).clamp(max=1), bits.roll(2, 0)))
    monitor = TrainingDynamicsMonitor(history=False)
    fit(tmp_path, monitor, model=Weighted(), data=data, max_epochs=1)  # factors of 1 and 2 are no mask, and no bits
    assert monitor.statistics().presentations.tolist() == [1] * N


MISSING: dict[str, Rows] = {
    "selected": lambda z, y: F.binary_cross_entropy_with_logits(z[y >= 0], y[y >= 0]),
    "masked_select": lambda z, y: F.binary_cross_entropy_with_logits(z.masked_select(y >= 0), y.masked_select(y >= 0)),
    "selected, with weights": lambda z, y: F.binary_cross_entropy_with_logits(
        z[y > -2], y[y > -2].clamp(min=0), weight=(y[y > -2] >= 0).float()
    ),
    "selected, not reduced": lambda z, y: (
        F.binary_cross_entropy_with_logits(z[y >= 0], y[y >= 0], reduction="none").sum() / y.numel()
    ),
    "selected probabilities": lambda z, y: F.binary_cross_entropy(z.sigmoid()[y >= 0], y[y >= 0]),
    "by hand": lambda z, y: (LABEL_BY_LABEL["log-sigmoid"](z, y.clamp(min=0)) * (y >= 0)).sum() / len(y),
}


@pytest.mark.parametrize("missing", [-1.0, torch.nan])
@pytest.mark.parametrize("loss", MISSING.values(), ids=MISSING.keys())
def test_labels_that_are_missing_have_no_part_in_their_sample(tmp_path: Path, loss: Rows, missing: float) -> None:
    draw = torch.Generator().manual_seed(7)
    bits, is_known = (torch.rand(N, 4, generator=draw) < 0.4).float(), torch.rand(N, 4, generator=draw) < 0.7
    margins: dict[int, list[float]] = {}

    class Partial(Masks):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            logits = self(x / N)
            known = y >= 0
            for i, row in zip(indices_of(x), torch.where(known, (2 * y - 1) * logits.detach(), torch.inf), strict=True):
                if row.isfinite().any():
                    margins.setdefault(i, []).append(float(row.min()))
            return self.rows(logits, torch.where(known, y, -1))

    monitor = TrainingDynamicsMonitor(history=False)
    data = lambda: loader(TensorDataset(images(), torch.where(is_known, bits, missing)), batch_size=11)
    fit(tmp_path, monitor, model=Partial(loss, loss, outputs=4), data=data, max_epochs=1)
    assert monitor.statistics().presentations.tolist() == [len(margins.get(i, [])) for i in range(N)]
    for i, values in margins.items():
        assert monitor.statistics().margin[i] == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-5)
