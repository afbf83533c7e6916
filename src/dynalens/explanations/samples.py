"""Which samples the attribution monitor explains, taken from the batches as they pass."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dynalens.capture import CaptureError, images_and_labels
from dynalens.datasets import IndexedDataset
from dynalens.explanations.collector import SampleCollector, given_samples

Ids = Callable[[], Sequence[int | str] | Tensor]
Passed = tuple[Sequence[int | str] | None, Tensor, Tensor]
"""Ids where they are known, images and labels."""
PassedSuspects = tuple[Sequence[int | str], Tensor, Tensor]


class ExplainedSamples:
    """The samples that are explained in every epoch, and the suspects of one epoch.

    Args:
        samples: Images and labels, ids of training samples, or None for the first of a batch.
        number: How many of a batch's first samples are kept.
        inputs: Where images and labels stand in a batch.
        check: Called with the inputs before they are kept; raises where they cannot be explained.
    """

    def __init__(self, samples: Any, *, number: int, inputs: Any, check: Callable[[Tensor], None]) -> None:
        self._given, self._wanted = given_samples(samples)
        self._first: tuple[Tensor, Tensor] | None = None
        self._suspects: SampleCollector | None = None
        self._number, self._inputs, self._check = number, inputs, check
        self.suspects_readable = True
        if self._given is not None:
            check(self._given[0])

    @property
    def by_id(self) -> bool:
        """Whether samples are chosen by their ids."""
        return self._wanted is not None

    def readable(self, batch: Any, dataset: Any) -> Any:
        """Return the batch without the index that ``IndexedDataset`` has put behind the label."""
        indexed = isinstance(dataset, IndexedDataset) and self._inputs == "auto"
        return IndexedDataset.without_indices(batch) if indexed else batch

    def keep_first(self, batch: Any) -> None:
        """Keep a batch's first samples, once, unless others were asked for."""
        if self._first is not None or self._given is not None or self.by_id:
            return
        images, labels = self._read(batch)
        # Cloned: the step may work in place.
        self._first = images[: self._number].detach().clone(), labels[: self._number].detach().clone()

    def look_for_suspects(self, ids: Sequence[int | str] | None) -> None:
        """Look out for these samples in the epoch that begins, and forget those of the epoch before."""
        self._suspects = None if ids is None else SampleCollector(ids)

    def offer(self, batch: Any, ids: Ids) -> None:
        """Copy what is wanted of a training batch."""
        if self._wanted is not None and not self._wanted.complete:
            images, labels = self._read(batch)
            self._wanted.offer(ids(), images, labels)
        if self._suspects is not None and not self._suspects.complete:
            try:
                images, labels = self._read(batch)
            except CaptureError as error:
                self._suspects, self.suspects_readable = None, False
                warnings.warn(f"Suspects are not explained, training goes on: {error}", stacklevel=3)
                return
            self._suspects.offer(ids(), images, labels)

    def every_epoch(self) -> Passed | None:
        """Return what is explained in every epoch; None where nothing has passed yet."""
        if self._wanted is not None:
            passed = self._wanted.result()
            missing = [known for known in self._wanted.wanted if passed is None or known not in passed[0]]
            if missing:
                warnings.warn(
                    f"Expected `samples` to name samples that are trained on, got {missing}, which have not passed in "
                    "this epoch. Pass ids of the training set, or images and labels.",
                    stacklevel=3,
                )
            return passed
        kept = self._given or self._first
        return None if kept is None else (None, *kept)

    def suspects(self, most: int | None = None) -> PassedSuspects | None:
        """Return the suspects that have passed in this epoch, at most so many of those asked for first."""
        return self._suspects.result(most) if self._suspects is not None else None

    def state_dict(self) -> dict[str, Any]:
        """Return what was kept."""
        return {"kept": self._first, "chosen": self._wanted.result() if self._wanted is not None else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was kept."""
        self._first = state["kept"]
        if self._wanted is not None and state["chosen"] is not None:
            self._wanted.offer(*state["chosen"])

    def _read(self, batch: Any) -> tuple[Tensor, Tensor]:
        images, labels = images_and_labels(batch, self._inputs)
        self._check(images)
        return images, labels
