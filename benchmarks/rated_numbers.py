"""Numbers that people gave: the order of samples of a regression by the run, by embeddings, and by both.

The sentences of ``rated_texts.py`` have ratings from -4 (negative) to 4 (positive) by 15 to 99 people each. The target
of a sentence is the rating of one of them, drawn with the seed, and it is wrong if it is at least 1.5 away from the
mean of all. A mean of word vectors with one hidden layer is trained with the squared error.

    python benchmarks/rated_numbers.py --data DIR --seeds 2 3 --embeddings embeddings.npy
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rated_texts
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional as F
from units import Array, Scores, regression_peers

from dynalens import TrainingDynamics
from dynalens.dynamics.tolerance import default_tolerance
from dynalens.embeddings import LabelEvidence, number_evidence
from dynalens.suspicion import RunLoss, assess, joined_numbers
from dynalens.units import regression

BATCH, RATE = 64, 2e-3
SIZE = 8000
"""Sentences, drawn with seed 0. cleanlab's score compares each one with half of all others."""
FARTHEST = 1.5
"""Distance from the mean rating from which a rating counts as wrong."""
TRAININGS = ((5, False), (12, False), (12, True), (30, True))
"""Epochs, and whether a tenth of the words is left out at random."""


def drawn_ratings(ratings: Sequence[Array], seed: int) -> Array:
    """Return the rating of one person for each sentence, shape ``(N,)`` float32."""
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(each) for each in ratings], np.float32)


def trained(
    words: Tensor, given: Tensor, seed: int, *, epochs: int, augment: bool, dynamics: TrainingDynamics
) -> Iterator[Tensor]:
    """Train, and yield the predictions of each epoch's steps, shape ``(N, 1)``."""
    torch.manual_seed(seed)
    model, generator = rated_texts.network(0, 1), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(epochs):
        predictions = torch.empty(len(words), 1)
        for rows in torch.split(torch.randperm(len(words)), BATCH):
            x = rated_texts.augment(words[rows], generator) if augment else words[rows]
            z = model(x)
            residual = (z - given[rows]).detach()
            dynamics.update_units(rows, regression(residual, given[rows], residual.square()))
            predictions[rows] = z.detach()
            optimizer.zero_grad()
            F.mse_loss(z, given[rows]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        yield predictions


def orders(words: Tensor, given: Array, embeddings: Array | None, seed: int, *, epochs: int, augment: bool) -> Scores:
    """Train, and return every score of the samples by name."""
    dynamics, values, targets = TrainingDynamics(len(given)), [], torch.from_numpy(given)[:, None]
    tolerance = default_tolerance(given[:, None])
    evidence = None if embeddings is None else evidence_of(embeddings, given, tolerance)
    run_losses = {name: RunLoss(each, np.zeros(0)) for name, each in (evidence or {}).items()}
    run = trained(words, targets, seed, epochs=epochs, augment=augment, dynamics=dynamics)
    for epoch, predictions in enumerate(run):
        record = dynamics.end_epoch(epoch)
        values.append(predictions)
        for run_loss in run_losses.values():
            run_loss.read(epoch, {"index": record.index, "p_label": record.p_label})
    statistics = dynamics.compute()
    assessment = assess(statistics)
    scores = {"dynalens": assessment.score}
    for name, p in (("averaged", torch.stack(values).mean(dim=0)), ("last epoch", values[-1])):
        scores |= {f"{peer}, {name}": score for peer, score in regression_peers(p, targets).items()}
    if evidence is not None:
        scores["embeddings alone"] = -evidence["both"].margins[:, 0]
        for name, each in evidence.items():
            scores[name] = joined_numbers(statistics, assessment, each, run_losses[name].value).score
    return scores


def evidence_of(embeddings: Array, given: Array, tolerance: Array) -> dict[str, LabelEvidence]:
    """Return what embeddings say, and what bad ones do."""
    rng = np.random.default_rng(0)
    kinds = {
        "both": embeddings,
        "with random": rng.normal(size=(len(given), 128)).astype(np.float32),
        "with shuffled": embeddings[rng.permutation(len(given))],
    }
    return {name: number_evidence(torch.from_numpy(each), given[:, None], tolerance) for name, each in kinds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the average precision of each order in percent, a line for each training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {rated_texts.FOLDER}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3], help="0 was looked at while choosing")
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npy", help="as rated_texts.py writes them")
    args = parser.parse_args(arguments)
    sentences, ratings = rated_texts.read(args.data)
    rows = np.random.default_rng(0).permutation(len(sentences))[:SIZE]
    words, ratings = rated_texts.tokens([sentences[row] for row in rows]), [ratings[row] for row in rows]
    mean = np.array([each.mean() for each in ratings])
    embeddings = None if args.embeddings is None else np.load(args.embeddings).astype(np.float32)[rows]
    for place, ((epochs, augment), seed) in enumerate(itertools.product(TRAININGS, args.seeds)):
        given = drawn_ratings(ratings, seed)
        wrong = np.abs(given - mean) >= FARTHEST
        scores = orders(words, given, embeddings, seed, epochs=epochs, augment=augment)
        if not place:
            print(f"| epochs, words left out, seed | wrong | {' | '.join(scores)} |\n|{' --- |' * (2 + len(scores))}")
        cells = [f"{100 * average_precision_score(wrong, score):.1f}" for score in scores.values()]
        training = f"{epochs}, {'yes' if augment else 'no'}, {seed}"
        print(f"| {training} | {wrong.mean():.1%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
