"""Sequences and masks: what is recorded of samples with a class for each token or pixel, against plain Python."""

import copy
import html
import itertools
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import (
    AttributionMonitor,
    CaptureError,
    SampleIdentityError,
    TrainingDynamics,
    TrainingDynamicsMonitor,
    load_record,
)
from dynalens.dynamics import Array
from dynalens.explanations.dense import by_class
from dynalens.explanations.explainer import Explainer
from dynalens.explanations.units import contrasted_units, explained_suspects, explained_units
from dynalens.faithfulness import CurveSettings
from dynalens.pictures import SuspectWatch
from dynalens.report import write_report
from dynalens.units import dense, dense_binary, dense_labels
from test_audit_page import content_of
from training import K, N, arrays_of, assert_merged_alike, images, loader, trainer

pytestmark = pytest.mark.usefixtures("undrawn")

T, WORDS = 7, 13
IGNORED = -100


def lengths() -> list[int]:
    return [T - i % 4 for i in range(N)]


def sentences() -> Tensor:
    """Words (N, T), 0 after the end; the first one of each is its place."""
    words = 1 + (torch.arange(N)[:, None] * 5 + torch.arange(T) * 3) % (WORDS - 1)
    return torch.where(torch.arange(T) < torch.tensor(lengths())[:, None], words, 0)


def tags() -> Tensor:
    """A tag for each word; one of sample 6 and one of sample 9 are wrong."""
    given = torch.where(sentences() > 0, sentences() % K, IGNORED)
    given[6, 2], given[9, 0] = (given[6, 2] + 1) % K, (given[9, 0] + 2) % K
    return given


