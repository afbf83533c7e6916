"""What is written is what is read, and a kill never leaves half a file."""

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dynalens import TrainingDynamicsMonitor
from dynalens.callbacks.recording import RecordingCallback
from dynalens.cli import main
from dynalens.dynamics import EpochRecord, SampleStatistics, TrainingDynamics
from dynalens.record import RecordFolder, RecordMeta, load_record, read_history, replacement_file
from dynalens.suspicion import assess, epoch_summary, samples_table
from training import arrays_of, dataset, fit

# Sample 0 is right, 1 is wrong and predicted 2 twice and 0 once, 2 was never seen, 3 is forgotten in epoch 1.
HISTORY = [{0: (0, 5.0), 1: (2, 4.0), 3: (1, 2.0)}, {0: (0, 6.0), 1: (0, 1.0), 3: (0, 3.0)}, {1: (2, 2.0)}]
LABELS = [0, 1, 2, 1]


def record(epochs: list[dict[int, tuple[int, float]]] = HISTORY) -> tuple[SampleStatistics, list[EpochRecord]]:
    dynamics, ended = TrainingDynamics(4), []
    for number, epoch in enumerate(epochs):
        logits = torch.zeros(len(epoch), 3)
        for row, (winner, size) in enumerate(epoch.values()):
            logits[row, winner] = size
        dynamics.update(list(epoch), logits, torch.tensor([LABELS[i] for i in epoch]))
        ended.append(dynamics.end_epoch(number))
    return dynamics.compute(), ended


def arrays(epochs: list[EpochRecord]) -> list[dict[str, np.ndarray]]:
    names = ("index", "p_label", "margin", "predicted")
    return [{name: getattr(epoch, name) for name in names} for epoch in epochs]


def table() -> pd.DataFrame:
    statistics, epochs = record()
    return samples_table(statistics, assess(statistics, arrays(epochs)), class_names=["a", "b", "c"])


def test_the_table_by_hand() -> None:
    rows = table()
    assert rows.index.name == "sample_id"
    # Epochs weigh 1/9, 16/9 and 9, so the last margins decide: 6, -2 and, of sample 3, -3.
    assert rows["rank"].tolist() == [3, 2, pd.NA, 1]
    # Sample 1: margins -4, -1, -2. Sample 3: 2, then -3.
    assert rows["score_aum"].round(4).tolist()[:2] == [-5.5, 2.3333]
    assert rows["score_aum"][3] == 0.5
    assert rows[["score", "score_aum", "score_forgetting", "wrong_probability"]].loc[2].isna().all()
    assert rows["label_name"].dropna().to_dict() == {0: "a", 1: "b", 3: "b"}
    assert rows["suggested_name"].dropna().to_dict() == {1: "c", 3: "a"}
    assert rows["first_learned"].tolist() == [0, pd.NA, pd.NA, 0]
    assert rows["last_forgotten"].tolist() == [pd.NA, pd.NA, pd.NA, 1]
    assert rows["presentations"].tolist() == [2, 3, 0, 2]
    assert rows["forgetting_events"].tolist() == [0, 0, 0, 1]
    assert {str(rows[name].dtype) for name in ("label", "rank", "suggested", "first_learned", "predicted")} == {"Int64"}


def test_the_summary_of_an_epoch_by_hand() -> None:
    statistics, epochs = record(HISTORY[:2])
    assert epoch_summary(statistics, epochs[1]) == {
        "forgotten": 1,
        "learned": 0,
        "never_learned": 1,
        "train_accuracy": pytest.approx(1 / 3),
        "mean_margin": pytest.approx((6 - 1 - 3) / 3),
        "non_finite": 0,
    }


def written(path: Path) -> RecordFolder:
    statistics, epochs = record()
    folder = RecordFolder(path)
    for number, epoch in enumerate(epochs):
        folder.write_history(number, epoch)
    folder.write(statistics, np.arange(4) * 10, RecordMeta(4, [0, 1, 2], [], ["a", "b", "c"]))
    return folder


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written(tmp_path / "run" / "dynalens")
    expected = table()
    expected["root_index"] = [0, 10, 20, 30]
    for given in (tmp_path / "run", tmp_path / "run" / "dynalens", str(tmp_path / "run")):
        loaded = load_record(given)
        pd.testing.assert_frame_equal(loaded.table(), expected)
        assert loaded.meta.class_names == ["a", "b", "c"]
    arrays_of(tmp_path / "run" / "dynalens" / "record.npz")["margin"]


def test_a_record_from_disk_answers_as_the_callback_does(tmp_path: Path) -> None:
    monitor, data = TrainingDynamicsMonitor(), dataset()
    fit(tmp_path, monitor)
    record = load_record(tmp_path)
    for method in (monitor, record):
        pd.testing.assert_frame_equal(method.table(), monitor.table())
        pd.testing.assert_frame_equal(method.suspects(3), monitor.table().sort_values("rank").head(3))
        assert method.clean_indices(precision=0.9) == monitor.clean_indices(precision=0.9)
        assert method.suspect_ids(2) == monitor.suspects(2).index.tolist()
        assert method.noise_rate() == monitor.noise_rate()
        assert method.removable(0) == []
        np.testing.assert_array_equal(method.weights(), 1 - monitor.table()["wrong_probability"])
        assert [int(y) for _, y in method.relabelled(data)] == [int(y) for _, y in monitor.relabelled(data)]
    assert {name for name in vars(RecordingCallback) if name[0] != "_"} - set(dir(record)) == {
        "record",
        "class_names",
        "draw_audit",
        "draw_gallery_with",
        "save",
    }


