"""Toneva et al., "An Empirical Study of Example Forgetting", ICLR 2019, figure 5: what may be left out."""

from collections.abc import Iterator, Sequence

import numpy as np

from reproduce.training import Array, Recorded, Split, accuracy, spread, trained

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)


def least_forgotten_first(run: Recorded) -> Array:
    """Return the samples in order of forgetting events, then of the epoch that learned them.

    A sample that was never learned comes last, as in the paper's script.
    """
    statistics = run.statistics
    order: Array = np.lexsort((statistics.first_learned, statistics.forgetting_events, ~statistics.learned))
    return order


def never_forgotten(run: Recorded) -> float:
    """Return the fraction of samples that were learned and never forgotten."""
    return float((run.statistics.learned & (run.statistics.forgetting_events == 0)).mean())


def accuracies(data: Split, run: Recorded, seed: int, epochs: int) -> Iterator[tuple[float, float, float]]:
    """Yield for each fraction left out: test accuracy without the least forgotten, without random ones."""
    n = len(data.labels)
    least, at_random = least_forgotten_first(run), np.random.default_rng(seed).permutation(n)
    for fraction in FRACTIONS:
        kept = [order[round(fraction * n) :] for order in (least, at_random)]
        models = [trained(data.images[rows], data.labels[rows], data, seed, epochs) for rows in kept]
        yield fraction, accuracy(models[0], data), accuracy(models[1], data)


def table(name: str, runs: Sequence[tuple[Split, Recorded]], epochs: int) -> str:
    """Return the table of one data set, a row for each fraction left out."""
    found = [list(accuracies(data, run, seed, epochs)) for seed, (data, run) in enumerate(runs)]
    whole = spread([run.accuracy for _, run in runs])
    never = spread(
        [float((run.statistics.learned & (run.statistics.forgetting_events == 0)).mean()) for _, run in runs]
    )
    lines = [
        f"{name}: test accuracy without a part of the training samples ({whole} with all); never forgotten: {never} %",
        "",
        "| left out | the least forgotten | as many at random | difference |",
        "|---|---|---|---|",
    ]
    for row in zip(*found, strict=True):
        fraction, least, at_random = (np.array(values) for values in zip(*row, strict=True))
        lines.append(f"| {fraction[0]:.0%} | {spread(least)} | {spread(at_random)} | {spread(least - at_random)} |")
    return "\n".join(lines)
