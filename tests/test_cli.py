"""The command line shows what the tables hold; mistakes are one line."""

import json
import re
import runpy
import warnings
import zipfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dynalens.cli import main
from dynalens.dynamics import TrainingDynamics
from dynalens.record import RecordFolder, RecordMeta, load_record


def run(path: Path, seed: int = 0, n: int = 120, wrong: int = 20, names: Sequence[str] = ("cat", "dog", "eel")) -> Path:
    """A record of cats and dogs of which the first are labelled the other way round."""
    rng = np.random.default_rng(seed)
    true = np.arange(n) % 3
    given = np.where(np.arange(n) < wrong, (true + 1) % 3, true)
    dynamics, folder = TrainingDynamics(n), RecordFolder(path / "dynalens")
    for epoch in range(6):
        logits = rng.normal(size=(n, 3))
        logits[np.arange(n), true] += 6
        dynamics.update(range(n), torch.from_numpy(logits), torch.from_numpy(given))
        folder.write_history(epoch, dynamics.end_epoch(epoch))
    folder.write(dynamics.compute(), np.arange(n), RecordMeta(n, list(range(6)), [], list(names)))
    folder.write_names([f"{i}.png" for i in range(n)])
    return path


def test_a_warning_of_a_command_shows_no_line_of_code_and_no_letter_that_controls_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual_format, shown = warnings.formatwarning, []
    warning = "Epoch 3\x1b[31m is missing.", UserWarning, "__main__.py", 6
    monkeypatch.setattr("dynalens.cli.imported", lambda _: lambda _: shown.append(warnings.formatwarning(*warning)))
    assert main(["suspects", "run"]) == 0
    assert shown == ["dynalens: Epoch 3\\x1b[31m is missing.\n"]
    assert warnings.formatwarning is usual_format


def test_answers_of_an_audit_calibrate_the_rate_and_the_suspects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = run(tmp_path), tmp_path / "answers.csv"
    plan = load_record(folder).audit_plan(120)
    plan.assign(answer=np.where(plan["sample_id"] < 20, "wrong", "right")).to_csv(file, index=False)
    assert main(["suspects", str(folder), "--answers", str(file), "--top", "2"]) == 0
    shown = capsys.readouterr().out
    assert "20 of 120 samples are flagged. About 100 % of all flagged labels are expected to be wrong.\n" in shown
    rate = "Noise rate: 16.7 % (16.7 % to 16.7 %) with 95 % confidence"
    assert f"{rate}, from 100 right, 20 wrong, 0 unsure answers" in shown
    assert main(["suspects", str(folder)]) == 0
    assert "from the run alone; audit 100 samples for a confidence interval" in capsys.readouterr().out
    file.write_text("sample_id,answer\n0,perhaps\n")
    assert main(["suspects", str(folder), "--answers", str(file)]) == 2
    assert "Expected `answer` to be one of right, wrong, unsure" in capsys.readouterr().err


def test_no_suspects_are_announced_if_all_labels_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = run(tmp_path), tmp_path / "answers.csv"
    load_record(folder).audit_plan(120).assign(answer="right").to_csv(file, index=False)
    assert main(["suspects", str(folder), "--answers", str(file)]) == 0
    assert "\nNo label is flagged.\n" in capsys.readouterr().out


def test_suspects_after_an_audit_begin_with_those_that_nobody_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file, csv = run(tmp_path), tmp_path / "answers.csv", tmp_path / "all.csv"
    plan = load_record(folder).audit_plan(60)
    wrong = plan["sample_id"] < 20
    plan.assign(answer=np.where(wrong, "wrong", "right")).to_csv(file, index=False)
    assert main(["suspects", str(folder), "--answers", str(file), "--top", "3", "--csv", str(csv)]) == 0
    shown = capsys.readouterr().out
    all_rows = pd.read_csv(csv)
    assert f"\n{wrong.sum()} of the flagged labels have the answer wrong: the table shows the others.\n" in shown
    assert [int(row.split()[0]) for row in re.findall(r"^\d+ +\d+ +\d+\.png.*", shown, flags=re.M)] == [
        *all_rows["sample_id"][wrong.sum() :][:3]
    ]
    rest = len(all_rows) - wrong.sum()
    assert f"... and {rest - 3} more: --top {rest}, or --csv FILE" in shown
    assert sorted(all_rows["sample_id"][: wrong.sum()]) == sorted(plan["sample_id"][wrong])


