"""The estimated noise rate while training goes on, at a bounded cost."""

from collections.abc import Mapping

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.suspicion import NoiseRate, assess

MOST_SAMPLES = 20_000
EVERY_EPOCH = 2_000_000
"""Samples times classes up to which the rate is estimated in every epoch: about a second."""


class NoiseCurve:
    """Estimates the fraction of wrong labels at epochs' ends from up to 20,000 samples.

    Of more samples, a fixed random choice (seed 0) stands for all; of ids that come in the course of training, the
    first. Its history stays in memory, 24 bytes for each presentation, so that no file is read. Where samples times
    classes are above two million, the estimate is made after 1, 2, 4, 8, ... epochs only.

    Args:
        history: Whether the monitor keeps the history, which its own estimate is then made from.
        most_samples: Of which the rate is estimated.
    """

    def __init__(self, *, history: bool = True, most_samples: int = MOST_SAMPLES) -> None:
        self._most_samples = most_samples
        self._history: list[Mapping[str, Array]] | None = [] if history else None
        self._chosen: Array | None = None

    def note(self, presentations: Mapping[str, Array] | None, num_samples: int) -> None:
        """Keep what an epoch has of the chosen samples.

        Args:
            presentations: Arrays of a history; None if they are lost: the record's own means are read from then on, as
                no half of a history counts.
            num_samples: How many samples are known.
        """
        if presentations is None or self._history is None:
            self._history = None
            return
        place = np.full(num_samples, -1)
        rows = self._rows(num_samples)
        place[rows] = np.arange(len(rows))
        places = place[presentations["index"]]
        has_place = places >= 0
        epoch = {name: values[has_place] for name, values in presentations.items()}
        epoch["index"] = places[has_place]
        self._history.append(epoch)

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
        return assess(statistics.part(rows), self._history or ()).noise_rate

    def _rows(self, num_samples: int) -> Array:
        if num_samples <= self._most_samples:
            return np.arange(num_samples)
        if self._chosen is None:
            # Ids that came when there was room for all: what is kept of them stays as it is.
            has_history = bool(self._history)
            rows = np.random.default_rng(0).permutation(num_samples)[: self._most_samples]
            self._chosen = np.arange(self._most_samples) if has_history else np.sort(rows)
        return self._chosen
