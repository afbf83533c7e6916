"""Average precision of the order of suspects from a run alone, from embeddings alone, and from both.

The runs are those of ``noisy_runs.py`` on one set of images, whose embeddings are an (N, D) array of any encoder in the
order of these images. Random embeddings, and the embeddings in a random order of the samples, show what bad ones cost.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import average_precision_score
from suspects import recorded

from dynalens.embeddings import EmbeddingEvidence, embedding_evidence
from dynalens.embeddings.probe import out_of_fold
from dynalens.suspicion import Assessment, assess
from dynalens.suspicion.joint import joined

Array = npt.NDArray[Any]
Scores = dict[str, Array]


def alone(embeddings: Array, given: Array, evidence: EmbeddingEvidence) -> Scores:
    """Return the scores of embeddings without a run: neighbours, probe, and cleanlab on the probe's probabilities."""
    classes, labels = np.unique(given, return_inverse=True)
    log_p = out_of_fold(torch.from_numpy(embeddings), torch.from_numpy(labels), len(classes))
    p = log_p.exp().double().numpy()
    quality = get_label_quality_scores(labels, p / p.sum(axis=1, keepdims=True), method="normalized_margin")
    return {"neighbours": evidence.neighbours, "probe": evidence.probe, "cleanlab on probe": -np.asarray(quality)}


def scores_of(assessment: Assessment, embeddings: Array, given: Array) -> Scores:
    """Return every score of one run."""
    rng = np.random.default_rng(0)
    evidence = embedding_evidence(torch.from_numpy(embeddings), given)
    bad: dict[str, Callable[[], Array]] = {
        "with random": lambda: rng.normal(size=(len(given), 128)),
        "with shuffled": lambda: embeddings[rng.permutation(len(given))],
    }
    scores = {"run": assessment.score} | alone(embeddings, given, evidence)
    scores["both"] = joined(assessment, evidence).score
    for name, make in bad.items():
        other = embedding_evidence(torch.from_numpy(make().astype(np.float32)), given)
        scores[name] = joined(assessment, other).score
    return scores


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each run, in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embeddings", type=Path, required=True, metavar="FILE.npy")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.npz", help="files of noisy_runs.py")
    args = parser.parse_args(argv)
    embeddings = np.load(args.embeddings).astype(np.float32)
    rows: list[list[float]] = []
    for path in args.runs:
        with np.load(path) as run:
            logits, given, true = run["logits"].astype(np.float32), run["given"].astype(np.int64), run["true"]
        statistics, history = recorded(logits, given)
        scores = scores_of(assess(statistics, history), embeddings, given)
        found = {name: 100 * average_precision_score(given != true, score) for name, score in scores.items()}
        if not rows:
            print("| run | " + " | ".join(found) + " |\n|" + " --- |" * (len(found) + 1))
        rows.append(list(found.values()))
        print(f"| {path.stem} | " + " | ".join(f"{value:.1f}" for value in found.values()) + " |", flush=True)
    print("| mean | " + " | ".join(f"{value:.1f}" for value in np.mean(rows, axis=0)) + " |")


if __name__ == "__main__":
    main()
