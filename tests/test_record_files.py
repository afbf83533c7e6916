"""A record's folder survives kills, full disks and strangers, and what is read is what was written."""

import errno
import functools
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import TensorDataset

import forked
import killed
from dynalens import TrainingDynamicsMonitor, load_record
from dynalens.cli import main
from dynalens.record import KeptSentences, Record, read_sentences
from dynalens.record.checks import MOST_CLASSES
from dynalens.record.files import read_arrays
from dynalens.report import write_report
from test_dynamics import assert_same
from training import Classifier, N, dataset, fit, images, labels, loader

WRITTEN_BY_0_1_0 = Path(__file__).parent / "records" / "0.1.0"


def test_a_record_of_version_0_1_0_is_read() -> None:
    record = load_record(WRITTEN_BY_0_1_0)
    table, written = record.table(), pd.read_csv(WRITTEN_BY_0_1_0 / "samples.csv", index_col="sample_id")
    for column in ("name", "label", "label_name", "presentations", "margin", "confidence", "loss", "score_neighbours"):
        assert table[column].tolist() == pytest.approx(written[column].tolist()) or column in ("name", "label_name")
        assert table[column].tolist()[:3] == pytest.approx(written[column].tolist()[:3])
    assert table.index.tolist() == written.index.tolist()
    assert record.meta.epochs == [0, 1]
    assert [sorted(presentations["index"]) for _, presentations in record.history()] == [list(range(N))] * 2


# Kills.


class Moments:
    """A copy of the folder before and after each change of a file in it: what a kill leaves at any moment."""

    def __init__(self, folder: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.copies, self.number = folder, copies, 0
        replace, unlink = os.replace, Path.unlink

        def watched_replace(old: Path, new: Path) -> None:
            of_the_record = "pictures" not in new.parts  # those are not read back
            self.copy(of_the_record)
            replace(old, new)
            self.copy(of_the_record)

        def watched_unlink(path: Path, missing_ok: bool = False) -> None:
            there = path.exists()
            unlink(path, missing_ok=missing_ok)
            self.copy(there)

        monkeypatch.setattr(os, "replace", watched_replace)
        monkeypatch.setattr(Path, "unlink", watched_unlink)

    def copy(self, changed: bool) -> None:
        if changed and self.folder.exists():
            ignored = shutil.ignore_patterns("pictures")
            shutil.copytree(self.folder, self.copies / f"{self.number:03d}", ignore=ignored)
            self.number += 1

    def records(self) -> Iterator[Any]:
        for copy in sorted(self.copies.iterdir()):
            if (copy / "record.npz").exists():
                yield load_record(copy)


class Carries(TensorDataset):
    def __getitem__(self, i: Any) -> Any:
        return {"x": self.tensors[0][i], "y": self.tensors[1][i], "id": f"{i}.png"}


class OfDicts(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["x"], batch["y"]), batch_idx)


def by_position(folder: Path) -> TrainingDynamicsMonitor:
    monitor = TrainingDynamicsMonitor(save_dir=folder, name_of=str)
    fit(folder.parent, monitor, max_epochs=2)
    fit(folder.parent, monitor, max_epochs=1)
    return monitor


def by_id(folder: Path) -> TrainingDynamicsMonitor:
    monitor = TrainingDynamicsMonitor(save_dir=folder, index="id", name_of=str)
    for n in (10, N):  # more ids come in the second fit
        data = functools.partial(loader, Carries(images(n), labels(n)))
        fit(folder.parent, monitor, model=OfDicts(), data=data, max_epochs=1)
    return monitor


