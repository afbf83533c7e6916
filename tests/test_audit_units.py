"""Audits of samples with several labels, numbers, tokens or pixels: what is asked, and what the answers say."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from dynalens import Record, TrainingDynamics, TrainingDynamicsMonitor, apply_decisions, audit, audit_plan, load_record
from dynalens.cli import main
from dynalens.record import RecordMeta
from dynalens.report import write_audit, write_report
from dynalens.report.item_labels import areas_of, number_words, tagged_words
from dynalens.units import multi_label
from test_audit_page import content_of
from test_dense_units import Segmenter, Tagger, masks, run, tagged
from test_regression import Regressor, targets
from test_units import MultiLabel, bits, several_labels
from training import N, fit, fit_undisturbed, images, loader

pytestmark = pytest.mark.usefixtures("undrawn")
WRONG = [2, 5, 11]
"""Samples that a person says have a wrong label."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on samples that each have any number of three labels."""
    path = tmp_path_factory.mktemp("several")
    monitor = TrainingDynamicsMonitor(class_names=["cat", "dog", "owl"], save_dir=path)
    fit(path, monitor, model=MultiLabel(), data=lambda: loader(several_labels()))
    return path


@pytest.fixture
def record(folder: Path) -> Record:
    (folder / "audit_plans.npz").unlink(missing_ok=True)
    return load_record(folder)


def answered(record: Record, n: int = N) -> pd.DataFrame:
    plan = audit_plan(record, n=n)
    return plan.assign(answer=np.where(np.isin(plan["sample_id"], WRONG), "wrong", "right"))


def test_the_plan_says_which_labels_each_sample_has(record: Record) -> None:
    plan = audit_plan(record, n=N)
    assert record.folder is not None
    given = {i: " ".join(str(k) for k in range(3) if i >> k & 1) or "none" for i in range(N)}  # as `bits` gives them
    assert dict(zip(plan["sample_id"], plan["label"], strict=True)) == given
    assert audit_plan(load_record(record.folder), n=5)["sample_id"].tolist() == plan["sample_id"].tolist()[:5]


def test_an_audit_counts_samples_with_a_wrong_label(record: Record) -> None:
    whole = audit(record, answered(record))
    rate = whole.noise_rate
    assert (rate.low, rate.value, rate.high) == (3 / N, 3 / N, 3 / N)  # every sample was answered
    assert set(record.clean_indices(answers=whole)) == set(range(N)) - set(WRONG)
    assert record.weights(answers=whole).tolist() == [0.0 if i in WRONG else 1.0 for i in range(N)]
    worst = record.suspects(answers=whole)
    assert sorted(worst.index) == WRONG
    assert worst["label_name"].notna().all()  # the label that the run doubts


def test_answers_say_that_labels_are_missing_rather_than_extra() -> None:
    sureness, is_extra = np.random.default_rng(0).uniform(0.5, 6, 80), np.arange(80) % 2 == 0
    given = np.stack([is_extra, np.ones(80), np.zeros(80)], axis=1)
    against_label_0 = np.where(is_extra, -sureness, sureness)
    logits = np.stack([against_label_0, np.full(80, 9.0), np.full(80, -9.0)], axis=1)
    dynamics = TrainingDynamics(80)
    shown = multi_label(torch.from_numpy(logits).float(), torch.from_numpy(given).long())
    dynamics.update_units(torch.arange(80), shown)
    dynamics.end_epoch(0)
    record = Record(statistics=dynamics.compute(), meta=RecordMeta(80, [0]), root_index=np.arange(80))
    plan = audit_plan(record, n=40)
    answers = plan.assign(answer=np.where(is_extra[plan["sample_id"]], "right", "wrong"))
    score, table = record.table()["score"], record.audit(answers).table()
    is_asked = (table["answer"] != "").to_numpy()
    assert score[is_extra].max() > score[~is_extra].min()  # the run finds some of both kinds more suspicious
    assert table["score"][is_extra & ~is_asked].max() < table["score"][~is_extra & ~is_asked].min()


