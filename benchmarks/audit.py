"""How often the interval of an audit holds the true rate of wrong labels, how wide it is, and what is then flagged.

The runs are those of ``noisy_runs.py``; with ``--made-up``, scores of every quality are tried as well. A person who
always knows the answer is asked about n labels, and that is repeated with other random numbers. Widths are compared
with Wilson's interval of a simple random sample of n labels without replacement, and with the least width that any
choice of samples by these scores could have. With embeddings, the answers also choose how much these count.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score

from dynalens.auditing import StratifiedRate, interval, stratified_rate
from dynalens.auditing.calibration import FAR, answered_log_odds, calibrated, reweighed
from dynalens.auditing.strata import asking_order, equal_doubt
from dynalens.embeddings import embedding_evidence
from dynalens.suspicion import assess, flagged

Array = npt.NDArray[Any]
ANSWERS = (30, 50, 100, 200, 400)
PRECISION = 0.8


@dataclass(frozen=True)
class Population:
    """Scores of N labels, log odds of being wrong, and which of them are.

    Then the class of each label, where answers may move classes; of embeddings, their contrast and share; and the
    scores of the run that drew the samples, if it is another one.
    """

    name: str
    score: Array
    wrong: Array
    label: Array | None = None
    contrast: Array | None = None
    share: float = 0.0
    earlier_score: Array | None = None

    @property
    def rate(self) -> float:
        """Fraction of wrong labels."""
        return float(self.wrong.mean())


@dataclass(frozen=True)
class Cell:
    """What n answers give: intervals that held and that lay below the truth, in percent, and the mean width."""

    held: float
    below: float
    width: float
    simple: float

    def __str__(self) -> str:
        return f"{self.held:.1f} ({self.width / self.simple:.2f})" if self.simple else f"{self.held:.1f}"


def trained_on(paths: Sequence[Path], embeddings: Array | None = None) -> Iterator[Population]:
    """Yield the scores of runs, by run and embeddings together if there are embeddings."""
    from embeddings import both  # the peers of these benchmarks are not needed for made-up scores
    from suspects import recorded, stored_row_name

    for path in paths:
        with np.load(path) as run:
            logits, given, true = run["logits"].astype(np.float32), run["given"].astype(np.int64), run["true"]
        statistics, history = recorded(logits, given)
        assessment = assess(statistics, history)
        if embeddings is not None:
            assessment = both(assessment, embedding_evidence(torch.from_numpy(embeddings), given), history)
        name = stored_row_name(path.stem)
        yield Population(name, assessment.score, given != true, given, assessment.contrast, assessment.share)


def drawn_by(earlier: Path, populations: Sequence[Population]) -> Iterator[Population]:
    """Yield the runs on the labels of an earlier one, which draws the samples that a person is asked about."""
    (first,) = trained_on([earlier])
    for population in populations:
        if np.array_equal(np.asarray(population.label), np.asarray(first.label)):
            yield replace(population, earlier_score=first.score)


def made_up(size: int, seed: int = 5) -> Iterator[Population]:
    """Yield scores that are calibrated, useless, perfect, or far too sure, at rates from 0 to 40 %."""
    rng = np.random.default_rng(seed)
    for rate in (0.0, 0.002, 0.01, 0.05, 0.2, 0.4):
        wrong = np.arange(size) < round(rate * size)
        prior = np.log((rate + 1e-3) / (1 - rate))
        calibrated_score = 3 * wrong - 1.5 + rng.normal(0, np.sqrt(3), size) + prior
        scores = {
            "calibrated": calibrated_score,
            "useless": rng.normal(-3, 2, size),
            "perfect": 12 * wrong - 6 + rng.normal(0, 0.5, size),
            "overconfident": 8 * (calibrated_score - 2),
        }
        for kind, score in scores.items():
            yield Population(f"{kind} {rate:.1%} N={size}", score, wrong)


def simple_width(rate: float, answers: int, size: int) -> float:
    """Return the width of Wilson's interval of a simple random sample without replacement."""
    n = answers * (size - 1) / max(size - answers, 1e-9)
    z2 = 1.959964**2
    return float(2 * np.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n))


