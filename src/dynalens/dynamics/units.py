"""What the record keeps of the units of samples, and how the presentations of an epoch are added to it."""

from collections.abc import Mapping

import numpy as np

from dynalens.dynamics.statistics import Array
from dynalens.units import MEANS, UnitKind
from dynalens.units.kinds import BITS

State = dict[str, Array]

_SUMS = ("unit.margin_sum", "unit.right_sum", "unit.loss_sum")
"""Sums over presentations of means over units, float64."""
_MARGINS, _BITS, _RIGHT, _FORGOTTEN = "unit.margins", "unit.bits", "unit.right", "unit.forgotten"


def empty_units(num_samples: int, kind: UnitKind | None) -> State:
    """Return what the record adds for samples that were never seen; nothing without a kind.

    For each (sample, label), 6 bytes: the weighted mean of the margin, the given bit, -1 while it is not known, and
    whether the last prediction was right.
    """
    if kind is None:
        return {}
    shape = (num_samples, kind.labels)
    sums = {name: np.zeros(num_samples) for name in _SUMS}
    return sums | {
        _MARGINS: np.zeros(shape, np.float32),
        _BITS: np.full(shape, -1, np.int8),
        _RIGHT: np.zeros(shape, np.bool_),
        _FORGOTTEN: np.zeros(num_samples, np.int32),
    }


def present_units(state: State, at: "slice | Array", numbers: Array, step: float) -> None:
    """Add one presentation of each of some different samples.

    Args:
        state: The record; changed in place.
        at: Its rows.
        numbers: Shape ``(R, n)``, those of :class:`~dynalens.units.UnitPresentation`.
        step: Of the weighted means.
    """
    for name, place in zip(_SUMS, MEANS, strict=True):
        state[name][at] += numbers[place]
    kind = kind_of(state)
    assert kind is not None
    logits, given = numbers[kind.logits].T, unpacked(numbers[kind.bits].T, kind.labels)
    counted = ~np.isnan(logits)
    margins = np.where(given == 1, logits, -logits)
    before, known = state[_MARGINS][at], state[_BITS][at] >= 0
    part = np.where(known, np.float32(step), np.float32(1))
    state[_MARGINS][at] = np.where(counted, before + part * (margins - before), before)
    state[_BITS][at] = np.where(counted, given, state[_BITS][at])
    right = margins > 0  # False where it is not counted
    state[_FORGOTTEN][at] += (state[_RIGHT][at] & ~right & counted).sum(axis=1).astype(np.int32)
    state[_RIGHT][at] = np.where(counted, right, state[_RIGHT][at])


def kind_of(state: Mapping[str, Array]) -> UnitKind | None:
    """Return what the units of a record are; None where each sample has one label."""
    margins = state.get(_MARGINS)
    return None if margins is None else UnitKind("labels", margins.shape[1])


def changed_units(state: Mapping[str, Array], index: Array, numbers: Array) -> int:
    """Return the number of samples of which a given label differs between presentations.

    Args:
        state: The record.
        index: Shape ``(M,)``, the sample of each presentation.
        numbers: Shape ``(R, M)``.
    """
    kind = kind_of(state)
    if kind is None or not len(index):
        return 0
    given = unpacked(numbers[kind.bits].T, kind.labels)
    given[np.isnan(numbers[kind.logits].T)] = -1
    known = state[_BITS].copy()
    known[index] = np.where(known[index] >= 0, known[index], given)
    before = known[index]
    differs = (given >= 0) & (before >= 0) & (given != before)
    return len(np.unique(index[differs.any(axis=1)]))


def unpacked(packed: Array, count: int) -> Array:
    """Return the bits of :func:`~dynalens.units.multi_label.packed`, ``(M, count)`` int8.

    Example:
        >>> unpacked(np.array([[5.0]]), 3)
        array([[1, 0, 1]], dtype=int8)
    """
    bits = packed.astype(np.int32)[:, :, np.newaxis] >> np.arange(BITS) & 1
    return bits.reshape(len(packed), -1)[:, :count].astype(np.int8)


def read_units(state: State, times: Array) -> dict[str, Array]:
    """Return the statistics of :class:`~dynalens.SampleStatistics` that units have; none without units.

    Args:
        state: The record.
        times: Shape ``(N,)``, presentations; NaN for a sample never seen.
    """
    if kind_of(state) is None:
        return {}
    margin, right, loss = (state[name] / times for name in _SUMS)
    known = state[_BITS] >= 0
    margins = np.where(known, state[_MARGINS], np.float32(np.nan))
    unit = np.where(known, state[_MARGINS], np.inf).argmin(axis=1)
    rows, seen = np.arange(len(unit)), ~np.isnan(times)
    given = np.where(seen, state[_BITS][rows, unit], -1).astype(np.int32)
    return {
        "label": given,
        "candidate": np.where(seen, 1 - given, -1).astype(np.int32),
        "predicted": np.where(seen, np.where(state[_RIGHT][rows, unit], given, 1 - given), -1).astype(np.int32),
        "unit": np.where(seen, unit, -1).astype(np.int32),
        "unit_margin": np.where(seen, margins[rows, unit], np.nan),
        "correctness": right,
        "loss": loss,
        "mean_margin": margin,
        "unit_forgetting_events": state[_FORGOTTEN].copy(),
        "unit_margins": margins,
    }
