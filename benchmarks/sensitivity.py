"""How the order of suspects depends on each of its constants: average precision on stored trainings.

Run ``noisy_runs.py`` first. Each constant in turn has other values, all others their own. The table is of the tuned
runs: labels that people gave, flips that follow a rule (pairs, classes) and all other flips. A second table has
trainings of each length, with weights of epochs that grow for shorter or longer.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from noisy_runs import HUMAN, JUDGED, TUNED, Run
from sklearn.metrics import average_precision_score
from suspects import margins, recorded, shorter, stored

from dynalens.dynamics import SampleStatistics, given_labels
from dynalens.dynamics.weighting import GROWTH
from dynalens.suspicion import confusions, predictions, score, streaming_score

Array = npt.NDArray[Any]

CONSTANTS: dict[str, tuple[Any, Sequence[float]]] = {
    "PAIRS": (score, (0.0, 0.1, 0.2, 0.3, 0.4)),
    "ONE_WAY": (score, (0.15, 0.2, 0.25, 0.3, 0.4)),
    "SURE": (predictions, (0.01, 0.15, 0.2, 0.25, 0.3, 0.4)),
    "BIAS": (confusions, (1.5, 2.0, 3.0, 5.0, 10.0)),
    "CHANCE": (confusions, (0.0, 1.0, 2.0, 3.0)),
    "ROUNDS": (confusions, (1, 2, 3, 4, 5, 7, 10)),
    "STEPS": (given_labels, (1, 2, 3, 5, 10)),
    "LEAST": (confusions, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
}
"""Module and values of each constant."""

POWERS = ((3, 2), (0, 0), (1, 1), (2, 1), (2, 2), (3, 0), (3, 1), (3, 1.5), (3, 3), (4, 2), (4, 3), (4, 4))
"""Of g and of c in the weight of epoch t (``epoch_weight``), the order's own first."""

CLOCKS = (
    *((growth, 1.0) for growth in (5, 8, GROWTH, 12, 15, 20)),
    *((GROWTH, fall) for fall in (0, 0.5, 0.75, 1.5, 2)),
    (GROWTH, None),
)
"""Epochs over which the weight grows in any case, and the power of c in g afterwards; None: it stops there."""

GROUPS: dict[str, Callable[[Run], bool]] = {
    "human": lambda run: run.data == HUMAN,
    "pair and class flips": lambda run: run.data != HUMAN and run.flips in ("pair", "class"),
    "other flips": lambda run: run.data != HUMAN and run.flips not in ("pair", "class"),
}


@dataclass(frozen=True)
class Stored:
    """A run of some epochs: its record, presentations (N, E) and which labels are wrong (N,)."""

    run: Run
    statistics: SampleStatistics
    presentations: dict[str, Array]
    wrong: Array


def read(folder: Path, split: str, seeds: int) -> Iterator[Stored]:
    """Yield the stored runs with wrong labels, also cut off after their first epochs."""
    for run, logits, given, true in stored(folder, split, seeds):
        for epochs in (run.epochs, *shorter(run)):
            if (given != true).any():
                statistics, _ = recorded(logits[:, :epochs], given)
                yield Stored(run, statistics, presented(logits[:, :epochs].astype(np.float32), given), given != true)


