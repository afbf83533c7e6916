"""Samples with several labels: what is recorded of each, against plain Python, and fits that have them."""

import copy
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset, TensorDataset

from dynalens import (
    AttributionMonitor,
    CaptureError,
    SampleIdentityError,
    TrainingDynamics,
    TrainingDynamicsMonitor,
    load_record,
)
from dynalens.dynamics import Array
from dynalens.identity.units import check_given_rows, coded_columns, row_codes
from dynalens.record import read_arrays
from dynalens.report import write_report
from dynalens.units import multi_label
from test_regression import Regressor
from training import Classifier, K, N, assert_merged_alike, fit, images, loader

pytestmark = pytest.mark.usefixtures("undrawn")


def bits() -> Tensor:
    """Given labels (N, K): any number of them, also none and all."""
    return torch.tensor([[i >> k & 1 for k in range(K)] for i in range(N)], dtype=torch.float32)


def several_labels() -> TensorDataset:
    return TensorDataset(images(), bits())


class MultiLabel(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y)


def data(**options: Any) -> Callable[[], Any]:
    return lambda: loader(several_labels(), **options)


def monitored(tmp_path: Path, model: Classifier | None = None, **options: Any) -> tuple[TrainingDynamicsMonitor, Any]:
    monitor = TrainingDynamicsMonitor(**options)
    return monitor, fit(tmp_path, monitor, model=model or MultiLabel(), data=data())


def by_hand(epochs: list[tuple[Array, Array]], given: Array) -> dict[str, Any]:
    """The record of one sample from its logits in each epoch and the epoch's weight, in plain Python."""
    margins = [[z if y else -z for z, y in zip(row, given, strict=True)] for row, _ in epochs]
    weights = [float(weight) for _, weight in epochs]
    total = sum(weights)
    weighted = [sum(w * row[k] for w, row in zip(weights, margins, strict=True)) / total for k in range(len(given))]
    right = [[margin > 0 for margin in row] for row in margins]
    steps = list(itertools.pairwise(right))
    return {
        "margin": np.mean([min(row) for row in margins]),
        "mean_margin": np.mean(margins),
        "correctness": np.mean(right),
        "loss": np.mean([[np.log1p(np.exp(-margin)) for margin in row] for row in margins]),
        "forgetting_events": sum(all(before) and not all(after) for before, after in steps),
        "unit_forgetting_events": sum(
            b and not a for before, after in steps for b, a in zip(before, after, strict=True)
        ),
        "unit_margins": weighted,
        "unit_given": list(given),
        "unit": int(np.argmin(weighted)),
        "unit_margin": min(weighted),
        "label": int(given[int(np.argmin(weighted))]),
        "candidate": 1 - int(given[int(np.argmin(weighted))]),
    }


def test_the_record_of_several_labels_is_that_of_plain_python() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64).float()
    given = torch.randint(0, 2, (6, 5), generator=generator)
    dynamics = TrainingDynamics(6)
    for epoch, z in enumerate(logits):
        order = torch.randperm(6, generator=generator)
        for rows in (order[:4], order[4:]):
            dynamics.update_units(rows, multi_label(z[rows], given[rows]))
        dynamics.end_epoch(epoch)
    weights = [min(t + 1, 10) ** 3 for t in range(len(logits))]
    statistics = dynamics.compute()
    for sample in range(6):
        epochs = [(z[sample].numpy(), np.array(w)) for z, w in zip(logits, weights, strict=True)]
        for name, value in by_hand(epochs, given[sample].numpy()).items():
            assert getattr(statistics, name)[sample] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_a_label_of_weight_0_is_left_out() -> None:
    counted = torch.tensor([[True, False], [False, False]])
    shown = multi_label(torch.tensor([[2.0, -9.0], [1.0, 1.0]]), torch.ones(2, 2).long(), counted)
    assert shown.logits.tolist() == [[2.0, 0.0], [0.0, 0.0]]
    assert shown.targets.tolist() == [0, -1]
    dynamics = TrainingDynamics(2)
    dynamics.update_units([0, 1], shown)
    dynamics.end_epoch(0)
    statistics = dynamics.compute()
    assert statistics.presentations.tolist() == [1, 0]
    assert statistics.unit_margins is not None
    np.testing.assert_array_equal(statistics.unit_margins[0], [2.0, np.nan])
    np.testing.assert_array_equal(statistics.arrays()["unit_given"], [[1, -1], [-1, -1]])


