"""Every example runs, on small data."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.filterwarnings("ignore:Starting from v1.9.0")


def run(name: str, *arguments: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](arguments)


def test_find_mislabeled_digits_finds_most_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("find_mislabeled_digits.py", "--epochs", "3", "--out", str(tmp_path))
    out = capsys.readouterr().out
    found, flipped, top = re.findall(r"(\d+) of (\d+) flipped labels are among the (\d+) most suspicious", out)[0]
    assert int(flipped) == int(top) == 63
    assert int(found) > 40
    assert len(re.findall(r"^\d+ +\d +\d +-?[\d.]+$", out, flags=re.MULTILINE)) == 20
    assert len(re.findall(r"^Test accuracy .*: 0\.\d{3}$", out, flags=re.MULTILINE)) == 2
    folder = tmp_path / re.findall(r"tensorboard --logdir (\S+)", out)[0]
    assert list(folder.glob("events.*"))


@pytest.mark.parametrize("shape", [(60, 8, 8), (60, 8, 8, 3)])
def test_find_mislabeled_digits_takes_other_arrays(
    tmp_path: Path, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", images=rng.integers(0, 256, shape, dtype=np.uint8), labels=np.arange(60) % 3)
    arguments = ["--data", str(tmp_path / "a.npz"), "--epochs", "1", "--noise", "0.2", "--out", str(tmp_path)]
    run("find_mislabeled_digits.py", *arguments)
    assert "of 8 flipped labels are among the 2 most suspicious of 42" in capsys.readouterr().out


def test_clean_and_retrain_compares_all_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("clean_and_retrain.py", "--epochs", "2", "--seeds", "2", "--samples", "200", "--out", str(tmp_path))
    out = capsys.readouterr().out
    gains = re.findall(r"^(\D+?) +0\.\d{3}   ([+-]0\.\d{3}) \+- (\d+\.\d{3})$", out, flags=re.MULTILINE)
    assert [name for name, *_ in gains] == [
        "as given", "flagged left out", "weighted", "flagged relabelled", "as many left out at random",
        "exactly the wrong left out",
    ]  # fmt: skip
    assert gains[0][1:] == ("+0.000", "0.000")
    assert len(re.findall(r"^seed \d: \d+ of 140 flagged, noise rate 0\.\d{3}", out, flags=re.MULTILINE)) == 2
    assert (tmp_path / "seed_1" / "record.npz").exists()
