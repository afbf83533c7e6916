"""Judges the numbers of a regression by embeddings that never saw them."""

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.dynamics.tolerance import distances_to_median
from dynalens.embeddings.evidence import all_neighbours
from dynalens.embeddings.probe import number_loss, out_of_fold
from dynalens.embeddings.stacking import STACKED, stacked_numbers
from dynalens.embeddings.witness import LabelEvidence


def number_evidence(embeddings: Tensor, targets: Array, tolerance: Array) -> LabelEvidence:
    r"""Return how close embeddings come to the targets of a regression, where each sample is judged by the others.

    As :func:`~dynalens.embeddings.embedding_evidence` for classes, with a ridge regression and with the mean target of
    the 50 nearest neighbours, :math:`(\sum_j y_j + a \bar y) / (m + a)` over the m of them whose target is known, with
    :math:`a = \sqrt{50}` and :math:`\bar y` the mean of all targets. How much each of both models counts is learned by
    least squares, with three numbers for each target. A model with a negative weight is left out.

    With the residual r and the tolerance :math:`\epsilon` of a target, the margin is :math:`\ln(\epsilon / |r|)`, as in
    the record of a regression (:mod:`~dynalens.dynamics.targets`). ``loss`` is the mean of :math:`-\ln p` with the
    closeness :math:`p = \epsilon / (\epsilon + |r|)`, and ``entropy`` is the same mean if the median of the targets is
    predicted for every sample.

    Source: Wolpert, "Stacked generalization", Neural Networks 1992, for the last step.

    Args:
        embeddings: Shape ``(N, D)``, floating and finite, on any device.
        targets: Shape ``(N, K)``; NaN where a target is not known.
        tolerance: Shape ``(K,)``, above 0.

    Raises:
        ImportError: If more than 200,000 samples have a known target and faiss is not installed.

    Example:
        >>> angle = torch.linspace(0, 6, 200)
        >>> targets = 10 * angle.sin().double().numpy()[:, np.newaxis]
        >>> targets[7] += 30
        >>> evidence = number_evidence(torch.stack([angle.sin(), angle.cos()], dim=1), targets, np.array([10.0]))
        >>> int(evidence.margins.argmin()), float(evidence.margins[7, 0].round(1))  # ln(10 / 30)
        (7, -1.1)
    """
    rows = np.flatnonzero(np.isfinite(targets).any(axis=1))
    margins = np.full(targets.shape, np.nan)
    if len(rows) < 2:
        return LabelEvidence(margins, loss=0.0, entropy=0.0)
    x, y = embeddings[torch.from_numpy(rows).to(embeddings.device)], targets[rows].astype(np.float64)
    mean, deviation = np.nanmean(y, axis=0), np.nanstd(y, axis=0)
    z = (y - mean) / np.where(deviation > 0, deviation, 1)
    probe = out_of_fold(x, torch.from_numpy(z.astype(np.float32)).to(x.device), number_loss).cpu().double().numpy()
    predicted = mean + deviation * stacked_numbers(probe, neighbour_means(all_neighbours(x), z), z)
    margins[rows] = _margins(np.abs(predicted - y), tolerance)
    evidence = LabelEvidence(margins, loss=0.0, entropy=0.0)
    guess = LabelEvidence(_margins(distances_to_median(y), tolerance), loss=0.0, entropy=0.0)
    # The numbers were learned from the targets that they predict: Akaike 1974 adds one for each of them.
    correction = STACKED * targets.shape[1] / int(np.isfinite(y).sum())
    return LabelEvidence(
        margins, loss=correction - float(np.nanmean(evidence.margin)), entropy=-float(np.nanmean(guess.margin))
    )


def neighbour_means(neighbours: Array, z: Array) -> Array:
    """Return the mean target of the neighbours of samples, drawn to 0 as by as many neighbours as the root of k.

    Args:
        neighbours: Shape ``(n, k)``, the neighbours of each; -1 where there are fewer.
        z: Shape ``(N, K)``, targets with the mean 0; NaN where not known.

    Example:
        >>> near, z = np.array([[1, 2, 3, -1]]), np.array([[0.0], [3.0], [np.nan], [5.0]])
        >>> neighbour_means(near, z)  # (3 + 5) / (2 + 2)
        array([[2.]])
    """
    weight = np.sqrt(neighbours.shape[1])
    means = np.empty((len(neighbours), z.shape[1]))
    for k, column in enumerate(z.T):
        values = np.where(neighbours >= 0, column[neighbours], np.nan)
        means[:, k] = np.nansum(values, axis=1) / (np.isfinite(values).sum(axis=1) + weight)
    return means


def _margins(distances: Array, tolerance: Array) -> Array:
    smallest = np.finfo(np.float32).tiny  # a margin of 87, so that logarithms are finite
    margins: Array = np.log(tolerance) - np.log(np.maximum(distances, smallest))
    return margins
