"""Wrong targets of samples with several labels and of regressions: average precision of the order, beside cleanlab.

Data are the digits of scikit-learn. Of several labels, two digits stand in one picture and each bit is flipped with a
probability, or each label that a sample has is left out; a sample is wrong if one of its bits is. Of a regression, the
target is the angle by which a digit was turned, and a part of the targets is exchanged among each other; a sample is
wrong if its target is another one by at least half the standard deviation, and samples that were exchanged for less are
left out.

A network learns the wrong targets. What it computes in each training step is what is recorded and what cleanlab is
given, averaged over the epochs and of the last one. With ``--folds``, cleanlab is also given what it asks for: the
outputs for each sample of a network that was trained, for as many epochs, on the other folds alone. With ``--rates``,
the lines tell instead how many samples the record takes to be wrong, and how many of those that it flags are. With
``--answers``, they tell what an audit of so many samples says of it, by a person who always knows the answer. Another
row is one more entry of ``ROWS``. The weights of epochs were chosen with seeds 0 and 1, and how wrong labels are
counted with seed 0, so that the others judge them.

    python benchmarks/units.py --folds 5       # all rows, three seeds, as in docs/results/several-labels.md
    python benchmarks/units.py --rates         # how many samples are wrong, and which are flagged
    python benchmarks/units.py --answers 100   # what an audit says
    python benchmarks/units.py --rows "regression, 5 %" --seeds 0
"""

import argparse
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from audit import Population, coverage, decision
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens import TrainingDynamics
from dynalens.defaults import PRECISION
from dynalens.dynamics import SampleStatistics, given_labels, tracker
from dynalens.dynamics.weighting import GROWTH, EpochWeights
from dynalens.suspicion import assess, flagged, streaming_score, wrong_probabilities
from dynalens.units import UnitPresentation, multi_label, regression

