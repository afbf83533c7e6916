"""Names of files and classes have whatever letters: bytes that are no UTF-8, formulas, escape sequences."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dynalens import TrainingDynamicsMonitor, apply_decisions, load_record
from dynalens.cli import main
from dynalens.report import write_report
from test_report import content_of
from training import N, dataset, fit, loader

NAMES = ["caf\udce9.png", "=1+1", "+1", "-1", "@sum", "\tx", "\rx", "\x1b[31mred\x1b[0m", "a\nb", "ä.png", "'tis.png"]
CELLS = ["caf\\udce9.png", "'=1+1", "'+1", "'-1", "'@sum", "'\\tx", "'\\rx"]
CLASSES = ["=class\udcff", "\x1b]0;title\x07", "c"]


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


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_no_cell_of_a_csv_file_is_a_formula(run: tuple[Path, TrainingDynamicsMonitor], tmp_path: Path) -> None:
    folder, _ = run
    assert main(["suspects", str(folder), "--precision", "0.01", "--csv", str(tmp_path / "suspects.csv")]) == 0
    assert main(["compare", str(folder), str(folder), "--csv", str(tmp_path / "compared.csv")]) == 0
    everything = rows_of(folder / "dynalens" / "samples.csv")
    for rows in (everything, rows_of(tmp_path / "suspects.csv"), rows_of(tmp_path / "compared.csv")):
        texts = [row[name] for row in rows for name in row if name.endswith("name")]
        assert texts
        assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r"))]
    names = {row["name"] for row in everything}
    assert names >= {numbered(cell, i) for i, cell in enumerate(CELLS)}
    assert "'tis10.png" in names


def test_no_letter_of_a_name_reaches_the_terminal_as_a_command(
    run: tuple[Path, TrainingDynamicsMonitor], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    for command in (["suspects", str(folder), "--precision", "0.01"], ["compare", str(folder), str(folder)]):
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
    files = {kind: tmp_path / kind for kind in ("json", "label-studio", "fiftyone")}
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
