"""Trainings on wrong labels whose logits are kept, so that scores can be redone without training.

One run is a small network on one data set with one kind and rate of wrong labels: labels that people gave (CIFAR-10N,
and the sentences of ``rated_texts.py``), or flips. Each file holds the given and the true labels and the logits of
every sample in every epoch, taken from the training step's own forward before its update. The learning rate is constant
in runs of 12 and 30 epochs, so that their first epochs are shorter runs. Runs of 40 epochs follow a cosine.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rated_texts
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Array = npt.NDArray[Any]
TUNED, JUDGED = "tuned", "judged"
SMALL, RESNET9, BAG = "small", "resnet9", "bag"
HUMAN, TEXTS = "human", "texts"
"""CIFAR-10N: Wei et al., "Learning with Noisy Labels Revisited", ICLR 2022. https://arxiv.org/abs/2110.12088"""

HUMAN_FILE = "cifar10n_10k.npz"
"""With ``images`` (N, 32, 32, 3), ``clean`` (N,) and one array (N,) for each of the label sets."""

HUMAN_LABELS = {"random2": 18, "aggre": 9, "worse": 40}
"""Label sets of CIFAR-10N, and the percentage of wrong labels in each."""


@dataclass(frozen=True)
class Run:
    """One training: data, kind and percentage of wrong labels, augmentation, epochs, seed, network."""

    split: str
    data: str
    flips: str
    percent: int
    augmented: bool
    epochs: int
    seed: int
    network: str = SMALL

    @property
    def name(self) -> str:
        """File name without its ending."""
        regime = "aug" if self.augmented else "plain"
        network = "" if self.network == SMALL else f"_{self.network}"
        return f"{self.split}_{self.data}_{self.flips}_{self.percent}_{regime}_e{self.epochs}_s{self.seed}{network}"


_BOTH = (False, True)


def human_runs(split: str, seed: int) -> Iterator[Run]:
    """Yield trainings on labels that people gave: of 12 epochs, then with a residual network, then of 30 epochs."""
    for epochs, network in ((12, SMALL), (12, RESNET9), (30, SMALL)):
        for (labels, percent), augmented in itertools.product(HUMAN_LABELS.items(), _BOTH):
            yield Run(split, HUMAN, labels, percent, augmented, epochs, seed, network)


def text_runs(seed: int) -> Iterator[Run]:
    """Yield trainings on sentences with the labels of few people, which are only judged on."""
    for (labels, percent), augmented in itertools.product(rated_texts.LABELS.items(), _BOTH):
        yield Run(JUDGED, TEXTS, labels, percent, augmented, 12, seed, BAG)


def tuned_runs(seed: int) -> Iterator[Run]:
    """Yield what scores may be tuned on: digits, easy, blended and murky; uniform, pair and hard-sample flips."""
    kinds = (("mnist", "uniform"), ("mnist", "pair"), ("blend", "uniform"), ("blend", "pair"), ("blend", "instance"))
    for (data, flips), percent, augmented in itertools.product(kinds, (20, 40, 10), _BOTH):
        yield Run(TUNED, data, flips, percent, augmented, 12, seed)
    murky = (("uniform", 0), ("uniform", 20), ("instance", 20), ("pair", 20), ("instance", 40), ("uniform", 5))
    for (flips, percent), augmented in itertools.product(murky, _BOTH):
        yield Run(TUNED, "murky", flips, percent, augmented, 12, seed)
    others = ("hundred", "tail", "mnist1000", "blend1000")
    for data, (flips, percent) in itertools.product(others, (("uniform", 20), ("pair", 10))):
        yield Run(TUNED, data, flips, percent, data in ("hundred", "blend1000"), 12, seed)
    for percent, data, augmented in itertools.product((0, 5, 1), ("mnist", "blend"), _BOTH):
        yield Run(TUNED, data, "pair" if augmented else "uniform", percent, augmented, 12, seed)
    long = (("uniform", 20), ("pair", 40))
    for data, (flips, percent), augmented in itertools.product(("blend", "mnist"), long, _BOTH):
        yield Run(TUNED, data, flips, percent, augmented, 40, seed)
    yield from _hard_runs(seed)