class Tagger(pl.LightningModule):
    """Knows nothing of dynalens; keeps the logits (N, K, T) of every step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Embedding(WORDS, 8), nn.Dropout(0.1), nn.Linear(8, K))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, words: Tensor) -> Tensor:
        scores: Tensor = self.net(words)
        return scores

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores.movedim(2, 1), given)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        scores = self(batch[0])
        self.seen.append((batch[-1].clone(), scores.detach().movedim(2, 1).clone()))
        return self.loss(scores, batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def tagged() -> TensorDataset:
    return TensorDataset(sentences(), tags(), torch.arange(N))


def run(folder: Path, model: pl.LightningModule, *callbacks: Any, data: Any = None, **options: Any) -> Any:
    pl.seed_everything(3, verbose=False)
    ckpt_path = options.pop("ckpt_path", None)
    trainer(folder, *callbacks, **options).fit(model, loader(data or tagged()), ckpt_path=ckpt_path)
    return model


def weights_by_hand(presentations: Iterable[list[tuple[Array, Array]]], *, masks: bool) -> list[float]:
    """The weight of each epoch. Of masks it falls from the tenth on as the largest loss comes nearer to the median."""
    if not masks:
        return [min(t + 1, 20) ** 3 for t in range(100)]
    losses = np.array([[loss_by_hand(*each) for each in of_sample] for of_sample in presentations])
    distances = [max(of_epoch) - np.median(of_epoch) for of_epoch in losses.T]
    later = [(10 * min(distances[9 : t + 1]) / distances[9]) ** 3 for t in range(9, len(distances))]
    return [*[(t + 1) ** 3 for t in range(min(9, len(distances)))], *later]


def loss_by_hand(z: Array, given: Array) -> float:
    losses = [math.log(sum(math.exp(v[u]) for v in z)) - z[y][u] for u, y in enumerate(given) if y >= 0]
    return float(np.mean(losses))


def by_hand(presentations: list[tuple[Array, Array]], weights: list[float], *, masks: bool) -> dict[str, Any]:
    """The record of one sample from logits (K, U) and classes (U,) of each presentation, in plain Python."""
    margins, losses, worst = [], [], []
    was_right: dict[int, bool] = {}
    forgotten_units = 0
    for z, given in presentations:
        of_units = {}
        for unit, y in enumerate(given):
            if y >= 0:
                rivals = [z[k][unit] for k in range(len(z)) if k != y]
                of_units[unit] = z[y][unit] - max(rivals), math.log(sum(math.exp(v[unit]) for v in z)) - z[y][unit]
        is_right = {unit: margin > 0 for unit, (margin, _) in of_units.items()}
        forgotten_units += sum(was_right.get(unit, False) and not right for unit, right in is_right.items())
        was_right |= is_right
        margins.append([margin for margin, _ in of_units.values()])
        losses.append([loss for _, loss in of_units.values()])
        worst.append(min(of_units, key=lambda unit: of_units[unit][0]))
    doubts = [np.mean(each) if masks else max(each) for each in losses]
    right = [all(margin > 0 for margin in each) for each in margins]
    votes = Counter(unit for unit, every in zip(worst, right, strict=True) if not every)
    unit, most = votes.most_common(1)[0] if votes else (worst[-1], 0)
    values = {
        "margin": np.mean([min(each) for each in margins]),
        "mean_margin": np.mean([np.mean(each) for each in margins]),
        "correctness": np.mean([np.mean([margin > 0 for margin in each]) for each in margins]),
        "loss": np.mean([np.mean(each) for each in losses]),
        "forgetting_events": sum(one and not other for one, other in itertools.pairwise(right)),
        "unit_forgetting_events": forgotten_units,
        "presentations": len(presentations),
        "unit_margin": -np.average(doubts, weights=weights[: len(doubts)]),
    }
    if 2 * most > sum(votes.values()):  # what has a majority is told exactly
        y = presentations[0][1][unit]
        values |= {"unit": unit, "label": y}
    return values


def check(statistics: Any, presentations: dict[int, list[tuple[Array, Array]]]) -> None:
    masks = statistics.unit_columns is not None
    named, weights = 0, weights_by_hand(presentations.values(), masks=masks)
    for sample, each in presentations.items():
        expected = by_hand(each, weights, masks=masks)
        named += "unit" in expected
        for name, value in expected.items():
            assert getattr(statistics, name)[sample] == pytest.approx(value, rel=1e-4, abs=1e-5), (sample, name)
    assert named > len(presentations) / 4


@pytest.mark.parametrize("shape", [(5,), (3, 4)], ids=["tokens", "pixels"])
def test_the_record_of_units_is_that_of_plain_python(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.randint(0, K, (6, *shape), generator=generator)
    given.flatten(1)[:, -1] = IGNORED
    logits = 2 * torch.randn(6, K, *shape, generator=generator)
    epochs = [logits + torch.randn(6, K, *shape, generator=generator) for _ in range(13)]
    dynamics = TrainingDynamics(6)
    for epoch, z in enumerate(epochs):
        order = torch.randperm(6, generator=generator)
        for rows in (order[:4], order[4:]):
            dynamics.update_units(rows, dense(z[rows], given[rows]))
        dynamics.end_epoch(epoch)
    statistics = dynamics.compute()
    flat = [[(z[i].flatten(1).numpy(), given[i].flatten().numpy()) for z in epochs] for i in range(6)]
    check(statistics, dict(enumerate(flat)))
    assert (statistics.unit_columns is not None) == (len(shape) > 1)


def test_a_unit_that_did_not_count_in_between_is_forgotten_since_it_counted_last() -> None:
    dynamics, z = TrainingDynamics(1), torch.tensor([[[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]])
    for epoch, given in enumerate([[0, 0, IGNORED], [IGNORED, 1, 1], [1, 0, 1]]):  # right, then wrong
        dynamics.update_units([0], dense(z, torch.tensor([given])))
        dynamics.end_epoch(epoch)
    assert dynamics.compute().arrays()["unit_forgetting_events"].tolist() == [2]


def test_forgetting_in_sum_is_estimated_from_512_units_of_a_large_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(6, 5, 64, 48, generator=generator) < 0.7
    dynamics = TrainingDynamics(5)
    for epoch, each in enumerate(right):
        z = torch.where(each, 1.0, -1.0)
        dynamics.update_units(torch.arange(5), dense_binary(z, torch.ones_like(z).long()))
        dynamics.end_epoch(epoch)
    exact = (right[:-1] & ~right[1:]).sum(dim=(0, 2, 3)).numpy()
    estimate = dynamics.compute().arrays()["unit_forgetting_events"]
    # Of 512 units with about one event each, the mean has a standard error of 4 %.
    np.testing.assert_allclose(estimate, exact, rtol=0.1)
    dynamics = TrainingDynamics(1)
    for epoch, value in enumerate((1.0, -1.0)):
        dynamics.update_units([0], dense_binary(torch.full((1, 30, 20), value), torch.ones(1, 30, 20).long()))
        dynamics.end_epoch(epoch)
    assert dynamics.compute().arrays()["unit_forgetting_events"].tolist() == [600]


def test_a_mask_of_one_logit_is_that_of_two_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    z, given = torch.randn(4, 3, 5, generator=generator), torch.randint(0, 2, (4, 3, 5), generator=generator)
    counted = torch.rand(4, 3, 5, generator=generator) < 0.8
    one = dense_binary(z, given, counted)
    other = dense(torch.stack([torch.zeros_like(z), z], dim=1), given, counted)
    for values, expected in zip(one, other, strict=True):
        if isinstance(values, Tensor):
            torch.testing.assert_close(values, expected)
    assert one.kind == other.kind


def test_many_logits_are_reduced_in_parts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    z, given = torch.randn(5, K, 6, generator=torch.Generator().manual_seed(0)), torch.arange(30).view(5, 6) % K
    whole = dense(z, given)
    monkeypatch.setattr(sys.modules["dynalens.units.dense"], "_AT_ONCE", 1)
    for values, expected in zip(dense(z, given), whole, strict=True):
        if isinstance(expected, Tensor):
            assert isinstance(values, Tensor)
            assert torch.equal(values, expected)
        else:
            assert values == expected


def test_padding_says_nothing_whatever_is_in_it() -> None:
    z = torch.tensor([[[3.0, 1.0, torch.nan], [0.0, 2.0, torch.nan]]])
    shown = dense(z, torch.tensor([[0, 1, IGNORED]]))
    assert shown.logits.tolist() == [[1.0, 0.0]]
    assert shown.numbers[0, :2].tolist() == [2.0, 1.0]
    assert dense(z, torch.full((1, 3), IGNORED)).targets.tolist() == [-1]


def test_masked_classes_are_no_rivals_and_masked_targets_are_not_counted() -> None:
    for mask in (-torch.inf, -1e9):
        z = torch.tensor([[[1.0, 2.0, mask], [mask, 0.0, 1.0], [mask, 5.0, 0.0]]])
        shown = dense(z, torch.tensor([[0, 2, 0]]))
        assert shown.logits[0, 0].item() == 3
        assert shown.numbers[0, 0].item() == pytest.approx((24 * math.log(2) + 3) / 2, rel=1e-6)


class Flat(Tagger):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores.reshape(-1, K), given.view(-1))


class LogProbabilities(Tagger):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.nll_loss(scores.movedim(2, 1).log_softmax(1), given)


class Selected(Tagger):
    """As models do that leave padding out by hand."""

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores[given >= 0], given[given >= 0])


class OtherPadding(Tagger):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores.movedim(2, 1), given.clamp(min=-1), ignore_index=-1)


class Returned(Tagger):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        z = scores.movedim(2, 1)
        return {
            "loss": (z.softmax(1) - F.one_hot(given.clamp(min=0), K).movedim(2, 1)).square().mean(),
            "logits": z,
            "targets": given,
        }


@pytest.mark.parametrize("model", [Tagger, Flat, LogProbabilities, Selected, OtherPadding, Returned])
def test_losses_of_tokens_are_recorded(tmp_path: Path, model: Callable[[], Tagger]) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    trained = run(tmp_path, model(), monitor)
    presentations: dict[int, list[tuple[Array, Array]]] = {}
    for indices, logits in trained.seen:
        for sample, z in zip(indices.tolist(), logits, strict=True):
            presentations.setdefault(sample, []).append((z.numpy(), tags()[sample].numpy()))
    check(monitor.statistics(), presentations)


class OwnPadding(Tagger):
    """Reads a number of its own for padding from the batch."""

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores.movedim(2, 1), given.masked_fill(given == K, IGNORED))


@pytest.mark.parametrize(("model", "padding"), [(Selected, IGNORED), (OtherPadding, IGNORED), (OwnPadding, K)])
def test_padding_that_a_step_marks_by_another_number_than_the_batch_is_no_changed_label(
    tmp_path: Path, model: Callable[[], Tagger], padding: int
) -> None:
    # Sequences are all different, so that no repeats tell what follows from what, and most have no padding.
    words = torch.randint(1, WORDS, (N, T), generator=torch.Generator().manual_seed(1))
    given = words % K
    given[::4, 5:] = padding
    monitor = TrainingDynamicsMonitor(history=False)
    run(tmp_path, model(), monitor, data=TensorDataset(words, given, torch.arange(N)))
    assert (monitor.statistics().presentations > 0).all()


class NextWord(Tagger):
    """A causal language model, whose words are its classes."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.net[2] = way, nn.Linear(8, WORDS)

    def forward(self, words: Tensor) -> Any:
        scores = super().forward(words)
        return {"loss": None, "logits": scores} if self.way == "padded" else scores

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        words, labels = batch[0], batch[0].masked_fill(batch[0] == 0, IGNORED)
        output = self(words[:, :-1] if self.way == "without the last" else words)
        scores = output["logits"] if isinstance(output, dict) else output
        self.seen.append((batch[-1].clone(), scores.detach().movedim(2, 1).clone()))
        if self.way == "shifted":
            return F.cross_entropy(scores[:, :-1].reshape(-1, WORDS), labels[:, 1:].reshape(-1))
        if self.way == "without the last":
            return F.cross_entropy(scores.movedim(2, 1), labels[:, 1:])
        shifted = F.pad(labels, (0, 1), value=IGNORED)[:, 1:].contiguous()  # as transformers' compute it
        return F.cross_entropy(scores.view(-1, WORDS), shifted.view(-1))


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("way", ["shifted", "padded", "without the last"])
def test_language_models_are_recorded_and_explained_by_the_token_that_is_predicted(tmp_path: Path, way: str) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    explained = AttributionMonitor(
        on_error="raise", methods="saliency", metrics=(), num_samples=2, suspects=1, decode="<{}>".format
    )
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    trained = run(tmp_path, NextWord(way), monitor, explained, max_epochs=2, logger=logger)
    statistics, expected = monitor.statistics(), np.zeros(N)
    for indices, logits in trained.seen:
        for sample, z in zip(indices.tolist(), logits, strict=True):
            words = sentences()[sample]
            worst = [
                z[words[t + 1], t] - np.delete(z[:, t].numpy(), words[t + 1]).max()
                for t in range(lengths()[sample] - 1)
            ]
            expected[sample] += float(min(worst)) / 2
    np.testing.assert_allclose(statistics.margin, expected, rtol=1e-4)
    assert statistics.unit is not None
    assert statistics.label.tolist() == [int(sentences()[i, unit]) for i, unit in enumerate(statistics.unit)]
    assert statistics.unit.min() >= 1
    arrays = arrays_of(max(tmp_path.rglob("explanations/*.npz")))
    scores = trained.eval().net(sentences()).detach()
    samples = arrays["ids"].tolist()
    np.testing.assert_allclose(arrays["logits"], scores[samples, 0], rtol=1e-4, atol=1e-5)  # of the second word
    assert arrays["labels"].tolist() == sentences()[samples, 1].tolist()
    suspect = int(arrays["suspects_label.ids"][0])
    place = sentences()[suspect, 1:].tolist().index(int(arrays["suspects_label.labels"][0]))
    np.testing.assert_allclose(arrays["suspects_label.logits"][0], scores[suspect, place], rtol=1e-4, atol=1e-5)
    sample, text, given, suggested = suspects_in_tensorboard(tmp_path)[0]
    named: Any = monitor.suspects().loc[int(sample)]
    ids = sentences()[int(sample)].tolist()
    marked = [f"[<{word}>]" if i == named["unit"] else f"<{word}>" for i, word in enumerate(ids)]
    assert text.split()[: named["unit"] + 1] == marked[: named["unit"] + 1]
    assert (given, suggested) == (f"token {named['unit']}: <{named['label']}>", f"<{named['suggested']}>")
    page = content_of(write_report(load_record(tmp_path / "lightning_logs" / "version_0"), tmp_path / "report.html"))
    card = next(each for each in page["cards"] if each["id"] == sample)
    assert card["text"] == text
    assert [page["names"][card[which]] for which in ("label", "suggested")] == [given.split()[-1], suggested]


