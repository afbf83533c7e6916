"""Several labels that people gave: the order of samples by the run, by embeddings, and by both, beside cleanlab.

Two images of CIFAR-10 stand side by side in each picture, whose labels are those that people gave to both (CIFAR-10N).
Who names another class than the true one makes two labels wrong: one is missing and one is extra. A sample is wrong if
one of its labels is.

The file of labels is an npz with ``images`` (N, 32, 32, 3), ``clean`` and the sets of labels, (N,) each. Embeddings are
an (N / 2, D) array of any encoder, one row for each picture that ``--pictures FILE.npy`` writes. ``all labels`` is the
order of the record, ``worst label`` would be the order of the smallest log odds alone.

    python benchmarks/label_pairs.py LABELS.npz --seed 2 --pictures pictures.npy
    python benchmarks/label_pairs.py LABELS.npz --seed 2 --embeddings embeddings.npy
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn import functional as F
from units import Array, Scores, multi_label_peers

from dynalens import TrainingDynamics
from dynalens.dynamics import EpochRecord, SampleStatistics, given_labels
from dynalens.dynamics.given_labels import given_log_odds
from dynalens.embeddings import LabelEvidence, label_evidence
from dynalens.embeddings.probe import label_loss, out_of_fold
from dynalens.suspicion import RunLoss, assess, joined_labels, streaming_score
from dynalens.units import multi_label

EPOCHS, BATCH, RATE, CLASSES = 12, 64, 2e-3, 10
SETS = ("aggre", "random2", "worse")


def pair_order(count: int, seed: int) -> Array:
    """Return which images stand left and right, shape ``(2, count // 2)``; each image is in one picture."""
    return np.random.default_rng(seed).permutation(count)[: count // 2 * 2].reshape(2, -1)


def pictures_of(images: Array, order: Array) -> Array:
    """Return the pictures, shape ``(M, 32, 64, 3)``, uint8."""
    return np.concatenate([images[order[0]], images[order[1]]], axis=2)


def bits_of(labels: Array, order: Array) -> Array:
    """Return which labels each picture has, shape ``(M, 10)``, int64."""
    one_hot = np.eye(CLASSES, dtype=np.int64)[labels.astype(np.int64)]
    bits: Array = one_hot[order[0]] | one_hot[order[1]]
    return bits


def network() -> nn.Module:
    """Return a small network for pictures of any size."""
    blocks: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 96)):
        blocks += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, CLASSES))


def trained(pictures: Array, given: Array, seed: int, epochs: int, dynamics: TrainingDynamics) -> Iterator[Tensor]:
    """Train with binary cross-entropy, and yield the logits of each epoch's steps, shape ``(M, 10)``."""
    torch.manual_seed(seed)
    x, y = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(given)
    x, model = (x - x.mean()) / x.std(), network()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(epochs):
        logits = torch.empty(len(x), CLASSES)
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            z = model(x[rows])
            dynamics.update_units(rows, multi_label(z.detach(), y[rows]))
            logits[rows] = z.detach()
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(z, y[rows].float()).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        yield logits


def orders(pictures: Array, given: Array, embeddings: Array | None, seed: int, epochs: int) -> Scores:
    """Train, and return every score of the samples by name."""
    dynamics, values = TrainingDynamics(len(given)), []
    evidence = None if embeddings is None else label_evidence(torch.from_numpy(embeddings), given)
    run_loss = None if evidence is None else RunLoss(evidence, np.zeros(0))
    for epoch, logits in enumerate(trained(pictures, given, seed, epochs, dynamics)):
        record = dynamics.end_epoch(epoch)
        values.append(logits.sigmoid())
        if run_loss is not None:
            run_loss.read(epoch, {"index": record.index, "p_label": np.exp(-_loss_of(record))})
    statistics, targets = dynamics.compute(), torch.from_numpy(given)
    scores = {"all labels": streaming_score(statistics), "worst label": worst_label_score(statistics)}
    for name, p in (("averaged", torch.stack(values).mean(dim=0)), ("last epoch", values[-1])):
        scores |= {f"{peer}, {name}": score for peer, score in multi_label_peers(p, targets).items()}
    if evidence is not None and embeddings is not None and run_loss is not None:
        scores |= with_embeddings(statistics, evidence, run_loss.value, embeddings)
    return scores


def _loss_of(record: EpochRecord) -> Array:
    assert record.loss is not None
    return record.loss


def worst_label_score(statistics: SampleStatistics) -> Array:
    """Return minus the smallest log odds of each sample's labels."""
    assert statistics.unit_margins is not None
    assert statistics.unit_given is not None
    score: Array = -given_log_odds(statistics.unit_margins.astype(np.float64), statistics.unit_given).min(axis=1)
    return score


def with_embeddings(
    statistics: SampleStatistics, evidence: LabelEvidence, run_loss: float, embeddings: Array
) -> Scores:
    """Return the scores that need embeddings, also those of bad ones."""
    run, given = assess(statistics), statistics.unit_given
    assert given is not None
    targets = torch.from_numpy(given)
    probe = out_of_fold(torch.from_numpy(embeddings), targets.float(), label_loss).sigmoid()
    scores = {"both": streaming_score(joined_labels(statistics, run, evidence, run_loss)[0])}
    scores |= {f"{peer} on probe": s for peer, s in multi_label_peers(probe, targets).items()}
    rng = np.random.default_rng(0)
    bad = {"with random": rng.normal(size=(len(given), 128)), "with shuffled": embeddings[rng.permutation(len(given))]}
    for name, others in bad.items():
        other = label_evidence(torch.from_numpy(others.astype(np.float32)), given)
        scores[name] = streaming_score(joined_labels(statistics, run, other, run_loss)[0])
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures, or print the average precision of each order in percent, a line for each set of labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("labels", type=Path, metavar="LABELS.npz")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seed", type=int, default=2, help="0 was looked at while choosing")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--pictures", type=Path, metavar="FILE.npy", help="write the pictures for an encoder, and end")
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npy")
    parser.add_argument("--steps", type=int, default=given_labels.STEPS, help="other than `given_labels.STEPS`")
    args = parser.parse_args(arguments)
    given_labels.STEPS = args.steps
    with np.load(args.labels) as data:
        order = pair_order(len(data["images"]), args.seed)
        pictures, truth = pictures_of(data["images"], order), bits_of(data["clean"], order)
        given_sets = {name: bits_of(data[name], order) for name in args.sets}
    if args.pictures:
        np.save(args.pictures, pictures)
        return
    embeddings = None if args.embeddings is None else np.load(args.embeddings).astype(np.float32)
    for place, (name, given) in enumerate(given_sets.items()):
        wrong = (given != truth).any(axis=1)
        scores = orders(pictures, given, embeddings, args.seed, args.epochs)
        if not place:
            print(f"| labels | wrong samples | {' | '.join(scores)} |\n|{' --- |' * (2 + len(scores))}")
        precisions = [100 * average_precision_score(wrong, score) for score in scores.values()]
        print(f"| {name} | {wrong.mean():.1%} | {' | '.join(f'{value:.1f}' for value in precisions)} |", flush=True)


if __name__ == "__main__":
    main()
