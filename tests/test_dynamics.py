"""Every statistic equals a slow definition in plain Python, for any history."""

import io
import math
import weakref
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dynalens.dynamics import IGNORED, NOT_A_CLASS, SampleStatistics, TrainingDynamics, presentation_rows
from dynalens.dynamics.passes import PARTS, _by_class, _by_sample
from dynalens.dynamics.step_rows import PendingRows, _presentation_rows, in_turn, predicted_classes
from dynalens.dynamics.weighting import EpochWeights

K = 3
# Few values, so that ties (wrong by definition) and large probabilities both occur often.
LOGIT = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 1.0, 3.0, 30.0])
PRESENTATION = st.tuples(st.integers(0, 4), st.lists(LOGIT, min_size=K, max_size=K))
EPOCHS = st.lists(st.lists(PRESENTATION, max_size=9), min_size=1, max_size=5)
LABELS = [0, 1, 2, 1, 0]


def largest_other(z: list[float], y: int) -> int:
    return max((k for k in range(len(z)) if k != y), key=z.__getitem__)


def brute_force(epochs: list[list[tuple[int, list[float]]]]) -> list[dict[str, Any]]:
    """The definitions of the guide, one sample at a time, in Python floats."""
    table = []
    for i, y in enumerate(LABELS):
        seen = [(epoch, z) for epoch, batch in enumerate(epochs) for j, z in batch if j == i]
        margins = [z[y] - max(z[k] for k in range(K) if k != y) for _, z in seen]
        correct = [m > 0 for m in margins]
        probabilities = [[math.exp(a - max(z)) / sum(math.exp(b - max(z)) for b in z) for a in z] for _, z in seen]
        predicted = [z.index(max(z)) for _, z in seen]
        forgot = [e for (e, _), was, now in zip(seen[1:], correct, correct[1:], strict=False) if was and not now]
        n, p_y = len(seen), [p[y] for p in probabilities]
        mean = sum(p_y) / n if n else math.nan
        table.append(
            {
                "label": y if n else -1,
                "presentations": n,
                "forgetting_events": len(forgot),
                "learned": any(correct),
                "first_learned": next((e for (e, _), c in zip(seen, correct, strict=True) if c), math.nan),
                "last_forgotten": forgot[-1] if forgot else math.nan,
                "margin": sum(margins) / n if n else math.nan,
                "confidence": mean,
                "variability": math.sqrt(sum((p - mean) ** 2 for p in p_y) / n) if n else math.nan,
                "correctness": sum(correct) / n if n else math.nan,
                "loss": -sum(math.log(p) for p in p_y) / n if n else math.nan,
                "el2n": sum(
                    math.sqrt(sum((p[k] - (k == y)) ** 2 for k in range(K))) for p in probabilities
                ) / n if n else math.nan,
                "probability_gap": max(probabilities[-1]) - p_y[-1] if n else math.nan,
                "predicted": predicted[-1] if n else -1,
                "rivals": {largest_other(z, y) for _, z in seen},
            }
        )  # fmt: skip
    return table


def weights_of(epochs: list[list[tuple[int, list[float]]]]) -> list[float]:
    """The weight of each epoch, for epochs in which each sample occurs once."""
    weights, errors, tenth = list[float](), dict[int, float](), math.nan
    contradictions = list[float]()
    for number, epoch in enumerate(epochs):
        gaps = [gap_of(z, LABELS[i]) for i, z in epoch]
        contradicted, all_squares = sum(max(0, gap) ** 2 for gap in gaps), sum(gap**2 for gap in gaps)
        contradictions.append((contradicted / len(gaps)) ** 2 / (all_squares / len(gaps)) if all_squares else 0)
        error = sum(gap >= 0 for gap in gaps) / len(gaps)
        if not error:
            weights.append(0)
            continue
        errors[number] = error
        c = contradictions[max(k for k, each in errors.items() if each == min(errors.values()))]
        tenth = c if number >= 9 and math.isnan(tenth) else tenth
        falls = number >= 10 and tenth > 0 and c < tenth
        weights.append(((number + 1) * (c / tenth if falls else 1)) ** 3 * c**2 if number else 0)
    return weights


def gap_of(z: list[float], y: int) -> float:
    """By how much the largest other probability is above that of class y."""
    return (math.exp(z[largest_other(z, y)]) - math.exp(z[y])) / sum(map(math.exp, z))


def weighted_margins(epochs: list[list[tuple[int, list[float]]]]) -> list[float]:
    """The mean margin of each sample, for epochs in which each sample occurs once."""
    weights, sums = weights_of(epochs), [0.0] * len(LABELS)
    for weight, epoch in zip(weights, epochs, strict=True):
        for i, z in epoch:
            sums[i] += weight * (z[LABELS[i]] - z[largest_other(z, LABELS[i])])
    return [value / sum(weights) if sum(weights) else math.nan for value in sums]


def feed(dynamics: TrainingDynamics, epoch: int, batch: list[tuple[int, list[float]]], size: int) -> None:
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        index = [i for i, _ in part]
        dynamics.update(index, torch.tensor([z for _, z in part]), torch.tensor([LABELS[i] for i in index]))
    dynamics.end_epoch(epoch)


def recorded(epochs: list[list[tuple[int, list[float]]]], size: int = 4) -> TrainingDynamics:
    dynamics = TrainingDynamics(len(LABELS))
    for epoch, batch in enumerate(epochs):
        feed(dynamics, epoch, batch, size)
    return dynamics


