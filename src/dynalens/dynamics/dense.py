"""What the record keeps of samples with a class for each token or pixel: reductions over them, and the worst one.

The worst unit of a sample is the one that most of its presentations contradict first: the majority of the worst units
of those presentations that contradict any (Boyer and Moore, "MJRTY: a fast majority vote algorithm", 1981).

Forgetting events of units are counted in sum: whether each unit was right when it counted last is a bit, of up to 512
units. Of more, 512 drawn ones are followed, and each stands for as many as its share; the sum is then an estimate.

All of it takes 113 bytes for each sample, or 117 of masks, whatever the number of its units.
"""

from collections.abc import Mapping

import numpy as np

from dynalens.dynamics.statistics import Array
from dynalens.units import GIVEN, POSITION
from dynalens.units.kinds import COLUMNS, CONTRADICTION, DIGITS, DOUBT, FOLLOWED, RIGHT, SHARE, STATES

State = dict[str, Array]

_DOUBT, _VOTES, _RIVAL, _GIVEN = "unit.doubt", "unit.votes", "unit.rival", "unit.given"
_COLUMNS, _RIGHT = "unit.columns", "unit.last_right"
_BITS, _FORGOTTEN = "unit.right_bits", "unit.forgotten"
LATER = (_BITS, _FORGOTTEN)
"""What checkpoints of earlier versions lack: without them the sum is not told."""
_WRONG, _IS_RIGHT = 1, 2
"""States of a unit that counts; 0 is that of one that does not."""
EARLIER_DOUBT = "unit.doubt_sum"
"""What checkpoints had before the doubt was a weighted mean: a sum over presentations, of margins."""


class DenseRules:
    """The rules of tokens, or those of pixels.

    Args:
        marker: Name of the array with the places of the worst units, which tells a record of this kind.
        masks: Whether these are pixels, in rows and columns.
        labels: Whether a unit has any number of labels: class 2 k + 1 is label k that was given, and 2 k that was not.
    """

    def __init__(self, marker: str, *, masks: bool, labels: bool = False) -> None:
        self.MARKER, self._masks, self._labels = marker, masks, labels

    def empty_state(self, num_samples: int, count: int) -> State:
        """Return what is kept of samples that were never seen."""
        names = (self.MARKER, _GIVEN, _RIVAL, *((_COLUMNS,) if self._masks else ()))
        arrays: State = {name: np.full(num_samples, -1, np.int32) for name in names}
        arrays |= {_VOTES: np.zeros(num_samples, np.int32), _RIGHT: np.zeros(num_samples, np.bool_)}
        arrays |= {name: np.zeros(num_samples, np.float32) for name in (_DOUBT, _FORGOTTEN)}
        return arrays | {_BITS: np.zeros((num_samples, FOLLOWED // 8), np.uint8)}

    def add_presentations(self, state: State, places: "slice | Array", numbers: Array, step: float) -> None:
        """Add one presentation of each of some different samples."""
        part = np.where(state["presentations"][places] == 1, np.float32(1), np.float32(step))
        state[_DOUBT][places] += part * (numbers[DOUBT] - state[_DOUBT][places])
        worst, is_contradicted = numbers[POSITION].astype(np.int32), numbers[RIGHT] < 1
        votes, is_same_unit = state[_VOTES][places], state[self.MARKER][places] == worst
        has_no_majority = votes == 0  # this unit is named, with a vote if it is contradicted
        state[_VOTES][places] = votes + np.where(is_contradicted, np.where(has_no_majority | is_same_unit, 1, -1), 0)
        units = {self.MARKER: worst, _GIVEN: numbers[GIVEN], _RIVAL: numbers[CONTRADICTION]}
        units |= {_COLUMNS: numbers[COLUMNS]}
        for name in units.keys() & state.keys():
            is_named = has_no_majority | (is_same_unit & is_contradicted)
            state[name][places] = np.where(is_named, units[name], state[name][places])
        state[_RIGHT][places] = ~is_contradicted
        if _BITS in state:
            self._count(state, places, numbers)

    def _count(self, state: State, places: "slice | Array", numbers: Array) -> None:
        """Add the forgetting events of the units that are followed."""
        states = unpacked_states(numbers[STATES].T)
        bits = np.unpackbits(state[_BITS][places], axis=1).astype(np.bool_)
        was_right = bits[:, : states.shape[1]]
        state[_FORGOTTEN][places] += numbers[SHARE] * (was_right & (states == _WRONG)).sum(axis=1)
        bits[:, : states.shape[1]] = np.where(states > 0, states == _IS_RIGHT, was_right)
        state[_BITS][places] = np.packbits(bits, axis=1)

    def count_changes(self, state: Mapping[str, Array], index: Array, numbers: Array) -> int:
        """Return 0: crops move a mask's pixels, and a masked language model draws its targets anew."""
        return 0

    def read_statistics(self, state: Mapping[str, Array], times: Array) -> dict[str, Array]:
        """Return the statistics of the worst token or pixel of each sample."""
        labels, rival = state[_GIVEN], state[_RIVAL]
        columns = {"unit_columns": state[_COLUMNS].copy()} if self._masks else {}
        if _FORGOTTEN in state:
            columns["unit_forgetting_events"] = np.rint(state[_FORGOTTEN]).astype(np.int64)
        if self._labels:
            is_known = labels >= 0
            columns["unit_label"] = np.where(is_known, labels >> 1, -1)
            labels, rival = (np.where(is_known, codes & 1, -1) for codes in (labels, rival))
        return columns | {
            "label": labels.copy(),
            "candidate": rival.copy(),
            "predicted": np.where(state[_RIGHT], labels, rival),
            "unit": state[self.MARKER].copy(),
            "unit_margin": np.where(np.isnan(times), np.nan, -state[_DOUBT].astype(np.float64)),
        }


def unpacked_states(codes: Array) -> Array:
    """Return states of :func:`~dynalens.units.unit_states.packed_states`, ``(M, U)`` int8, up to the last that counts.

    Example:
        >>> unpacked_states(np.array([[5.0, 0.0]]))[0, :4]
        array([2, 1, 0, 0], dtype=int8)
    """
    filled_columns = np.flatnonzero(codes.any(axis=0))
    digits = codes[:, : filled_columns[-1] + 1 if len(filled_columns) else 0].astype(np.int32)
    states = digits[:, :, np.newaxis] // 3 ** np.arange(DIGITS, dtype=np.int32) % 3
    return states.astype(np.int8).reshape(len(codes), -1)[:, :FOLLOWED]
