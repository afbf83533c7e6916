"""The page of an audit asks about the samples that the plan drew, and its file has the columns that an audit reads."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynalens import Record, TrainingDynamicsMonitor, load_record
from dynalens.cli import main
from dynalens.report import write_audit
from training import N, fit, images


@pytest.fixture
def record(tmp_path: Path) -> Record:
    fit(tmp_path / "run", TrainingDynamicsMonitor())
    return load_record(tmp_path / "run")


def content_of(path: Path) -> dict[str, Any]:
    (text,) = re.findall(r'id="content">(.*?)</script>', path.read_text(encoding="utf-8"), flags=re.DOTALL)
    content = json.loads(text)
    assert isinstance(content, dict)
    return content


def test_the_page_asks_about_the_samples_of_the_plan_in_their_order(record: Record, tmp_path: Path) -> None:
    content = content_of(write_audit(record, tmp_path / "audit.html", n=8))
    plan = record.audit_plan(8)
    assert [card["id"] for card in content["cards"]] == [str(i) for i in plan["sample_id"]]
    assert [card["label"] for card in content["cards"]] == plan["label"].tolist()
    assert [card["rest"] for card in content["cards"]] == [[p, ""] for p in plan["probability"]]
    assert content["columns"] == ["sample_id", "label", "answer", "new_label", "probability", "name"]


def test_the_strata_of_the_page_hold_all_samples_and_their_scores(record: Record, tmp_path: Path) -> None:
    strata = content_of(write_audit(record, tmp_path / "audit.html", n=8))["strata"]
    assert sum(strata["size"]) == N
    score = record.table()["score"].to_numpy()
    assert sum(strata["total"]) == pytest.approx(np.clip(score, -7, 7).sum())
    assert strata["right"] == strata["wrong"] == strata["unsure"] == [0] * len(strata["size"])


def test_a_second_round_asks_about_others_and_counts_the_answers_of_the_first(record: Record, tmp_path: Path) -> None:
    first = record.audit_plan(6)
    first["answer"] = ["right", "wrong", "unsure", "right", "right", "right"]
    content = content_of(write_audit(record, tmp_path / "audit.html", n=5, answers=first))
    assert len(content["cards"]) == 5
    assert not {card["id"] for card in content["cards"]} & {str(i) for i in first["sample_id"]}
    assert [sum(content["strata"][word]) for word in ("right", "wrong", "unsure")] == [4, 1, 1]


def test_a_page_on_which_nothing_is_left_to_ask_is_an_error(record: Record, tmp_path: Path) -> None:
    answers = record.audit_plan(N).assign(answer="right")
    with pytest.raises(ValueError, match="got answers about all"):
        write_audit(record, tmp_path / "audit.html", answers=answers)


def test_the_page_says_after_each_number_of_answers_that_they_are_too_few(record: Record, tmp_path: Path) -> None:
    doubts = content_of(write_audit(record, tmp_path / "audit.html", n=8))["doubts"]
    end = f": rate and flags can be far off. Answer all {N} samples."
    assert doubts == [f"There is only 1 answer{end}"] + [f"There are only {n} answers{end}" for n in range(2, N)]


def test_texts_of_the_dataset_are_asked_about_in_words(record: Record, tmp_path: Path) -> None:
    data = [(f"review {i}", 0) for i in range(N)]
    cards = content_of(write_audit(record, tmp_path / "audit.html", n=4, dataset=data))["cards"]
    assert [card["text"] for card in cards] == [f"review {card['id']}" for card in cards]
    with pytest.raises(ValueError, match=f"{N} samples, got one of 3"):
        write_audit(record, tmp_path / "audit.html", dataset=[1, 2, 3])


def test_the_command_writes_the_page_and_takes_its_answers(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = str(record.folder), tmp_path / "new" / "audit.html"
    assert main(["audit", run, "--n", "10", "--out", str(page)]) == 0
    assert f"dynalens suspects {run} --answers answers.csv --precision 0.8" in capsys.readouterr().out
    cards = content_of(page)["cards"]
    rows = [f"{card['id']},{card['label']},{'wrong' if i < 2 else 'right'},," for i, card in enumerate(cards)]
    file = tmp_path / "answers.csv"
    file.write_text("sample_id,label,answer,new_label,probability\n" + "\n".join(rows) + "\n")
    assert main(["suspects", run, "--answers", str(file), "--precision", "0.8"]) == 0
    assert "with 95 % confidence, from 8 right, 2 wrong, 0 unsure" in capsys.readouterr().out


def test_a_later_round_downloads_a_file_of_its_own_and_the_command_names_all_files(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page, first = str(record.folder), tmp_path / "audit.html", tmp_path / "my answers.csv"
    record.audit_plan(4).assign(answer="right").to_csv(first, index=False)
    assert main(["audit", run, "--n", "4", "--out", str(page), "--answers", str(first)]) == 0
    shown = capsys.readouterr().out
    assert content_of(page)["file"] == "answers_2.csv"
    assert "and download answers_2.csv\n" in shown
    assert f"Then: dynalens suspects {run} --answers '{first}' answers_2.csv --precision 0.8\n" in shown


def test_the_command_takes_answers_that_were_given_for_an_earlier_run(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later, file = tmp_path / "later", tmp_path / "answers.csv"
    assert record.folder is not None
    shutil.copytree(record.folder, later, ignore=shutil.ignore_patterns("audit_plans.npz"))
    record.audit_plan(4, seed=7).assign(answer="right").to_csv(file, index=False)
    options = ["--n", "4", "--answers", str(file)]
    assert main(["audit", str(later), *options]) == 2
    assert "take its plan over once" in capsys.readouterr().err
    assert main(["audit", str(later), *options, "--earlier-run", str(record.folder)]) == 0
    assert len(content_of(later / "audit.html")["cards"]) == 4
    assert main(["suspects", str(later), "--answers", str(file)]) == 0
    assert "from 4 right, 0 wrong, 0 unsure" in capsys.readouterr().out


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 12}], ids=["epochs", "steps"])
def test_the_monitor_keeps_the_pictures_of_the_samples_that_are_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limits: dict[str, Any]
) -> None:
    fit(tmp_path, TrainingDynamicsMonitor(audit=12, top_k=1), **limits)
    record = load_record(tmp_path)
    drawn = record.audited_rows()
    assert len(drawn) == 12  # before anything was asked for
    assert sorted(record.audit_plan(12)["sample_id"]) == drawn
    pictures = record.pictures()
    assert set(drawn) <= set(pictures)
    for row in drawn:
        x = images()[row, 0]
        expected = (255 * (x - x.min()) / (x.max() - x.min())).numpy()
        assert np.abs(pictures[row][..., 0] - expected).max() <= 1
    cards = content_of(write_audit(record, tmp_path / "audit.html", n=12))["cards"]
    assert all("picture" in card for card in cards)
    assert main(["audit", str(tmp_path), "--n", "12"]) == 0
    assert "told by their ids" not in capsys.readouterr().out
    assert main(["audit", str(tmp_path), "--n", "20"]) == 0
    unknown = sum(row not in pictures for row in record.audit_plan(20)["sample_id"])
    assert (
        f"{unknown} of 20 samples have neither picture nor text on the page. To show them, pass --data"
        in capsys.readouterr().out
    )


def test_a_fit_of_one_epoch_draws_no_audit_and_the_next_fit_does(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(audit=12, save_dir=tmp_path / "record")
    fit(tmp_path, monitor, max_epochs=1)
    assert load_record(tmp_path / "record").audited_rows() == []
    fit(tmp_path, monitor, max_epochs=1)
    assert len(load_record(tmp_path / "record").audited_rows()) == 12


def test_a_plan_that_cannot_be_written_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("dynalens.record.plans.write_plans", full)
    with pytest.warns(UserWarning, match="Expected to write the plan of the audit .*disk full"):
        fit(tmp_path, TrainingDynamicsMonitor(audit=12))
    assert load_record(tmp_path).meta.epochs == [0, 1, 2]


def test_a_damaged_plan_of_an_earlier_run_ends_no_fit(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    folder.mkdir()
    (folder / "audit_plans.npz").write_text("no plan")
    with pytest.warns(UserWarning, match=r"switched off, training goes on: DamagedFileError: .*audit_plans\.npz"):
        fit(tmp_path, TrainingDynamicsMonitor(audit=12, save_dir=folder), max_epochs=2)
    assert load_record(folder).meta.epochs == [0, 1]


@pytest.mark.parametrize("audit", [0, -1, 1.5, True, "100"])
def test_a_number_of_audited_samples_that_makes_no_sense_is_an_error(audit: Any) -> None:
    with pytest.raises(ValueError, match="Expected `audit` to be None or a whole number of at least 1, got"):
        TrainingDynamicsMonitor(audit=audit)
