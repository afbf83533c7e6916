"""Loaders that remember which indices they deliver: the user's loader gets another class while it is followed.

A loader hands its batches on in the order in which its sampler drew them, so it is enough to queue the draws
("sampler"). If that does not hold, the indices travel with the samples ("tagged"). torch's own collate function keeps
the order of the samples. For other collate functions, the order is found by comparison and travels with the batch.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dynalens.datasets import samples_at
from dynalens.identity.collate_order import NOTED_BATCHES, Collated, Labels, OrderedCollate, is_in_order
from dynalens.identity.draws import RecordingSampler, drawn_positions
from dynalens.identity.errors import NO_POSITIONS, ColumnsApartError, SampleIdentityError
from dynalens.identity.in_place import NotedLabels, noted_labels

# Lightning fetches one batch ahead at most; what a callback of the user's iterates itself is never asked for.
_KEPT = 8


class Delivery(NamedTuple):
    """A batch that a loader has delivered.

    Attributes:
        indices: Of its samples, or the error that says why they are not known.
        batch: As it was before it moved to a device; None where nothing is known of it.
        noted: Its labels as they were then, because a hook may reorder them in place; empty after the first batches.
        labels_of_samples: The labels that its samples had before they became a batch; empty after the first batches.
    """

    indices: Tensor | SampleIdentityError | None = None
    batch: Any = None
    noted: NotedLabels = []  # noqa: RUF012  # of a tuple; nobody changes it
    labels_of_samples: Labels = {}  # noqa: RUF012  # as above


class Iteration:
    """The batches that one pass over a loader has delivered and that no step has asked for yet."""

    def __init__(self) -> None:
        self.delivered: deque[Tensor | SampleIdentityError | None] = deque(maxlen=_KEPT)
        self.exhausted = False
        self.problem: SampleIdentityError | None = None
        """Why the positions that the sampler drew are not known, if so."""
        # Lightning is at most one batch ahead of the step.
        self.newest: deque[Delivery] = deque(maxlen=2)
        self._notes_left = NOTED_BATCHES
        self._draws: deque[np.ndarray | SampleIdentityError] = deque(maxlen=NOTED_BATCHES)
        self._last_step: tuple[int, Tensor | SampleIdentityError | None] = (-1, None)

    def note_drawn(self, indices: np.ndarray | SampleIdentityError) -> None:
        """Remember what the sampler drew for a batch, whatever the collate function makes of it."""
        self.problem = indices if isinstance(indices, SampleIdentityError) else self.problem
        self._draws.append(indices)

    def deliver(self, indices: np.ndarray | SampleIdentityError, batch: Any, labels: Labels | None = None) -> None:
        """Remember the indices of a batch, or the error that says why they are not known, and labels of its samples."""
        if batch is None:
            self.delivered.append(None)
        else:
            self.delivered.append(torch.from_numpy(indices) if isinstance(indices, np.ndarray) else indices)
            self.newest.append(Delivery(self.delivered[-1], batch, self._noted_labels(batch), labels or {}))

    def check_drawn(self, index: list[int], targets: list[int]) -> None:
        """Raise a SampleIdentityError if a batch does not hold the positions of its samples, but other integers.

        Most positions must have been drawn: a collate function may put other samples in the place of broken ones, and a
        hook may add those of earlier batches.

        Args:
            index: What the batch holds as the positions of its samples.
            targets: The target of each; empty if these are no integers.
        """
        draws = [set(positions.tolist()) for positions in self._draws if isinstance(positions, np.ndarray)]
        if not draws or set(index) in draws:
            return
        if index == targets or 2 * sum(map(set().union(*draws).__contains__, index)) < len(index):
            raise SampleIdentityError(NO_POSITIONS.format(f"other integers there, {index[:4]} and so on"))

    def check_columns(self) -> None:
        """Raise the error of one of the newest batches whose columns are in different orders, if there is one."""
        for delivery in self.newest:
            if isinstance(delivery.indices, ColumnsApartError):
                raise delivery.indices

    def _noted_labels(self, batch: Any) -> NotedLabels:
        self._notes_left -= 1
        if self._notes_left < 0:
            return []
        try:
            return noted_labels(batch)
        except Exception:  # noqa: BLE001  # of the user's own kind of batch; the loader goes on
            return []

    def take(self, step: int, num_ahead: int) -> Tensor | None:
        """Return the indices of the batch of this step; None if this loader gave it no samples.

        Args:
            step: Number of the step; asking for the same step again gives the same answer.
            num_ahead: Number of batches that were delivered for later steps.

        Raises:
            LookupError: If nothing is known of this batch.
            SampleIdentityError: If its rows cannot be told apart.
        """
        if step != self._last_step[0]:
            while len(self.delivered) > num_ahead + 1:
                self.delivered.popleft()
            if len(self.delivered) <= num_ahead and not self.exhausted:
                raise LookupError
            self._last_step = step, self.delivered.popleft() if self.delivered else None
        indices_or_error = self._last_step[1]
        if isinstance(indices_or_error, SampleIdentityError):
            raise indices_or_error
        return indices_or_error

    def continues(self, last_pass: "Iteration") -> None:
        """Begin anew. It is still the same epoch if the earlier pass was in use and came to its end."""
        if last_pass is not self and last_pass.exhausted and last_pass._last_step[0] >= 0:
            self.delivered.extendleft(reversed(last_pass.delivered))
        self.exhausted = False


def iteration_of(batches: Any) -> Iteration | None:
    """Return what the iterator of a followed loader remembers; None for other iterators."""
    iteration = getattr(batches, "_dynalens", None)
    return iteration if isinstance(iteration, Iteration) else None


def not_followable(loader: Any) -> str | None:
    """Return why the indices of a loader cannot be known; None if they can."""
    if not isinstance(loader, DataLoader):
        return f"a {type(loader).__name__}"
    if isinstance(loader.dataset, IterableDataset):
        return f"the iterable dataset {type(loader.dataset).__name__}, which has no index"
    iterates: Any = original_class(loader).__iter__
    if iterates.__module__.split(".")[0] not in ("torch", "torchdata"):
        return f"{type(loader).__name__} with an `__iter__` of its own, which may skip or reorder batches"
    return None


def is_tagged(loader: Any) -> bool:
    """Return whether indices must travel with the samples: batches do not come in the order of the draws."""
    out_of_order = loader.num_workers > 0 and not getattr(loader, "in_order", True)
    # A stateful loader restores its sampler without drawing from it.
    return out_of_order or _is_stateful(loader)


def original_class(loader: Any) -> Any:
    """Return the class that the loader has while nobody follows it."""
    cls = type(loader)
    return getattr(cls, "_dynalens_original", cls)


def follow(loader: Any) -> None:
    """Let a loader's iterators remember what they deliver."""
    loader.__class__ = _recording_loader(original_class(loader), is_tagged(loader))


