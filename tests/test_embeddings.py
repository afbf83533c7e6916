"""Embeddings of an encoder that never saw the labels: what they say, and the order of run and embeddings together."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torch import Tensor

from dynalens import TrainingDynamicsMonitor, load_record
from dynalens.cli import main
from dynalens.dynamics import TrainingDynamics
from dynalens.embeddings import EmbeddingEvidence, embedding_evidence, nearest
from dynalens.embeddings.evidence import neighbour_probabilities
from dynalens.embeddings.probe import class_loss, fit_probe, label_loss, out_of_fold, principal_components
from dynalens.embeddings.storage import read_embeddings
from dynalens.record import Record, RecordMeta
from dynalens.report import write_report
from dynalens.suspicion import NoiseRate, RunLoss, assess, joined
from dynalens.suspicion.confusions import confident_rate
from dynalens.suspicion.predictions import Predictions
from dynalens.suspicion.rate_doubts import bounds_doubts
from dynalens.suspicion.run_and_embeddings import embedding_weight, joint_rate
from training import fit

Array = Any


def clusters(n: int = 300, classes: int = 3, spread: float = 0.5, seed: int = 0) -> tuple[Tensor, Array]:
    """Return embeddings (n, 8) around one centre a class, and the classes."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    centres = 2 * rng.normal(size=(classes, 8))
    return torch.from_numpy(centres[true] + spread * rng.normal(size=(n, 8))).float(), true


# --- neighbours


def neighbours_by_definition(features: Tensor, k: int) -> Array:
    x = features.double()
    cosine = torch.tensor([[float(a @ b / (a.norm() * b.norm())) for b in x] for a in x])
    return np.array(
        [sorted((j for j in range(len(x)) if j != i), key=lambda j: -cosine[i, j])[:k] for i in range(len(x))]
    )


def all_nearest(features: Tensor, k: int) -> Array:
    rows = np.arange(len(features))
    return np.concatenate([near for _, near in nearest(features, k, rows, rows)])


@pytest.mark.parametrize("seed", range(3))
def test_nearest_samples_equal_their_definition(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynalens.embeddings.neighbours._BLOCK", 90)  # a few rows at a time
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))
    assert all_nearest(features, 5).tolist() == neighbours_by_definition(features, 5).tolist()


def test_a_sample_alone_has_no_neighbour() -> None:
    assert all_nearest(torch.ones(1, 2), 3).tolist() == [[-1]]
    assert list(nearest(torch.ones(0, 2), 3, np.arange(0), np.arange(0))) == []


def test_an_index_finds_the_neighbours_of_more_samples_than_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    features, _ = clusters(600, classes=6)
    exact = all_nearest(features, 10)
    monkeypatch.setattr("dynalens.embeddings.neighbours.MOST_EXACT", 100)
    by_index = all_nearest(features, 10)
    assert all(row not in near for row, near in enumerate(by_index))
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(exact, by_index, strict=True)]
    assert np.mean(shared) > 0.95


def test_too_many_samples_without_an_index_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynalens.embeddings.neighbours.MOST_EXACT", 100)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"Expected faiss .* more than 100 samples.*pip install faiss-cpu"):
        all_nearest(torch.ones(101, 2), 3)


def test_classes_of_neighbours_by_hand() -> None:
    near, labels = np.array([[1, 2, 3, 0], [0, 2, -1, -1]]), np.array([0, 0, 1, 2])
    # Four neighbours: a = 2. Row 0: counts (2, 1, 1), row 1: (1, 1, 0), each plus 2 * (0.5, 0.25, 0.25).
    expected = np.array([[3, 1.5, 1.5], [2, 1.5, 0.5]]) / np.array([[6], [4]])
    np.testing.assert_allclose(neighbour_probabilities(near, labels, np.array([0.5, 0.25, 0.25])), expected)


# --- linear probe


