"""What a run keeps of the samples of an audit that have labels for each token or pixel, or several numbers."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from dynalens import TrainingDynamicsMonitor, audit, audit_plan, load_record
from dynalens.cli import main
from dynalens.logs.audit_watch import AuditWatch, bounded
from dynalens.pictures import SuspectWatch
from dynalens.record import RecordFolder, read_audited, write_arrays
from dynalens.report import write_audit
from dynalens.units import dense
from test_audit_page import content_of
from test_audit_units import expected_legend, legend_of
from test_dense_units import Segmenter, Tagger, masks, run, tagged
from test_regression import Regressor, targets
from training import N, fit, fit_undisturbed, images, loader

pytestmark = pytest.mark.usefixtures("undrawn")


def test_tokens_that_passed_are_asked_about_without_the_dataset(tmp_path: Path) -> None:
    names = ["noun", "verb", "other"]
    run(tmp_path, Tagger(), TrainingDynamicsMonitor(class_names=names, audit=9), max_epochs=2)
    record = load_record(tmp_path)
    with_data = content_of(write_audit(record, tmp_path / "with.html", n=9, dataset=tagged()))["cards"]
    without = content_of(write_audit(record, tmp_path / "without.html", n=9))["cards"]
    assert len(without) == 9
    assert without == [card | {"label": ""} for card in with_data]  # no checksum: a batch may hold other labels


def test_masks_that_passed_are_asked_about_without_the_dataset(tmp_path: Path) -> None:
    data = TensorDataset(images(), masks())
    run(tmp_path, Segmenter(), TrainingDynamicsMonitor(audit=9), data=data, max_epochs=2)
    assert main(["audit", str(tmp_path), "--n", "9", "--out", str(tmp_path / "audit.html")]) == 0
    record = load_record(tmp_path)
    with_data = content_of(write_audit(record, tmp_path / "with.html", n=9, dataset=data))["cards"]
    without = content_of(tmp_path / "audit.html")["cards"]
    assert [legend_of(card) for card in without] == [expected_legend(masks()[int(card["id"])]) for card in without]
    assert [card["id"] for card in without] == [card["id"] for card in with_data]
    kept = read_audited(record.folder, N)
    for card in without:
        assert kept[int(card["id"])].labels.clip(-1).tolist() == masks()[int(card["id"])].clip(-1).tolist()


class VoidSegmenter(Segmenter):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], ignore_index=255)


def test_pixels_without_a_class_are_ignored(tmp_path: Path) -> None:
    void = masks().masked_fill(masks() < 0, 255)
    void[:, 0, 0] = 255
    data, names = TensorDataset(images(), void), ["ground", "tree", "house"]
    run(tmp_path, VoidSegmenter(), TrainingDynamicsMonitor(audit=9, class_names=names), data=data, max_epochs=2)
    record = load_record(tmp_path)
    with_data = content_of(write_audit(record, tmp_path / "with.html", n=9, dataset=data))["cards"]
    without = content_of(write_audit(record, tmp_path / "without.html", n=9))["cards"]
    assert all(legend_of(card)[-1] == "ignored" and set(legend_of(card)[:-1]) <= set(names) for card in without)
    assert [card["legend"] for card in without] == [card["legend"] for card in with_data]


def test_several_numbers_that_passed_are_asked_about_without_the_dataset(tmp_path: Path) -> None:
    data = TensorDataset(images(), targets(2))
    fit(tmp_path, TrainingDynamicsMonitor(audit=9), model=Regressor(2), data=lambda: loader(data))
    record = load_record(tmp_path)
    with_data = content_of(write_audit(record, tmp_path / "with.html", n=9, dataset=data))["cards"]
    without = content_of(write_audit(record, tmp_path / "without.html", n=9))["cards"]
    assert [card["given"] for card in without] == [card["given"] for card in with_data]


class Named(Dataset[dict[str, Any]]):
    """The sentences with ids that are no positions."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, position: int) -> dict[str, Any]:
        words, given = tagged().tensors[:2]
        return {"id": f"sentence {position}", "words": words[position], "labels": given[position]}


class NamedTagger(Tagger):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = super().training_step([batch["words"], batch["labels"]], batch_idx)
        return loss


def test_samples_known_by_ids_are_asked_about(tmp_path: Path) -> None:
    run(tmp_path, NamedTagger(), TrainingDynamicsMonitor(audit=5, index="id"), data=Named(), max_epochs=2)
    record = load_record(tmp_path)
    words, given = tagged().tensors[:2]
    cards = content_of(write_audit(record, tmp_path / "audit.html", n=5))["cards"]
    assert len(cards) == 5
    for card in cards:
        sample = int(card["id"].removeprefix("sentence "))
        expected = [[str(int(w)), str(int(k))] for w, k in zip(words[sample], given[sample], strict=True) if k >= 0]
        assert [pair for pair in card["tokens"] if pair[1]] == expected
    answers = audit_plan(record, n=5).assign(answer="right")
    assert audit(record, answers).right == 5