def unfollow(loader: Any) -> None:
    """Undo ``follow``."""
    loader.__class__ = original_class(loader)
    vars(loader).pop("_dynalens_iteration", None)


@functools.cache
def _recording_loader(base: Any, is_tagged: bool) -> type:
    def index_sampler(self: Any) -> Any:
        sampler = base._index_sampler.fget(self)
        return sampler if is_tagged else RecordingSampler(sampler, self.dataset)

    def get_iterator(self: Any) -> Any:
        with _wrapped(self, is_tagged):
            return _with_memory(base._get_iterator(self), is_tagged)

    def iterate(self: Any) -> Any:
        if not is_tagged and self.persistent_workers and self._iterator is not None:
            # Its workers run since before it was followed; only the draws of the next iteration are new.
            self._iterator._index_sampler = self._index_sampler
            _with_memory(self._iterator, is_tagged)
        batches = base.__iter__(self)
        iteration = iteration_of(batches)
        if iteration is not None:
            iteration.continues(vars(self).get("_dynalens_iteration", iteration))
            self._dynalens_iteration = iteration
        return batches

    members = {
        "_index_sampler": property(index_sampler),
        "_get_iterator": get_iterator,
        "__iter__": iterate,
        "_dynalens_original": base,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
    }
    return type(base.__name__, (base,), members)


def _with_memory(batches: Any, is_tagged: bool) -> Any:
    if iteration_of(batches) is None:
        base: Any = type(batches)
        batches.__class__ = _recording_iterator(base, is_tagged)
        batches._dynalens = Iteration()
    return batches


@functools.cache
def _recording_iterator(base: Any, is_tagged: bool) -> type:
    def advance(self: Any) -> Any:
        iteration = self._dynalens
        try:
            batch = base.__next__(self)
        except StopIteration:
            iteration.exhausted = True
            raise
        if is_tagged:
            indices, batch = batch
        else:
            indices = self._sampler_iter.queue.popleft()
        iteration.note_drawn(indices)
        labels = None
        if isinstance(batch, Collated):
            indices, labels, batch = batch.indices_of_rows(indices), batch.labels, batch.batch
        iteration.deliver(indices, batch, labels)
        return batch

    return type(base.__name__, (base,), {"__next__": advance, "__module__": base.__module__})


class _Tagged(NamedTuple):
    """Samples, or what the collate function made of them, together with their indices."""

    indices: np.ndarray | SampleIdentityError
    data: Any


class _TaggedDataset:
    """Wraps a dataset in the loader's iterator and its workers."""

    def __init__(self, dataset: Any) -> None:
        self.dynalens_dataset = dataset

    def __getitem__(self, index: Any) -> _Tagged:
        return _Tagged(drawn_positions(index, self.dynalens_dataset), self.dynalens_dataset[index])

    def __getitems__(self, indices: Any) -> _Tagged:
        dataset = self.dynalens_dataset
        return _Tagged(drawn_positions(indices, dataset), samples_at(dataset, indices))


class _TaggedStatefulDataset(_TaggedDataset):
    def state_dict(self) -> Any:
        return self.dynalens_dataset.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.dynalens_dataset.load_state_dict(state)


class _TaggedCollate:
    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: _Tagged) -> _Tagged:
        return _Tagged(samples.indices, self._collate(samples.data))


class _WorkerInit:
    """Gives the user's own dataset to a worker's initialisation, which may read and change it."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self._init = init

    def __call__(self, worker_id: int) -> None:
        info: Any = get_worker_info()
        object.__setattr__(info, "dataset", info.dataset.dynalens_dataset)  # it refuses to be changed
        if self._init is not None:
            self._init(worker_id)


@contextmanager
def _wrapped(loader: Any, is_tagged: bool) -> Iterator[None]:
    """Let an iterator that is made meanwhile tell the order of rows where that is not known, and pass on indices."""
    collate = loader.collate_fn
    if not is_in_order(collate) and loader._auto_collation:
        collate = OrderedCollate(collate)
    replacements = {"collate_fn": collate}
    if is_tagged:
        wrapper = _TaggedStatefulDataset if _is_stateful(loader.dataset) else _TaggedDataset
        replacements = {
            "collate_fn": _TaggedCollate(collate),
            "dataset": wrapper(loader.dataset),
            "worker_init_fn": _WorkerInit(loader.worker_init_fn),
        }
    attributes = vars(loader)
    originals = {name: attributes[name] for name in replacements}
    attributes.update(replacements)
    try:
        yield
    finally:
        attributes.update(originals)


def _is_stateful(owner: Any) -> bool:
    return hasattr(owner, "state_dict") and hasattr(owner, "load_state_dict")
