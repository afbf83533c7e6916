"""An estimate that cannot be trusted says so wherever it is shown or used, and one that can says nothing."""

import dataclasses
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dynalens import load_record
from dynalens.cli import main
from dynalens.dynamics import Array, SampleStatistics, TrainingDynamics
from dynalens.record import Record, RecordFolder, RecordMeta
from dynalens.report import write_report
from dynalens.suspicion import NoiseRate, assess, doubts, flagged, wrong_probabilities
from dynalens.suspicion.disagreement import Disagreement, WeightedMeans, disagreement_halfway
from dynalens.suspicion.history_summary import HistorySums
from dynalens.suspicion.noise_rate import estimate_halfway
from dynalens.suspicion.predictions import Predictions

SURE = NoiseRate(low=0.14, value=0.18, high=0.23)
"""Of 5,000 digits, 20 % of them wrong, whose training accuracy was .78."""


def kinds(rate: NoiseRate = SURE, **evidence: Any) -> list[str]:
    """The first words of each doubt."""
    known = {"sample_count": 5000, "accuracy": 0.78, "halfway_rate": 0.182} | evidence
    return [" ".join(doubt.split()[:3]) for doubt in doubts(rate, **known)]


def test_a_steady_narrow_estimate_of_many_samples_has_no_doubt() -> None:
    assert kinds() == []
    assert kinds(halfway_rate=None, accuracy=math.nan) == []  # a record without history


def test_a_network_that_repeats_more_labels_than_can_be_right_is_doubted() -> None:
    error = math.sqrt(0.18 * 0.82 / 5000)
    assert kinds(accuracy=0.82 + 1.99 * error) == []
    assert kinds(accuracy=0.82 + 2.01 * error) == ["The network repeats"]
    clean = NoiseRate(low=0.0, value=0.001, high=0.005)
    assert kinds(clean, accuracy=0.989, halfway_rate=0.001) == []
    assert kinds(clean, accuracy=0.991, halfway_rate=0.001) == ["The network repeats"]  # all but one in a hundred


def test_an_estimate_that_falls_by_more_than_two_standard_errors_is_doubted() -> None:
    error = math.sqrt(0.18 * 0.82 / 5000)
    assert kinds(halfway_rate=0.18 + 1.99 * error) == []
    assert kinds(halfway_rate=0.18 + 2.01 * error) == ["The estimate still"]
    assert kinds(halfway_rate=0.1) == []  # it rises


def test_an_upper_bound_above_that_of_a_hundred_answers_is_doubted_whatever_the_lower_one() -> None:
    half = 2 * math.sqrt(0.18 * 0.82 / 100)  # two standard errors of 100 answers at 18 %
    assert kinds(NoiseRate(low=0.0, value=0.18, high=0.18 + 0.99 * half)) == []
    assert kinds(NoiseRate(low=0.17, value=0.18, high=0.18 + 1.01 * half)) == ["The true rate"]
    assert kinds(NoiseRate(low=0.0, value=0.0, high=0.019), halfway_rate=None) == []  # two of a hundred answers
    assert kinds(NoiseRate(low=0.0, value=0.0, high=0.021), halfway_rate=None) == ["The true rate"]


def test_few_samples_are_doubted_where_a_higher_rate_need_not_show() -> None:
    rate = NoiseRate(low=0.0, value=0.03, high=0.05)
    assert kinds(rate, sample_count=1200, halfway_rate=0.03) == []  # none of 60 need be wrong at 3 / 60, 5 %
    assert kinds(rate, sample_count=1199, halfway_rate=0.03) == ["There are few"]
    assert kinds(sample_count=340) == []  # 3 / 17 is below 18 %
    assert kinds(sample_count=330) == ["There are few"]


def test_a_rate_with_answers_has_no_doubt() -> None:
    assert kinds(dataclasses.replace(SURE, calibrated=True), accuracy=1.0, halfway_rate=0.5, sample_count=9) == []
    assert kinds(NoiseRate(math.nan, math.nan, math.nan), sample_count=0) == []