@pytest.mark.parametrize(("run", "least"), [(by_position, 50), (by_id, 40)])
def test_a_kill_at_any_moment_leaves_a_record_that_loads_and_agrees_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Path], Any], least: int
) -> None:
    moments = Moments(tmp_path / "record", tmp_path / "moments", monkeypatch)
    monitor = run(tmp_path / "record")
    assert moments.number >= least
    epochs = []
    for record in moments.records():
        epochs.append(len(record.meta.epochs))
        assert record.statistics.presentations.max() == len(record.meta.epochs)
        assert [epoch for epoch, _ in record.history()] == record.meta.epochs
        names = [str(i) for i in range(N)] if record.sample_ids is None else record.sample_ids.tolist()
        assert record.names() == names
        assert set(record.meta.incomplete_epochs) <= {record.meta.epochs[-1] + 1}  # the one under way
    assert epochs == sorted(epochs)
    assert epochs[-1] == len(monitor.record.meta.epochs)


def test_a_kill_of_a_second_run_in_the_same_folder_leaves_one_of_both_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "record"
    first = TrainingDynamicsMonitor(save_dir=folder, name_of=lambda i: f"first {i}", features="net.0")
    fit(tmp_path, first, max_epochs=1)
    moments = Moments(folder, tmp_path / "moments", monkeypatch)
    second = TrainingDynamicsMonitor(save_dir=folder, name_of=lambda i: f"second {i}")
    with pytest.warns(UserWarning, match="earlier training, which this training replaces"):
        fit(tmp_path, second, data=lambda: loader(dataset(30)), max_epochs=1)
    with pytest.warns(UserWarning, match="Expected the names of this record"):
        records = list(moments.records())
    for record in records:
        monitor = first if len(record.statistics) == N else second
        assert_same(record.statistics, monitor.statistics())
        assert record.names() in (None, monitor.record.names())
        assert record.neighbours() is None or monitor is first
        assert [epoch for epoch, _ in record.history()] in ([], [0])


def test_a_second_run_in_the_same_folder_is_told_that_it_replaces_a_record_and_one_that_goes_on_is_not(
    tmp_path: Path,
) -> None:
    first, second = TrainingDynamicsMonitor(), TrainingDynamicsMonitor()
    fit(tmp_path, first, max_epochs=1)
    fit(tmp_path, first, max_epochs=1)
    second.load_state_dict(first.state_dict())
    fit(tmp_path, second, max_epochs=1)
    second.reset()
    fit(tmp_path, second, max_epochs=1)  # and warnings are errors
    with pytest.warns(UserWarning, match="default_root_dir") as warnings:
        fit(tmp_path, TrainingDynamicsMonitor(), max_epochs=2)
    assert sum(str(tmp_path / "dynalens") in str(warning.message) for warning in warnings) == 1


class Dies(pl.Callback):
    """Copies the folder amid an epoch, as it is if the process is killed there, in a child that nothing is said to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.current_epoch == 1 and trainer.is_last_batch:
            shutil.copytree(self.folder, self.folder.with_name("killed"))


def test_an_epoch_that_a_kill_cut_off_is_named(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "record")
    fit(tmp_path, monitor, Dies(tmp_path / "record"), max_epochs=2)
    killed, whole = load_record(tmp_path / "killed"), load_record(tmp_path / "record")
    assert (killed.meta.epochs, killed.meta.incomplete_epochs) == ([0], [1])
    assert (whole.meta.epochs, whole.meta.incomplete_epochs) == ([0, 1], [])


class CopiesAtTheEnd(pl.Callback):
    """Copies the folder when the first epoch has been written, and the next has not begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            shutil.copytree(self.folder, self.folder.with_name("killed"))


def test_an_epoch_that_was_cut_off_in_an_earlier_run_is_none_of_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    folder.mkdir()
    (folder / "under_way.json").write_text('{"epoch": 2}')  # as a kill of the run before leaves it
    fit(tmp_path, TrainingDynamicsMonitor(save_dir=folder), CopiesAtTheEnd(folder), max_epochs=1)
    assert load_record(tmp_path / "killed").meta.incomplete_epochs == []


@pytest.mark.slow
def test_processes_that_are_killed_at_random_moments_leave_a_record_of_one_moment(tmp_path: Path) -> None:
    forked.run(tmp_path, killed.main, ranks=1)
    owners = json.loads((tmp_path / "found.json").read_text())
    assert sum(owners.values()) == killed.MOMENTS
    assert owners.get("own", 0) > 0


