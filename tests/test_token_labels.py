"""Sequences whose tokens have any number of labels each: recorded as plain Python does, shown and explained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor, load_record
from dynalens.explanations.dense import doubtful_label, first_unit
from dynalens.report import write_report
from test_audit_page import content_of
from test_dense_units import WORDS, lengths, run, sentences
from training import K, N, arrays_of

pytestmark = pytest.mark.usefixtures("undrawn")

WRONG = {(6, 2, 1), (9, 0, 0)}
"""Sample, token and label."""


def is_word() -> Tensor:
    return sentences() > 0


def labels() -> Tensor:
    """Label k of a word (N, T, K): whether bit k of the word is set; two are wrong."""
    given = (sentences()[..., None] >> torch.arange(K) & 1).float()
    for where in WRONG:
        given[where] = 1 - given[where]
    return given


class Tagger(pl.LightningModule):
    """Keeps the logits (N, T, K) of every step."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.way, self.net = way, nn.Sequential(nn.Embedding(WORDS, 8), nn.Dropout(0.1), nn.Linear(8, K))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, words: Tensor) -> Tensor:
        scores: Tensor = self.net(words) + 3 * (2 * (words[..., None] >> torch.arange(K) & 1) - 1)
        return scores.movedim(2, 1) if self.way == "labels first" else scores

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        words, given = batch[:2]
        counts, scores = (words > 0).unsqueeze(2).expand(-1, -1, K), self(words)
        z = scores.movedim(1, 2) if self.way == "labels first" else scores
        self.seen.append((batch[-1].clone(), z.detach().clone()))
        if self.way == "returned":
            losses = F.binary_cross_entropy_with_logits(z, given, reduction="none")
            return {"loss": losses[counts].mean(), "logits": z, "targets": given.masked_fill(~counts, -100)}
        if self.way == "flat":
            weight = counts.reshape(-1, K).float()
            return F.binary_cross_entropy_with_logits(z.reshape(-1, K), given.reshape(-1, K), weight=weight)
        if self.way == "labels first":
            given, counts = given.movedim(2, 1), counts.movedim(2, 1)
        return (F.binary_cross_entropy_with_logits(scores, given, reduction="none") * counts).sum() / counts.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def tagged() -> TensorDataset:
    return TensorDataset(sentences(), labels(), torch.arange(N))


@pytest.mark.parametrize("way", ["labels last", "labels first", "flat", "returned"])
def test_labels_of_tokens_are_recorded_as_plain_python_does(tmp_path: Path, way: str) -> None:
    monitor, untouched = TrainingDynamicsMonitor(), run(tmp_path / "without", Tagger(way), data=tagged())
    trained = run(tmp_path, Tagger(way), monitor, data=tagged())
    for name, values in untouched.state_dict().items():
        assert torch.equal(values, trained.state_dict()[name])
    statistics, margins = monitor.statistics(), np.zeros((N, 0, 2)).tolist()
    for indices, scores in trained.seen:
        for sample, z in zip(indices.tolist(), scores.double(), strict=True):
            of_units = torch.where(labels()[sample] == 1, z, -z)[: lengths()[sample]]
            margins[sample].append((float(of_units.min()), float(F.softplus(-of_units).max())))
    epochs = len(margins[0])
    np.testing.assert_allclose(statistics.margin, [np.mean([m for m, _ in each]) for each in margins], rtol=1e-5)
    weights = [min(t + 1, 20) ** 3 for t in range(epochs)]
    doubts = [np.average([loss for _, loss in each], weights=weights) for each in margins]
    assert statistics.unit_margin is not None
    np.testing.assert_allclose(statistics.unit_margin, np.negative(doubts), rtol=1e-5)
    worst = monitor.suspects(2)
    named = [(int(sample), *map(int, worst.loc[sample, ["unit", "unit_label"]])) for sample in worst.index]
    assert set(named) == WRONG
    assert worst["label"].tolist() == [int(labels()[where]) for where in named]
    assert (worst["suggested"] == 1 - worst["label"]).all()
    assert "unit_row" not in worst


def test_the_report_shows_the_token_and_the_label_that_is_missing_or_extra(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "record", class_names=["person", "place", "date"])
    run(tmp_path, Tagger("labels last"), monitor, data=tagged())
    page = content_of(write_report(load_record(tmp_path / "record"), tmp_path / "report.html"))
    card = next(each for each in page["cards"] if each["id"] == "6")
    words, is_given = [str(word) for word in sentences()[6].tolist()], bool(labels()[6, 2, 1])
    assert card["unit"] == "token 2"
    assert card["text"] == " ".join([*words[:2], f"[{words[2]}]", *words[3:]])
    names = [page["names"][card[which]] for which in ("label", "suggested")]
    assert names == (["place", "no place"] if is_given else ["no place", "place"])


def test_explanations_of_a_suspect_are_of_the_doubted_label_of_one_token(tmp_path: Path) -> None:
    explained = AttributionMonitor(
        on_error="raise", methods="input_x_gradient", metrics=("deletion",), baseline=0, steps=2, suspects=2
    )
    monitor, logger = TrainingDynamicsMonitor(history=False), pl.loggers.TensorBoardLogger(tmp_path)
    trained = run(tmp_path, Tagger("labels last"), monitor, explained, data=tagged(), logger=logger)
    arrays = arrays_of(max(tmp_path.rglob("explanations/*.npz")))
    scores = trained.eval()(sentences()).detach()
    for row, sample in enumerate(arrays["suspects_label.ids"].tolist()):
        ((_, place, label),) = [each for each in WRONG if each[0] == sample]
        assert arrays["suspects_label.labels"][row] == label
        np.testing.assert_allclose(arrays["suspects_label.logits"][row], scores[sample, place], rtol=1e-4, atol=1e-5)


def test_the_explained_token_is_the_first_that_has_a_label_or_the_one_that_is_contradicted_most() -> None:
    given = torch.tensor([[-1, 0, 0], [-1, 0, 1]])  # two labels of three tokens
    first = first_unit(given, multi_label=True)
    assert (first.place, first.label, first.is_given) == (2, 1, True)
    none = first_unit(given.clamp(max=0), multi_label=True)
    assert (none.place, none.label, none.is_given) == (1, 0, False)
    doubted = doubtful_label(given, (0, 0), torch.tensor([[9.0, -1.0, 2.0], [0.0, 0.0, 0.0]]))
    assert (doubted.place, doubted.label, doubted.is_given) == (2, 0, False)
