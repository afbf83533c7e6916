"""What the README says is what happens."""

import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from dynalens import AttributionMonitor, TrainingDynamicsMonitor
from training import Classifier, dataset, fit, loader

README = Path(__file__).parents[1] / "README.md"


def section(title: str) -> str:
    return README.read_text().split(f"## {title}\n")[1].split("\n## ")[0]


def first_column(table: str) -> list[str]:
    """Names in backticks in the first column."""
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(shuffle=False)


@pytest.mark.filterwarnings("ignore:GPU available")
def test_the_lines_of_use_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"model": Classifier(), "data": Data(), "train_set": dataset()}
    exec(README.read_text().split("```python\n")[1].split("```")[0], names)
    assert "suggested" in capsys.readouterr().out
    assert len(names["clean"]) == len(names["dynamics"].clean_indices()) > 0
    assert (tmp_path / "lightning_logs" / "version_0" / "dynalens" / "suspects.csv").exists()


def test_the_table_of_tags_is_what_an_event_file_holds(tmp_path: Path) -> None:
    methods, metrics = ("saliency", "grad_cam"), ("deletion", "insertion", "symmetric_relevance_gain")
    data = loader(shuffle=False)
    fit(
        tmp_path, TrainingDynamicsMonitor(), AttributionMonitor(), val=lambda: data, max_epochs=11,
        logger=TensorBoardLogger(tmp_path, name="run"),
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path / "run" / "version_0"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    written = {tag for kind in ("images", "scalars", "histograms") for tag in tags[kind] if tag.startswith("dynalens/")}
    expected = {
        row.replace("<method>", method).replace("<metric>", metric).replace("<decade>", decade)
        for row in first_column(section("What is in TensorBoard"))
        for method in methods
        for metric in metrics
        for decade in ("000-009", "010-019")
    }
    assert written == expected
    widths = [picture.width for tag in tags["images"] for picture in events.Images(tag)]
    assert len(widths) == 11
    assert min(widths) >= int(re.findall(r"at least (\d+) pixels wide", README.read_text())[0])


def test_the_table_of_columns_is_that_of_the_table(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(class_names=["x", "y", "z"])
    fit(tmp_path, monitor)
    table = monitor.table()
    assert [table.index.name, *table.columns] == first_column(section("What is in the table"))
