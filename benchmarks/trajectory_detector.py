"""Learn to find wrong labels from the trajectories of other trainings, and compare with the default ranking.

Run ``noisy_runs.py`` first. Detectors learn from the tuned runs, whose flips are known: a two-layer LSTM as in Jia et
al. 2023 ("Learning from Training Dynamics", AAAI) and two cheaper models. The passes are counted, and the candidates
compared, on families of data left out; then all learn from all tuned runs and are judged on the judged ones.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from detectors import MODELS, PERIODS, Fit, Scorer
from noisy_runs import JUDGED, TUNED, Run
from scipy.special import softmax
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from suspects import recorded, row_name, stored

from dynalens.suspicion import assess

Array = npt.NDArray[Any]
Record = dict[str, Any]  # one average precision, and of what

INPUTS = {"p(label)": 1, "four signals": 4, "with class pairs": 5}  # how many of the columns of ``signals``
FAMILIES = {"mnist": "digits", "tail": "digits", "hundred": "digits", "blend": "blend"}  # else the data's own name


@dataclass(frozen=True)
class Reading:
    """What detectors and rankings see of a run, read up to one of its epochs."""

    run: Run
    epochs: int
    signals: Array
    wrong: Array
    known: dict[str, Array]

    @property
    def family(self) -> str:
        """Data sets made from the same images in the same way."""
        name = self.run.data.removesuffix("1000")
        return FAMILIES.get(name, name)

    @property
    def group(self) -> str:
        """Column of the judged table."""
        regime = "aug" if self.run.augmented else "plain"
        return {"cifar": f"CIFAR {regime}", "mnist": "MNIST"}.get(self.run.data, "others")


def signals(logits: Array, given: Array) -> Array:
    """Return what detectors read, shape (N, P, 5), P at most 12: more epochs are averaged in 12 periods.

    p(label); p of the largest other class; asinh of the logit margin; the epoch's training error; and the log of how
    many times more often the epoch's errors on samples with this label go to this other class than to any class.
    """
    z, classes = logits.astype(np.float32), logits.shape[2]
    others = np.where(np.arange(classes) == given[:, None, None], -np.inf, z)
    rival = others.argmax(-1)
    margin = np.take_along_axis(z, given[:, None, None], 2)[..., 0] - others.max(-1)
    p = softmax(z, axis=2)
    p_label = np.take_along_axis(p, given[:, None, None], 2)[..., 0]
    p_rival = np.take_along_axis(p, rival[..., None], 2)[..., 0]
    error = np.broadcast_to((margin <= 0).mean(0), margin.shape)
    pairs = np.stack([_pair_share(given, *epoch, classes) for epoch in zip(rival.T, margin.T <= 0, strict=True)], 1)
    values = np.stack([p_label, p_rival, np.arcsinh(margin), error, pairs], -1).astype(np.float32)
    periods = np.array_split(values, min(PERIODS, values.shape[1]), axis=1)
    return np.stack([period.mean(1) for period in periods], 1)


def _pair_share(given: Array, rival: Array, wrong: Array, classes: int) -> Array:
    count = np.zeros((classes, classes))
    np.add.at(count, (given[wrong], rival[wrong]), 1)
    expected = (count.sum(1) + classes - 1) / (classes - 1)
    result: Array = np.log((count[given, rival] + 1) / expected[given])
    return result


def readings(folder: Path, split: str, seeds: int, most: int | None = None) -> Iterator[Reading]:
    """Yield a split's runs, those of 12 epochs with 20 % also at 5 and 3 epochs; at most so many samples of each."""
    for run, logits, given, true in stored(folder, split, seeds):
        kept = np.random.default_rng(run.seed).permutation(len(given))[:most]
        for epochs in (run.epochs, *((5, 3) if run.epochs == PERIODS and run.percent == 20 else ())):
            part, wrong = logits[:, :epochs], (given != true)[kept]
            known = {name: score[kept] for name, score in rankings(part, given).items()} if wrong.any() else {}
            yield Reading(run, epochs, signals(part, given)[kept], wrong, known)


def rankings(logits: Array, given: Array) -> dict[str, Array]:
    """Return the rankings that detectors are compared with."""
    statistics, history = recorded(logits, given)
    default, w = assess(statistics, history).score, -statistics.weighted_margin
    return {
        "default": default,
        "W": w,
        "AUM": -statistics.margin,
        "default + W": mean_rank(default, w),
    }


def mean_rank(*scores: Array) -> Array:
    """Return the mean of the ranks."""
    ranks: Array = np.mean([rankdata(score) for score in scores], axis=0)
    return ranks


def candidates() -> dict[str, tuple[Fit, int]]:
    """Return each model with each kind of input, and how many columns it reads."""
    pairs = itertools.product(MODELS.items(), INPUTS.items())
    return {f"{model}, {inputs}": (fit, columns) for (model, fit), (inputs, columns) in pairs}