def suspects_in_tensorboard(folder: Path) -> list[list[str]]:
    """Sample, text, given and suggested class of each suspect in TensorBoard's last table."""
    events = EventAccumulator(str(folder / "lightning_logs" / "version_0"))
    events.Reload()
    table = events.Tensors("dynalens/suspects/table/text_summary")[-1].tensor_proto.string_val[0].decode()
    return [[html.unescape(cell.strip()) for cell in row.split("|")[1:5]] for row in table.splitlines()[2:]]


class TimeFirst(Tagger):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores.transpose(0, 1).reshape(-1, K), given.T.reshape(-1))


class Advised(TimeFirst):
    """Follows the advice of the error."""

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return {"loss": super().loss(scores, given), "logits": scores.movedim(2, 1), "targets": given}


def test_rows_that_cannot_be_shared_out_raise_with_advice_that_works(tmp_path: Path) -> None:
    with pytest.raises(
        SampleIdentityError, match=r"got 28. .* If these are tokens, .* dict of `loss`, and of `logits` \(N, K, T\)"
    ):
        run(tmp_path, TimeFirst(), TrainingDynamicsMonitor())
    monitor = TrainingDynamicsMonitor(history=False)
    run(tmp_path, Advised(), monitor, max_epochs=1)
    assert monitor.statistics().presentations.tolist() == [1] * N


