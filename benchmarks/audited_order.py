"""How far ``precision_of`` and ``recall_of`` of an audit are from the truth, and how often their intervals hold it.

Made-up scores of every quality, in which no class has more wrong labels than another one; or, with ``--runs``, the
trainings of ``noisy_runs.py``, in which classes differ as they do. A person who always knows the answer is asked.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from audit import Population, trained_on

from dynalens.auditing import Audit, Plan, draw
from dynalens.auditing.answers import Answers

SIZE, CLASSES, RATES, FIRST = 10_000, 10, (0.02, 0.1, 0.2, 0.4), (50, 200, 1000)
DISTANCES = {"useless": 0.0, "weak": 1.0, "good": 2.5, "perfect": 12.0}
"""Between the means of wrong and right labels, in standard deviations of the score."""


def made_up(kind: str, rate: float, seed: int) -> Population:
    """Return scores that are the log odds of being wrong, except that useless ones only look like them."""
    rng, distance = np.random.default_rng([0, seed]), DISTANCES[kind]
    label = rng.integers(CLASSES, size=SIZE)
    wrong = rng.random(SIZE) < rate
    x, prior = rng.normal(size=SIZE) + distance * wrong, np.log(rate / (1 - rate))
    score = distance * x - distance**2 / 2 + prior if distance else 2 * x + prior
    return Population(f"{kind} {rate:.0%}", score, wrong, label)


def audited(population: Population, n: int, seed: int) -> Audit:
    """Return the audit of n answers."""
    score, wrong, label = population.score, population.wrong, population.label
    plan, rows = draw(Plan.from_scores(score, label=np.asarray(label), n=n, seed=seed), n, np.array([], np.int64))
    answers = Answers(rows, ~wrong[rows], wrong[rows], np.full(n, -1), np.ones(n))
    table = pd.DataFrame({"score": score, "label": label})
    table["suggested"], table["suggested_probability"] = 0, 0.5
    return Audit(table, plan, answers, label=label)


def row(populations: Sequence[Population], n: int) -> list[str]:
    """Return the cells of one row: for each number of first samples, mean error, intervals that held, and width."""
    parts: dict[tuple[int, str], list[tuple[float, bool, float]]] = {}
    for seed, population in enumerate(populations):
        audit, wrong = audited(population, n, seed), population.wrong
        rank = audit.table()["rank"].to_numpy()
        for first in FIRST:
            is_first = rank <= first
            truths = wrong[is_first].mean(), wrong[is_first].sum() / wrong.sum()
            for name, truth in zip(("precision_of", "recall_of"), truths, strict=True):
                part = getattr(audit, name)(first)
                held = part.low - 1e-9 <= truth <= part.high + 1e-9
                parts.setdefault((first, name), []).append((part.value - truth, held, part.high - part.low))
    means = (np.nanmean(values, axis=0) for _, values in sorted(parts.items(), key=lambda item: item[0][1]))
    return [f"{error:+.3f} {100 * held:.1f} ({width:.2f})" for error, held, width in means]


def main(argv: Sequence[str] | None = None) -> None:
    """Print one table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="folder of the trajectories of noisy_runs.py")
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--answers", type=int, nargs="*", default=[50, 100, 200])
    args = parser.parse_args(argv)
    heads = ("scores", "answers", *(f"{name}({n})" for name in ("precision_of", "recall_of") for n in FIRST))
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    if args.runs:
        groups = ([run] * args.repetitions for run in trained_on(sorted(args.runs.glob("*.npz"))))
    else:
        seeds = range(args.repetitions)
        groups = ([made_up(kind, rate, seed) for seed in seeds] for kind in DISTANCES for rate in RATES)
    for populations in groups:
        for n in args.answers:
            print(f"| {populations[0].name} | {n} | {' | '.join(row(populations, n))} |", flush=True)


if __name__ == "__main__":
    main()
