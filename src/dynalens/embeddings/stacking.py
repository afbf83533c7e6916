"""How much two models count that judge the same samples: stacked generalization (Wolpert, Neural Networks 1992)."""

import functools
from collections.abc import Callable

import numpy as np
import torch

from dynalens.dynamics import Array
from dynalens.embeddings.probe import LinearProbe, fit_probe, label_loss

STACKED = 3
"""Numbers that weigh both models: a constant and one for each."""
_MOST_MIXED = 2**20  # labels from which they are learned: three numbers need no more
_PENALTY = 1e-4  # on these numbers, so that they are finite where the labels are predicted without a mistake


def stacked_labels(first: Array, second: Array, bits: Array) -> Array:
    """Return a + b * first + c * second, shape ``(N, K)``, with the a, b and c that predict the known bits best.

    The numbers are those of a logistic regression, with b and c at least 0 (:func:`agreeing_models`).

    Args:
        first: Shape ``(N, K)``, log odds of the labels by one model.
        second: Shape ``(N, K)``, by another one.
        bits: Shape ``(N, K)``, 1, 0, or -1 where not known.

    Example:
        >>> right, noise = np.array([[2.0], [2.0], [-2.0], [-2.0]]), np.array([[1.0], [-1.0], [1.0], [-1.0]])
        >>> log_odds = stacked_labels(right, noise, np.array([[1], [1], [0], [0]]))  # only the first one tells the bits
        >>> bool(log_odds[0, 0] > 5), bool(abs(log_odds[0, 0] - log_odds[1, 0]) < 0.01)
        (True, True)
    """
    features = torch.from_numpy(np.stack([first, second], axis=2).reshape(-1, 2)).float()
    targets = torch.from_numpy(np.where(bits >= 0, bits, np.nan).reshape(-1, 1)).float()
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(features))[:_MOST_MIXED])
    x = features[rows]

    @functools.cache
    def fit(models: tuple[int, ...]) -> LinearProbe:
        columns = x[:, models]
        return fit_probe(columns, columns.square().mean(dim=0), targets[rows], _PENALTY, loss=label_loss)

    models = agreeing_models(lambda models: fit(models).weight[0].numpy())
    log_odds: Array = fit(models).logits(features[:, models]).double().numpy().reshape(bits.shape)
    return log_odds


def stacked_numbers(first: Array, second: Array, z: Array) -> Array:
    """Return a + b * first + c * second of each column, with the a, b and c of least squares on the known targets.

    b and c are at least 0 (:func:`agreeing_models`).

    Args:
        first: Shape ``(N, K)``, predictions of the targets by one model.
        second: Shape ``(N, K)``, by another one.
        z: Shape ``(N, K)``; NaN where not known.

    Example:
        >>> first, second = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [-1.0], [1.0]])
        >>> stacked_numbers(first, second, np.array([[3.0], [5.0], [7.0]])).round(6).ravel()  # 1 + 2 * first
        array([3., 5., 7.])
    """
    columns = [
        _stacked_column(np.column_stack(models), target) for *models, target in zip(first.T, second.T, z.T, strict=True)
    ]
    return np.column_stack(columns)


def _stacked_column(features: Array, target: Array) -> Array:
    """Return the prediction of one target from those of two models, shape ``(N,)``."""
    is_known = np.isfinite(target)

    @functools.cache
    def fit(models: tuple[int, ...]) -> Array:
        columns = np.column_stack([np.ones(len(features)), features[:, models]])
        coefficients: Array = np.linalg.lstsq(columns[is_known], target[is_known], rcond=None)[0]
        return coefficients

    models = agreeing_models(lambda models: fit(models)[1:])
    prediction: Array = fit(models)[0] + features[:, models] @ fit(models)[1:]
    return prediction


def agreeing_models(weights: Callable[[tuple[int, ...]], Array]) -> tuple[int, ...]:
    """Return which of two models have weights of at least 0, if the one with the most negative weight is left out.

    A good model never counts against what it says. Neighbours would, if there are hardly more samples than
    neighbours: the mean of all other labels is low exactly where the own one is high, so that its negative tells the
    own label.

    Args:
        weights: From models, 0 and 1, to the weights of the best fit of these.

    Example:
        >>> agreeing_models(lambda models: np.array([2.0, -1.0])[list(models)])
        (0,)
    """
    models: tuple[int, ...] = (0, 1)
    values = weights(models)
    while len(models) and values.min() < 0:
        lowest = int(values.argmin())
        models = models[:lowest] + models[lowest + 1 :]
        values = weights(models)
    return models