@settings(deadline=None, max_examples=60)
@given(epochs=EPOCHS, size=st.integers(1, 9))
def test_statistics_equal_their_definitions_for_any_split_into_batches(
    epochs: list[list[tuple[int, list[float]]]], size: int
) -> None:
    statistics, expected = recorded(epochs, size).compute(), brute_force(epochs)
    for i, row in enumerate(expected):
        for name, value in row.items():
            if name != "rivals":
                np.testing.assert_allclose(
                    getattr(statistics, name)[i], value, rtol=2e-6, atol=2e-6, err_msg=f"{name} of {i}"
                )
        assert statistics.candidate[i] in (row["rivals"] if row["correctness"] < 1 else {-1})


ROW = st.lists(LOGIT, min_size=K, max_size=K)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(ROW, min_size=len(LABELS), max_size=len(LABELS)), min_size=1, max_size=5))
def test_weighted_means_equal_their_definition_where_each_sample_is_seen_once_an_epoch(
    epochs: list[list[list[float]]],
) -> None:
    presented = [list(enumerate(rows)) for rows in epochs]
    expected = np.array(weighted_margins(presented))
    if not np.isnan(expected).any():
        np.testing.assert_allclose(recorded(presented).compute().weighted_margin, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(ROW, min_size=len(LABELS), max_size=len(LABELS)), min_size=1, max_size=5))
def test_the_candidate_is_the_class_with_most_weights_where_each_sample_is_seen_once_an_epoch(
    epochs: list[list[list[float]]],
) -> None:
    presented = [list(enumerate(rows)) for rows in epochs]
    weights, statistics = weights_of(presented), recorded(presented).compute()
    for i, y in enumerate(LABELS):
        votes = [0.0] * K
        for weight, epoch in zip(weights, epochs, strict=True):
            votes[largest_other(epoch[i], y)] += weight
        candidate = votes.index(max(votes))
        if statistics.correctness[i] < 1 and votes[candidate] > 0.501 * sum(weights):  # kept in steps of 2^-15
            assert statistics.candidate[i] == candidate


def of_fourteen_epochs() -> list[list[tuple[int, list[float]]]]:
    """The error rises and falls, also below that of the tenth epoch."""
    noise = np.random.default_rng(0).normal(size=(14, len(LABELS), K))
    noise[:, np.arange(len(LABELS)), LABELS] += np.linspace(0, 2, 14)[:, np.newaxis]
    return [list(enumerate(epoch.tolist())) for epoch in noise]


@pytest.mark.parametrize("classes", [3, 40])  # both ways of computing on a CPU
def test_a_target_of_as_many_as_there_are_logits_is_refused_and_the_next_epoch_is_recorded(classes: int) -> None:
    dynamics, logits = TrainingDynamics(2), torch.eye(classes)[:2]
    dynamics.update([0, 1], logits, torch.tensor([classes, 1]))
    with pytest.raises(ValueError, match="got 1 in this epoch that name no class: numbers that are not below"):
        dynamics.end_epoch(0)
    dynamics.update([0, 1], logits, torch.tensor([0, 0]))
    assert dynamics.end_epoch(1).accuracy == 0.5
    assert dynamics.compute().label.tolist() == [0, 0]


def test_weighted_means_of_more_than_ten_epochs_equal_their_definition_also_across_a_checkpoint() -> None:
    epochs = of_fourteen_epochs()
    for stop in (8, 10, 12, 14):  # before, at and after the tenth epoch
        first, second = TrainingDynamics(len(LABELS)), TrainingDynamics(len(LABELS))
        for epoch, batch in enumerate(epochs[:stop]):
            feed(first, epoch, batch, 4)
        second.load_state_dict(first.state_dict())
        for epoch, batch in enumerate(epochs[stop:], stop):
            feed(second, epoch, batch, 4)
        np.testing.assert_allclose(second.compute().weighted_margin, weighted_margins(epochs), rtol=1e-5)


@pytest.mark.parametrize("resumed", [False, True])
def test_an_epoch_in_which_training_breaks_down_counts_no_more_for_its_errors(resumed: bool) -> None:
    dynamics = TrainingDynamics(4)
    for epoch, margins in enumerate([[1.0, 1, -1, -1], [2.0, 2, 2, -2], [-9.0, -9, -9, -9]], start=1):
        if resumed:
            state, dynamics = dynamics.state_dict(), TrainingDynamics(4)
            dynamics.load_state_dict(state)
        logits = torch.stack([torch.tensor(margins), torch.zeros(4)], dim=1)
        dynamics.update([0, 1, 2, 3], logits, torch.zeros(4, dtype=torch.int64))
        dynamics.end_epoch(epoch)
    # Each |g| is the same in an epoch, so that c is e^2 g^2: of the errors 1/2, 1/4 and 1, the last counts as 1/4.
    gap, next_gap = math.tanh(0.5), math.tanh(1.0)  # 1 / (1 + 1 / e^x) - 1 / (1 + e^x) is tanh(x / 2)
    c = np.array([(gap / 2) ** 2, (next_gap / 4) ** 2, (next_gap / 4) ** 2])
    weights = np.array([8, 27, 64]) * c**2
    expected = np.array([[1, 1, -1, -1], [2, 2, 2, -2], [-9] * 4]).T @ weights / weights.sum()
    np.testing.assert_allclose(dynamics.compute().weighted_margin, expected, rtol=1e-6)


def test_epochs_after_one_without_an_error_still_count() -> None:
    dynamics = TrainingDynamics(1)
    for epoch, margin in enumerate([-1.0, 1.0, -4.0], start=1):  # errors of 1, 0 and 1
        dynamics.update([0], torch.tensor([[margin, 0.0]]), torch.tensor([0]))
        dynamics.end_epoch(epoch)
    weights = 8 * math.tanh(0.5) ** 4, 64 * math.tanh(2) ** 4  # c is the square of the gap, tanh(margin / 2)
    expected = (-weights[0] - 4 * weights[1]) / sum(weights)
    np.testing.assert_allclose(dynamics.compute().weighted_margin, [expected], rtol=1e-6)