def test_answers_of_other_labels_or_with_a_new_class_are_refused(record: Record) -> None:
    answers = answered(record, 6)
    other = answers.assign(label=["0 1 2 ?3", *answers["label"][1:]])
    with pytest.raises(ValueError, match=r"the labels of this record, got others for sample .* not 0 1 2 \?3"):
        audit(record, other)
    for new_label in ("dog", answers["label"].iloc[0]):
        with pytest.raises(ValueError, match=r"`new_label` to be empty, or the numbers of all right labels .* Correct"):
            audit(record, answers.assign(answer="wrong", new_label=new_label))
    with pytest.raises(ValueError, match=r"`new_label` to be empty, .* and the answer 'right'"):
        audit(record, answers.assign(answer="right", new_label="0 1 2 9"))
    corrected = answers.assign(answer="wrong", new_label="0 1 2 9")
    assert audit(record, corrected).wrong == 6
    assert audit(record, answers.drop(columns="label")).right + audit(record, answers).wrong == 6


def test_a_plan_of_other_labels_in_the_folder_is_told(record: Record, tmp_path: Path) -> None:
    answers = answered(record, 6)
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "record")
    flipped = TensorDataset(images(), 1 - bits())
    fit(tmp_path, monitor, model=MultiLabel(), data=lambda: loader(flipped))
    assert record.folder is not None
    (tmp_path / "record" / "audit_plans.npz").write_bytes((record.folder / "audit_plans.npz").read_bytes())
    with pytest.raises(ValueError, match="Expected `answers` of a plan of this record, got a plan for other labels"):
        load_record(tmp_path / "record").audit(answers.drop(columns="label"))


def test_the_page_asks_whether_all_labels_are_right(record: Record, tmp_path: Path) -> None:
    page = write_audit(record, tmp_path / "audit.html", n=8, dataset=several_labels())
    content = content_of(page)
    assert content["question"]["heading"] == "Are all labels of each sample right, and is none missing?"
    assert content["names"] == []  # no class is asked for
    names = ["cat", "dog", "owl"]
    for card in content["cards"]:
        sample = int(card["id"])
        assert card["given"] == (", ".join(names[k] for k in range(3) if sample >> k & 1) or "no label")
        assert card["label"] == (" ".join(str(k) for k in range(3) if sample >> k & 1) or "none")
        assert card["opinion"].startswith("the run is least sure of ")
        assert card["picture"].startswith("data:image/png")


def test_the_command_asks_and_takes_the_answers(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(record.folder), "--n", "6", "--out", str(tmp_path / "audit.html")]) == 0
    answered(record, 6).to_csv(tmp_path / "answers.csv", index=False)
    assert main(["suspects", str(record.folder), "--answers", str(tmp_path / "answers.csv")]) == 0
    assert "with 95 % confidence, from" in capsys.readouterr().out
    report = write_report(record, tmp_path / "report.html", answers=tmp_path / "answers.csv").read_text()
    assert "90 % of the samples with a wrong label are among the first" in report


