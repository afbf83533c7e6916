"""The benchmark of retraining trains on what each way says, tests on other samples, and trains nothing twice."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

pytest.importorskip("sklearn")

import noisy_runs
import retraining
from retraining import Retrained, TrainingSet

from dynalens.suspicion import Assessment, NoiseRate

Array = npt.NDArray[Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, shape in (("mnist10k", (120, 28, 28)), ("cifar10_5k", (100, 32, 32, 3))):
        images = rng.integers(0, 255, shape).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(len(images)) % 10)
    return tmp_path


def test_each_way_of_retraining_trains_on_the_samples_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # The labels of 0, 1 and 5 are wrong. 0, 1 and 2 are flagged: their mean is .833, with one more it is .6375.
    true, given = np.full(8, 1), np.array([2, 2, 1, 1, 1, 3, 1, 1])
    wrong, nothing = np.array([0.9, 0.9, 0.7, 0.05, 0.05, 0.05, 0, 0]), np.zeros(8)
    suggested = np.array([1, -1, 4, 1, -1, 1, -1, -1])
    found = Assessment(nothing, wrong, suggested, nothing, nothing, nothing, NoiseRate(0.0, 0.3, 1.0))
    monkeypatch.setattr(retraining, "assess", lambda statistics, history: found)
    chosen, sets = retraining.ways(np.zeros((8, 2, 5), np.float16), given, true, 7)
    assert np.flatnonzero(chosen).tolist() == [0, 1, 2]
    everything = list(range(8))
    expected: dict[str, tuple[list[int], Any]] = {
        "as given": (everything, given), "flagged left out": ([3, 4, 5, 6, 7], given[3:]),
        "weighted": (everything, given), "relabelled": (everything, [1, 2, 4, 1, 1, 3, 1, 1]),
        "wrong left out": ([2, 3, 4, 6, 7], [1] * 5), "true labels": (everything, true),
    }  # fmt: skip
    for name, (rows, labels) in expected.items():
        assert sets[name].rows.tolist() == rows
        assert sets[name].labels.tolist() == list(labels)
        assert (sets[name].weights is None) == (name != "weighted")
    assert sets["weighted"].weights is not None
    np.testing.assert_allclose(sets["weighted"].weights, 1 - wrong, rtol=1e-6)
    at_random = sets["random left out"]
    assert len(set(at_random.rows.tolist())) == 5
    assert at_random.labels.tolist() == given[at_random.rows].tolist()
    assert len(sets) == 7
    drawn = [retraining.ways(np.zeros((8, 2, 5)), given, true, s)[1]["random left out"].rows for s in range(40)]
    left_out = 40 - np.bincount(np.concatenate(drawn), minlength=8)
    assert (left_out >= 5).all()  # 15 expected of each, whether it is flagged or not


def test_a_set_is_known_by_its_content() -> None:
    rows, labels = np.array([0, 1, 2]), np.array([1, 0, 1])
    one = TrainingSet(rows, labels)
    assert one.key == TrainingSet(rows.copy(), labels.astype(np.uint8)).key
    others = [
        TrainingSet(rows + 1, labels), TrainingSet(rows, 1 - labels), TrainingSet(rows, labels, np.ones(3)),
        TrainingSet(rows, labels, np.array([1, 1, 0.5])),
    ]  # fmt: skip
    assert len({one.key, *(other.key for other in others)}) == 5


def test_the_weighted_loss_by_hand() -> None:
    # Losses log 2 and -log(3/4), weights 3 and 1.
    logits, labels = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([1, 0])
    weighted = noisy_runs._loss(logits, labels, torch.tensor([3.0, 1.0]))
    assert weighted.item() == pytest.approx((3 * math.log(2) + math.log(4 / 3)) / 4)
    assert noisy_runs._loss(logits, labels, None).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_accuracy_is_that_of_the_evaluation_mode() -> None:
    model = nn.Sequential(nn.Dropout(1.0), nn.Flatten())  # zeros in training, so class 0
    images = torch.eye(3).repeat(300, 1)[..., None]
    labels = np.tile([0, 1, 1], 300)
    assert retraining.accuracy(model, images, labels) == pytest.approx(2 / 3)


def test_the_interval_and_the_table_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    # t with 2 degrees of freedom is 4.303; the gains 1, 2 and 3 deviate by 1: 4.303 / sqrt(3) = 2.484.
    mean, half = retraining.interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2
    assert half == pytest.approx(2.484, abs=1e-3)
    runs = [Retrained(10, 8, {"as given": 0.5, "other": 0.5 + gain}) for gain in (0.01, 0.02, 0.03)]
    none = [Retrained(0, 0, {"as given": 0.9, "other": 0.9})] * 3
    rows = {"mnist_pair_20": runs, "mnist_class_20": none, "mnist_uniform_0": runs, "cifar_uniform_5": none}
    retraining.show(rows | retraining.means(rows))
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "| run | seeds | flagged | of them wrong | as given | other |"
    assert lines[2] == "| mnist_pair_20 | 3 | 10 | 80 % | 50.00 | 52.00 (+2.00 ± 2.48) |"
    assert lines[3] == "| mnist_class_20 | 3 | 0 | - | 90.00 | 90.00 (+0.00 ± 0.00) |"
    assert lines[6:] == ["| mnist, mean of 20 % | 3 | 5 | 80 % | 70.00 | 71.00 (+1.00 ± 1.24) |"]


def test_training_and_test_data_share_no_image(data: Path) -> None:
    for name, count in (("mnist", 60), ("cifar", 80)):
        bench = retraining.Bench(data, data, name, 200, 1)
        everything = {image.numpy().tobytes() for image in (*bench.images, *bench.test[0])}
        assert len(bench.images) == len(bench.true) == count
        assert len(everything) == (120 if name == "mnist" else 100)


def test_labels_of_people_stay_with_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = np.arange(100) % 10
    people: dict[str, Any] = {kind: (clean + shift) % 10 for shift, kind in enumerate(noisy_runs.HUMAN_LABELS, 1)}
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((32, 32, 3), np.uint8)
    np.savez(tmp_path / noisy_runs.HUMAN_FILE, images=images, clean=clean, **people)
    monkeypatch.setattr(retraining, "train", lambda images, given, run, classes: (np.zeros((len(given), 1, 10)), None))
    bench = retraining.Bench(tmp_path, tmp_path, "human", 200, 1)
    assert len(bench.true) == 80
    _, given = bench.first("aggre", 9)
    assert given.tolist() == ((bench.true + 1 + list(people).index("aggre")) % 10).tolist()
    # Brighter images come later in the file, where the classes are 0, 1, ..., 9, 0, 1, ...
    test_images, test_labels = bench.test
    brightness = torch.cat([bench.images, test_images])[:, 0, 0, 0]
    labels_in_order = np.concatenate([bench.true, test_labels])[brightness.argsort().numpy()]
    assert labels_in_order.tolist() == clean.tolist()


def test_no_run_is_trained_twice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--data", str(data), "--out", str(tmp_path / "out"), "--seeds", "2", "--epochs", "2"]
    command += ["--rows", "mnist_uniform_20", "mnist_uniform_0", "cifar_class_20"]
    retraining.main(command)
    first = capsys.readouterr().out.split("\n\n")[1]
    for row in ("mnist, uniform 20 %", "mnist, uniform 0 %", "cifar, class 20 %", "cifar, mean of 20 %"):
        assert f"| {row} | 2 | " in first

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(retraining, "train", refuse)
    retraining.main(command)
    assert capsys.readouterr().out.split("\n\n")[1] == first
    # Another ranking that flags nothing: the sets are those of the labels as given, which are there.
    monkeypatch.setattr(retraining, "flagged", lambda probability, precision: np.zeros(len(probability), bool))
    retraining.main(command)
    assert "| cifar, class 20 % | 2 | 0 | - | " in capsys.readouterr().out
    # One that flags others has to train.
    monkeypatch.setattr(retraining, "flagged", lambda probability, precision: np.arange(len(probability)) < 17)
    with pytest.raises(AssertionError, match="trained again"):
        retraining.main(command)


def test_one_seed_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        retraining.main(["--data", str(data), "--out", str(data), "--seeds", "1"])
    assert "Expected `--seeds` to be 2 or more, got 1. One seed has no interval." in capsys.readouterr().err
