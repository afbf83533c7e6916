"""Steps that give the labels of several units other numbers, order them anew, or return numbers that are no classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import CaptureError, SampleIdentityError, TrainingDynamicsMonitor
from dynalens.units import dense
from training import Classifier, K, N, fit, images, loader

pytestmark = pytest.mark.usefixtures("undrawn")

Change = Callable[[Tensor], Tensor]
VOID = 255


def unknown(number: float) -> Tensor:
    """Labels (N, K), a fifth of them not known."""
    drawn = torch.rand(N, K, generator=torch.Generator().manual_seed(4))
    return (drawn > 0.6).float().masked_fill(drawn < 0.2, number)


def classes_of_pixels() -> Tensor:
    return torch.randint(0, K, (N, 6, 6), generator=torch.Generator().manual_seed(5))


class Units(Classifier):
    """Trains on targets that a change makes from the labels of the batch, and returns what another change makes."""

    def __init__(self, change: Change, *, is_dense: bool = False, numbers: bool = False) -> None:
        super().__init__()
        self.change, self.numbers = change, numbers
        self.returned: Change | None = None
        if is_dense:
            self.net = nn.Sequential(nn.Conv2d(1, K, 3, padding=1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits, targets = self(x / N), self.change(y)
        self.remember(x, logits, targets)
        if targets.is_floating_point():
            loss = F.mse_loss if self.numbers else F.binary_cross_entropy_with_logits
            return loss(logits, targets)
        total = F.cross_entropy(logits, targets, ignore_index=VOID)
        return total if self.returned is None else {"loss": total, "logits": logits, "targets": self.returned(targets)}


def mean_margins(model: Units) -> list[float]:
    """The smallest margin of the units of each sample, as a mean over presentations, from what the model kept."""
    smallest: list[list[float]] = [[] for _ in range(N)]
    for _, samples, logits, targets in model.seen:
        for sample, z, y in zip(samples, logits.double(), targets, strict=True):
            if y.is_floating_point():
                margins = (2 * y - 1) * z
            else:
                own = F.one_hot(y, K).bool().movedim(-1, 0)
                margins = (z * own).sum(0) - z.masked_fill(own, -torch.inf).amax(0)
            smallest[sample].append(float(margins.min()))
    return [float(np.mean(values)) for values in smallest]


@pytest.mark.parametrize(
    ("labels", "change", "is_dense"),
    [
        (lambda: unknown(-1), lambda y: y.abs(), False),
        (lambda: unknown(-1), lambda y: y.clamp(min=0), False),
        (lambda: unknown(torch.nan), lambda y: y.nan_to_num(), False),
        (lambda: classes_of_pixels().where(torch.arange(N)[:, None, None] % 3 > 0, 1), lambda y: y.clamp(max=1), True),
    ],
    ids=["unknown labels as given", "unknown labels as not given", "missing labels as not given", "merged classes"],
)
def test_units_that_a_step_renumbers_are_recorded(
    tmp_path: Path, labels: Callable[[], Tensor], change: Change, is_dense: bool
) -> None:
    model, monitor = Units(change, is_dense=is_dense), TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=model, data=lambda: loader(TensorDataset(images(), labels())), max_epochs=2)
    np.testing.assert_allclose(monitor.statistics().margin, mean_margins(model), rtol=1e-4, atol=1e-5)


def test_labels_that_a_step_changes_are_no_renumbered_ones(tmp_path: Path) -> None:
    def flip_some(y: Tensor) -> Tensor:
        return torch.where(torch.arange(y.numel()).view(y.shape) % 11 > 0, y, 1 - y)

    data = TensorDataset(images(), unknown(1))
    with pytest.raises(SampleIdentityError, match="Expected the targets"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Units(flip_some), data=lambda: loader(data), max_epochs=1)


@pytest.mark.parametrize("kind", ["labels", "numbers", "pixels"])
def test_targets_alone_in_another_order_raise_in_the_first_batches(tmp_path: Path, kind: str) -> None:
    y = {"labels": unknown(0), "numbers": images().flatten(1)[:, 1 : K + 1], "pixels": classes_of_pixels()}[kind]
    model = Units(lambda y: y[torch.arange(len(y)).roll(1)], is_dense=kind == "pixels", numbers=kind == "numbers")
    with pytest.raises(SampleIdentityError, match="labels in another order"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=model, data=lambda: loader(TensorDataset(images(), y)))
    assert len(model.seen) <= 2


def void_masks() -> TensorDataset:
    masks = classes_of_pixels()
    masks[:, 0, :2] = VOID
    return TensorDataset(images(), masks)


def test_a_returned_number_that_is_no_class_raises_with_advice_that_works(tmp_path: Path) -> None:
    model = Units(lambda y: y, is_dense=True)
    model.returned = lambda y: y
    with pytest.raises(CaptureError, match=r"classes from 0 to 2 .*, got 255\. .* with -100 in its place"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=model, data=lambda: loader(void_masks()))
    records = []
    for name, returned in (("loss", None), ("dict", lambda y: y.where(y != VOID, -100))):
        model, monitor = Units(lambda y: y, is_dense=True), TrainingDynamicsMonitor(name=name)
        model.returned = returned
        fit(tmp_path, monitor, model=model, data=lambda: loader(void_masks()), max_epochs=1)
        records.append(monitor.statistics())
    for name, values in records[0].arrays().items():
        np.testing.assert_array_equal(getattr(records[1], name), values, err_msg=name)


def test_a_number_that_is_no_class_marks_its_sample_alone() -> None:
    shown = dense(torch.zeros(3, 2, 2), torch.tensor([[0, 1], [0, 7], [1, -100]]))
    assert [target == 0 for target in shown.targets.tolist()] == [True, False, True]
    assert shown.targets[1] < -1


def test_masks_of_one_logit_count_where_the_returned_targets_do(tmp_path: Path) -> None:
    class Binary(Units):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            logits = self(x / N)[:, :1]
            self.remember(x, logits, y)
            p, is_counted = logits[:, 0].sigmoid(), y != VOID
            loss = 1 - 2 * (p * (y == 1)).sum() / (p * is_counted).sum()
            return {"loss": loss, "logits": logits, "targets": y.where(is_counted, -100)}

    data = TensorDataset(images(), void_masks().tensors[1].where(void_masks().tensors[1] != 2, 0))
    model, monitor = Binary(lambda y: y, is_dense=True), TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=model, data=lambda: loader(data), max_epochs=1)
    right = np.zeros(N)
    for _, samples, z, y in model.seen:
        for sample, logits, mask in zip(samples, z[:, 0], y, strict=True):
            is_right = ((logits > 0) == (mask == 1))[mask != VOID]
            right[sample] = is_right.double().mean()
    np.testing.assert_allclose(monitor.statistics().correctness, right, rtol=1e-6)


class OfPairs(Classifier):
    """A loss of ranks: each label that was given is compared with each that was not."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        differences = logits[:, :, None] - logits[:, None, :]
        is_pair = y[:, :, None] > y[:, None, :]
        return ((1 - differences).relu() * is_pair).mean()


def test_a_loss_of_ranks_is_recorded_by_the_layer_and_the_labels_of_the_batch(tmp_path: Path) -> None:
    model, monitor = OfPairs(), TrainingDynamicsMonitor(capture="module:net")
    fit(tmp_path, monitor, model=model, data=lambda: loader(TensorDataset(images(), unknown(0))), max_epochs=1)
    expected = np.zeros((N, K))
    for _, samples, z, y in model.seen:
        expected[samples] = (2 * y - 1) * z
    np.testing.assert_allclose(monitor.statistics().margin, expected.min(axis=1), rtol=1e-5, atol=1e-6)


def test_more_labels_than_a_record_takes_are_refused_with_their_number(tmp_path: Path) -> None:
    class Many(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 513))

        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(logits, y)

    data = TensorDataset(images(), torch.ones(N, 513))
    with pytest.raises(CaptureError, match=r"at most 512 labels .* got targets of shape \(4, 513\)"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Many(), data=lambda: loader(data))
