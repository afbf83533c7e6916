"""Every example runs, on small data."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import forked
from training import arrays_of

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Starting from v1.9.0")]


def run(name: str, *arguments: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](arguments)


def test_find_mislabeled_digits_finds_most_wrong_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("find_mislabeled_digits.py", "--epochs", "2", "--pairs", "2", "--out", str(tmp_path))
    out = capsys.readouterr().out
    number, top = re.findall(r"^Of the (\d+) most suspicious labels (\d+) are wrong", out, flags=re.MULTILINE)[0]
    assert int(number) == 377
    assert int(top) > 250
    assert len(re.findall(r"^\d+ +\d +\d +(?:>99|\d+) %$", out, flags=re.MULTILINE)) == 20
    assert len(re.findall(r"^pair \d of 2: 0\.\d{3} with all labels, 0\.\d{3} without", out, flags=re.MULTILINE)) == 2
    assert re.search(r"points \(95 % interval [+-]\d+\.\d to [+-]\d+\.\d, 2 pairs of trainings\)\.$", out, re.MULTILINE)
    folder = tmp_path / re.findall(r"tensorboard --logdir (\S+)", out)[0]
    assert list(folder.glob("events.*"))
    assert "neither picture nor text" not in (folder / "dynalens" / "report.html").read_text()


def test_roar_trains_again_on_what_each_map_leaves_and_draws_both_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--epochs", "1", "--seeds", "1", "--samples", "100", "--fractions", "0.2", "0.8")
    run("roar.py", *small, "--out", str(tmp_path))
    out = capsys.readouterr().out
    for title in ("remove and retrain", "keep and retrain"):
        assert f"{title}: test accuracy by the fraction of pixels replaced, mean of 1 networks" in out
    rows = re.findall(r"^(random|saliency|integrated_gradients|grad_cam) +(0\.\d{3}) +(0\.\d{3})$", out, re.MULTILINE)
    assert len(rows) == 8
    with Image.open(tmp_path / "roar.png") as picture:
        assert picture.size == (712, 416)


@pytest.mark.parametrize("shape", [(60, 8, 8), (60, 8, 8, 3)])
def test_find_mislabeled_digits_takes_other_arrays(
    tmp_path: Path, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", images=rng.integers(0, 256, shape, dtype=np.uint8), labels=np.arange(60) % 3)
    arguments = ["--data", str(tmp_path / "a.npz"), "--epochs", "1", "--pairs", "1", "--out", str(tmp_path)]
    run("find_mislabeled_digits.py", *arguments)
    out = capsys.readouterr().out
    assert re.search(r"^Of the 13 most suspicious labels \d+ are wrong; in a random order it would be 4\.$", out, re.M)
    assert "95 % interval unknown, 1 pairs of trainings" in out


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


def stand_in(path: Path) -> str:
    """Images as of CIFAR-10, but smaller: each of ten classes has its own brightness."""
    rng, labels = np.random.default_rng(0), np.arange(120) % 10
    images = 20 * labels.reshape(-1, 1, 1, 1) + rng.integers(0, 40, (120, 16, 16, 3))
    names = np.array([f"kind {k}" for k in range(10)])
    np.savez(path, images=images.astype(np.uint8), labels=labels.astype(np.uint8), names=names)
    return str(path)


def test_cifar10_runs_on_an_arrays_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--epochs", "1", "--width", "4", "--noise", "0.1", "--samples", "100", "--out", str(tmp_path)]
    run("cifar10.py", "--data", stand_in(tmp_path / "a.npz"), *options)
    out = capsys.readouterr().out
    assert len(re.findall(r"^\d+ +kind \d +kind \d +(?:>99|\d+) %$", out, flags=re.MULTILINE)) == 12
    assert re.search(r"^\d of 9 flipped labels are among the 9 worst suspects", out, flags=re.MULTILINE)
    folder = Path(re.findall(r"tensorboard --logdir (\S+)", out)[0])
    assert list(folder.glob("events.*"))
    assert list(folder.glob("dynalens/explanations/*.npz"))


@pytest.mark.architectures
def test_vit_timm_compares_rollouts_with_grad_cam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    run("vit_timm.py", "--epochs", "1", "--samples", "150", "--patch", "2", "--out", str(tmp_path))
    out = capsys.readouterr().out
    gains = re.findall(r"^(\w+) +[+-]\d\.\d{3} \(from", out, flags=re.MULTILINE)
    assert gains == ["attention_rollout", "gradient_rollout", "grad_cam", "random"]


def test_text_classification_finds_flipped_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("text_classification.py", "--epochs", "6", "--samples", "1000", "--out", str(tmp_path))
    out = capsys.readouterr().out
    found, flipped = re.findall(r"(\d+) of (\d+) flipped labels", out)[0]
    assert int(flipped) == 50
    assert int(found) > 25  # 2.5 by chance
    assert list(tmp_path.rglob("events.*"))


def test_tabular_finds_flipped_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("tabular.py", "--epochs", "10", "--out", str(tmp_path))
    out = capsys.readouterr().out
    found, flipped = re.findall(r"(\d+) of (\d+) flipped labels", out)[0]
    assert int(flipped) == 34
    assert int(found) > 22
    low, high = re.findall(r"Noise rate: \d\.\d+ \((\d\.\d+) to (\d\.\d+)\); true: 0\.081", out)[0]
    assert float(low) <= 0.081 <= float(high)
    assert len(re.findall(r"^Test accuracy, .*: 0\.9\d+$", out, flags=re.MULTILINE)) == 2


def test_the_configuration_file_runs_with_lightning_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)  # as Python does for the folder of a script
    options = ["--trainer.max_epochs=2", "--data.samples=200", "--trainer.accelerator=cpu"]
    arguments = ["fit", f"--config={EXAMPLES / 'lightning_cli.yaml'}", *options]
    monkeypatch.setattr(sys, "argv", ["lightning_cli.py"])  # LightningCLI warns of arguments in both places
    runpy.run_path(str(EXAMPLES / "lightning_cli.py"))["main"](arguments)
    assert "All of it: dynalens suspects lightning_logs" in capsys.readouterr().out
    (written,) = tmp_path.rglob("explanations/*.npz")  # of every second epoch
    assert {"edges.deletion.values", "smooth_grad.deletion.values"} <= set(arrays_of(written))
    assert "baseline: zero" in next(tmp_path.rglob("config.yaml")).read_text()


def ddp(folder: Path) -> None:
    """Run the example as a script in one of two processes, as `torchrun` starts them."""
    sys.argv[1:] = ["--samples", "201", "--epochs", "2", "--out", str(folder)]
    runpy.run_path(str(EXAMPLES / "ddp.py"), run_name="__main__")


def test_ddp_ends_with_one_record_in_both_processes(tmp_path: Path) -> None:
    forked.run(tmp_path, ddp)
    outputs = "".join((tmp_path / f"output.{rank}").read_text() for rank in range(2))
    said = dict(re.findall(r"process (\d): saw 202 samples in 2 epochs; (.*)", outputs))
    assert sorted(said) == ["0", "1"]
    assert said["0"] == said["1"]
    assert "the record has 404 presentations of 201 samples" in said["0"]  # one is repeated in each epoch
    assert list(tmp_path.rglob("record.npz"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_has_a_page_with_its_command(path: Path) -> None:
    page = (EXAMPLES.parent / "docs" / "examples" / f"{path.stem}.md").read_text()
    assert f"python examples/{path.name}" in page


def test_the_page_shows_the_configuration_file_as_it_is() -> None:
    page = (EXAMPLES.parent / "docs" / "examples" / "lightning_cli.md").read_text()
    shown = re.findall(r"```yaml\ntrainer:\n(.*?)\n```", page, flags=re.DOTALL)[0]
    assert shown in (EXAMPLES / "lightning_cli.yaml").read_text()
