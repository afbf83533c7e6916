"""Sequences that are filled up, as collators do: explained as the network was trained, with its attention mask."""

import re
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from dynalens import AttributionMonitor, Explanation, TrainingDynamicsMonitor, load_record
from dynalens.capture.sequences import padding_of
from dynalens.explanations.result import ExplanationResult
from dynalens.explanations.task import Task
from dynalens.report.sentences import kept_texts
from training import K, N, arrays_of, trainer

pytestmark = pytest.mark.usefixtures("undrawn")

PAD, WORDS = 1, 13


def sentence(i: int) -> Tensor:
    return 2 + (i * 5 + torch.arange(3 + i % 4) * 3) % (WORDS - 2)


def collated(samples: list[int]) -> dict[str, Tensor]:
    sentences = [sentence(i) for i in samples]
    tokens = pad_sequence(sentences, batch_first=True, padding_value=PAD)
    labels = pad_sequence([each % K for each in sentences], batch_first=True, padding_value=-100)
    return {"input_ids": tokens, "attention_mask": (tokens != PAD).long(), "labels": labels}


class Mixed(nn.Module):
    """Adds to each token the mean of those that are attended to, as attention of equal weights; loss inside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.words, self.tag = nn.Embedding(WORDS, 8), nn.Linear(8, K)

    def forward(self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None) -> dict[str, Any]:
        counts = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states, weight = self.words(input_ids), counts.unsqueeze(2).float()
        mean = (states * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
        logits = self.tag(states + 4 * mean)
        loss = None if labels is None else F.cross_entropy(logits.view(-1, K), labels.view(-1))
        return {"loss": loss, "logits": logits}


class Tagger(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Mixed()

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(**batch)["loss"]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def fitted(folder: Path, *callbacks: Any, collate: Any = collated, model: Any = None) -> Tagger:
    pl.seed_everything(3, verbose=False)
    model, logger = model or Tagger(), pl.loggers.TensorBoardLogger(folder)
    # Each batch has another length.
    loader: DataLoader[Any] = DataLoader(list(range(N)), batch_size=3, collate_fn=collate)  # type: ignore[arg-type]  # a list
    trainer(folder, *callbacks, logger=logger).fit(model, loader)
    return cast("Tagger", model)


def test_padded_tokens_are_explained_with_the_mask_and_in_every_length(tmp_path: Path) -> None:
    explained = AttributionMonitor(
        on_error="raise",
        methods="input_x_gradient",
        metrics=("deletion",),
        baseline=0,
        steps=3,
        suspects=5,
        num_samples=3,
    )
    monitor = TrainingDynamicsMonitor(history=False)
    trained = fitted(tmp_path / "with", monitor, explained)
    for name, values in fitted(tmp_path / "without").state_dict().items():
        assert torch.equal(values, trained.state_dict()[name])
    arrays = arrays_of(max(tmp_path.rglob("explanations/*.npz")))
    assert len({len(sentence(i)) for i in arrays["suspects_label.ids"].tolist()}) > 1
    assert len(arrays["suspects_label.ids"]) == 5
    unit = monitor.statistics().unit
    assert unit is not None
    places = {"": [0] * 3, "suspects_label.": [int(unit[i]) for i in arrays["suspects_label.ids"]]}
    for prefix, chosen in places.items():
        for row, sample in enumerate(arrays[f"{prefix}ids"].tolist()):
            scores = trained.model(sentence(sample).unsqueeze(0))["logits"][0].detach()  # alone, it needs no mask
            np.testing.assert_allclose(arrays[f"{prefix}logits"][row], scores[chosen[row]], rtol=1e-4, atol=1e-5)


class InStep(Tagger):
    """Its step calls the network with all entries of the batch, and not its own `forward`."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.model(**batch)["loss"]


class OfPairs(Mixed):
    """Adds to the logits which of two texts a token is in."""

    def forward(
        self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None, token_type_ids: Any = None
    ) -> dict[str, Any]:
        output = super().forward(input_ids, attention_mask)
        logits = output["logits"] if token_type_ids is None else output["logits"] + token_type_ids.unsqueeze(2)
        return {
            "loss": None if labels is None else F.cross_entropy(logits.view(-1, K), labels.view(-1)),
            "logits": logits,
        }


def collated_texts(samples: list[int]) -> dict[str, Tensor]:
    batch = collated(samples)
    return {**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])}


def collated_pairs(samples: list[int]) -> dict[str, Tensor]:
    batch = collated(samples)
    return {**batch, "token_type_ids": (torch.arange(batch["input_ids"].shape[1]) > 1) * batch["attention_mask"]}


