"""The page holds what the record says, whatever names hold; exports are what their readers expect."""

import base64
import io
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

from dynalens import Record, TrainingDynamicsMonitor, load_record
from dynalens.cli import main
from dynalens.dynamics import SampleStatistics, TrainingDynamics
from dynalens.record import RecordMeta, audit_command
from dynalens.report import to_fiftyone, to_json, to_label_studio, write_audit, write_report
from dynalens.report.items import DatasetPictures, as_image, as_text
from dynalens.suspicion import NoiseRate
from training import K, N, dataset, fit, loader

EVIL = ["</script><script>document.title='owned'</script>", '"><img src=x onerror=alert(1)>', 'a,b\n"c" {{content}}']


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("run")
    fit(folder, TrainingDynamicsMonitor(class_names=EVIL))
    return load_record(folder)


def content_of(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', text, flags=re.DOTALL)
    content = json.loads(found)
    assert isinstance(content, dict)
    return content


def image_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_the_page_holds_the_suspects_worst_first_and_the_summary(record: Record, tmp_path: Path) -> None:
    content = content_of(write_report(record, tmp_path / "report.html"))
    worst = record.table().sort_values("rank")
    assert [card["id"] for card in content["cards"]] == [str(i) for i in worst.index]
    assert [card["label"] for card in content["cards"]] == worst["label"].tolist()
    assert [card["wrong"] for card in content["cards"]] == pytest.approx(worst["wrong_probability"].tolist(), abs=1e-4)
    assert content["epochs"] == [0, 2]
    history = dict(record.history())
    for card in content["cards"]:
        expected = [100 * float(h["p_label"][h["index"] == int(card["id"])][-1]) for h in history.values()]
        assert card["trace"] == pytest.approx(expected, abs=0.5)
    summary = dict(content["summary"])
    assert (summary["samples"], summary["epochs"]) == (f"{N}", "3")
    assert summary["flagged"].startswith(f"{int(worst['flagged'].sum())} (")
    assert summary["training accuracy, last epoch"] == f"{100 * (history[2]['margin'] > 0).mean():.1f} %"
    assert [name for name, _ in content["charts"]][:2] == ["data map", "margins"]
    assert all(image_of(uri).width == 350 for _, uri in content["charts"])


def test_names_are_text_and_nothing_is_fetched(record: Record, tmp_path: Path) -> None:
    path = write_report(record, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert content_of(path)["names"] == EVIL
    assert text.count("</script>") == 2
    assert "default-src 'none'" in text
    # The name of SVG is no address.
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it, of #rgb or #rrggbb."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_of_the_pages_are_told_from_what_they_lie_on(record: Record, tmp_path: Path) -> None:
    page = write_report(record, tmp_path / "page.html").read_text(encoding="utf-8")
    designs = [
        dict(re.findall(r"--([\w-]+): #(\w+)", part)) for part in re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    ]
    assert len(designs) == 2  # light and dark
    grounds = ("paper", "ground")
    pairs = {(text, ground): 4.5 for text in ("ink", "faint", "given", "suggested") for ground in grounds}
    pairs |= {("ink", "field"): 4.5, ("given", "field"): 4.5, ("on-main", "main"): 4.5}  # SC 1.4.3
    pairs |= {(border, ground): 3 for border in ("edge", "current") for ground in grounds}  # SC 1.4.11
    for colours in designs:
        for (front, back), least in pairs.items():
            darker, lighter = sorted(luminance(colours[name]) for name in (front, back))
            assert (lighter + 0.05) / (darker + 0.05) >= least, (front, back)


def test_pages_say_that_they_need_scripts(record: Record, tmp_path: Path) -> None:
    for write in (write_report, write_audit):  # a notebook server runs none in a file that it was not told to trust
        text = write(record, tmp_path / "page.html").read_text(encoding="utf-8")
        assert "<noscript>This page needs JavaScript" in text


def test_pictures_are_those_kept_while_training_or_of_the_dataset(record: Record, tmp_path: Path) -> None:
    kept = content_of(write_report(record, tmp_path / "kept.html"))["cards"]
    for card in kept:
        stored = record.pictures().get(int(card["id"]))
        assert ("picture" in card) == (stored is not None)
        if stored is not None:
            assert np.array_equal(np.asarray(image_of(card["picture"])), stored)
    data = [(torch.full((3, 40, 80), i / N), 0) for i in range(N)]
    shown = content_of(write_report(record, tmp_path / "data.html", dataset=data))["cards"]
    for card in shown:
        with image_of(card["picture"]) as picture:
            assert picture.size == (80, 40)
            assert np.asarray(picture).mean() == pytest.approx(255 * int(card["id"]) / N, abs=1.5)


def test_a_page_counts_the_cards_without_a_picture_and_says_what_helps(record: Record, tmp_path: Path) -> None:
    picture = Image.new("RGB", (5, 3))
    picture.save(tmp_path / "there.png")
    named = replace(record, sample_names=[str(tmp_path / "there.png"), *["gone.png"] * (N - 1)], find_pictures=dict)
    missing = content_of(write_report(named, tmp_path / "r.html"))["missing"]
    assert missing.startswith(
        f"{N - 1} of {N} cards have neither picture nor text. If they are named after picture files, "
    )
    unnamed = replace(record, find_pictures=dict)
    assert "named" not in content_of(write_report(unnamed, tmp_path / "r.html"))["missing"]
    data = [(picture, 0)] * N
    assert content_of(write_report(unnamed, tmp_path / "r.html", dataset=data))["missing"] == ""


def test_large_pictures_are_made_small_and_many_cards_are_limited(record: Record, tmp_path: Path) -> None:
    data = [(Image.new("RGB", (600, 300), (i, 0, 0)), 0) for i in range(N)]
    cards = content_of(write_report(record, tmp_path / "r.html", dataset=data, limit=3))["cards"]
    assert len(cards) == 3
    assert {image_of(card["picture"]).size for card in cards} == {(256, 128)}


@pytest.mark.parametrize(
    ("item", "size"),
    [
        (Image.new("L", (5, 3)), (5, 3)),
        ((np.zeros((3, 5), np.uint8), 0), (5, 3)),
        ([np.zeros((3, 5, 3), np.uint8)], (5, 3)),
        ({"pixel_values": torch.zeros(1, 3, 5), "label": 0}, (5, 3)),
        ((torch.zeros(4, 5, 3), 0), (5, 4)),  # channels last
        ((torch.zeros(2, 50), 0), (160, 120)),  # a signal
        ((torch.zeros(1, 4, 3, 5), 0), (5, 3)),  # a volume
    ],
)
def test_items_of_many_forms_are_pictures(item: Any, size: tuple[int, int]) -> None:
    picture = as_image(item, None)
    assert picture is not None
    assert picture.size == size


def test_texts_and_rows_are_shown_in_words_where_there_is_no_picture(record: Record, tmp_path: Path) -> None:
    texts = [(f"review {i}", 0) for i in range(N)]
    cards = content_of(write_report(record, tmp_path / "texts.html", dataset=texts))["cards"]
    assert [card["text"] for card in cards] == [f"review {card['id']}" for card in cards]
    rows = [(torch.tensor([float(i), 0.25]), 0) for i in range(N)]
    cards = content_of(write_report(record, tmp_path / "rows.html", dataset=rows))["cards"]
    assert [card["text"] for card in cards] == [f"0: {card['id']}, 1: 0.25" for card in cards]
    assert as_text((torch.tensor([30522, 101]), 0)) == "30522, 101"
    assert as_text((torch.arange(61), 0)) == ", ".join(map(str, range(60))) + ", ..."
    assert as_text({"image": torch.zeros(3, 4, 4)}) is as_text([]) is as_text((torch.zeros(2, 2), 0)) is None


def test_a_command_names_a_folder_as_a_shell_takes_it(record: Record) -> None:
    for folder, words in ((Path("my run/dynalens"), "'my run'"), (Path("runs/7"), "runs/7"), (None, "RUN")):
        assert audit_command(record.statistics, folder) == f"dynalens audit {words}"


def test_a_folder_with_the_name_of_a_placeholder_is_a_title_like_any_other(record: Record, tmp_path: Path) -> None:
    named = replace(record, folder=tmp_path / "{{content}} {{script}}" / "dynalens")
    path = write_report(named, tmp_path / "r.html")
    assert "<title>dynalens: {{content}} {{script}}</title>" in path.read_text(encoding="utf-8")
    assert content_of(path)["names"] == EVIL


@pytest.mark.parametrize("item", ["text", (3, 0), (), {"words": [1]}, (torch.zeros(7), 0)])
def test_items_that_are_none_have_none(item: Any) -> None:
    assert as_image(item, None) is None
    assert DatasetPictures([item]).thumbnail(0, 64) is None


def test_file_names_come_from_the_dataset_below_its_subsets() -> None:
    folder: Any = SimpleNamespace(samples=[("/data/cat/<1>.png", 0), ("/data/dog/2.png", 1)])
    assert DatasetPictures(Subset(folder, [1, 0])).file_name(1) == "<1>.png"
    assert DatasetPictures(folder).file_name(5) == ""
    assert DatasetPictures(dataset()).file_name(0) == ""


def test_the_estimated_noise_rate_is_in_the_summary(record: Record, tmp_path: Path) -> None:
    class Estimates(Record):
        def assess(self) -> Any:
            return replace(super().assess(), noise_rate=NoiseRate(low=0.01, value=0.05, high=0.1))

    estimating = Estimates(**{name: getattr(record, name) for name in record.__dataclass_fields__})
    summary = dict(content_of(write_report(estimating, tmp_path / "r.html"))["summary"])
    assert summary["estimated noise rate, from the run alone"] == "5.0 % (between 1.0 % and 10.0 %)"


def test_the_page_does_not_say_where_to_stop_if_no_answer_is_wrong(record: Record, tmp_path: Path) -> None:
    answers = record.audit_plan(3).assign(answer="right")
    note = content_of(write_report(record, tmp_path / "report.html", answers=answers))["note"]
    assert note.endswith("on 3 answers. None of them is wrong, so they do not say where you may stop looking.")


def test_answers_of_an_audit_calibrate_the_page_and_say_where_to_stop(record: Record, tmp_path: Path) -> None:
    plan = record.audit_plan(N)
    worst = set(record.suspects(6).index)
    plan["answer"] = ["wrong" if i in worst else "right" for i in plan["sample_id"]]  # all samples are answered
    content = content_of(write_report(record, tmp_path / "audited.html", answers=plan))
    share = f"{100 * 6 / N:.1f} %"
    assert (
        dict(content["summary"])["noise rate, from an audit"] == f"{share} (95 % interval between {share} and {share})"
    )
    assert f"calibrated on {N} answers." in content["note"]
    assert "90 % of the wrong labels are among the first 6 samples of the order" in content["note"]
    assert [card["wrong"] for card in content["cards"]] == [1.0] * 6
    n, low, value, high = content["found"][-1]
    assert (n, low, value, high) == (N, 6, 6, 6)


def test_a_card_says_what_was_answered_about_its_sample(record: Record, tmp_path: Path) -> None:
    plan = record.audit_plan(N)
    named, wrong, unsure = record.suspects(3).index
    plan["answer"], plan["new_label"] = plan["sample_id"].map({named: "wrong", wrong: "wrong", unsure: "unsure"}), None
    plan.loc[plan["sample_id"] == named, "new_label"] = 2
    named_classes = replace(record, meta=replace(record.meta, class_names=["cat", "dog", "owl"]))
    page = write_report(named_classes, tmp_path / "audited.html", answers=plan, limit=N)
    assert {card["id"]: card["answer"] for card in content_of(page)["cards"] if "answer" in card} == {
        str(named): ["you answered: wrong", "right class: owl"],
        str(wrong): ["you answered: wrong"],
        str(unsure): ["you answered: unsure"],
    }


def test_a_page_with_fewer_suspects_than_to_look_at_says_how_to_see_them_all(record: Record, tmp_path: Path) -> None:
    plan = record.audit_plan(N)
    plan["answer"] = "wrong"  # 90 % of N = 22 wrong labels are 19.8
    few = content_of(write_report(record, tmp_path / "few.html", answers=plan, limit=5))
    assert few["note"].endswith("This page shows 5: dynalens report RUN --answers FILE --limit 20 shows all of them.")
    enough = content_of(write_report(record, tmp_path / "enough.html", answers=plan, limit=20))
    assert len(enough["cards"]) == 20
    assert enough["note"].endswith("first 20 samples of the order: you may stop looking after these.")


def test_more_suspects_than_are_flagged_are_shown_if_asked_for(tmp_path: Path) -> None:
    sample_count, flagged = 300, 3
    logits = torch.zeros(sample_count, 2)
    logits[:, 0] = 5
    dynamics = TrainingDynamics(sample_count)
    dynamics.update(range(sample_count), logits, (torch.arange(sample_count) < flagged).long())
    dynamics.end_epoch(0)
    meta = RecordMeta(num_samples=sample_count, epochs=[0])
    large = Record(statistics=dynamics.compute(), meta=meta, root_index=np.arange(sample_count))
    assert len(content_of(write_report(large, tmp_path / "r.html"))["cards"]) == 100
    assert len(content_of(write_report(large, tmp_path / "r.html", limit=250))["cards"]) == 250


def test_a_page_without_history_has_no_curves(tmp_path: Path) -> None:
    fit(tmp_path, TrainingDynamicsMonitor(history=False), max_epochs=1)
    content = content_of(write_report(load_record(tmp_path), tmp_path / "r.html"))
    assert content["names"] == [str(k) for k in range(K)]
    assert all(card["trace"] == [] for card in content["cards"])
    assert len(content["charts"]) == 4


def test_pictures_that_take_long_to_read_are_announced(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow(Dataset[Any]):
        def __getitem__(self, index: Any) -> Any:
            time.sleep(0.01)
            return dataset()[index]

        def __len__(self) -> int:
            return N

    write_report(record, tmp_path / "a.html", dataset=dataset())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("dynalens.notices.PATIENCE", 0.02)
    write_report(record, tmp_path / "b.html", dataset=Slow())
    assert f"dynalens: reading the pictures of {N} samples ...\n" in capsys.readouterr().err


def test_a_record_that_cannot_be_reported_is_refused(record: Record, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`limit` to be at least 1, got 0"):
        write_report(record, tmp_path / "r.html", limit=0)
    with pytest.raises(ValueError, match=f"{N} samples, got one of 3"):
        write_report(record, tmp_path / "r.html", dataset=[1, 2, 3])


def test_the_command_writes_into_the_run_and_takes_a_dataset(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mydata.py").write_text(
        "from training import dataset\n\nnumber = 3\n\ndef of(root):\n    return dataset()\n"
    )
    monkeypatch.chdir(tmp_path)
    path, run = list(sys.path), str(record.folder)
    assert main(["report", run]) == 0
    assert str(Path(run) / "report.html") in capsys.readouterr().out
    assert main(["report", run, "--data", "mydata:dataset", "--out", "x.html"]) == 0
    assert all("picture" in card for card in content_of(tmp_path / "x.html")["cards"])
    assert sys.path == path
    for name, message in (
        ("nowhere:dataset", "`--data` to name a module, got 'nowhere:dataset'"),
        ("mydata", "module:callable, got 'mydata'"),
        ("mydata:number", "Name a function"),
        ("mydata:dataste", "to name a callable, got 'mydata:dataste': the module mydata has no 'dataste'"),
        ("mydata:of", "without arguments, got 'mydata:of': missing a required argument: 'root'"),
    ):
        assert main(["report", run, "--data", name]) == 2
        assert message in capsys.readouterr().err


TABLE = pd.DataFrame(
    {
        "label": pd.array([0, 1], dtype="Int64"), "label_name": ["cat", "dog"],
        "suggested": pd.array([1, None], dtype="Int64"), "suggested_name": ["dog", None],
        "suggested_probability": [0.75, np.nan], "score": [2.5, -1.0],
    },
    index=pd.Index([7, 3], name="sample_id"),
)  # fmt: skip


def test_json_has_the_columns_and_null_for_what_is_missing(tmp_path: Path) -> None:
    rows = json.loads(to_json(TABLE, tmp_path / "s.json").read_text())
    assert rows[0] == {
        "sample_id": 7, "label": 0, "label_name": "cat", "suggested": 1, "suggested_name": "dog",
        "suggested_probability": 0.75, "score": 2.5,
    }  # fmt: skip
    assert rows[1]["suggested"] is rows[1]["suggested_probability"] is None


def test_label_studio_gets_tasks_with_the_suggestion_as_prediction(tmp_path: Path) -> None:
    tasks = json.loads(to_label_studio(TABLE, tmp_path / "l.json", files={7: "s3://b/7.png"}).read_text())
    assert tasks[0] == {
        "data": {"image": "s3://b/7.png", "sample_id": 7, "given": "cat", "suspicion": 2.5},
        "predictions": [
            {
                "model_version": "dynalens",
                "result": [
                    {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
                ],
                "score": 0.75,
            }
        ],
    }
    assert tasks[1]["data"]["image"] == "3"
    assert tasks[1]["predictions"] == [{"model_version": "dynalens", "result": []}]


def test_label_studio_gets_texts_of_samples_that_are_no_images(tmp_path: Path) -> None:
    tasks = json.loads(to_label_studio(TABLE, tmp_path / "l.json", texts={7: "a good film"}).read_text())
    assert [task["data"].pop("text") for task in tasks] == ["a good film", "3"]
    assert tasks[0]["predictions"][0]["result"] == [
        {"from_name": "choice", "to_name": "text", "type": "choices", "value": {"choices": ["dog"]}}
    ]


def test_fiftyone_gets_labels_by_file_with_the_rest_as_attributes(tmp_path: Path) -> None:
    labels = json.loads(to_fiftyone(TABLE, tmp_path / "f.json", files={7: "cats/a.b.png"}).read_text())
    assert labels["classes"] == ["cat", "dog"]
    assert labels["labels"] == {
        "cats/a.b": {"label": 0, "attributes": {"sample_id": 7, "suspicion": 2.5, "suggested": "dog"}},
        "3": {"label": 1, "attributes": {"sample_id": 3, "suspicion": -1.0, "suggested": None}},
    }

    with pytest.raises(ValueError, match=r"names without the ending.*got 'x' several times.*`files=`"):
        to_fiftyone(TABLE, tmp_path / "f.json", files={7: "x.png", 3: "x.jpg"})


def test_exports_name_the_suspicious_pixel(tmp_path: Path) -> None:
    table = TABLE.assign(unit=pd.array([21, None], dtype="Int64"), unit_row=pd.array([2, None], dtype="Int64"))
    tasks = json.loads(to_label_studio(table, tmp_path / "l.json").read_text())
    assert [(task["data"]["unit"], task["data"]["unit_row"]) for task in tasks] == [(21, 2), (None, None)]
    attributes = json.loads(to_fiftyone(table, tmp_path / "f.json").read_text())["labels"]["7"]["attributes"]
    assert (attributes["unit"], attributes["unit_row"]) == (21, 2)


def test_exports_take_a_real_table_without_class_names(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, data=loader)
    table = monitor.suspects()
    assert isinstance(monitor.statistics(), SampleStatistics)
    for export in (to_json, to_label_studio, to_fiftyone):
        assert json.loads(export(table, tmp_path / "out.json").read_text())


def test_a_dataset_gives_no_pictures_to_a_record_of_ids(record: Record, tmp_path: Path) -> None:
    ids = [f"{i}.png" for i in range(N)]
    of_ids = replace(record, sample_ids=np.array(ids))
    with pytest.raises(ValueError, match=r"by their position .* knows them by ids, .* Leave the dataset out"):
        write_report(of_ids, tmp_path / "r.html", dataset=dataset())
    cards = content_of(write_report(of_ids, tmp_path / "r.html"))["cards"]
    assert {card["id"] for card in cards} == set(ids)
    rows = {card["id"]: int(card["id"].removesuffix(".png")) for card in cards}
    kept = record.pictures()
    assert all(("picture" in card) == (rows[card["id"]] in kept) for card in cards)
