"""What the README and the guide's table of columns say is what happens."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from dynalens import TrainingDynamicsMonitor
from training import Classifier, dataset, fit, loader

README = Path(__file__).parents[1] / "README.md"


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
    for block in README.read_text().split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    assert "suggested" in capsys.readouterr().out
    assert len(names["clean"]) == len(names["dynamics"].clean_indices()) > 0
    assert (tmp_path / "lightning_logs" / "version_0" / "dynalens" / "suspects.csv").exists()


def test_the_table_of_columns_is_that_of_the_table(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(class_names=["x", "y", "z"], features="net.2", mean_probabilities=True)
    fit(tmp_path, monitor)
    table = monitor.table(embeddings=np.random.default_rng(0).normal(size=(len(monitor.table()), 4)))
    assert [table.index.name, *table.columns] == first_column((README.parent / "docs" / "table.md").read_text())


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len(README.read_text().splitlines()) <= 120