def test_the_samples_of_an_audit_may_be_drawn_by_run_and_embeddings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = run(tmp_path), tmp_path / "embeddings.npy"
    np.save(file, np.random.default_rng(0).normal(size=(120, 4)))
    assert main(["audit", str(folder), "--n", "30", "--embeddings", str(file)]) == 0
    assert f"Then: dynalens suspects {folder} --embeddings {file} --answers answers.csv" in capsys.readouterr().out
    drawn = load_record(folder).with_embeddings(np.load(file)).audit_plan(30)
    plan = load_record(folder).audit_plan(30)  # kept beside the record, so that no embeddings are needed
    assert plan["sample_id"].tolist() == drawn["sample_id"].tolist()


@pytest.mark.parametrize("command", ["suspects", "report", "audit"])
def test_a_command_checks_and_reads_each_file_of_the_history_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = run(tmp_path)
    opened: Counter[str] = Counter()

    class Counted(zipfile.ZipFile):
        def __init__(self, file: Any, *args: Any, **kwargs: Any) -> None:
            opened[Path(getattr(file, "name", file)).name] += 1
            super().__init__(file, *args, **kwargs)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    assert main([command, str(folder)]) == 0
    assert [opened[f"epoch_{epoch:06d}.npz"] for epoch in range(6)] == [2] * 6
    assert opened["record.npz"] == 2


def test_suspects_are_shown_with_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path)
    assert main(["suspects", str(folder), "--top", "3", "--csv", str(tmp_path / "out.csv")]) == 0
    shown = capsys.readouterr().out
    expected = load_record(folder).table()
    flagged = expected[expected["flagged"]].sort_values("rank")
    assert f"{len(flagged)} of 120 samples are flagged. About 80 % of all flagged labels" in shown
    assert [f"{i}.png" in shown for i in flagged.index[:4]] == [True, True, True, False]
    assert "cat" in shown
    assert f"... and {len(flagged) - 3} more" in shown
    assert pd.read_csv(tmp_path / "out.csv", index_col="sample_id").index.tolist() == flagged.index.tolist()


def test_the_top_of_the_order_is_shown_where_nothing_is_flagged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, wrong=0)
    assert main(["suspects", str(folder), "--top", "5", "--csv", str(tmp_path / "new" / "top.csv")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("0 of 120 samples are flagged.\n")
    assert "No label is flagged." in shown
    written = pd.read_csv(tmp_path / "new" / "top.csv", index_col="sample_id")
    assert written.index.tolist() == load_record(folder).suspects(5).index.tolist()
    assert not written["flagged"].any()


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"dynalens {version('dynalens')}\n"


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["__main__.py", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("dynalens", run_name="__main__")
    assert capsys.readouterr().out == f"dynalens {version('dynalens')}\n"


def test_long_names_are_shown_by_their_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path)
    names = [f"/data/{'pictures/' * 10}{i:03d}.png" for i in range(120)]
    RecordFolder(folder / "dynalens").write_names(names)
    assert main(["suspects", str(folder), "--top", "1"]) == 0
    [worst] = load_record(folder).suspects(1).index
    assert f"...{names[worst][-56:]} " in capsys.readouterr().out


def test_a_class_pair_by_name_or_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path)
    for pair in (["dog", "cat"], ["1", "0"]):
        assert main(["suspects", str(folder), "--class-pair", *pair, "--csv", str(tmp_path / "pair.csv")]) == 0
        found = pd.read_csv(tmp_path / "pair.csv")
        assert len(found) == 7  # of the 20, true class 0
        assert set(found["label"]) == {1}
        assert set(found["suggested"]) == {0}
    capsys.readouterr()
    assert main(["suspects", str(folder), "--class-pair", "dog", "fox"]) == 2
    assert "`--class-pair` to be one of cat, dog, eel, or its number, got 'fox'" in capsys.readouterr().err


def test_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(run(tmp_path / str(seed), seed)) for seed in range(3)]
    assert main(["compare", *folders, "--top", "20", "--csv", str(tmp_path / "agreed.csv")]) == 0
    shown = capsys.readouterr().out
    assert "of the 120 samples that all 3 runs have seen are flagged in all of them" in shown
    agreed = pd.read_csv(tmp_path / "agreed.csv", index_col="sample_id")
    assert set(agreed.index[:20]) == set(range(20))
    assert main(["compare", folders[0], str(run(tmp_path / "other", n=90))]) == 2
    assert "runs on the same samples, got 120 in the first and 90 in run 2" in capsys.readouterr().err


