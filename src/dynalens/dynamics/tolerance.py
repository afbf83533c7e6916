"""Absolute residuals of a regression below which a prediction is right."""

from collections.abc import Sequence

import numpy as np

from dynalens.dynamics.statistics import Array, SampleStatistics


def default_tolerance(targets: Array) -> Array:
    """Return the median absolute deviation of each column from its median, ``(D,)`` float64.

    A constant prediction, the median, is within it for half of the samples. Where more than half of the targets are
    equal it is 0; then the mean absolute deviation is returned, and 1 where all are equal.

    Source: Hampel, "The Influence Curve and its Role in Robust Estimation", JASA 1974.

    Args:
        targets: Shape ``(N, D)``; NaN is left out.

    Example:
        >>> default_tolerance(np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [9.0, 8.0]]))
        array([1.5, 2. ])
    """
    tolerances = []
    for column in distances_to_median(targets).T:
        distances = column[np.isfinite(column)] if np.isfinite(column).any() else np.ones(1)
        tolerances.append(np.median(distances) or distances.mean() or 1.0)
    return np.array(tolerances)


def distances_to_median(targets: Array) -> Array:
    """Return the absolute deviation of each target from the median of its column, shape ``(N, D)`` float64.

    Args:
        targets: Shape ``(N, D)``; NaN stays NaN, and what is infinite does not count in the median.

    Example:
        >>> distances_to_median(np.array([[1.0], [2.0], [np.nan], [9.0]]))[:, 0]
        array([ 1.,  0., nan,  7.])
    """
    values = targets.astype(np.float64)
    medians = [np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan for column in values.T]
    distances: Array = np.abs(values - np.array(medians))
    return distances


def tolerance_of_targets(statistics: SampleStatistics) -> Array:
    """Return the tolerance of each target of a regression, shape ``(D,)``.

    The statistics have that of the worst target of each sample. A target that is the worst of no sample gets the
    default.
    """
    assert statistics.unit is not None
    assert statistics.unit_targets is not None
    assert statistics.tolerance is not None
    tolerance, was_seen = default_tolerance(statistics.unit_targets), statistics.unit >= 0
    tolerance[statistics.unit[was_seen]] = statistics.tolerance[was_seen]
    return tolerance


def checked_tolerance(tolerance: float | Sequence[float] | None) -> Array | None:
    """Return a tolerance as an array; raise a ValueError unless its numbers are above 0."""
    values = None if tolerance is None else np.asarray(tolerance, np.float64)
    if values is not None and not (values.ndim <= 1 and values.size and (values > 0).all()):
        raise ValueError(
            f"Expected `tolerance` to be above 0, a number or one for each target, got {tolerance}. Pass the largest "
            "absolute residual that is right, in the unit of the targets."
        )
    return values


def for_each_target(tolerance: Array, count: int) -> Array:
    """Return the tolerance of each target; raise a ValueError unless there are one or as many."""
    if tolerance.ndim and len(tolerance) != count:
        raise ValueError(
            f"Expected `tolerance` to be a number or one for each of {count} targets, got {len(tolerance)}. Pass as "
            "many as a sample has targets."
        )
    return tolerance
