"""The samples that an attribution monitor explains: select them and take them from the batches as they pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dynalens.capture import (
    BatchObserver,
    CaptureError,
    batch_copy,
    class_labels,
    first_labels,
    have_several,
    images_and_labels,
    name_no_classes,
    padding_of,
)
from dynalens.datasets import IndexedDataset
from dynalens.dynamics import IGNORED
from dynalens.explanations.collector import SampleCollector, given_samples
from dynalens.explanations.dense import first_unit
from dynalens.explanations.names import content_ids, id_list, validation_ids
from dynalens.explanations.regions import Regions, masks_for
from dynalens.explanations.selection import BalancedSelection
from dynalens.explanations.settings import SampleSettings
from dynalens.explanations.task import Task
from dynalens.explanations.unlike_inputs import ChangedInputs
from dynalens.notices import warn

Ids = Callable[[], Sequence[int | str] | Tensor]
Passed = tuple[Sequence[int | str] | None, Tensor, Tensor]
"""Ids if they are known, images and labels."""
PassedSuspects = tuple[Sequence[int | str], Tensor, Tensor]
Units = Mapping[int | str, tuple[int, int]]
"""By id of a sample with several labels: the doubtful label, and 1 if it was given or else 0."""
BATCHES = 100
"""Number of validation batches that are searched for more classes. A sorted validation set has several batches per
class."""


class ExplainedSamples:
    """The samples that are explained in every epoch, and the suspects of one epoch.

    The observer learns in the first training steps where a batch holds images and labels. Until then, batches with
    wanted samples are copied, and read later. Samples whose label is no class are left out. Of several labels, the
    first one that was given is explained, and of suspects the doubtful one.

    Args:
        settings: Which samples to explain, and where a batch holds them.
        check: Is called with inputs before they are kept, and raises if they cannot be explained.

    Attributes:
        observer: Learns where a batch holds images and labels.
        dense: Whether each token or pixel has a class. Which of them is explained is then chosen together with the
            explanation.
    """

    def __init__(self, settings: SampleSettings, check: Callable[[Tensor], None]) -> None:
        self._given_samples, self._collector_by_id = given_samples(settings.samples)
        self._changes = ChangedInputs("AttributionMonitor", "(images, labels)")
        self._selected_samples: tuple[Tensor, Tensor] | None = None
        self._selected_ids: Sequence[int | str] = []
        self._suspects: SampleCollector | None = None
        self._number, self._inputs, self._check = settings.num_samples, settings.inputs, check
        self.suspects_readable, self._has_told = True, False
        self._task, self.dense, self._asks_padding = Task(), False, True
        self._unit_labels: dict[int | str, Tensor] = {}
        self._regions = Regions(settings.masks)
        if self._given_samples is not None:
            self._task.independent = have_several(self._given_samples[1])
            if isinstance(settings.masks, Tensor):
                masks = masks_for(settings.masks, self._given_samples[0])
                self._regions.masks = dict(zip(content_ids(self._given_samples[0]), masks, strict=True))
        self.begin_fit()

    def begin_fit(self, *, is_only_one: bool = True, own_forward: bool = True) -> None:
        """A fit begins. Its batches are learned anew; samples that an earlier fit has selected stay.

        Args:
            is_only_one: See :class:`~dynalens.capture.BatchObserver`.
            own_forward: Whether the logits are those of the network that the training steps call.
        """
        self._tells_changes = own_forward and self._inputs == "auto"
        self.observer = BatchObserver(is_only_one=is_only_one)
        self._selection, self._batches = BalancedSelection(self._number), 0
        self._batch: tuple[Any, bool, Sequence[int | str] | Tensor | None] | None = None

    @property
    def by_id(self) -> bool:
        """Whether the user has named the samples by their ids."""
        return self._collector_by_id is not None

    @property
    def is_chosen(self) -> bool:
        """Whether the samples that are explained in every epoch are selected."""
        return self._selected_samples is not None or self._given_samples is not None or self.by_id

    @property
    def task(self) -> Task:
        """What is known of the network's outputs and inputs."""
        return replace(self._task, network=self.observer.network, form=self.observer.layout.form)

    def readable(self, batch: Any, dataset: Any) -> Any:
        """Return the batch without the index that ``IndexedDataset`` added after the label."""
        has_indices = isinstance(dataset, IndexedDataset) and self._inputs == "auto"
        return IndexedDataset.without_indices(batch) if has_indices else batch

    def begin_step(self, model: Any, batch: Any, ids: Ids | None, *, choose: bool) -> None:
        """A training step begins: copy the wanted samples of its batch.

        Args:
            model: The module.
            batch: What the step is given.
            ids: Function that returns the ids of the batch's samples, if they are known.
            choose: Whether to select the samples of every epoch from this batch.
        """
        is_wanted = ids is not None and any(
            collector is not None and not collector.complete for collector in (self._collector_by_id, self._suspects)
        )
        choose = choose and not self.is_chosen
        ids = ids if is_wanted or choose else None
        if self._inputs != "auto" or self.observer.is_done:
            self._take(batch, ids, choose)
            return
        if is_wanted or choose:  # before it is known where images and labels stand
            self._batch = batch_copy(batch), choose, None if ids is None else ids()
        self.observer.start(model, batch)

    def end_step(self, units: tuple[str, Tensor] | None = None) -> None:
        """The training step has ended: read the batch that was copied, if there is one.

        Args:
            units: Name of the kind of units, and targets, as a tracker recorded them for the step; None if they are not
                known.
        """
        self.observer.finish(units)
        self._task.outputs = self.observer.num_targets or self._task.outputs
        self._task.numbers |= self._task.outputs is not None
        copied_step, self._batch = self._batch, None
        if self._given_samples is None:
            self._tell_changes()
        if copied_step is not None:
            batch, choose, ids = copied_step
            self._take(batch, None if ids is None else lambda: ids, choose)

    def choose_from(self, batch: Any, *, position: int | None = None, ids: Ids | None = None) -> None:
        """Select the samples of every epoch from this batch and, while classes are missing, from later ones.

        Args:
            batch: A batch of the validation or the training.
            position: Position of its first sample in the validation set, if it is known.
            ids: Function that returns the ids of its samples in the training set, if they are known.
        """
        images, labels = self._read_batch(batch, classes=True)
        name_of = _names(images, position, None if ids is None else id_list(ids()))
        classes = self._classes(labels)
        sample_classes = [self._class_of_first_unit(row) for row in classes] if self.dense else classes.tolist()
        rows_of_samples = self._selection.offer(images, sample_classes, name_of)
        if self.dense:
            self._unit_labels |= {sample: classes[row].clone() for sample, row in rows_of_samples.items()}
            self._unit_labels = {sample: self._unit_labels[sample] for sample in self._selection.ids}
        self._regions.keep(batch, images, rows_of_samples)
        self._regions.forget_others(self._selection.ids)
        self._batches += 1
        if self._selection.complete or self._batches == BATCHES:
            self.end_choice()

    def end_choice(self) -> None:
        """Keep the samples that are selected so far for the whole run."""
        if not self.is_chosen:
            self._selected_samples, self._selected_ids = self._selection.result(), self._selection.ids

    def regions(self, ids: Sequence[int | str] | None) -> Tensor | None:
        """Return the masks (N, *spatial) of samples that are explained in every epoch; None if there are none."""
        return None if ids is None else self._regions.regions_of(ids)

    def look_for_suspects(self, ids: Sequence[int | str] | None) -> None:
        """Look for these samples in the epoch that begins, and drop those of the epoch before."""
        self._suspects, self._asks_padding = None if ids is None else SampleCollector(ids), True

    @property
    def suspect_ids(self) -> Sequence[int | str]:
        """The suspects that this epoch looks for."""
        return [] if self._suspects is None else self._suspects.wanted_ids

    def every_epoch(self) -> Passed | None:
        """Return the samples that are explained in every epoch; None if none has passed yet."""
        if self._collector_by_id is not None:
            samples = self._collector_by_id.result(padding=self._task.padding)
            missing_ids = [
                sample_id
                for sample_id in self._collector_by_id.wanted_ids
                if samples is None or sample_id not in samples[0]
            ]
            if missing_ids:
                warn(
                    f"Expected `samples` to name samples that are trained on, got {missing_ids}, which were in no "
                    "batch of this epoch. Pass ids of the training set, or images and labels."
                )
            return _of_classes(samples)
        images_and_labels = self._given_samples or self._selected_samples
        if images_and_labels is None:
            return None
        images, labels = images_and_labels
        if self.dense and self._given_samples is None:
            labels = torch.stack([self._unit_labels[sample] for sample in self._selected_ids])
        if self._given_samples is None:
            return _of_classes((self._selected_ids, images, labels))
        labels = self.observer.layout.units.labels_of(labels) if self.dense else labels
        return _of_classes((content_ids(images), images, self._classes(labels)))

    def suspects(self, limit: int | None = None, units: Units | None = None) -> PassedSuspects | None:
        """Return the suspects that have passed in this epoch, in the order in which they were asked for.

        Args:
            limit: Largest number of suspects to return.
            units: With several labels, the doubtful label of each suspect.
        """
        samples_so_far = self._suspects.result(limit, self._task.padding) if self._suspects is not None else None
        if samples_so_far is not None and units and not self.dense and (self._task.independent or self._task.numbers):
            labels = torch.tensor([units[sample][0] if sample in units else -1 for sample in samples_so_far[0]])
            # A single output is the second one of the two classes 0 and z.
            labels = samples_so_far[2].cpu() if self._task.numbers and bool(samples_so_far[2].all()) else labels
            samples_so_far = samples_so_far[0], samples_so_far[1], labels.to(samples_so_far[2].device)
        samples = _of_classes(samples_so_far)
        return None if samples is None or samples[0] is None else (samples[0], samples[1], samples[2])

    def state_dict(self) -> dict[str, Any]:
        """Return the samples that are kept."""
        return {
            "kept": self._selected_samples,
            "kept_ids": self._selected_ids,
            "several": self._task.independent,
            "numbers": self._task.numbers,
            "outputs": self._task.outputs,
            "dense": self.dense,
            "shift": self._task.shift,
            "padding": self._task.padding,
            "unit_labels": self._unit_labels,
            "masks": dict(self._regions.masks),
            "chosen": self._collector_by_id.result() if self._collector_by_id is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the samples of a checkpoint."""
        self._selected_samples, self._selected_ids = state["kept"], state.get("kept_ids", [])
        self._task.independent |= state.get("several", False)
        self._task.numbers |= state.get("numbers", False)
        self._task.outputs = self._task.outputs or state.get("outputs")
        self.dense |= state.get("dense", False)
        self._task.shift = self._task.shift or state.get("shift", 0)
        self._task.padding = state.get("padding")
        self._unit_labels = dict(state.get("unit_labels", {}))
        if self._selected_samples is not None and not self._selected_ids:  # of a version that kept none
            self._selected_ids = content_ids(self._selected_samples[0])
        self._regions.masks |= state.get("masks", {})
        if self._collector_by_id is not None and state["chosen"] is not None:
            self._collector_by_id.offer(*state["chosen"])

    def _take(self, batch: Any, ids: Ids | None, choose: bool) -> None:
        if choose:
            self.choose_from(batch, ids=ids)
            self.end_choice()  # reading labels waits for the device: once, not in every step
        if ids is not None:
            self._offer(batch, ids)

    def _offer(self, batch: Any, ids: Ids) -> None:
        if self._collector_by_id is not None and not self._collector_by_id.complete:
            # Classes once: reading labels waits for the device.
            images, labels = self._read_batch(batch, classes=not self._collector_by_id.has_begun)
            sample_ids = ids()
            self._collector_by_id.offer(sample_ids, images, self._classes(labels))
            if self._regions.reads_batches:  # which waits for the device
                maskless = set(self._collector_by_id.wanted_ids) - set(self._regions.masks)
                rows = {sample: row for row, sample in enumerate(id_list(sample_ids)) if sample in maskless}
                self._regions.keep(batch, images, rows)
        if self._suspects is not None and not self._suspects.complete:
            try:
                images, labels = self._read_batch(batch)
            except Exception as error:  # noqa: BLE001  # also of the user's `inputs`: the other samples do not need it
                self._suspects, self.suspects_readable = None, False
                warn(f"Suspects are not explained, training goes on: {error}")
                return
            self._suspects.offer(ids(), images, self._classes(labels))

    def _tell_changes(self) -> None:
        if self._tells_changes and self.observer.changes_inputs:
            self._changes.tell()

    def _read_batch(self, batch: Any, *, classes: bool = False) -> tuple[Tensor, Tensor]:
        """Return images and labels of a batch, after checking them. ``classes``: check the labels, too."""
        self._tell_changes()
        images, labels = images_and_labels(batch, self._inputs, self.observer.layout)
        if self._inputs == "auto":
            self.dense |= self.observer.layout.dense
            self._task.independent |= self.dense and self.observer.layout.units.multi_label
            self._task.shift = self._task.shift or self.observer.layout.shift
            if self._asks_padding and self._task.padding is None:  # once an epoch, as it waits for the device
                self._asks_padding, self._task.padding = False, padding_of(batch, self.observer.layout.inputs)
        if classes and not self.dense:
            self._task.independent |= have_several(labels) and not self._task.numbers
            if not self._task.numbers:
                self._check_classes(images, labels)
        self._check(images)
        return images, labels

    def _classes(self, labels: Tensor) -> Tensor:
        if self.dense:
            is_ignored = labels == self.observer.layout.ignore_index
            if self._task.shift:  # nothing predicts the first token
                is_ignored |= torch.arange(labels.shape[1], device=labels.device) < self._task.shift
            return labels.masked_fill(is_ignored, IGNORED)
        if self._task.numbers:  # explain the first output; a single output z is class 1 of the logits (0, z)
            outputs = self._task.outputs or labels.shape[1:].numel()  # labels may have columns that are not trained on
            return labels.new_full(labels.shape[:1], int(outputs == 1), dtype=torch.int64)
        if self._task.independent and labels.ndim == 2:
            return first_labels(labels)
        layout = self.observer.layout
        classes = class_labels(labels, loss=layout.loss, ignore_index=layout.ignore_index)
        if classes is None:
            raise ValueError(
                f"Expected a class for each sample as labels, got shape {tuple(labels.shape)}, {labels.dtype}. Pass "
                "class indices (N,)."
            )
        return classes

    def _class_of_first_unit(self, labels: Tensor) -> int:
        """Return the class of the unit of a sample that is explained in every epoch; negative if there is none."""
        return first_unit(labels, multi_label=self._task.independent).label if (labels >= 0).any() else IGNORED

    def _check_classes(self, images: Tensor, labels: Tensor) -> None:
        layout = self.observer.layout
        one_number = labels.ndim == 1 or labels.shape[1:] == (1,)
        numbers = layout.of_numbers and one_number and bool(((labels != 0) & (labels != 1)).any())
        if numbers or name_no_classes(labels, loss=layout.loss):
            raise CaptureError(
                f"Expected classes as labels of {len(images)} samples, got {_labels_in_words(labels)}. Pass "
                "`inputs=` with a callable(batch) -> (images, classes) and `forward=` with a callable(pl_module, "
                "images) -> logits, or leave AttributionMonitor out. If this is a regression, put a "
                "TrainingDynamicsMonitor before AttributionMonitor in `callbacks`: then its outputs are explained."
            )
        is_guess = layout.loss is None and (labels.is_floating_point() or layout.of_numbers or layout.of_scores)
        if is_guess and one_number and self._inputs == "auto" and not self._has_told:
            self._has_told = True
            warn(
                "Expected a classification loss in `training_step`, got none. AttributionMonitor takes labels as "
                "classes and outputs as their logits. If they are not, as embeddings or numbers, pass `inputs=` and "
                "`forward=`, or leave the callback out."
            )


def _names(images: Tensor, position: int | None, ids: Sequence[int | str] | None) -> Callable[[int], int | str]:
    """Return a function that names a row: by id, by position in the validation set, or else by a digest."""
    if ids is not None and len(ids) == len(images):  # not of a batch that was put together from other rows
        return ids.__getitem__
    if position is not None:
        return validation_ids(position, len(images)).__getitem__
    return lambda row: content_ids(images[row : row + 1])[0]


def _labels_in_words(labels: Tensor) -> str:
    if labels.is_floating_point() and bool((labels != labels.round()).any()):
        return "fractions, as a regression has them"
    if labels.ndim == 1 or labels.shape[1] == 1:
        return "numbers, as a regression has them"
    return f"rows {tuple(labels.shape)}, as each token or object has one"


def _of_classes(samples: Passed | None) -> Passed | None:
    """Return the samples whose label is a class; None if there are none."""
    if samples is None:
        return None
    ids, images, labels = samples
    rows = (labels.unsqueeze(1) >= 0).flatten(1).any(dim=1).nonzero().squeeze(1)
    if len(rows) == len(labels):
        return samples
    row_ids = None if ids is None else [ids[row] for row in rows.tolist()]
    return (row_ids, images[rows.to(images.device)], labels[rows]) if len(rows) else None
