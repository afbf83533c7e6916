"""The mean probability of every class: kept where it is asked for and fits, equal to its slow definition."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint

from dynalens import TrainingDynamics, TrainingDynamicsMonitor, load_record
from dynalens.dynamics import IGNORED
from dynalens.dynamics.uncertainty import uncertainty
from test_dynamics import EPOCHS, LABELS, K, assert_same, feed
from training import Classifier, fit

pytestmark = pytest.mark.usefixtures("undrawn")

History = list[list[tuple[int, list[float]]]]


def mean_probabilities(epochs: History) -> list[list[float]]:
    """The definition, one sample at a time, in Python floats."""
    means = []
    for i in range(len(LABELS)):
        rows = [[math.exp(a - max(z)) for a in z] for epoch in epochs for j, z in epoch if j == i]
        shares = [[e / sum(row) for e in row] for row in rows]
        means.append([sum(p[k] for p in shares) / len(shares) if shares else math.nan for k in range(K)])
    return means


def recorded(epochs: History, size: int = 4, **options: Any) -> TrainingDynamics:
    dynamics = TrainingDynamics(len(LABELS), **({"mean_probabilities": True} | options))
    for epoch, batch in enumerate(epochs):
        feed(dynamics, epoch, batch, size)
    return dynamics


def found(dynamics: TrainingDynamics) -> Any:
    return dynamics.compute().mean_probabilities


def kept(monitor: TrainingDynamicsMonitor) -> Any:
    return monitor.statistics().mean_probabilities


@settings(deadline=None, max_examples=60)
@given(epochs=EPOCHS)
def test_mean_probabilities_equal_their_definition_and_change_nothing_else(epochs: History) -> None:
    dynamics = recorded(epochs)
    if any(epochs):
        assert found(dynamics).dtype == np.float32
        np.testing.assert_allclose(found(dynamics), mean_probabilities(epochs), rtol=2e-6, atol=2e-7)
    plain = recorded(epochs, mean_probabilities=False).compute()
    assert plain.mean_probabilities is None
    assert plain.expected_entropy is None
    assert_same(replace(dynamics.compute(), mean_probabilities=None, expected_entropy=None), plain)


def of_epochs(dynamics: TrainingDynamics) -> dict[str, Any]:
    statistics = dynamics.compute()
    assert statistics.mean_probabilities is not None
    return uncertainty(statistics.mean_probabilities, statistics.expected_entropy)


def entropy(p: list[float]) -> float:
    return -sum(share * math.log(share) for share in p if share)


@settings(deadline=None, max_examples=50)
@given(epochs=EPOCHS)
def test_the_uncertainty_of_epochs_equals_its_definition(epochs: History) -> None:
    if not any(epochs):
        return
    columns = of_epochs(recorded(epochs))
    for i, mean in enumerate(mean_probabilities(epochs)):
        rows = [[math.exp(a - max(z)) for a in z] for epoch in epochs for j, z in epoch if j == i]
        each = [entropy([e / sum(row) for e in row]) for row in rows]
        expected = sum(each) / len(each) if each else math.nan
        total = entropy(mean) if each else math.nan
        assert columns["entropy"][i] == pytest.approx(total, abs=1e-5, nan_ok=True)
        assert columns["expected_entropy"][i] == pytest.approx(expected, abs=1e-5, nan_ok=True)
        assert columns["mutual_information"][i] == pytest.approx(total - expected, abs=1e-5, nan_ok=True)


def test_epochs_that_are_sure_of_different_classes_disagree_by_the_logarithm_of_their_number() -> None:
    dynamics = TrainingDynamics(2, mean_probabilities=True)
    for epoch in range(3):
        sure = torch.full((1, 3), -80.0)
        sure[0, epoch] = 0.0
        dynamics.update([0, 1], torch.cat([sure, torch.zeros(1, 3)]), torch.tensor([0, 0]))
        dynamics.end_epoch(epoch)
    columns = of_epochs(dynamics)
    np.testing.assert_allclose(columns["mutual_information"], [math.log(3), 0], atol=1e-6)
    np.testing.assert_allclose(columns["expected_entropy"], [0, math.log(3)], atol=1e-6)


def test_the_table_has_the_uncertainty_where_probabilities_are_kept_and_a_saved_record_has_it_too(
    tmp_path: Path,
) -> None:
    names = {"entropy", "expected_entropy", "mutual_information"}
    for probabilities in (False, True):
        monitor = TrainingDynamicsMonitor(mean_probabilities=probabilities)
        fit(tmp_path / str(probabilities), monitor, max_epochs=2)
        loaded = load_record(tmp_path / str(probabilities)).table()
        assert names & set(monitor.table().columns) == (names if probabilities else set())
        assert list(loaded.columns) == list(monitor.table().columns)


def test_a_checkpoint_that_summed_no_entropy_goes_on_without_it() -> None:
    first = recorded([[(0, [0.0, 0.0, 0.0])]])
    state = first.state_dict()
    state["state"] = {name: values for name, values in state["state"].items() if "entropy" not in name}
    second = TrainingDynamics(len(LABELS), mean_probabilities=True)
    second.load_state_dict(state)
    feed(second, 1, [(0, [0.0, 0.0, 0.0]), (1, [0.0, 0.0, 0.0])], 4)
    expected = second.compute().expected_entropy
    assert expected is not None
    assert math.isnan(expected[0])  # what was not summed is not made up
    assert expected[1] == pytest.approx(math.log(3))


@settings(deadline=None, max_examples=60)
@given(epochs=EPOCHS, part=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_saved_record_continues_as_if_never_interrupted(epochs: History, part: float) -> None:
    cut = int(part * len(epochs[-1]))
    first = recorded(epochs[:-1])
    for i, z in epochs[-1][:cut]:
        first.update([i], torch.tensor([z]), torch.tensor([LABELS[i]]))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = TrainingDynamics(len(LABELS), mean_probabilities=True)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    feed(second, len(epochs) - 1, epochs[-1][cut:], 4)
    assert_same(second.compute(), recorded(epochs).compute())


def test_mean_probabilities_keep_their_digits_over_a_thousand_epochs() -> None:
    generator = torch.Generator().manual_seed(0)
    dynamics, total = TrainingDynamics(3, mean_probabilities=True), torch.zeros(3, 4, dtype=torch.float64)
    for epoch in range(1000):
        logits = 4 * torch.randn(3, 4, generator=generator)
        total += logits.double().softmax(dim=1)
        dynamics.update([0, 1, 2], logits, torch.tensor([0, 1, 2]))
        dynamics.end_epoch(epoch)
    np.testing.assert_allclose(found(dynamics), total.numpy() / 1000, rtol=2e-7)


@pytest.mark.parametrize("size", [5, 50_000], ids=["waiting", "at once"])
def test_ignored_and_non_finite_presentations_are_left_out(size: int) -> None:
    dynamics = TrainingDynamics(size, mean_probabilities=True)
    logits = torch.zeros(size, 2)
    dynamics.update(range(size), logits, torch.zeros(size, dtype=torch.int64))
    logits[1] = torch.tensor([math.inf, 0.0])
    logits[2] = torch.tensor([30.0, 0.0])
    targets = torch.zeros(size, dtype=torch.int64)
    targets[3] = IGNORED
    dynamics.update(range(size), logits + torch.tensor([math.log(3), 0.0]), targets)
    dynamics.end_epoch(0)
    # p of class 0 is 1/2 at first and 3/4 then.
    expected = [[0.625, 0.375], [0.5, 0.5], [0.75, 0.25], [0.5, 0.5], [0.625, 0.375]]
    np.testing.assert_allclose(found(dynamics)[:5], expected, rtol=1e-6, atol=1e-6)


def test_a_growing_record_keeps_mean_probabilities() -> None:
    dynamics = TrainingDynamics(1, mean_probabilities=True)
    for epoch, i in enumerate([0, 2]):
        dynamics.update([i], torch.tensor([[0.0, math.log(3)]]), torch.tensor([0]))
        dynamics.grow(i + 1)
        dynamics.end_epoch(epoch)
    np.testing.assert_allclose(found(dynamics), [[0.25, 0.75], [math.nan] * 2, [0.25, 0.75]], rtol=1e-6)


def test_dropped_presentations_leave_nothing() -> None:
    dynamics = recorded([[(0, [0.0, 0.0, 0.0])]])
    dynamics.update([0], torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0]))
    assert dynamics.discard_pending() == 1
    dynamics.end_epoch(1)
    np.testing.assert_allclose(found(dynamics)[0], [1 / 3] * 3, rtol=1e-6)


def test_mean_probabilities_take_six_bytes_a_number_and_six_a_sample_once_an_epoch_is_over() -> None:
    dynamics = TrainingDynamics(100, mean_probabilities=True)
    dynamics.update(range(100), torch.zeros(100, 7), torch.zeros(100, dtype=torch.int64))
    dynamics.end_epoch(0)
    assert sum(values.nbytes for values in dynamics.state_dict()["state"].values()) == (64 + 6 * 7 + 6) * 100


def test_large_records_are_folded_in_parts() -> None:
    n, classes = 700, 1000
    logits = torch.randn(n, classes, generator=torch.Generator().manual_seed(0))
    dynamics = TrainingDynamics(n, mean_probabilities=True)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    dynamics.update(order, logits[order], order % classes)
    dynamics.end_epoch(0)
    np.testing.assert_allclose(found(dynamics), logits.softmax(dim=1).numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("room", "message"),
    [
        # 4 bytes x 1000 x 1000 are 0.0037253 GiB.
        (0.001, r"`mean_probabilities` to fit 0\.001 GiB, got 1,000 x 1,000 float32, 0\.00373 GiB\. "
                r"Pass `mean_probabilities=0\.1`"),
        (0.0037, "to fit 0.0037 GiB"),
    ],
)  # fmt: skip
def test_mean_probabilities_beyond_the_memory_are_refused_with_their_size(room: float, message: str) -> None:
    dynamics = TrainingDynamics(1000, mean_probabilities=room)
    with pytest.raises(ValueError, match=message):
        dynamics.update([0], torch.zeros(1, 1000), torch.tensor([0]))


def test_mean_probabilities_that_just_fit_are_kept() -> None:
    dynamics = TrainingDynamics(1000, mean_probabilities=4e6 / 2**30)
    dynamics.update(range(1000), torch.zeros(1000, 1000), torch.zeros(1000, dtype=torch.int64))
    # The presentations of an epoch wait on the device, so that more of them than samples need more room.
    with pytest.raises(ValueError, match="got 1,001 x 1,000 float32"):
        dynamics.update([0], torch.zeros(1, 1000), torch.tensor([0]))


@pytest.mark.parametrize("given", [-1, float("nan")])
@pytest.mark.parametrize("kind", [TrainingDynamicsMonitor, lambda **options: TrainingDynamics(3, **options)])
def test_a_number_of_gigabytes_that_is_not_positive_is_refused(kind: Any, given: float) -> None:
    with pytest.raises(ValueError, match="`mean_probabilities` to be True, False or a positive number of GiB, got"):
        kind(mean_probabilities=given)


def test_another_number_of_classes_is_refused() -> None:
    dynamics = recorded([[(0, [0.0, 0.0, 0.0])]])
    with pytest.raises(ValueError, match="Expected `logits` of 3 classes, as in the steps before, got 2"):
        dynamics.update([0], torch.zeros(1, 2), torch.tensor([0]))


def test_a_record_without_mean_probabilities_is_not_continued_with_mean_probabilities() -> None:
    plain = recorded([[(0, [0.0, 0.0, 0.0])]], mean_probabilities=False)
    with pytest.raises(ValueError, match="Expected a record with mean probabilities"):
        TrainingDynamics(len(LABELS), mean_probabilities=True).load_state_dict(plain.state_dict())


def test_a_record_with_mean_probabilities_can_be_continued_without() -> None:
    epochs: History = [[(0, [0.0, 1.0, 0.0])], [(0, [2.0, 1.0, 0.0]), (3, [0.0, 3.0, 0.0])]]
    first = recorded(epochs[:1])
    first.update([0], torch.tensor([epochs[1][0][1]]), torch.tensor([LABELS[0]]))
    second = TrainingDynamics(len(LABELS))
    second.load_state_dict(first.state_dict())
    feed(second, 1, epochs[1][1:], 4)
    assert_same(second.compute(), recorded(epochs, mean_probabilities=False).compute())


def by_hand(seen: list[Any]) -> Any:
    """The mean of what a model saw, sample by sample."""
    rows: dict[int, list[Any]] = {}
    for _, index, logits, _ in seen:
        for i, z in zip(index, logits, strict=True):
            rows.setdefault(i, []).append(z.double().softmax(dim=0))
    return np.stack([torch.stack(rows[i]).mean(dim=0).numpy() for i in sorted(rows)])


def test_the_monitor_keeps_and_writes_mean_probabilities(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(mean_probabilities=True)
    model = fit(tmp_path, monitor)
    np.testing.assert_allclose(kept(monitor), by_hand(model.seen), rtol=1e-6)
    assert_same(load_record(tmp_path).statistics, monitor.statistics())
    assert load_record(tmp_path).table().equals(monitor.table())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Checkpoints of a fit, and what its module has seen."""
    folder = tmp_path_factory.mktemp("saved")
    saver = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=2, filename="{step}")
    monitor = TrainingDynamicsMonitor(mean_probabilities=True)
    return folder, fit(folder / "a", monitor, saver, enable_checkpointing=True, max_epochs=2).seen


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("steps", [4, 6, 8], ids=["in the first epoch", "between epochs", "in the second"])
def test_mean_probabilities_go_through_a_checkpoint(tmp_path: Path, saved: tuple[Path, list[Any]], steps: int) -> None:
    folder, seen = saved
    resumed = TrainingDynamicsMonitor(mean_probabilities=True)
    model = fit(tmp_path, resumed, ckpt_path=str(folder / f"step={steps}.ckpt"), max_epochs=2)
    np.testing.assert_allclose(kept(resumed), by_hand(seen[:steps] + model.seen), rtol=1e-6)


def test_mean_probabilities_beyond_the_memory_stop_the_first_batch(tmp_path: Path) -> None:
    model = Classifier()
    with pytest.raises(ValueError, match="`mean_probabilities` to fit 1e-08 GiB"):
        fit(tmp_path, TrainingDynamicsMonitor(mean_probabilities=1e-8), model=model)
    assert len(model.seen) == 1
