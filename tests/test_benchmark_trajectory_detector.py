"""The benchmark of learned detectors reads what it says, learns, and never learns from what it judges."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

pytest.importorskip("sklearn")

import detectors
import noisy_runs
import trajectory_detector as detector
from sklearn.metrics import average_precision_score

Array = npt.NDArray[Any]


def test_signals_by_hand() -> None:
    # Class 0 given to all. One epoch: two samples err towards class 1, one towards class 2, one is right, next class 1.
    logits = np.log([[[1, 6, 1]], [[2, 4, 2]], [[1, 2, 5]], [[5, 2, 1]]]).astype(np.float32)
    found = detector.signals(logits, np.zeros(4, int))
    assert found.shape == (4, 1, 5)
    np.testing.assert_allclose(found[:, 0, 0], [1 / 8, 1 / 4, 1 / 8, 5 / 8], rtol=1e-6)
    np.testing.assert_allclose(found[:, 0, 1], [3 / 4, 1 / 2, 5 / 8, 1 / 4], rtol=1e-6)
    np.testing.assert_allclose(np.sinh(found[:, 0, 2]), np.log([1 / 6, 1 / 2, 1 / 5, 5 / 2]), rtol=1e-5)
    assert found[:, 0, 3].tolist() == [0.75] * 4
    # Three errors among two other classes, one more for each: 2.5 expected; (2 + 1) / 2.5 and (1 + 1) / 2.5.
    np.testing.assert_allclose(np.exp(found[:, 0, 4]), [1.2, 1.2, 0.8, 1.2], rtol=1e-6)


def test_a_long_run_is_averaged_in_twelve_periods_and_a_short_one_kept() -> None:
    logits = np.zeros((2, 40, 3), np.float32)
    logits[:, :, 0] = np.arange(40)
    found = np.sinh(detector.signals(logits[:, :12], np.zeros(2, int))[0, :, 2])
    np.testing.assert_allclose(found, np.arange(12), atol=1e-5)
    found = detector.signals(logits, np.zeros(2, int))[0, :, 2]
    assert found.shape == (12,)
    np.testing.assert_allclose(found[0], np.arcsinh([0, 1, 2, 3]).mean(), rtol=1e-6)  # 40 = 4 * 4 + 8 * 3
    np.testing.assert_allclose(found[11], np.arcsinh([37, 38, 39]).mean(), rtol=1e-6)


def test_mean_rank_by_hand() -> None:
    assert detector.mean_rank(np.array([5.0, 1.0, 9.0]), np.array([2.0, 2.0, 0.0])).tolist() == [2.25, 1.75, 2.0]


@pytest.mark.parametrize("model", ["LSTM", "boosting", "logistic"])
def test_each_model_learns_from_beginnings_what_tells_wrong_labels(model: str) -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(2000) < 0.3
    x = rng.normal(np.where(wrong, 0.3, 0.7)[:, None, None], 0.1, (2000, 12, 1)).astype(np.float32)
    *_, scorer = detectors.MODELS[model](x[:1500], wrong[:1500], 0)
    for length in (3, 5, 12):
        assert average_precision_score(wrong[1500:], scorer(x[1500:, :length])) > 0.97


def test_table_by_hand() -> None:
    scores = {"default": [60.0, 80.0], "AUM": [50.0, 81.5], "learned": [70.0, 80.0]}
    found: list[detector.Record] = [
        {"name": name, "seed": 0, "row": row, "group": row, "ap": ap}
        for name, values in scores.items()
        for row, ap in zip("ab", values, strict=True)
    ]
    found += [{**record, "seed": 1, "ap": record["ap"] + 2} for record in found[-2:]]
    lines, rows = detector.table(found)
    assert lines.index.tolist() == ["default", "AUM", "learned"]
    assert lines["mean"].tolist() == [70, 65.75, 76]
    assert lines["a"].tolist() == [60, 50, 71]
    assert lines["sd"].isna().tolist() == [True, True, False]
    assert lines.loc["learned", "sd"] == pytest.approx(2**0.5)
    assert lines["rows above default"].tolist() == [0, 1, 2]
    assert lines["rows above AUM"].tolist() == [1, 0, 1]
    assert lines["rows 1 under AUM"].tolist() == [1, 0, 0]
    assert rows["AUM"].tolist() == [50, 81.5]


def _keep(folder: Path, name: str) -> None:
    run = next(run for run in noisy_runs.grid(1) if run.name == name)
    rng = np.random.default_rng(run.seed)
    true = np.arange(90) % 10
    given = noisy_runs.flipped(true, "uniform", 0.2, rng)
    logits = 4 * np.eye(10)[true][:, None] + rng.normal(size=(90, run.epochs, 10))
    np.savez(folder / f"{name}.npz", given=given, true=true, logits=logits.astype(np.float16))


def test_the_detector_learns_from_tuned_runs_and_judges_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mnist_uniform_20_plain_e12_s0", "blend_uniform_20_aug_e40_s0", "tail_uniform_20_plain_e12_s0"):
        _keep(tmp_path, f"tuned_{name}")
    for name in ("cifar_uniform_20_plain_e12_s100", "mnist_class_40_aug_e12_s100"):
        _keep(tmp_path, f"judged_{name}")
    learned_from: list[list[str]] = []
    original = detector.training_set

    def training_set(read: list[detector.Reading], columns: int) -> tuple[Array, Array]:
        learned_from.append(sorted(f"{each.run.split} {each.run.data}" for each in read))
        return original(read, columns)

    monkeypatch.setattr(detector, "training_set", training_set)
    monkeypatch.setattr(detector, "MODELS", {name: detectors.MODELS[name] for name in ("LSTM", "logistic")})
    detector.main(["--runs", str(tmp_path), "--seeds", "1", "--detectors", "1", "--most", "60"])
    out = capsys.readouterr().out
    digits = ["tuned mnist"] * 3 + ["tuned tail"] * 3
    assert learned_from[:2] == [digits, ["tuned blend"]]
    assert learned_from[12:] == [["tuned blend", *digits]] * 6
    assert "## Judged runs" in out
    assert "| CIFAR plain | MNIST |" in out
    for row in ("cifar, uniform 20 %, plain, 3 epochs", "mnist, class 40 %, aug, 12 epochs"):
        assert f"| {row} | " in out
    assert "| default + LSTM, four signals | " in out


def test_readings_are_beginnings_and_at_most_as_many_as_asked(tmp_path: Path) -> None:
    _keep(tmp_path, "tuned_mnist_uniform_20_plain_e12_s0")
    whole, five, three = detector.readings(tmp_path, "tuned", 1, 60)
    assert [part.epochs for part in (whole, five, three)] == [12, 5, 3]
    assert whole.signals.shape == (60, 12, 5)
    np.testing.assert_array_equal(five.signals, whole.signals[:, :5])
    np.testing.assert_array_equal(three.wrong, whole.wrong)
    assert set(whole.known) == {"default", "W", "AUM", "default + W"}
    assert all(len(score) == 60 for score in whole.known.values())
    assert pd.Series(whole.known["AUM"]).corr(pd.Series(-np.sinh(whole.signals[:, :, 2]).mean(1))) > 0.999