class StopsAt(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1 and batch_idx == 2:
            raise RuntimeError("stop here")
        return super().training_step(batch, batch_idx)


def test_an_epoch_that_a_later_fit_records_in_full_is_no_longer_incomplete(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path)
    with pytest.raises(RuntimeError, match="stop here"):
        fit(tmp_path, monitor, model=StopsAt())
    assert load_record(tmp_path).meta.incomplete_epochs == [1]
    fit(tmp_path, monitor, max_epochs=1)
    attributes = monitor.table().attrs
    assert (attributes["epochs"], attributes["incomplete_epochs"]) == ([0, 1], [])
    assert load_record(tmp_path).meta.incomplete_epochs == []


# Disks.


def full(*args: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class EmptiesTheDisk(pl.Callback):
    """Lets each write fail, in some epochs."""

    def __init__(self, epochs: range, monkeypatch: pytest.MonkeyPatch) -> None:
        self.epochs, self.monkeypatch, self.replace = epochs, monkeypatch, os.replace

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.monkeypatch.setattr(os, "replace", full if trainer.current_epoch in self.epochs else self.replace)


def test_a_full_disk_ends_no_training_and_the_record_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, model = TrainingDynamicsMonitor(save_dir=tmp_path / "a"), None
    expected = fit(tmp_path, undisturbed)
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "b")
    with pytest.warns(UserWarning, match="No space left on device.*Training goes on") as said:
        model = fit(tmp_path, EmptiesTheDisk(range(1), monkeypatch), monitor)
    assert len([each for each in said if "No space" in str(each.message) and "record" in str(each.message)]) == 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    pd.testing.assert_frame_equal(load_record(tmp_path / "b").table(), undisturbed.table())
    assert [epoch for epoch, _ in load_record(tmp_path / "b").history()] == [0, 1, 2]


def test_a_disk_that_stays_full_is_said_at_the_end_and_the_record_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "a"), TrainingDynamicsMonitor()
    fit(tmp_path, undisturbed)
    at_the_end = "Missing or old: .*history.*record.npz.*samples.csv"
    with pytest.warns(UserWarning, match="Training goes on"), pytest.warns(UserWarning, match=at_the_end):
        fit(tmp_path, EmptiesTheDisk(range(9), monkeypatch), monitor)
    pd.testing.assert_frame_equal(monitor.table(), undisturbed.table())
    with pytest.raises(OSError, match="No space"):
        monitor.save(tmp_path / "b")
    monkeypatch.undo()
    monitor.save(tmp_path / "b")
    pd.testing.assert_frame_equal(load_record(tmp_path / "b").table(), undisturbed.table())


@pytest.mark.parametrize("place", ["record", "record/history", "record/record.npz/x"])
def test_a_file_in_the_way_ends_no_training(tmp_path: Path, place: str) -> None:
    in_the_way = tmp_path / place
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("in the way")
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "record")
    with pytest.warns(UserWarning, match="Expected to write the record to .*record"):
        fit(tmp_path, monitor, max_epochs=1)
    assert len(monitor.table()) == N
    assert in_the_way.read_text() == "in the way"


def test_a_folder_that_cannot_even_be_looked_at_ends_no_training(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / ("long" * 99))
    with pytest.warns(UserWarning, match="File name too long"):
        fit(tmp_path, monitor, max_epochs=1)
    assert len(monitor.table()) == N


def test_arrays_of_another_byte_order_are_read_in_that_of_this_machine(tmp_path: Path) -> None:
    np.savez(tmp_path / "record.npz", margin=np.array([0.5, -2.0], ">f4"))
    margin = read_arrays(tmp_path / "record.npz")["margin"]
    assert (margin.dtype, margin.tolist()) == (np.dtype("=f4"), [0.5, -2.0])


