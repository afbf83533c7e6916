"""Estimate the noise rate at the end of epochs, at a limited cost."""

from collections.abc import Mapping

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.suspicion import NoiseRate
from dynalens.suspicion.history_summary import HistorySums
from dynalens.suspicion.score import assess_summary

MOST_SAMPLES = 20_000
EVERY_EPOCH = 2_000_000
"""Largest product of samples and classes for which the rate is estimated in every epoch, which takes about a second."""


class NoiseCurve:
    """Estimates the fraction of wrong labels at the end of epochs, from up to 20,000 samples.

    With more samples, a fixed random choice (seed 0) stands for all; if ids come in the course of training, the first
    ones do. Each epoch is summed up when it ends, so that neither a file nor an earlier epoch is read
    again. If samples times classes are more than two million, the rate is estimated only after 1, 2, 4, 8, ... epochs.

    Args:
        history: Whether the monitor keeps a history, from which its own estimate comes.
        most_samples: Most samples from which the rate is estimated.
    """

    def __init__(self, *, history: bool = True, most_samples: int = MOST_SAMPLES) -> None:
        self._most_samples = most_samples
        self._sums = HistorySums() if history else None
        self._sample_rows: Array | None = None

    def note(self, presentations: Mapping[str, Array] | None, statistics: SampleStatistics) -> None:
        """Add an epoch of the chosen samples.

        Args:
            presentations: Arrays of a history; None if they are lost. From then on the record's means are read, because
                half a history is of no use.
            statistics: The record, with the label of each of these samples. With several units, nothing is read.
        """
        if presentations is None or self._sums is None:
            self._sums = None
            return
        if statistics.unit is not None:
            return
        place = np.full(len(statistics), -1)
        rows = self._rows(len(statistics))
        place[rows] = np.arange(len(rows))
        places = place[presentations["index"]]
        has_place = places >= 0
        epoch = {name: values[has_place] for name, values in presentations.items()} | {"index": places[has_place]}
        self._sums.add(statistics.label[rows].astype(np.int64), epoch)

    def rate(self, statistics: SampleStatistics, epochs: int) -> NoiseRate | None:
        """Return the estimate; None if it would take long and is not due.

        Args:
            statistics: The record.
            epochs: Number of epochs in the record.
        """
        rows = self._rows(len(statistics))
        classes = int(max(statistics.label.max(), statistics.predicted.max())) + 1
        if len(rows) * classes > EVERY_EPOCH and epochs & (epochs - 1):
            return None
        part, sums = statistics.part(rows), self._sums or HistorySums()
        return assess_summary(part, sums.summary(part.label.astype(np.int64))).noise_rate

    def _rows(self, num_samples: int) -> Array:
        if num_samples <= self._most_samples:
            return np.arange(num_samples)
        if self._sample_rows is None:
            # Ids that came when there was room for all: what is kept of them stays as it is.
            has_history = self._sums is not None and self._sums.epoch_count > 0
            rows = np.random.default_rng(0).permutation(num_samples)[: self._most_samples]
            self._sample_rows = np.arange(self._most_samples) if has_history else np.sort(rows)
        return self._sample_rows