Array = npt.NDArray[Any]
EPOCHS, BATCH, RATE = 20, 32, 1e-3
OURS, PEER = "dynalens", "cleanlab"
REPETITIONS, DECISIONS = 500, 100
Scores = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Data with wrong targets, a network, and how peers rank its samples.

    Attributes:
        inputs: Shape ``(N, ...)``.
        given: Targets, ``(N, ...)``.
        wrong: Shape ``(N,)``, 1 where a target is wrong, 0 where none is, -1 where that does not count.
        network: Makes the network.
        loss: Of outputs and targets.
        presented: What a step shows of outputs and targets.
        values: From outputs ``(N, ...)`` to what peers are given: probabilities, or predictions.
        peers: Scores by name, higher is more suspicious, from such values and targets.
    """

    inputs: Tensor
    given: Tensor
    wrong: Array
    network: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    presented: Callable[[Tensor, Tensor], UnitPresentation]
    values: Callable[[Tensor], Tensor]
    peers: Callable[[Tensor, Tensor], Scores]


def several_labels(percent: float, seed: int, size: int, *, only_missing: bool = False) -> Problem:
    """Return pictures of two digits, of whose ten bits, or of whose labels, each is flipped with this probability."""
    rng = np.random.default_rng(seed)
    images, labels = digits_of_scikit_learn()
    pairs = torch.from_numpy(rng.integers(0, len(images), (2, size)))
    truth = (F.one_hot(labels[pairs[0]], 10) | F.one_hot(labels[pairs[1]], 10)).bool()
    flipped = torch.from_numpy(rng.random((size, 10)) < percent / 100) & (truth | (not only_missing))
    return Problem(
        inputs=torch.cat([images[pairs[0]], images[pairs[1]]], dim=3),
        given=(truth ^ flipped).float(),
        wrong=flipped.any(dim=1).int().numpy(),
        network=lambda: convolutional(10),
        loss=F.binary_cross_entropy_with_logits,
        presented=lambda logits, given: multi_label(logits, given.long()),
        values=torch.sigmoid,
        peers=multi_label_peers,
    )


def exchanged_numbers(percent: float, seed: int, size: int) -> Problem:
    """Return turned digits with their angles, of which a part is exchanged."""
    rng = np.random.default_rng(seed)
    images, _ = digits_of_scikit_learn()
    images = images[torch.from_numpy(rng.integers(0, len(images), size))]
    truth = torch.from_numpy(rng.uniform(-45, 45, size)).float()
    given, moved = truth.clone(), torch.from_numpy(rng.permutation(size)[: round(size * percent / 100)])
    given[moved] = truth[moved.roll(1)]
    distance = (given - truth).abs()
    wrong = (distance > truth.std() / 2).int() - ((distance > 0) & (distance <= truth.std() / 2)).int()
    return Problem(
        inputs=turned(images, truth),
        given=given.unsqueeze(1) / 45,
        wrong=wrong.numpy(),
        network=lambda: convolutional(1),
        loss=F.mse_loss,
        presented=lambda z, given: regression(z - given, given, (z - given).square()),
        values=lambda predictions: predictions,
        peers=regression_peers,
    )


ROWS: dict[str, Callable[[int, int], Problem]] = {}
for _percent in (0.5, 1, 3, 5, 10, 20):
    ROWS[f"several labels, {_percent:g} % of bits"] = functools.partial(several_labels, _percent)
for _percent in (5, 10, 20):
    ROWS[f"missing labels, {_percent} %"] = functools.partial(several_labels, _percent, only_missing=True)
for _percent in (5, 10):
    ROWS[f"regression, {_percent:g} %"] = functools.partial(exchanged_numbers, _percent)


def measured(problem: Problem, seed: int, epochs: int = EPOCHS, folds: int = 0) -> dict[str, float]:
    """Train, and return the average precision of each order by its name."""
    torch.manual_seed(seed)
    network, dynamics = problem.network(), TrainingDynamics(len(problem.inputs))
    values = []
    for epoch, outputs in enumerate(_trained(problem, network, torch.arange(len(problem.inputs)), epochs, dynamics)):
        dynamics.end_epoch(epoch)
        values.append(problem.values(outputs))
    given = {"averaged": torch.stack(values).mean(dim=0), "last epoch": values[-1]}
    if folds:
        given["cross-validated"] = problem.values(_held_out(problem, seed, epochs, folds))
    scores = {OURS: streaming_score(dynamics.compute())}
    for values_of, probabilities in given.items():
        of_peers = problem.peers(probabilities, problem.given)
        scores |= {f"{name}, {values_of}": score for name, score in of_peers.items()}
    counts = problem.wrong >= 0
    return {
        name: float(average_precision_score(problem.wrong[counts], score[counts])) for name, score in scores.items()
    }


def rated(problem: Problem, seed: int, epochs: int) -> dict[str, float]:
    """Train, and return the fraction of wrong samples, its estimate, and how good the flags at precision .8 are."""
    statistics = _recorded(problem, seed, epochs)
    rate = assess(statistics).noise_rate
    counts, wrong = problem.wrong >= 0, problem.wrong == 1
    flags = flagged(wrong_probabilities(statistics, rate.value), PRECISION) & counts
    return {
        "wrong": wrong[counts].mean(),
        "estimated": rate.value,
        "upper end": rate.high,
        "flagged": flags[counts].mean(),
        "wrong of the flagged": wrong[flags].mean() if flags.any() else float("nan"),
        "flagged of the wrong": flags[wrong].mean() if wrong.any() else float("nan"),
    }


def audited(problem: Problem, seed: int, epochs: int, answers: int) -> dict[str, float]:
    """Train, and return how often the interval of an audit holds the fraction of wrong samples, and what is flagged.

    ``width`` is that of the interval, relative to the one of a simple random sample of as many answers; ``best cut``
    is the largest part of the wrong samples that any first n of the order have at precision .8. ``answers add`` is the
    average precision of the order after the answers minus that before, among the samples that were not asked about.
    """
    statistics, counts = _recorded(problem, seed, epochs), problem.wrong >= 0
    label = None if statistics.target is not None else statistics.label[counts].astype(np.int64)
    population = Population("", streaming_score(statistics)[counts], problem.wrong[counts] == 1, label)
    cell = coverage(population, answers, REPETITIONS)
    precision, recall, best, gain = decision(population, answers, DECISIONS)
    return {
        "wrong": population.rate,
        "interval holds": cell.held / 100,
        "width": cell.width / cell.simple,
        "wrong of the flagged": precision,
        "flagged of the wrong": recall,
        "best cut": best,
        "answers add": gain,
    }


def _recorded(problem: Problem, seed: int, epochs: int) -> SampleStatistics:
    """Train, and return the record."""
    torch.manual_seed(seed)
    network, dynamics = problem.network(), TrainingDynamics(len(problem.inputs))
    for epoch, _ in enumerate(_trained(problem, network, torch.arange(len(problem.inputs)), epochs, dynamics)):
        dynamics.end_epoch(epoch)
    return dynamics.compute()


def _trained(
    problem: Problem, network: nn.Module, samples: Tensor, epochs: int, dynamics: TrainingDynamics | None = None
) -> Iterator[Tensor]:
    """Train on these samples, and yield the outputs of each epoch's steps in their order."""
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    for _ in range(epochs):
        of_epoch: list[Tensor] = [torch.empty(0)] * len(samples)
        for places in torch.split(torch.randperm(len(samples)), BATCH):
            rows = samples[places]
            z, given = network(problem.inputs[rows]), problem.given[rows]
            if dynamics is not None:
                dynamics.update_units(rows, problem.presented(z.detach(), given))
            optimizer.zero_grad()
            problem.loss(z, given).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            for place, output in zip(places.tolist(), z.detach(), strict=True):
                of_epoch[place] = output
        yield torch.stack(of_epoch)


