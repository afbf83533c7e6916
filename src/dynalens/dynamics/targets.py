r"""What the record keeps of each target of a regression.

With the residual r = prediction - target and the tolerance :math:`\epsilon` of this target, the margin is
:math:`\ln(\epsilon / |r|)`: positive where the prediction is within the tolerance. As log odds it has
:math:`p = \epsilon / (\epsilon + |r|)`, which is 1 at the target and 1/2 at the tolerance.
"""

from collections.abc import Mapping

import numpy as np

from dynalens.dynamics.statistics import Array
from dynalens.dynamics.step_rows import CERTAIN, EL2N, LOG_OTHER, LOG_P, MARGIN, RIVAL, ROWS, TARGET
from dynalens.dynamics.tolerance import default_tolerance, distances_to_median, for_each_target
from dynalens.dynamics.weighting import mean_of_worst
from dynalens.units import POSITION, SUMMARY, TARGETS, UnitKind
from dynalens.units.kinds import MEAN_MARGIN, RIGHT

State = dict[str, Array]

_TARGETS, _RESIDUALS, _ABSOLUTE, _LAST = "unit.targets", "unit.residuals", "unit.absolute", "unit.last"
_FORGOTTEN, TOLERANCE = "unit.forgotten", "unit.tolerance"
MARKER = _RESIDUALS


def empty_state(num_samples: int, count: int) -> State:
    """Return what is kept of samples that were never seen.

    For each (sample, target), 16 bytes: the target, NaN while it is not known, the weighted means of the residual and
    of its absolute value, and the last residual. The tolerance of each target, ``(1, D)``, is of all samples; NaN while
    it is not known.
    """
    shape = (num_samples, count)
    arrays = {name: np.zeros(shape, np.float32) for name in (_RESIDUALS, _ABSOLUTE)}
    arrays |= {name: np.full(shape, np.nan, np.float32) for name in (_TARGETS, _LAST)}
    arrays[TOLERANCE] = np.full((1, count), np.nan)
    return arrays | {_FORGOTTEN: np.zeros(num_samples, np.int32)}