def true_fraction(population: Population) -> Array:
    """Return the fraction of wrong labels at each score: the monotone function that is nearest to the truth."""
    p: Array = IsotonicRegression().fit_transform(population.score, population.wrong.astype(float))
    return p


def least_width(population: Population) -> float:
    """Return the standard error of the best draw, which knows the truth, over that of a simple random sample.

    It asks in proportion to sqrt(p (1 - p)) (Neyman 1934), with p the :func:`true_fraction`. NaN where no label is
    wrong.
    """
    p = true_fraction(population)
    spread = np.sqrt(population.rate * (1 - population.rate))
    return float(np.sqrt(p * (1 - p)).mean() / spread) if spread else float("nan")


def best_width(population: Population, answers: int, repetitions: int) -> float:
    """Return the mean width of the interval, in simple random samples', if the true fractions were the scores."""
    if not population.rate:
        return float("nan")
    p = np.clip(true_fraction(population), 1e-4, 1 - 1e-4)
    order = np.argsort(np.argsort(population.score)) / len(p)  # neighbours in the order stay neighbours
    cell = coverage(Population("", np.log(p / (1 - p)) + 1e-6 * order, population.wrong), answers, repetitions)
    return cell.width / cell.simple


def drawn(population: Population, answers: int, repetitions: int) -> tuple[StratifiedRate, Array, list[Array]]:
    """Return the strata with the counts of all repetitions, the stratum of each sample, and the rows of each draw."""
    stratum = equal_doubt(population.score if population.earlier_score is None else population.earlier_score, answers)
    size = np.bincount(stratum)
    rows = [asking_order(stratum, seed)[:answers] for seed in range(repetitions)]
    asked, wrong = (
        np.stack([np.bincount(stratum[row], weight[row], minlength=len(size)) for row in rows])
        for weight in (np.ones(len(stratum)), population.wrong)
    )
    mean = np.bincount(stratum, np.clip(population.score, -FAR, FAR)) / size
    return StratifiedRate(size, asked, wrong, mean), stratum, rows


def coverage(population: Population, answers: int, repetitions: int) -> Cell:
    """Return how often the interval held the rate."""
    low, high = interval(drawn(population, answers, repetitions)[0])
    truth, rounding = population.rate, 1e-12
    return Cell(
        100 * float(((low - rounding <= truth) & (truth <= high + rounding)).mean()),
        100 * float((high + rounding < truth).mean()),
        float((high - low).mean()),
        simple_width(truth, answers, len(population.score)),
    )


def decision(population: Population, answers: int, repetitions: int) -> tuple[float, float, float, float]:
    """Return what is decided after so many answers, in the mean.

    That is the precision and the recall of what is flagged at 0.8, the recall of the best cut of the order before the
    answers, and the average precision of the order after them, minus that of the order before; the latter among the
    labels that were not asked about, of which a person has seen nothing.
    """
    strata, stratum, draws = drawn(population, answers, repetitions)
    rates, wrong = stratified_rate(strata), population.wrong
    order = np.argsort(-population.score, kind="stable")
    best = np.flatnonzero(np.cumsum(wrong[order]) / np.arange(1, len(order) + 1) >= PRECISION)
    most = float(wrong[order[: best[-1] + 1]].sum()) if len(best) else 0.0
    precisions, recalls, gains = [], [], []
    for rows, asked, rate in zip(draws, strata.asked, rates, strict=True):
        log_odds = order_after(population, rows, (strata.size / asked)[stratum[rows]])
        chosen = flagged(calibrated(log_odds, rows, wrong[rows].astype(float), float(rate)), PRECISION)
        precisions += [wrong[chosen].mean()] if chosen.any() else []
        recalls.append(wrong[chosen].sum() / max(wrong.sum(), 1))
        rest = np.setdiff1d(np.arange(len(wrong)), rows)
        if wrong[rest].any():
            after, before = (average_precision_score(wrong[rest], each[rest]) for each in (log_odds, population.score))
            gains.append(after - before)
    best_recall, gain = most / max(int(wrong.sum()), 1), float(np.mean(gains)) if gains else 0.0
    return float(np.mean(precisions or [np.nan])), float(np.mean(recalls)), best_recall, gain


