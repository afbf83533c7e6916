"""Find the wrong labels in one training, act on them, train again, and compare the accuracy on clean test data.

Ways to act: leave the flagged samples out, weigh each sample by the probability that its label is right, give the
flagged ones their suggested labels. For comparison: leave as many out at random, leave out exactly the wrong ones, and
the true labels. All trainings of one seed begin with the same weights, which are not those of the training that found
the wrong labels; their learning rate follows a cosine, since with a constant one the last epoch is a matter of luck.
What was trained is kept and not trained again, so that a change of the ranking costs little.
"""

import argparse
import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from noisy_runs import HUMAN, HUMAN_FILE, HUMAN_LABELS, Run, flipped, load, save, train
from scipy.stats import t as student_t
from suspects import recorded
from torch import Tensor, nn

from dynalens.suspicion import PRECISION, assess, flagged, samples_table, weights

Array = npt.NDArray[Any]
TRAINED = {"mnist": 0.5, "cifar": 0.8, HUMAN: 0.8}  # part of the samples; the others are the test data
FLIPS = (("uniform", 20), ("pair", 20), ("class", 20), ("uniform", 0), ("uniform", 5))
NOISE = {"mnist": FLIPS, "cifar": FLIPS, HUMAN: tuple(HUMAN_LABELS.items())}
ROWS = {f"{data}_{flips}_{percent}": (data, flips, percent) for data in TRAINED for flips, percent in NOISE[data]}
SEED = 200  # the first one; the runs that scores are tuned and judged on have others
GIVEN = "as given"


@dataclass(frozen=True)
class TrainingSet:
    """What a network is trained on: rows of the images, their labels and, maybe, their weights."""

    rows: Array
    labels: Array
    weights: Array | None = None

    @property
    def key(self) -> str:
        """Name of the content."""
        weights = np.empty(0) if self.weights is None else self.weights
        parts = (self.rows.astype(np.int64), self.labels.astype(np.int64), weights.astype(np.float32))
        return hashlib.sha256(b"|".join(part.tobytes() for part in parts)).hexdigest()[:16]


@dataclass(frozen=True)
class Retrained:
    """What one seed showed: number of the flagged, how many of them are wrong, test accuracy of each way to act."""

    flagged: float
    caught: float
    accuracy: dict[str, float]


def ways(logits: Array, given: Array, true: Array, seed: int) -> tuple[Array, dict[str, TrainingSet]]:
    """Return which samples a run makes suspects, and what to train on in each way."""
    statistics, history = recorded(logits, given)
    found = assess(statistics, history)
    chosen = flagged(found.probability, PRECISION)
    everything = np.arange(len(given))
    at_random = np.sort(np.random.default_rng((seed, 1)).permutation(len(given))[int(chosen.sum()) :])
    replaced = np.where(chosen & (found.suggested >= 0), found.suggested, given)
    right = weights(samples_table(statistics, found)).astype(np.float32)

    def kept(rows: Array) -> TrainingSet:
        return TrainingSet(rows, given[rows])

    return chosen, {
        GIVEN: kept(everything),
        "flagged left out": kept(np.flatnonzero(~chosen)),
        "weighted": TrainingSet(everything, given, right),
        "relabelled": TrainingSet(everything, replaced),
        "random left out": kept(at_random),
        "wrong left out": kept(np.flatnonzero(given == true)),
        "true labels": TrainingSet(everything, true),
    }


def accuracy(model: nn.Module, images: Tensor, labels: Array) -> float:
    """Return the part that the network, in evaluation mode, has right."""
    model.eval()
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in torch.split(images, 500)])
    return float((predicted.numpy() == labels).mean())


