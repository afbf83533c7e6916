"""Compare scores for wrong labels on data on which nothing of the order was chosen.

The data are those of scikit-learn, mixtures of normal distributions, and each FILE.npz of ``--data`` with the arrays
``x``, float of shape (N, D), and ``y``, int. A network with two hidden layers of 128 units is trained with Adam, at a
rate of .002 or that of ``--learning-rate``. Two tables have average precision in percent, one by kinds of wrong labels
and one by data: means over all else.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cleanlab.rank import get_label_quality_scores
from sklearn import datasets
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn import functional as F

from dynalens.dynamics import TrainingDynamics
from dynalens.suspicion import assess

Array = npt.NDArray[Any]
Values = defaultdict[str, dict[str, list[float]]]
KINDS = (
    ("any class", 0.02),
    ("any class", 0.2),
    ("any class", 0.6),
    ("next class", 0.2),
    ("next class", 0.4),
    ("first class", 0.1),
    ("similar class", 0.2),
    ("hard samples", 0.15),
    ("copies", 0.1),
    ("noise as input", 0.1),
)
"""What wrong labels name, and the fraction of them."""

LEARNING_RATE = 2e-3


def standardised(x: Array) -> Array:
    """Return the columns with mean 0 and variance 1, float32."""
    result: Array = ((x - x.mean(0)) / (x.std(0) + 1e-6)).astype(np.float32)
    return result


def mixture(classes: int, rng: np.random.Generator, *, samples: int = 3000, rarest: float = 1.0) -> tuple[Array, Array]:
    """Return normal clusters in 20 dimensions, whose frequency falls evenly on a logarithmic scale to ``rarest``."""
    frequency = rarest ** (np.arange(classes) / (classes - 1))
    y = rng.choice(classes, samples, p=frequency / frequency.sum())
    centres = rng.normal(size=(classes, 20)) * (1.1 if classes <= 10 else 1.4)
    return (centres[y] + rng.normal(size=(samples, 20))).astype(np.float32), y


def all_data(folder: Path | None, seed: int) -> Iterator[tuple[str, Array, Array]]:
    """Yield name, inputs and right labels of each dataset."""
    rng = np.random.default_rng(seed)
    for name in ("digits", "breast_cancer", "wine"):
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        yield name, standardised(x), y
    for classes, options in ((3, {}), (10, {}), (50, {}), (200, {"samples": 4000}), (10, {"rarest": 0.01})):
        yield f"{classes} clusters{', 1:100' if options.get('rarest') else ''}", *mixture(classes, rng, **options)
    for path in sorted(folder.glob("*.npz")) if folder else ():
        with np.load(path) as arrays:
            yield path.stem, arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)


def mislabeled(x: Array, y: Array, kind: str, rate: float, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return inputs, given labels and which of them are wrong."""
    classes, chosen = int(y.max()) + 1, rng.random(len(y)) < rate
    given, other = y.copy(), (y + rng.integers(1, classes, len(y))) % classes
    if kind == "next class":
        other = (y + 1) % classes
    elif kind == "first class":
        other = np.zeros_like(y)
    elif kind == "similar class":
        other = drawn_by_distance(x, y, rng)
    elif kind == "hard samples":
        margin, other = runner_up(x, y)
        blurred = margin + rng.gumbel(size=len(y)) * margin.std() / 2
        chosen = blurred <= np.quantile(blurred, rate)
    elif kind == "copies":
        return np.concatenate([x, x[chosen]]), np.append(y, other[chosen]), np.arange(len(y) + chosen.sum()) >= len(y)
    elif kind == "noise as input":
        x = x.copy()
        x[chosen] = rng.normal(size=x[chosen].shape) * x.std() * 1.5
        given[chosen] = rng.integers(0, classes, chosen.sum())
        return x, given, chosen
    given[chosen] = other[chosen]
    return x, given, given != y