def order_after(population: Population, rows: Array, weight: Array) -> Array:
    """Return the log odds that each label is wrong after the answers about these rows."""
    answer, score = population.wrong[rows].astype(float), population.score
    if population.contrast is not None:
        score = reweighed(score, population.contrast, population.share, rows, answer, weight)
    return answered_log_odds(score, rows, answer, weight, label=population.label)


def cross_fitted(population: Population, rows: Array, weight: Array) -> float:
    """Return the rate by prediction-powered inference: a model's mean, and the weighted mean of its errors.

    The calibration of one half of the answers predicts, the other half corrects it, and the other way round.
    """
    wrong, half, rates = population.wrong[rows].astype(float), np.arange(len(rows)) % 2, []
    for part in (0, 1):
        fit, held_out = half != part, half == part
        rate = float(np.average(wrong[fit], weights=weight[fit]))
        log_odds = answered_log_odds(population.score, rows[fit], wrong[fit], weight[fit])
        p = calibrated(log_odds, rows[fit], wrong[fit], rate)
        rates.append(p.mean() + np.average(wrong[held_out] - p[rows[held_out]], weights=weight[held_out]))
    return float(np.mean(rates))


def show_cross_fitted(populations: Sequence[Population], answers: int, repetitions: int) -> None:
    """Print the standard error of the rate by strata alone, and of the cross-fitted one."""
    print("| run | wrong | strata | cross-fitted |\n| --- | --- | --- | --- |")
    for population in populations:
        strata, stratum, draws = drawn(population, answers, repetitions)
        weights = ((strata.size / asked)[stratum[rows]] for asked, rows in zip(strata.asked, draws, strict=True))
        rates = [cross_fitted(population, rows, weight) for rows, weight in zip(draws, weights, strict=True)]
        errors = np.sqrt(np.mean((np.stack([stratified_rate(strata), rates]) - population.rate) ** 2, axis=1))
        print(f"| {population.name} | {population.rate:.1%} | {errors[0]:.4f} | {errors[1]:.4f} |", flush=True)


def show_few(populations: Sequence[Population], repetitions: int) -> None:
    """Print how far interval and flags can be relied on after 1 to 100 answers: means over the runs, in percent.

    Draws without any flag count as a precision above 60 %, and not in the mean precision.
    """
    heads = ("answers", "interval held", "its width", "precision", "precision under 60", "flags more than 90")
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    for n in (1, 2, 5, 10, 20, 30, 50, 100):
        rows = []
        for population in populations:
            flags, wrong = flags_after(population, n, repetitions), population.wrong
            precision = np.array([wrong[chosen].mean() if chosen.any() else np.nan for chosen in flags])
            cell, too_many = coverage(population, n, repetitions), np.mean([chosen.mean() > 0.9 for chosen in flags])
            mean = np.nanmean(precision) if np.isfinite(precision).any() else np.nan
            rows.append([cell.held / 100, cell.width, mean, (precision < 0.6).mean(), too_many])
        cells = [f"{100 * part:.1f}" for part in np.nanmean(rows, axis=0)]
        print(f"| {n} | {' | '.join(cells)} |", flush=True)


