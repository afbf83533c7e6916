"""Pages show samples that are rows of numbers, as those of a table, without the dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor, load_record
from dynalens.cli import main
from dynalens.datasets import feature_names
from dynalens.pictures import SuspectWatch, explanation_sheet
from dynalens.report import write_report
from test_audit_page import content_of
from training import Classifier, K, N, fit, labels, loader

MOST = 60
"""Numbers that a text shows."""


def rows(width: int = 5) -> Tensor:
    values = torch.randn(N, width, generator=torch.Generator().manual_seed(3))
    values[:, 1] = torch.arange(N)  # which one it is
    values[7, 2] = torch.nan
    return values


class RowClassifier(Classifier):
    """A network for the rows, which sees no NaN."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, K))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return self.loss(self(x.nan_to_num()), y)


def fitted(
    path: Path,
    *monitors: TrainingDynamicsMonitor | AttributionMonitor,
    width: int = 5,
    data: Any = None,
    **options: Any,
) -> RowClassifier:
    torch.manual_seed(0)
    model = RowClassifier(width)
    torch.manual_seed(1)
    data = data if data is not None else TensorDataset(rows(width), labels())
    fit(path, *monitors, model=model, data=lambda: loader(data), **options)
    return model


def text_of(sample: int, width: int = 5) -> str:
    return ", ".join(f"{column}: {value:.4g}" for column, value in enumerate(rows(width)[sample].tolist()[:MOST]))


def audit_cards(path: Path) -> list[dict[str, Any]]:
    folder = load_record(path).folder
    assert folder is not None
    return list(content_of(folder / "audit.html")["cards"])


def test_an_audit_shows_the_numbers_of_the_drawn_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = fitted(tmp_path, TrainingDynamicsMonitor(audit=N))
    without = fitted(tmp_path / "without")
    for name, values in model.state_dict().items():
        assert torch.equal(values, without.state_dict()[name])
    assert main(["audit", str(tmp_path), "--n", str(N)]) == 0
    assert "neither picture nor text" not in capsys.readouterr().out
    cards = audit_cards(tmp_path)
    assert {card["id"]: card["text"] for card in cards} == {str(i): text_of(i) for i in range(N)}


def test_a_report_shows_the_numbers_of_the_suspects(tmp_path: Path) -> None:
    fitted(tmp_path, TrainingDynamicsMonitor(top_k=1))  # which follows more than one
    record = load_record(tmp_path)
    cards = content_of(write_report(record, tmp_path / "report.html"))["cards"]
    texts = {card["id"]: card["text"] for card in cards if "text" in card}
    assert texts
    assert texts == {sample: text_of(int(sample)) for sample in texts}


def named(names: Any) -> Any:
    data: Any = TensorDataset(rows(), labels())
    data.feature_names = names
    return data


COLUMNS = ["age", "number", "<b>height</b>", "a_b", "c|d"]


@pytest.mark.parametrize(
    "data",
    [
        named(COLUMNS),
        named(pd.Index(COLUMNS)),
        named(pd.DataFrame(rows(), columns=COLUMNS)),
        named(np.array(COLUMNS)),
        Subset(named(COLUMNS), range(N)),
        ConcatDataset([Subset(named(COLUMNS), range(9)), Subset(named(COLUMNS), range(9, N))]),
    ],
    ids=["list", "index", "frame", "array", "subset", "parts"],
)
def test_columns_have_the_names_that_the_dataset_has_for_them(tmp_path: Path, data: Any) -> None:
    fitted(tmp_path, TrainingDynamicsMonitor(audit=N), data=data)
    assert main(["audit", str(tmp_path), "--n", str(N)]) == 0
    for card in audit_cards(tmp_path):
        values = rows()[int(card["id"])].tolist()
        assert card["text"] == ", ".join(f"{name}: {value:.4g}" for name, value in zip(COLUMNS, values, strict=True))
    record = load_record(tmp_path)
    without, given = write_report(record, tmp_path / "1.html"), write_report(record, tmp_path / "2.html", dataset=data)
    assert "text" in content_of(given)["cards"][0]
    assert content_of(given)["cards"] == content_of(without)["cards"]


