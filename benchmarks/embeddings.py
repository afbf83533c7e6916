"""The order of suspects from a run alone, from embeddings alone, and from both.

The runs are those of ``noisy_runs.py`` on one set of images, whose embeddings are an (N, D) array of any encoder in the
order of these images. Random embeddings, and the embeddings in a random order of the samples, show what bad ones cost.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import average_precision_score
from suspects import recorded, stored_row_name

from dynalens.dynamics import SampleStatistics
from dynalens.embeddings import EmbeddingEvidence, embedding_evidence
from dynalens.embeddings.probe import class_loss, out_of_fold
from dynalens.suspicion import Assessment, RunLoss, assess, flagged, joined, run_and_embeddings

Array = npt.NDArray[Any]
History = list[dict[str, Array]]
Scores = dict[str, Array]
PRECISION = 0.8
POWERS = (4, 6, 8, 12, 16)
"""Values of ``dynalens.suspicion.run_and_embeddings.POWER``."""


def alone(embeddings: Array, given: Array, evidence: EmbeddingEvidence) -> Scores:
    """Return the scores of embeddings without a run: neighbours, probe, and cleanlab on the probe's probabilities."""
    classes, labels = np.unique(given, return_inverse=True)
    one_hot = torch.eye(len(classes))[torch.from_numpy(labels)]
    p = out_of_fold(torch.from_numpy(embeddings), one_hot, class_loss).softmax(dim=1).double().numpy()
    quality = get_label_quality_scores(labels, p / p.sum(axis=1, keepdims=True), method="normalized_margin")
    return {"neighbours": evidence.neighbours, "probe": evidence.probe, "cleanlab on probe": -np.asarray(quality)}


def compared(
    statistics: SampleStatistics, history: History, embeddings: Array, given: Array
) -> tuple[Scores, dict[str, Assessment]]:
    """Return every score of one run, and what the run alone and both together say."""
    assessment = assess(statistics, history)
    rng = np.random.default_rng(0)
    evidence = embedding_evidence(torch.from_numpy(embeddings), given)
    bad: dict[str, Callable[[], Array]] = {
        "with random": lambda: rng.normal(size=(len(given), 128)),
        "with shuffled": lambda: embeddings[rng.permutation(len(given))],
    }
    scores = {"run": assessment.score} | alone(embeddings, given, evidence)
    together = both(assessment, evidence, history)
    scores["both"] = together.score
    for power in POWERS:
        with patch.object(run_and_embeddings, "POWER", power):
            scores[f"power {power}"] = both(assessment, evidence, history).score
    for name, make in bad.items():
        other = embedding_evidence(torch.from_numpy(make().astype(np.float32)), given)
        scores[name] = both(assessment, other, history).score
    return scores, {"run": assessment, "both": together}


def both(assessment: Assessment, evidence: EmbeddingEvidence, history: History) -> Assessment:
    """Return what run and embeddings say together."""
    run_loss = RunLoss(evidence, np.zeros(0))
    for epoch, presentations in enumerate(history):
        run_loss.read(epoch, presentations)
    return joined(assessment, evidence, run_loss.value)


def right_suggestions(assessment: Assessment, given: Array, true: Array) -> float:
    """Return the part of the wrong labels whose suggested class is the true one."""
    return float((assessment.suggested == true)[given != true].mean())


def precision_of_flags(assessment: Assessment, given: Array, true: Array) -> float:
    """Return the part of what is flagged at a precision of 80 % that is wrong."""
    chosen = flagged(assessment.probability, PRECISION)
    return float((given != true)[chosen].mean()) if chosen.any() else float("nan")


def recall_of_flags(assessment: Assessment, given: Array, true: Array) -> float:
    """Return the part of the wrong labels that is flagged at a precision of 80 %."""
    return float(flagged(assessment.probability, PRECISION)[given != true].mean())


def f1_at_true_count(wrong: Array, score: Array) -> float:
    """Return the part of the wrong labels among as many first samples: precision, recall and F1 in one."""
    first = np.argsort(-score, kind="stable")[: int(wrong.sum())]
    return float(wrong[first].mean())


def recall_at_precision(wrong: Array, score: Array) -> float:
    """Return the recall of the longest head of the order of which at least 80 % are wrong."""
    hits = np.cumsum(wrong[np.argsort(-score, kind="stable")])
    precise = np.flatnonzero(hits >= PRECISION * np.arange(1, len(hits) + 1))
    return float(hits[precise[-1]] / wrong.sum()) if len(precise) else 0.0


MEASURES: dict[str, Callable[[Array, Array], float]] = {
    "average precision": average_precision_score,
    "F1 at the true count": f1_at_true_count,
    "recall at a precision of 0.8": recall_at_precision,
}


DECISIONS: dict[str, Callable[[Assessment, Array, Array], float]] = {
    "suggested class is right, of the wrong labels": right_suggestions,
    "estimated fraction of wrong labels": lambda assessment, *_: assessment.noise_rate.value,
    "wrong, of the flagged": precision_of_flags,
    "flagged, of the wrong labels": recall_of_flags,
}


def show(name: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print one table, with the means of its rows."""
    print(f"| {name} | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    means = {column: float(np.mean([row[column] for row in rows.values()])) for column in columns}
    for run_name, row in [*rows.items(), ("mean", means)]:
        print(f"| {run_name} | " + " | ".join(f"{row[column]:.1f}" for column in columns) + " |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each measure with a row for each run, in percent, and one for other powers of the weight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embeddings", type=Path, required=True, metavar="FILE.npy")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.npz", help="files of noisy_runs.py")
    args = parser.parse_args(argv)
    embeddings = np.load(args.embeddings).astype(np.float32)
    measured: dict[str, dict[str, dict[str, float]]] = {name: {} for name in MEASURES}
    decided: dict[str, dict[str, dict[str, float]]] = {name: {} for name in DECISIONS}
    scores: Scores = {}
    for path in args.runs:
        with np.load(path) as run:
            logits, given, true = run["logits"].astype(np.float32), run["given"].astype(np.int64), run["true"]
        row = stored_row_name(path.stem)
        scores, assessments = compared(*recorded(logits, given), embeddings, given)
        for name, decision in DECISIONS.items():
            decided[name][row] = {who: 100 * decision(each, given, true) for who, each in assessments.items()}
        for name, measure in MEASURES.items():
            measured[name][row] = {column: 100 * measure(given != true, score) for column, score in scores.items()}
    powers = [column for column in scores if column.startswith("power")]
    for name, rows in measured.items():
        show(name, [column for column in scores if column not in powers], rows)
    show("average precision", ["run", *powers], measured["average precision"])
    for name, rows in decided.items():
        show(name, ["run", "both"], rows)


if __name__ == "__main__":
    main()
