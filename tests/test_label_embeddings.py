"""Embeddings of samples with several labels: what they say of each label, and the order that run and they give."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.utils.data import TensorDataset

from dynalens import SampleStatistics, TrainingDynamics, audit_plan, load_record
from dynalens.cli import main
from dynalens.dynamics import Array
from dynalens.embeddings import LabelEvidence, label_evidence
from dynalens.embeddings.stacking import stacked_labels
from dynalens.record import Record, RecordMeta
from dynalens.record.folder import RecordFolder
from dynalens.suspicion import assess, joined_labels
from dynalens.suspicion.labels_and_embeddings import contradicted_share
from dynalens.suspicion.noise_rate import FROM_BOTH, FROM_THE_RUN_ALONE
from dynalens.units import dense, multi_label

N, K = 300, 3


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def clusters(seed: int = 0) -> tuple[Array, Array]:
    """Return labels that depend on which of four clusters a sample is in, and its place in the plane."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 4, N)
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])[cluster]
    centres = np.array([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0], [0.0, -4.0]])[cluster]
    return labels, (centres + rng.normal(size=(N, 2))).astype(np.float32)


def record_of(given: Array, logits: Array, epochs: int = 1) -> Record:
    """Return the record of a run that computed these logits in each epoch."""
    dynamics = TrainingDynamics(len(given))
    for epoch in range(epochs):
        shown = multi_label(torch.from_numpy(logits).float(), torch.from_numpy(given).long())
        dynamics.update_units(torch.arange(len(given)), shown)
        dynamics.end_epoch(epoch)
    return Record(
        statistics=dynamics.compute(),
        meta=RecordMeta(num_samples=len(given), epochs=list(range(epochs))),
        root_index=np.arange(len(given)),
    )


@pytest.fixture(scope="module")
def flipped() -> tuple[Record, Array, Array]:
    """A run with 20 flipped labels that tells little of any label, and embeddings that tell the clusters."""
    truth, places = clusters()
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(N)[:20], rng.integers(0, K, 20)
    given = truth.copy()
    given[rows, columns] = 1 - given[rows, columns]
    logits = (2 * given - 1) * rng.normal(0.5, 1, given.shape)  # no less sure of flipped labels than of others
    return record_of(given, logits), np.asarray(given != truth), places


def test_the_log_odds_of_a_label_come_from_probe_and_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    near = np.array([[1, 2, 3, -1], [0, 2, 3, -1], [0, 1, 3, -1], [0, 1, 2, -1]])  # four columns: a = 2
    logits = torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 1.0], [3.0, 0.0]])
    monkeypatch.setattr("dynalens.embeddings.several_labels.all_neighbours", lambda x: near)
    monkeypatch.setattr("dynalens.embeddings.several_labels.out_of_fold", lambda *_: logits)
    monkeypatch.setattr(
        "dynalens.embeddings.several_labels.stacked_labels", lambda first, second, _: first + 2 * second
    )
    given = np.array([[1, 0], [1, 1], [0, -1], [1, 0]])
    evidence = label_evidence(torch.ones(4, 2), given)
    # frequencies with half a sample of each kind more: 3.5 / 5 and 1.5 / 4
    neighbour_p = [(2 + 2 * 0.7) / (3 + 2), (1 + 2 * 0.375) / (2 + 2)]  # of sample 0: samples 1, 2 and 3
    expected = [1 + 2 * log_odds(neighbour_p[0]), -(-2 + 2 * log_odds(neighbour_p[1]))]
    np.testing.assert_allclose(evidence.margins[0], expected, rtol=1e-6)
    assert np.isnan(evidence.margins[2, 1])
    # -log p of what was given, by the frequencies: the mean over the known labels of each sample
    first, second = {1: -math.log(0.7), 0: -math.log(0.3)}, {1: -math.log(0.375), 0: -math.log(0.625)}
    losses = [(first[1] + second[0]) / 2, (first[1] + second[1]) / 2, first[0], (first[1] + second[0]) / 2]
    assert evidence.entropy == pytest.approx(sum(losses) / 4)
    assert evidence.loss == pytest.approx(3 / 7 - evidence.margin.mean())  # seven known labels, three numbers learned


