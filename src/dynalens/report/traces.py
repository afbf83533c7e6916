"""What the page shows over epochs, picked up while the history is read for the assessment."""

from collections.abc import Mapping

import numpy as np

from dynalens.dynamics import Array
from dynalens.record import RecordMeta

_POINTS = 60
_NOT_SEEN = 255


class AccuracyCurve:
    """The fraction of right presentations of each epoch.

    Attributes:
        epochs: Numbers of those that showed a sample.
        values: Of each of them, in [0, 1].
    """

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.values: list[float] = []

    def see(self, epoch: int, presentations: Mapping[str, Array]) -> None:
        """Take up an epoch."""
        margin = presentations["margin"]
        if len(margin):
            self.epochs.append(epoch)
            self.values.append(float((margin > 0).mean()))


class Traces:
    """The probability of each sample's label over the epochs, at most 60 of them: a byte for each.

    Args:
        meta: Of the record.
    """

    def __init__(self, meta: RecordMeta) -> None:
        places = np.linspace(0, len(meta.epochs) - 1, _POINTS).round().astype(int)
        self._epochs = {meta.epochs[place] for place in places} if len(meta.epochs) else set()
        self._num_samples = meta.num_samples
        self._columns: list[Array] = []

    def see(self, epoch: int, presentations: Mapping[str, Array]) -> None:
        """Keep the values of an epoch if the page shows this epoch."""
        if epoch in self._epochs:
            column = np.full(self._num_samples, _NOT_SEEN, np.uint8)
            column[presentations["index"]] = (100 * presentations["p_label"]).round()
            self._columns.append(column)

    def trace_of(self, row: int) -> list[int | None]:
        """Return p(label) in percent at each of the epochs, None where the sample was not seen."""
        percent = [int(column[row]) for column in self._columns]
        return [None if value == _NOT_SEEN else value for value in percent]
