"""Tokens, integers (N, T), are explained at their embedding, scored with a token in their place, and shown as words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor, load_explanations
from dynalens.attribution import explain, find_embedding, token_relevance
from dynalens.cli import main
from dynalens.explanations.pictures import ExplanationPictures
from dynalens.faithfulness import CurveSettings, deletion_curve, faithfulness_curves, insertion_curve, random_ranking
from test_audit_page import content_of
from training import attribution_monitor, fit, trainer

UNKNOWN, WORDS = 1, ("", "?", "good", "bad", "film", "the")
Y = torch.tensor([0, 2])


def tokens(n: int = 12) -> Tensor:
    """Sentences (n, 5), of which every second one ends in padding."""
    ids = torch.randint(2, 6, (n, 5), generator=torch.Generator().manual_seed(1))
    ids[::2, 4] = 0
    return ids


class Words(pl.LightningModule):
    """Embeddings of words and positions added up, a hidden layer, three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(6, 4), nn.Embedding(5, 4)
        self.drop = nn.Dropout(0.3)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3))

    def forward(self, ids: Tensor) -> Any:
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self.net(self.drop(self.word(ids) + self.position(places)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def sentences() -> DataLoader[Any]:
    return DataLoader(TensorDataset(tokens(), torch.arange(12) % 3), batch_size=4)


def linear() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(20, 3))


class Votes(nn.Module):
    """Logits (sum of the votes of all tokens, 0): "good" has one for class 0, "bad" one against it, others none."""

    def forward(self, ids: Tensor) -> Tensor:
        votes = torch.tensor([0.0, 0.0, 1.0, -1.0, 0.0, 0.0])[ids].sum(dim=1)
        return torch.stack([votes, torch.zeros_like(votes)], dim=1)


def test_gradient_methods_explain_a_linear_model_by_its_weights_and_embeddings() -> None:
    model, ids = linear(), tokens(2)
    methods = ("saliency", "input_x_gradient", "integrated_gradients", "smooth_grad", "interior_gradient")
    maps = explain(model, ids, Y, methods=methods).maps
    weights = [p.detach() for p in model.parameters()]
    weight = weights[1][Y].view(2, 5, 4)
    embedded = weights[0][ids]
    for name in ("saliency", "smooth_grad", "interior_gradient"):
        torch.testing.assert_close(maps[name], weight)
    for name in ("input_x_gradient", "integrated_gradients"):
        torch.testing.assert_close(maps[name], embedded * weight)
    relevance = token_relevance("saliency", maps["saliency"])
    torch.testing.assert_close(relevance, torch.stack([row.abs().amax(dim=1) for row in weight]))
    relevance = token_relevance("integrated_gradients", maps["integrated_gradients"])
    torch.testing.assert_close(relevance, (embedded * weight).sum(dim=2))
    torch.testing.assert_close(token_relevance("mine", relevance), relevance)
    with pytest.raises(ValueError, match=r"maps of mine to be \(N, T\) or \(N, T, C\) .*, got \(2,\)"):
        token_relevance("mine", relevance[:, 0])


def test_captum_explains_the_embedding_by_default_and_tokens_themselves() -> None:
    model, ids = linear(), tokens(2)
    methods = ("captum:LayerIntegratedGradients", "captum:FeatureAblation")
    maps = explain(model, ids, Y, methods=methods).maps
    weights = [p.detach() for p in model.parameters()]
    weight, embedded = weights[1][Y].view(2, 5, 4), weights[0][ids] - weights[0][torch.zeros_like(ids)]
    torch.testing.assert_close(maps[methods[0]], embedded * weight)  # against token 0
    torch.testing.assert_close(maps[methods[1]], (embedded * weight).sum(dim=2))


def test_the_embedding_of_tokens_is_told_from_that_of_positions() -> None:
    assert find_embedding(Words(), tokens()) == "word"
    assert find_embedding(nn.Sequential(linear()), tokens()) == "0.0"


class Two(nn.Module):
    """Two embeddings of each token, multiplied and added up over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(6, 3), nn.Embedding(6, 3)

    def forward(self, ids: Tensor) -> Any:
        return (self.a(ids) * self.b(ids)).sum(dim=1)


@pytest.mark.parametrize(("model", "got"), [(Votes(), "none"), (Two(), "a, b")])
def test_the_error_names_the_argument_where_there_is_not_one_embedding(model: nn.Module, got: str) -> None:
    with pytest.raises(
        ValueError, match=rf"tokens of shape .* exactly one nn.Embedding, got {got}.*`layer` for Captum's"
    ):
        explain(model, tokens(2), torch.tensor([0, 1]), methods="saliency")


def test_the_layer_is_named_where_there_are_several() -> None:
    model, arguments = Two(), {"saliency": {"at": "a"}}
    maps = explain(model, tokens(2), Y, methods="saliency", method_args=arguments).maps["saliency"]
    torch.testing.assert_close(maps, model.b(tokens(2)).detach() * F.one_hot(Y, 3).unsqueeze(1))


def test_methods_that_need_feature_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"for tokens \(2, 5\), torch.int64, to be among saliency, .*, got grad_cam\."):
        explain(linear(), tokens(2), Y, methods=("saliency", "grad_cam"))


def test_curves_of_tokens_by_hand() -> None:
    ids, target = torch.tensor([[2, 4, 2, 3]]), torch.tensor([0])  # good film good bad: one vote is left
    relevance = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    deleted = deletion_curve(Votes(), ids, target, relevance, baseline=UNKNOWN, steps=4)
    inserted = insertion_curve(Votes(), ids, target, relevance, baseline=UNKNOWN, steps=4)
    torch.testing.assert_close(deleted, torch.tensor([[1.0, 0.0, -1.0, -1.0, 0.0]]).sigmoid())
    torch.testing.assert_close(inserted, torch.tensor([[0.0, 1.0, 2.0, 2.0, 1.0]]).sigmoid())
    own = torch.tensor([[3, 1, 1, 1]])  # a token for each place
    deleted = deletion_curve(Votes(), ids, target, relevance, baseline=own, steps=4)
    torch.testing.assert_close(deleted, torch.tensor([[1.0, -1.0, -2.0, -2.0, -1.0]]).sigmoid())


def test_a_random_ranking_of_tokens_has_a_place_for_each() -> None:
    assert random_ranking(tokens(3)).sort(dim=1).values.tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]] * 3


class Masking(nn.Module):
    """Attends to what is no padding; NaN where there is nothing else."""

    def forward(self, ids: Tensor) -> Tensor:
        scores = torch.zeros(ids.shape).masked_fill(ids == 0, -torch.inf).softmax(dim=1)
        votes = (scores * (ids == 2)).sum(dim=1)
        return torch.stack([votes, torch.zeros_like(votes)], dim=1)


@pytest.mark.parametrize(
    ("model", "baseline", "message"),
    [
        (Votes(), "blur", r"`baseline` for tokens to be the id .*, got 'blur'.*`metrics=\(\)`"),
        (Votes(), torch.tensor(0.5), "`baseline` for tokens to be the id .*, got values of torch.float32"),
        (Masking(), 0, "finite probabilities while tokens are replaced, got NaN. Pass a `baseline` token"),
    ],
)
def test_baselines_that_are_no_token_are_refused(model: nn.Module, baseline: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deletion_curve(model, tokens(2), Y[:1].expand(2), torch.rand(2, 5), baseline=baseline)


def explanation(folder: Path, epoch: int) -> dict[str, np.ndarray]:
    with np.load(folder / "dynalens" / "explanations" / f"epoch_{epoch:06d}.npz") as arrays:
        return dict(arrays)


METHODS = ("saliency", "integrated_gradients", "captum:LayerIntegratedGradients")


def test_the_monitor_writes_what_its_parts_compute_and_draws_words(tmp_path: Path) -> None:
    monitor = attribution_monitor(
        methods=METHODS, baseline=UNKNOWN, steps=5, num_samples=3, decode=WORDS.__getitem__, on_error="raise"
    )
    logger = TensorBoardLogger(tmp_path, name="run")
    callbacks = [TrainingDynamicsMonitor(), monitor]
    model = fit(tmp_path, *callbacks, model=Words(), data=sentences, logger=logger).eval()
    x, y = tokens()[:3], torch.arange(3)
    maps, seen = explain(model, x, y, methods=METHODS).maps, explanation(tmp_path / "run" / "version_0", 2)
    for name in METHODS:
        relevance = token_relevance(name, maps[name])
        curves = faithfulness_curves(model, x, y, relevance, CurveSettings(baseline=UNKNOWN, steps=5))
        np.testing.assert_allclose(seen[f"{name}.insertion.curves"], curves["insertion"].values, rtol=1e-5)
    assert {"random.deletion.values", "saliency.attribution_drift.values"} <= seen.keys()
    assert len(seen["suspects_label.ids"]) == 4
    events = EventAccumulator(str(tmp_path / "run" / "version_0"), size_guidance={"images": 0})
    events.Reload()
    table = events.Tensors("dynalens/suspects/table/text_summary")[-1].tensor_proto.string_val[0].decode().splitlines()
    assert table[0].startswith("| sample | text | given |")
    sample, text = (cell.strip() for cell in table[2].split("|")[1:3])
    assert text == " ".join(word for word in map(WORDS.__getitem__, tokens()[int(sample)].tolist()) if word)
    sheet = events.Images("dynalens/explanations")[-1]
    assert sheet.width == 700
    assert sheet.height > 2 * (3 + 4 + 4) * 3 * 64  # a band for each method of each sample
    assert events.Images("dynalens/film/saliency")[-1].width == 700


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize(("own", "expected"), [(None, WORDS.__getitem__), (str, str)])
def test_words_are_those_of_the_tracker_if_the_monitor_was_given_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Any, expected: Any
) -> None:
    decoders: list[Any] = []

    def noted(*arguments: Any) -> ExplanationPictures:
        decoders.append(arguments[-1])
        return ExplanationPictures(*arguments)

    monkeypatch.setattr("dynalens.callbacks.attribution.ExplanationPictures", noted)
    tracker = TrainingDynamicsMonitor(decode=WORDS.__getitem__)
    monitor = attribution_monitor(methods="saliency", metrics=(), decode=own)
    fit(tmp_path, tracker, monitor, model=Words(), data=sentences, max_epochs=1)
    assert decoders == [expected]


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_token_maps_alone_are_compared_without_a_baseline(tmp_path: Path) -> None:
    monitor = attribution_monitor(methods="input_x_gradient", metrics=("attribution_drift",), on_error="raise")
    fit(tmp_path, monitor, model=Words(), data=sentences)
    assert "input_x_gradient.attribution_drift.values" in explanation(tmp_path, 2)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize(
    ("arguments", "message", "scores"),
    [
        (
            {"methods": ("grad_cam", "saliency"), "metrics": ("insertion", "attribution_drift")},
            r"grad_cam, insertion\. .* tokens, \(4, 5\), .* not defined\. .*captum:LayerIntegratedGradients.* the id "
            r"of the mask token .*: `metrics=\(\)`",
            {"saliency/attribution_drift"},
        ),
        (
            {"methods": "saliency", "baseline": UNKNOWN, "metrics": ("average_drop", "sensitivity", "deletion")},
            r"average_drop, sensitivity\. .* not defined", {"saliency/deletion", "random/deletion"},
        ),
    ],
)  # fmt: skip
def test_methods_and_metrics_that_are_not_defined_for_tokens_are_left_out_and_the_rest_is_explained(
    tmp_path: Path, arguments: dict[str, Any], message: str, scores: set[str]
) -> None:
    with pytest.warns(UserWarning, match=f"Left out of the explanations, training goes on: {message}") as caught:
        fit(tmp_path, attribution_monitor(steps=2, **arguments), model=Words(), data=sentences, max_epochs=2)
    assert len([warning for warning in caught if "training goes on" in str(warning.message)]) == 1
    assert set(load_explanations(tmp_path)[1].maps) == {"saliency"}
    assert set(load_explanations(tmp_path)[1].values) == scores


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_the_defaults_explain_tokens_by_what_is_defined_for_them_without_a_warning(tmp_path: Path) -> None:
    for samples in (None, (tokens(2), Y)):
        monitor = AttributionMonitor(samples=samples, max_overhead=None, on_error="raise")
        fit(tmp_path, monitor, model=Words(), data=sentences, max_epochs=2)
        assert set(load_explanations(tmp_path)[1].maps) == {"saliency"}
        assert set(load_explanations(tmp_path)[1].values) == {"saliency/attribution_drift"}


class WordsOfTwo(Words):
    """Its logits need a second entry of the batch."""

    def forward(self, ids: Tensor, others: Tensor) -> Any:  # type: ignore[override]  # one more than that of Words
        return self.net(self.drop(self.word(ids) + self.word(others)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0], batch[1]), batch[2])


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_undefined_methods_are_not_named_if_the_network_cannot_be_explained(tmp_path: Path) -> None:
    def pairs() -> DataLoader[Any]:
        return DataLoader(TensorDataset(tokens(), tokens().flip(0), torch.arange(12) % 3), batch_size=4)

    with pytest.warns(UserWarning, match="got one that is given batch") as caught:
        fit(tmp_path, attribution_monitor(steps=2), model=WordsOfTwo(), data=pairs, max_epochs=1)
    assert not [warning for warning in caught if "Left out" in str(warning.message)]


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_samples_of_a_checkpoint_are_explained_by_what_is_defined_for_tokens(tmp_path: Path) -> None:
    def fit_to(epochs: int, **options: Any) -> None:
        monitor = attribution_monitor(methods=("grad_cam", "saliency"), metrics=("deletion",), num_samples=1)
        fitting = trainer(tmp_path, monitor, max_epochs=epochs, enable_checkpointing=True)
        with pytest.warns(UserWarning, match="training goes on: grad_cam, deletion"):
            fitting.fit(Words(), sentences(), **options)

    fit_to(1)
    [checkpoint] = tmp_path.rglob("*.ckpt")
    fit_to(2, ckpt_path=checkpoint)
    assert set(explanation(tmp_path, 1)) >= {"saliency.maps"}


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_the_first_batch_of_tokens_switches_explanations_off_if_no_method_is_defined(tmp_path: Path) -> None:
    message = r"Explanations are switched off, training goes on: ValueError: .* defined for tokens, .* got grad_cam\."
    monitor = attribution_monitor(methods="grad_cam", metrics=())
    with pytest.warns(UserWarning, match=message):
        fit(tmp_path, monitor, model=Words(), data=sentences, max_epochs=1)


UNDEFINED: dict[str, Any] = {"methods": ("grad_cam", "saliency"), "metrics": ("deletion",)}


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_the_first_batch_of_tokens_raises_where_errors_are_to_be_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"defined for tokens, .*, got grad_cam, 'blur'"):
        fit(tmp_path, attribution_monitor(**UNDEFINED, on_error="raise"), model=Words(), data=sentences)


def test_given_tokens_are_checked_in_the_constructor() -> None:
    with pytest.raises(ValueError, match=r"defined for tokens, \(2, 5\), .*, got grad_cam, 'blur'"):
        attribution_monitor(**UNDEFINED, samples=(tokens(2), Y))


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize("baseline", [6, -1])
def test_a_baseline_outside_the_vocabulary_is_refused_before_it_is_looked_up(tmp_path: Path, baseline: int) -> None:
    monitor = attribution_monitor(methods="saliency", baseline=baseline, on_error="raise")
    with pytest.raises(ValueError, match=rf"`baseline` to be a token in \[0, 6\), got {baseline}"):
        trainer(tmp_path, monitor).fit(Words(), sentences())


def test_an_audit_of_texts_needs_no_dataset_to_show_their_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, TrainingDynamicsMonitor(audit=6, decode=WORDS.__getitem__), model=Words(), data=sentences)
    assert main(["audit", str(tmp_path), "--n", "6"]) == 0
    assert "neither picture nor text" not in capsys.readouterr().out
    for card in content_of(tmp_path / "dynalens" / "audit.html")["cards"]:
        assert card["text"].split() == [WORDS[token] for token in tokens()[int(card["id"])].tolist() if token]
