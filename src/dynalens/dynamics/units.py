"""What the record keeps of the units of samples, of whatever kind, and how an epoch's presentations are added to it."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from dynalens.dynamics import labels, targets
from dynalens.dynamics.dense import DenseRules
from dynalens.dynamics.statistics import Array
from dynalens.units import LABELS, MEANS, PIXEL_LABELS, PIXELS, TARGETS, TOKEN_LABELS, TOKENS, UnitKind
from dynalens.units.kinds import KIND

State = dict[str, Array]

_SUMS = ("unit.margin_sum", "unit.right_sum", "unit.loss_sum")
"""Sums over presentations of means over units, float64."""


class _Rules(Protocol):
    """What a module has to have for each kind of units."""

    MARKER: str
    """The array ``(N, K)``, or ``(N,)`` of tokens and pixels, that tells a record of this kind."""

    def empty_state(self, num_samples: int, count: int) -> State: ...
    def add_presentations(self, state: State, places: "slice | Array", numbers: Array, step: float) -> None: ...
    def count_changes(self, state: Mapping[str, Array], index: Array, numbers: Array) -> int: ...
    def read_statistics(self, state: Mapping[str, Array], times: Array) -> dict[str, Array]: ...


_RULES: dict[str, _Rules] = {
    LABELS: labels,
    TARGETS: targets,
    TOKENS: DenseRules("unit.token", masks=False),
    PIXELS: DenseRules("unit.pixel", masks=True),
    PIXEL_LABELS: DenseRules("unit.pixel_label", masks=True, labels=True),
    TOKEN_LABELS: DenseRules("unit.token_label", masks=False, labels=True),
}


def empty_units(num_samples: int, kind: UnitKind | None) -> State:
    """Return what the record adds for samples that were never seen; nothing without a kind."""
    if kind is None:
        return {}
    return {name: np.zeros(num_samples) for name in _SUMS} | _RULES[kind.name].empty_state(num_samples, kind.labels)


def add_units(state: State, places: "slice | Array", numbers: Array, step: float) -> None:
    """Add one presentation of each of some different samples.

    Args:
        state: The record; changed in place.
        places: Its rows.
        numbers: Shape ``(R, n)``, those of :class:`~dynalens.units.UnitPresentation`.
        step: Of the weighted means.
    """
    for name, place in zip(_SUMS, MEANS, strict=True):
        state[name][places] += numbers[place]
    kind = kind_of(state)
    assert kind is not None
    _RULES[kind.name].add_presentations(state, places, numbers, step)


def kind_of(state: Mapping[str, Array]) -> UnitKind | None:
    """Return what the units of a record are; None where each sample has one label."""
    if _SUMS[0] not in state:
        return None
    names = [name for name, rules in _RULES.items() if rules.MARKER in state]
    shape = state[_RULES[names[0]].MARKER].shape
    return UnitKind(names[0], shape[1] if len(shape) > 1 else 0)


def changed_units(state: Mapping[str, Array], index: Array, numbers: Array) -> int:
    """Return the number of samples of which a given target differs between presentations.

    Args:
        state: The record.
        index: Shape ``(M,)``, the sample of each presentation.
        numbers: Shape ``(R, M)``.
    """
    kind = kind_of(state)
    return 0 if kind is None or not len(index) else _RULES[kind.name].count_changes(state, index, numbers)


def given_units(numbers: Array) -> Array | None:
    """Return what each presentation was given, ``(M, K)`` labels or ``(M, D)`` targets, NaN where none counts.

    Args:
        numbers: Shape ``(n, M)``, those of :class:`~dynalens.units.UnitPresentation` for M presentations.

    Returns:
        None of tokens and pixels, and without any presentation.
    """
    if not numbers.size:
        return None
    kind = UnitKind.told_by(len(numbers), int(numbers[KIND, 0]))
    if kind.name == TARGETS:
        return numbers[kind.given].T
    if kind.name != LABELS:
        return None
    return np.where(np.isnan(numbers[kind.logits].T), np.nan, labels.bits_of_codes(numbers[kind.given].T, kind.labels))


def read_units(state: State, times: Array) -> dict[str, Array]:
    """Return the statistics of :class:`~dynalens.SampleStatistics` that units have; none without units.

    Args:
        state: The record.
        times: Shape ``(N,)``, presentations; NaN for a sample never seen.
    """
    kind = kind_of(state)
    if kind is None:
        return {}
    margin, right_fraction, loss = (state[name] / times for name in _SUMS)
    means = {"correctness": right_fraction, "loss": loss, "mean_margin": margin}
    return means | _RULES[kind.name].read_statistics(state, times)