def drawn_by_distance(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Return another class for each sample, the more often the nearer the means of both classes are."""
    means = np.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])
    distance = np.square(means[:, np.newaxis] - means).sum(2)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.min(1, keepdims=True)
    weight = np.exp((nearest - distance) / np.median(nearest))
    weight /= weight.sum(1, keepdims=True)
    return np.array([rng.choice(len(means), p=weight[k]) for k in y])


def runner_up(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the margin of each sample in the last of eight epochs on right labels, and the class beside its own."""
    logits = trained(x, y, epochs=8, seed=5, batch_size=50)[-1]
    row = np.arange(len(y))
    own = logits[row, y].copy()
    logits[row, y] = -np.inf
    return own - logits.max(1), logits.argmax(1)


def trained(
    x: Array, y: Array, *, epochs: int, seed: int, batch_size: int, learning_rate: float = LEARNING_RATE
) -> Array:
    """Return the logits of each sample in the step of each epoch that trained on it, shape (E, N, K)."""
    torch.manual_seed(seed)
    inputs, labels, classes = torch.from_numpy(x), torch.from_numpy(y), int(y.max()) + 1
    network = nn.Sequential(
        nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, classes)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    recorded = np.empty((epochs, len(y), classes), np.float32)
    for epoch in range(epochs):
        for rows in torch.split(torch.randperm(len(y)), batch_size):
            logits = network(inputs[rows])
            recorded[epoch, rows.numpy()] = logits.detach().numpy()
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[rows]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    return recorded


def scores(logits: Array, given: Array) -> dict[str, Array]:
    """Return the scores of one run; higher is more suspicious."""
    dynamics, labels = TrainingDynamics(len(given)), torch.from_numpy(given)
    history = []
    for epoch, z in enumerate(logits):
        dynamics.update(torch.arange(len(given)), torch.from_numpy(z), labels)
        history.append(dynamics.end_epoch(epoch).presentations())
    log_p = torch.from_numpy(logits).double().log_softmax(2)
    loss = -log_p[:, torch.arange(len(given)), labels].numpy()
    statistics, mean_p = dynamics.compute(), log_p.exp().mean(0).numpy()
    cleanlab = {m: -get_label_quality_scores(given, mean_p, method=m) for m in ("self_confidence", "normalized_margin")}
    never_learned = ~statistics.learned * len(logits)
    return {
        "dynalens": assess(statistics, history).score,
        "AUM": -statistics.margin,
        "mean loss": loss.mean(0),
        "last loss": loss[-1],
        "forgetting": statistics.forgetting_events + never_learned,
        "cleanlab, self-confidence": cleanlab["self_confidence"],
        "cleanlab, margin": cleanlab["normalized_margin"],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with more data, FILE.npz with x and y")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args(argv)
    by_kind, by_data = Values(lambda: defaultdict(list)), Values(lambda: defaultdict(list))
    for seed in args.seeds:
        for number, (data, x, y) in enumerate(all_data(args.data, seed)):
            for kind, rate in KINDS:
                rng = np.random.default_rng([seed, number, 1])  # not the numbers that made the data
                inputs, given, wrong = mislabeled(x, y, kind, rate, rng)
                if not wrong.any():
                    continue
                options = {"epochs": args.epochs, "learning_rate": args.learning_rate}
                logits = trained(inputs, given, seed=seed, batch_size=50 if len(y) > 1000 else 16, **options)
                for name, score in scores(logits, given).items():
                    precision = 100 * float(average_precision_score(wrong, score))
                    by_kind[f"{kind}, {100 * rate:.0f} %"][name].append(precision)
                    by_data[data][name].append(precision)
    for title, values in (("wrong labels", by_kind), ("data", by_data)):
        print(table(title, values))


def table(title: str, values: Values) -> str:
    """Return a table of the means, with the number of trainings."""
    names = list(next(iter(values.values())))
    lines = [f"| {title} | trainings | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for row, of_row in values.items():
        means = " | ".join(f"{np.mean(of_row[name]):.1f}" for name in names)
        lines.append(f"| {row} | {len(of_row[names[0]])} | {means} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