def test_samples_with_a_logit_that_is_not_finite_are_left_out() -> None:
    dynamics = TrainingDynamics(3)
    z = torch.tensor([[1.0, torch.inf], [torch.nan, 1.0], [1.0, 2.0]])
    dynamics.update_units([0, 1, 2], multi_label(z, torch.ones(3, 2).long()))
    assert dynamics.end_epoch(0).non_finite == 2
    assert dynamics.compute().presentations.tolist() == [0, 0, 1]


def test_a_label_that_changes_raises() -> None:
    dynamics = TrainingDynamics(2)
    for epoch, given in enumerate([[[1, 0], [0, 0]], [[1, 1], [0, 0]]]):
        dynamics.update_units([0, 1], multi_label(torch.zeros(2, 2), torch.tensor(given)))
        if not epoch:
            dynamics.end_epoch(0)
    with pytest.raises(ValueError, match="label of a sample to stay the same, got 1 samples whose label changed"):
        dynamics.end_epoch(1)


def test_one_record_has_one_kind_of_targets() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update_units([0, 1], multi_label(torch.zeros(2, 3), torch.ones(2, 3).long()))
    with pytest.raises(ValueError, match=r"Expected 3 labels for each sample, .* got one label for each .*`reset\(\)`"):
        dynamics.update([0, 1], torch.zeros(2, 3), torch.zeros(2).long())
    with pytest.raises(ValueError, match="got 2 labels for each sample"):
        dynamics.update_units([0, 1], multi_label(torch.zeros(2, 2), torch.ones(2, 2).long()))


def test_mean_probabilities_of_several_labels_are_refused() -> None:
    dynamics = TrainingDynamics(2, mean_probabilities=True)
    with pytest.raises(ValueError, match="`mean_probabilities=False` with several labels"):
        dynamics.update_units([0, 1], multi_label(torch.zeros(2, 3), torch.ones(2, 3).long()))


def expected(model: Any) -> tuple[Array, Array]:
    """Mean of the smallest margin and mean fraction of right labels, from what the model kept."""
    total, right, given = np.zeros(N), np.zeros(N), bits().numpy()
    for _, indices, logits, _ in model.seen:
        margins = np.where(given[indices] == 1, logits.numpy(), -logits.numpy())
        total[indices] += margins.min(axis=1)
        right[indices] += (margins > 0).mean(axis=1)
    return total / 3, right / 3


class OfProbabilities(MultiLabel):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy(logits.sigmoid(), y)


class Focal(MultiLabel):
    """As torchvision's ``sigmoid_focal_loss``."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return (entropy * (1 - (p * y + (1 - p) * (1 - y))) ** 2).mean()


class SoftMargin(MultiLabel):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.multilabel_soft_margin_loss(logits, y)


class Smoothed(MultiLabel):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, 0.9 * y + 0.05)


class Asymmetric(MultiLabel):
    """As the asymmetric loss of Ben-Baruch et al. is written in public code, with a shifted 1 - p."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        p = logits.sigmoid()
        absent = (1 - p + 0.05).clamp(max=1)
        entropy = y * p.clamp(min=1e-8).log() + (1 - y) * absent.clamp(min=1e-8).log()
        with torch.no_grad():
            weight = (1 - (p * y + absent * (1 - y))) ** (y + 4 * (1 - y))
        return -(weight * entropy).sum()


class AsymmetricInAnotherOrder(Asymmetric):
    """The step orders its rows; what it keeps is in the same order."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        order = torch.arange(len(batch[0])).flip(0)
        return super().training_step([part[order] for part in batch], batch_idx)


class OfAbsence(MultiLabel):
    """Its sigmoids are those of absence, so that a logit speaks against the label."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch[0] / N)
        self.remember(batch[0], -logits, batch[1])
        q = logits.sigmoid()
        return -((1 - batch[1]) * (q + 1e-8).log() + batch[1] * (1 - q + 1e-8).log()).mean()