def presented(logits: Array, given: Array) -> dict[str, Array]:
    """Return margin, probability of the label and largest other probability of each presentation, (N, E) each."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    label = np.arange(logits.shape[2]) == given[:, None, None]
    return {
        "margin": margins(logits, given),
        "confidence": np.where(label, p, 0).sum(-1),
        "rival": np.where(label, 0, p).max(-1),
    }


def reweighted(
    one: Stored, powers: tuple[float, float], growth: int = GROWTH, fall: float | None = 1
) -> SampleStatistics:
    """Return the record as if epoch t had the weight g^a * c^b; see :data:`CLOCKS` for the other arguments."""
    c = contradictions(one.presentations["rival"] - one.presentations["confidence"])
    weight = grown(c, growth, fall) ** powers[0] * c ** powers[1]
    weight[0] = weight[0] if powers == (0, 0) or len(c) == 1 else 0
    weight = weight / weight.sum() if weight.sum() else np.full(len(c), 1 / len(c))
    return replace(one.statistics, **{f"weighted_{name}": each @ weight for name, each in one.presentations.items()})


def contradictions(gaps: Array) -> Array:
    """Return c of each epoch from p_rival - p_label of each presentation, (N, E): that with the smallest error so far.

    An epoch without an error has 0.
    """
    error, squares = (gaps >= 0).mean(0), gaps**2
    own = np.where(gaps > 0, squares, 0).mean(0) ** 2 / np.maximum(squares.mean(0), 1e-12)
    latest = [np.flatnonzero(error[: t + 1] == least(error[: t + 1]))[-1] for t in range(len(error))]
    result: Array = np.where(error > 0, own[latest], 0)
    return result


def least(errors: Array) -> float:
    """Return the smallest error but 0, if there is one."""
    return float(min(errors[errors > 0], default=0))


def grown(c: Array, growth: int, fall: float | None) -> Array:
    """Return g of each epoch: t + 1 up to ``growth``, later (t + 1) min(1, c / c then)^fall, or ``growth``."""
    count = np.arange(len(c)) + 1.0
    if fall is None or len(c) <= growth:
        stopped: Array = np.minimum(count, growth)
        return stopped
    ratio = np.minimum(1, c / max(c[growth - 1], 1e-12))
    result: Array = count * np.where(count > growth, ratio**fall, 1)
    return result


def precisions(runs: Sequence[Stored], record: Callable[[Stored], SampleStatistics]) -> list[float]:
    """Return the mean average precision, in percent, of each group; NaN of an empty one."""
    values = [average_precision_score(one.wrong, streaming_score(record(one))) for one in runs]
    means = []
    for belongs in GROUPS.values():
        part = [value for one, value in zip(runs, values, strict=True) if belongs(one.run)]
        means.append(100 * float(np.mean(part)) if part else float("nan"))
    return means


def constant(name: str, value: float) -> AbstractContextManager[Any]:
    """Let a constant have another value."""
    return patch.object(CONSTANTS[name][0], name, value)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", required=True, type=Path, help="folder of the trajectories")
    parser.add_argument("--split", choices=(TUNED, JUDGED), default=TUNED)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(argv)
    runs = list(read(args.runs, args.split, args.seeds))
    counts = [sum(belongs(one.run) for one in runs) for belongs in GROUPS.values()]
    titles = [f"{name} ({count})" for name, count in zip(GROUPS, counts, strict=True)]
    print("| constant | value | " + " | ".join(titles) + " |")
    print("|---" * (len(GROUPS) + 2) + "|")
    for powers in POWERS:
        own = " (default)" if powers == POWERS[0] else ""
        means = precisions(runs, lambda one: reweighted(one, powers))  # noqa: B023
        _print_row("powers of the weight", f"{powers[0]}, {powers[1]}{own}", means)
    for name, (module, values) in CONSTANTS.items():
        for value in values:
            with constant(name, value):
                means = precisions(runs, lambda one: replace(one.statistics))
            own = " (default)" if value == getattr(module, name) else ""
            _print_row(name, f"{value:g}{own}", means)
    by_length(runs)


def by_length(runs: Sequence[Stored]) -> None:
    """Print the average precision of the order for trainings of each length, in percent."""
    groups: dict[str, list[Stored]] = {}
    for one in sorted(runs, key=lambda one: (one.run.data != HUMAN, _epochs(one))):
        kind = "human" if one.run.data == HUMAN else "flips"
        groups.setdefault(f"{kind}, {_epochs(one)} epochs", []).append(one)
    print("\n| weights grow for, then | " + " | ".join(f"{name} ({len(part)})" for name, part in groups.items()) + " |")
    print("|---" * (len(groups) + 1) + "|")
    orders: dict[str, Callable[[Stored], Array]] = {"AUM": lambda one: -one.statistics.margin}
    for growth, fall in CLOCKS:
        own = " (default)" if (growth, fall) == (GROWTH, 1) else ""
        later = "stops" if fall is None else f"power {fall:g}"
        orders[f"{growth} epochs, {later}{own}"] = partial(_order, growth=growth, fall=fall)
    for name, order in orders.items():
        means = [np.mean([average_precision_score(one.wrong, order(one)) for one in part]) for part in groups.values()]
        print(f"| {name} | " + " | ".join(f"{100 * mean:.1f}" for mean in means) + " |", flush=True)


def _order(one: Stored, growth: int, fall: float | None) -> Array:
    return streaming_score(reweighted(one, POWERS[0], growth, fall))


def _epochs(one: Stored) -> int:
    return int(one.statistics.presentations.max())


def _print_row(name: str, value: str, means: Sequence[float]) -> None:
    print(f"| {name} | {value} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |", flush=True)


if __name__ == "__main__":
    main()