@pytest.mark.parametrize("model", [Tagger, Segmenter])
def test_training_ends_alike_if_an_audit_of_tokens_or_pixels_is_drawn(tmp_path: Path, model: Callable[[], Any]) -> None:
    data = tagged() if model is Tagger else TensorDataset(images(), masks())
    monitor = TrainingDynamicsMonitor(audit=12, save_dir=tmp_path / "record")
    fit_undisturbed(tmp_path, monitor, model, data=lambda: loader(data))
    assert len(read_audited(tmp_path / "record", N)) == 12


@pytest.mark.parametrize(
    ("part", "method"),
    [(AuditWatch, "see"), (AuditWatch, "note"), (AuditWatch, "take"), (SuspectWatch, "see"), (SuspectWatch, "take")],
)
def test_training_ends_alike_if_copies_of_samples_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: type, method: str
) -> None:
    def failing(*args: Any) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(part, method, failing)
    monitor = TrainingDynamicsMonitor(audit=12, save_dir=tmp_path / "record")
    data = TensorDataset(images(), masks())
    with pytest.warns(UserWarning, match="Pictures of the record are switched off, training goes on: RuntimeError"):
        fit_undisturbed(tmp_path, monitor, Segmenter, data=lambda: loader(data), max_epochs=3)
    assert load_record(tmp_path / "record").table()["presentations"].eq(3).all()


def test_a_disk_without_room_for_the_given_labels_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordFolder, "write_audited", full)
    with pytest.warns(UserWarning, match="No space left") as said:
        run(tmp_path, Tagger(), TrainingDynamicsMonitor(audit=5), max_epochs=2)
    assert any("Missing or old: audited.npz." in str(each.message) for each in said)
    assert len(load_record(tmp_path).audited_rows()) == 5


def test_audited_samples_without_kept_labels_are_reported(tmp_path: Path) -> None:
    run(tmp_path, Tagger(), TrainingDynamicsMonitor(audit=5), max_epochs=2)
    record = load_record(tmp_path)
    with pytest.warns(
        UserWarning, match="all labels of the 8 samples of the audit, got those of 5 samples. The others"
    ):
        page = write_audit(record, tmp_path / "audit.html", n=8)
    plan = audit_plan(record, n=8)
    assert [card["id"] for card in content_of(page)["cards"]] == [str(i) for i in plan["sample_id"][:5]]
    answers = plan.head(5).assign(answer="right")
    with pytest.raises(ValueError, match="got those of other samples"):
        write_audit(record, tmp_path / "audit.html", n=3, answers=answers)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"0_given": np.zeros(3, np.int32), "0_other": np.zeros(2)}, "the foreign entries 0_other"),
        ({"99_given": np.zeros(3, np.int32)}, "99 instead of a row of 22 samples"),
        ({"0_given": np.array(["a"])}, "labels of <U1"),
        ({"0_given": np.zeros(3, np.int32), "0_input": np.zeros((2, 2, 4), np.uint8)}, r"an input of uint8 and shape"),
    ],
)
def test_files_of_something_else_are_told(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    write_arrays(tmp_path / "audited.npz", arrays)
    with pytest.raises(ValueError, match=rf"audited\.npz to be as dynalens writes it, got {reason}"):
        read_audited(tmp_path, N)


def test_ids_on_an_accelerator_give_the_same_samples_as_ids_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures, given = torch.rand(8, 3, 4, 4, generator=generator), torch.arange(8 * 16).view(8, 4, 4) % 3
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    watches = [AuditWatch([1, 6, 2]), AuditWatch([1, 6, 2])]
    # Indices of an accelerator take this way; the numbers are the same on any device.
    for copies in (watches[1]._inputs, watches[1]._targets):
        monkeypatch.setattr(copies, "offer", copies._look_up)
    for watch in watches:
        for rows in (order[:3], order[3:6], order[6:]):
            shown = dense(F.one_hot(given[rows], 3).movedim(-1, 1).float(), given[rows])
            watch.see(rows, pictures[rows])
            watch.note(rows, shown)
        watch.take()
    assert watches[0].samples.keys() == watches[1].samples.keys() == {1, 2, 6}
    for row, sample in watches[0].samples.items():
        assert sample.labels.tolist() == watches[1].samples[row].labels.tolist() == given[row].tolist()
        other = watches[1].samples[row].input
        assert sample.input is not None
        assert other is not None
        assert np.array_equal(sample.input, other)


def test_large_masks_keep_the_nearest_classes() -> None:
    mask = (torch.arange(1024) // 512).view(1, 1, 1024).expand(1, 1024, 1024) * 7 - 1
    kept = bounded(mask, "pixels")
    assert kept.shape == (1, 256, 256)
    assert kept.dtype is torch.int16
    assert (kept == (torch.arange(256) // 128) * 7 - 1).all()
    volume = torch.stack([mask[0] * 0, mask[0], mask[0] * 0])[None]  # the middle slice, as of the picture
    assert torch.equal(bounded(volume, "pixels"), kept)
    labels = bounded(torch.ones(1, 8, 512, 512, dtype=torch.int64), "labels of pixels")
    assert labels.shape == (1, 8, 128, 128)
