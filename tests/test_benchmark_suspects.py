"""The benchmark of suspects flips what it says, keeps its tables apart and has the peers' rules right."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

pytest.importorskip("sklearn")

import noisy_runs
import other_data
import rated_numbers
import rated_texts
import self_influence as self_influence_benchmark
import sensitivity
import suspects

from dynalens.dynamics import given_labels

Array = npt.NDArray[Any]
LABELS = np.random.default_rng(0).integers(0, 10, 1000)


@pytest.mark.parametrize("kind", ["uniform", "pair", "class", "instance"])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.4])
def test_flips_are_exactly_as_many_as_asked(kind: str, rate: float) -> None:
    rng = np.random.default_rng(1)
    doubt = rng.dirichlet(np.ones(10), 1000)
    given = noisy_runs.flipped(LABELS, kind, rate, rng, doubt)
    assert (given != LABELS).sum() == round(rate * 1000)
    assert set(given.tolist()) <= set(range(10))


def test_rows_are_named_by_what_was_trained() -> None:
    stem = noisy_runs.Run("tuned", "human", "random2", 18, augmented=True, epochs=12, seed=0, network="resnet9").name
    assert suspects.stored_row_name(stem) == "human (resnet9), random2 18 %, aug, 12 epochs, tuned"
    assert suspects.stored_row_name("judged_cifar_class_0_plain_e12_s100") == "cifar, class 0 %, plain, 12 epochs"
    assert suspects.stored_row_name("another") == "another"


def test_each_kind_of_flips_is_what_its_name_says() -> None:
    rng = np.random.default_rng(2)
    given = noisy_runs.flipped(LABELS, "pair", 0.4, rng)
    wrong = given != LABELS
    assert (given[wrong] == (LABELS[wrong] + 1) % 10).all()

    given = noisy_runs.flipped(LABELS, "uniform", 0.4, rng)
    wrong = given != LABELS
    assert len(set(((given - LABELS)[wrong] % 10).tolist())) == 9

    given = noisy_runs.flipped(LABELS, "class", 0.4, rng)
    wrong = given != LABELS
    for k in range(10):
        assert len(set(given[wrong & (k == LABELS)].tolist())) <= 3
    rates = [wrong[k == LABELS].mean() for k in range(10)]
    assert max(rates) > 1.5 * min(rates)

    certain = np.eye(10)[LABELS]
    doubted = np.arange(1000) < 200
    certain[doubted] = np.eye(10)[(LABELS[doubted] + 3) % 10]
    given = noisy_runs.flipped(LABELS, "instance", 0.1, rng, certain)
    wrong = given != LABELS
    assert wrong[doubted].sum() >= 90  # 51 times as likely, 200 against 800
    assert (given[wrong & doubted] == (LABELS[wrong & doubted] + 3) % 10).all()


def test_the_tables_share_no_run_and_the_judged_one_has_its_own_data_and_seeds() -> None:
    tuned, judged = noisy_runs.grid(3, "tuned"), noisy_runs.grid(3, "judged")
    assert not {run.seed for run in tuned} & {run.seed for run in judged}
    flipped, judged_flips = ([run for run in part if run.data not in ("human", "texts")] for part in (tuned, judged))
    assert not any(run.data.startswith("cifar") or run.flips == "class" for run in flipped)
    assert all(run.data.startswith("cifar") or run.flips == "class" for run in judged_flips)
    names = [run.name for run in tuned + judged]
    assert len(set(names)) == len(names)
    assert len(noisy_runs.grid(3)) == len(names)


def human_file(folder: Path, n: int = 40) -> Array:
    rng = np.random.default_rng(5)
    clean = np.arange(n, dtype=np.uint8) % 10
    people = np.where(np.arange(n) % 4 == 0, (clean + 1) % 10, clean)
    images = rng.integers(0, 255, (n, 32, 32, 3)).astype(np.uint8)
    np.savez(folder / noisy_runs.HUMAN_FILE, images=images, clean=clean, aggre=clean, random2=people, worse=people)
    return people


@pytest.mark.parametrize("network", ["small", "resnet9"])
def test_labels_that_people_gave_are_trained_on_as_they_are(tmp_path: Path, network: str) -> None:
    people = human_file(tmp_path)
    run = noisy_runs.Run("judged", "human", "random2", 18, augmented=True, epochs=1, seed=100, network=network)
    noisy_runs.make(run, tmp_path, tmp_path)
    with np.load(tmp_path / f"{run.name}.npz") as arrays:
        assert arrays["given"].tolist() == people.tolist()
        assert arrays["true"].tolist() == (np.arange(40) % 10).tolist()
        assert arrays["logits"].shape == (40, 1, 10)


def test_each_set_of_human_labels_has_each_regime_length_and_network() -> None:
    runs = list(noisy_runs.human_runs("judged", 100))
    assert {(run.flips, run.percent) for run in runs} == {("aggre", 9), ("random2", 18), ("worse", 40)}
    assert {(run.augmented, run.epochs) for run in runs} == {(a, e) for a in (False, True) for e in (12, 30)}
    assert {run.network for run in runs} == {"small", "resnet9"}


RATED = (  # sentence, ratings
    ("A great film!", [3, 2, 4, 1]),
    ("Not bad, not good.", [0, 0, 1, -1]),
    ("A dull, dull film.", [-2, -3, -1, -2]),
    ("It rained.", [1, 1, 0, 0]),
    ("It snowed.", [-1, 0, -1, 0]),
)


def rated_folder(folder: Path) -> Path:
    (folder / rated_texts.FOLDER).mkdir()
    for source in rated_texts.SOURCES:
        stem = folder / rated_texts.FOLDER / source
        truth = [f"1_{i}\t{np.mean(ratings)}\t{sentence}" for i, (sentence, ratings) in enumerate(RATED)]
        rated = [f"1_{i}\t{np.mean(ratings)}\t.5\t{ratings}" for i, (_, ratings) in enumerate(RATED)]
        Path(f"{stem}_GroundTruth.txt").write_text("\n".join(truth), encoding="utf-8")
        Path(f"{stem}_anonDataRatings.txt").write_text("\n".join(rated), encoding="utf-8-sig")
    return folder


def test_rated_sentences_have_the_class_of_their_mean_and_labels_of_three_people(tmp_path: Path) -> None:
    sentences, ratings = rated_texts.read(rated_folder(tmp_path))
    assert sentences == [sentence for sentence, _ in RATED] * 4
    # Means 2.5, 0, -2, .5 and -.5: at the edges a sentence is no longer neutral.
    assert rated_texts.true_labels(ratings).tolist() == [2, 1, 0, 2, 0] * 4
    one, three, disputed = (rated_texts.given_labels(ratings, name) for name in ("one", "three", "disputed"))
    for labels in (one, three, disputed):
        assert labels[::5].tolist() == [2] * 4  # all who rated it agree
        assert labels[2::5].tolist() == [0] * 4
    # Two of four rated the fourth neutral, so one of any three did, and likewise of the fifth.
    assert disputed[3::5].tolist() == [1] * 4
    assert disputed[4::5].tolist() == [1] * 4


def test_words_and_pairs_of_words_are_tokens_and_a_run_reads_them(tmp_path: Path) -> None:
    ids = rated_texts.tokens(["A film!", "a  FILM"])
    assert (ids != 0).sum(1).tolist() == [5, 3]  # a, film, !, "a film", "film !"; a, film, "a film"
    assert ids[0, [0, 1, 3]].tolist() == ids[1, :3].tolist()
    run = noisy_runs.Run("judged", "texts", "one", 18, augmented=True, epochs=1, seed=100, network="bag")
    noisy_runs.make(run, rated_folder(tmp_path), tmp_path)
    with np.load(tmp_path / f"{run.name}.npz") as arrays:
        assert arrays["logits"].shape == (20, 1, 3)
        assert arrays["true"].tolist() == [2, 1, 0, 2, 0] * 4


def test_runs_whose_data_are_not_there_are_left_out(tmp_path: Path) -> None:
    noisy_runs.main(["--data", str(tmp_path), "--out", str(tmp_path / "runs"), "--seeds", "1"])
    assert not list((tmp_path / "runs").iterdir())


def one_hot_logits(predictions: list[list[int]]) -> Array:
    logits: Array = np.eye(3, dtype=np.float32)[np.array(predictions)] * 2
    return logits


def test_interpretdls_rule_by_hand() -> None:
    # 100 samples right from the first of three epochs on (mean epoch 1), one right in the last only (2), one never.
    # Mean over the learned 102/101, deviation sqrt(1/101 * 100/101) = .0990: 1 + .0099 + 5 * .0990 = 1.505 < 2.
    logits = one_hot_logits([[0, 0, 0]] * 100 + [[1, 1, 0], [1, 2, 1]])
    score, flags = suspects.interpretdl(logits, np.zeros(102, int))
    assert score.tolist() == [1.0] * 100 + [2.0, -1.0]
    assert np.flatnonzero(flags).tolist() == [100]


def test_scores_of_margins_by_hand() -> None:
    logits = one_hot_logits([[0, 0], [1, 0], [1, 1], [0, 0]])
    margin = suspects.margins(logits, np.zeros(4, int))
    np.testing.assert_allclose(margin, [[2, 2], [-2, 2], [-2, -2], [2, 2]])
    scores = suspects.margin_scores(margin)
    np.testing.assert_allclose(scores["EMA"], [-2, 0.7 * 2 - 0.3 * 2, 2, -2])
    np.testing.assert_allclose(scores["last third"], [-2, -2, 2, -2])


def test_f1_and_precision_at_the_number_of_flips_by_hand() -> None:
    wrong, flags = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert suspects.f1(flags, wrong) == 0.5
    assert suspects.f1(np.zeros(4, bool), wrong) == 0
    # Order: wrong, right, wrong, right. AUC 3/4, average precision (1 + 2/3) / 2, one of the first two is wrong.
    auc, average, top = suspects._measures(wrong, np.array([4.0, 2.0, 3.0, 1.0]))
    assert (auc, top) == (0.75, 0.5)
    assert average == pytest.approx(5 / 6)


def test_peers_agree_with_their_definitions() -> None:
    pytest.importorskip("aum")
    pytest.importorskip("cleanlab")
    rng = np.random.default_rng(3)
    logits, given = rng.normal(size=(30, 4, 3)).astype(np.float32), rng.integers(0, 3, 30)
    found = suspects.peers(logits, given)
    row = np.arange(30)
    others = np.stack([np.delete(logits[i], given[i], axis=1).max(axis=1) for i in row])
    np.testing.assert_allclose(found["aum (PyPI)"], (others - logits[row, :, given]).mean(axis=1), rtol=1e-4)
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(found["cleanlab self_confidence"], -p.mean(axis=1)[row, given], rtol=1e-4)


def test_a_small_run_is_trained_once_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    images = rng.integers(0, 255, (120, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "mnist10k.npz", images=images, labels=np.arange(120) % 10)
    run = next(run for run in noisy_runs.tuned_runs(0) if run.name == "tuned_mnist_uniform_20_plain_e12_s0")
    noisy_runs.make(run, tmp_path, tmp_path)
    written = (tmp_path / f"{run.name}.npz").stat().st_mtime_ns
    noisy_runs.make(run, tmp_path, tmp_path)
    assert (tmp_path / f"{run.name}.npz").stat().st_mtime_ns == written
    with np.load(tmp_path / f"{run.name}.npz") as arrays:
        assert arrays["logits"].shape == (120, 12, 10)
        assert (arrays["given"] != arrays["true"]).sum() == 24
    capsys.readouterr()
    suspects.main(["--runs", str(tmp_path), "--split", "tuned", "--no-peers", "--seeds", "1"])
    out = capsys.readouterr().out
    for epochs in (3, 5, 12):
        assert f"| mnist, uniform 20 %, plain, {epochs} epochs | 1 | " in out
    assert "of 1 runs (12 and 40 epochs)" in out
    sensitivity.main(["--runs", str(tmp_path), "--seeds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| constant | value | human (0) | pair and class flips (0) | other flips (3) |"
    own = {line.split(" | ")[-1] for line in lines[: lines.index("")] if "(default)" in line}
    assert len(own) == 1  # with its own value, no constant changes the order
    assert "| weights grow for, then | flips, 3 epochs (1) | flips, 5 epochs (1) | flips, 12 epochs (1) |" in lines


def random_run(seed: int) -> sensitivity.Stored:
    """Twelve epochs of 50 samples of three classes."""
    rng = np.random.default_rng(seed)
    logits, given = rng.normal(size=(50, 12, 3)).astype(np.float32), rng.integers(0, 3, 50)
    statistics, _ = suspects.recorded(logits, given)
    run = noisy_runs.Run("tuned", "mnist", "uniform", 20, augmented=False, epochs=12, seed=0)
    return sensitivity.Stored(run, statistics, sensitivity.presented(logits, given), given == 0)


def test_how_far_labels_are_contradicted_is_that_of_the_epoch_with_the_smallest_error_so_far() -> None:
    # Errors 1/2, 0, 1 and 1/2; c is (1 / 8)^2 / (1 / 4), and in the last epoch (1 / 2)^2 / (1 / 2).
    gaps = np.array([[0.5, -1, 1, 1], [-0.5, -1, 1, -1e-9]])
    np.testing.assert_allclose(sensitivity.contradictions(gaps), [1 / 16, 0, 1 / 16, 1 / 2])


def test_a_weight_whose_growth_has_stopped_is_that_of_the_contradiction_alone() -> None:
    one = random_run(7)
    margin = one.presentations["margin"]
    c = sensitivity.contradictions(one.presentations["rival"] - one.presentations["confidence"])
    stopped = sensitivity.reweighted(one, (2, 2), growth=1, fall=None).weighted_margin
    expected = (margin * c**2)[:, 1:].sum(1) / (c[1:] ** 2).sum()  # the first epoch has no weight
    np.testing.assert_allclose(stopped, expected, rtol=1e-4)
    later = sensitivity.reweighted(one, (1, 0), growth=3, fall=None).weighted_margin
    np.testing.assert_allclose(later, (margin * [0, 2, *[3] * 10]).sum(1) / 32, rtol=1e-4)


def test_a_record_is_reweighted_as_its_epochs_were_weighted() -> None:
    one = random_run(6)
    again = sensitivity.reweighted(one, (3, 2))
    for name in ("weighted_margin", "weighted_confidence", "weighted_rival"):
        np.testing.assert_allclose(getattr(again, name), getattr(one.statistics, name), rtol=1e-4)


def test_a_constant_has_its_own_value_again_afterwards() -> None:
    steps = given_labels.STEPS
    with sensitivity.constant("STEPS", 1):
        assert given_labels.STEPS == 1
    assert steps == given_labels.STEPS


def test_f1_and_recall_at_a_precision_by_hand() -> None:
    embeddings = pytest.importorskip("embeddings", reason="the benchmark of embeddings needs cleanlab")
    wrong = np.array([True, True, False, True, True, False, True, False])
    score = -np.arange(8.0)
    # Five are wrong, four of the first five. Of the first 1, 2 and 5 at least 80 % are wrong; these hold 4 of 5.
    assert embeddings.f1_at_true_count(wrong, score) == 0.8
    assert embeddings.recall_at_precision(wrong, score) == 0.8
    assert embeddings.recall_at_precision(wrong[::-1], score) == 0


def test_self_influence_is_compared_on_small_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 10
    human: dict[str, Any] = {name: np.roll(labels, 1) for name in noisy_runs.HUMAN_LABELS}
    images = rng.integers(0, 255, (40, 32, 32, 3), np.uint8)
    np.savez(tmp_path / noisy_runs.HUMAN_FILE, images=images, clean=labels, **human)
    np.savez(tmp_path / "mnist10k.npz", images=images[:, :28, :28, 0], labels=labels)
    self_influence_benchmark.main(["--data", str(tmp_path), "--epochs", "1", "--samples", "30"])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| run | default | aum | self-influence | self-influence, last |"
    assert len(rows) == 5


def test_the_benchmark_of_numbers_that_people_gave_prints_each_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cleanlab")
    folder, embeddings = rated_folder(tmp_path), tmp_path / "embeddings.npy"
    np.save(embeddings, np.random.default_rng(0).normal(size=(len(rated_texts.read(folder)[0]), 4)))
    monkeypatch.setattr(rated_numbers, "TRAININGS", ((1, True),))
    rated_numbers.main(["--data", str(folder), "--seeds", "0", "--embeddings", str(embeddings)])
    header, _, row = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.strip().splitlines())
    assert header[:3] == ["epochs, words left out, seed", "wrong", "dynalens"]
    assert {"cleanlab, averaged", "embeddings alone", "both", "with random"} < set(header)
    assert all(0 < float(value) <= 100 for value in row[2:])


def test_other_data_print_a_line_for_each_kind_of_wrong_labels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(other_data, "all_data", lambda *_: [("tiny", *other_data.mixture(3, rng, samples=400))])
    other_data.main(["--epochs", "2", "--seeds", "0"])
    by_kind, by_data = capsys.readouterr().out.strip().split("\n\n")
    assert by_kind.count("\n") == 1 + len(other_data.KINDS)
    assert by_data.splitlines()[-1].startswith(f"| tiny | {len(other_data.KINDS)} | ")


@pytest.mark.parametrize(("kind", "rate"), other_data.KINDS)
def test_wrong_labels_of_other_data_are_marked(kind: str, rate: float) -> None:
    rng = np.random.default_rng(1)
    x, y = other_data.mixture(4, rng, samples=400)
    inputs, given, wrong = other_data.mislabeled(x, y, kind, rate, rng)
    right = np.concatenate([y, given[len(y) :]])  # a copy has no right label of its own here
    assert len(inputs) == len(given) == len(wrong)
    assert wrong[: len(y)].mean() == pytest.approx(rate if kind != "copies" else 0, abs=0.06)
    assert (given == right)[~wrong].all()
