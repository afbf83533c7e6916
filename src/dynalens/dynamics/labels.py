"""What the record keeps of each label of multi-label samples."""

from collections.abc import Mapping

import numpy as np

from dynalens.dynamics.given_labels import worst_labels
from dynalens.dynamics.statistics import Array
from dynalens.units import LABELS, UnitKind
from dynalens.units.kinds import BITS

State = dict[str, Array]

_MARGINS, _BITS, _RIGHT, _FORGOTTEN = "unit.margins", "unit.bits", "unit.right", "unit.forgotten"
MARKER = _MARGINS


def empty_state(num_samples: int, count: int) -> State:
    """Return what is kept of samples that were never seen.

    For each (sample, label), 6 bytes: the weighted mean of the margin, the given bit, -1 while it is not known, and
    whether the last prediction was right.
    """
    shape = (num_samples, count)
    return {
        _MARGINS: np.zeros(shape, np.float32),
        _BITS: np.full(shape, -1, np.int8),
        _RIGHT: np.zeros(shape, np.bool_),
        _FORGOTTEN: np.zeros(num_samples, np.int32),
    }


def add_presentations(state: State, places: "slice | Array", numbers: Array, step: float) -> None:
    """Add one presentation of each of some different samples."""
    kind = UnitKind(LABELS, state[_MARGINS].shape[1])
    logits, bits = numbers[kind.logits].T, bits_of_codes(numbers[kind.given].T, kind.labels)
    is_counted = ~np.isnan(logits)
    margins = np.where(bits == 1, logits, -logits)
    means, is_known = state[_MARGINS][places], state[_BITS][places] >= 0
    part = np.where(is_known, np.float32(step), np.float32(1))
    state[_MARGINS][places] = np.where(is_counted, means + part * (margins - means), means)
    state[_BITS][places] = np.where(is_counted, bits, state[_BITS][places])
    is_right = margins > 0  # False where it is not counted
    state[_FORGOTTEN][places] += (state[_RIGHT][places] & ~is_right & is_counted).sum(axis=1).astype(np.int32)
    state[_RIGHT][places] = np.where(is_counted, is_right, state[_RIGHT][places])


def count_changes(state: Mapping[str, Array], index: Array, numbers: Array) -> int:
    """Return the number of samples of which a given label differs between presentations."""
    kind = UnitKind(LABELS, state[_MARGINS].shape[1])
    bits = bits_of_codes(numbers[kind.given].T, kind.labels)
    bits[np.isnan(numbers[kind.logits].T)] = -1
    known_bits = state[_BITS].copy()
    known_bits[index] = np.where(known_bits[index] >= 0, known_bits[index], bits)
    first_bits = known_bits[index]
    differs = (bits >= 0) & (first_bits >= 0) & (bits != first_bits)
    return len(np.unique(index[differs.any(axis=1)]))


def bits_of_codes(codes: Array, count: int) -> Array:
    """Return the bits of :func:`~dynalens.units.multi_label.packed`, ``(M, count)`` int8.

    Example:
        >>> bits_of_codes(np.array([[5.0]]), 3)
        array([[1, 0, 1]], dtype=int8)
    """
    bits = codes.astype(np.int32)[:, :, np.newaxis] >> np.arange(BITS) & 1
    return bits.reshape(len(codes), -1)[:, :count].astype(np.int8)


def read_statistics(state: Mapping[str, Array], times: Array) -> dict[str, Array]:
    """Return the statistics of the worst label of each sample, and the margins of all."""
    has_presentations = ~np.isnan(times)
    is_known = state[_BITS] >= 0
    margins = np.where(is_known, state[_MARGINS], np.float32(np.nan))
    unit = worst_labels(state[_MARGINS], state[_BITS])
    rows = np.arange(len(unit))
    bits = np.where(has_presentations, state[_BITS][rows, unit], -1).astype(np.int32)
    last_bits = np.where(state[_RIGHT][rows, unit], bits, 1 - bits)
    return {
        "label": bits,
        "candidate": np.where(has_presentations, 1 - bits, -1).astype(np.int32),
        "predicted": np.where(has_presentations, last_bits, -1).astype(np.int32),
        "unit": np.where(has_presentations, unit, -1).astype(np.int32),
        "unit_margin": np.where(has_presentations, margins[rows, unit], np.nan),
        "unit_forgetting_events": state[_FORGOTTEN].copy(),
        "unit_margins": margins,
        "unit_given": state[_BITS].copy(),
    }
