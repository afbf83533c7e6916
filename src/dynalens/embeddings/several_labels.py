"""Judges samples with several labels by embeddings that never saw these labels."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.embeddings.evidence import all_neighbours
from dynalens.embeddings.probe import label_loss, out_of_fold
from dynalens.embeddings.stacking import STACKED, stacked_labels
from dynalens.embeddings.witness import LabelEvidence

_BLOCK = 2**24  # bits of neighbours held at a time, 16 MiB


def label_evidence(embeddings: Tensor, labels: Array) -> LabelEvidence:
    r"""Return how probable each of several labels is given embeddings, where each sample is judged by the others.

    As :func:`~dynalens.embeddings.embedding_evidence` for one class per sample, with a logistic regression for each
    label and the fraction of the 50 nearest neighbours that have it. If :math:`n_k` of the m neighbours for which label
    k is known have it, as do a fraction :math:`\pi_k` of all samples, the neighbours give the label the probability
    :math:`(n_k + a\,\pi_k) / (m + a)` with :math:`a = \sqrt{50}`. How much each of both models counts is learned from
    the labels: their log odds are the features of another logistic regression, with three numbers for all labels. A
    model with a negative weight is left out.

    Source: Wolpert, "Stacked generalization", Neural Networks 1992, for the last step.

    Args:
        embeddings: Shape ``(N, D)``, floating and finite, on any device.
        labels: Shape ``(N, K)``, 1 where a sample has the label, 0 where it has not, -1 where it is not known.

    Raises:
        ImportError: If more than 200,000 samples have a known label and faiss is not installed.

    Example:
        >>> angle = torch.linspace(0, 6, 200)
        >>> labels = (angle.sin() > 0).int().numpy()[:, np.newaxis]  # one label, which the embeddings tell
        >>> labels[50] = 1 - labels[50]
        >>> evidence = label_evidence(torch.stack([angle.sin(), angle.cos()], dim=1), labels)
        >>> int(evidence.margins.argmin()), bool(evidence.margins[50, 0] < 0)
        (50, True)
    """
    rows = np.flatnonzero((labels >= 0).any(axis=1))
    margins = np.full(labels.shape, np.nan)
    if len(rows) < 2:
        return LabelEvidence(margins, loss=0.0, entropy=0.0)
    x, bits = embeddings[torch.from_numpy(rows).to(embeddings.device)], labels[rows]
    targets = torch.from_numpy(np.where(bits >= 0, bits, np.nan).astype(np.float32)).to(embeddings.device)
    probe_log_odds = out_of_fold(x, targets, label_loss).cpu().double().numpy()
    frequency = _frequency(bits)
    neighbour_log_odds = _log_odds(neighbour_frequencies(all_neighbours(x), bits, frequency))
    margins[rows] = as_given(stacked_labels(probe_log_odds, neighbour_log_odds, bits), bits)
    guess = LabelEvidence(as_given(_log_odds(frequency), bits), loss=0.0, entropy=0.0)
    evidence = LabelEvidence(margins, loss=0.0, entropy=-float(guess.margin.mean()))
    # The numbers were learned from the labels that they predict: Akaike 1974 adds one for each of them.
    return replace(evidence, loss=STACKED / int((bits >= 0).sum()) - float(np.nanmean(evidence.margin)))


def neighbour_frequencies(neighbours: Array, bits: Array, frequency: Array) -> Array:
    """Return the probability of each label of samples by the labels of their neighbours, shape ``(n, K)``.

    Args:
        neighbours: Shape ``(n, k)``, the neighbours of each; -1 where there are fewer.
        bits: Shape ``(N, K)``, the labels of all samples: 1, 0, or -1 where not known.
        frequency: Shape ``(K,)``, fraction of the samples that have each label.

    Example:
        >>> near, bits = np.array([[1, 2, 3, -1]]), np.array([[0, 0], [1, 1], [1, -1], [0, -1]])
        >>> neighbour_frequencies(near, bits, np.array([0.5, 0.5])).round(3)  # (2 + 1) / (3 + 2), (1 + 1) / (1 + 2)
        array([[0.6  , 0.667]])
    """
    weight = np.sqrt(neighbours.shape[1])
    probabilities = np.empty((len(neighbours), bits.shape[1]))
    size = max(1, _BLOCK // (neighbours.shape[1] * bits.shape[1]))
    for start in range(0, len(neighbours), size):
        block = neighbours[start : start + size]
        block_bits = np.where((block >= 0)[:, :, np.newaxis], bits[block], -1)
        count, known_count = (block_bits == 1).sum(axis=1), (block_bits >= 0).sum(axis=1)
        probabilities[start : start + size] = (count + weight * frequency) / (known_count + weight)
    return probabilities


def as_given(log_odds: Array, bits: Array) -> Array:
    """Return the log odds that each label is as it was given, shape ``(N, K)``; NaN where it is not known.

    Example:
        >>> as_given(np.array([2.0, -1.0]), np.array([[1, 1], [0, -1]]))
        array([[ 2., -1.],
               [-2., nan]])
    """
    margins: Array = np.where(bits >= 0, (2 * bits - 1) * log_odds, np.nan)
    return margins


def _frequency(bits: Array) -> Array:
    """Return the fraction of the samples that have each label, with half a sample more of each kind: never 0 or 1."""
    frequency: Array = ((bits == 1).sum(axis=0) + 0.5) / ((bits >= 0).sum(axis=0) + 1)
    return frequency


def _log_odds(p: Array) -> Array:
    log_odds: Array = np.log(p) - np.log1p(-p)
    return log_odds