def _hard_runs(seed: int) -> Iterator[Run]:
    """Yield few flips on hard data, where right labels that the network doubts outnumber them."""
    kinds = (("turned", "uniform"), ("murky", "pair"), ("turned", "pair"), ("murky", "uniform"), ("blend", "instance"))
    for percent, (data, flips), augmented in itertools.product((1, 5), kinds, _BOTH):
        if (data, flips, percent) != ("murky", "uniform", 5):
            yield Run(TUNED, data, flips, percent, augmented, 12, seed)
    for (flips, percent), augmented in itertools.product((("uniform", 0), ("uniform", 20), ("pair", 20)), _BOTH):
        yield Run(TUNED, "turned", flips, percent, augmented, 12, seed)


def judged_runs(seed: int) -> Iterator[Run]:
    """Yield what is only judged on: CIFAR, class-dependent flips, seeds of their own."""
    kinds = (("cifar", "uniform"), ("cifar", "class"), ("cifar", "pair"), ("cifar", "instance"), ("mnist", "class"))
    for percent, (data, flips), augmented in itertools.product((20, 40, 10), kinds, _BOTH):
        yield Run(JUDGED, data, flips, percent, augmented, 12, seed)
    rare = (("mnist", "class"), ("cifar", "class"), ("cifar", "uniform"))
    for percent, (data, flips), augmented in itertools.product((0, 5, 1), rare, _BOTH):
        if percent or flips == "class":
            yield Run(JUDGED, data, flips, percent, augmented, 12, seed)
    long = (("cifar", "uniform", 20), ("cifar", "class", 40), ("mnist", "class", 20))
    for (data, flips, percent), augmented in itertools.product(long, _BOTH):
        yield Run(JUDGED, data, flips, percent, augmented, 40, seed)
    for data in ("cifar1000", "hundred", "tail", "mnist1000"):
        yield Run(JUDGED, data, "class", 20, data in ("cifar1000", "hundred"), 12, seed)


def grid(seeds: int, split: str | None = None) -> list[Run]:
    """Return all runs, the most informative first; tuned seeds count from 0, judged ones from 100."""
    runs: list[Run] = []
    for seed in range(seeds):
        runs += [*human_runs(TUNED, seed), *tuned_runs(seed)]
        runs += [*human_runs(JUDGED, 100 + seed), *text_runs(100 + seed), *judged_runs(100 + seed)]
    return [run for run in runs if split in (None, run.split)]


def data_file(data: str) -> str:
    """Return the name of the file or folder with the images or sentences of this data set."""
    if data == TEXTS:
        return rated_texts.FOLDER
    return HUMAN_FILE if data == HUMAN else "cifar10_5k.npz" if data.startswith("cifar") else "mnist10k.npz"


def load(folder: Path, data: str, seed: int, *, whole: bool = False) -> tuple[Tensor, Array]:
    """Return images (N, C, H, W), standardised, and true labels (N,); with ``whole``, all and not only 5,000 of them.

    Of ``texts`` it returns the tokens (N, T) of all sentences.

    ``blend`` mixes each digit with a weaker one of another class, so that the network errs on clean labels, ``murky``
    more so, ``turned`` turns each as well, so that it is not half learned in 12 epochs; ``human`` is CIFAR-10N, always
    whole and in its own order;
    ``hundred`` puts two digits side by side, one class for each pair; ``tail`` keeps 20 times fewer samples of the
    last class than of the first.
    """
    if data == TEXTS:
        sentences, ratings = rated_texts.read(folder)
        return rated_texts.tokens(sentences), rated_texts.true_labels(ratings)
    if data == HUMAN:
        with np.load(folder / HUMAN_FILE) as file:
            return _standardised(file["images"].astype(np.float32)), file["clean"].astype(np.int64)
    images, labels = _images(folder, data, seed)
    if not whole:
        count = 1000 if data.endswith("1000") else 3000 if data in ("blend", "murky") else 5000
        images, labels = images[:count], labels[:count]
    return _standardised(images), labels


def _images(folder: Path, data: str, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(1_000 + seed)
    with np.load(folder / data_file(data)) as file:
        images, labels = file["images"].astype(np.float32), file["labels"].astype(np.int64)
    order = rng.permutation(len(labels))
    images, labels = images[order], labels[order]
    if data.startswith("blend"):
        images, labels = _blended(images, labels, 0.75, 40, rng)
    elif data == "murky":
        images, labels = _blended(images, labels, 0.58, 90, rng)
    elif data == "turned":
        turned = np.stack(
            [np.rot90(image, k) for image, k in zip(images, rng.integers(0, 4, len(images)), strict=True)]
        )
        images, labels = _blended(turned, labels, 0.62, 60, rng)
    elif data == "hundred":
        small = images.reshape(len(images), 14, 2, 14, 2).mean((2, 4))
        images, labels = np.concatenate([small[:5000], small[5000:]], axis=2), labels[:5000] * 10 + labels[5000:]
    elif data == "tail":
        kept = np.concatenate([np.flatnonzero(labels == k)[: round(900 * 20 ** (-k / 9))] for k in range(10)])
        images, labels = images[kept], labels[kept]
    return images, labels


def _standardised(images: Array) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(images))
    x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return (x - x.mean()) / x.std()


