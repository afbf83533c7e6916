"""Swayamdipta et al., "Dataset Cartography", EMNLP 2020, section 3: training on one region of the data map."""

from collections.abc import Sequence

import numpy as np

from reproduce.training import Array, Recorded, Split, accuracy, spread, trained

FRACTION = 0.33


def regions(run: Recorded, seed: int) -> dict[str, Array]:
    """Return a third of the samples for each region: their row numbers.

    Ambiguous has the highest variability, easy the highest confidence, hard the lowest confidence.
    """
    statistics = run.statistics
    n, count = len(statistics), round(FRACTION * len(statistics))
    return {
        "ambiguous": np.argsort(-statistics.variability, kind="stable")[:count],
        "easy": np.argsort(-statistics.confidence, kind="stable")[:count],
        "hard": np.argsort(statistics.confidence, kind="stable")[:count],
        "at random": np.random.default_rng(seed).permutation(n)[:count],
    }


def table(name: str, runs: Sequence[tuple[Split, Recorded]], epochs: int) -> str:
    """Return the test accuracy of training on each region."""
    found: dict[str, list[float]] = {}
    for seed, (data, run) in enumerate(runs):
        for region, rows in regions(run, seed).items():
            model = trained(data.images[rows], data.labels[rows], data, seed, epochs)
            found.setdefault(region, []).append(accuracy(model, data))
    lines = [
        f"{name}: test accuracy of training on {FRACTION:.0%} of the samples, by region of the data map",
        "",
        "| region | accuracy | difference to random |",
        "|---|---|---|",
    ]
    random = np.array(found["at random"])
    for region, values in found.items():
        lines.append(f"| {region} | {spread(values)} | {spread(np.array(values) - random)} |")
    lines.append(f"| all samples | {spread([run.accuracy for _, run in runs])} | |")
    return "\n".join(lines)