class Paths(Tagger):
    """A linear chain without transitions: the log of the sum over all paths, minus the score of the given one."""

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        total = scores[:, 0]
        for t in range(1, scores.shape[1]):
            total = (total[:, :, None] + scores[:, t, None]).logsumexp(dim=1)
        given_scores = scores.gather(2, given.clamp(min=0)[..., None])[..., 0] * (given >= 0)
        return (total.logsumexp(dim=1) - given_scores.sum(dim=1)).mean()


class ReturnsScores(Paths):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return {"loss": super().loss(scores, given), "logits": scores.movedim(2, 1), "targets": given}


def test_a_loss_of_paths_is_an_error_that_says_what_to_return(tmp_path: Path) -> None:
    without_index = TensorDataset(sentences(), tags())
    with pytest.raises(CaptureError, match=r"got 0 in a list\. Return a dict with `loss`, `logits` and `targets`"):
        run(tmp_path, Paths(), TrainingDynamicsMonitor(), data=without_index)
    monitor = TrainingDynamicsMonitor(history=False)
    run(tmp_path, ReturnsScores(), monitor, data=without_index, max_epochs=1)
    assert monitor.statistics().presentations.tolist() == [1] * N


class LastAxis(Tagger):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return {"loss": F.cross_entropy(scores.movedim(2, 1), given), "logits": scores, "targets": given}


def test_classes_on_the_last_axis_are_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(
        CaptureError, match=r"Put the classes of tokens and pixels on the second axis.*movedim\(-1, 1\)"
    ):
        run(tmp_path, LastAxis(), TrainingDynamicsMonitor())


class TransposedTags(Tagger):
    """Sequences on the first axis, as recurrent networks have them."""

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores.transpose(0, 1).movedim(2, 1), given.T)


class TransposedWords(Tagger):
    """The next words, on the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.net[-1] = nn.Linear(8, WORDS)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        scores, words = self(batch[0]).transpose(0, 1), batch[0].T
        return F.cross_entropy(scores[:-1].movedim(2, 1), words[1:], ignore_index=0)


@pytest.mark.parametrize(("model", "length"), [(TransposedTags, 4), (TransposedWords, 5)])
def test_batches_of_as_many_samples_as_tokens_are_not_read_with_axes_exchanged(
    tmp_path: Path, model: Callable[[], Tagger], length: int
) -> None:
    data = TensorDataset(sentences()[:, :length], tags()[:, :length], torch.arange(N))
    with pytest.raises(CaptureError, match=r"got them as \(T, N\)\. Return a dict of `loss`, and of `logits`"):
        run(tmp_path, model(), TrainingDynamicsMonitor(), data=data)


@pytest.mark.parametrize("length", [4, 5])
def test_batches_with_sequences_on_the_first_axis_are_read_where_the_step_returns_them(
    tmp_path: Path, length: int
) -> None:
    class Returned(Tagger):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            scores = self(batch[0])  # (T, N, K)
            loss = F.cross_entropy(scores.reshape(-1, K), batch[1].reshape(-1))
            return {"loss": loss, "logits": scores.permute(1, 2, 0), "targets": batch[1].T}

    def transposed(samples: list[Any]) -> Any:
        words, given, index = torch.utils.data.default_collate(samples)
        return words.T, given.T, index

    monitor = TrainingDynamicsMonitor(history=False)
    data = TensorDataset(sentences()[:, :length], tags()[:, :length], torch.arange(N))
    trainer(tmp_path, monitor, max_epochs=1).fit(Returned(), loader(data, collate_fn=transposed))
    assert monitor.statistics().presentations.tolist() == [1] * N


class LastAxisFlat(Tagger):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        loss = F.cross_entropy(scores.reshape(-1, K), given.reshape(-1))
        return {"loss": loss, "logits": scores, "targets": given}


class SecondAxisFlat(LastAxisFlat):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return super().loss(scores, given) | {"logits": scores.movedim(-1, 1)}


@pytest.mark.parametrize("model", [LastAxis, LastAxisFlat])
def test_logits_of_as_many_classes_as_tokens_are_not_read_with_axes_exchanged(
    tmp_path: Path, model: Callable[[], Tagger]
) -> None:
    data = TensorDataset(sentences()[:, :K], tags()[:, :K], torch.arange(N))
    with pytest.raises(CaptureError, match=r"the classes of tokens on the second axis, .* Return `logits\.movedim"):
        run(tmp_path, model(), TrainingDynamicsMonitor(), data=data)
    monitor = TrainingDynamicsMonitor(history=False)
    run(tmp_path, SecondAxisFlat(), monitor, data=data, max_epochs=1)
    assert monitor.statistics().presentations.tolist() == [1] * N


H, W = 4, 5


def masks() -> Tensor:
    """A class for each pixel, void in a corner; an object of sample 8 is missing."""
    given = (torch.arange(N)[:, None, None] + torch.arange(H)[:, None] // 2 + torch.arange(W) // 3) % K
    given[8][given[8] == 1] = 0
    given[:, 0, 0] = IGNORED
    return given


class Segmenter(Tagger):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, K, (1, 2), padding=(0, 1)))

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores, given)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        scores = self(batch[0] / N)
        self.seen.append((batch[-1].clone(), self.shown(scores).detach().clone()))
        return self.loss(scores, batch[1])

    def shown(self, scores: Tensor) -> Tensor:
        return scores


class FlatPixels(Segmenter):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.cross_entropy(scores.permute(0, 2, 3, 1).reshape(-1, K), given.reshape(-1))


class OneLogit(Segmenter):
    """One logit for each pixel, of masks (N, 1, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores[:, :1]

    def shown(self, scores: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(scores), scores], dim=1)

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.binary_cross_entropy_with_logits(scores, given)


