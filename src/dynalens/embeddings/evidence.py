"""Judges labels by embeddings that never saw them, with a linear probe and with neighbours."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.dynamics import Array
from dynalens.embeddings.neighbours import NEIGHBOURS, nearest, usable_rows
from dynalens.embeddings.probe import class_loss, out_of_fold
from dynalens.embeddings.witness import EmbeddingEvidence

_VOTING = 10  # number of neighbours for the column `score_neighbours`
_LEAST = 1e-9  # smaller probabilities count as this one, so that logarithms are finite
_BLOCK = 2**22  # probabilities held at a time, in addition to those of the probe


def embedding_evidence(embeddings: Tensor, labels: Array) -> EmbeddingEvidence:
    r"""Return how probable each label is given embeddings, where each sample is judged by the other samples.

    Two models give probabilities of the classes. One is a linear probe, fitted to the samples of other folds. The
    other counts the labels of the 50 nearest neighbours by cosine: class k has the probability
    :math:`(n_k + a\,\pi_k) / (50 + a)`, where :math:`n_k` neighbours have the label k, :math:`\pi_k` is the fraction of
    all samples with this label, and :math:`a = \sqrt{50}` minimises the largest expected error. The result uses the
    geometric mean of both probabilities, scaled to a sum of 1.

    Source: Trybula, "Some problems of simultaneous minimax estimation", 1958, for a; Zhu, Dong, Liu, "Detecting
    Corrupted Labels Without Training a Model to Predict", ICML 2022, for neighbours.
    https://arxiv.org/abs/2110.06283

    Args:
        embeddings: Shape ``(N, D)``, floating and finite, on any device.
        labels: Shape ``(N,)``, integers. A sample with a negative number has no label.

    Raises:
        ImportError: If there are more than 200,000 labelled samples and faiss is not installed.
    """
    positions = np.flatnonzero(labels >= 0)
    classes, class_of = np.unique(labels[positions], return_inverse=True)
    if len(classes) < 2:
        return _no_evidence(labels)
    y = torch.from_numpy(class_of.astype(np.int64)).to(embeddings.device)
    x = embeddings[torch.from_numpy(positions).to(embeddings.device)]
    one_hot = F.one_hot(y, len(classes)).float()
    log_p = out_of_fold(x, one_hot, class_loss).log_softmax(dim=1).cpu().numpy()
    frequency = np.bincount(class_of) / len(class_of)
    neighbours = all_neighbours(x)
    probe, p_label, p_rival = np.empty((3, len(class_of)))
    rival = np.empty(len(class_of), np.int64)
    size = max(1, _BLOCK // len(classes))
    for start in range(0, len(class_of), size):
        rows = slice(start, start + size)
        probe_log_p = np.maximum(log_p[rows], np.log(_LEAST))
        probabilities = geometric_mean(probe_log_p, neighbour_probabilities(neighbours[rows], class_of, frequency))
        probe[rows] = rival_log_odds(probe_log_p, class_of[rows])
        p_label[rows], rival[rows], p_rival[rows] = label_and_rival(probabilities, class_of[rows])
    votes = _other_votes(neighbours[:, :_VOTING], class_of)
    votes, probe, p_label, p_rival = (_spread(labels, positions, values) for values in (votes, probe, p_label, p_rival))
    rivals = np.full(len(labels), -1)
    rivals[positions] = classes[rival]
    loss, entropy = -float(np.nanmean(np.log(p_label))), -float(frequency @ np.log(frequency))
    return EmbeddingEvidence(
        votes, probe, np.maximum(labels, -1).astype(np.int64), p_label, rivals, p_rival, loss, entropy
    )


def geometric_mean(log_p: Array, q: Array) -> Array:
    """Return the geometric mean of two rows of probabilities, scaled to a sum of 1, shape ``(n, K)``.

    Args:
        log_p: Shape ``(n, K)``, logarithms of the one.
        q: Shape ``(n, K)``, the other.

    Example:
        >>> geometric_mean(np.log([[0.5, 0.5]]), np.array([[0.8, 0.2]])).round(3)  # 2 : 1
        array([[0.667, 0.333]])
    """
    mean = np.exp(log_p / 2) * np.sqrt(q)
    probabilities: Array = mean / mean.sum(axis=1, keepdims=True)
    return probabilities


def label_and_rival(p: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return the probability of each label, the most probable other class and its probability, shape ``(n,)`` each.

    Example:
        >>> p_label, rival, p_rival = label_and_rival(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.array([0, 2]))
        >>> p_label.tolist(), rival.tolist(), p_rival.tolist()
        ([0.5, 0.1], [1, 1], [0.25, 0.8])
    """
    row = np.arange(len(p))
    other_p = p.copy()
    other_p[row, labels] = -1
    rival = other_p.argmax(axis=1)
    return p[row, labels], rival, other_p[row, rival]