@pytest.mark.parametrize("earlier", [{}, {"least_error": 0.01, "tenth_error": 0.02}])
def test_epochs_of_a_version_before_count_as_far_as_the_first_one_after_them(earlier: dict[str, float]) -> None:
    dynamics = TrainingDynamics(2)
    for epoch, margins in enumerate([[-1.0, 1.0], [-1.0, 1.0], [-3.0, 3.0]]):
        if epoch == 2:
            state = dynamics.state_dict()
            for name in ("least_error", "tenth_error", "contradiction", "tenth_contradiction"):
                del state[name]
            dynamics = TrainingDynamics(2)
            dynamics.load_state_dict(state | {"weight": 0.25} | earlier)  # as versions before wrote it: g^3 e^2
        dynamics.update([0, 1], torch.tensor([[margin, 0.0] for margin in margins]), torch.tensor([0, 0]))
        dynamics.end_epoch(epoch)
    mean = (8 * 1 + 27 * 3) / (8 + 27)
    np.testing.assert_allclose(dynamics.compute().weighted_margin, [-mean, mean], rtol=1e-6)


def test_presentations_that_are_not_finite_do_not_count_in_the_weight_of_an_epoch() -> None:
    weights = EpochWeights()
    assert weights.next(1, np.array([np.nan, 1.0, -1.0])) == 8 / 16  # c is (1/2)^2 / 1
    assert weights.next(2, np.array([np.nan])) == 0


def test_the_first_epoch_counts_only_for_samples_that_no_other_one_shows() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    dynamics.end_epoch(0)
    np.testing.assert_allclose(dynamics.compute().weighted_margin, [-1, -2])
    dynamics.update([0], torch.tensor([[0.0, 4.0]]), torch.tensor([0]))
    dynamics.end_epoch(1)
    np.testing.assert_allclose(dynamics.compute().weighted_margin, [-4, -2])


