"""Which dataset indices are in this batch, with the user's loader and dataset as they are."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

_REMEDY = "Let the dataset return its own index and pass `index=` the key of it, or a callable(batch) -> indices."


class SampleIdentityError(RuntimeError):
    """The dataset indices of a batch cannot be known, or do not fit its rows."""


class _RecordingSampler:
    """Stands before a loader's index sampler and queues what it draws, one queue for each iteration."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.queue: deque[list[int]] = deque()

    def __iter__(self) -> Iterator[Any]:
        self.queue = deque()
        # Eager: a lazy iterator would move the sampler's random draws behind those of the loader.
        return _Recording(iter(self._sampler), self.queue)

    def __len__(self) -> int:
        return len(self._sampler)


class _Recording:
    def __init__(self, drawn: Iterator[Any], queue: deque[list[int]]) -> None:
        self._drawn, self._queue = drawn, queue

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        entry = next(self._drawn)
        self._queue.append([int(i) for i in entry] if isinstance(entry, Sequence | Tensor) else [int(entry)])
        return entry


class _Delivering:
    """Wraps a loader's iterator: an entry is delivered when its batch really is."""

    def __init__(self, batches: Iterator[Any], queue: deque[list[int]], delivered: deque[list[int]]) -> None:
        self._batches, self._queue, self._delivered = batches, queue, delivered

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        self._delivered.append(self._queue.popleft())
        return batch

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # torch's loader iterators have a length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


class IndexRecorder:
    """Record the dataset indices of each batch of a Trainer's training loader.

    Several callbacks share one recorder; ``attach`` and ``detach`` count them.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._users = 0
        self._process = strategy.process_dataloader
        self._loaders: list[tuple[DataLoader[Any], type]] = []
        self._delivered: deque[list[int]] = deque()
        self._step: tuple[int, int] | None = None
        self._current: list[int] = []
        self.dataset: Dataset[Any] | None = None

    @classmethod
    def attach(cls, trainer: Any) -> "IndexRecorder":
        """Return the Trainer's recorder, made and installed at the first call."""
        wrapped = vars(trainer.strategy).get("process_dataloader")
        recorder = getattr(wrapped, "dynalens_recorder", None)
        if recorder is None:
            recorder = cls(trainer.strategy)

            def process_dataloader(loader: Any) -> Any:
                loader = recorder._process(loader)
                if trainer.training:
                    recorder.watch(loader)
                return loader

            process_dataloader.dynalens_recorder = recorder  # type: ignore[attr-defined]  # how others find it
            trainer.strategy.process_dataloader = process_dataloader
        recorder._users += 1
        assert isinstance(recorder, cls)
        return recorder

    def detach(self) -> None:
        """Undo everything once the last user has called this."""
        self._users -= 1
        if self._users:
            return
        vars(self._strategy).pop("process_dataloader", None)
        for loader, original in self._loaders:
            loader.__class__ = original
            loader.__dict__.pop("_dynalens_sampler", None)
        self._loaders, self._delivered = [], deque()

    def watch(self, loader: Any) -> None:
        """Record this loader from now on.

        Raises:
            SampleIdentityError: If it has no dataset index, or its batches may come in another order.
        """
        _check_loader(loader)
        if not len(loader.dataset):
            raise SampleIdentityError(
                "Expected a training dataset with samples, got 0 of them. Check its filter or path."
            )
        if any(known is loader for known, _ in self._loaders):
            return
        if self.dataset is not None and loader.dataset is not self.dataset:
            raise SampleIdentityError(
                "Expected one training loader over one dataset, got a second dataset "
                f"({type(loader.dataset).__name__}). {_REMEDY}"
            )
        self.dataset = loader.dataset
        self._loaders.append((loader, type(loader)))
        loader.__class__ = _recorded_class(type(loader), self._delivered)

    def indices(self, trainer: Any, batch_idx: int) -> list[int]:
        """Return the dataset indices of the batch whose step has just run."""
        step = (trainer.current_epoch, batch_idx)
        if step != self._step:
            # Lightning prefetches where a loader's length is unknown; anything older is from a tuner's run.
            fetched = getattr(trainer.fit_loop._data_fetcher, "batches", None) or []
            while len(self._delivered) > len(fetched) + 1:
                self._delivered.popleft()
            if not self._delivered:
                raise SampleIdentityError(
                    f"Expected the indices of batch {batch_idx} to be recorded, got none. {_REMEDY}"
                )
            self._step, self._current = step, self._delivered.popleft()
        return self._current

    def end_epoch(self) -> None:
        """Forget what was delivered and not asked for."""
        self._delivered.clear()
        self._step = None


