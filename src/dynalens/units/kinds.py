"""The kinds of units, and what is recorded of each presentation beside the row of its sample."""

from typing import NamedTuple

MEAN_MARGIN, RIGHT, MEAN_LOSS, POSITION, GIVEN, CONTRADICTION = range(6)
SUMMARY = 6
"""Numbers that every kind has: means over the units of a sample, and its worst unit."""
MEANS = (MEAN_MARGIN, RIGHT, MEAN_LOSS)

BITS = 16
"""Bits in one float32 of a row, which holds integers up to 2^24 exactly."""


class UnitKind(NamedTuple):
    """What the units of a record are.

    Attributes:
        name: "labels" of multi-label samples, each with a record of its own.
        labels: Number K of labels.
    """

    name: str
    labels: int

    @property
    def numbers(self) -> int:
        """Numbers of each presentation beside its row.

        Example:
            >>> UnitKind("labels", 20).numbers  # a summary, 20 logits, and 20 bits in two numbers
            28
        """
        return SUMMARY + self.labels + -(-self.labels // BITS)

    @classmethod
    def told_by(cls, numbers: int) -> "UnitKind":
        """Return the kind that has so many numbers, where another process has recorded them.

        Example:
            >>> UnitKind.told_by(28)
            UnitKind(name='labels', labels=20)
        """
        return cls("labels", (numbers - SUMMARY) * BITS // (BITS + 1))

    @property
    def logits(self) -> slice:
        """Where the K logits stand among them."""
        return slice(SUMMARY, SUMMARY + self.labels)

    @property
    def bits(self) -> slice:
        """Where the K given labels stand, as :func:`~dynalens.units.multi_label.packed`."""
        return slice(SUMMARY + self.labels, self.numbers)
