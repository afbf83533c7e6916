"""Write features of some samples for TensorBoard's projector, with thumbnails and what the record says about them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics import Array, SampleStatistics
from dynalens.features import FeatureRows
from dynalens.pictures import Normalisation, Thumbnails, class_name
from dynalens.suspicion import worst_samples
from dynalens.tensorboard import write_embedding
from dynalens.text import escaped

MOST_SAMPLES = 2000
_WORST = 500
HEADER = ("sample", "label", "suggested", "score", "forgetting_events")


class Projector:
    """Writes the features of up to 2,000 samples every few epochs.

    A quarter of them are the worst suspects of the epoch before, the others a random choice (seed 0).

    Args:
        writer: A SummaryWriter.
        tag: Name of the embedding.
        every_n_epochs: Number of epochs from one writing to the next.
        class_names: Name of each class, or None.
        normalisation: Of the inputs, or None.
    """

    def __init__(
        self,
        writer: Any,
        tag: str,
        *,
        every_n_epochs: int,
        class_names: Sequence[str] | None,
        normalisation: Normalisation | None,
    ) -> None:
        self._writer, self._tag, self._period = writer, tag, every_n_epochs
        self._names, self._normalisation = class_names, normalisation
        self._chosen_samples: list[int] = []
        self._thumbnails: Thumbnails | None = None

    def is_due(self, epoch: int) -> bool:
        """Return whether features are written at the end of this epoch."""
        return epoch % self._period == 0

    def begin_epoch(self, epoch: int, statistics: SampleStatistics) -> None:
        """Choose the samples, and look for their pictures."""
        self._chosen_samples, self._thumbnails = [], None
        if self.is_due(epoch):
            self._chosen_samples = chosen_samples(statistics)
            self._thumbnails = Thumbnails(self._chosen_samples, len(statistics))

    def see(self, rows: Tensor, inputs: Tensor | None) -> None:
        """Copy thumbnails from a batch."""
        if self._thumbnails is not None:
            self._thumbnails.see(rows, inputs)

    def write(self, features: FeatureRows, statistics: SampleStatistics, step: int, ids: Array | None) -> None:
        """Write the features of the chosen samples. Samples without features are left out."""
        is_finite = features.has_row[: len(statistics)] & features.values[: len(statistics)].isfinite().all(dim=1)
        usable = is_finite.cpu().numpy() & (statistics.label >= 0)
        samples = self._chosen_samples or chosen_samples(statistics)
        places = [place for place, row in enumerate(samples) if usable[row]]
        rows = [samples[place] for place in places]
        if not rows:
            return
        pictures = self._thumbnails.pictures(self._normalisation) if self._thumbnails is not None else None
        values = features.values[torch.tensor(rows, device=features.values.device)].float().cpu().numpy()
        write_embedding(
            self._writer, self._tag, values, HEADER, [self._row(statistics, row, ids) for row in rows],
            None if pictures is None else pictures[places], step,
        )  # fmt: skip

    def _row(self, statistics: SampleStatistics, row: int, ids: Array | None) -> list[str]:
        return [
            escaped(str(row if ids is None else ids[row])),
            class_name(int(statistics.label[row]), self._names),
            class_name(int(statistics.candidate[row]), self._names),
            f"{-statistics.margin[row]:.4f}",
            str(int(statistics.forgetting_events[row])),
        ]


def chosen_samples(statistics: SampleStatistics) -> list[int]:
    """Return up to 2,000 rows: all if there are no more, or else the 500 worst suspects and a random rest (seed 0)."""
    num_samples = len(statistics)
    if num_samples <= MOST_SAMPLES:
        return list(range(num_samples))
    random_rows = np.random.default_rng(0).permutation(num_samples)[:MOST_SAMPLES].tolist()
    return sorted(list(dict.fromkeys([*worst_samples(statistics, _WORST), *random_rows]))[:MOST_SAMPLES])