def test_the_shares_of_two_models_are_those_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    first, second, bits = rng.normal(size=(400, 3)), rng.normal(size=(400, 3)), rng.integers(0, 2, (400, 3))
    first += bits
    bits[:20, 1] = -1  # not known
    mixed, known = stacked_labels(first, second, bits), bits >= 0
    features = np.stack([first[known], second[known]], axis=1)
    peer = LogisticRegression(C=1e6, tol=1e-8).fit(features, bits[known])
    np.testing.assert_allclose(mixed[known], peer.decision_function(features), atol=0.02)


def test_run_and_embeddings_are_joined_for_each_label() -> None:
    run = record_of(np.array([[1, 0], [1, 0]]), np.array([[2.0, -1.0], [1.0, -2.0]])).statistics
    assert run.unit_margins is not None
    embeddings = np.array([[-1.0, 3.0], [1.0, 3.0]])
    evidence = LabelEvidence(embeddings, loss=0.5, entropy=1.0)
    joint, assessment = joined_labels(run, assess(run), evidence, run_loss=0.5)  # both tell as much: w = 2
    scale = np.std([[2, 1], [1, 2]]) / embeddings.std()
    expected = (np.array([[2, 1], [1, 2]]) + 2 * scale * embeddings) / 3
    assert joint.unit_margins is not None
    np.testing.assert_allclose(joint.unit_margins, expected, rtol=1e-6)
    assert [each.tolist() for each in (run.unit, joint.unit)] == [[1, 0], [0, 0]]  # type: ignore[union-attr]  # it has units
    assert joint.label.tolist() == [1, 1]
    assert joint.candidate.tolist() == [0, 0]
    assert joint.predicted.tolist() == [-1, 1]  # what the run said of another label is not known
    assert np.isnan(assessment.agreement).tolist() == [True, np.isnan(run.candidate_share[1])]
    assert assessment.score[0] > assessment.score[1]
    assert assessment.noise_rate.alone == FROM_BOTH


def test_a_label_is_contradicted_confidently_by_thresholds_of_its_own() -> None:
    p_of_1 = np.array([[0.9, 0.2], [0.7, 0.3], [0.85, 0.9], [0.1, 0.4], [0.3, 0.6]])
    given = np.array([[1, 0], [1, 0], [0, 1], [0, -1], [1, 0]])
    p_given = np.where(given == 1, p_of_1, 1 - p_of_1)
    margins = np.where(given >= 0, np.log(p_given / (1 - p_given)), np.nan)
    # Label 0: 1 has the mean (.9 + .7 + .3) / 3 = .63, 0 has (.15 + .9) / 2 = .53. Sample 2, given 0, reaches .63 with
    # .85. Sample 4, given 1, reaches .53 with .7. Label 1: 1 has .9, 0 has (.8 + .7 + .4) / 3 = .63; none reaches .9.
    assert contradicted_share(margins, given) == 2 / 5


def test_labels_that_the_loss_ignored_stay_unknown() -> None:
    run = record_of(np.array([[1, 0], [1, 0]]), np.array([[2.0, -1.0], [1.0, -2.0]])).statistics
    embeddings = np.array([[np.nan, 3.0], [1.0, np.nan]])
    joint, _ = joined_labels(run, assess(run), LabelEvidence(embeddings, loss=0.5, entropy=1.0), run_loss=0.5)
    assert joint.unit_margins is not None
    assert [joint.unit_margins[0, 0], joint.unit_margins[1, 1]] == [2, 2]  # by the run alone


def test_embeddings_find_flipped_labels_that_the_run_cannot_tell(flipped: tuple[Record, Array, Array]) -> None:
    record, wrong, places = flipped
    both = record.with_embeddings(places)
    first = both.suspects(20)
    found = wrong[first.index, first["unit"].astype(int)].sum()
    assert wrong[record.suspects(20).index].any(axis=1).sum() <= 5  # by chance 1.3
    assert found >= 18
    assert record.noise_rate().alone == FROM_THE_RUN_ALONE
    assert {"score_probe", "score_neighbours"}.isdisjoint(first.columns)


@pytest.mark.parametrize("embeddings", ["random", "constant"])
def test_embeddings_that_tell_nothing_leave_the_order_as_it_was(
    flipped: tuple[Record, Array, Array], embeddings: str
) -> None:
    record, _, places = flipped
    noise = np.random.default_rng(2).normal(size=places.shape).astype(np.float32)
    bad = noise if embeddings == "random" else np.ones_like(places)
    both = record.with_embeddings(bad)
    assert both.table().equals(record.table())
    assert both.noise_rate().alone == FROM_THE_RUN_ALONE


