"""Wrong labels are forgotten more often and have lower margins; and how many of them a rule finds.

Toneva et al. 2019, section 4.2 and figure 3; Pleiss et al., "Area Under the Margin", NeurIPS 2020, section 3;
Swayamdipta et al. 2020, section 5. InterpretDL publishes, for 60,000 digits of which 1 % are flipped and 100 epochs, a
recall of 88.7 % and a precision of 80.1 % for its rule.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from noisy_runs import flipped
from sklearn.metrics import roc_auc_score
from suspects import late_learned

from reproduce.training import Array, Recorded, recorded, split, spread

RATES = (0.01, 0.05, 0.2)
PUBLISHED = "| InterpretDL's, as published: 60,000 digits, 100 epochs | 88.7 | 80.1 |"


def recall_and_precision(flags: Array, wrong: Array) -> tuple[float, float]:
    """Return the fraction of the wrong ones that is flagged, and the fraction of the flagged ones that is wrong."""
    hits = float((flags & wrong).sum())
    return hits / max(wrong.sum(), 1), hits / max(flags.sum(), 1)


def runs(folder: Path, name: str, rate: float, settings: tuple[int, int, int | None]) -> list[tuple[Recorded, Array]]:
    """Return a recorded run and its wrong labels for each seed; ``settings`` are seeds, epochs, samples."""
    seeds, epochs, samples = settings
    found = []
    for seed in range(seeds):
        data = split(folder, name, seed, samples)
        given = flipped(data.labels, "uniform", rate, np.random.default_rng(seed))
        found.append((recorded(data, given, seed, epochs), given != data.labels))
    return found


def differences(found: Sequence[tuple[Recorded, Array]], rate: float) -> str:
    """Return the row of one rate: forgetting events and margins of wrong and right labels, and how they separate."""
    cells = []
    for statistic in ("forgetting_events", "margin"):
        for side in (True, False):
            means = [float(getattr(run.statistics, statistic)[wrong == side].mean()) for run, wrong in found]
            cells.append(f"{np.mean(means):.2f}")
    never = [float((~run.statistics.learned[wrong]).mean()) for run, wrong in found]
    scores = ("score_forgetting", "score_aum")
    cells += [spread([roc_auc_score(wrong, run.table[score]) for run, wrong in found]) for score in scores]
    hard = [wrong[least_confident(run)].sum() / wrong.sum() for run, wrong in found]
    return " | ".join([f"| {rate:.0%}", *cells[:2], spread(never), *cells[2:], spread(hard)]) + " |"


def least_confident(run: Recorded) -> Array:
    """Return the tenth of the samples with the lowest confidence: the hard-to-learn end of the data map."""
    confidence = run.statistics.confidence
    return np.argsort(confidence, kind="stable")[: len(confidence) // 10]


def rules(found: Sequence[tuple[Recorded, Array]]) -> list[str]:
    """Return the rows of recall and precision."""
    flags = {
        "InterpretDL's, on this run": [late_learned(run.right)[1] for run, _ in found],
        "`flagged` at precision 0.8": [run.table["flagged"].to_numpy() for run, _ in found],
    }
    rows = [PUBLISHED]
    for rule, each in flags.items():
        pairs = [recall_and_precision(one, wrong) for one, (_, wrong) in zip(each, found, strict=True)]
        recall, precision = zip(*pairs, strict=True)
        rows.append(f"| {rule} | {spread(recall)} | {spread(precision)} |")
    return rows


def table(folder: Path, name: str, settings: tuple[int, int, int | None]) -> str:
    """Return both tables: what sets wrong labels apart at each rate, and the rules at 1 %."""
    lines = [
        f"{name}: wrong and right labels",
        "",
        "| flipped | events, wrong | events, right | wrong ones never learned | margin, wrong | margin, right "
        "| ROC-AUC, forgetting | ROC-AUC, margin | of the wrong ones in the least confident tenth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = {rate: runs(folder, name, rate, settings) for rate in RATES}
    lines += [differences(each, rate) for rate, each in found.items()]
    lines += ["", f"{name}: rules at 1 % of flipped labels", "", "| rule | recall | precision |", "|---|---|---|"]
    return "\n".join([*lines, *rules(found[0.01])])