def residuals(numbers: Array) -> Array:
    """Return prediction - target of the worst target of each presentation, ``(M,)`` float32."""
    kind = UnitKind(TARGETS, (len(numbers) - SUMMARY) // 2)
    worst: Array = numbers[kind.logits][numbers[POSITION].astype(np.int64), np.arange(numbers.shape[1])]
    return worst


def rows_within_tolerance(state: State, index: Array, rows: Array, tolerance: Array | None) -> Array:
    """Return the rows of an epoch with what the tolerance tells: margin, probabilities, and the worst target.

    Args:
        state: The record; it gets the tolerance if it has none.
        index: Shape ``(M,)``, the sample of each presentation.
        rows: Shape ``(R, M)``; changed in place.
        tolerance: The tolerance that was asked for, ``(D,)`` or ``()``. None: :func:`default_tolerance` of the targets
            of the first epoch.
    """
    kind = UnitKind(TARGETS, state[_RESIDUALS].shape[1])
    numbers = rows[ROWS:]
    residuals, targets = numbers[kind.logits].T, numbers[kind.given].T
    if len(index) and np.isnan(state[TOLERANCE]).any():
        _, first_rows = np.unique(index, return_index=True)
        state[TOLERANCE][0] = (
            default_tolerance(targets[first_rows]) if tolerance is None else for_each_target(tolerance, kind.labels)
        )
    ratio = np.abs(residuals.astype(np.float64)) / state[TOLERANCE]
    is_counted = ~np.isnan(targets)
    worst = np.where(is_counted, ratio, -np.inf).argmax(axis=1)  # NaN is the largest
    largest = np.where(rows[TARGET] >= 0, ratio[np.arange(len(worst)), worst], 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is not counted
        margins = np.minimum(-np.log(ratio), CERTAIN)
        margin, other_probability = np.minimum(-np.log(largest), CERTAIN), largest / (1 + largest)
        rows[LOG_OTHER] = np.log(other_probability)
    rows[MARGIN], rows[LOG_P], rows[EL2N] = margin, -np.log1p(largest), np.sqrt(2) * other_probability
    rows[RIVAL] = 1  # a target is 0
    number = np.maximum(is_counted.sum(axis=1), 1)
    numbers[MEAN_MARGIN] = np.where(is_counted, margins, 0).sum(axis=1) / number
    numbers[RIGHT] = (is_counted & (margins > 0)).sum(axis=1) / number
    numbers[POSITION] = worst
    return rows


def largest_errors(state: State, numbers: Array) -> tuple[float, float]:
    """Return the mean of the largest twentieth of an epoch's absolute residuals, and that of predicting each median.

    Both are in tolerances, over the targets that count, and 0 without any.

    Args:
        state: The record, which has the tolerance.
        numbers: Shape ``(R, M)``, those of M presentations.
    """
    kind = UnitKind(TARGETS, state[_RESIDUALS].shape[1])
    residuals, targets = numbers[kind.logits].T.astype(np.float64), numbers[kind.given].T
    is_counted = np.isfinite(residuals) & ~np.isnan(targets)
    if not is_counted.any():
        return 0.0, 0.0
    distances = distances_to_median(np.where(is_counted, targets, np.nan))
    error, constant_error = (mean_of_worst((np.abs(r) / state[TOLERANCE])[is_counted]) for r in (residuals, distances))
    return error, constant_error


def add_presentations(state: State, places: "slice | Array", numbers: Array, step: float) -> None:
    """Add one presentation of each of some different samples."""
    kind = UnitKind(TARGETS, state[_RESIDUALS].shape[1])
    residuals, targets = numbers[kind.logits].T, numbers[kind.given].T
    is_counted, is_known = ~np.isnan(targets), ~np.isnan(state[_TARGETS][places])
    was_within, is_within = (np.abs(r) < state[TOLERANCE] for r in (state[_LAST][places], residuals))  # NaN: no
    part = np.where(is_known, np.float32(step), np.float32(1))
    for name, values in ((_RESIDUALS, residuals), (_ABSOLUTE, np.abs(residuals))):
        means = state[name][places]
        state[name][places] = np.where(is_counted, means + part * (values - means), means)
    for name, values in ((_TARGETS, targets), (_LAST, residuals)):
        state[name][places] = np.where(is_counted, values, state[name][places])
    state[_FORGOTTEN][places] += (was_within & ~is_within & is_counted).sum(axis=1).astype(np.int32)


def count_changes(state: Mapping[str, Array], index: Array, numbers: Array) -> int:
    """Return the number of samples of which a target differs between presentations."""
    kind = UnitKind(TARGETS, state[_RESIDUALS].shape[1])
    targets, known_targets = numbers[kind.given].T, state[_TARGETS].copy()
    known_targets[index] = np.where(np.isnan(known_targets[index]), targets, known_targets[index])
    first_targets = known_targets[index]
    differs = ~np.isnan(targets) & ~np.isnan(first_targets) & (targets != first_targets)
    return len(np.unique(index[differs.any(axis=1)]))


def read_statistics(state: Mapping[str, Array], times: Array) -> dict[str, Array]:
    """Return the statistics of the worst target of each sample, and the residuals of all."""
    has_presentations = ~np.isnan(times)
    is_known = ~np.isnan(state[_TARGETS])
    absolute = np.where(is_known, state[_ABSOLUTE], np.float32(np.nan))
    unit = np.where(is_known, absolute / state[TOLERANCE], -np.inf).argmax(axis=1)
    rows = np.arange(len(unit))

    def of_unit(values: Array) -> Array:
        return np.where(has_presentations, values[rows, unit].astype(np.float64), np.nan)

    target, residual, distance = map(of_unit, (state[_TARGETS], state[_RESIDUALS], absolute))
    tolerance = np.where(has_presentations, state[TOLERANCE][0][unit], np.nan)
    with np.errstate(divide="ignore"):
        margin = np.minimum(np.log(tolerance / distance), CERTAIN)
    none = np.full(len(unit), -1, np.int32)
    return {
        "label": none,
        "candidate": none.copy(),
        "predicted": none.copy(),
        "unit": np.where(has_presentations, unit, -1).astype(np.int32),
        "unit_margin": margin,
        "unit_forgetting_events": state[_FORGOTTEN].copy(),
        "target": target,
        "prediction": target + residual,
        "residual": residual,
        "absolute_residual": distance,
        "tolerance": tolerance,
        "unit_residuals": absolute,
        "unit_targets": state[_TARGETS].copy(),
    }
