"""CPU milliseconds, one thread, of each chart of a record, drawn and encoded; ``--quick`` for a few repeats.

The record is random with the shape of a real one: most samples easy, some forgotten, some never learned.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from dynalens.dynamics import SampleStatistics
from dynalens.pictures import (
    data_map,
    first_learned,
    forgetting_events,
    margins,
    png_bytes,
    training_data_analysis,
)

GOAL_MS = 40.0
SIZES = (50_000, 1_280_000)
CHARTS: dict[str, Callable[[SampleStatistics], Any]] = {
    "data map": data_map,
    "training-data analysis": training_data_analysis,
    "forgetting events": forgetting_events,
    "margins": margins,
    "first learned": first_learned,
}


def record(n: int, epochs: int = 30) -> SampleStatistics:
    """Return a random record of n samples."""
    rng = np.random.default_rng(0)
    confidence = rng.beta(4, 1, n)
    learned = confidence > rng.uniform(0, 0.3, n)
    forgotten = np.where(learned, rng.poisson(3 * (1 - confidence)), 0)
    first = np.where(learned, np.minimum(rng.geometric(confidence), epochs - 1) - 1.0, np.nan)
    values: dict[str, Any] = {
        "label": rng.integers(0, 1000, n, dtype=np.int32),
        "presentations": np.full(n, epochs, dtype=np.int32),
        "forgetting_events": forgotten.astype(np.int32),
        "learned": learned,
        "first_learned": first,
        "last_forgotten": np.where(forgotten > 0, rng.integers(1, epochs, n), np.nan),
        "margin": 8 * confidence - 2 + rng.normal(size=n),
        "confidence": confidence,
        "variability": np.sqrt(confidence * (1 - confidence)) * rng.uniform(0.2, 1, n),
        "correctness": np.clip(confidence + rng.normal(0, 0.1, n), 0, 1),
        "probability_gap": np.maximum(0, rng.normal(0.5 - confidence, 0.2)),
    }
    return SampleStatistics(**{f.name: values.get(f.name, np.zeros(n)) for f in fields(SampleStatistics)})


def cpu_ms(call: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for each chart and size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three repeats and 50,000 samples only")
    args = parser.parse_args(argv)
    repeats, sizes = (3, SIZES[:1]) if args.quick else (15, SIZES)
    print(f"{'chart':24} {'samples':>10} {'ms':>7} {'KiB':>6}   (goal: {GOAL_MS:.0f} ms at {SIZES[-1]:,})")
    for n in sizes:
        statistics = record(n)
        for name, chart in CHARTS.items():
            milliseconds = cpu_ms(lambda chart=chart, of=statistics: png_bytes(chart(of)), repeats)  # type: ignore[misc]  # bound now
            size = len(png_bytes(chart(statistics))) / 1024
            print(f"{name:24} {n:>10,} {milliseconds:>7.1f} {size:>6.1f}")


if __name__ == "__main__":
    main()