def test_the_history_keeps_the_mean_loss_of_the_labels_from_before_they_were_memorised(tmp_path: Path) -> None:
    given, logits = torch.tensor([[1, 0], [1, 0]]), torch.tensor([[2.0, 1.0], [-1.0, 5.0]])
    loss_mask = torch.tensor([[True, True], [True, False]])
    dynamics, folder = TrainingDynamics(2), RecordFolder(tmp_path)
    for epoch, scale in enumerate((1.0, 50.0)):
        dynamics.update_units([0, 1], multi_label(logits * scale, given, loss_mask))
        folder.write_history(epoch, dynamics.end_epoch(epoch))
    meta = RecordMeta(num_samples=2, epochs=[0, 1])
    folder.write_record(Record(statistics=dynamics.compute(), meta=meta, root_index=np.arange(2)))
    losses = [presentations["loss"] for _, presentations in load_record(tmp_path).history()]
    softplus = [math.log1p(math.exp(each)) for each in (-2.0, 1.0, 1.0)]
    np.testing.assert_allclose(losses[0], [(softplus[0] + softplus[1]) / 2, softplus[2]], rtol=1e-6)
    np.testing.assert_allclose(losses[1], [25, 50], rtol=1e-6)


def test_audits_and_corrections_use_the_joint_order(flipped: tuple[Record, Array, Array]) -> None:
    record, wrong, places = flipped
    both = record.with_embeddings(places)
    plan = audit_plan(both, n=N)
    is_wrong = np.isin(plan["sample_id"], np.flatnonzero(wrong.any(axis=1)))
    answers = plan.assign(answer=np.where(is_wrong, "wrong", "right"))
    assert both.audit(answers).noise_rate.value == pytest.approx(wrong.any(axis=1).mean())
    first = both.suspects(10)
    given = record.statistics.unit_given
    assert given is not None
    corrected = both.relabelled(TensorDataset(torch.from_numpy(places), torch.from_numpy(given)), precision=0.01)
    for row, unit in zip(first.index, first["unit"].astype(int), strict=True):
        assert corrected[row][1][unit] == 1 - given[row, unit]


def test_commands_take_embeddings_of_samples_with_several_labels(
    flipped: tuple[Record, Array, Array], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, wrong, places = flipped
    run, file = tmp_path / "run", tmp_path / "embeddings.npy"
    RecordFolder(run).write_record(record)
    np.save(file, places)
    assert main(["suspects", str(run), "--embeddings", str(file), "--csv", str(tmp_path / "suspects.csv")]) == 0
    assert "from the run and the embeddings" in capsys.readouterr().out
    assert main(["report", str(run), "--embeddings", str(file)]) == 0
    assert main(["audit", str(run), "--embeddings", str(file), "--n", "20"]) == 0
    read = load_record(run).suspects(20, embeddings=places)
    assert wrong[read.index].any(axis=1).sum() >= 18


def _tokens() -> SampleStatistics:
    dynamics = TrainingDynamics(2)
    dynamics.update_units([0, 1], dense(torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)))
    dynamics.end_epoch(0)
    return dynamics.compute()


def test_embeddings_of_tokens_are_refused_by_name() -> None:
    record = Record(statistics=_tokens(), meta=RecordMeta(num_samples=2, epochs=[0]), root_index=np.arange(2))
    with pytest.raises(ValueError, match=r"got a record of labels of tokens or pixels\. Leave embeddings out"):
        record.with_embeddings(np.ones((2, 2), np.float32))


@pytest.mark.parametrize("count", [22, 40, 60])
def test_random_embeddings_of_few_samples_tell_no_label(count: int) -> None:
    # The neighbours of each sample are nearly all others, of which fewer have a label exactly where the sample has it.
    given = np.random.default_rng(0).integers(0, 2, (count, 3))
    evidence = label_evidence(torch.randn(count, 8, generator=torch.Generator().manual_seed(1)), given)
    assert evidence.loss > evidence.entropy - 0.01


def test_log_odds_of_models_that_count_against_themselves_are_those_of_the_frequency() -> None:
    bits = np.array([[1], [1], [1], [0]])
    against = 2.0 - 4 * bits
    # Three of four have the label: log 3.
    np.testing.assert_allclose(stacked_labels(against, against, bits), np.full((4, 1), np.log(3)), atol=0.02)