class Bench:
    """The images of one data set and seed, divided into training and test data, and what was trained on them."""

    def __init__(self, data: Path, out: Path, name: str, seed: int, epochs: int) -> None:
        images, labels = load(data, name, seed, whole=True)
        count = round(TRAINED[name] * len(labels))
        self._peoples_labels: dict[str, Array] = {}
        if name == HUMAN:  # in an order of its own
            order = np.random.default_rng(1_000 + seed).permutation(len(labels))
            images, labels = images[order], labels[order]
            with np.load(data / HUMAN_FILE) as file:
                self._peoples_labels = {kind: file[kind][order[:count]].astype(np.int64) for kind in HUMAN_LABELS}
        self.images, self.true = images[:count], labels[:count]
        self.test = images[count:], labels[count:]
        self.out, self.classes = out, int(labels.max()) + 1
        self.run = Run("retraining", name, "uniform", 0, True, epochs, seed)

    def first(self, flips: str, percent: int) -> tuple[Array, Array]:
        """Return the logits (N, E, K) of a training on these labels, flipped or given by people, and the labels."""
        run = dataclasses.replace(self.run, flips=flips, percent=percent)
        path = self.out / f"{run.name}.npz"
        if not path.exists():
            given = self._peoples_labels.get(flips)
            if given is None:
                given = flipped(self.true, flips, percent / 100, np.random.default_rng(run.seed))
            logits, _ = train(self.images, given, run, self.classes)
            save(path, logits=logits, given=given)
        with np.load(path) as arrays:
            return arrays["logits"], arrays["given"]

    def retrained(self, part: TrainingSet) -> float:
        """Return the test accuracy of a network trained from scratch."""
        run = dataclasses.replace(self.run, seed=1_000 + self.run.seed)
        path = self.out / f"retrained_{run.data}_e{run.epochs}_s{run.seed}_{part.key}.npz"
        if not path.exists():
            _, model = train(self.images[part.rows], part.labels, run, self.classes, part.weights, decayed=True)
            save(path, accuracy=np.array(accuracy(model, *self.test)))
        with np.load(path) as arrays:
            return float(arrays["accuracy"])

    def compared(self, flips: str, percent: int) -> Retrained:
        """Return what each way to act on one run comes to."""
        logits, given = self.first(flips, percent)
        chosen, sets = ways(logits, given, self.true, self.run.seed)
        caught = int((chosen & (given != self.true)).sum())
        return Retrained(int(chosen.sum()), caught, {name: self.retrained(part) for name, part in sets.items()})


def means(rows: dict[str, list[Retrained]]) -> dict[str, list[Retrained]]:
    """Return, for each data set, the mean over its rows with 20 % of wrong labels, seed by seed."""
    found = {}
    for data in TRAINED:
        seeds = zip(*(runs for row, runs in rows.items() if ROWS[row][0::2] == (data, 20)), strict=True)
        if several := [_mean(runs) for runs in seeds]:
            found[f"{data}, mean of 20 %"] = several
    return found


def _mean(runs: Sequence[Retrained]) -> Retrained:
    flags, caught = (float(np.mean([getattr(run, name) for run in runs])) for name in ("flagged", "caught"))
    accuracies = {name: float(np.mean([run.accuracy[name] for run in runs])) for name in runs[0].accuracy}
    return Retrained(flags, caught, accuracies)


def interval(differences: Array) -> tuple[float, float]:
    """Return mean and half width of its 95 % interval by Student's t."""
    n = len(differences)
    return float(differences.mean()), float(student_t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))


def show(rows: dict[str, list[Retrained]]) -> None:
    """Print accuracy in percent and, in brackets, the paired gain over the labels as given, as Markdown."""
    names = list(next(iter(rows.values()))[0].accuracy)
    print("\n| run | seeds | flagged | of them wrong | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 4) + "|")
    for row, runs in rows.items():
        flags, caught = (sum(getattr(run, name) for run in runs) for name in ("flagged", "caught"))
        values = {name: 100 * np.array([run.accuracy[name] for run in runs]) for name in names}
        cells = [f"{values[GIVEN].mean():.2f}"]
        for name in names[1:]:
            mean, half = interval(values[name] - values[GIVEN])
            cells.append(f"{values[name].mean():.2f} ({mean:+.2f} ± {half:.2f})")
        precision = f"{100 * caught / flags:.0f} %" if flags else "-"
        print(f"| {row} | {len(runs)} | {flags / len(runs):.0f} | {precision} | " + " | ".join(cells) + " |")


def main(argv: Sequence[str] | None = None) -> None:
    """Train whatever is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of the data that the rows need")
    parser.add_argument("--out", required=True, type=Path, help="folder for what was trained")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument("--seeds", type=int, default=5, help="two or more (%(default)s)")
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args(argv)
    if args.seeds < 2:
        parser.error(f"Expected `--seeds` to be 2 or more, got {args.seeds}. One seed has no interval.")
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Retrained]] = {row: [] for row in args.rows}
    names = {ROWS[row][0] for row in args.rows}
    for seed in range(SEED, SEED + args.seeds):
        benches = {name: Bench(args.data, args.out, name, seed, args.epochs) for name in names}
        for row, runs in rows.items():
            data, flips, percent = ROWS[row]
            began = time.process_time()
            runs.append(benches[data].compared(flips, percent))
            shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in runs[-1].accuracy.items())
            print(f"{row}, seed {seed}: {shown}; {time.process_time() - began:.0f} CPU s", flush=True)
    show({"{}, {} {} %".format(*ROWS[row]): runs for row, runs in rows.items()} | means(rows))


if __name__ == "__main__":
    main()