class Squeezed(OneLogit):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.binary_cross_entropy_with_logits(scores.squeeze(1), given.squeeze(1))


class FlatLogits(OneLogit):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.binary_cross_entropy_with_logits(scores.flatten(), given.flatten())


class Sigmoid(OneLogit):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.binary_cross_entropy(scores.sigmoid(), given)


class Overlap(Segmenter):
    """A Dice loss, as library modules have: it compares no pixel by itself."""

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return self.dice(scores.softmax(dim=1), F.one_hot(given.clamp(min=0), K).movedim(-1, 1))

    def dice(self, p: Tensor, y: Tensor) -> Tensor:
        return 1 - 2 * (p * y).sum() / (p + y).sum()


class OverlapOfOne(Overlap, OneLogit):
    def __init__(self) -> None:
        super().__init__()
        self.net[-1] = nn.Conv2d(6, 1, (1, 2), padding=(0, 1))

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return self.dice(scores.sigmoid(), given)


def segmented(model: Segmenter) -> tuple[TensorDataset, Tensor]:
    if isinstance(model, OneLogit):
        given = (masks() == 1).long()
        return TensorDataset(images(), given[:, None].float(), torch.arange(N)), given
    return TensorDataset(images(), masks(), torch.arange(N)), masks()


@pytest.mark.parametrize("way", [Segmenter, FlatPixels, OneLogit, Squeezed, FlatLogits, Sigmoid, Overlap, OverlapOfOne])
def test_losses_of_pixels_are_recorded(tmp_path: Path, way: Callable[[], Segmenter]) -> None:
    model = way()
    monitor = TrainingDynamicsMonitor(history=False, capture="module:net" if isinstance(model, Overlap) else "auto")
    data, given = segmented(model)
    run(tmp_path, model, monitor, data=data)
    presentations: dict[int, list[tuple[Array, Array]]] = {}
    for indices, logits in model.seen:
        for sample, z in zip(indices.tolist(), logits, strict=True):
            presentations.setdefault(sample, []).append((z.flatten(1).numpy(), given[sample].flatten().numpy()))
    statistics = monitor.statistics()
    check(statistics, presentations)
    table = monitor.table()
    assert (table["unit_row"] * W + table["unit_column"]).tolist() == table["unit"].tolist()


class BinaryOneHot(Segmenter):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.binary_cross_entropy_with_logits(scores, given)


class EachClass(Segmenter):
    """Compares each class with all others, as focal losses of some libraries do."""

    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return sum(F.binary_cross_entropy_with_logits(scores[:, k], given[:, k]) for k in range(K))


class FocalOfEachClass(Segmenter):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return sum(self.focal(scores[:, k : k + 1], given[:, k : k + 1]) for k in range(K))

    def focal(self, scores: Tensor, given: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(scores, given, reduction="none")
        return ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()


class FocalOfAll(FocalOfEachClass):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return self.focal(scores, given)


@pytest.mark.parametrize("way", [Segmenter, BinaryOneHot, EachClass, FocalOfEachClass, FocalOfAll])
def test_masks_in_one_hot_form_are_recorded_as_classes(tmp_path: Path, way: Callable[[], Segmenter]) -> None:
    monitor, model, given = TrainingDynamicsMonitor(history=False), way(), masks().clamp(min=0)
    one_hot = F.one_hot(given, K).movedim(-1, 1).float()
    run(tmp_path, model, monitor, data=TensorDataset(images(), one_hot, torch.arange(N)))
    presentations: dict[int, list[tuple[Array, Array]]] = {}
    for indices, logits in model.seen:
        for sample, z in zip(indices.tolist(), logits, strict=True):
            presentations.setdefault(sample, []).append((z.flatten(1).numpy(), given[sample].flatten().numpy()))
    check(monitor.statistics(), presentations)


def overlapping() -> Tensor:
    """Masks (N, K, H, W) of any number of labels for each pixel: label 1 is wherever one above 0 is."""
    several = F.one_hot(masks().clamp(min=0), K).movedim(-1, 1).float()
    several[:, 1] = masks() > 0
    return several


class Overlapping(BinaryOneHot):
    """Keeps the logits of labels of pixels as those of two classes: not given, and given."""

    def shown(self, scores: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(scores), scores], dim=1)


class SigmoidOfLabels(Overlapping):
    def loss(self, scores: Tensor, given: Tensor) -> Any:
        return F.binary_cross_entropy(scores.sigmoid(), given)


@pytest.mark.parametrize("way", [Overlapping, SigmoidOfLabels])
def test_masks_of_several_labels_name_pixel_and_label(tmp_path: Path, way: Callable[[], Segmenter]) -> None:
    given, model = overlapping(), way()
    monitor = TrainingDynamicsMonitor(history=False, class_names=["cat", "dog", "owl"], save_dir=tmp_path / "record")
    run(tmp_path, model, monitor, data=TensorDataset(images(), given, torch.arange(N)))
    presentations: dict[int, list[tuple[Array, Array]]] = {}
    for indices, logits in model.seen:
        for sample, z in zip(indices.tolist(), logits, strict=True):
            one = given[sample].flatten().long().numpy()
            presentations.setdefault(sample, []).append((z.flatten(1).numpy(), one))
    statistics, named = monitor.statistics(), 0
    assert statistics.unit is not None
    assert statistics.unit_label is not None
    weights = weights_by_hand(presentations.values(), masks=True)
    for sample, each in presentations.items():
        expected = by_hand(each, weights, masks=True)
        named += "unit" in expected
        if "unit" in expected:
            k, expected["unit"] = divmod(expected["unit"], H * W)
            assert statistics.unit_label[sample] == k
        for name, value in expected.items():
            assert getattr(statistics, name)[sample] == pytest.approx(value, rel=1e-3, abs=1e-4), (sample, name)
    assert named > N / 4
    table = load_record(tmp_path / "record").table()
    assert table.equals(monitor.table())
    names = table["unit_name"].tolist()
    assert names == [["cat", "dog", "owl"][k] for k in statistics.unit_label]
    assert table["label_name"].tolist() == [
        name if bit else f"no {name}" for name, bit in zip(names, statistics.label, strict=True)
    ]
    assert "no dog" in write_report(monitor.record, tmp_path / "report.html").read_text()


