"""What a step leaves out of its loss after `reduction="none"` is not recorded: padding, missing labels and targets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import TrainingDynamicsMonitor
from dynalens.capture import Capture, Presentation, StepCapture
from dynalens.units import dense, dense_labels, multi_label, regression
from training import Classifier, fit, fit_undisturbed, images, loader
from training import N as SAMPLES

N, K, T = 4, 3, 6
KEPT = torch.arange(N * T).view(N, T) % 5 > 0
"""Tokens of which the loss is kept; the first one of the first sample is not."""
GIVEN = (torch.arange(N * T).view(N, T) * 7) % K


def logits(*shape: int) -> Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).requires_grad_()


def captured(
    step: Callable[[Tensor], Any], z: Tensor, targets: Tensor, *, capture: Capture = "auto", by_hand: bool = False
) -> Presentation:
    """Return what is seen of a step on these logits, whose batch has inputs and targets."""
    listening, model = StepCapture(capture), nn.Identity()
    vars(model)["automatic_optimization"] = not by_hand
    listening.install(model)
    listening.start(model)
    outputs = step(z * 1)
    loss = outputs["loss"] if isinstance(outputs, dict) else outputs
    if not by_hand:
        listening.before_backward(loss)
    loss.backward()
    presentation = listening.finish(outputs, (torch.zeros(len(z), 2, 2), targets), count=len(z))
    listening.close()
    assert presentation is not None
    return presentation


def entries(z: Tensor) -> Tensor:
    return F.cross_entropy(z, GIVEN, reduction="none")


def filled(losses: Tensor) -> Tensor:
    losses = losses * 1
    losses[~KEPT] = 0
    return losses.sum()


def focal(z: Tensor) -> Tensor:
    losses = entries(z)
    return ((1 - torch.exp(-losses)) ** 2 * losses * KEPT).mean()


def flat(z: Tensor) -> Tensor:
    losses = F.cross_entropy(z.movedim(1, 2).reshape(-1, K), GIVEN.flatten(), reduction="none")
    return (losses.view(N, T) * KEPT).sum() / KEPT.sum()


MASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda z: (entries(z) * KEPT).sum() / KEPT.sum(),
    "mean of each sample": lambda z: ((entries(z) * KEPT).sum(dim=1) / KEPT.sum(dim=1)).mean(),
    "flat": flat,
    "picked": lambda z: entries(z)[KEPT].mean(),
    "picked when flat": lambda z: entries(z).flatten()[KEPT.flatten().nonzero()[:, 0]].mean(),
    "masked_select": lambda z: entries(z).masked_select(KEPT).mean(),
    "masked_fill": lambda z: entries(z).masked_fill(~KEPT, 0).mean(),
    "where": lambda z: torch.where(KEPT, entries(z), 0.0).mean(),
    "in place": lambda z: filled(entries(z)),
    "beside another loss": lambda z: (entries(z) * KEPT).mean() + 0.1 * z.square().mean(),
    "focal": focal,
}


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("step", MASKED.values(), ids=MASKED)
def test_tokens_that_a_step_masks_are_left_out(step: Callable[[Tensor], Tensor], by_hand: bool) -> None:
    z = logits(N, K, T)
    units = captured(step, z, GIVEN, by_hand=by_hand).units
    assert units is not None
    torch.testing.assert_close(units.numbers, dense(z, GIVEN, KEPT).numbers)
    assert units.numbers[0, 3] != 0


def all_count(z: Tensor) -> Tensor:
    return entries(z).flatten().topk(5).values.mean()


def certain(z: Tensor) -> Tensor:
    losses = entries(z)
    return ((1 - torch.exp(-losses)) ** 2 * losses).mean()


@pytest.mark.parametrize(
    "step", [all_count, certain, lambda z: (entries(z) * 3).mean(), lambda z: entries(z).clamp(min=1.0).mean()]
)
def test_tokens_that_count_little_by_their_own_loss_stay(step: Callable[[Tensor], Tensor]) -> None:
    z = logits(N, K, T).detach()
    z[0, :, 0] = 60.0 * F.one_hot(GIVEN[0, 0], K)  # its probability is 1, and a focal factor 0
    units = captured(step, z.requires_grad_(), GIVEN).units
    assert units is not None
    torch.testing.assert_close(units.numbers, dense(z, GIVEN).numbers)


def test_a_class_of_weight_0_is_left_out_of_masks() -> None:
    z, weight = logits(N, K, 2, 3), torch.tensor([0.0, 1.0, 2.0])
    given = GIVEN.view(N, 2, 3)
    units = captured(lambda z: F.cross_entropy(z, given, weight=weight), z, given).units
    assert units is not None
    torch.testing.assert_close(units.numbers, dense(z, given, given > 0).numbers)


CLASSES, OF_SAMPLES = torch.tensor([2, 0, 1, 1]), torch.tensor([True, False, True, True])
"""One class for each sample, and those whose loss is kept."""


def of_samples(z: Tensor) -> Tensor:
    return F.cross_entropy(z, CLASSES, reduction="none")


def two(z: Tensor, **options: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(z[:, 0], (CLASSES > 0).to(z.dtype), **options)


def two_weighted(z: Tensor) -> Tensor:
    return two(z, weight=OF_SAMPLES.float())


SAMPLE_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda z: (of_samples(z) * OF_SAMPLES).sum() / OF_SAMPLES.sum(),
    "picked": lambda z: of_samples(z)[OF_SAMPLES].mean(),
    "picked by index": lambda z: of_samples(z)[torch.tensor([3, 0, 2])].mean(),
    "masked_fill": lambda z: of_samples(z).masked_fill(~OF_SAMPLES, 0).mean(),
    "where": lambda z: torch.where(OF_SAMPLES, of_samples(z), 0.0).mean(),
    "nll_loss": lambda z: F.nll_loss(z.log_softmax(1), CLASSES, reduction="none") @ OF_SAMPLES.float(),
    "one-hot": lambda z: (F.cross_entropy(z, F.one_hot(CLASSES, K).float(), reduction="none") * OF_SAMPLES).sum(),
    "a class of weight 0": lambda z: F.cross_entropy(z, CLASSES, weight=torch.tensor([0.0, 1.0, 2.0])),
    "binary, one-hot": lambda z: (bits(z, F.one_hot(CLASSES, K).float()) * OF_SAMPLES[:, None]).sum(),
}


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("step", SAMPLE_LOSSES.values(), ids=SAMPLE_LOSSES)
def test_samples_that_a_step_masks_are_left_out(step: Callable[[Tensor], Tensor], by_hand: bool) -> None:
    assert captured(step, logits(N, K), CLASSES, by_hand=by_hand).targets.tolist() == [2, -1, 1, 1]


@pytest.mark.parametrize("step", [lambda z: (two(z, reduction="none") * OF_SAMPLES).mean(), two_weighted])
def test_samples_of_two_classes_that_a_step_masks_are_left_out(step: Callable[[Tensor], Tensor]) -> None:
    assert captured(step, logits(N, K), CLASSES).targets.tolist() == [1, -1, 1, 1]


def test_samples_that_count_little_by_their_own_loss_stay() -> None:
    for step in (lambda z: of_samples(z).topk(2).values.mean(), lambda z: (of_samples(z) * 3).mean()):
        assert captured(step, logits(N, K), CLASSES).targets.tolist() == CLASSES.tolist()


BITS = (torch.arange(N * T).view(N, T) % 3 == 0).float()
UNKNOWN = torch.where(KEPT, BITS, -1.0)


def bits(z: Tensor, given: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, given, reduction="none")


LABELS: dict[str, Callable[[Tensor], Any]] = {
    "unknown ones made 0": lambda z: (bits(z, UNKNOWN.clamp(min=0)) * (UNKNOWN >= 0)).sum(),
    "unknown ones as they are": lambda z: (bits(z, UNKNOWN) * (UNKNOWN >= 0)).sum(),
    "flat": lambda z: bits(z.flatten(), UNKNOWN.flatten())[KEPT.flatten()].mean(),
    "weight": lambda z: F.binary_cross_entropy_with_logits(z, UNKNOWN.clamp(min=0), weight=KEPT.float()),
    "probabilities": lambda z: (F.binary_cross_entropy(z.sigmoid(), BITS, reduction="none") * KEPT).sum(),
    "returned": lambda z: {"loss": z.square().mean(), "logits": z, "targets": BITS.masked_fill(~KEPT, -100)},
    "returned, missing": lambda z: {"loss": z.mean(), "logits": z, "targets": BITS.masked_fill(~KEPT, torch.nan)},
}  # fmt: skip


@pytest.mark.parametrize("step", LABELS.values(), ids=LABELS)
def test_labels_that_are_not_known_are_left_out(step: Callable[[Tensor], Any]) -> None:
    z = logits(N, T)
    units = captured(step, z, UNKNOWN).units
    expected = multi_label(z, BITS.long(), KEPT)
    assert units is not None
    assert units.kind == expected.kind
    assert torch.equal(units.targets, expected.targets)
    torch.testing.assert_close(units.numbers[:, :13], expected.numbers[:, :13], equal_nan=True, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("capture", ["auto", "labels"])
def test_labels_of_pixels_that_are_not_known_are_left_out(capture: Capture) -> None:
    z, given, kept = logits(N, T, 2, 2), BITS[:, :, None, None].expand(N, T, 2, 2), KEPT[:, :, None, None]
    unknown = torch.where(kept, given, 255.0)
    shown = captured(lambda z: (bits(z, unknown) * (unknown < 2)).sum(), z, unknown, capture=capture).units
    expected = dense_labels(z, given.long(), kept.expand(N, T, 2, 2))
    assert shown is not None
    assert shown.kind == expected.kind
    torch.testing.assert_close(shown.numbers, expected.numbers)
    assert shown.marks is not None
    assert expected.marks is not None
    assert torch.equal(shown.marks, expected.marks)


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss])
def test_missing_targets_of_a_regression_are_left_out(loss: Callable[..., Tensor]) -> None:
    z, given = logits(N, T), torch.randn(N, T, generator=torch.Generator().manual_seed(1))
    missing = given.masked_fill(~KEPT, torch.nan)
    filled_in = missing.nan_to_num()
    shown = captured(lambda z: (loss(z, filled_in, reduction="none") * KEPT).sum(), z, missing).units
    expected = regression(z - given, missing, loss(z, given, reduction="none"))
    assert shown is not None
    assert torch.equal(shown.numbers[:, -T:].isnan(), ~KEPT)
    torch.testing.assert_close(shown.numbers[:, 2], expected.numbers[:, 2])
    torch.testing.assert_close(shown.numbers[:, 7 : 7 + T][KEPT], expected.numbers[:, 7 : 7 + T][KEPT])


class FewMissing(Classifier):
    """Writes numbers in the place of the few targets that are missing, and masks their losses."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        z, filled_in, kept = self(x / SAMPLES), y.nan_to_num().clamp(min=0), y >= 0
        if y.dtype is torch.int64:
            scores = torch.stack([z, -z], dim=1).movedim(1, 2).flatten(0, 1)
            losses = F.cross_entropy(scores, filled_in.flatten(), reduction="none").view(y.shape)
        else:
            losses = F.binary_cross_entropy_with_logits(z, filled_in, reduction="none")
        return (losses * kept).sum()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32], ids=["tokens", "labels"])
