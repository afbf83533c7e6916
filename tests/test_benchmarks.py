"""Every benchmark runs, on tiny sizes; what it measures is not asserted."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0")
def test_tracking_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(BENCHMARKS / "tracking.py"))["main"](["--quick"])
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert [table.splitlines()[0].split(":")[0] for table in tables] == [
        "Statistics",
        "All hooks, identity and capture",
        "The same with a model of some work",
        "The epoch's end",
        "Bytes for each sample",
    ]
    for table in tables:
        names, *rows = table.splitlines()[1:]
        assert rows
        assert all(len(re.findall(r"\S+(?: \S+)*", row)) == len(re.findall(r"\S+(?: \S+)*", names)) for row in rows)
    samples, record, _, epoch_under_way = tables[-1].splitlines()[-1].split()
    assert (samples, record, epoch_under_way) == ("1,000", "64", "32")


def test_versions_are_measured_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"now={BENCHMARKS.parent}", "--turns", "1", "--steps", "6", "--sizes", "128x100"]
    runpy.run_path(str(BENCHMARKS / "versions.py"))["main"](arguments)
    _, hooks, _, statistics = capsys.readouterr().out.strip().split("\n\n")
    for table in (hooks, statistics):
        names, _, *rows = table.splitlines()
        assert [row.split(" | ")[1] for row in rows] == ["now"]
        assert {row.count("|") for row in rows} == {names.count("|")}


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0")
def test_whole_fits_print_their_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)  # as Python does for the folder of a script
    runpy.run_path(str(BENCHMARKS / "whole_fit.py"))["main"](["--quick"])
    fits, *growths = capsys.readouterr().out.strip().split("\n\n")
    assert [line.split()[:2] for line in fits.splitlines()[2:]] == [["MLP", "3"]]
    assert [table.splitlines()[-1].split()[0] for table in growths] == ["exponent"] * 3


def test_the_benchmark_of_attribution_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 16, 16, 3), np.uint8), np.arange(40, dtype=np.uint8) % 10
    np.savez(tmp_path / "toy.npz", images=images, labels=labels)
    monkeypatch.syspath_prepend(BENCHMARKS)  # as Python does for the folder of a script
    command = ["attribution.py", "--quick", "--rounds", "1", "--sizes", "32", "--data", str(tmp_path), "--train", "24"]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(BENCHMARKS / "attribution.py"))["main"]()
    out = capsys.readouterr().out
    assert re.search(r"transition_attention +21\.5 forward, +20\.5 backward: +\S+ times the bound", out)
    for line in ("saliency and grad_cam", "integrated_gradients(2)", "times the bound", "completeness gap of 2 steps"):
        assert line in out


def test_the_benchmark_of_maximised_images_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(BENCHMARKS / "maximisation.py"))["main"](["--steps", "2", "--seeds", "1", "--epochs", "1"])
    assert re.search(r"robust=False +\S+ as they are, +\S+ moved, roughness", capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0")
def test_the_benchmark_of_an_epochs_end_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    arguments = ["--samples", "4", "--epochs", "2", "--side", "8", "--quick"]
    runpy.run_path(str(BENCHMARKS / "epoch_end.py"))["main"](arguments)
    assert re.search(r"AttributionMonitor +\S+ s at an epoch's end", capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0", "ignore:Expected the Trainer to have a TensorBoardLogger")
def test_the_pictures_of_the_guide_are_drawn(tmp_path: Path) -> None:
    runpy.run_path(str(BENCHMARKS / "guide_pictures.py"))["main"](["--out", str(tmp_path), "--epochs", "2", "1"])
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (BENCHMARKS.parent / "docs" / "images").glob("guide_*")}


def test_the_benchmark_of_audits_runs(capsys: pytest.CaptureFixture[str]) -> None:
    audit = runpy.run_path(str(BENCHMARKS / "audit.py"))
    audit["main"](["--made-up", "60", "--repetitions", "3", "--decisions", "1"])
    names, _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 24
    assert all(row.count("|") == names.count("|") for row in rows)


def test_prediction_powered_inference_is_exact_where_every_label_was_answered() -> None:
    audit = runpy.run_path(str(BENCHMARKS / "audit.py"))
    wrong = np.arange(10) < 3
    population = audit["Population"]("ten", 2.0 * wrong, wrong)
    # Each half predicts, the other corrects it: with answers to all, both halves together know every label.
    rates = [
        audit["cross_fitted"](population, np.random.default_rng(k).permutation(10), np.ones(10)) for k in range(200)
    ]
    assert np.mean(rates) == pytest.approx(0.3, abs=0.02)


def test_an_earlier_run_draws_the_samples_and_the_later_one_orders_them() -> None:
    audit = runpy.run_path(str(BENCHMARKS / "audit.py"))
    wrong = np.arange(8) < 4
    population = audit["Population"]("later", wrong - 0.5, wrong, earlier_score=np.tile([9.0, -9.0], 4))
    strata, stratum, _ = audit["drawn"](population, 4, 1)
    assert stratum.tolist() == [0, 1] * 4
    assert strata.score.tolist() == [0.0, 0.0]  # two wrong and two right labels in each


def test_the_benchmark_of_audited_orders_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(BENCHMARKS / "audited_order.py"))["main"](["--repetitions", "1", "--answers", "400"])
    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert len(rows) == 16
    assert {row.count("|") for row in rows} == {header.count("|")}


def test_the_least_width_of_an_audit_is_that_of_the_best_allocation() -> None:
    audit = runpy.run_path(str(BENCHMARKS / "audit.py"))
    score, wrong = np.repeat([0.0, 1.0], 4), np.array([0, 0, 0, 0, 1, 1, 0, 0], bool)
    # Half of the samples are certain, the others are wrong with 1/2: (0 + 1/2) / 2 over the root of 1/4 * 3/4.
    assert audit["least_width"](audit["Population"]("two", score, wrong)) == pytest.approx(0.25 / np.sqrt(3 / 16))


GIVEN = ["averaged", "last epoch", "cross-validated"]
ORDERS = ["dynalens", *(f"cleanlab, {values}" for values in GIVEN)]
OF_NUMBERS = ["dynalens", *(f"{peer}, {values}" for values in GIVEN for peer in ("cleanlab", "its residual"))]


@pytest.mark.parametrize(
    ("script", "orders"),
    [
        ("units.py", {"several labels, 20 % of bits": ORDERS, "regression, 10 %": OF_NUMBERS}),
        ("dense_units.py", {"tokens, 20 %": ORDERS, "masks, 20 %": ORDERS}),
    ],
)
def test_the_benchmarks_of_units_print_each_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, orders: dict[str, list[str]]
) -> None:
    pytest.importorskip("cleanlab")
    monkeypatch.syspath_prepend(BENCHMARKS)
    run = runpy.run_path(str(BENCHMARKS / script))
    run["main"](["--rows", *orders, "--seeds", "0", "--size", "64", "--epochs", "2", "--folds", "2"], run["ROWS"])
    lines = capsys.readouterr().out.strip().splitlines()[2:]
    printed = {row: [line.split(" | ")[2] for line in lines if line.startswith(f"| {row} ")] for row in orders}
    assert printed == orders


def test_the_benchmark_of_labels_that_people_gave_prints_each_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("cleanlab")
    monkeypatch.syspath_prepend(BENCHMARKS)
    run, rng = runpy.run_path(str(BENCHMARKS / "label_pairs.py")), np.random.default_rng(0)
    images, clean = rng.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8), np.arange(80) % 10
    worse = np.where(np.arange(80) < 20, (clean + 1) % 10, clean)
    np.savez(tmp_path / "labels.npz", images=images, clean=clean, worse=worse)
    labels, pictures, embeddings = (str(tmp_path / name) for name in ("labels.npz", "pictures.npy", "embeddings.npy"))
    run["main"]([labels, "--sets", "worse", "--pictures", pictures])
    assert np.load(pictures).shape == (40, 32, 64, 3)
    np.save(embeddings, rng.normal(size=(40, 4)))
    run["main"]([labels, "--sets", "worse", "--epochs", "1", "--embeddings", embeddings])
    header, _, row = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.strip().splitlines())
    assert header[2:4] == ["all labels", "worst label"]
    assert {"both", "cleanlab on probe", "with random"} < set(header)
    assert all(0 < float(value) <= 100 for value in row[2:])


def test_the_benchmark_of_units_prints_how_many_samples_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    units = runpy.run_path(str(BENCHMARKS / "units.py"))
    row = "missing labels, 20 %"
    units["main"](["--rates", "--rows", row, "--seeds", "0", "--size", "64", "--epochs", "2"], units["ROWS"])
    names, _, values = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.strip().splitlines())
    printed = dict(zip(names, values, strict=True))
    assert printed["row"] == row
    wrong = 100 * units["ROWS"][row](0, 64).wrong.mean()
    assert float(printed["wrong"]) == pytest.approx(wrong, abs=0.05)
    assert 0 <= float(printed["estimated"]) <= float(printed["upper end"]) <= 100
    units["main"](["--answers", "30", "--rows", row, "--seeds", "0", "--size", "64", "--epochs", "2"], units["ROWS"])
    names, _, values = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.strip().splitlines())
    audited = dict(zip(names, values, strict=True))
    assert audited["wrong"] == printed["wrong"]
    assert 90 <= float(audited["interval holds"]) <= 100  # 95 of 100, of 500 repetitions


def test_cross_validation_trains_each_network_on_the_other_folds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    units = runpy.run_path(str(BENCHMARKS / "units.py"))
    seen: list[list[int]] = []

    class Noting(torch.nn.Module):
        """Gives each sample the number of distinct samples that its network was trained on, and notes those."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            seen.append([])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen[-1].extend(x.flatten().int().tolist())
                return x + self.weight
            assert not set(seen[-1]) & set(x.flatten().int().tolist())
            return x * 0 + len(set(seen[-1]))

    problem = units["Problem"](
        inputs=torch.arange(10.0).unsqueeze(1),
        given=torch.zeros(10, 1),
        wrong=np.zeros(10),
        network=Noting,
        loss=torch.nn.functional.mse_loss,
        presented=None,
        values=None,
        peers=None,
    )
    outputs = units["_held_out"](problem, 0, 2, 3)
    # Folds of 4, 3 and 3 of the 10 samples: their networks saw 6, 7 and 7.
    assert sorted(outputs.flatten().tolist()) == [6, 6, 6, 6, 7, 7, 7, 7, 7, 7]
    assert [len(of_network) for of_network in seen] == [12, 14, 14]
