"""Where names are those of picture files, pages show these without a dataset."""

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dynalens import Record, TrainingDynamicsMonitor, load_record
from dynalens.cli import main
from dynalens.report import write_audit, write_report
from dynalens.report.samples import picture_in_file
from test_report import content_of
from training import N, dataset, fit, loader


def colour(i: int) -> tuple[int, int, int]:
    return (4 * i, 255 - 4 * i, 128)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """A run on samples that are named after files, as an ImageFolder's are, in the folder where it was trained."""
    (tmp_path / "photos").mkdir()
    for i in range(N):
        Image.new("RGB", (300, 200), colour(i)).save(tmp_path / "photos" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    data = dataset()
    data.samples = [(f"photos/{i}.png", 0) for i in range(N)]  # type: ignore[attr-defined]  # as image folders
    fit(tmp_path / "run", TrainingDynamicsMonitor(top_k=1), data=lambda: loader(data), max_epochs=2)
    return load_record(tmp_path / "run")


def shown(uri: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"), int)


def test_an_audit_shows_the_file_of_each_sample(record: Record, tmp_path: Path) -> None:
    cards = content_of(write_audit(record, tmp_path / "audit.html", n=N))["cards"]
    assert len(cards) == N
    for card in cards:
        picture = shown(card["picture"])
        assert picture.shape == (200, 300, 3)
        assert np.abs(picture - colour(int(card["id"]))).max() <= 4  # JPEG


def test_a_report_shows_the_file_of_each_suspect(record: Record, tmp_path: Path) -> None:
    cards = content_of(write_report(record, tmp_path / "report.html"))["cards"]
    assert cards
    for card in cards:
        assert np.abs(shown(card["picture"]) - colour(int(card["id"]))).max() <= 4


def test_a_file_that_is_gone_is_replaced_by_what_was_kept_and_the_command_counts_the_others(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(record.folder)
    assert main(["audit", run, "--n", str(N)]) == 0
    assert "neither picture nor text" not in capsys.readouterr().out
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    kept = record.pictures()
    cards = content_of(write_audit(record, tmp_path / "audit.html", n=N))["cards"]
    assert {int(card["id"]) for card in cards if "picture" in card} == set(kept) != set(range(N))
    assert main(["audit", run, "--n", str(N)]) == 0
    output = capsys.readouterr().out
    assert f"{N - len(kept)} of {N} samples have neither picture nor text on the page. If they are named" in output


def test_names_that_are_no_pictures_are_not_read(record: Record, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "cut.png").write_bytes((tmp_path / "photos" / "0.png").read_bytes()[:60])
    names = [
        "text.png",
        "secret.txt",
        "script.png",
        "bomb.png",
        "folder.png",
        "cut.png",
        "gone.png",
        "a\0.png",
        "\ud800.png",
    ]
    assert [picture_in_file(name) for name in names] == [None] * len(names)
    odd = replace(record, sample_names=[*names, *[""] * (N - len(names))])
    kept = record.pictures()
    cards = content_of(write_audit(odd, tmp_path / "audit.html", n=N))["cards"]
    assert {int(card["id"]) for card in cards if "picture" in card} == set(kept)


def test_a_large_photograph_is_read_smaller(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000), (10, 20, 30)).save(tmp_path / "photo.JPG", "JPEG")
    picture = picture_in_file(str(tmp_path / "photo.JPG"))
    assert picture is not None
    assert 1000 <= max(picture.size) < 4000
    assert picture.size[0] * 3 == picture.size[1] * 4