class Deletes(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.current_epoch == 1 and trainer.is_last_batch:
            shutil.rmtree(self.folder)


def test_a_folder_that_is_deleted_while_training_is_made_again(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "record", name_of=str)
    with pytest.warns(UserWarning, match=r"Expected the history of this record .* got none of epochs \[0\]"):
        fit(tmp_path, monitor, Deletes(tmp_path / "record"))
    record = load_record(tmp_path / "record")
    assert (record.meta.epochs, record.names()) == ([0, 1, 2], [str(i) for i in range(N)])


class Hears(pl.Callback):
    heard: BaseException | None = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.heard = exception


def test_a_full_disk_does_not_hide_the_users_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, later = TrainingDynamicsMonitor(), Hears()
    with pytest.raises(RuntimeError, match="stop here"), pytest.warns(UserWarning, match="No space left"):
        fit(tmp_path, EmptiesTheDisk(range(1, 9), monkeypatch), monitor, later, model=StopsAt())
    assert str(later.heard) == "stop here"


def test_an_error_at_the_end_does_not_hide_the_users_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise TypeError("an error of ours")

    monitor, later = TrainingDynamicsMonitor(), Hears()
    monkeypatch.setattr("dynalens.record.record.assess", fails)
    with pytest.raises(RuntimeError, match="stop here"), pytest.warns(UserWarning, match="got TypeError: an error of"):
        fit(tmp_path, monitor, later, model=StopsAt())
    assert str(later.heard) == "stop here"


# History.


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def with_a_flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def of_another_run(path: Path) -> None:
    shutil.copy(WRITTEN_BY_0_1_0 / "history" / "epoch_000000.npz", path)


@pytest.mark.parametrize("damage", [Path.unlink, cut_off, with_a_flipped_bit, of_another_run])
def test_a_damaged_history_is_said_and_ends_no_fit(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    plain = TrainingDynamicsMonitor(save_dir=tmp_path / "plain", history=False)
    fit(tmp_path, plain, max_epochs=2)
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "record")
    fit(tmp_path, monitor, max_epochs=2)
    damage(tmp_path / "record" / "history" / "epoch_000000.npz")
    with pytest.warns(UserWarning, match="Expected the history of this record in .* may differ from before"):
        table = load_record(tmp_path / "record").table()
    assert table["score"].tolist() == plain.table()["score"].tolist()
    with pytest.warns(UserWarning, match="Expected the history of "):
        fit(tmp_path, monitor, max_epochs=1)
    assert load_record(tmp_path / "record").meta.epochs == [0, 1, 2]


# Strangers.


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    fit(folder, TrainingDynamicsMonitor(save_dir=folder / "record", name_of=str, features="net.0"), max_epochs=2)
    return folder / "record"


def meta(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "meta.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def text(name: str, new: str) -> Callable[[Path], None]:
    return content(name, lambda old: new.encode())


def arrays(name: str = "record.npz", **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with np.load(folder / name) as stored:
            content = dict(stored) | changes
        np.savez(folder / name, **{key: values for key, values in content.items() if values is not None})

    return change


def content(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))

    return changed


def claims(shape: tuple[int, ...], name: str = "record.npz") -> Callable[[Path], None]:
    """An array whose header says more than there is."""

    def change(folder: Path) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(folder / name, "a") as archive:
            archive.writestr("mean_probabilities.npy", header.getvalue() + bytes(64))

    return change


def of_the_first(value: Any, dtype: type) -> Any:
    return np.array([value] + [0] * (N - 1), dtype)


NO_CLASS = of_the_first(2_000_000_000, np.int32)
STRANGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (content("record.npz", lambda old: old[:1000]), "record.npz"),
    "empty": (content("record.npz", lambda old: b""), "record.npz"),
    "no archive": (content("record.npz", lambda old: b"no archive"), "record.npz"),
    "a flipped bit": (content("record.npz", lambda old: old[:200] + bytes([old[200] ^ 1]) + old[201:]), "record.npz"),
    "foreign entry": (arrays(foreign=np.zeros(N)), "record.npz.*foreign"),
    "missing entry": (arrays(margin=None), "record.npz.*no margin"),
    "a pickle": (arrays(margin=np.array([None] * N)), "record.npz.*objects"),
    "given labels of other samples": (arrays(unit_given=np.zeros((3, 2), np.int8)), r"record.npz.*unit_given of int8"),
    "another length": (arrays(margin=np.zeros(3)), r"record.npz.*margin of shape \(3,\)"),
    "texts": (arrays(margin=np.array(["a"] * N)), "record.npz.*margin of <U1"),
    "a class of 2e9": (arrays(label=NO_CLASS), "record.npz.*label from 0 to 2000000000"),
    "a prediction of 2e9": (arrays(predicted=NO_CLASS), "record.npz.*predicted"),
    "a candidate of 2e9": (arrays(candidate=NO_CLASS), "record.npz.*candidate"),
    "one class too many": (arrays(label=of_the_first(MOST_CLASSES, np.int32)), f"less than {MOST_CLASSES}"),
    "a negative count": (arrays(presentations=of_the_first(-1, np.int32)), "record.npz.*presentations"),
    "forgotten too often": (arrays(forgetting_events=of_the_first(99, np.int32)), "record.npz.*of more than the"),
    "forgotten 2e9 times": (
        arrays(forgetting_events=of_the_first(2 * 10**9, np.int32)),
        "record.npz.*forgetting_events from 0 to 2000000000",
    ),
    "an infinite margin": (arrays(margin=of_the_first(np.inf, np.float64)), "record.npz.*margin that is not finite"),
    "an infinite epoch": (arrays(first_learned=of_the_first(np.inf, np.float64)), "record.npz.*first_learned"),
    "1e12 numbers": (claims((10**12,)), "record.npz"),
    "no rows": (arrays(root_index=None), "record.npz.*no root_index"),
    "foreign rows": (arrays(root_index=np.zeros(3)), "record.npz.*root_index"),
    "foreign ids": (arrays(sample_id=np.zeros(N)), "record.npz.*sample_id of float64"),
    "ids twice": (arrays(sample_id=of_the_first(1, np.int64)), "record.npz.*sample_id of 2 different ids for 22"),
    "a probability of 2": (arrays(confidence=of_the_first(2, np.float64)), "record.npz.*confidence from 0 to 2"),
    "a huge loss": (arrays(loss=of_the_first(1e300, np.float64)), r"record.npz.*loss from 0 to 1e\+300"),
    "learned in no epoch": (arrays(first_learned=np.full(N, np.nan)), "record.npz.*first_learned of samples that"),
    "forgotten for no reason": (arrays(last_forgotten=np.zeros(N)), "record.npz.*last_forgotten of samples that"),
    "seen without a class": (arrays(label=of_the_first(-1, np.int32)), "record.npz.*label of no class"),
    "suggests the label": (arrays(candidate=labels().numpy()), "record.npz.*candidate that is the label itself"),
    "a class of no probability": (
        arrays(mean_probabilities=np.full((N, 2), 0.5, np.float32)),
        "record.npz.*label from 0 to 2 instead of",
    ),
    "a unit of no label": (
        arrays(
            unit=of_the_first(2, np.int32),
            unit_margin=np.zeros(N),
            mean_margin=np.zeros(N),
            unit_margins=np.zeros((N, 2), np.float32),
        ),
        "record.npz.*unit from 0 to 2 instead of from -1 to less than 2",
    ),
    "probabilities of texts": (arrays(mean_probabilities=np.full((N, 3), "x")), "mean_probabilities of <U1"),
    "no meta inside": (arrays(meta=np.frombuffer(b"[]", np.uint8)), "record.npz.*a list instead of an object"),
    "a list": (text("meta.json", "[]"), "meta.json.*a list instead of an object"),
    "no JSON": (text("meta.json", "{"), "meta.json"),
    "deep JSON": (text("meta.json", "[" * 100_000), "meta.json"),
    "binary": (content("meta.json", lambda old: b"\xff\xfe"), "meta.json"),
    "num_samples of 1e12": (meta(num_samples=10**12), "meta.json.*num_samples 1000000000000"),
    "a negative epoch": (meta(epochs=[-1, 0]), "meta.json.*epochs"),
    "a million epochs": (meta(epochs=list(range(10**6))), "meta.json.*1,000,000 epochs"),
    "a late epoch": (meta(epochs=[10**9]), "meta.json.*epochs"),
    "epochs twice": (meta(epochs=[0, 0]), "meta.json.*epochs"),
    "epochs of text": (meta(epochs=["0"]), "meta.json.*epochs"),
    "epochs of nothing": (meta(epochs=None), "meta.json.*epochs"),
    "true epochs": (meta(epochs=[True]), "meta.json.*epochs"),
    "names of numbers": (meta(class_names=[1, 2]), "meta.json.*class_names"),
    "foreign meta": (meta(foreign=1), "meta.json.*foreign"),
    "no version": (meta(version=None), "a record of version 1, got None"),
    "names of nothing": (text("names.json", "{}"), "names.json.*no list of names"),
    "no names": (text("names.json", "["), "names.json"),
    "under way": (text("under_way.json", '{"epoch": -1}'), "under_way.json"),
}


@pytest.mark.parametrize(("change", "message"), STRANGE.values(), ids=STRANGE.keys())
def test_a_strangers_folder_is_refused_with_one_error_that_names_the_file(
    tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(own, tmp_path / "record")
    change(folder)
    with pytest.raises(ValueError, match=message):
        load_record(folder)
    assert main(["suspects", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dynalens: Expected")
    assert said.count("\n") == 1
    assert "damaged" in said or "version" in said


def plan(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """A folder in which a plan of an audit was drawn, and changed."""

    def changed(folder: Path) -> None:
        load_record(folder).audit_plan(4)
        change(folder)

    return changed


PLANS: dict[str, tuple[Callable[[Path], None], str]] = {
    name: (arrays("audit_plans.npz", **changes), said)
    for name, changes, said in (
        ("no seed", {"seed": None}, "no seed"),
        ("a foreign array", {"foreign": np.zeros(1)}, "foreign"),
        ("a negative seed", {"seed": np.array([-1])}, "seed from -1"),
        ("texts", {"seed": np.array(["x"])}, "seed of <U1"),
        ("more drawn than there are", {"count": np.array([N + 1])}, "count from 23"),
        ("a negative count", {"count": np.array([-1])}, "count from -1"),
        ("a huge stratum", {"stratum": np.full((1, N), 10**9)}, "stratum from 1000000000"),
        ("one row", {"stratum": np.zeros(N, np.int64)}, "stratum of int64"),
        ("a huge class", {"label": np.full((1, N), 10**12)}, "label from 1000000000000"),
        ("labels of nothing", {"label": np.full((1, N), np.nan)}, "label of float64"),
        ("two seeds", {"seed": np.array([0, 1])}, "seed of int64"),
        ("objects", {"label": np.array([[None] * N])}, "objects in label"),
    )
} | {
    "half of it": (content("audit_plans.npz", lambda old: old[:99]), "not a zip"),
    "more than it holds": (claims((10**12,), "audit_plans.npz"), "label.npy|mean_probabilities"),
}


def sentences(record: Record) -> KeptSentences:
    return read_sentences(record.folder, record.meta.num_samples)


SIDE: dict[str, tuple[Callable[[Path], None], Callable[[Any], Any], str]] = {
    "neighbours": (arrays("neighbours.npz", score=np.zeros(3)), lambda record: record.neighbours(), "neighbours.npz"),
    "no neighbours": (content("neighbours.npz", lambda old: old[:99]), lambda record: record.table(), "neighbours.npz"),
    "pictures": (arrays("pictures.npz", **{"0": np.zeros((9, 9))}), lambda record: record.pictures(), ""),
    "sentences": (text("sentences.json", '{"tokens": {"0": [7, 8]}, "words": {"7": "a"}}'), sentences, ""),
    "a sentence of words": (text("sentences.json", '{"tokens": {"0": ["a"]}, "words": {}}'), sentences, "no ids"),
    "a sentence of nobody": (text("sentences.json", '{"tokens": {"999": [7]}, "words": {}}'), sentences, "row 999"),
    "a word that is a number": (text("sentences.json", '{"tokens": {}, "words": {"7": 8}}'), sentences, "no texts"),
    "a word of no token": (text("sentences.json", '{"tokens": {}, "words": {"a": "b"}}'), sentences, "no numbers"),
    "numbers as a text": (text("sentences.json", '{"tokens": {}, "words": {}, "texts": {"0": "1, 2"}}'), sentences, ""),
    "numbers of nobody": (
        text("sentences.json", '{"tokens": {}, "words": {}, "texts": {"999": "1"}}'),
        sentences,
        "texts of other rows",
    ),
    "numbers as numbers": (
        text("sentences.json", '{"tokens": {}, "words": {}, "texts": {"0": 1}}'),
        sentences,
        "no texts",
    ),
    "a foreign sentence": (text("sentences.json", '{"x": {}}'), sentences, "sentences.json.*no tokens, words"),
    "a foreign picture": (arrays("pictures.npz", x=np.zeros(9)), lambda record: record.pictures(), "pictures.npz.*x"),
} | {
    f"a plan with {name}": (plan(change), lambda record: record.audit_plan(4), f"audit_plans.npz to be as .*{said}")
    for name, (change, said) in PLANS.items()
}


@pytest.mark.parametrize(("change", "ask", "message"), SIDE.values(), ids=SIDE.keys())
def test_other_files_of_a_stranger_are_refused_when_they_are_asked_for(
    tmp_path: Path, own: Path, change: Callable[[Path], None], ask: Callable[[Any], Any], message: str
) -> None:
    folder = shutil.copytree(own, tmp_path / "record")
    change(folder)
    record = load_record(folder)
    if message:
        with pytest.raises(ValueError, match=message):
            ask(record)
    else:
        ask(record)


def test_pipes_and_devices_of_a_stranger_are_not_read(tmp_path: Path, own: Path) -> None:
    folder = shutil.copytree(own, tmp_path / "record")
    device, pipe = (folder / "history" / f"epoch_00000{epoch}.npz" for epoch in range(2))
    device.unlink()
    device.symlink_to("/dev/zero")
    pipe.unlink()
    os.mkfifo(pipe)
    (folder / "sheets").mkdir(exist_ok=True)
    os.mkfifo(folder / "sheets" / "x.png")
    with pytest.warns(UserWarning, match=r"the history of this record in .*, got none of epochs \[0, 1\]"):
        write_report(load_record(folder), tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"epoch_000000.npz to be as dynalens writes it, got a pipe or a device"):
        list(load_record(folder).history())


@pytest.mark.parametrize(
    "values",
    [
        {"index": np.full(N, N)},
        {"predicted": np.full(N, MOST_CLASSES)},
        {"p_label": np.full(N, np.nan)},
        {"margin": None},
    ],
)
def test_a_strangers_history_does_not_count(tmp_path: Path, own: Path, values: dict[str, Any]) -> None:
    folder = shutil.copytree(WRITTEN_BY_0_1_0, tmp_path / "record")  # one without digests
    arrays("history/epoch_000000.npz", **values)(folder)
    record = load_record(folder)
    with pytest.warns(UserWarning, match=r"history/epoch_000000.npz to be as dynalens writes it, got "):
        assert np.isnan(record.assess().probability_margin).all()
    with pytest.raises(ValueError, match=r"epoch_000000\.npz"):
        list(record.history())
