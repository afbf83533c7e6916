"""Ids of the samples of a training batch, and which are suspects. A monitor asks the tracker beside it for them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dynalens.callbacks.training_dynamics import TrainingDynamicsMonitor
from dynalens.identity import SampleIdentity
from dynalens.logs import GallerySource


class TrackedSamples:
    """Asks the first TrainingDynamicsMonitor of a Trainer that works in the fit.

    If there is none, it follows the loader itself when ids are needed.
    """

    def __init__(self) -> None:
        self._tracker: TrainingDynamicsMonitor | None = None
        self._own_identity: SampleIdentity | None = None

    @property
    def tracker(self) -> TrainingDynamicsMonitor | None:
        """That monitor; None if there is none, or if it was switched off."""
        return None if self._tracker is None or self._tracker.idle else self._tracker

    @property
    def _identity(self) -> SampleIdentity | None:
        return self._own_identity if self.tracker is None else self.tracker.identity

    def install(self, trainer: Any, *, by_id: bool, gallery: GallerySource) -> None:
        """A fit begins.

        Args:
            trainer: The Trainer.
            by_id: Whether ids are needed even without a tracker.
            gallery: Offers maps and words to the gallery of the tracker.
        """
        trackers = (callback for callback in trainer.callbacks if isinstance(callback, TrainingDynamicsMonitor))
        self._tracker = next((tracker for tracker in trackers if not tracker.idle), None)
        if self._tracker is not None:
            self._tracker.draw_gallery_with(gallery)
        elif by_id:
            self._own_identity = SampleIdentity()
            self._own_identity.install(trainer)

    def begin_epoch(self, trainer: Any) -> None:
        """Look at the loader again, because Lightning may have made a new one. A tracker does so itself."""
        if self._own_identity is not None:
            self._own_identity.start(trainer, None)

    def dataset(self, trainer: Any) -> Any:
        """Return the training dataset, or None."""
        source = trainer.train_dataloader if self._identity is None else self._identity
        return getattr(source, "dataset", None)

    def part_of(self, batch: Any) -> Any:
        """Return the part of the batch that comes from the tracked loader; None if there is none."""
        return batch if self._identity is None else self._identity.part_of(batch)

    def ids_of(self, trainer: Any, batch: Any) -> Callable[[], Sequence[int | str] | Tensor] | None:
        """Return a function that returns the ids of the batch's samples; None if they are not known."""
        return None if self._identity is None else functools.partial(self._identity.sample_ids, trainer, batch)

    def suspects(self, number: int, epoch: int, *, in_gallery: bool) -> Sequence[int | str] | None:
        """Return the ids of the worst samples so far; None without a tracker, or if none are asked for.

        Args:
            number: Number of suspects.
            epoch: The epoch under way.
            in_gallery: Whether to return the suspects that the tracker's gallery of this epoch may show, if these are
                more.
        """
        if self.tracker is None:
            return None
        number = max(number, self.tracker.followed_suspects(epoch) if in_gallery else 0)
        return self.tracker.suspect_ids(number) if number else None

    @property
    def class_names(self) -> Sequence[str] | None:
        """The names of the classes that the tracker was given or has read from the dataset; None if there are none."""
        return None if self.tracker is None else self.tracker.class_names

    @property
    def decode(self) -> Callable[[int], str] | None:
        """What the tracker was given to turn tokens into words; None if it was given nothing."""
        return None if self.tracker is None else self.tracker.decode

    @property
    def presented_units(self) -> tuple[str, Tensor] | None:
        """Kind and targets of the units of the last step's samples, as the tracker recorded them.

        It is None if there are none.
        """
        return None if self.tracker is None else self.tracker.presented_units

    def units(self, ids: Sequence[int | str] | None) -> dict[int | str, tuple[int, int]]:
        """Return the doubtful label of each of these samples, and whether it was given; empty if each has one label.

        For a regression it is the doubtful target, which was given. For tokens and pixels it is the place and class of
        the worst one, and for pixels with several labels the label.
        """
        if self.tracker is None or not ids:
            return {}
        record = self.tracker.record
        statistics = record.statistics
        if statistics.unit is None:
            return {}
        names = range(len(statistics)) if record.sample_ids is None else record.sample_ids.tolist()
        rows = dict(zip(names, range(len(statistics)), strict=True))
        samples = [sample for sample in ids if sample in rows]
        labels = np.ones(len(statistics), np.int64) if statistics.target is not None else statistics.label
        units = statistics.unit if statistics.unit_label is None else statistics.unit_label
        return {sample: (int(units[rows[sample]]), int(labels[rows[sample]])) for sample in samples}

    def close(self) -> None:
        """Undo ``install``."""
        if self._own_identity is not None:
            self._own_identity.close()
        self._own_identity = None