def _blended(images: Array, labels: Array, most: float, grain: float, rng: np.random.Generator) -> tuple[Array, Array]:
    partner = rng.permutation(len(labels))
    usable = labels != labels[partner]
    weight = rng.uniform(0.5, most, (len(labels), 1, 1)).astype(np.float32)
    mixed = weight * images + (1 - weight) * np.roll(images[partner], rng.integers(-3, 4, 2), axis=(1, 2))
    mixed += rng.normal(0, grain, images.shape).astype(np.float32)
    return mixed[usable], labels[usable]


def flipped(labels: Array, kind: str, rate: float, rng: np.random.Generator, doubt: Array | None = None) -> Array:
    """Return the given labels: exactly ``rate`` of them wrong.

    Args:
        labels: True classes.
        kind: "uniform": any other class; "pair": the next class; "class": each class has a rate and one to three
            confusions of its own; "instance": the samples that a network doubts, towards the class that it proposes.
        rate: Fraction of wrong labels.
        rng: Source of the choice.
        doubt: Shape (N, K), out-of-sample probabilities, for "instance".
    """
    n, classes = len(labels), int(labels.max()) + 1
    other = (np.eye(classes) == 0) / (classes - 1)
    chance, target = np.ones(n), other[labels]
    if kind == "pair":
        target = np.roll(np.eye(classes), 1, axis=1)[labels]
    elif kind == "class":
        matrix = np.zeros((classes, classes))
        for k in range(classes):
            several = rng.choice(np.delete(np.arange(classes), k), rng.integers(1, 4), replace=False)
            matrix[k, several] = rng.dirichlet(np.ones(len(several)))
        chance, target = rng.uniform(0.2, 1.8, classes)[labels], matrix[labels]
    elif kind == "instance":
        assert doubt is not None
        chance = 1.02 - doubt[np.arange(n), labels]
        target = doubt * (np.eye(classes)[labels] == 0) + 1e-6 * other[labels]
        target /= target.sum(1, keepdims=True)
    # Exactly the asked number, each with probability proportional to its chance (Efraimidis and Spirakis 2006).
    chosen = np.argsort(np.log(rng.random(n)) / chance)[n - round(rate * n) :]
    given = labels.copy()
    given[chosen] = (target[chosen].cumsum(1) > rng.random((len(chosen), 1))).argmax(1)
    return given


def network(channels: int, classes: int) -> nn.Sequential:
    """Return a CNN of three convolutions with batch norm."""
    layers = [*_block(channels, 16), nn.MaxPool2d(2), *_block(16, 32), nn.MaxPool2d(2), *_block(32, 64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, classes))


def resnet9(channels: int, classes: int) -> nn.Sequential:
    """Return a slim ResNet-9: eight convolutions, four of them in two residual blocks, 16 to 128 channels."""
    layers = [*_block(channels, 16), nn.MaxPool2d(2), *_block(16, 32), _Residual(32), nn.MaxPool2d(2)]
    layers += [*_block(32, 64), nn.MaxPool2d(2), *_block(64, 128), _Residual(128)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, classes))