def test_weighted_means_of_a_sample_that_is_seen_now_and_then_are_within_what_it_showed() -> None:
    dynamics = TrainingDynamics(2)
    # Half of the first batch is wrong, and all of the second: that of the smaller error counts, 8 c^2 and 27 c^2.
    dynamics.update([0, 1], torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    dynamics.end_epoch(1)
    dynamics.update([0], torch.tensor([[0.0, 4.0]]), torch.tensor([0]))
    dynamics.end_epoch(2)
    found = dynamics.compute()
    # The mean of -1 and -4 is -1 + (-3) * 27 / 35; sample 1 keeps its only margin.
    np.testing.assert_allclose(found.weighted_margin, [-1 - 3 * 27 / 35, 2.0], rtol=1e-6)
    np.testing.assert_allclose(found.weighted_confidence[1], 1 / (1 + math.exp(-2)), rtol=1e-6)
    np.testing.assert_allclose(found.weighted_rival[1], 1 / (1 + math.exp(2)), rtol=1e-6)
    np.testing.assert_allclose(found.candidate_share, [1.0, np.nan])


@settings(deadline=None, max_examples=50)
@given(epochs=EPOCHS, cut=st.integers(0, 9))
def test_a_saved_record_continues_as_if_never_interrupted(
    epochs: list[list[tuple[int, list[float]]]], cut: int
) -> None:
    first = recorded(epochs[:-1])
    index = [i for i, _ in epochs[-1][:cut]]
    if index:
        first.update(index, torch.tensor([z for _, z in epochs[-1][:cut]]), torch.tensor([LABELS[i] for i in index]))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = TrainingDynamics(len(LABELS))
    second.load_state_dict(torch.load(buffer, weights_only=True))
    feed(second, len(epochs) - 1, epochs[-1][cut:], 4)
    assert_same(second.compute(), recorded(epochs).compute())


def assert_same(a: SampleStatistics, b: SampleStatistics) -> None:
    for field in fields(SampleStatistics):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def test_rows_by_hand() -> None:
    row = presentation_rows(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([1]))[:, 0]
    # p = 1/3 each: margin 0, log p = -log 3, EL2N = sqrt(4/9 + 1/9 + 1/9).
    torch.testing.assert_close(row, torch.tensor([0.0, -math.log(3), math.sqrt(6) / 3, 0.0, 1.0, -math.log(3)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_rows_equal_their_definitions(classes: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(classes)
    # Rounded, so that ties for the first place occur at every number of classes.
    logits = (8 * torch.randn(300, classes, generator=generator)).round().to(dtype)
    targets = torch.randint(0, classes, (300,), generator=generator)
    targets[:150] = logits[:150].float().argmax(dim=1)
    z = logits.double()
    z_label = z.gather(1, targets[:, None])
    others = z.masked_fill(F.one_hot(targets, classes).bool(), -torch.inf).amax(1)
    wrongness = (z.softmax(1) - F.one_hot(targets, classes)).norm(dim=1)
    turns = (3 * torch.arange(300) + 7) % classes
    rows = presentation_rows(logits, targets, turns)
    margin, log_p, el2n, rival, target, log_turn = rows
    assert torch.equal(margin.double(), z_label[:, 0] - others)
    expected_log_p = z.log_softmax(1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(log_p.double(), expected_log_p, rtol=1e-5, atol=1e-15)
    torch.testing.assert_close(el2n.double(), wrongness, rtol=1e-5, atol=1e-12)
    assert rival.tolist() == [largest_other(row, y) for row, y in zip(z.tolist(), targets.tolist(), strict=True)]
    predicted = predicted_classes(rows.numpy())
    assert predicted.tolist() == [row.index(max(row)) for row in z.tolist()]  # the lowest class of a tie
    assert target.tolist() == targets.tolist()
    expected_turn = z.log_softmax(1)[torch.arange(300), turns]
    torch.testing.assert_close(log_turn.double(), expected_turn, rtol=1e-5, atol=1e-6)
    assert 0 < (margin > 0).sum() < 300


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8).map(lambda sizes: [1, *sizes]),
    classes=st.sampled_from([2, 3, 10, 37, 63, 100, 1000]),
    scale=st.sampled_from([1.0, 20.0]),
    turned=st.booleans(),
)
def test_a_row_does_not_depend_on_the_rows_computed_with_it(
    sizes: list[int], classes: int, scale: float, turned: bool
) -> None:
    logits = scale * torch.randn(sum(sizes), classes, generator=torch.Generator().manual_seed(len(sizes)))
    logits = logits.T.contiguous().T if turned else logits
    targets = torch.arange(sum(sizes)) % classes
    turns = in_turn(sum(sizes), classes, torch.device("cpu"))
    parts = zip(*(torch.split(each, sizes) for each in (logits, targets, turns)), strict=True)
    together = presentation_rows(logits, targets)
    assert torch.equal(together, torch.cat([presentation_rows(*part) for part in parts], dim=1))


def test_classes_hidden_by_minus_infinity_are_no_obstacle() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 0.0, -torch.inf]])
    row = presentation_rows(logits, torch.tensor([1]), torch.tensor([2]))[:, 0]
    p = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(row, torch.tensor([1.0, math.log(p), math.sqrt(2) * (1 - p), 2.0, 1.0, math.log(1 - p)]))


@pytest.mark.parametrize("masked", [-torch.inf, torch.finfo(torch.float32).min], ids=["-inf", "smallest finite"])
@pytest.mark.parametrize("classes", [2, 5, 100])
def test_a_sample_whose_class_alone_is_not_masked_counts_as_certain(masked: float, classes: int) -> None:
    logits = torch.full((3, classes), masked)
    logits[0, 1], logits[1, :2] = -4.0, torch.tensor([3.0, 0.0])  # sample 2 has no finite logit of its own class
    logits[2, 0], logits[2, 1] = 1.0, -torch.inf
    dynamics, epochs = TrainingDynamics(3), []
    for epoch in range(2):
        dynamics.update(range(3), logits, torch.tensor([1, 1, 1]))
        epochs.append(dynamics.end_epoch(epoch))
    statistics, p = dynamics.compute(), 1 / (1 + math.exp(3))
    assert (epochs[1].non_finite, statistics.presentations.tolist()) == (1, [2, 2, 0])
    np.testing.assert_allclose(statistics.confidence[:2], [1, p], rtol=1e-6)
    np.testing.assert_allclose(statistics.loss[:2], [0, -math.log(p)], rtol=1e-6)
    np.testing.assert_allclose(statistics.el2n[:2], [0, math.sqrt(2) * (1 - p)], rtol=1e-6)
    # Log odds of the largest float32 below 1, where no other class is left to compare with.
    certain = math.log(2**24)
    np.testing.assert_allclose(statistics.margin[:2], [certain, -3], rtol=1e-6)
    assert epochs[1].margin.tolist() == pytest.approx([certain, -3])
    assert statistics.predicted[:2].tolist() == [1, 0]
    assert statistics.correctness[:2].tolist() == [1, 0]
    assert np.isfinite(statistics.weighted_margin[:2]).all()


@pytest.mark.parametrize(
    ("masked", "dtype"),
    [(-torch.inf, torch.float32)]
    + [(torch.finfo(dtype).min, dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)],
    ids=str,
)
def test_a_masked_class_is_never_the_class_asked_about(masked: float, dtype: torch.dtype) -> None:
    dynamics, logits = TrainingDynamics(6), torch.zeros(6, 3, dtype=dtype)
    logits[:, 2] = masked
    logits[5] = torch.tensor([masked, masked, 0.0], dtype=dtype)
    dynamics.update(range(6), logits, torch.tensor([1, 0, 0, 0, 0, 2]))
    # In turn: classes 0, 1 and 2, then 1, 2 and 0. Class 2 is a label, of sample 5.
    np.testing.assert_allclose(dynamics.end_epoch(0).p_other, [0.5, 0.5, np.nan, 0.5, np.nan, np.nan], rtol=1e-6)


def test_a_tie_is_wrong_and_never_learned_is_not_unforgettable() -> None:
    statistics = recorded([[(0, [1.0, 1.0, 0.0]), (1, [0.0, 5.0, 0.0])]]).compute()
    assert statistics.learned[:3].tolist() == [False, True, False]
    assert statistics.forgetting_events[:3].tolist() == [0, 0, 0]
    assert np.isnan(statistics.first_learned[0])
    assert statistics.correctness[0] == 0
    assert np.isnan(statistics.correctness[2])  # never seen: unknown, not zero


def test_a_sample_seen_twice_in_one_batch_counts_twice_in_order() -> None:
    right, wrong = [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]
    statistics = recorded([[(0, right), (0, wrong), (0, right), (0, wrong)]]).compute()
    assert statistics.presentations[0] == 4
    assert statistics.forgetting_events[0] == 2
    assert statistics.correctness[0] == 0.5


def test_el2n_keeps_its_digits_when_the_label_is_nearly_certain() -> None:
    row = presentation_rows(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))[:, 0]
    expected = math.sqrt(2) * math.exp(-20) / (1 + math.exp(-20))
    assert row[2].item() == pytest.approx(expected, rel=1e-5)


