"""Compare scores for wrong labels on stored trainings, with peers, and the estimated with the true noise rate.

Run ``noisy_runs.py`` first. Two tables: runs that the default was tuned on, and runs that it is only judged on (other
seeds; flips of CIFAR and class-dependent ones; sentences that people rated). Labels that people gave come first. A row
is the mean over seeds; ``sd`` is the spread of the default over seeds. Where as many samples are flagged as labels are
wrong, precision, recall and F1 are the same: "F1 at the true count".
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from noisy_runs import BAG, HUMAN, JUDGED, SMALL, TEXTS, TUNED, Run, grid, load, out_of_fold
from sklearn.metrics import average_precision_score, roc_auc_score

from dynalens.dynamics import SampleStatistics, TrainingDynamics
from dynalens.suspicion import assess, flagged
from dynalens.suspicion.published_scores import named_scores

Array = npt.NDArray[Any]
MARGIN_SCORES = ("W", "EMA", "last third")
T = TypeVar("T")
_GROUPS = {HUMAN: "labels that people gave", TEXTS: "sentences that people rated"}


@dataclass(frozen=True)
class Measured:
    """What one run showed: for each score ROC-AUC, average precision, F1 at the true count; the rates."""

    scores: dict[str, tuple[float, float, float]]
    true_rate: float
    rate: float
    low: float
    high: float
    flagged: float
    precision: float
    interpretdl_f1: float
    best_f1: float


def recorded(logits: Array, given: Array) -> tuple[SampleStatistics, list[dict[str, Array]]]:
    """Return record and history of a stored run."""
    n = len(given)
    dynamics, history = TrainingDynamics(n), []
    for epoch in range(logits.shape[1]):
        dynamics.update(torch.arange(n), torch.from_numpy(logits[:, epoch].astype(np.float32)), torch.from_numpy(given))
        history.append(dynamics.end_epoch(epoch).presentations())
    return dynamics.compute(), history


def _softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    result: Array = e / e.sum(-1, keepdims=True)
    return result


def margins(logits: Array, given: Array) -> Array:
    """Return z_y - max_{k != y} z_k of each presentation, shape (N, E)."""
    label = np.arange(logits.shape[2]) == given[:, None, None]
    result: Array = np.where(label, logits, 0).sum(-1) - np.where(label, -np.inf, logits).max(-1)
    return result


def margin_scores(margin: Array) -> dict[str, Array]:
    """Return scores of the margins (N, E) alone, higher is more suspicious.

    EMA is an exponential moving average with a step of 0.3.
    """
    epochs = margin.shape[1]
    moving = margin[:, 0]
    for epoch in range(1, epochs):
        moving = 0.7 * moving + 0.3 * margin[:, epoch]
    last = margin[:, -max(1, epochs // 3) :].mean(1)
    return {"EMA": -moving, "last third": -last}


def peers(logits: Array, given: Array) -> dict[str, Array]:
    """Return the scores of PyPI's ``aum`` and of cleanlab on the run's averaged probabilities."""
    from aum import AUMCalculator
    from cleanlab.rank import get_label_quality_scores

    calculator = AUMCalculator(".", compressed=True)
    aum: Any = {}
    for epoch in range(logits.shape[1]):
        z = torch.from_numpy(logits[:, epoch].astype(np.float32))
        aum = calculator.update(z, torch.from_numpy(given), list(range(len(given))))
    mean = _softmax(logits).mean(1)
    found = {"aum (PyPI)": -np.array([aum[i].aum for i in range(len(given))])}
    for method in ("self_confidence", "normalized_margin"):
        found[f"cleanlab {method}"] = -get_label_quality_scores(given, mean, method=method)
    return found


def interpretdl(logits: Array, given: Array) -> tuple[Array, Array]:
    """Return score and flags of InterpretDL's rule: the mean epoch in which a sample was right, above 5 deviations.

    Samples never right are skipped, so they have the lowest score.
    """
    return late_learned(logits.argmax(-1) == given[:, None])


def late_learned(right: Array) -> tuple[Array, Array]:
    """Return the same of what was right: shape (N, epochs)."""
    learned: Array = np.asarray(right.any(1))
    mean = (right * np.arange(right.shape[1])).sum(1) / np.maximum(right.sum(1), 1)
    flags = learned & (mean > mean[learned].mean() + 5 * mean[learned].std()) if learned.any() else learned
    return np.where(learned, mean, -1.0), flags


def f1(flags: Array, wrong: Array) -> float:
    """Return the harmonic mean of precision and recall; 0 where nothing is found."""
    return float(2 * (flags & wrong).sum() / max(flags.sum() + wrong.sum(), 1))


def measured(logits: Array, given: Array, true: Array, with_peers: bool) -> Measured:
    """Score one run."""
    wrong = given != true
    statistics, history = recorded(logits, given)
    found = assess(statistics, history)
    wide = logits.astype(np.float32)
    rule, flags = interpretdl(wide, given)
    scores = {"default": found.score, "W": -statistics.weighted_margin, **margin_scores(margins(wide, given))}
    named = named_scores(statistics, found.probability_margin)
    scores |= {name.removeprefix("score_"): values for name, values in named.items()}
    scores["interpretdl"] = rule
    if with_peers:
        scores |= peers(wide, given)
    chosen = flagged(found.probability, 0.8)
    return Measured(
        {name: _measures(wrong, values) for name, values in scores.items()} if wrong.any() else {},
        float(wrong.mean()), found.noise_rate.value, found.noise_rate.low, found.noise_rate.high, float(chosen.mean()),
        float(wrong[chosen].mean()) if chosen.any() else float("nan"), f1(flags, wrong), f1(chosen, wrong),
    )  # fmt: skip


def _measures(wrong: Array, score: Array) -> tuple[float, float, float]:
    top = np.argsort(-score, kind="stable")[: int(wrong.sum())]
    return roc_auc_score(wrong, score), average_precision_score(wrong, score), float(wrong[top].mean())


def stored(folder: Path, split: str, seeds: int) -> Iterator[tuple[Run, Array, Array, Array]]:
    """Yield the runs of a split that are there."""
    for run in grid(seeds, split):
        path = folder / f"{run.name}.npz"
        if path.exists():
            with np.load(path) as arrays:
                yield run, arrays["logits"], arrays["given"], arrays["true"]


def row_name(run: Run, epochs: int) -> str:
    """Return what the runs of several seeds have in common."""
    network = "" if run.network in (SMALL, BAG) else f" ({run.network})"
    regime = "aug" if run.augmented else "plain"
    return f"{run.data}{network}, {run.flips} {run.percent} %, {regime}, {epochs} epochs"


def stored_row_name(stem: str) -> str:
    """Return the name of a row by the file name of its run (``Run.name``); other names stay as they are."""
    match = re.fullmatch(r"([a-z]+)_(\w+)_(\w+)_(\d+)_(aug|plain)_e(\d+)_s(\d+)(?:_(\w+))?", stem)
    if match is None:
        return stem
    split, data, flips, percent, regime, epochs, seed, network = match.groups()
    run = Run(split, data, flips, int(percent), regime == "aug", int(epochs), int(seed), network or SMALL)
    return row_name(run, run.epochs) + (", tuned" if split == TUNED else "")


def grouped(rows: Mapping[str, list[T]]) -> dict[str, dict[str, list[T]]]:
    """Return the rows by where their wrong labels are from: people who saw pictures or sentences, or flips."""
    groups: dict[str, dict[str, list[T]]] = defaultdict(dict)
    for row, runs in rows.items():
        groups[_GROUPS.get(re.split("[ ,]", row)[0], "flips")][row] = runs
    return groups


def shorter(run: Run) -> tuple[int, ...]:
    """Return how many first epochs of the run are read as runs of their own."""
    if run.epochs != 12:
        return ()
    return (5,) if run.data in (HUMAN, TEXTS) else (5, 3) if run.percent == 20 else ()


def split_rows(folder: Path, split: str, seeds: int, with_peers: bool) -> dict[str, list[Measured]]:
    """Return the measurements of each row, one for each seed; some 12-epoch runs are also read at 5 and 3 epochs."""
    rows: dict[str, list[Measured]] = defaultdict(list)
    for run, logits, given, true in stored(folder, split, seeds):
        for epochs in (run.epochs, *shorter(run)):
            rows[row_name(run, epochs)].append(measured(logits[:, :epochs], given, true, with_peers))
    return rows


def show(rows: dict[str, list[Measured]], names: Sequence[str]) -> None:
    """Print the table of average precision, means of all measures, and the table of rates, as Markdown."""
    scored = {row: runs for row, runs in rows.items() if runs[0].scores}
    print("| run | seeds | " + " | ".join(names) + " | sd |")
    print("|---" * (len(names) + 3) + "|")
    for row, runs in scored.items():
        values = [100 * np.mean([run.scores[name][1] for run in runs]) for name in names]
        spread = 100 * np.std([run.scores["default"][1] for run in runs])
        print(f"| {row} | {len(runs)} | " + " | ".join(f"{value:.1f}" for value in values) + f" | {spread:.1f} |")
    for title, part in grouped(scored).items():
        _print_means(title, part)
    print("\n| run | true rate | estimated | low | high | flagged | precision of the flagged | F1 | InterpretDL's F1 |")
    print("|---" * 9 + "|")
    for row, runs in rows.items():
        means = [
            np.mean([getattr(run, name) for run in runs]) for name in ("true_rate", "rate", "low", "high", "flagged")
        ]
        precise = [run.precision for run in runs if not np.isnan(run.precision)]
        f1s = [np.mean([getattr(run, name) for run in runs]) for name in ("best_f1", "interpretdl_f1")]
        shown = " | ".join(f"{value:.3f}" for value in means)
        print(
            f"| {row} | {shown} | {np.mean(precise) if precise else float('nan'):.2f} | {f1s[0]:.3f} | {f1s[1]:.3f} |"
        )
    _rate_summary(rows)


def _print_means(title: str, scored: dict[str, list[Measured]]) -> None:
    print(f"\n| mean over {len(scored)} rows, {title} | ROC-AUC | average precision | F1 at the true count |")
    print("|---|---|---|---|")
    for name in next(iter(scored.values()))[0].scores:
        means = [
            np.mean([np.mean([run.scores[name][k] for run in runs]) for runs in scored.values()]) for k in range(3)
        ]
        print(f"| {name} | " + " | ".join(f"{100 * value:.2f}" for value in means) + " |")


def _rate_summary(rows: dict[str, list[Measured]]) -> None:
    full = {row: runs for row, runs in rows.items() if "12 epochs" in row or "40 epochs" in row}
    every = [run for runs in full.values() for run in runs]
    flips = [run for runs in full.values() for run in runs if run.true_rate > 0.04]
    none = [run for runs in full.values() for run in runs if run.true_rate == 0]
    near = sum(abs(run.rate - run.true_rate) <= run.true_rate / 3 for run in flips)
    between = sum(run.low <= run.true_rate <= run.high for run in every)
    print(f"\nNoise rate within a third of the truth from 5 % up: {near} of {len(flips)} runs (12 and 40 epochs); "
          f"below 1 % without flips: {sum(run.rate < 0.01 for run in none)} of {len(none)}; "
          f"the truth between the ends: {between} of {len(every)}.")  # fmt: skip


def cross_validated(folder: Path, data: Path, limit: int) -> None:
    """Print cleanlab with 3-fold cross-validation, three more trainings on two thirds of the data, on a few runs."""
    from cleanlab.rank import get_label_quality_scores

    print("\n| run | cleanlab self-confidence, 3 folds | normalised margin, 3 folds | default |\n|---|---|---|---|")
    wanted = [each for each in stored(folder, JUDGED, 1) if each[0].percent == 20 and each[0].epochs == 12][:limit]
    for run, logits, given, true in wanted:
        images, _ = load(data, run.data, run.seed)
        p = out_of_fold(images, given, run, int(true.max()) + 1, 3)
        wrong = given != true
        values = [
            average_precision_score(wrong, -get_label_quality_scores(given, p, method=method))
            for method in ("self_confidence", "normalized_margin")
        ]
        values.append(average_precision_score(wrong, assess(*recorded(logits, given)).score))
        print(f"| {row_name(run, 12)} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", required=True, type=Path, help="folder of the trajectories")
    parser.add_argument("--split", choices=(TUNED, JUDGED), action="append", help="default: both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="leave aum and cleanlab out")
    parser.add_argument("--data", type=Path, help="with it, cleanlab by cross-validation is trained as well")
    parser.add_argument("--folds-on", type=int, default=4, help="number of runs for it (%(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    names = ["default", *MARGIN_SCORES, "aum", "probability_margin", "loss", "el2n", "forgetting"]
    names += [] if args.no_peers else ["cleanlab self_confidence", "cleanlab normalized_margin"]
    for split in args.split or (TUNED, JUDGED):
        print(f"\n## Average precision, {split} runs\n")
        show(split_rows(args.runs, split, args.seeds, not args.no_peers), names)
    if args.data:
        cross_validated(args.runs, args.data, args.folds_on)


if __name__ == "__main__":
    main()