def test_the_history_of_a_record_is_read_once_for_all_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "dynalens")
    opened: list[str] = []
    load = np.load

    def noted(path: Path, **options: Any) -> Any:
        opened.append(path.name)
        return load(path, **options)

    monkeypatch.setattr(np, "load", noted)
    epochs = ["epoch_000000.npz", "epoch_000001.npz", "epoch_000002.npz"]
    loaded = load_record(tmp_path)
    for ask in (loaded.table, loaded.suspects, loaded.clean_indices, loaded.weights, loaded.noise_rate):
        ask()
    assert [name for name in opened if name.startswith("epoch")] == epochs
    for command in ("suspects", "report"):
        opened.clear()
        assert main([command, str(tmp_path)]) == 0
        assert [name for name in opened if name.startswith("epoch")] == epochs


def test_an_assessment_that_takes_long_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def takes_long(*args: Any) -> Any:
        time.sleep(0.1)
        return assess(*args)

    written(tmp_path)
    load_record(tmp_path).table()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("dynalens.record.record.assess", takes_long)
    monkeypatch.setattr("dynalens.notices.PATIENCE", 0.01)
    record = load_record(tmp_path)
    record.table()
    record.suspects()
    assert capsys.readouterr().err == "dynalens: assessing the labels of 4 samples ...\n"


def test_a_record_can_be_pickled(tmp_path: Path) -> None:
    written(tmp_path)
    pd.testing.assert_frame_equal(
        pickle.loads(pickle.dumps(load_record(tmp_path))).table(), load_record(tmp_path).table()
    )


def test_names_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert load_record(tmp_path).names() is None
    folder.write_names(["a.png", "b.png", "c.png", "d\u00e4.png"])
    assert load_record(tmp_path).table()["name"].tolist() == ["a.png", "b.png", "c.png", "d\u00e4.png"]
    folder.write_names(None)
    assert "name" not in load_record(tmp_path).table()


def test_tables_are_written_for_people(tmp_path: Path) -> None:
    rows = table()
    rows["flagged"] = rows["rank"] == 1
    written(tmp_path).write_tables(rows.fillna({"flagged": False}))
    everything = pd.read_csv(tmp_path / "samples.csv", index_col="sample_id")
    worst = pd.read_csv(tmp_path / "suspects.csv", index_col="sample_id")
    assert everything["label"].tolist()[:2] == [0, 1]
    assert worst.index.tolist() == [3]  # flagged ones only


def test_no_record_and_a_newer_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`folder` to hold record.npz or dynalens/record.npz"):
        load_record(tmp_path)
    folder = written(tmp_path / "version_0" / "dynalens")
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*version_0"):
        load_record(tmp_path)
    meta = json.loads((folder.path / "meta.json").read_text())
    (folder.path / "meta.json").write_text(json.dumps(meta | {"version": 99}))
    with pytest.raises(ValueError, match="a record of version 1, got 99"):
        load_record(folder.path)


def test_the_error_of_a_folder_that_does_not_exist_names_the_most_similar_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [written(tmp_path / "logs" / f"version_{number}" / "dynalens").path.parent for number in (0, 1)]
    missing = tmp_path / "logs" / "verion_1"
    with pytest.raises(FileNotFoundError) as error:
        load_record(missing)
    assert str(error.value).endswith(f"got {missing}, which does not exist. Did you mean {runs[1]}, {runs[0]}?")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"got lags, which does not exist. Did you mean logs/version_0, logs/"):
        load_record("lags")
    with pytest.raises(FileNotFoundError, match=r"the file .*record.npz. Name the folder of a run"):
        load_record(runs[0] / "dynalens" / "record.npz")


def test_the_error_of_a_missing_folder_without_records_near_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"does not exist. There is no record in {tmp_path} either."):
        load_record(tmp_path / "logs" / "version_0")


def test_a_failed_write_leaves_the_file_before_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.npz"
    path.write_text("before")

    def fail() -> None:
        with replacement_file(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_record_does_not_inherit_another_runs_history(tmp_path: Path) -> None:
    folder = written(tmp_path)
    folder.begin([], None)
    assert list(read_history(tmp_path, range(9))) == []


def test_a_continued_record_copies_its_history_and_keeps_it(tmp_path: Path) -> None:
    written(tmp_path / "first")
    second = RecordFolder(tmp_path / "second")
    for source in (tmp_path / "first", tmp_path / "second"):
        second.begin([0, 1], source)
        assert [epoch for epoch, _ in read_history(tmp_path / "second", range(9))] == [0, 1]
    assert len(list((tmp_path / "first" / "history").iterdir())) == 3