NETWORKS = {SMALL: network, RESNET9: resnet9, BAG: rated_texts.network}


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_block(width, width), *_block(width, width))

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.inner(x)
        assert isinstance(out, Tensor)
        return out


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images moved by up to 3 pixels and, where they have colours, half of them mirrored."""
    n, channels, height, width = images.shape
    moved = torch.randint(0, 7, (n, 2), generator=generator)
    rows = moved[:, :1] + torch.arange(height)
    columns = moved[:, 1:] + torch.arange(width)
    if channels == 3:
        turn = torch.rand(n, generator=generator) < 0.5
        columns[turn] = columns[turn].flip(1)
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate").permute(0, 2, 3, 1)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(
    images: Tensor, given: Array, run: Run, classes: int, weights: Array | None = None, *, decayed: bool = False
) -> tuple[Array, nn.Sequential]:
    """Return the logits (N, E, K), float16, of the training steps, and the network.

    With ``weights`` (N,), a step's loss is the weighted mean. The learning rate follows a cosine where ``decayed`` and
    in runs of 40 epochs.
    """
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    model = NETWORKS[run.network](images.shape[1], classes)
    layout = torch.channels_last if images.ndim == 4 else torch.contiguous_format
    model.to(memory_format=layout)  # type: ignore[call-overload, unused-ignore]  # in some torch releases
    augmented = augment if images.ndim == 4 else rated_texts.augment
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    decayed = decayed or run.epochs == 40
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.epochs) if decayed else None
    labels = torch.from_numpy(given)
    kept = np.empty((len(given), run.epochs, classes), np.float16)
    for epoch in range(run.epochs):
        for index in torch.split(torch.randperm(len(given), generator=generator), 50):
            x = images[index]
            x = augmented(x, generator) if run.augmented else x
            logits = model(x.contiguous(memory_format=layout))
            optimizer.zero_grad()
            loss = _loss(logits, labels[index], None if weights is None else torch.from_numpy(weights)[index])
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type here
            optimizer.step()
            kept[index.numpy(), epoch] = logits.detach().numpy()
        if decay:
            decay.step()
    return kept, model


def _loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return F.cross_entropy(logits, labels)
    return (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()


def save(path: Path, **arrays: Any) -> None:
    """Write the file whole or not at all."""
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, **arrays)
    temporary.rename(path)


def out_of_fold(images: Tensor, given: Array, run: Run, classes: int, folds: int) -> Array:
    """Return softmax probabilities (N, K) of networks that did not train on the sample; costs ``folds`` trainings."""
    result = np.empty((len(given), classes), np.float32)
    part = np.random.default_rng(run.seed).permutation(len(given)) % folds
    for fold in range(folds):
        inside, outside = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        _, model = train(images[inside], given[inside], run, classes)
        model.eval()
        with torch.no_grad():
            result[outside] = model(images[outside]).softmax(1).numpy()
    return result


def given_labels(run: Run, data: Path, images: Tensor, true: Array, doubts: Path) -> Array:
    """Return the labels (N,) that the run trains on; doubts for "instance" are trained once and kept in a folder."""
    if run.data == TEXTS:
        return rated_texts.given_labels(rated_texts.read(data)[1], run.flips)
    if run.data == HUMAN:
        with np.load(data / HUMAN_FILE) as file:
            return np.asarray(file[run.flips].astype(np.int64))
    doubt = None
    if run.flips == "instance":
        short = Run(run.split, run.data, "uniform", 0, True, 4, run.seed)
        path = doubts / f"{run.data}_{run.seed}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            np.save(path, out_of_fold(images, true, short, int(true.max()) + 1, 2))
        doubt = np.load(path)
    return flipped(true, run.flips, run.percent / 100, np.random.default_rng(run.seed), doubt)


def make(run: Run, data: Path, out: Path) -> None:
    """Train one run and write its file, whole or not at all."""
    path = out / f"{run.name}.npz"
    if path.exists():
        return
    began = time.process_time()
    images, true = load(data, run.data, run.seed)
    given = given_labels(run, data, images, true, out / "doubt")
    logits, _ = train(images, given, run, int(true.max()) + 1)
    save(path, given=given, true=true, logits=logits)
    final = (logits[:, -1].argmax(1) == given).mean()
    seconds = time.process_time() - began
    print(f"{run.name}: train accuracy {final:.3f}, on true labels "
          f"{(logits[:, -1].argmax(1) == true).mean():.3f}, {seconds:.0f} CPU s", flush=True)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Train whatever is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = f"folder of mnist10k.npz, cifar10_5k.npz, {HUMAN_FILE} and {rated_texts.FOLDER}"
    parser.add_argument("--data", required=True, type=Path, help=f"{files}; runs without theirs are left out")
    parser.add_argument("--out", required=True, type=Path, help="folder for the trajectories")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each split (%(default)s)")
    parser.add_argument("--split", choices=(TUNED, JUDGED), help="only these runs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for run in grid(args.seeds, args.split):
        if (args.data / data_file(run.data)).exists():
            make(run, args.data, args.out)


if __name__ == "__main__":
    main()
