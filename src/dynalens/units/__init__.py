"""Units: what has one target of its own within a sample, such as a label of a multi-label sample.

A presentation of a sample is reduced to its worst unit, as a problem of two classes: 0, every unit is as it was given,
and 1, at least one is contradicted. All statistics of a sample with one label then hold for it unchanged.
"""

from dynalens.units.dense import dense, dense_binary, dense_labels
from dynalens.units.kinds import (
    DENSE,
    GIVEN,
    LABELS,
    MEANS,
    PIXEL_LABELS,
    PIXELS,
    POSITION,
    SUMMARY,
    TARGETS,
    TOKEN_LABELS,
    TOKENS,
    UnitKind,
)
from dynalens.units.multi_label import MOST_LABELS, multi_label
from dynalens.units.presentation import UnitPresentation, presented
from dynalens.units.regression import MOST_TARGETS, regression

__all__ = [
    "DENSE",
    "GIVEN",
    "LABELS",
    "MEANS",
    "MOST_LABELS",
    "MOST_TARGETS",
    "PIXELS",
    "PIXEL_LABELS",
    "POSITION",
    "SUMMARY",
    "TARGETS",
    "TOKENS",
    "TOKEN_LABELS",
    "UnitKind",
    "UnitPresentation",
    "dense",
    "dense_binary",
    "dense_labels",
    "multi_label",
    "presented",
    "regression",
]