def test_a_run_is_not_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "0")
    assert main(["compare", str(folder), str(folder / "dynalens")]) == 2
    assert f"Expected each run once, got {folder / 'dynalens'} a second time" in capsys.readouterr().err


def test_compared_classes_without_a_name_go_by_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(run(tmp_path / str(seed), seed, names=["cat"])) for seed in range(2)]
    assert main(["compare", *folders, "--csv", str(tmp_path / "agreed.csv")]) == 0
    assert set(pd.read_csv(tmp_path / "agreed.csv")["suggested_name"].dropna()) == {"cat", "1", "2"}


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suspects", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("dynalens: Expected `folder` to hold record.npz")
    assert main(["suspects", str(run(tmp_path)), "--precision", "2"]) == 2
    assert "`precision` to be in (0, 1], got 2.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["suspects", str(tmp_path), "--top", "0"])
    assert "Expected a number of at least 1, got '0'" in capsys.readouterr().err


def test_probabilities_are_shown_in_percent_and_positions_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path)
    (folder / "dynalens" / "names.json").unlink()
    assert main(["suspects", str(folder), "--top", "3"]) == 0
    lines = [re.split(r" +(?!%)", line.strip()) for line in capsys.readouterr().out.splitlines()]
    header, first = (words for words in lines if words[0] in ("rank", "0"))
    assert header == ["rank", "label", "suggested", "suggested_probability", "wrong_probability", "agreement"]
    assert first == ["0", "1", "dog", "cat", ">99 %", ">99 %", "100 %"]


def test_a_file_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "answers.csv"
    assert main(["suspects", str(run(tmp_path)), "--answers", str(missing)]) == 2
    assert capsys.readouterr().err == f"dynalens: No such file or directory: {missing}\n"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suspects", str(run(tmp_path)), "--csv", str(tmp_path)]) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_a_report_is_written_and_suspects_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path)
    files = {kind: tmp_path / f"{kind}.json" for kind in ("json", "label-studio", "fiftyone")}
    assert (
        main(["suspects", str(folder), *(part for kind, path in files.items() for part in (f"--{kind}", str(path)))])
        == 0
    )
    table = load_record(folder).table()
    worst = table[table["flagged"]].sort_values("rank")
    assert [row["sample_id"] for row in json.loads(files["json"].read_text())] == worst.index.tolist()
    assert len(json.loads(files["label-studio"].read_text())) == len(worst)
    labels = json.loads(files["fiftyone"].read_text())["labels"]
    assert set(labels) == {str(i) for i in worst.index}  # FiftyOne's keys are file names without their ending
    assert main(["report", str(folder)]) == 0
    assert (folder / "dynalens" / "report.html").stat().st_size > 10_000
    assert "report.html written" in capsys.readouterr().out


def test_samples_that_are_texts_are_exported_as_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path)
    suspects = load_record(folder).suspects()
    worst = suspects.index[suspects["flagged"]].tolist()
    RecordFolder(folder / "dynalens").write_sentences({worst[0]: [7, 8, -1]}, {7: "good", 8: "film"}, {})
    assert main(["suspects", str(folder), "--label-studio", str(tmp_path / "tasks.json")]) == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["text"] for task in tasks] == ["good film", *(f"{i}.png" for i in worst[1:])]
    assert not any("image" in task["data"] for task in tasks)
    assert f"{len(worst) - 1} of the tasks name a sample without its text" in capsys.readouterr().out
    assert main(["suspects", str(folder), "--fiftyone", str(tmp_path / "labels.json")]) == 2
    assert "Expected samples that are images for `--fiftyone`, got texts" in capsys.readouterr().err


def test_a_file_name_without_an_ending_gets_that_of_what_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = str(run(tmp_path)), tmp_path / "new folder"
    for command in ("report", "audit"):
        assert main([command, folder, "--out", str(out / command)]) == 0
        assert f"{out / command}.html written" in capsys.readouterr().out
    options = [part for kind in ("csv", "json", "label-studio", "fiftyone") for part in (f"--{kind}", str(out / kind))]
    assert main(["suspects", folder, *options]) == 0
    assert main(["suspects", folder, "--csv", str(out / "table.txt")]) == 0
    endings = {"audit.html", "csv.csv", "fiftyone.json", "json.json", "label-studio.json", "report.html", "table.txt"}
    assert {file.name for file in out.iterdir()} == endings