def test_the_monitor_keeps_the_pictures_of_the_samples_that_are_asked_about(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(audit=12, top_k=1)
    fit(tmp_path, monitor, model=MultiLabel(), data=lambda: loader(several_labels()))
    kept = load_record(tmp_path)
    assert len(kept.audited_rows()) == 12
    assert set(kept.audited_rows()) <= set(kept.pictures())


def test_training_ends_alike_if_an_audit_of_several_labels_is_drawn(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(audit=12, save_dir=tmp_path / "record")
    fit_undisturbed(tmp_path, monitor, MultiLabel, data=lambda: loader(several_labels()))
    assert len(monitor.record.audited_rows()) == 12


def test_answers_drop_samples_of_the_dataset_whose_labels_they_name(record: Record, tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    answered(record).to_csv(file, index=False)
    cleaned = apply_decisions(several_labels(), file)
    assert list(cleaned.indices) == [i for i in range(N) if i not in WRONG]
    moved = TensorDataset(images().roll(1, 0), bits().roll(1, 0))
    with pytest.raises(ValueError, match=r"got 22 that do not. Nothing was applied.[\s\S]*has the label .*, not "):
        apply_decisions(moved, file)
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("sample_id,decision,new_label\n3,relabel,1\n")
    assert apply_decisions(several_labels(), decisions)[3][1].tolist() == [0, 1, 0]


def test_labels_that_a_person_named_are_those_of_the_relabelled_dataset(record: Record) -> None:
    answers = answered(record).assign(new_label="")
    answers.loc[answers["sample_id"] == WRONG[0], "new_label"] = "0 2"
    data = record.relabelled(several_labels(), answers=answers)
    assert data[WRONG[0]][1].tolist() == [1, 0, 1]
    for sample in WRONG[1:]:  # the suggestion changes one label
        assert (data[sample][1] != bits()[sample]).sum() == 1
    assert all(torch.equal(data[i][1], bits()[i]) for i in range(N) if i not in WRONG)
    answers.loc[answers["sample_id"] == WRONG[0], "new_label"] = "0 7"
    with pytest.raises(ValueError, match=r"`new_label` to name labels from 0 to 2, got '0 7' for the sample in row 2"):
        record.relabelled(several_labels(), answers=answers)


def test_lists_of_classes_are_told_which_form_is_expected(record: Record, tmp_path: Path) -> None:
    lists = [(0, bits()[i].nonzero().flatten().tolist()) for i in range(N)]
    changed = record.relabelled(lists, answers=answered(record))
    with pytest.raises(ValueError, match=r"label of sample 5 .*0 or 1 for each of several labels \(.*\[1, 0, 1, 0\]"):
        changed[5]  # which has the labels 0 and 2
    answered(record).to_csv(tmp_path / "answers.csv", index=False)
    with pytest.raises(ValueError, match=r"0 or 1 for each of several labels \(.*\[1, 0, 1, 0\]"):
        apply_decisions(lists, tmp_path / "answers.csv")


def regressed(folder: Path, columns: int, scale: float = 1.0) -> Record:
    y = scale * targets(columns)
    monitor = TrainingDynamicsMonitor(class_names=["x", "y"][:columns])
    fit(folder, monitor, model=Regressor(columns), data=lambda: loader(TensorDataset(images(), y)))
    return load_record(folder)


def test_a_number_is_asked_about(tmp_path: Path) -> None:
    record = regressed(tmp_path, 1)
    plan = audit_plan(record, n=N)
    assert plan["label"].tolist() == [f"{targets()[i].item():.6g}" for i in plan["sample_id"]]
    assert audit(record, answered(record)).noise_rate.value == 3 / N
    assert sorted(record.suspects(answers=answered(record)).index) == WRONG
    with pytest.raises(
        ValueError, match=r"of classes, or of several labels .* for relabelling, got one of a regression"
    ):
        record.relabelled(TensorDataset(images(), targets()), answers=answered(record))
    content = content_of(write_audit(record, tmp_path / "audit.html", n=4))
    assert content["question"]["beginning"] == "Is the number "
    assert all(card["opinion"].startswith("the run predicts ") for card in content["cards"])
    file = tmp_path / "answers.csv"
    answered(record).to_csv(file, index=False)
    kept = apply_decisions(TensorDataset(images(), targets()), file)
    assert list(kept.indices) == [i for i in range(N) if i not in WRONG]


def test_numbers_of_answers_may_be_written_by_a_spreadsheet(tmp_path: Path) -> None:
    record = regressed(tmp_path, 1, scale=1e6)
    answers = answered(record, 12)
    assert answers["label"].str.contains("e\\+06").any()
    answers.to_csv(tmp_path / "answers.csv", index=False)
    read = pd.read_csv(tmp_path / "answers.csv")  # whose numbers are floats
    assert read["label"].dtype == np.float64
    assert audit(record, read).noise_rate == audit(record, answers).noise_rate
    read.to_csv(tmp_path / "again.csv", index=False)
    assert audit(record, tmp_path / "again.csv").noise_rate == audit(record, answers).noise_rate
    data = TensorDataset(images(), targets() * 1e6)
    assert len(apply_decisions(data, tmp_path / "again.csv")) == N - int((answers["answer"] == "wrong").sum())


def test_several_numbers_are_asked_about_as_the_dataset_has_them(tmp_path: Path) -> None:
    record = regressed(tmp_path, 2)
    assert set(audit_plan(record, n=N)["label"]) == {""}
    with pytest.raises(
        ValueError, match="all labels of the samples of the audit, got none: this record keeps one label"
    ):
        write_audit(record, tmp_path / "audit.html", n=4)
    data = TensorDataset(images(), targets(2))
    for card in content_of(write_audit(record, tmp_path / "audit.html", n=4, dataset=data))["cards"]:
        x, y = targets(2)[int(card["id"])].tolist()
        assert card["given"] == f"x: {x:.6g}, y: {y:.6g}"
        assert card["label"] == checksum(targets(2)[int(card["id"])])


def checksum(labels: torch.Tensor) -> str:
    """Of the shape and the numbers in float64, as a file of answers has it."""
    shape, values = str(tuple(labels.shape)), [float(value) for value in labels.flatten()]
    return f"checksum {zlib.crc32(shape.encode() + struct.pack(f'<{len(values)}d', *values)):08x}"


def test_tokens_are_asked_about_with_the_tag_of_each(tmp_path: Path) -> None:
    run(tmp_path, Tagger(), TrainingDynamicsMonitor(class_names=["noun", "verb", "other"]), max_epochs=2)
    record = load_record(tmp_path)
    words, given = tagged().tensors[:2]
    content = content_of(write_audit(record, tmp_path / "audit.html", n=5, dataset=tagged()))
    for card in content["cards"]:
        sample = int(card["id"])
        counted = [t for t in range(len(given[sample])) if given[sample, t] >= 0]
        expected = [[str(int(words[sample, t])), ["noun", "verb", "other"][given[sample, t]]] for t in counted]
        assert [pair for pair in card["tokens"] if pair[1]] == expected
        assert "text" not in card  # with the doubtful token in brackets it would lead the answer
        assert card["opinion"].startswith("the run is least sure of token ")
    assert 0 <= audit(record, answered(record, 6)).noise_rate.value <= 1


def test_masks_are_asked_about_beside_their_pictures(tmp_path: Path) -> None:
    data = TensorDataset(images(), masks())
    run(tmp_path, Segmenter(), TrainingDynamicsMonitor(), data=data, max_epochs=2)
    record = load_record(tmp_path)
    assert main(["audit", str(tmp_path), "--n", "3"]) != 0  # without the dataset nothing could be asked
    content = content_of(write_audit(record, tmp_path / "audit.html", n=3, dataset=data))
    for card in content["cards"]:
        assert legend_of(card) == expected_legend(masks()[int(card["id"])])
        assert "picture" in card


def answered_page(page: Path) -> str:
    """The file that the page exports if every answer is "wrong"."""
    cards = content_of(page)["cards"]
    rows = [",".join([card["id"], card["label"], "wrong", "", str(card["rest"][0])]) for card in cards]
    return "\n".join(["sample_id,label,answer,new_label,probability", *rows, ""])


@pytest.mark.parametrize("kind", ["tokens", "pixels"])
def test_answers_about_tokens_or_pixels_are_refused_if_these_have_other_labels_by_now(
    tmp_path: Path, kind: str
) -> None:
    data = tagged() if kind == "tokens" else TensorDataset(images(), masks())
    run(tmp_path, Tagger() if kind == "tokens" else Segmenter(), TrainingDynamicsMonitor(), data=data, max_epochs=2)
    record, answers = load_record(tmp_path), tmp_path / "answers.csv"
    page = write_audit(record, tmp_path / "audit.html", n=5, dataset=data)
    answers.write_text(answered_page(page))
    cards = content_of(page)["cards"]
    assert [card["label"] for card in cards] == [checksum(data.tensors[1][int(card["id"])]) for card in cards]
    assert {card["given"] for card in cards} == {""}  # which the question shows
    asked = sorted(int(card["id"]) for card in cards)
    assert audit(record, answers).wrong == 5
    decided = apply_decisions(data, answers)
    assert decided.indices == [i for i in range(N) if i not in asked]

    inputs, given, *rest = data.tensors
    corrected = given.clone()
    flat = corrected[asked[0]].view(-1)
    flat[int((flat >= 0).nonzero()[0])] += 1
    with pytest.raises(ValueError, match=f"got 1 that do not.*\nline .: sample {asked[0]} has other labels than"):
        apply_decisions(TensorDataset(inputs, corrected, *rest), answers)
    moved = Subset(TensorDataset(inputs, given, *rest), [*range(1, N), 0])
    with pytest.raises(ValueError, match="has other labels than those that were looked at"):
        apply_decisions(moved, answers)


class Flipped(TensorDataset):
    """Pictures and masks that are flipped at random."""

    def __getitem__(self, index: int) -> Any:
        axis = [-1] if torch.rand(()) < 0.5 else []
        return tuple(part[index].flip(axis) for part in self.tensors)


def test_labels_that_change_from_read_to_read_are_not_compared(tmp_path: Path) -> None:
    data = TensorDataset(images(), masks())
    run(tmp_path, Segmenter(), TrainingDynamicsMonitor(), data=data, max_epochs=2)
    record, answers, flipped = load_record(tmp_path), tmp_path / "answers.csv", Flipped(images(), masks())
    torch.manual_seed(0)
    page = write_audit(record, tmp_path / "random.html", n=9, dataset=flipped)
    assert {card["label"] for card in content_of(page)["cards"]} == {""}
    answers.write_text(answered_page(write_audit(record, tmp_path / "audit.html", n=9, dataset=data)))
    with pytest.warns(UserWarning, match="Expected a dataset whose samples have the same labels each time"):
        assert len(apply_decisions(flipped, answers)) == N - 9


def legend_of(card: dict[str, Any]) -> list[str]:
    return [name for _, name in card["legend"]]


def expected_legend(mask: torch.Tensor) -> list[str]:
    there = sorted(set(mask.flatten().tolist()) - {0, -100})
    return [str(label) for label in there] + ["ignored"] * bool((mask < 0).any())


def test_items_that_cannot_be_shown_are_reported() -> None:
    with pytest.raises(ValueError, match=r"as many labels as tokens .* got 3 labels and 2 tokens"):
        tagged_words((["a", "b"], [0, 1, 0]), None)
    with pytest.raises(ValueError, match=r"a mask of shape \(H, W\) or \(K, H, W\) .* got labels of the shape \(2,\)"):
        areas_of(("picture", [0, 1]))
    with pytest.raises(ValueError, match="where the label stands in a sample"):
        number_words({"image": 1}, None)


def test_labels_of_tokens_and_of_pixels_are_shown_by_name() -> None:
    several = np.array([[1, 0], [1, 1], [0, 0]])
    item = {"tokens": ["big", "Paris", "."], "ner_tags": several}
    assert tagged_words(item, ["adjective", "place"]) == [["big", "adjective"], ["Paris", "adjective+place"], [".", ""]]
    overlapping = torch.zeros(3, 2, 2)
    overlapping[1, 0, 0] = overlapping[2, 0] = 1
    soft = areas_of(("picture", [[[0.0, 0.2, 0.9, 1.0]]]))
    assert {label: area.tolist() for label, area in soft.items()} == {1: [[False, False, True, True]]}
    areas = areas_of({"image": 0, "mask": overlapping})
    assert {label: area.tolist() for label, area in areas.items()} == {
        1: [[True, False], [False, False]],
        2: [[True, True], [False, False]],
    }


def test_smoothed_labels_are_shown_from_one_half_on() -> None:
    tags = np.array([[0.95, 0.05], [0.05, 0.05]])
    assert tagged_words((["Paris", "is"], tags), ["place", "verb"]) == [["Paris", "place"], ["is", ""]]
    masks = np.array([[[0.95, 0.05]], [[0.05, 0.05]]])
    assert {label: area.tolist() for label, area in areas_of(("picture", masks)).items()} == {0: [[True, False]]}


def test_areas_are_painted_beside_the_picture() -> None:
    from dynalens.pictures import AREAS, beside_areas

    area = np.array([[True, False], [False, False]])
    both = np.asarray(beside_areas(Image.new("L", (2, 2), 100), [(area, AREAS[0])], side=4))
    assert both.shape == (4, 16, 3)  # twice the width, and a gap
    assert (both[:, :4] == 100).all()
    expected = np.round(0.4 * 100 + 0.6 * np.array(AREAS[0]))
    assert (both[:2, 12:14] == expected).all()
    assert (both[2:, 12:] == 100).all()
