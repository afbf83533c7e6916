"""Which words a text classifier reads, and which reviews have a wrong label.

A small transformer learns whether generated reviews praise or blame; 5 % of the training labels are flipped. You will
see how many flipped ones are among the worst suspects, and in TensorBoard, tab Images, reviews in coloured words: red
speaks for the label, blue against it. "not" has to turn the colour of what follows; early epochs do not know it yet.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor

CLASSES = ["blame", "praise"]
SUBJECTS = ["the film", "this book", "the new album", "our hotel", "the soup", "her concert", "that lecture"]
WORDS = [["awful", "dull", "bland", "poor", "clumsy"], ["great", "lovely", "moving", "superb", "clever"]]
ADVERBS = ["", "really ", "quite ", "rather "]
ENDS = ["", "we saw it on monday", "my brother told me so", "as they say"]
PADDING, UNKNOWN = 0, 1
VOCABULARY = ["", "?", *sorted({w for s in [*SUBJECTS, *ADVERBS, *ENDS, "was not"] for w in s.split()})]
VOCABULARY += [word for words in WORDS for word in words]
LENGTH = 14


def review(rng: random.Random) -> tuple[list[str], int]:
    """Return the words of a review and its class: that of its adjective, or after "not" the other one."""
    kind, negated = rng.randrange(2), rng.random() < 0.4
    opinion = f"was {'not ' * negated}{rng.choice(ADVERBS)}{rng.choice(WORDS[kind])}"
    return f"{rng.choice(SUBJECTS)} {opinion} {rng.choice(ENDS)}".split(), kind ^ negated


class Reviews(Dataset[tuple[Tensor, int]]):
    """Generated reviews as token ids (14,), padded with 0; some have the other label."""

    classes = CLASSES

    def __init__(self, number: int, seed: int, flipped: int = 0) -> None:
        rng = random.Random(seed)
        reviews = [review(rng) for _ in range(number)]
        self.texts = [" ".join(words) for words, _ in reviews]
        self.flipped = set(rng.sample(range(number), flipped))
        self.labels = [label ^ (i in self.flipped) for i, (_, label) in enumerate(reviews)]
        self.tokens = torch.full((number, LENGTH), PADDING)
        for row, (words, _) in enumerate(reviews):
            self.tokens[row, : len(words)] = torch.tensor([VOCABULARY.index(word) for word in words])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.tokens[i], self.labels[i]


class Reader(pl.LightningModule):
    """An ordinary small transformer; some words are hidden from it while it trains."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), width, padding_idx=PADDING)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, tokens: Tensor) -> Any:
        """Return logits."""
        padding = tokens == PADDING
        x = self.encoder(self.embedding(tokens) + self.places, src_key_padding_mask=padding)
        return self.head(x.masked_fill(padding.unsqueeze(2), 0).sum(1) / (~padding).sum(1, keepdim=True))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        tokens, labels = batch
        hidden = (torch.rand(tokens.shape, device=self.device) < 0.1) & (tokens != PADDING)
        return F.cross_entropy(self(tokens.masked_fill(hidden, UNKNOWN)), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy."""
        self.log("val_accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def in_percent(probability: float) -> str:
    """Return an estimated probability in percent, which is never rounded to certainty."""
    return ">99 %" if probability > 0.99 else f"{100 * probability:.0f} %"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and print the worst suspects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", default=".", help="folder for lightning_logs")
    args = parser.parse_args(argv)
    pl.seed_everything(0, verbose=False)
    train, val = Reviews(args.samples, 1, flipped=args.samples // 20), Reviews(256, 2)
    dynamics = TrainingDynamicsMonitor(name_of=lambda i: train.texts[i])
    nothing = {"integrated_gradients": {"baseline": torch.full((1, LENGTH), UNKNOWN)}}
    words = AttributionMonitor(
        methods=("integrated_gradients", "saliency"), method_args=nothing, baseline=UNKNOWN, steps=LENGTH,
        decode=VOCABULARY.__getitem__, num_samples=4, suspects=3,
        inputs=lambda batch: batch,  # the step hides words from the network: explain the reviews as they are
    )  # fmt: skip
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="auto", callbacks=[dynamics, words], default_root_dir=args.out
    )
    trainer.fit(Reader(), DataLoader(train, 32, shuffle=True), DataLoader(val, 64))
    suspects = dynamics.suspects()
    worst = set(suspects.index[: len(train.flipped)])
    columns = ["name", "label_name", "suggested_name", "wrong_probability"]
    print(suspects.head(8)[columns].to_string(formatters={"wrong_probability": in_percent}))
    print(f"\n{len(worst & train.flipped)} of {len(worst)} flipped labels are among the {len(worst)} worst suspects.")
    print(f"TensorBoard: tensorboard --logdir {Path(str(trainer.log_dir))}")


if __name__ == "__main__":
    main()