def neighbour_probabilities(neighbours: Array, labels: Array, frequency: Array) -> Array:
    """Return the class probabilities (n, K) of samples by the labels of their neighbours.

    Args:
        neighbours: Shape ``(n, k)``, the neighbours of each; -1 where there are fewer.
        labels: Shape ``(N,)``, of all samples, in [0, K).
        frequency: Shape ``(K,)``, of the classes among them.

    Example:
        >>> near, labels = np.array([[1, 2, 3, -1]]), np.array([0, 0, 0, 1])
        >>> neighbour_probabilities(near, labels, np.array([0.75, 0.25])).round(3)  # (2 + 1.5) / 5, (1 + 0.5) / 5
        array([[0.7, 0.3]])
    """
    classes = len(frequency)
    row = np.repeat(np.arange(len(neighbours)), neighbours.shape[1])[neighbours.ravel() >= 0]
    votes = np.bincount(row * classes + labels[neighbours[neighbours >= 0]], minlength=len(neighbours) * classes)
    prior = np.sqrt(neighbours.shape[1]) * frequency
    counts = votes.reshape(-1, classes) + prior
    probabilities: Array = counts / counts.sum(axis=1, keepdims=True)
    return probabilities


def rival_log_odds(log_p: Array, labels: Array) -> Array:
    """Return the largest of the other classes' log probabilities less that of the label, shape ``(N,)``.

    Example:
        >>> rival_log_odds(np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.array([0, 2])).round(3)  # log 1/2, log 8
        array([-0.693,  2.079])
    """
    row = np.arange(len(log_p))
    other_log_p = log_p.copy()
    other_log_p[row, labels] = -np.inf
    odds: Array = other_log_p.max(axis=1) - log_p[row, labels]
    return odds


def all_neighbours(x: Tensor) -> Array:
    """Return the neighbours (N, k) of all samples; -1 where there are fewer."""
    rows = usable_rows(x)
    neighbours = np.full((len(x), min(NEIGHBOURS, max(len(rows), 1))), -1)
    for block, block_neighbours in nearest(x, NEIGHBOURS, rows, rows):
        neighbours[rows[block]] = block_neighbours
    return neighbours


def _other_votes(neighbours: Array, labels: Array) -> Array:
    """Return the fraction of the neighbours that have another label; NaN without one."""
    is_neighbour = neighbours >= 0
    differ = ((labels[neighbours] != labels[:, None]) & is_neighbour).sum(axis=1)
    number = is_neighbour.sum(axis=1)
    return np.where(number > 0, differ / np.maximum(number, 1), np.nan)


def _spread(labels: Array, rows: Array, values: Array) -> Array:
    everywhere: Array = np.full(len(labels), np.nan)
    everywhere[rows] = values
    return everywhere


def _no_evidence(labels: Array) -> EmbeddingEvidence:
    nan, no_class = np.full(len(labels), np.nan), np.full(len(labels), -1)
    return EmbeddingEvidence(nan, nan, no_class, nan, no_class, nan)