def training_set(read: Sequence[Reading], columns: int) -> tuple[Array, Array]:
    """Return inputs and targets of whole runs; the shorter ones are their beginnings."""
    whole = [each for each in read if each.epochs == each.run.epochs]
    return np.concatenate([each.signals[..., :columns] for each in whole]), np.concatenate([e.wrong for e in whole])


def records(read: Reading, group: str, scores: dict[str, Array], **of: int) -> Iterator[Record]:
    """Yield the average precision of each score, in percent."""
    for name, score in scores.items():
        ap = 100 * average_precision_score(read.wrong, score)
        yield {"name": name, "row": row_name(read.run, read.epochs), "group": group, "ap": ap, **of}


def detected(read: Reading, name: str, scorer: Scorer, columns: int) -> dict[str, Array]:
    """Return the score of a detector, and the mean of its rank and the default's."""
    score = scorer(np.ascontiguousarray(read.signals[..., :columns]))
    return {name: score, f"default + {name}": mean_rank(read.known["default"], score)}


def held_out(tuned: Sequence[Reading]) -> tuple[dict[str, int], list[Record]]:
    """Return the best number of passes of each candidate on families of data left out, and what was measured then."""
    kept = [record for read in tuned if read.known for record in records(read, read.family, read.known, seed=0)]
    passes = {}
    for name, (fit, columns) in candidates().items():
        found: list[Record] = []
        for family in sorted({read.family for read in tuned}):
            inputs = training_set([read for read in tuned if read.family != family], columns)
            left = [read for read in tuned if read.family == family and read.known]
            for number, scorer in enumerate(fit(*inputs, 0), 1):
                for read in left:
                    scores = detected(read, name, scorer, columns)
                    found += records(read, family, scores, seed=0, passes=number)
        alone = pd.DataFrame([record for record in found if record["name"] == name])
        passes[name] = 1 + int(alone.groupby(["passes", "row"])["ap"].mean().groupby("passes").mean().argmax())
        kept += [record for record in found if record["passes"] == passes[name]]
    return passes, kept


def judged(folder: Path, seeds: int, tuned: Sequence[Reading], passes: dict[str, int], detectors: int) -> list[Record]:
    """Return what detectors of several seeds, learned from all tuned runs, are worth on the judged ones."""
    fitted: list[tuple[str, int, Scorer, int]] = []
    for (name, (fit, columns)), seed in itertools.product(candidates().items(), range(detectors)):
        last = passes[name] - 1
        scorer = next(itertools.islice(fit(*training_set(tuned, columns), seed), last, None))
        fitted.append((name, seed, scorer, columns))
    found: list[Record] = []
    for read in readings(folder, JUDGED, seeds):
        if read.known:
            found += records(read, read.group, read.known, seed=0)
            for name, seed, scorer, columns in fitted:
                found += records(read, read.group, detected(read, name, scorer, columns), seed=seed)
    return found


def table(found: Sequence[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a line for each score, ``sd`` over the detector's seeds, and the means over seeds of each row of runs."""
    frame = pd.DataFrame(found)
    rows = frame.groupby(["group", "row", "name"])["ap"].mean().unstack("name")
    lines = pd.DataFrame({"mean": rows.mean(), **{str(name): part.mean() for name, part in rows.groupby("group")}})
    by_seed = frame.groupby(["name", "seed", "row"])["ap"].mean().groupby(["name", "seed"]).mean()
    lines["sd"] = by_seed.groupby("name").std()
    for other in ("default", "AUM"):
        lines[f"rows above {other}"] = rows.gt(rows[other], axis=0).sum()
    lines["rows 1 under AUM"] = rows.lt(rows["AUM"] - 1, axis=0).sum()
    return lines.loc[frame["name"].unique()].dropna(axis=1, how="all"), rows.droplevel("group")


def show(title: str, values: pd.DataFrame) -> None:
    """Print a table as Markdown."""
    print(f"\n## {title}\n\n| | " + " | ".join(str(name) for name in values) + " |")
    print("|---" * (values.shape[1] + 1) + "|")
    for name, line in zip(values.index, values.itertuples(index=False), strict=True):
        cells = [str(value) if isinstance(value, int) else "" if value != value else f"{value:.1f}" for value in line]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", required=True, type=Path, help="folder of the trajectories")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the runs (%(default)s)")
    parser.add_argument("--detectors", type=int, default=3, help="seeds of the detectors (%(default)s)")
    parser.add_argument("--most", type=int, default=300, help="samples of each tuned run (%(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    tuned = list(readings(args.runs, TUNED, args.seeds, args.most))
    passes, found = held_out(tuned)
    lines, _ = table(found)
    show("Tuned runs, each family of data left out in turn", lines)
    best = lines.loc[list(passes), "mean"].idxmax()
    print(f"\nBest on data left out: {best}. Passes: {passes}")
    lines, rows = table(judged(args.runs, args.seeds, tuned, passes, args.detectors))
    show("Judged runs", lines)
    show("Judged runs, row by row", rows[["default", "AUM", "W", best, f"default + {best}"]])


if __name__ == "__main__":
    main()