def flags_after(population: Population, answers: int, repetitions: int) -> list[Array]:
    """Return what is flagged at 0.8 after so many answers, in each repetition."""
    strata, stratum, draws = drawn(population, answers, repetitions)
    flags = []
    for rows, asked, rate in zip(draws, strata.asked, stratified_rate(strata), strict=True):
        answer = population.wrong[rows].astype(float)
        log_odds = order_after(population, rows, (strata.size / asked)[stratum[rows]])
        p = calibrated(log_odds, rows, answer, float(rate))
        flags.append(flagged(p, PRECISION) | (p == 1))
    return flags


def show_classes(populations: Sequence[Population], repetitions: int) -> None:
    """Print what the answers make of the classes.

    Columns: the average precision among the labels that were not asked about, without the classes of the labels, and
    what it gains by them after 50, 100 and 400 answers; then precision and recall of the flags after 100 answers, as
    they are without the classes and with them, and the recall of the best cut before the answers.
    """
    flags = ("precision alone", "precision", "recall alone", "recall", "best recall")
    heads = ("run", "wrong", "before", "50", "100", "400", *flags)
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    for population in (each for each in populations if each.wrong.any()):
        alone = replace(population, label=None)
        decisions = {n: [decision(each, n, repetitions) for each in (alone, population)] for n in (50, 100, 400)}
        gains = [100 * (by_class[3] - plain[3]) for plain, by_class in decisions.values()]
        before = 100 * average_precision_score(population.wrong, population.score)
        cells = [f"{population.rate:.1%}", f"{before:.1f}", *(f"{gain:+.1f}" for gain in gains)]
        plain, by_class = decisions[100]
        cells += [f"{x:.3f}" for x in (plain[0], by_class[0], plain[1], by_class[1], plain[2])]
        print(f"| {population.name} | {' | '.join(cells)} |", flush=True)


def show(populations: Sequence[Population], repetitions: int, decisions: int) -> None:
    """Print the rows of the table; with repetitions for decisions, what is flagged after 100 answers as well."""
    heads = ("run", "wrong", *map(str, ANSWERS), "best at 100", "least", "precision", "recall", "best recall", "gain")
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    for population in populations:
        cells = [str(coverage(population, n, repetitions)) if n <= len(population.score) else "" for n in ANSWERS]
        cells += [f"{best_width(population, 100, repetitions):.2f}", f"{least_width(population):.2f}"]
        flags = [f"{x:.3f}" for x in decision(population, 100, decisions)] if decisions else [""] * 4
        print(f"| {population.name} | {population.rate:.1%} | {' | '.join([*cells, *flags])} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Print one table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="folder of the trajectories of noisy_runs.py")
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npy", help="let these count in the scores of all runs")
    parser.add_argument("--earlier-run", type=Path, metavar="RUN.npz", help="draw by it; only runs with its labels")
    parser.add_argument("--made-up", type=int, nargs="*", default=[], metavar="N", help="sizes of made-up data")
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--decisions", type=int, default=100, help="repetitions for what is flagged; 0 leaves it out")
    parser.add_argument("--cross-fitted", action="store_true", help="compare with prediction-powered inference instead")
    parser.add_argument("--classes", action="store_true", help="what the classes of the labels add instead")
    parser.add_argument("--few", action="store_true", help="means over the runs after 1 to 100 answers instead")
    args = parser.parse_args(argv)
    embeddings = np.load(args.embeddings).astype(np.float32) if args.embeddings else None
    populations = [*(trained_on(sorted(args.runs.glob("*.npz")), embeddings) if args.runs else ())]
    if args.earlier_run:
        populations = list(drawn_by(args.earlier_run, populations))
    populations += [each for size in args.made_up for each in made_up(size)]
    if args.cross_fitted:
        show_cross_fitted(populations, 100, args.repetitions)
    elif args.classes:
        show_classes(populations, args.repetitions)
    elif args.few:
        show_few(populations, args.repetitions)
    else:
        show(populations, args.repetitions, args.decisions)


if __name__ == "__main__":
    main()