def _check_loader(loader: Any) -> None:
    if not isinstance(loader, DataLoader):
        seen = f"a {type(loader).__name__}"
    elif isinstance(loader.dataset, IterableDataset):
        seen = f"the iterable dataset {type(loader.dataset).__name__}, which has no index"
    elif loader.num_workers and not getattr(loader, "in_order", True):
        seen = "`in_order=False` with workers, which loses the order of batches"
    elif hasattr(loader, "load_state_dict"):
        seen = f"the stateful loader {type(loader).__name__}, which restores its sampler without drawing"
    else:
        return
    raise SampleIdentityError(
        f"Expected the training loader to be a DataLoader over a map-style dataset, got {seen}. {_REMEDY}"
    )


def _recorded_class(base: type, delivered: deque[list[int]]) -> type:
    def index_sampler(self: Any) -> _RecordingSampler:
        if "_dynalens_sampler" not in self.__dict__:
            self.__dict__["_dynalens_sampler"] = _RecordingSampler(base._index_sampler.fget(self))  # type: ignore[attr-defined]  # torch's own property
        sampler = self.__dict__["_dynalens_sampler"]
        assert isinstance(sampler, _RecordingSampler)
        return sampler

    def iterate(self: Any) -> _Delivering:
        batches = base.__iter__(self)  # type: ignore[attr-defined]  # any DataLoader has it
        return _Delivering(batches, self._index_sampler.queue, delivered)

    members = {"_index_sampler": property(index_sampler), "__iter__": iterate, "__module__": base.__module__}
    return type(base.__name__, (base,), members)


def indices_in_batch(batch: Any, index: Any) -> Sequence[int] | Tensor:
    """Return the dataset indices that the batch itself carries.

    Args:
        batch: What the loader delivered.
        index: Key of the batch, or callable(batch).

    Raises:
        SampleIdentityError: If the key is missing or the values are not integers.
    """
    if callable(index):
        values = index(batch)
    elif isinstance(batch, Mapping) and index in batch:
        values = batch[index]
    else:
        seen = f"the keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise SampleIdentityError(
            f"Expected the batch to hold the key {index!r}, got {seen}. Pass a key of the batch or a callable."
        )
    found = torch.as_tensor(values) if not isinstance(values, Tensor) else values
    if found.ndim != 1 or found.is_floating_point():
        raise SampleIdentityError(
            f"Expected `index` to give one integer for each sample, got {tuple(found.shape)} of {found.dtype}. "
            "Return the positions in the dataset."
        )
    return found


def root_indices(dataset: Any, length: int) -> list[int]:
    """Return, for each position in ``dataset``, the position in the dataset below all its subsets."""
    positions = list(range(length))
    while isinstance(dataset, Subset):
        positions = [int(dataset.indices[i]) for i in positions]
        dataset = dataset.dataset
    return positions


def dataset_class_names(dataset: Any) -> list[str] | None:
    """Return the attribute ``classes`` of the dataset below all subsets, if it is a sequence of strings."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    classes = getattr(dataset, "classes", None)
    named = isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes)
    return [str(name) for name in classes] if named and classes else None