def _held_out(problem: Problem, seed: int, epochs: int, folds: int) -> Tensor:
    """Return the outputs for each sample of a network that was trained on the other folds."""
    outputs: list[Tensor] = [torch.empty(0)] * len(problem.inputs)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(problem.inputs)))
    for fold in order.tensor_split(folds):
        network = problem.network()
        for _ in _trained(problem, network, order[~torch.isin(order, fold)], epochs):
            pass
        with torch.no_grad():
            for place, output in zip(fold.tolist(), network.eval()(problem.inputs[fold]), strict=True):
                outputs[place] = output
    return torch.stack(outputs)


def convolutional(outputs: int) -> nn.Module:
    """Return a small network for pictures of any size."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, outputs),
    )  # fmt: skip


def turned(images: Tensor, degrees: Tensor) -> Tensor:
    """Return pictures turned by these angles."""
    radians = degrees * torch.pi / 180
    rows = [torch.stack([radians.cos(), -radians.sin()], 1), torch.stack([radians.sin(), radians.cos()], 1)]
    matrix = F.pad(torch.stack(rows, dim=1), (0, 1))
    return F.grid_sample(images, F.affine_grid(matrix, list(images.shape), align_corners=False), align_corners=False)


def digits_of_scikit_learn() -> tuple[Tensor, Tensor]:
    """Return 1,797 pictures ``(N, 1, 8, 8)`` in [0, 1] and their labels."""
    digits = load_digits()
    return torch.from_numpy(digits.images).float().unsqueeze(1) / 16, torch.from_numpy(digits.target).long()


def multi_label_peers(probabilities: Tensor, given: Tensor) -> Scores:
    """Return cleanlab's scores of samples with several labels."""
    from cleanlab.multilabel_classification import get_label_quality_scores

    labels = [np.flatnonzero(row).tolist() for row in given.numpy()]
    return {PEER: -get_label_quality_scores(labels, probabilities.double().numpy())}


def regression_peers(predictions: Tensor, given: Tensor) -> Scores:
    """Return cleanlab's two scores of numbers."""
    from cleanlab.regression.rank import get_label_quality_scores

    target, predicted = given.flatten().numpy(), predictions.flatten().numpy()
    residual = -get_label_quality_scores(target, predicted, method="residual")
    return {PEER: -get_label_quality_scores(target, predicted), "its residual": residual}


def main(arguments: Sequence[str] | None = None, rows: Mapping[str, Callable[[int, int], Problem]] = ROWS) -> None:
    """Print a line for each row, in percent, the mean over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="+", default=list(rows), choices=list(rows))
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--size", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--folds", type=int, default=0, help="of the cross-validation that cleanlab is given; 0: none")
    parser.add_argument("--rates", action="store_true", help="how many samples are wrong instead of their order")
    parser.add_argument("--answers", type=int, default=0, help="of an audit; 0: none")
    parser.add_argument("--power", type=float, help="another power of the epoch in the weights of epochs")
    parser.add_argument("--growth", type=int, default=GROWTH, help="with --power, epochs after which these stay")
    parser.add_argument("--steps", type=int, default=given_labels.STEPS, help="other than `given_labels.STEPS`")
    args = parser.parse_args(arguments)
    given_labels.STEPS = args.steps
    warnings.filterwarnings("ignore", message="Lazy modules")
    if args.power is not None:
        powers = [min(epoch + 1.0, args.growth) ** args.power for epoch in range(args.epochs)]
        setattr(tracker, "unit_weight", lambda epoch, **_: powers[epoch])  # noqa: B010  # not exported there
        setattr(EpochWeights, "next_of_masks", lambda _, epoch, __: powers[epoch])  # noqa: B010  # of another signature
    if args.rates or args.answers:
        _print_means({row: rows[row] for row in args.rows}, args)
        return
    print("| row | wrong | order | average precision | of single seeds |\n| --- | --- | --- | --- | --- |")
    for row in args.rows:
        problems = [rows[row](seed, args.size) for seed in args.seeds]
        runs = [
            measured(problem, seed, args.epochs, args.folds) for problem, seed in zip(problems, args.seeds, strict=True)
        ]
        wrong = np.mean([problem.wrong[problem.wrong >= 0].mean() for problem in problems])
        for name in runs[0]:
            values = [100 * run[name] for run in runs]
            single = ", ".join(f"{value:.1f}" for value in values)
            print(f"| {row} | {wrong:.1%} | {name} | {np.mean(values):.1f} | {single} |", flush=True)


def _print_means(rows: Mapping[str, Callable[[int, int], Problem]], args: argparse.Namespace) -> None:
    """Print a line for each row, in percent, the means over the seeds where there is a number."""
    for place, (row, make) in enumerate(rows.items()):
        problems = [(make(seed, args.size), seed, args.epochs) for seed in args.seeds]
        runs = pd.DataFrame([audited(*each, args.answers) if args.answers else rated(*each) for each in problems])
        if not place:
            print(f"| row | {' | '.join(map(str, runs.columns))} |\n|{' --- |' * (1 + runs.shape[1])}")
        print(f"| {row} | {' | '.join(f'{100 * value:.1f}' for value in runs.mean())} |", flush=True)


if __name__ == "__main__":
    main()
