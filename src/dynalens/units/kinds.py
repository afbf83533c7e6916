"""The kinds of units, and what is recorded of each presentation beside the row of its sample."""

from typing import NamedTuple

MEAN_MARGIN, RIGHT, MEAN_LOSS, POSITION, GIVEN, CONTRADICTION, KIND = range(7)
SUMMARY = 7
"""Numbers that every kind has: means over the units of a sample, its worst unit, and which kind they are of."""
MEANS = (MEAN_MARGIN, RIGHT, MEAN_LOSS)

BITS = 16
"""Bits in one float32 of a row, which holds integers up to 2^24 exactly."""


LABELS, TARGETS, TOKENS, PIXELS, PIXEL_LABELS = "labels", "targets", "tokens", "pixels", "labels of pixels"
TOKEN_LABELS = "labels of tokens"
_NAMES = (LABELS, TARGETS, TOKENS, PIXELS, PIXEL_LABELS, TOKEN_LABELS)
"""Their places are the numbers that stand for them in rows."""
DENSE = (TOKENS, PIXELS, PIXEL_LABELS, TOKEN_LABELS)
DOUBT, COLUMNS, SHARE = range(SUMMARY, SUMMARY + 3)
"""Numbers of tokens and pixels: what suspects are ordered by, the columns of a mask, for the row of a pixel, and by how
many units each one that is followed stands for."""
FOLLOWED = 512
"""Units of a sample whose last state is kept, a bit each, 64 bytes: all of most sequences, and a part of a mask."""
DIGITS = 15
"""Digits base 3 in one float32, which holds 3^15 exactly."""
STATES = slice(SHARE + 1, SHARE + 1 - (-FOLLOWED // DIGITS))
"""Where the states of the units that are followed stand, as :func:`~dynalens.units.unit_states.packed_states`."""


NOT_A_CLASS = -(2**31)
"""Target that is no class, met on the device; it is raised at the epoch's end. No other negative target means it."""


class UnitKind(NamedTuple):
    """What the units of a record are.

    Attributes:
        name: "labels" of multi-label samples or "targets" of a regression, each with a record of its own; "tokens" of a
            sequence, "pixels" of a mask, or "labels of pixels" and "labels of tokens" that may have any number of
            labels, of which only the sample's reductions are kept.
        labels: Number K of labels, or D of targets; 0 for tokens and pixels, of which samples have different numbers.
    """

    name: str
    labels: int

    @property
    def code(self) -> int:
        """The number that stands for this kind in rows."""
        return _NAMES.index(self.name)

    @property
    def numbers(self) -> int:
        """Numbers of each presentation beside its row.

        Example:
            >>> UnitKind("labels", 20).numbers  # a summary, 20 logits, and 20 bits in two numbers
            29
            >>> UnitKind("targets", 3).numbers  # a summary, 3 residuals and 3 targets
            13
            >>> UnitKind("tokens", 0).numbers  # a summary, three numbers of the sample, and 512 states in 35
            45
        """
        if self.name in DENSE:
            return STATES.stop
        return SUMMARY + self.labels + (self.labels if self.name == TARGETS else -(-self.labels // BITS))

    @classmethod
    def told_by(cls, numbers: int, code: int) -> "UnitKind":
        """Return the kind of this code that has so many numbers, where another process has recorded them.

        Example:
            >>> UnitKind.told_by(29, 0), UnitKind.told_by(13, 1)
            (UnitKind(name='labels', labels=20), UnitKind(name='targets', labels=3))
        """
        if _NAMES[code] in DENSE:
            return cls(_NAMES[code], 0)
        further = numbers - SUMMARY
        return cls(_NAMES[code], further // 2 if _NAMES[code] == TARGETS else further * BITS // (BITS + 1))

    @property
    def logits(self) -> slice:
        """Where the K logits stand among them, or the D residuals."""
        return slice(SUMMARY, SUMMARY + self.labels)

    @property
    def given(self) -> slice:
        """Where what was given stands: the K bits, as :func:`~dynalens.units.multi_label.packed`, or the D targets."""
        return slice(SUMMARY + self.labels, self.numbers)
