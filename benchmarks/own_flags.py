"""What is flagged without answers, and how much of it is wrong, on stored trainings.

Run ``noisy_runs.py`` first. Prints one Markdown table of labels that people gave and one of flips. A row is the mean
over seeds: the true and the estimated rate of wrong labels, how many samples are flagged, how many of these are wrong,
how many of the wrong ones are among them, and what speaks against the estimate (``NoiseRate.doubts``).
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from noisy_runs import JUDGED, TUNED
from suspects import Array, grouped, recorded, row_name, shorter, stored

from dynalens.suspicion import PRECISION, assess, flagged

KINDS = {"repeats": "memorised", "its limit": "limit", "falls": "falling", "far above": "wide", "few samples": "few"}
"""What is said of a doubt, and its short name."""


@dataclass(frozen=True)
class Flags:
    """What one run flags, as fractions of the samples, of the flagged and of the wrong; and its doubts."""

    rate: float
    estimate: float
    flagged: float
    precision: float
    recall: float
    doubts: str


def flags_of(logits: Array, given: Array, true: Array) -> Flags:
    """Return what a run flags at a precision of 80 %."""
    wrong = given != true
    assessment = assess(*recorded(logits, given))
    chosen = flagged(assessment.probability, PRECISION)
    said = " ".join(assessment.noise_rate.doubts)
    return Flags(
        rate=float(wrong.mean()),
        estimate=assessment.noise_rate.value,
        flagged=float(chosen.mean()),
        precision=float(wrong[chosen].mean()) if chosen.any() else float("nan"),
        recall=float(chosen[wrong].mean()) if wrong.any() else float("nan"),
        doubts=", ".join(short for words, short in KINDS.items() if words in said) or "none",
    )


def show(rows: dict[str, list[Flags]]) -> None:
    """Print the rows as Markdown, in percent."""
    print("| run | seeds | wrong | estimated | flagged | of them wrong | of the wrong ones flagged | doubts |")
    print("|---" * 8 + "|")
    for row, runs in rows.items():
        means = [
            np.mean([getattr(run, name) for run in runs])
            for name in ("rate", "estimate", "flagged", "precision", "recall")
        ]
        shown = " | ".join("-" if np.isnan(mean) else f"{100 * mean:.1f}" for mean in means)
        print(f"| {row} | {len(runs)} | {shown} | {' / '.join(dict.fromkeys(run.doubts for run in runs))} |")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", required=True, type=Path, help="folder of the trajectories")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: dict[str, list[Flags]] = defaultdict(list)
    for split in (TUNED, JUDGED):
        for run, logits, given, true in stored(args.runs, split, args.seeds):
            for epochs in (*shorter(run)[:1], run.epochs):
                rows[row_name(run, epochs)].append(flags_of(logits[:, :epochs], given, true))
    for title, part in grouped(rows).items():
        print(f"\n{title.capitalize()}\n")
        show(dict(sorted(part.items())))


if __name__ == "__main__":
    main()