def test_means_keep_their_digits_over_a_thousand_epochs_of_bfloat16_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    n, classes = 64, 10
    dynamics, y = TrainingDynamics(n), torch.arange(n) % classes
    certain = F.one_hot(y, classes) * torch.arange(n)[:, None] / 4  # from chance to nearly certain
    rows = []
    for epoch in range(1000):
        z = (2 * torch.randn(n, classes, generator=generator) + certain).bfloat16()
        dynamics.update(range(n), z, y)
        rows.append(presentation_rows(z, y))
        dynamics.end_epoch(epoch)
    margin, log_p, el2n = torch.stack(rows)[:, :3].unbind(1)
    p, statistics = torch.from_numpy(np.exp(log_p.numpy())).double(), dynamics.compute()
    for name, expected in {
        "margin": margin.double().mean(0),
        "confidence": p.mean(0),
        "variability": p.std(0, correction=0),
        "loss": -log_p.double().mean(0),
        "el2n": el2n.double().mean(0),
    }.items():
        np.testing.assert_allclose(getattr(statistics, name), expected.numpy(), rtol=1e-6, err_msg=name)


def test_a_thousand_equal_additions_lose_nothing() -> None:
    # In float32 the sum of a thousand times 0.1 is off by 1e-6, always in the same direction.
    dynamics = TrainingDynamics(1)
    for epoch in range(1000):
        dynamics.update([0], torch.tensor([[0.1, 0.0]]), torch.tensor([0]))
        dynamics.end_epoch(epoch)
    assert dynamics.compute().margin[0] == pytest.approx(float(np.float32(0.1)), rel=1e-8)
    assert dynamics.compute().variability[0] < 1e-10


@pytest.mark.parametrize("block", [2, 5, 100])
@pytest.mark.parametrize("samples", [5, 3], ids=["all", "some"])
def test_a_permutation_of_the_samples_equals_the_definitions(
    monkeypatch: pytest.MonkeyPatch, block: int, samples: int
) -> None:
    monkeypatch.setattr("dynalens.dynamics.fold._BLOCK", block)
    rng = np.random.default_rng(block)
    epochs = [[(int(i), rng.normal(size=K).tolist()) for i in rng.permutation(5)[:samples]] for _ in range(6)]
    statistics = recorded(epochs).compute()
    for i, row in enumerate(brute_force(epochs)):
        for name, value in row.items():
            if name != "rivals":
                np.testing.assert_allclose(getattr(statistics, name)[i], value, rtol=2e-6, atol=2e-6, err_msg=name)


def test_non_finite_presentations_are_counted_and_left_out() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.tensor([[1.0, 0.0], [math.nan, 0.0]]), torch.tensor([0, 0]))
    epoch = dynamics.end_epoch(0)
    assert (epoch.non_finite, epoch.index.tolist()) == (1, [0])
    assert dynamics.compute().presentations.tolist() == [1, 0]


def test_ignored_targets_are_not_presentations() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.eye(2), torch.tensor([0, IGNORED]))
    assert dynamics.end_epoch(0).non_finite == 0
    assert dynamics.compute().presentations.tolist() == [1, 0]


def test_the_epoch_reports_what_changed_in_it() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor([0, 0]))
    dynamics.end_epoch(0)
    dynamics.update([0, 1], torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0]))
    ended = dynamics.end_epoch(1)
    assert (ended.forgotten, ended.learned, ended.accuracy) == (1, 1, 0.5)
    assert ended.margin.tolist() == [-2.0, 2.0]
    assert ended.predicted.tolist() == [1, 0]
    assert math.isnan(dynamics.end_epoch(2).accuracy)


@pytest.mark.parametrize(
    ("predicted", "candidate", "share"),
    [
        # Where all presentations are wrong, and as sure, the epochs from the second on weigh 8, 27 and 64.
        ([1, 2], 2, (27 - 8) / 35),
        ([1, 2, 2], 2, (27 + 64 - 8) / 99),
        ([2, 1, 2], 2, (8 + 64 - 27) / 99),
        ([2, 0], 2, 1 / 2),  # an epoch without errors weighs nothing
        ([0, 0], -1, math.nan),
    ],
)
def test_the_candidate_is_the_weighted_majority_of_the_largest_other_classes(
    predicted: list[int], candidate: int, share: float
) -> None:
    dynamics = TrainingDynamics(1)
    for epoch, k in enumerate(predicted, start=1):
        dynamics.update([0], torch.eye(3)[[k]], torch.tensor([0]))
        dynamics.end_epoch(epoch)
    statistics = dynamics.compute()
    assert statistics.candidate.item() == candidate
    assert statistics.candidate_share.item() == pytest.approx(share, abs=1e-4, nan_ok=True)


def test_a_record_that_counted_predictions_continues_with_them() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.eye(3)[[2, 1]], torch.tensor([0, 1]))
    dynamics.end_epoch(0)
    saved = dynamics.state_dict()
    for name in ("rival", "rival_lead"):
        del saved["state"][name]
    saved["state"] |= {"candidate": torch.tensor([2, -1]).short(), "candidate_count": torch.tensor([1, 0]).short()}
    resumed = TrainingDynamics(2)
    resumed.load_state_dict(saved)
    statistics = resumed.compute()
    assert statistics.candidate.tolist() == [2, -1]
    np.testing.assert_allclose(statistics.candidate_share, [1.0, np.nan])


def test_integers_widen_beyond_sixteen_bits() -> None:
    dynamics = TrainingDynamics(1)
    z = torch.zeros(1, 40_000)
    z[0, 39_999] = 5.0
    dynamics.update([0], z, torch.tensor([39_998]))
    dynamics.end_epoch(70_000)
    dynamics.update([0], z, torch.tensor([39_998]))
    dynamics.end_epoch(70_001)
    statistics = dynamics.compute()
    assert (statistics.label[0], statistics.candidate[0]) == (39_998, 39_999)
    assert statistics.presentations[0] == 2


