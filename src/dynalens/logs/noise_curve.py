"""The estimated noise rate while training goes on, at a bounded cost."""

from collections.abc import Mapping

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.suspicion import NoiseRate
from dynalens.suspicion.score import assess_votes
from dynalens.suspicion.votes import VoteCount

MOST_SAMPLES = 20_000
EVERY_EPOCH = 2_000_000
"""Samples times classes up to which the rate is estimated in every epoch: about a second."""


class NoiseCurve:
    """Estimates the fraction of wrong labels at epochs' ends from up to 20,000 samples.

    Of more samples, a fixed random choice (seed 0) stands for all; of ids that come in the course of training, the
    first. The votes of each epoch are counted when it ends, so that neither a file nor an earlier epoch is read again.
    Where samples times classes are above two million, the estimate is made after 1, 2, 4, 8, ... epochs only.

    Args:
        history: Whether the monitor keeps the history, which its own estimate is then made from.
        most_samples: Of which the rate is estimated.
    """

    def __init__(self, *, history: bool = True, most_samples: int = MOST_SAMPLES) -> None:
        self._most_samples = most_samples
        self._count = VoteCount() if history else None
        self._sample_rows: Array | None = None

    def note(self, presentations: Mapping[str, Array] | None, statistics: SampleStatistics) -> None:
        """Count the votes that an epoch has of the chosen samples.

        Args:
            presentations: Arrays of a history; None if they are lost: the record's own means are read from then on, as
                no half of a history counts.
            statistics: The record, which has the label of each of these samples; those of samples with several units
                have no votes.
        """
        if presentations is None or self._count is None:
            self._count = None
            return
        if statistics.unit is not None:
            return
        place = np.full(len(statistics), -1)
        rows = self._rows(len(statistics))
        place[rows] = np.arange(len(rows))
        places = place[presentations["index"]]
        has_place = places >= 0
        epoch = {name: values[has_place] for name, values in presentations.items()} | {"index": places[has_place]}
        self._count.add(statistics.label[rows].astype(np.int64), epoch)

    def rate(self, statistics: SampleStatistics, epochs: int) -> NoiseRate | None:
        """Return the estimate, or None where it would take long and it is not its turn.

        Args:
            statistics: The record.
            epochs: How many epochs are in it.
        """
        rows = self._rows(len(statistics))
        classes = int(max(statistics.label.max(), statistics.predicted.max())) + 1
        if len(rows) * classes > EVERY_EPOCH and epochs & (epochs - 1):
            return None
        part, count = statistics.part(rows), self._count or VoteCount()
        return assess_votes(part, count.votes(part.label.astype(np.int64))).noise_rate

    def _rows(self, num_samples: int) -> Array:
        if num_samples <= self._most_samples:
            return np.arange(num_samples)
        if self._sample_rows is None:
            # Ids that came when there was room for all: what is kept of them stays as it is.
            has_history = self._count is not None and self._count.epoch_count > 0
            rows = np.random.default_rng(0).permutation(num_samples)[: self._most_samples]
            self._sample_rows = np.arange(self._most_samples) if has_history else np.sort(rows)
        return self._sample_rows