def test_pictures_show_labels_of_pixels_that_are_missing_and_extra() -> None:
    z = torch.tensor([[[[2.0, -2.0, -2.0, -2.0]], [[-2.0, 2.0, 2.0, -2.0]]]])
    given = torch.tensor([[[[1, 1, 0, 0]], [[0, 0, 0, 0]]]])
    shown = dense_labels(z, given)
    assert shown.marks is not None
    assert shown.marks.tolist() == [[[0, 1, 2, 0]]]  # a given one that the network denies comes first


class Certain(Tagger):
    """Knows the true tags, and says so in every epoch."""

    def forward(self, words: Tensor) -> Tensor:
        return 4.0 * F.one_hot(words % K, K) + 0 * super().forward(words)


@pytest.fixture(scope="module")
def suspected(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingDynamicsMonitor, Path]:
    folder = tmp_path_factory.mktemp("suspected")
    monitor = TrainingDynamicsMonitor(save_dir=folder / "record", class_names=["noun", "verb", "other"])
    run(folder, Certain(), monitor)
    return monitor, folder


def test_suspects_name_the_wrong_token_and_what_it_should_be(suspected: tuple[TrainingDynamicsMonitor, Path]) -> None:
    monitor, _ = suspected
    worst = monitor.suspects(2).sort_index()
    assert worst.index.tolist() == [6, 9]
    expected = [(6, 2), (9, 0)]
    assert worst["unit"].tolist() == [place for _, place in expected]
    assert worst["label"].tolist() == [int(tags()[where]) for where in expected]
    assert worst["suggested"].tolist() == [int(sentences()[where]) % K for where in expected]
    names = ["noun", "verb", "other"]
    assert worst["suggested_name"].tolist() == [names[k] for k in worst["suggested"]]
    assert worst["correctness"].tolist() == pytest.approx([1 - 1 / lengths()[6], 1 - 1 / lengths()[9]])
    assert monitor.noise_rate().value == pytest.approx(2 / N)
    assert set(range(N)) - set(monitor.clean_indices()) == {6, 9}


def test_a_record_of_tokens_is_read_back_alike_and_reported(suspected: tuple[TrainingDynamicsMonitor, Path]) -> None:
    monitor, folder = suspected
    record = load_record(folder / "record")
    assert record.table().equals(monitor.table())
    page = write_report(record, folder / "report.html").read_text()
    assert "noun" in page
    command = f"dynalens audit {folder / 'record'} --data MODULE:CALLABLE"
    assert f"Audit 100 samples for a 95 % confidence interval: {command}" in page


