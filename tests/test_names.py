"""Names of files and classes have whatever letters: bytes that are no UTF-8, formulas, escape sequences."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch.utils.data import TensorDataset

from dynalens import TrainingDynamicsMonitor, apply_decisions, audit, load_record, similar_samples
from dynalens.auditing import read_answers
from dynalens.cli import main
from dynalens.report import write_audit, write_report
from dynalens.text import escaped, inert, plain, printable
from test_report import content_of
from training import Classifier, N, dataset, fit, images, labels, loader

NAMES = ["caf\udce9.png", "=1+1", "+1", "-1", "@sum", "\tx", "\rx", "\x1b[31mred\x1b[0m", "a\nb", "ä.png", "'tis.png"]
CELLS = ["caf\\udce9.png", "'=1+1", "'+1", "'-1", "'@sum", "\\tx", "\\rx"]
CLASSES = ["=class\udcff", "\x1b]0;title\x07", "c"]


IDS = [f"{name}{i}" for i, name in enumerate([*NAMES, "'=1", *NAMES][:N])]


def numbered(name: str, number: int) -> str:
    """Return a name of its own, with the number before the ending."""
    stem, dot, ending = name.partition(".")
    return f"{stem}{number}{dot}{ending}"


def odd() -> Any:
    data = dataset()
    data.samples = [(numbered(NAMES[i % len(NAMES)], i), 0) for i in range(N)]  # type: ignore[attr-defined]  # as image folders
    data.classes = CLASSES  # type: ignore[attr-defined]
    return data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingDynamicsMonitor]:
    folder, monitor = tmp_path_factory.mktemp("{{content}}"), TrainingDynamicsMonitor()
    fit(folder, monitor, data=lambda: loader(odd()), max_epochs=2)
    return folder, monitor


def test_tables_hold_odd_names_escaped_and_the_record_as_they_are(run: tuple[Path, TrainingDynamicsMonitor]) -> None:
    folder, monitor = run
    record = load_record(folder)
    assert record.names() == [name for name, _ in odd().samples]
    assert record.meta.class_names == CLASSES
    for table in (monitor.table(), record.table()):
        assert table["name"][0] == "caf\\udce90.png"
        assert table["name"][1] == "=1+11"
        assert set(table["label_name"]) == {"=class\\udcff", *CLASSES[1:]}
    assert len(monitor.suspects()) == len(record.suspects()) == N


class Identified(TensorDataset):
    def __getitem__(self, i: Any) -> Any:
        return {"x": self.tensors[0][i], "y": self.tensors[1][i], "id": IDS[i]}


class OfDicts(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["x"], batch["y"]), batch_idx)


@pytest.fixture(scope="module")
def identified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identified")
    data = Identified(images(), labels())
    monitor = TrainingDynamicsMonitor(index="id", features="net.0", similar=2)
    fit(folder, monitor, model=OfDicts(), data=lambda: loader(data), max_epochs=2)
    return folder


@pytest.mark.parametrize("source", ["page", "table", "file", "terminal"])
def test_answers_about_odd_ids_are_found_wherever_the_ids_were_read(
    identified: Path, tmp_path: Path, source: str
) -> None:
    record = load_record(identified)
    plan = record.audit_plan(N)
    cards = content_of(write_audit(record, tmp_path / "audit.html", n=N))["cards"]
    assert [card["id"] for card in cards] == plan["sample_id"].tolist()
    cells: dict[str, Callable[[str], str]] = {"page": cell_of_page, "table": str, "file": inert, "terminal": printable}
    ids = [cells[source](sample) for sample in plan["sample_id"]]
    answers = pd.DataFrame({"sample_id": ids, "label": plan["label"], "answer": ["wrong"] * 5 + ["right"] * (N - 5)})
    answers.to_csv(tmp_path / "answers.csv", index=False, quoting=csv.QUOTE_ALL)  # as the page writes them
    table = audit(record, answers if source == "table" else tmp_path / "answers.csv").table()
    shown = [escaped(sample) for sample in IDS]
    assert [labels()[shown.index(sample)] for sample in plan["sample_id"]] == plan["label"].tolist()
    assert table["answer"].loc[plan["sample_id"]].tolist() == answers["answer"].tolist()
    assert (table["answer"] != "").sum() == N


def cell_of_page(sample: str) -> str:
    """Return the cell that the page's `csvOf` writes."""
    return f"'{sample}" if re.match(r"'*[=+\-@\t\r]", sample) else sample


def test_ids_that_look_alike_in_a_terminal_are_told_by_exact_letters_alone() -> None:
    alike: dict[str, Any] = {"sample_ids": ["\t1", "\\t1"], "labels": np.array([0, 1])}
    exact = read_answers(pd.DataFrame({"sample_id": ["\\t1"], "answer": ["right"]}), **alike)
    assert exact.rows.tolist() == [1]
    with pytest.raises(ValueError, match="Expected `answers` to name samples of this record"):
        read_answers(pd.DataFrame({"sample_id": [" \\t1"], "answer": ["right"]}), **alike)