@pytest.mark.parametrize(
    ("collate", "warning_count"),
    [(collated, 0), (collated_texts, 0), (collated_pairs, 1)],
    ids=["mask", "one text", "pairs"],
)
def test_entries_beside_the_tokens_are_told_once_unless_tokens_say_the_same(
    tmp_path: Path, collate: Any, warning_count: int
) -> None:
    model, explained = InStep(), AttributionMonitor(on_error="raise", methods="saliency", metrics=(), num_samples=3)
    model.model = OfPairs()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(tmp_path, TrainingDynamicsMonitor(history=False), explained, model=model, collate=collate)
    message = r"given batch\['input_ids'\] and batch\['token_type_ids'\]\. .* explained with batch\['input_ids'\] alone"
    assert len([one for one in caught if re.search(message, str(one.message))]) == warning_count
    arrays = arrays_of(max(tmp_path.rglob("explanations/*.npz")))
    for row, sample in enumerate(arrays["ids"].tolist()):
        scores = model.model(sentence(sample).unsqueeze(0))["logits"][0, 0].detach()
        np.testing.assert_allclose(arrays["logits"][row], scores, rtol=1e-4, atol=1e-5)


class OfLengths(Mixed):
    """Reads each sentence as far as it is long, as packed sequences are read."""

    def forward(self, input_ids: Tensor, lengths: Tensor, labels: Any = None) -> dict[str, Any]:  # type: ignore[override]  # other inputs
        return super().forward(input_ids, (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(), labels)


class WithDecoder(Mixed):
    """Asks for the labels in words of its own, as a network whose decoder begins with them."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None) -> dict[str, Any]:
        if labels is None:
            raise ValueError("You must specify decoder_input_ids")
        return super().forward(input_ids, attention_mask, labels)


def collated_with_lengths(samples: list[int]) -> dict[str, Tensor]:
    batch = collated(samples)
    mask = batch.pop("attention_mask")
    return {**batch, "lengths": mask.sum(dim=1)}


@pytest.mark.parametrize(
    ("network", "collate", "message"),
    [
        (
            OfLengths, collated_with_lengths,
            r"is given batch\['input_ids'\] and batch\['lengths'\].*or makes the others from it.*'lengths'",
        ),
        (
            WithDecoder, collated,
            r"from batch\['input_ids'\] alone, got an error\. Pass `forward=` .*You must specify decoder_input_ids",
        ),
    ],
)  # fmt: skip
def test_a_network_that_needs_more_than_tokens_is_told_what_to_pass_and_training_goes_on(
    tmp_path: Path, network: type[Mixed], collate: Any, message: str
) -> None:
    model, explained = InStep(), AttributionMonitor(methods="saliency", metrics=(), num_samples=3)
    model.model = network()
    with pytest.warns(UserWarning, match=f"Explanations are switched off, training goes on: ValueError: .*{message}"):
        fitted(tmp_path, TrainingDynamicsMonitor(history=False), explained, model=model, collate=collate)


def test_padding_is_shown_in_no_text_and_in_no_picture(tmp_path: Path) -> None:
    """No word of these sentences has the number that pads them."""
    explained = AttributionMonitor(methods="saliency", metrics=(), num_samples=5, decode=lambda token: f"word{token}")
    dynamics = TrainingDynamicsMonitor(decode=lambda token: f"word{token}")
    fitted(tmp_path, dynamics, explained)
    texts = kept_texts(load_record(next(tmp_path.rglob("record.npz")).parent)).texts
    assert len(texts) == N
    for sample, text in texts.items():
        assert re.findall(r"\d+", text) == [str(token) for token in sentence(sample).tolist()]
    explanations = ExplanationResult(
        torch.tensor([[5, PAD, 7, PAD]]), torch.tensor([0]), torch.tensor([0]),
        Explanation({}, torch.zeros(1, 2), None), {}, {}, task=Task(padding=PAD),
    )  # fmt: skip
    [row] = explanations.rows(torch.zeros(0), decode=str)
    assert row.image == ("5", "", "7", "")


def filled_at_front(samples: list[int]) -> dict[str, Tensor]:
    """As tokenizers of GPT-2 with ``padding_side="left"``."""
    batch = collated(samples)
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    return {
        key: torch.stack([row.roll(len(row) - length) for row, length in zip(values, lengths, strict=True)])
        for key, values in batch.items()
    }


def test_sequences_that_are_filled_up_at_the_front_are_warned_of_once_and_their_losses_are_right(
    tmp_path: Path,
) -> None:
    monitors = TrainingDynamicsMonitor(history=False), TrainingDynamicsMonitor(history=False)
    with pytest.warns(
        UserWarning, match="filled up at their end, got some whose `attention_mask` begins with 0"
    ) as said:
        fitted(tmp_path / "front", monitors[0], collate=filled_at_front)
    assert len([each for each in said if "filled up" in str(each.message)]) == 1
    fitted(tmp_path / "end", monitors[1])
    losses = [monitor.statistics().loss for monitor in monitors]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_token_that_is_masked_only_at_some_places_is_no_padding() -> None:
    tokens, path = torch.tensor([[5, 7], [6, 0]]), ("input_ids",)
    assert padding_of({"input_ids": tokens, "attention_mask": torch.tensor([[1, 1], [1, 0]])}, path) == 0
    for mask in ([[1, 0], [1, 0]], [[1, 1], [1, 1]]):
        assert padding_of({"input_ids": tokens, "attention_mask": torch.tensor(mask)}, path) is None
    assert padding_of({"input_ids": tokens}, path) is None
    assert padding_of((tokens, torch.ones(2)), (0,)) is None