def one_hot(labels: np.ndarray) -> torch.Tensor:
    return torch.eye(int(labels.max()) + 1)[torch.from_numpy(labels)]


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_the_probe_is_the_minimum_that_a_peer_finds(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(200, spread=3.0)
    x, variance = principal_components(features)
    y = one_hot(labels)
    quick = fit_probe(x, variance, y, strength, loss=class_loss).logits(x).softmax(dim=1).numpy()
    monkeypatch.setattr("dynalens.embeddings.probe._TOLERANCE", 1e-6)
    exact = fit_probe(x, variance, y, strength, loss=class_loss).logits(x).softmax(dim=1).numpy()
    standardised = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    peer = LogisticRegression(C=1 / (200 * strength), tol=1e-8, max_iter=1000).fit(standardised, labels)
    np.testing.assert_allclose(exact, peer.predict_proba(standardised), atol=5e-4)
    np.testing.assert_allclose(quick, exact, atol=1e-2)


def test_more_dimensions_than_samples_give_the_same_probe() -> None:
    features, labels = clusters(30, spread=3.0)
    wide = torch.cat([features, features, features, features, features], dim=1)  # 40 columns, 30 samples
    # Five equal columns share a weight w as w / 5 each, at a fifth of the penalty.
    narrow, wide_p = (
        fit_probe(*components, one_hot(labels), strength, loss=class_loss).logits(components[0]).log_softmax(dim=1)
        for components, strength in ((principal_components(features), 0.1), (principal_components(wide), 0.5))
    )
    torch.testing.assert_close(wide_p, narrow, atol=5e-3, rtol=0)


def test_the_probe_of_labels_is_the_minimum_that_a_peer_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynalens.embeddings.probe._TOLERANCE", 1e-6)
    features, labels = clusters(200, spread=3.0)
    x, variance = principal_components(features)
    bits = np.stack([labels == 0, labels != 1, labels == 2], axis=1).astype(np.float32)
    bits[:50, 1] = np.nan  # the loss ignored these
    logits = fit_probe(x, variance, torch.from_numpy(bits), 0.01, loss=label_loss).logits(x).numpy()
    standardised = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    for label, begin in ((0, 0), (1, 50), (2, 0)):  # the mean is over all samples, with and without the label
        peer = LogisticRegression(C=1 / (200 * 0.01), tol=1e-8, max_iter=1000)
        peer.fit(standardised[begin:], bits[begin:, label])
        np.testing.assert_allclose(logits[:, label], peer.decision_function(standardised), atol=5e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_a_column_changes_no_prediction(scale: float) -> None:
    features, labels = clusters(100, spread=2.0)
    scaled = torch.cat([features[:, :1] * scale, features[:, 1:]], dim=1)
    expected = out_of_fold(features, one_hot(labels), class_loss)
    torch.testing.assert_close(out_of_fold(scaled, one_hot(labels), class_loss), expected, atol=1e-3, rtol=1e-3)


def test_a_sample_has_no_say_in_its_own_probability() -> None:
    features, labels = clusters(100, spread=2.0)
    y = one_hot(labels)
    before = out_of_fold(features, y, class_loss)
    part = np.random.default_rng(0).permutation(100) % 5
    row = int(np.flatnonzero(part == 2)[0])  # the first part chooses the penalty
    flipped = y.clone()
    flipped[row] = y[row].roll(1)
    after = out_of_fold(features, flipped, class_loss)
    torch.testing.assert_close(after[part == 2], before[part == 2])
    assert not torch.equal(after, before)


def test_embeddings_that_say_nothing_predict_the_frequencies() -> None:
    rng = torch.Generator().manual_seed(0)
    y = (torch.arange(2000) % 4 == 0).long()
    log_p = out_of_fold(torch.randn(2000, 5, generator=rng), one_hot(y.numpy()), class_loss).log_softmax(dim=1)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert float(torch.nn.functional.nll_loss(log_p, y)) == pytest.approx(entropy, abs=0.005)


# --- evidence


def test_a_flipped_label_stands_out() -> None:
    features, true = clusters(300)
    labels = true.copy()
    labels[:20] = (true[:20] + 1) % 3
    evidence = embedding_evidence(features, labels)
    for signal in (evidence.neighbours, evidence.probe, -evidence.margin):
        assert signal[:20].min() > signal[20:].max()
    np.testing.assert_array_equal(evidence.rival[:20], true[:20])  # they look like what they are
    # Who knows every class, and how the labels are flipped, has a loss of 14 / 15 log(15 / 14) + 1 / 15 log 15.
    assert 14 / 15 * np.log(15 / 14) + np.log(15) / 15 <= evidence.loss < 0.5
    assert evidence.entropy == pytest.approx(np.log(3), abs=0.01)


def test_samples_without_label_are_left_out() -> None:
    features, labels = clusters(100)
    part = embedding_evidence(features[:80], labels[:80])
    labels = np.where(np.arange(100) < 80, labels, -1)
    whole = embedding_evidence(features, labels)
    for name in ("p_label", "p_rival", "rival", "label"):
        np.testing.assert_allclose(getattr(whole, name)[:80], getattr(part, name))
    assert np.isnan([whole.neighbours[80:], whole.probe[80:], whole.p_label[80:], whole.p_rival[80:]]).all()
    assert (whole.label[80:] == -1).all()
    assert (whole.rival[80:] == -1).all()


@pytest.mark.parametrize("labels", [[0, 0, 0], [-1, -1, -1], [1, -1, -1]])
def test_labels_of_one_class_say_nothing(labels: list[int]) -> None:
    evidence = embedding_evidence(torch.randn(3, 2), np.array(labels))
    assert np.isnan(evidence.p_label).all()
    assert embedding_weight(evidence, run_loss=0.5) == 0


def test_a_zero_vector_has_no_neighbours_and_is_judged_by_the_probe() -> None:
    features, labels = clusters(100)
    features[7] = 0
    evidence = embedding_evidence(features, labels)
    assert np.flatnonzero(np.isnan(evidence.neighbours)).tolist() == [7]
    assert np.isfinite(evidence.margin).all()


def test_classes_may_have_any_numbers_and_few_samples() -> None:
    features, labels = clusters(60)
    named = np.array([4, 900, 17])[labels]
    evidence = embedding_evidence(features, named)
    np.testing.assert_allclose(evidence.probe, _with_order(features, labels, [0, 2, 1]))
    assert set(evidence.rival) == {4, 17, 900}
    assert np.isfinite(embedding_evidence(torch.eye(3), np.array([0, 1, 2])).margin).all()


def _with_order(features: Tensor, labels: Array, order: list[int]) -> Array:
    return embedding_evidence(features, np.array(order)[labels]).probe


@pytest.mark.parametrize(
    ("loss", "run_loss", "weight"),
    [
        (1.0, 1.0, 2.0),  # as much as the run
        (0.5, 1.0, 2.0),  # more
        (1.5, 1.0, 2 / 2**8),  # half as much
        (1.0, 2.5, 2.0),  # the run says nothing
        (2.0, 1.0, 0.0),  # the embeddings say nothing
        (2.1, 2.5, 0.0),  # neither does
    ],
)
def test_the_weight_of_embeddings_by_hand(loss: float, run_loss: float, weight: float) -> None:
    none = np.zeros(1)
    evidence = EmbeddingEvidence(none, none, none, none, none, none, loss=loss, entropy=2.0)
    assert embedding_weight(evidence, run_loss) == pytest.approx(weight)


def test_the_loss_of_a_run_is_that_of_the_epoch_that_agrees_best_with_the_embeddings() -> None:
    margin, zeros = np.array([2.0, 1.0, -1.0, np.nan]), np.zeros(4, np.int64)
    evidence = EmbeddingEvidence(margin, margin, zeros, np.exp(margin), zeros + 1, np.ones(4))
    loss = RunLoss(evidence, np.array([0.25, 0.75, np.nan, np.nan]))
    assert loss.value == 0.5
    order = np.array([3, 0, 2, 1])  # the last sample has no embedding: its probability does not count
    loss.read(0, {"index": order, "p_label": np.array([0.0, 0.5, 0.5, 0.5], np.float32)})
    assert loss.value == 0.5  # an epoch without differences agrees with nothing
    epochs = [0.5, 0.5, 0.25], [0.8, 0.4, 0.1], [1.0, 0.2, 0.9]
    for p_label in epochs:
        loss.read(1, {"index": order, "p_label": np.array([0.9, p_label[0], p_label[2], p_label[1]])})
    assert np.argmax([np.corrcoef(p_label, margin[:3])[0, 1] for p_label in epochs]) == 1
    assert loss.value == pytest.approx(-np.log(0.8 * 0.4 * 0.1) / 3)


# --- the order of both


def run(n: int = 2000, epochs: int = 6, seed: int = 0) -> tuple[Record, Tensor, Array, Array]:
    """Return a run in which every second wrong label is memorised at once, embeddings, labels, and which are wrong."""
    features, true = clusters(n, spread=1.0, seed=seed)
    rng = np.random.default_rng(seed)
    wrong = np.arange(n) < n // 10
    labels = np.where(wrong, (true + 1) % 3, true)
    dynamics = TrainingDynamics(n)
    history = []
    for epoch in range(epochs):
        logits = rng.normal(0, 1.0, (n, 3))
        logits[np.arange(n), np.where(np.arange(n) % 2, labels, true)] += 1.5 + 0.5 * epoch
        dynamics.update(torch.arange(n), torch.from_numpy(logits).float(), torch.from_numpy(labels))
        history.append(dynamics.end_epoch(epoch).presentations())
    record = Record(statistics=dynamics.compute(), meta=RecordMeta(n, list(range(epochs))), root_index=np.arange(n))
    record._assessment = assess(record.statistics, history)
    return record, features, labels, wrong


def precision_of(table: pd.DataFrame, wrong: Array) -> float:
    return float(average_precision_score(wrong, table["score"]))


def test_embeddings_reveal_what_the_run_has_memorised() -> None:
    record, features, _, wrong = run()
    alone, both = precision_of(record.table(), wrong), precision_of(record.table(embeddings=features), wrong)
    assert alone < 0.7
    assert both > 0.95


def test_embeddings_find_flips_that_follow_a_rule() -> None:
    features, true = clusters(2000, spread=1.5)
    wrong = (np.arange(2000) < 800) & (true == 0)  # two fifths of class 0 are labelled 1, by everyone's rule
    labels = np.where(wrong, 1, true)
    evidence = embedding_evidence(features, labels)
    run_score = np.random.default_rng(0).normal(size=2000)  # a run that knows nothing
    run = dataclasses.replace(assess(TrainingDynamics(2000).compute()), score=run_score, noise_rate=NoiseRate(0, 0, 0))
    by_margins = run_score - 2 * evidence.margin / evidence.margin.std()  # what it would be without class pairs
    by_rule = joined(run, evidence, run_loss=9.0).score
    assert average_precision_score(wrong, by_rule) > average_precision_score(wrong, by_margins) + 0.1


def test_the_rate_of_both_is_the_geometric_mean_by_how_much_the_embeddings_count() -> None:
    rate = NoiseRate(0.01, 0.02, 0.1)
    assert joint_rate(rate, 0.16, 2.0).value == pytest.approx((0.02 * 0.16) ** (1 / 2))
    assert joint_rate(rate, 0.16, 0.5).value == pytest.approx((0.02 * 0.02 * 0.16) ** (1 / 3))
    assert joint_rate(rate, 0.16, 0.0) == rate
    assert joint_rate(NoiseRate(0, 0, 0.1), 0.16, 2.0).value == 0  # a run that doubts nothing
    assert joint_rate(NoiseRate(0.3, 0.5, 0.6), 0.7, 2.0).value == 0.5  # labels are right more often than not
    both = joint_rate(rate, 0.16, 2.0)
    assert [both.low, both.high] == pytest.approx([0.01, 0.16])
    assert joint_rate(rate, 0.16, 0.5).high == pytest.approx((0.1 * 0.16 * 0.16) ** (1 / 3))
    assert joint_rate(rate, 0.05, 2.0).high == 0.1
    assert str(both).startswith("5.7 % (1.0 % to 16.0 %), from the run and the embeddings; audit 100 samples")


def test_doubts_of_the_run_are_told_as_those_and_the_ends_are_those_of_both() -> None:
    rate = NoiseRate(0.0, 0.02, 0.3)
    [wide] = bounds_doubts(rate)
    doubtful = dataclasses.replace(rate, doubts=("The estimate still falls.", wide))
    assert joint_rate(doubtful, 0.4, 2.0).doubts == (
        "Without the embeddings: the estimate still falls.",
        "The true rate may be far above the estimate, up to 40.0 %: this run cannot tell so many wrong labels from "
        "hard samples.",
    )


def test_the_confident_joint_of_embeddings_by_hand() -> None:
    # Thresholds: class 0 (.9 + .7) / 2, class 1 (.8 + .2) / 2. True 0: samples 0 and 3 (labelled 1), true 1: sample 2.
    # Each count is raised by the root of how many lead so: [[1 + sqrt 2, 1 + 1], [0, 1 + 1]], the columns scaled to 2.
    label, p_label = np.array([0, 0, 1, 1]), np.array([0.9, 0.7, 0.8, 0.2])
    predictions = Predictions(label, np.log(p_label / (1 - p_label)), p_label, 1 - label, 1 - p_label, 2)
    assert confident_rate(predictions) == pytest.approx(1 / 4)


def test_labels_that_the_run_has_memorised_are_counted_with_embeddings() -> None:
    record, features, _, wrong = run()
    alone, both = record.noise_rate().value, record.with_embeddings(features).noise_rate().value
    assert alone < 0.08
    assert abs(both - wrong.mean()) < abs(alone - wrong.mean())


@pytest.mark.parametrize("kind", ["random", "other order", "constant"])
def test_embeddings_that_say_nothing_cost_nothing(kind: str) -> None:
    record, features, _, wrong = run()
    rng = torch.Generator().manual_seed(1)
    bad = {
        "random": torch.randn(2000, 16, generator=rng),
        "other order": features[torch.randperm(2000, generator=rng)],
        "constant": torch.ones(2000, 4),
    }[kind]
    both = record.with_embeddings(bad)
    alone = precision_of(record.table(), wrong)
    assert precision_of(both.table(), wrong) > alone - 0.005
    plan = both.audit_plan(30)  # few answers, which may seem to agree with anything
    answers = plan.assign(answer=np.where(wrong[plan["sample_id"]], "wrong", "right"))
    assert record.audit_plan(30)["sample_id"].tolist() == plan["sample_id"].tolist()
    assert both.audit(answers).table()["rank"].tolist() == record.audit(answers).table()["rank"].tolist()


def test_columns_belong_to_the_order_of_both() -> None:
    record, features, labels, _ = run()
    plain, table = record.table(), record.table(embeddings=features)
    evidence = embedding_evidence(features, labels)
    assert not {"score_probe", "score_neighbours"} & set(plain)
    np.testing.assert_array_equal(table["score_probe"], evidence.probe)
    np.testing.assert_array_equal(table["score_neighbours"], evidence.neighbours)
    assert table["rank"].tolist() == table["score"].rank(ascending=False, method="first").astype(int).tolist()
    np.testing.assert_allclose(table["wrong_probability"], 1 / (1 + np.exp(-table["score"])))
    assert table["wrong_probability"].mean() == pytest.approx(record.with_embeddings(features).noise_rate().value)
    assert record.clean_indices(0.9, embeddings=features) == record.with_embeddings(features).clean_indices(0.9)
    pd.testing.assert_frame_equal(record.suspects(5, embeddings=features), table.sort_values("rank").head(5))
    # The record itself stays as it was.
    pd.testing.assert_frame_equal(record.table(), plain)


def test_embeddings_that_count_less_than_the_run_keep_its_suggestions() -> None:
    record, features, labels, _ = run()
    before, after = record.assess(), joined(record.assess(), embedding_evidence(features, labels), run_loss=0.001)
    named = before.suggested >= 0
    np.testing.assert_array_equal(after.suggested, before.suggested)
    np.testing.assert_allclose(
        (after.suggested_probability / after.probability)[named],
        (before.suggested_probability / before.probability)[named],
    )


def test_embeddings_that_tell_as_much_as_the_run_suggest_the_class() -> None:
    record, features, labels, wrong = run()
    evidence = embedding_evidence(features, labels)
    before, after = record.assess(), joined(record.assess(), evidence, run_loss=1.0)
    true = np.where(wrong, (labels + 2) % 3, labels)  # each wrong label is the class after the true one
    assert (after.suggested == true)[wrong].mean() > (before.suggested == true)[wrong].mean() + 0.1
    share = evidence.p_rival / (1 - evidence.p_label)
    np.testing.assert_allclose(after.suggested_probability, after.probability * share)
    other = after.suggested != before.suggested
    assert np.isnan(after.agreement[other]).all()
    np.testing.assert_array_equal(after.agreement[~other], before.agreement[~other])


def test_samples_never_seen_stay_without_score() -> None:
    features, labels = clusters(100)
    dynamics = TrainingDynamics(100)
    dynamics.update(torch.arange(60), torch.randn(60, 3), torch.from_numpy(labels[:60]))
    dynamics.end_epoch(0)
    record = Record(statistics=dynamics.compute(), meta=RecordMeta(100, [0]), root_index=np.arange(100))
    table = record.table(embeddings=features)
    assert table[["score", "rank", "score_probe", "score_neighbours"]].iloc[60:].isna().all(axis=None)
    assert table["score"].iloc[:60].notna().all()


def test_a_monitor_a_record_on_disk_and_the_command_line_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor)
    n = len(monitor.table())
    embeddings = np.random.default_rng(0).normal(size=(n, 4))
    np.save(tmp_path / "embeddings.npy", embeddings)
    table = monitor.table(embeddings=embeddings)
    pd.testing.assert_frame_equal(load_record(tmp_path).table(embeddings=torch.from_numpy(embeddings)), table)
    assert load_record(tmp_path).clean_indices(embeddings=embeddings) == monitor.clean_indices(embeddings=embeddings)
    command = ["suspects", str(tmp_path), "--embeddings", str(tmp_path / "embeddings.npy")]
    assert main([*command, "--precision", "0.01", "--csv", str(tmp_path / "suspects.csv")]) == 0
    written = pd.read_csv(tmp_path / "suspects.csv", index_col=0)
    pd.testing.assert_series_equal(
        written["score_probe"], monitor.suspects(precision=0.01, embeddings=embeddings)["score_probe"]
    )
    assert main(["report", str(tmp_path), *command[2:]]) == 0
    assert "the probabilities come from the run alone" in (tmp_path / "dynalens" / "report.html").read_text()


def test_the_report_says_that_its_rate_comes_from_both(tmp_path: Path) -> None:
    record, features, _, _ = run(n=200)
    page = write_report(record.with_embeddings(features), tmp_path / "report.html").read_text()
    assert "estimated noise rate, from the run and embeddings" in page
    assert "The rate and the probabilities come from the run and the embeddings." in page


def test_an_audit_of_run_and_embeddings_has_strata_in_the_order_of_both() -> None:
    record, features, _, wrong = run()
    both = record.with_embeddings(features)
    plan = both.audit_plan(100)
    for order, in_order in ((both, True), (record, False)):
        scores = order.table()["score"].groupby(both.latest_plan().stratum)
        highest, lowest = scores.max().to_numpy(), scores.min().to_numpy()
        assert (highest[1:] <= lowest[:-1]).all() == in_order
    answers = plan.assign(answer=np.where(wrong[plan["sample_id"]], "wrong", "right"))
    rate = both.audit(answers).noise_rate
    assert rate.low < wrong.mean() < rate.high
    assert record.with_embeddings(features).audit(answers).noise_rate == rate


def strange(file: Path, kind: str) -> None:
    """Write a file that is not one array of numbers."""
    if kind == "several":
        with file.open("wb") as opened:
            np.savez(opened, a=np.zeros(3))
    elif kind == "objects":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "larger":
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (10**12, 768), }".replace("10**12", str(10**12))
        file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64))
    else:
        file.write_bytes({"text": b"hello", "empty": b"", "pickle": b"\x80\x04]."}[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "got another kind of file. Write it"),
        ("empty", "got another kind of file"),
        ("pickle", "got another kind of file"),
        ("several", "got an archive of several"),
        ("objects", "got Python objects, which are not loaded"),
        ("larger", "got a header that says (1000000000000, 768) of float64 and 64 bytes behind it"),
    ],
)
def test_a_file_that_holds_no_embeddings_is_one_error(tmp_path: Path, kind: str, message: str) -> None:
    strange(tmp_path / "file.npy", kind)
    with pytest.raises(ValueError, match=rf"file\.npy to be an \.npy file of numbers, {re.escape(message)}"):
        read_embeddings(tmp_path / "file.npy")


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros((1999, 4)), r"a row for each of the 2000 samples of the dataset, got 1999\. Embed the dataset of"),
        (np.zeros(2000), r"of numbers of shape \(2000, D\), got float64 of shape \(2000,\)\. Pass one vector"),
        (torch.zeros(2000, 3, 3), r"got torch.float32 of shape \(2000, 3, 3\)"),
        (np.zeros((2000, 0)), r"got float64 of shape \(2000, 0\)"),
        (np.array([["a"]] * 2000), r"got <U1 of shape \(2000, 1\)"),
        (np.zeros((2000, 2), complex), r"got complex128 of shape"),
        (np.zeros((2000, 2), bool), r"got bool of shape"),
        (torch.zeros(2000, 2, dtype=torch.bool), r"got torch.bool of shape"),
        (
            np.where(np.eye(2000, 2), np.nan, 1),
            r"finite float32 numbers, got NaN or infinity in 2 rows, such as \[0, 1\]",
        ),
        (np.full((2000, 1), 1e300), r"got NaN or infinity in 2000 rows"),
        ({0: [1.0]}, r"as the samples are known by their position, got a dict\. Pass `np\.stack"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_embeddings_that_fit_no_dataset_are_refused(embeddings: Any, message: str) -> None:
    n = 2000
    dynamics = TrainingDynamics(n)
    dynamics.update(torch.arange(n), torch.randn(n, 3), torch.arange(n) % 3)
    dynamics.end_epoch(0)
    record = Record(statistics=dynamics.compute(), meta=RecordMeta(n, [0]), root_index=np.arange(n))
    with pytest.raises(ValueError, match=message):
        record.table(embeddings=embeddings)


def test_samples_known_by_ids_take_a_mapping() -> None:
    features, labels = clusters(30)
    dynamics = TrainingDynamics(30)
    dynamics.update(torch.arange(30), torch.randn(30, 3), torch.from_numpy(labels))
    dynamics.end_epoch(0)
    ids = np.array([f"s{i}" for i in range(30)])
    by_position = Record(statistics=dynamics.compute(), meta=RecordMeta(30, [0]), root_index=np.arange(30))
    by_id = Record(statistics=dynamics.compute(), meta=RecordMeta(30, [0]), root_index=np.arange(30), sample_ids=ids)
    vectors = {f"s{i}": features[i] for i in reversed(range(30))}
    expected = by_position.table(embeddings=features)
    np.testing.assert_array_equal(by_id.table(embeddings=vectors)["score"], expected["score"])
    with pytest.raises(ValueError, match=r"a mapping of ids to vectors, .* ids such as .*s0.*, got a Tensor"):
        by_id.table(embeddings=features)
    del vectors["s3"]
    with pytest.raises(ValueError, match=r"a vector for each id, got none for 1, such as \['s3'\]"):
        by_id.table(embeddings=vectors)
    with pytest.raises(ValueError, match=r"vectors of one length, got shapes \[\(2,\), \(8,\)\]"):
        by_id.table(embeddings=vectors | {"s3": [1.0, 2.0]})
