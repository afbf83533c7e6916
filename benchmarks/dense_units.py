"""Wrong tags of tokens and wrong masks: average precision of the order, beside cleanlab, as ``benchmarks/units.py``.

Tags follow from a word and the one before it by a table; a part of the sentences has one wrong tag. Masks are of
pictures in which two digits of scikit-learn stand side by side, each with a class of its own; in a part of them a digit
is shifted, missing, or merged with the other one's class.

    python benchmarks/dense_units.py --size 600 --folds 5  # all rows, three seeds, as in docs/results/several-labels.md
    python benchmarks/dense_units.py --rows "masks, 5 %" --seeds 2
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from units import PEER, Problem, Scores, digits_of_scikit_learn, main

from dynalens.units import dense

WORDS, TAGS, LONGEST = 60, 8, 20
HEIGHT, WIDTH, CLASSES = 16, 20, 11
IGNORED = -100


def wrong_tags(percent: float, seed: int, size: int) -> Problem:
    """Return sentences of 6 to 20 words, of which this part has one wrong tag."""
    rng = np.random.default_rng(seed)
    tag_of = np.random.default_rng(7).integers(0, TAGS, (WORDS, 3))
    words, given = np.zeros((size, LONGEST), np.int64), np.full((size, LONGEST), IGNORED)
    wrong = rng.random(size) < percent / 100
    for i in range(size):
        sentence = rng.integers(1, WORDS, rng.integers(6, LONGEST + 1))
        tags = tag_of[sentence, np.append(0, sentence[:-1]) % 3]
        if wrong[i]:
            place = rng.integers(len(tags))
            tags[place] = (tags[place] + rng.integers(1, TAGS)) % TAGS
        words[i, : len(tags)], given[i, : len(tags)] = sentence, tags
    return Problem(
        inputs=torch.from_numpy(words),
        given=torch.from_numpy(given),
        wrong=wrong.astype(np.int64),
        network=Tagger,
        loss=F.cross_entropy,
        presented=dense,
        values=functools.partial(torch.softmax, dim=1),
        peers=_token_peers,
    )


def wrong_masks(percent: float, seed: int, size: int) -> Problem:
    """Return pictures of two digits with masks, of which this part is wrong."""
    rng = np.random.default_rng(seed)
    images, labels = (values.numpy() for values in digits_of_scikit_learn())
    pictures = 0.1 * rng.standard_normal((size, 1, HEIGHT, WIDTH)).astype(np.float32)
    given, wrong = np.zeros((size, HEIGHT, WIDTH), np.int64), rng.random(size) < percent / 100
    for i in range(size):
        objects = []
        for left in (rng.integers(0, 3), 10 + rng.integers(0, 3)):
            digit, top = rng.integers(len(images)), rng.integers(0, HEIGHT - 7)
            inside = np.zeros((HEIGHT, WIDTH), bool)
            pictures[i, 0, top : top + 8, left : left + 8] += images[digit, 0]
            inside[top : top + 8, left : left + 8] = images[digit, 0] > 0.3
            objects.append((inside, int(labels[digit]) + 1))
        for inside, label in _changed(objects, rng) if wrong[i] else objects:
            given[i][inside] = label
    return Problem(
        inputs=torch.from_numpy(pictures),
        given=torch.from_numpy(given),
        wrong=wrong.astype(np.int64),
        network=Segmenter,
        loss=F.cross_entropy,
        presented=dense,
        values=functools.partial(torch.softmax, dim=1),
        peers=_pixel_peers,
    )


def _changed(objects: list[tuple[Any, int]], rng: np.random.Generator) -> list[tuple[Any, int]]:
    """Return two objects of which one is shifted by two pixels in both directions, missing, or of the other's class."""
    one, other = objects if rng.random() < 0.5 else objects[::-1]
    kind = rng.integers(3 if one[1] != other[1] else 2)
    shifted = np.roll(one[0], tuple(rng.choice([-2, 2], 2)), (0, 1)), one[1]
    return [[shifted, other], [other], [(one[0], other[1]), other]][kind]


class Tagger(nn.Module):
    """A small bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.tag = nn.Embedding(WORDS, 32), nn.Linear(96, TAGS)
        self.net = nn.LSTM(32, 48, batch_first=True, bidirectional=True)

    def forward(self, words: Tensor) -> Tensor:
        """Return logits (N, K, T)."""
        scores: Tensor = self.tag(self.net(self.words(words))[0])
        return scores.movedim(2, 1)


class Segmenter(nn.Module):
    """A small U-Net without a way up: features of three resolutions, enlarged."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 24), (24, 48), (48, 48))
        self.levels = nn.ModuleList(
            nn.Sequential(*([] if not level else [nn.MaxPool2d(2)]), _block(ins, outs), _block(outs, outs))
            for level, (ins, outs) in enumerate(sizes)
        )
        self.pixel = nn.Conv2d(sum(outs for _, outs in sizes), CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K, H, W)."""
        features, size = [], x.shape[2:]
        for level in self.levels:
            x = level(x)
            features.append(F.interpolate(x, size=size))
        logits: Tensor = self.pixel(torch.cat(features, dim=1))
        return logits


def _block(ins: int, outs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU())


def _token_peers(probabilities: Tensor, given: Tensor) -> Scores:
    from cleanlab.token_classification.rank import get_label_quality_scores

    lengths = (given >= 0).sum(dim=1).tolist()
    labels = [row[:length] for row, length in zip(given.tolist(), lengths, strict=True)]
    rows = [p[:, :length].T.double().numpy() for p, length in zip(probabilities, lengths, strict=True)]
    return {PEER: -get_label_quality_scores(labels, rows)[0]}


def _pixel_peers(probabilities: Tensor, given: Tensor) -> Scores:
    from cleanlab.segmentation.rank import get_label_quality_scores

    return {PEER: -get_label_quality_scores(given.numpy(), probabilities.numpy(), verbose=False)[0]}


ROWS: dict[str, Callable[[int, int], Problem]] = {}
for _percent in (5, 10, 20):
    ROWS[f"tokens, {_percent} %"] = functools.partial(wrong_tags, _percent)
for _percent in (5, 10, 20):
    ROWS[f"masks, {_percent} %"] = functools.partial(wrong_masks, _percent)


if __name__ == "__main__":
    main(rows=ROWS)