def test_every_printed_rate_names_its_origin() -> None:
    alone = "from the run alone; audit 100 samples for a confidence interval"
    assert str(SURE) == f"18.0 % (14.0 % to 23.0 %), {alone}"
    assert repr(SURE) == f"NoiseRate(low=0.14, value=0.18, high=0.23, calibrated=False)  # {alone}"
    assert eval(repr(SURE)) == SURE
    assert str(dataclasses.replace(SURE, doubts=("It falls.",))) == f"18.0 % (14.0 % to 23.0 %), {alone}. It falls."
    audited = dataclasses.replace(SURE, calibrated=True)
    assert str(audited) == "18.0 % (14.0 % to 23.0 %), a 95 % interval from answers"
    assert repr(audited) == "NoiseRate(low=0.14, value=0.18, high=0.23, calibrated=True)"


def presented(
    n: int, true: Array, given: Array, epochs: list[Array], folder: RecordFolder | None = None
) -> tuple[SampleStatistics, list[dict[str, Array]]]:
    """Statistics and history of a run with these logits in its epochs."""
    dynamics, history = TrainingDynamics(n), []
    for epoch, logits in enumerate(epochs):
        dynamics.update(range(n), torch.from_numpy(logits), torch.from_numpy(given))
        record = dynamics.end_epoch(epoch)
        history.append(record.presentations())
        if folder is not None:
            folder.write_history(epoch, record)
    return dynamics.compute(), history


def healthy() -> tuple[SampleStatistics, list[dict[str, Array]]]:
    """2,000 samples of ten classes, 20 % of the labels wrong in all ways, which the network never repeats."""
    rng, n = np.random.default_rng(0), 2000
    true = rng.integers(10, size=n)
    given = np.where(rng.random(n) < 0.2, (true + rng.integers(1, 10, n)) % 10, true)
    return presented(n, true, given, [rng.normal(size=(n, 10)) + 7 * np.eye(10)[true] for _ in range(6)])


def test_a_healthy_run_shows_no_doubt() -> None:
    rate = assess(*healthy()).noise_rate
    assert rate.value == pytest.approx(0.2, abs=0.03)
    assert rate.doubts == ()