@pytest.mark.parametrize("names", [COLUMNS[:4], [*COLUMNS, "more"], list(range(5)), "abcde", torch.zeros(5)])
def test_attributes_that_do_not_name_each_column_are_left_out(tmp_path: Path, names: Any) -> None:
    fitted(tmp_path, TrainingDynamicsMonitor(audit=3), data=named(names))
    assert main(["audit", str(tmp_path), "--n", "3"]) == 0
    for card in audit_cards(tmp_path):
        assert card["text"] == text_of(int(card["id"]))


@pytest.mark.parametrize("value", [np.array("age"), pd.Timestamp(0), pd.NA], ids=["array", "time", "nothing"])
def test_an_attribute_with_one_value_names_no_columns(value: Any) -> None:
    assert feature_names(named(value)) is None


def test_parts_of_a_dataset_with_other_names_have_none() -> None:
    assert feature_names(ConcatDataset([named(COLUMNS), named(COLUMNS[::-1])])) is None
    assert feature_names(ConcatDataset([named(COLUMNS), named(COLUMNS)])) == COLUMNS


def test_the_table_of_suspects_names_the_columns(tmp_path: Path) -> None:
    fitted(tmp_path, TrainingDynamicsMonitor(top_k=3), data=named(COLUMNS), logger=TensorBoardLogger(tmp_path))
    run = tmp_path / "lightning_logs" / "version_0"
    events = EventAccumulator(str(run))
    events.Reload()
    text = events.Tensors("dynalens/suspects/table/text_summary")[-1].tensor_proto.string_val[0].decode()
    row = int(load_record(run).suspects(1).index[0])
    first = rows()[row].tolist()
    assert f"age: {first[0]:.4g}, number: {row}, &lt;b&gt;height&lt;/b&gt;: {first[2]:.4g}, a&#95;b: " in text


def test_long_rows_are_cut_off(tmp_path: Path) -> None:
    fitted(tmp_path, TrainingDynamicsMonitor(audit=4), width=150)
    assert main(["audit", str(tmp_path), "--n", "4"]) == 0
    for card in audit_cards(tmp_path):
        assert card["text"] == text_of(int(card["id"]), 150) + ", ..."


@pytest.mark.parametrize("epochs", [3, 6])
def test_rows_are_copied_in_the_last_epoch_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    batches: list[int] = []
    see = SuspectWatch.see

    def counted(watch: SuspectWatch, indices: Any, inputs: Any) -> None:
        batches.append(len(indices))
        see(watch, indices, inputs)

    monkeypatch.setattr(SuspectWatch, "see", counted)
    fitted(tmp_path, TrainingDynamicsMonitor(audit=4), max_epochs=epochs)
    first = batches[: -len(loader())]  # looked at to learn what the inputs are
    assert sum(batches[len(first) :]) == N
    assert len(first) == 1


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize(("options", "expected"), [({}, COLUMNS), ({"inputs": lambda batch: batch}, None)])
def test_the_sheet_of_explanations_has_the_names_of_columns_that_the_user_has_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: Any
) -> None:
    shown: list[Any] = []

    def noted(*arguments: Any, columns: Any, **others: Any) -> Any:
        shown.append(columns)
        return explanation_sheet(*arguments, columns=columns, **others)

    monkeypatch.setattr("dynalens.explanations.pictures.explanation_sheet", noted)
    data = TensorDataset(rows().nan_to_num(), labels())
    data.feature_names = COLUMNS  # type: ignore[attr-defined]  # as users set it
    fitted(tmp_path, AttributionMonitor(metrics=(), methods="saliency", **options), data=data, max_epochs=1)
    assert shown == [expected]