def test_a_resumed_fit_continues_the_record_of_tokens(tmp_path: Path) -> None:
    whole, kept = TrainingDynamicsMonitor(history=False), TrainingDynamicsMonitor(history=False)
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    run(tmp_path, Certain(), whole, checkpoint, enable_checkpointing=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(tmp_path, Certain(), kept, ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    for name, values in whole.statistics().arrays().items():
        np.testing.assert_allclose(getattr(kept.statistics(), name), values, rtol=1e-5, err_msg=name)


def test_a_checkpoint_with_sums_of_margins_is_refused() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update_units([0, 1], dense(torch.zeros(2, 3, 4), torch.ones(2, 4).long()))
    state = dynamics.state_dict()
    state["state"]["unit.doubt_sum"] = state["state"].pop("unit.doubt")
    with pytest.raises(ValueError, match=r"of an earlier version with sums of margins.* `reset\(\)`"):
        TrainingDynamics(2).load_state_dict(state)


def test_a_checkpoint_without_forgetting_in_sum_goes_on_without_it() -> None:
    dynamics, shown = TrainingDynamics(2), dense(torch.zeros(2, 3, 4), torch.ones(2, 4).long())
    dynamics.update_units([0, 1], shown)
    dynamics.end_epoch(0)
    dynamics.update_units([0], dense(torch.zeros(1, 3, 4), torch.ones(1, 4).long()))
    state = dynamics.state_dict()
    for name in ("unit.right_bits", "unit.forgotten"):
        del state["state"][name]
    state["pending"]["rows"] = state["pending"]["rows"][: 6 + 9]
    resumed = TrainingDynamics(2)
    resumed.load_state_dict(state)
    resumed.update_units([1, 0], shown)
    resumed.end_epoch(1)
    statistics = resumed.compute()
    assert statistics.unit_forgetting_events is None
    assert statistics.presentations.tolist() == [3, 2]


def test_processes_merge_units_also_where_one_has_none() -> None:
    one, other = TrainingDynamics(2), TrainingDynamics(2)
    one.update_units([1, 0], dense(torch.randn(2, K, H, W), torch.ones(2, H, W).long()))
    assert_merged_alike(one, other)


def test_one_record_has_one_kind_of_units() -> None:
    dynamics = TrainingDynamics(2)
    dynamics.update_units([0, 1], dense(torch.zeros(2, 3, 4), torch.ones(2, 4).long()))
    with pytest.raises(ValueError, match=r"Expected several tokens for each sample, .* got several pixels for each"):
        dynamics.update_units([0, 1], dense(torch.zeros(2, 3, 4, 4), torch.ones(2, 4, 4).long()))


def test_pictures_of_masks_show_what_is_contradicted() -> None:
    watch = SuspectWatch()
    watch.follow([5])
    shown = dense_binary(torch.tensor([[[3.0, 3.0], [-3.0, -3.0]]]), torch.tensor([[[1, 0], [1, 0]]]))
    assert shown.marks is not None
    watch.see([5], torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2))
    watch.mark([5], shown.marks)
    watch.take()
    orange, blue = np.array([213, 94, 0]), np.array([0, 114, 178])
    white = np.full(3, 255)
    expected = [[0 * white, 0.4 * white + 0.6 * blue], [0.4 * white + 0.6 * orange, 0 * white]]
    np.testing.assert_allclose(watch.pictures[5], expected, atol=0.5)


def test_the_report_names_the_token_and_the_pixel_of_a_suspect(
    suspected: tuple[TrainingDynamicsMonitor, Path], tmp_path: Path
) -> None:
    monitor, _ = suspected
    page = write_report(monitor.record, tmp_path / "tokens.html", dataset=tagged()).read_text()
    assert '"unit":"token 2"' in page
    words = [str(word) for word in sentences()[6].tolist()]
    assert ", ".join([*words[:2], f"[{words[2]}]", *words[3:]]) in page
    masked = TrainingDynamicsMonitor(save_dir=tmp_path / "record", history=False)
    run(tmp_path, Segmenter(), masked, data=segmented(Segmenter())[0], max_epochs=2)
    worst = masked.suspects(1).iloc[0]
    place = f'"unit":"pixel {worst["unit_row"]}, {worst["unit_column"]}"'
    page = write_report(masked.record, tmp_path / "masks.html").read_text()
    assert place in page
    assert "blue where the mask has no object" in page
    loaded = load_record(tmp_path / "record")
    assert masked.record.pictures().keys() == loaded.pictures().keys() != set()
    shown = [content_of(write_report(record, tmp_path / "masks.html"))["cards"] for record in (masked.record, loaded)]
    assert shown[0] == shown[1]
    (tmp_path / "record" / "pictures.npz").unlink()  # then no pixel is coloured
    page = write_report(masked.record, tmp_path / "masks.html", dataset=segmented(Segmenter())[0]).read_text()
    assert "blue where the mask has no object" not in page


def test_the_report_needs_no_dataset_to_show_the_token_of_a_suspect_in_its_sentence(
    suspected: tuple[TrainingDynamicsMonitor, Path], tmp_path: Path
) -> None:
    record, words = load_record(suspected[1] / "record"), [str(word) for word in sentences()[6].tolist()]
    cards = {card["id"]: card for card in content_of(write_report(record, tmp_path / "report.html"))["cards"]}
    assert cards["6"]["text"] == " ".join([*words[:2], f"[{words[2]}]", *words[3:]])


def test_words_that_the_network_was_given_count_more_than_the_words_of_the_dataset(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(decode=lambda token: f"##{token}" if token else "", save_dir=tmp_path / "record")
    run(tmp_path, Certain(), monitor, max_epochs=2)
    words = [f"##{word}" for word in sentences()[6].tolist()]
    shown = " ".join([*words[:2], f"[{words[2]}]", *words[3 : lengths()[6]]])  # no padding
    for dataset in (None, [{"tokens": ["of", "the", "dataset"]}] * N):
        page = content_of(write_report(load_record(tmp_path / "record"), tmp_path / "report.html", dataset=dataset))
        assert next(card["text"] for card in page["cards"] if card["id"] == "6") == shown


class FixedTagger(nn.Module):
    """z_kt = sum over s of A_ts W_k E_s, so that E_s times the gradient of z_kt at E_s is A_ts W_k E_s."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.words = nn.Embedding(WORDS, 4)
        self.mixed, self.weights = (torch.randn(*size, generator=generator) for size in ((4, 4), (K, 4)))

    def forward(self, words: Tensor) -> Tensor:
        return torch.einsum("ts,kd,nsd->nkt", self.mixed, self.weights, self.words(words))


def test_the_map_of_a_token_is_that_of_its_logit() -> None:
    model, words = FixedTagger(), torch.tensor([[1, 5, 2, 4], [3, 3, 7, 1]])
    explainer = Explainer(["input_x_gradient"], (), CurveSettings(baseline=0))
    labels = torch.tensor([[IGNORED, 2, 0, 1], [1, 0, 0, 1]])
    result = explained_units(explainer, model, ([4, 8], words, labels))
    expected = [model.mixed[t] * (model.words(words[i]) @ model.weights[k]) for i, t, k in ((0, 1, 2), (1, 0, 1))]
    torch.testing.assert_close(
        result.explanation.maps["input_x_gradient"].sum(-1).detach(), torch.stack(expected).detach()
    )
    assert result.units == ["token 1", "token 0"]
    doubted = explained_suspects(explainer, model, ([8], words[1:], labels[1:]), {8: (2, 0)})
    predicted = int(model(words[1:])[0, :, 2].argmax())
    assert doubted["prediction"].targets.tolist() == [predicted]
    assert doubted["label"].rows(torch.zeros(2), "label")[0].note == "suspect 8, token 2"
    expected_map = model.mixed[2] * (model.words(words[1]) @ model.weights[predicted])
    torch.testing.assert_close(
        doubted["prediction"].explanation.maps["input_x_gradient"].sum(-1)[0].detach(), expected_map.detach()
    )


@pytest.mark.parametrize("last", [False, True])
def test_the_map_of_a_mask_is_that_of_the_region_that_is_contradicted(last: bool) -> None:
    weights = torch.tensor([2.0, -1.0])
    model = nn.Conv2d(1, 2, 1, bias=False)
    model.weight.data = weights.view(2, 1, 1, 1)
    x = torch.tensor([[[[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]]]])  # predicted: 0 where x is 1, else 1
    given = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    forward = (lambda module, images: module(images).movedim(1, -1)) if last else None
    explainer = Explainer(["saliency"], (), CurveSettings(), forward=forward)
    results = explained_suspects(explainer, model, ([0], x, given), {0: (1, 1)})
    contradicted = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    for which, k in (("label", 1), ("prediction", 0)):
        torch.testing.assert_close(results[which].explanation.maps["saliency"][0, 0], weights[k] * contradicted / 2)
        assert results[which].targets.tolist() == [k]
    assert results["label"].units == ["2 contradicted pixels"]
    maps = contrasted_units(explainer, model, ([0], x, given), {0: (0, 1)}, "input_x_gradient")
    np.testing.assert_allclose(maps[0], 3 * contradicted / 2)


def test_classes_and_tokens_of_one_number_are_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"classes on one axis of another length, got \(1, 3, 3\). Pass `inputs=`"):
        by_class(torch.zeros(1, 3, 3), torch.Size([3]))


@pytest.mark.parametrize("way", [Tagger, Flat, Segmenter, FlatPixels, OneLogit])
def test_samples_of_every_epoch_are_explained_for_a_unit_and_suspects_for_theirs(
    tmp_path: Path, way: Callable[[], Tagger]
) -> None:
    model = way()
    data, given = segmented(model) if isinstance(model, Segmenter) else (tagged(), tags())
    explained = AttributionMonitor(on_error="raise", methods="saliency", metrics=(), num_samples=2, suspects=1)
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    run(tmp_path, model, TrainingDynamicsMonitor(), explained, data=data, max_epochs=2, logger=logger)
    arrays = arrays_of(max(tmp_path.rglob("explanations/*.npz")))
    model.eval()
    for row, sample in enumerate(arrays["ids"].tolist()):
        y = given[sample]
        most = Counter(y[y > 0].tolist()).most_common(1)
        k = int(y[y >= 0][0]) if y.ndim == 1 else most[0][0] if most else 0
        region = (y == k) if y.ndim > 1 else torch.arange(T) == 0
        x = data[sample][0][None]
        z = model(x)[0].movedim(-1, 0) if y.ndim == 1 else model(x)[0]
        assert arrays["labels"][row] == k
        np.testing.assert_allclose(arrays["logits"][row][: len(z)] if len(z) > 1 else arrays["logits"][row][-1:],
                                   z[:, region].mean(dim=1).detach(), rtol=1e-4, atol=1e-5)  # fmt: skip
    assert len(arrays["suspects_label.labels"]) == 1
    assert arrays["suspects_prediction.targets"][0] == arrays["suspects_label.logits"][0].argmax()


def test_the_gallery_asks_for_what_speaks_for_the_suggested_class_of_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[Any, Array]] = []

    def noted(*arguments: Any) -> dict[Any, Array]:
        drawn.append(contrasted_units(*arguments))
        return drawn[-1]

    monkeypatch.setattr(sys.modules["dynalens.explanations.run"], "contrasted_units", noted)
    explained = AttributionMonitor(on_error="raise", methods="input_x_gradient", metrics=(), num_samples=1, suspects=1)
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    data = segmented(Segmenter())[0]
    run(tmp_path, Segmenter(), TrainingDynamicsMonitor(), explained, data=data, max_epochs=2, logger=logger)
    assert drawn[-1]
    assert {relevance.shape[-2:] for relevance in drawn[-1].values()} == {(6, 6)}


def test_suspects_of_masks_that_inputs_reduces_to_a_class_are_explained_for_that_class(tmp_path: Path) -> None:
    explained = AttributionMonitor(
        on_error="raise",
        methods="saliency",
        metrics=(),
        suspects=2,
        inputs=lambda batch: (batch[0], batch[1].flatten(1).amax(dim=1)),
        forward=lambda module, pictures: module(pictures).mean(dim=(2, 3)),
    )
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    data = segmented(Segmenter())[0]
    run(tmp_path, Segmenter(), TrainingDynamicsMonitor(), explained, data=data, max_epochs=2, logger=logger)
    arrays = arrays_of(max(tmp_path.rglob("explanations/*.npz")))
    samples = arrays["suspects_label.ids"].tolist()
    assert arrays["suspects_label.targets"].tolist() == masks()[samples].flatten(1).amax(dim=1).tolist()


class Reordered(Tagger):
    """Trains on the rows in another order, in a way that no function of torch shows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        order = np.argsort(-batch[-1].numpy())
        y = torch.from_numpy(batch[1].numpy()[order].copy())
        return self.loss(self(batch[0][torch.from_numpy(order.copy())]), y)


class ReorderedFlat(Reordered, Flat):
    pass


@pytest.mark.parametrize(("model", "words"), [(Reordered, "in the order of the batch"), (ReorderedFlat, "got 28")])
def test_targets_in_another_order_raise(tmp_path: Path, model: Callable[[], Tagger], words: str) -> None:
    with pytest.raises(SampleIdentityError, match=words):
        run(tmp_path, model(), TrainingDynamicsMonitor())


class Chosen(Tagger):
    """Leaves out the short ones."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        long = batch[1][:, 4] >= 0
        return self.loss(self(batch[0])[long], batch[1][long])


def test_rows_that_a_step_chooses_are_followed(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    run(tmp_path, Chosen(), monitor)
    assert monitor.statistics().presentations.tolist() == [3 * (length > 4) for length in lengths()]


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}])
def test_training_on_units_ends_bit_identical_with_the_monitor(tmp_path: Path, options: dict[str, Any]) -> None:
    masks = segmented(Segmenter())[0]
    for model, data in ((Flat(), tagged()), (NextWord("padded"), tagged()), (Segmenter(), masks)):
        alone = run(tmp_path, copy.deepcopy(model), data=data, max_epochs=2, **options)
        monitor = TrainingDynamicsMonitor(save_dir=tmp_path / type(model).__name__)
        explained = AttributionMonitor(methods="saliency", metrics=(), num_samples=1, on_error="raise")
        logger = pl.loggers.TensorBoardLogger(tmp_path)
        watched = run(tmp_path, model, monitor, explained, data=data, logger=logger, max_epochs=2, **options)
        for before, after in zip(alone.parameters(), watched.parameters(), strict=True):
            assert torch.equal(before, after)
        assert monitor.table()["presentations"].tolist() == [2] * N