def test_numbers_in_the_place_of_missing_targets_are_no_other_labels(tmp_path: Path, dtype: torch.dtype) -> None:
    given = torch.tensor([[i >> k & 1 for k in range(K)] for i in range(SAMPLES)], dtype=dtype)
    given[1::4, 0] = -1
    given[3] = -1
    monitor = TrainingDynamicsMonitor(history=False)
    data = TensorDataset(images(), given)
    fit(tmp_path, monitor, model=FewMissing(), data=lambda: loader(data, shuffle=False), max_epochs=2)
    assert monitor.statistics().presentations.tolist() == [2 * (i != 3) for i in range(SAMPLES)]


class Masks(Classifier):
    """Multiplies the losses of some samples by 0, as those of padding or of images that could not be read."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        z, kept = self(x / SAMPLES), x[:, 0, 0, 0] % 4 > 0
        self.remember(x[kept], z[kept], y[kept])
        return (F.cross_entropy(z, y, reduction="none") * kept).sum() / kept.sum().clamp(min=1)


def test_the_record_of_samples_whose_losses_are_masked_is_that_of_the_others(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    model = fit_undisturbed(tmp_path, monitor, Masks, max_epochs=2)
    times = [sum(ids.count(i) for _, ids, _, _ in model.seen) for i in range(SAMPLES)]
    assert times == [2 * (i % 4 > 0) for i in range(SAMPLES)]
    statistics = monitor.statistics()
    assert statistics.presentations.tolist() == times
    for i in range(SAMPLES):
        margins = [
            float(z[row][y[row]] - max(z[row][k] for k in range(K) if k != y[row]))
            for _, ids, z, y in model.seen
            for row, sample in enumerate(ids)
            if sample == i
        ]
        if margins:
            assert statistics.margin[i] == pytest.approx(sum(margins) / len(margins), abs=1e-5)