def test_presentations_widen_beyond_sixteen_bits() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([1], torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    dynamics.end_epoch(0)
    state = dynamics.state_dict()
    state["state"]["presentations"][1] = 32_766  # as after so many epochs
    dynamics.load_state_dict(state)
    for epoch in range(1, 4):
        dynamics.update([1], torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        dynamics.end_epoch(epoch)
        assert dynamics.compute().presentations.tolist() == [0, 32_766 + epoch]


def test_the_record_takes_64_bytes_a_sample_in_memory_and_in_the_checkpoint() -> None:
    n = 20_000
    dynamics = TrainingDynamics(n)
    dynamics.update(range(n), torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64))
    dynamics.end_epoch(0)
    state, file = dynamics.state_dict(), io.BytesIO()
    torch.save(state, file)
    assert sum(values.nbytes for values in state["state"].values()) == 64 * n
    assert len(file.getvalue()) < 64.5 * n


class _NoCopyBetweenDevices(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {a.device for a in [*args, out] if isinstance(a, Tensor)}
        assert len(devices) <= 1, f"{func} moves data between {devices}"
        return out


class _NoDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """A device such as Apple's has no float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        assert not (isinstance(out, Tensor) and out.dtype is torch.float64), f"{func} makes float64"
        return out


# Small batches wait (8 x 2), are computed together (512 x 10: 13 of them), or are large enough (512 x 1000).
@pytest.mark.parametrize(("size", "classes"), [(8, 2), (512, 10), (512, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("index_on_device", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
def test_the_step_cannot_wait_for_the_device(
    size: int, classes: int, dtype: torch.dtype, index_on_device: bool, probabilities: bool
) -> None:
    computed: list[int] = []
    with FakeTensorMode():
        logits = torch.empty(size, classes, device="cuda", dtype=dtype)
        targets = torch.empty(size, dtype=torch.int64, device="cuda")
        index = torch.empty(size, dtype=torch.int64, device="cuda") if index_on_device else [*range(size)]
        pending = PendingRows(probabilities=probabilities)
        with _NoCopyBetweenDevices(), _NoDouble():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            for _ in range(28):
                pending.add(index, logits, targets)
                computed.append(sum(rows.shape[1] for rows in pending._rows))
            with pytest.raises(AssertionError, match="moves data between"):
                logits.cpu()
    # At 10 classes 13 batches are computed at once, at 1,000 each is; rows are finished where 8,192 would be exceeded.
    assert computed[-1] == {2: 0, 10: 13 * 512, 1000: 16 * 512}[classes]


def test_indices_on_the_device_and_on_the_host_come_back_in_their_order() -> None:
    pending = PendingRows()
    for index in ([3, 1], torch.tensor([4, 2]), torch.tensor([0]), [5]):
        pending.add(index, torch.zeros(len(index), 2), torch.zeros(len(index), dtype=torch.int64))
    assert pending.on_host()[0].tolist() == [3, 1, 4, 2, 0, 5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("size", "classes"), [(8, 2), (512, 10), (512, 1000)])
@pytest.mark.parametrize("index_on_device", [False, True])
def test_no_step_waits_on_a_card_and_the_record_is_that_of_the_cpu(
    size: int, classes: int, index_on_device: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    dynamics = {device: TrainingDynamics(size, mean_probabilities=True) for device in ("cpu", "cuda")}
    for epoch in range(2):
        batches = [(torch.randn(size, classes, generator=generator), torch.arange(size) % classes) for _ in range(28)]
        for device, tracked in dynamics.items():
            index = torch.arange(size, device=device) if index_on_device else [*range(size)]
            moved = [(logits.to(device), targets.to(device)) for logits, targets in batches]
            torch.cuda.set_sync_debug_mode("error" if device == "cuda" else "default")
            try:
                for logits, targets in moved:
                    tracked.update(index, logits, targets)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            tracked.end_epoch(epoch)
    ours, expected = dynamics["cuda"].compute(), dynamics["cpu"].compute()
    for field in fields(SampleStatistics):
        np.testing.assert_allclose(
            getattr(ours, field.name), getattr(expected, field.name), rtol=1e-5, atol=1e-6, err_msg=field.name
        )


@pytest.mark.parametrize("classes", [3, 70, 1000])
def test_all_ways_through_the_classes_find_the_same(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, classes, generator=generator).mul(5).round()  # so that there are ties
    logits[0, 1:], logits[1, :-1], logits[2, 1], logits[3, 2] = -torch.inf, -torch.inf, torch.nan, torch.inf
    labels, turns = torch.arange(40) % classes, torch.arange(40).flip(0) % classes
    by_sample = np.empty((PARTS - 1, 40), np.float32)
    _by_sample(logits.clone(), labels.numpy(), turns.numpy(), by_sample, classes)
    ways: list[Iterable[Tensor]] = [
        torch.from_numpy(by_sample),
        _by_class(logits.clone(), labels, turns, 1),
        _by_class(logits.T.contiguous(), labels, turns, 0),
    ]
    rows = [_presentation_rows(torch.stack([*(each.float() for each in way), labels.float()])) for way in ways]
    counted = rows[0].isfinite().all(0)
    assert counted.tolist() == [number not in (0, 1, 2, 3) for number in range(40)]
    assert rows[0][0, 0] == torch.inf  # all but the label of sample 0 are masked
    for row in rows[1:]:
        torch.testing.assert_close(row[:, counted], rows[0][:, counted], rtol=1e-5, atol=1e-6)
        assert not row[:3, ~counted].isfinite().all(0).any()
    expected = logits[4:].double().softmax(1)
    torch.testing.assert_close(rows[0][1, 4:].double().exp(), expected[range(36), labels[4:]], rtol=1e-5, atol=1e-9)
    assert predicted_classes(rows[0].numpy())[4:].tolist() == [int(np.argmax(z)) for z in logits[4:].numpy()]


def test_small_batches_are_computed_together_in_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    # Other numbers of classes or another precision cannot share a computation.
    batches = [(4, 3, "float32"), (5, 3, "float32"), (2, 7, "float32"), (3, 7, "bfloat16"), (2000, 40, "bfloat16"),
               (1, 3, "float32"), (5, 70, "float32"), (7500, 70, "bfloat16"), (2, 70, "float32")]  # fmt: skip
    pending, expected = PendingRows(), []
    for number, (size, classes, dtype) in enumerate(batches):
        logits = torch.randn(size, classes, generator=generator).to(getattr(torch, dtype))
        targets = torch.arange(size) % classes
        index = torch.arange(size) + 10 * number
        pending.add(index.tolist() if number % 2 else index, logits, targets)
        before = sum(size for size, *_ in batches[:number])
        turns = in_turn(before + size, classes, torch.device("cpu"))[before:]
        expected.append(presentation_rows(logits, targets, turns))
    indices, rows, step = pending.on_host()
    np.testing.assert_array_equal(rows, torch.cat(expected, dim=1).numpy())
    assert indices.tolist() == [i + 10 * number for number, (size, *_) in enumerate(batches) for i in range(size)]
    assert step.tolist() == [number for number, (size, *_) in enumerate(batches) for _ in range(size)]
    assert len(pending) == 9522


def test_an_epoch_that_was_resumed_asks_about_the_same_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(3, 5, generator=generator), torch.tensor([1, 4, 0])) for _ in range(4)]
    whole, before, after = (TrainingDynamics(12) for _ in range(3))
    for number, (z, y) in enumerate(batches):
        if number == 2:
            after.load_state_dict(before.state_dict())
        for dynamics in (whole, before if number < 2 else after):
            dynamics.update(range(3 * number, 3 * number + 3), z, y)
    expected, resumed = whole.end_epoch(0).p_other, after.end_epoch(0).p_other
    np.testing.assert_array_equal(resumed, expected)
    # Classes 2 and 3 are never labels, and where it is the turn of the label there is nothing to ask.
    p = torch.cat([z for z, _ in batches]).softmax(1).numpy()
    turns = [0, 1, 2, 3, 4, 1, 2, 3, 4, 0, 2, 3]
    by_hand = [p[i, k] if k in (0, 1, 4) and k != [1, 4, 0][i % 3] else np.nan for i, k in enumerate(turns)]
    assert np.flatnonzero(np.isfinite(by_hand)).tolist() == [0, 1, 5, 8, 9]  # 5 is the last before the checkpoint
    np.testing.assert_allclose(expected, by_hand, rtol=1e-5)


def test_a_single_logit_for_each_sample_is_no_answer_about_classes() -> None:
    with pytest.raises(ValueError, match=r"Expected `logits` of shape \(N, K\), K >= 2.*got \(2, 1\)"):
        TrainingDynamics(2).update([0, 1], torch.zeros(2, 1), torch.tensor([0, 0]))


def test_heads_with_other_classes_in_one_epoch_leave_no_other_class_known() -> None:
    tracked, resumed = TrainingDynamics(8), TrainingDynamics(8)
    tracked.update(range(4), torch.eye(4, 3), torch.tensor([0, 1, 2, 0]))
    resumed.load_state_dict(tracked.state_dict())
    for dynamics in (tracked, resumed):
        dynamics.update(range(4, 8), torch.eye(4, 2), torch.tensor([0, 1, 0, 1]))
        assert np.isnan(dynamics.end_epoch(0).p_other).all()


@pytest.mark.filterwarnings("error")
def test_two_classes_without_a_finite_logit_are_not_counted_without_a_warning() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.tensor([[-torch.inf, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert dynamics.end_epoch(0).non_finite == 1


def test_the_other_one_of_two_classes_is_known_at_each_presentation() -> None:
    dynamics = TrainingDynamics(3)
    dynamics.update(range(3), torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 40.0]]), torch.tensor([0, 1, 1]))
    p = 1 / (1 + math.exp(-2))
    np.testing.assert_allclose(dynamics.end_epoch(0).p_other, [1 - p, p, math.exp(-40)], rtol=1e-5)
    only = TrainingDynamics(1)
    only.update([0], torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    assert np.isnan(only.end_epoch(0).p_other).all()  # no sample has the other label


@pytest.mark.parametrize("classes", [3, 10, 300, 70_000])
def test_each_class_has_its_turn_and_labels_in_turn_do_not_meet_it(classes: int) -> None:
    turns = in_turn(4 * classes, classes, torch.device("cpu"))
    assert torch.equal(turns.view(4, classes).sort(dim=1).values, torch.arange(classes).expand(4, classes))
    labels = torch.arange(4 * classes) % classes
    meetings = (turns == labels).view(4, classes).all(dim=1).tolist()
    assert meetings == [number % (2 if classes > 2**12 else classes) == 0 for number in range(4)]


def test_steps_before_a_checkpoint_come_before_those_after_it() -> None:
    first, second = PendingRows(), PendingRows()
    for pending in (first, second):
        pending.add([1, 2], torch.eye(2), torch.tensor([0, 1]))
        if pending is first:
            second.continue_from(*first.on_host(), first.heads)
    index, rows, step = second.on_host()
    assert (index.tolist(), step.tolist(), rows.shape) == ([1, 2, 1, 2], [-1, -1, 0, 0], (6, 4))


@pytest.mark.parametrize(
    ("size", "classes"), [(4, 2), (20_000, 2), (7000, 5)], ids=["waiting", "at once", "at once, finished later"]
)
def test_changes_of_a_batch_afterwards_do_not_reach_the_record(size: int, classes: int) -> None:
    dynamics = TrainingDynamics(size)
    index, logits, targets = torch.arange(size), torch.zeros(size, classes), torch.zeros(size).long()
    logits[:, 0] = 2
    dynamics.update(index, logits, targets)
    index.zero_(), logits.zero_(), targets.fill_(1)
    assert dynamics.end_epoch(0).margin.tolist() == [2.0] * size
    assert dynamics.compute().label.tolist() == [0] * size


def test_steps_in_and_out_of_inference_mode_give_the_same_record() -> None:
    plain, mixed = TrainingDynamics(10_000), TrainingDynamics(10_000)
    logits, targets = torch.randn(10_000, 10, generator=torch.Generator().manual_seed(0)), torch.arange(10_000) % 10
    for number, at in enumerate(torch.split(torch.arange(10_000), 4000)):  # each large enough to be computed at once
        plain.update(at, logits[at], targets[at])
        with torch.inference_mode(number == 0):
            mixed.update(at, logits[at], targets[at])
    np.testing.assert_array_equal(mixed.end_epoch(0).margin, plain.end_epoch(0).margin)
    assert_same(mixed.compute(), plain.compute())


def test_waiting_logits_keep_no_graph_and_are_bounded() -> None:
    pending, given = PendingRows(), []
    weight = torch.ones(2, 10, requires_grad=True)
    for _ in range(1000):
        logits = torch.ones(100, 2) @ weight
        given.append(weakref.ref(logits))
        pending.add(range(100), logits, torch.zeros(100).long())
        del logits
        assert len(pending._block) * 10 < 2**19
    # What measures coverage may keep the variables of one call in a thousand.
    assert sum(logits() is not None for logits in given) < 10


def test_the_record_keeps_no_graph_and_changes_no_logits() -> None:
    logits = torch.eye(2, requires_grad=True)
    before = logits.detach().clone()
    rows = presentation_rows(logits, torch.tensor([0, 1]))
    assert not rows.requires_grad
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize(
    ("index", "logits", "targets"),
    [
        ([0, 1], torch.zeros(1, 2), torch.zeros(1).long()),
        ([0], torch.zeros(1, 2), torch.zeros(1, 2).long()),
        ([0], torch.zeros(1, 2, 4), torch.zeros(1).long()),
        (torch.zeros(1), torch.zeros(1, 2), torch.zeros(1).long()),
        (torch.zeros(1, 1).long(), torch.zeros(1, 2), torch.zeros(1).long()),
    ],
)
def test_shapes_that_do_not_agree_are_refused(index: list[int] | Tensor, logits: Tensor, targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected `logits` of shape \(N, K\)"):
        TrainingDynamics(4).update(index, logits, targets)


def refused(index: list[int], targets: list[int]) -> TrainingDynamics:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.eye(2), torch.tensor([0, 1]))
    dynamics.end_epoch(0)
    dynamics.update(index, torch.eye(2)[: len(index)], torch.tensor(targets))
    return dynamics


@pytest.mark.parametrize(
    ("index", "targets", "message"),
    [
        ([2], [0], r"`indices` to be in \[0, 2\), got 1 outside it, the largest of all is 2"),
        ([-1], [0], r"`indices` to be in \[0, 2\), got 1 outside it"),
        ([0, 1], [1, 1], "got 1 samples whose label changed between presentations"),
        ([0], [NOT_A_CLASS], "the targets to be classes, got 1 in this epoch that name no class"),
    ],
)
def test_a_wrong_epoch_is_refused_and_leaves_the_record_as_it_was(
    index: list[int], targets: list[int], message: str
) -> None:
    dynamics = refused(index, targets)
    before = dynamics.compute()
    with pytest.raises(ValueError, match=message):
        dynamics.end_epoch(1)
    assert_same(dynamics.compute(), before)


def test_a_record_of_another_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="with 3 samples, got version 4 with 2"):
        TrainingDynamics(3).load_state_dict(TrainingDynamics(2).state_dict())


def test_zero_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="`num_samples` to be at least 1, got 0"):
        TrainingDynamics(0)


def test_a_record_that_grows_equals_one_that_had_the_room_from_the_start() -> None:
    epochs = [[(0, [5.0, 0.0, 0.0])], [(1, [0.0, 5.0, 0.0]), (0, [0.0, 1.0, 0.0])], [(4, [0.0, 2.0, 1.0])]]
    grown = TrainingDynamics(1)
    for epoch, batch in enumerate(epochs):
        index = [i for i, _ in batch]
        grown.update(index, torch.tensor([z for _, z in batch]), torch.tensor([LABELS[i] for i in index]))
        grown.grow(max(index) + 1)
        # Wide integers stay wide.
        grown.end_epoch(40_000 + epoch)
    assert grown.num_samples == len(LABELS) == len(grown.compute())
    expected = TrainingDynamics(len(LABELS))
    for epoch, batch in enumerate(epochs):
        feed(expected, 40_000 + epoch, batch, 4)
    assert_same(grown.compute(), expected.compute())
    grown.grow(2)
    assert grown.num_samples == len(LABELS)


def test_pending_presentations_can_be_dropped() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.eye(2), torch.tensor([0, 1]))
    assert dynamics.discard_pending() == 2
    dynamics.update([1], torch.tensor([[3.0, 0.0]]), torch.tensor([0]))  # where the others waited
    assert dynamics.end_epoch(0).margin.tolist() == [3.0]
    assert dynamics.compute().presentations.tolist() == [0, 1]


def test_indices_of_any_stride_and_integer_type_and_lists_are_recorded_in_their_order() -> None:
    dynamics, right, wrong = TrainingDynamics(4), torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    dynamics.update(torch.tensor([3, 9, 1], dtype=torch.int32)[::2], torch.cat([right, wrong]), torch.tensor([0, 0]))
    dynamics.update([0], right, torch.tensor([0]))
    dynamics.update(torch.tensor([2]), wrong, torch.tensor([0]))
    assert dynamics.end_epoch(0).index.tolist() == [3, 1, 0, 2]
    assert dynamics.compute().margin.tolist() == [2.0, -2.0, -2.0, 2.0]