class Returned(MultiLabel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch[0] / N)
        self.remember(batch[0], logits, batch[1])
        return {"loss": (logits.sigmoid() - batch[1]).square().mean(), "logits": logits, "targets": batch[1]}


@pytest.mark.parametrize(
    "model",
    [
        MultiLabel, OfProbabilities, Focal, SoftMargin, Smoothed, Asymmetric, AsymmetricInAnotherOrder, OfAbsence,
        Returned,
    ],
)  # fmt: skip
def test_losses_of_several_labels_are_recorded(tmp_path: Path, model: Callable[[], Classifier]) -> None:
    monitor, trained = monitored(tmp_path, model())
    margin, right = expected(trained)
    statistics = monitor.statistics()
    np.testing.assert_allclose(statistics.margin, margin, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(statistics.correctness, right, atol=1e-6)
    assert monitor.table()["presentations"].tolist() == [3] * N


class MixedAsymmetric(Asymmetric):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return super().loss(logits, y) + super().loss(logits, torch.from_numpy(y.numpy()[::-1].copy()))


def test_a_loss_of_sigmoids_with_other_labels_is_an_error_in_the_first_batch(tmp_path: Path) -> None:
    module = MixedAsymmetric()
    with pytest.raises(CaptureError, match="Expected"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=data())
    assert len(module.seen) == 1


def test_rows_with_exactly_one_label_are_one_label(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    one_hot = TensorDataset(images(), F.one_hot(torch.arange(N) % K, K).float())
    fit(tmp_path, monitor, model=MultiLabel(), data=lambda: loader(one_hot))
    assert monitor.statistics().unit is None
    assert monitor.statistics().label.tolist() == [i % K for i in range(N)]


class Hidden(Dataset[Any]):
    """Shows no labels before a sample is asked for; the last sample alone has another number of labels than one."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return images()[i], torch.ones(K) if i == N - 1 else F.one_hot(torch.tensor(i % K), K).float()


def test_a_first_batch_of_one_label_each_names_the_argument_that_helps(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"got 1 that name no class .* Pass `capture='labels'` if a sample may have"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=MultiLabel(), data=lambda: loader(Hidden(), shuffle=False))
    monitor = TrainingDynamicsMonitor(capture="labels")
    fit(tmp_path, monitor, model=MultiLabel(), data=lambda: loader(Hidden(), shuffle=False))
    assert monitor.statistics().unit_margins is not None


def test_labels_that_the_dataset_shows_need_no_argument(tmp_path: Path) -> None:
    rows = torch.stack([Hidden()[i][1] for i in range(N)])
    shown = Subset(TensorDataset(images(), rows), range(N))
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=MultiLabel(), data=lambda: loader(shown, shuffle=False))
    assert monitor.statistics().unit_margins is not None


def test_soft_rows_are_refused(tmp_path: Path) -> None:
    soft = TensorDataset(images(), torch.rand(N, K, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(CaptureError, match="soft, mixed or multi-label targets"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=MultiLabel(), data=lambda: loader(soft))


class Reordered(MultiLabel):
    """Trains on the rows in another order, in a way that no function of torch shows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        order = np.argsort(-batch[0][:, 0, 0, 0].numpy())
        y = torch.from_numpy(batch[1].numpy()[order].copy())
        return self.loss(self(batch[0][torch.from_numpy(order.copy())] / N), y)


def test_labels_in_another_order_raise(tmp_path: Path) -> None:
    with pytest.raises(SampleIdentityError, match="targets of the loss to be in the order of the batch"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Reordered(), data=data(shuffle=False))


class Neighbour(TensorDataset):
    """Returns the next sample for a broken one."""

    broken = 1

    def __getitem__(self, i: Any) -> Any:
        i += i == self.broken
        return self.tensors[0][i], self.tensors[1][i]


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (MultiLabel, bits()),
        (Regressor, torch.rand(N, 1)),
        (Regressor, torch.rand(N, 2)),
    ],
    ids=["labels", "numbers", "several numbers"],
)
@pytest.mark.parametrize(("broken", "steps"), [(9, 3), (20, 6)], ids=["in the first steps", "later"])
def test_a_neighbour_of_a_broken_sample_is_noticed_in_the_first_epoch(
    tmp_path: Path, model: Callable[..., Classifier], given: Tensor, broken: int, steps: int
) -> None:
    module = MultiLabel() if model is MultiLabel else model(given.shape[1])
    neighbours = Neighbour(images(), given)
    neighbours.broken = broken
    with pytest.raises(SampleIdentityError, match=r"labels that .* shows, got 1 (of 12 )?samples with another one"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=lambda: loader(neighbours, shuffle=False))
    assert len(module.seen) == steps