def test_similar_samples_of_odd_ids_are_found(identified: Path, tmp_path: Path) -> None:
    record = load_record(identified)
    vectors = {sample: images()[i].flatten().numpy() for i, sample in enumerate(IDS)}
    similar = similar_samples(record, vectors, 5, k=2)
    assert similar.index.tolist() == record.suspects(5).index.tolist()
    shown = [escaped(sample) for sample in IDS]
    for sample, near in zip(similar.index.tolist(), similar["similar_given"], strict=True):
        given = labels()[shown.index(sample)]
        assert near
        assert all(labels()[shown.index(other)] == given for other in near)
    page = content_of(write_report(record, tmp_path / "report.html", embeddings=vectors))
    assert {card["id"] for card in page["cards"]} == set(shown)
    assert all(card["label"] == labels()[shown.index(card["id"])] for card in page["cards"])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_no_cell_of_a_csv_file_is_a_formula(run: tuple[Path, TrainingDynamicsMonitor], tmp_path: Path) -> None:
    folder, _ = run
    assert main(["suspects", str(folder), "--precision", "0.01", "--csv", str(tmp_path / "suspects.csv")]) == 0
    other = shutil.copytree(folder, tmp_path / "other")
    assert main(["compare", str(folder), str(other), "--csv", str(tmp_path / "compared.csv")]) == 0
    everything = rows_of(folder / "dynalens" / "samples.csv")
    for rows in (everything, rows_of(tmp_path / "suspects.csv"), rows_of(tmp_path / "compared.csv")):
        texts = [row[name] for row in rows for name in row if name.endswith("name")]
        assert texts
        assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r"))]
    names = {row["name"] for row in everything}
    assert names >= {numbered(cell, i) for i, cell in enumerate(CELLS)}
    assert "'tis10.png" in names


def test_no_letter_of_a_name_reaches_the_terminal_as_a_command(
    run: tuple[Path, TrainingDynamicsMonitor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    other = shutil.copytree(folder, tmp_path / "other")
    for command in (["suspects", str(folder), "--precision", "0.01"], ["compare", str(folder), str(other)]):
        assert main([*command, "--top", "99"]) == 0
        said = capsys.readouterr().out
        assert r"\x1b[31mred\x1b[0m" in said
        assert not set(said) & {"\x1b", "\r", "\t", "\x07"}
        said.encode()
    assert main(["suspects", "\x1b[31m\udcff"]) == 2
    assert r"\x1b[31m\udcff" in capsys.readouterr().err
    assert main(["suspects", str(folder), "--class-pair", "\x1b", "c"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_exports_hold_odd_names(run: tuple[Path, TrainingDynamicsMonitor], tmp_path: Path) -> None:
    folder, _ = run
    files = {kind: tmp_path / f"{kind}.json" for kind in ("json", "label-studio", "fiftyone")}
    options = [text for kind, path in files.items() for text in (f"--{kind}", str(path))]
    assert main(["suspects", str(folder), "--precision", "0.01", *options]) == 0
    rows = {kind: json.loads(path.read_text(encoding="utf-8")) for kind, path in files.items()}
    assert "caf\\udce90.png" in {row["name"] for row in rows["json"]}
    assert "caf\\udce90.png" in {task["data"]["image"] for task in rows["label-studio"]}
    assert set(rows["fiftyone"]["classes"]) == {"=class\\udcff", *CLASSES[1:]}


def test_a_page_of_odd_names_gives_decisions_that_are_found_again(
    run: tuple[Path, TrainingDynamicsMonitor], tmp_path: Path
) -> None:
    content = content_of(write_report(load_record(run[0]), tmp_path / "{{content}}.html"))
    cards = {card["id"]: card for card in content["cards"]}
    assert (cards["0"]["name"], cards["1"]["name"]) == ("caf\\udce90.png", "=1+11")
    label, names = cards["0"]["label"], content["names"]
    new = (label + 1) % 3
    row = {"sample_id": 5, "label": label, "decision": "relabel", "new_label": new, "new_label_name": names[new]}
    frame = pd.DataFrame([row | {"name": cards["0"]["name"]}])  # the name counts, not the position
    frame.to_csv(tmp_path / "decisions.csv", index=False)
    assert int(apply_decisions(odd(), tmp_path / "decisions.csv")[0][1]) == new


@pytest.mark.parametrize("name", [*NAMES, "'=x", "''-1", "'", "''"])
def test_a_name_is_what_its_cell_says(name: str) -> None:
    assert plain(inert(name)) == printable(name)