def photographs() -> Iterator[tuple[Array, Array, Array]]:
    """True labels, labels and logits of each epoch of a small network that learns 300 labels, 30 of them wrong."""
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(300) % 3
    x = torch.randn(300, 40, generator=generator) + 2.8 * F.one_hot(true, 40)
    given = torch.where(torch.arange(300) < 30, (true + 1 + torch.arange(300) // 3 % 2) % 3, true)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(40, 256), nn.ReLU(), nn.Linear(256, 3))
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(20):
        logits = torch.zeros(300, 3)
        for rows in torch.randperm(300, generator=generator).view(10, 30):
            out = network(x[rows])
            logits[rows] = out.detach()
            optimizer.zero_grad()
            F.cross_entropy(out, given[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield true.numpy(), given.numpy(), logits.numpy()


@pytest.fixture(scope="module")
def memorised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has learned all 300 labels by heart; beside it, the same run after 4 epochs."""
    path, epochs = tmp_path_factory.mktemp("runs"), list(photographs())
    true, given, _ = epochs[0]
    for name, length in (("all", 20), ("short", 4)):
        folder = RecordFolder(path / name / "dynalens")
        statistics, _ = presented(300, true, given, [logits for _, _, logits in epochs[:length]], folder)
        folder.write(statistics, np.arange(300), RecordMeta(300, list(range(length)), [], ["ant", "bee", "cow"]))
    return path / "all"


@pytest.fixture
def record(memorised: Path) -> Record:
    return load_record(memorised)


def test_the_rate_of_a_run_that_memorised_its_labels_is_doubted(memorised: Path, record: Record) -> None:
    rate = record.noise_rate()
    assert rate.value < 0.01  # where 10 % are wrong
    assert (record.suspects(30).index < 30).sum() > 20  # nevertheless
    assert not rate.calibrated
    assert record.doubts() == list(rate.doubts) == record.table().attrs["doubts"] == record.suspects(3).attrs["doubts"]
    said = " ".join(rate.doubts)
    assert re.search("repeats 100.0 % of the given labels.*may be far above the estimate.*few samples: 300", said)
    assert "Even if 20 % of all labels were wrong, these few might all be right." in said
    assert "The estimate still falls" in " ".join(load_record(memorised.parent / "short").doubts())


@pytest.mark.parametrize("length", [20, 5])  # all labels are learned by heart; the estimate falls, halfway is epoch 2
def test_the_upper_bound_counts_labels_that_were_contradicted_earlier(length: int) -> None:
    epochs = [(given, logits) for _, given, logits in photographs()]
    given = epochs[0][0]
    early, late = (presented(300, given, given, [z for _, z in epochs[:count]]) for count in (2, length))
    contradicted = (early[0].weighted_rival > early[0].weighted_confidence).mean()
    rate = assess(*late).noise_rate
    assert rate.high == pytest.approx(contradicted)
    assert rate.high > (late[0].weighted_rival > late[0].weighted_confidence).mean()
    assert rate.high > 0.1  # the true rate
    assert assess(late[0]).noise_rate.high < rate.high  # without history


def test_functions_that_act_on_flags_warn_where_no_sample_is_flagged(record: Record) -> None:
    assert record.folder is not None  # "dynalens" in that of the run, which the command names
    assert not record.table()["flagged"].any()
    doubtful = (
        rf"Look at the first of `suspects\(\)`, and audit 100 samples: `dynalens audit {record.folder.parent}`\.\n"
        r"  The estimated noise rate is .*from the run alone.*\.\n  The network repeats 100\.0 %"
    )
    for _ in range(2):  # each time
        with pytest.warns(UserWarning, match=f"No label is flagged: `clean_indices\\(\\)` keeps every .*{doubtful}"):
            assert record.clean_indices() == list(range(300))
    with pytest.warns(UserWarning, match=f"No label is flagged: `weights\\(\\)` gives every.*{doubtful}"):
        assert record.weights().mean() > 0.98
    data = [(None, int(label)) for label in record.statistics.label]
    with pytest.warns(UserWarning, match=f"No label is flagged: `relabelled\\(\\)` changes no label.*{doubtful}"):
        assert [label for _, label in record.relabelled(data)] == [label for _, label in data]


def test_functions_that_act_on_doubtful_flags_warn_once(memorised: Path) -> None:
    record = load_record(memorised.parent / "short")
    assert record.table()["flagged"].any()
    with pytest.warns(UserWarning, match="The flags are doubtful. Look at .*\n  The estimated noise rate .*run alone"):
        assert len(record.clean_indices()) < 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record.clean_indices()


def test_answers_leave_nothing_to_warn_of(memorised: Path) -> None:
    record = load_record(memorised)
    plan = record.audit_plan(40)
    answers = plan.assign(answer=np.where(plan["sample_id"] < 30, "wrong", "right"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record.clean_indices(answers=answers)
        record.weights(answers=answers)
    assert record.audit(answers).noise_rate.doubts == ()


def test_few_answers_make_rate_and_flags_doubtful(
    memorised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = load_record(memorised)
    plan = record.audit_plan(29)
    answers = plan.assign(answer=np.where(plan["sample_id"] < 30, "wrong", "right"))
    [doubt] = record.audit(answers).noise_rate.doubts
    assert doubt == "There are only 29 answers: rate and flags can be far off. Answer at least 30 of the drawn samples."
    assert record.audit(answers.head(1)).noise_rate.doubts[0].startswith("There is only 1 answer: ")
    for acts in (record.clean_indices, record.weights):
        with pytest.warns(UserWarning, match="There are only 29 answers"):
            acts(answers=answers)
    answers.to_csv(tmp_path / "answers.csv")
    assert main(["suspects", str(memorised), "--answers", str(tmp_path / "answers.csv")]) == 0
    assert f"Doubtful: {doubt}" in capsys.readouterr().out
    assert f'"doubts":["{doubt}"]' in write_report(record, tmp_path / "r.html", answers=answers).read_text()


def test_a_person_who_answered_about_every_sample_knows() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update([0, 1], torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    dynamics.end_epoch(0)
    record = Record(statistics=dynamics.compute(), meta=RecordMeta(num_samples=2, epochs=[0]), root_index=np.arange(2))
    answers = record.audit_plan(2).assign(answer=["right", "wrong"])
    assert record.audit(answers).noise_rate == NoiseRate(0.5, 0.5, 0.5, calibrated=True)


def test_the_command_line_says_what_is_doubtful(memorised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suspects", str(memorised), "--top", "5"]) == 0
    shown = capsys.readouterr().out
    assert "0 of 300 samples are flagged.\n" in shown
    assert "from the run alone; audit 100 samples for a confidence interval\nDoubtful: The network repeats" in shown
    assert "The 5 most suspicious follow: look at them." in shown
    assert f"To learn how many labels are wrong, answer 100 questions: dynalens audit {memorised}" in shown


def test_the_report_says_what_is_doubtful(record: Record, tmp_path: Path) -> None:
    page = write_report(record, tmp_path / "report.html").read_text()
    assert '"doubts":["The network repeats 100.0 % of the given labels' in page
    assert '"note":"No label is flagged. The cards show the most suspicious samples' in page


def test_the_flags_while_training_equal_the_flags_of_the_table() -> None:
    statistics, history = healthy()
    assessment = assess(statistics, history)
    expected = np.sort(-assessment.probability)
    count = int((-np.cumsum(expected) / np.arange(1, 2001) >= 0.8).sum())  # the mean of the first falls as they grow
    is_flagged = flagged(wrong_probabilities(statistics, assessment.noise_rate.value), 0.8)
    assert is_flagged.sum() == count > 100
    assert not flagged(wrong_probabilities(statistics, 0.0), 0.8).any()


def test_the_means_of_the_history_equal_the_means_of_the_record() -> None:
    statistics, history = healthy()
    means = WeightedMeans(2000)
    for number, epoch in enumerate(history):
        p_rival = epoch["p_label"] * np.exp(-epoch["margin"])
        means.add(number, epoch["index"], epoch["p_label"], p_rival)
    [measured] = means.disagreement(5, statistics.label, statistics.candidate)
    predictions = Predictions.from_statistics(statistics)
    differ = predictions.leader() != predictions.label
    sure = np.argsort(-np.maximum(predictions.p_label, predictions.p_rival))[:100]
    assert measured.doubted_share == pytest.approx(float(differ.mean()), abs=0.001)
    assert measured.surest_doubted_share == pytest.approx(float(differ[sure].mean()), abs=0.01)
    assert WeightedMeans(3).disagreement(0, np.zeros(3), np.zeros(3)) == []


def test_the_earlier_estimate_is_of_the_confusions_of_its_time() -> None:
    """Of 300 samples of three classes, half are contradicted: at first both ways alike, later all by the next class."""
    label, index = np.arange(300) % 3, np.arange(300)
    is_doubted = index < 150
    both_ways, next_class = (label + 1 + index // 3 % 2) % 3, (label + 1) % 3
    margin, p_label = np.where(is_doubted, -1.0, 3.0), np.where(is_doubted, 0.2, 0.9)
    sums = HistorySums()
    for other in (both_ways, next_class):
        predicted = np.where(is_doubted, other, label)
        sums.add(label, {"index": index, "margin": margin, "p_label": p_label, "predicted": predicted})
    first, second = sums.summary(label).disagreements
    assert (first.direction, first.doubted_share) == (0.0, 0.5)
    # 50 confusions of each of three pairs, all one way: (3 (50^2 - 50) - 2 sqrt(3 x 2 x 50 x 49)) / (3 x 50^2)
    assert second.direction == pytest.approx((7350 - 2 * math.sqrt(14700)) / 7500, abs=1e-6)
    # Nothing is ruled out and the surest are right: f = 0, so that r c is estimated, with r = min(1, A / (1/2)^2).
    assert estimate_halfway([first, second], [], 3) == 0.0
    assert estimate_halfway([second], [], 4) == 0.5


def test_an_estimate_at_its_limit_is_doubted() -> None:
    assert "which is its limit" in " ".join(doubts(NoiseRate(0.4, 0.5, 0.6), sample_count=5000))
    assert "limit" not in " ".join(doubts(NoiseRate(0.4, 0.49, 0.6), sample_count=5000))


def test_the_earlier_estimate_is_of_the_first_half() -> None:
    course = [Disagreement(epoch, 0.5, 0.5) for epoch in (0, 1, 2, 3, 4, 6, 8)]
    assert [getattr(disagreement_halfway(course[:epochs], epochs), "epoch", None) for epochs in (0, 1, 2, 3, 4, 5)] == [
        None, None, 0, 0, 1, 1,
    ]  # fmt: skip
    assert disagreement_halfway(course, 12) == course[4]


def test_the_surest_twentieth_is_counted_by_hand() -> None:
    p_leader = np.array([*np.linspace(0.3, 0.8, 38), 0.95, 0.99])
    differ = np.zeros(40, bool)
    differ[[0, 1, 39]] = True
    assert Disagreement.from_samples(3, differ, p_leader) == Disagreement(
        3, doubted_share=3 / 40, surest_doubted_share=0.5
    )