def test_columns_are_compared_with_targets_as_these_are_rounded() -> None:
    y = torch.tensor([0.5, 20.5, 400.5, 21.3])  # of these, half have more digits than bfloat16
    codes = coded_columns({("y",): y}, y.bfloat16())[("y",)]
    assert codes == row_codes(y.bfloat16())
    assert codes[:2] == row_codes(y)[:2]
    assert codes[2:] != row_codes(y)[2:]


def test_rows_of_the_dataset_that_have_little_to_do_with_the_targets_are_not_compared() -> None:
    given = bits().numpy()
    data = TensorDataset(images(), 1 - bits())
    check_given_rows(data, np.arange(N), given, is_same=False)
    data.tensors = (images(), bits())
    data.tensors[1][:12] = 1 - data.tensors[1][:12]
    check_given_rows(data, np.arange(N), given, is_same=False)
    data.tensors[1][2:12] = bits()[2:12]
    with pytest.raises(SampleIdentityError, match=r"got 2 samples with another one, at position 0, 1\."):
        check_given_rows(data, np.arange(N), given, is_same=False)


class Chosen(MultiLabel):
    """Leaves out the samples without a label, or all of a batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        kept = (y.sum(1) > 0) & (batch_idx != 2)
        return F.binary_cross_entropy_with_logits(self(x[kept] / N), y[kept], reduction="sum")


def test_rows_that_a_step_chooses_are_followed(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=Chosen(), data=data(shuffle=False))
    expected_times = [3 * bool(row.sum() and i // 4 != 2) for i, row in enumerate(bits())]
    assert monitor.statistics().presentations.tolist() == expected_times


def test_a_wrong_bit_is_named_and_left_out_of_the_clean_samples(tmp_path: Path) -> None:
    """Logits that know the truth: sample 6 lacks label 1, and sample 8 has label 0 without showing it."""
    truth = bits()
    given = truth.clone()
    given[6, 1], given[8, 0] = 0, 1
    truth_logits = 4 * truth - 2
    dynamics = TrainingDynamicsMonitor(class_names=["cat", "dog", "owl"], history=False)

    class Knows(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            rows = batch[0][:, 0, 0, 0].long()
            logits = truth_logits[rows] + 0 * self(batch[0] / N).sum()
            return F.binary_cross_entropy_with_logits(logits, batch[1])

    fit(tmp_path, dynamics, model=Knows(), data=lambda: loader(TensorDataset(images(), given)))
    worst = dynamics.suspects(2).sort_index()
    assert worst.index.tolist() == [6, 8]
    columns = ["unit", "label", "suggested", "unit_name", "label_name", "suggested_name", "forgetting_events"]
    missing, extra = worst[columns].to_numpy().tolist()
    assert missing == [1, 0, 1, "dog", "no dog", "dog", 0]
    assert extra == [0, 1, 0, "cat", "cat", "no cat", 0]
    assert worst["correctness"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert set(dynamics.clean_indices()) == set(range(N)) - {6, 8}
    corrected = dynamics.relabelled(TensorDataset(images(), given))
    assert torch.equal(torch.stack([corrected[i][1] for i in range(N)]), truth)


def test_a_record_of_several_labels_is_read_back_alike_and_reported(tmp_path: Path) -> None:
    monitor, _ = monitored(tmp_path, save_dir=tmp_path / "record", class_names=["cat", "dog", "owl"])
    record = load_record(tmp_path / "record")
    assert record.table().equals(monitor.table())
    page = write_report(record, tmp_path / "report.html").read_text()
    assert '"no dog"' in page
    assert '"several":true' in page


def test_a_resumed_fit_continues_the_record_of_several_labels(tmp_path: Path) -> None:
    whole, _ = monitored(tmp_path / "whole")
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path / "ckpt", save_top_k=-1, filename="{epoch}")
    fit(
        tmp_path / "a",
        TrainingDynamicsMonitor(),
        checkpoint,
        model=MultiLabel(),
        data=data(),
        enable_checkpointing=True,
    )
    resumed = TrainingDynamicsMonitor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(tmp_path / "ckpt" / "epoch=1.ckpt")
        fit(tmp_path / "b", resumed, model=MultiLabel(), data=data(), ckpt_path=path)
    for name, values in whole.statistics().arrays().items():
        kept = getattr(resumed.statistics(), name)
        assert kept.shape == values.shape
        assert kept.dtype == values.dtype
    assert resumed.statistics().presentations.tolist() == [3] * N


def test_a_state_under_way_continues_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, given = torch.randn(4, 5, 3, generator=generator), torch.randint(0, 2, (5, 3), generator=generator)
    one, other = TrainingDynamics(5), TrainingDynamics(5)
    for epoch in range(2):
        for half in (slice(0, 3), slice(3, 5)):
            rows = torch.arange(5)[half]
            one.update_units(rows, multi_label(logits[epoch][half], given[half]))
            if half.start == 0 and epoch == 1:
                other.load_state_dict(one.state_dict())
            if half.start == 3 and epoch == 1:
                other.update_units(rows, multi_label(logits[epoch][half], given[half]))
        one.end_epoch(epoch)
    other.end_epoch(1)
    for name, values in one.compute().arrays().items():
        np.testing.assert_array_equal(getattr(other.compute(), name), values, err_msg=name)


def test_processes_merge_several_labels_also_where_one_has_none() -> None:
    one, other = TrainingDynamics(2), TrainingDynamics(2)
    one.update_units([1, 0], multi_label(torch.tensor([[1.0, 2.0], [-1.0, 3.0]]), torch.ones(2, 2).long()))
    assert_merged_alike(one, other)


def test_training_on_several_labels_ends_bit_identical_with_the_monitor(tmp_path: Path) -> None:
    model = MultiLabel()
    alone = fit(tmp_path, model=copy.deepcopy(model), data=data())
    _, watched = monitored(tmp_path, model)
    for before, after in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_explanations_of_several_labels_are_of_the_doubtful_one_with_its_own_probability(tmp_path: Path) -> None:
    dynamics = TrainingDynamicsMonitor()
    attribution = AttributionMonitor(
        methods="saliency", metrics=("deletion",), baseline="zero", steps=4, num_samples=4, on_error="raise"
    )
    model = MultiLabel()
    kept: list[dict[int, tuple[int, int]]] = []

    class Before(pl.Callback):
        """Notes what is doubtful when the epoch ends, as the monitor of explanations hears it."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            statistics = dynamics.statistics()
            units, given = statistics.arrays()["unit"], statistics.label
            kept.append({i: (int(units[i]), int(given[i])) for i in range(N)})

    fit(tmp_path, dynamics, Before(), attribution, model=model, data=data(), max_epochs=2)
    arrays = read_arrays(tmp_path / "dynalens" / "explanations" / "epoch_000001.npz")
    logits = torch.from_numpy(arrays["logits"])
    # Samples of every epoch: the first label that each has, at its own probability.
    labels, ids = arrays["labels"], arrays["ids"].tolist()
    assert labels.tolist() == [bits()[int(i)].argmax().item() for i in ids]
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images()[[int(i) for i in ids]]), rtol=1e-4, atol=1e-5)
    p = logits.sigmoid().gather(1, torch.from_numpy(labels).unsqueeze(1)).squeeze(1)
    np.testing.assert_allclose(arrays["saliency.deletion.curves"][:, 0], p, rtol=1e-4)
    suspects = [int(i) for i in arrays["suspects_label.ids"]]
    assert arrays["suspects_label.targets"].tolist() == [kept[-1][i][0] for i in suspects]
