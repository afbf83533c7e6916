"""Follow the training loaders of a Trainer, from before they are made until ``fit`` ends."""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dynalens.datasets import has_positions
from dynalens.identity.errors import REMEDY, SampleIdentityError
from dynalens.identity.loaders import Iteration, follow, iteration_of, not_followable, unfollow

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class IndexRecorder:
    """Follows each training loader of a Trainer.

    Several callbacks share one recorder: ``attach`` and ``detach`` count them.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._users = 0
        self._process = strategy.process_dataloader
        self._loaders: list[weakref.ref[Any]] = []
        self._is_empty = False

    @classmethod
    def attach(cls, trainer: Any) -> "IndexRecorder":
        """Return the Trainer's recorder. The first call makes and installs it."""
        wrapper = vars(trainer.strategy).get("process_dataloader")
        recorder = getattr(wrapper, "dynalens_recorder", None)
        if recorder is None:
            recorder = cls(trainer.strategy)

            def process_dataloader(loader: Any) -> Any:
                loader = recorder._process(loader)
                if trainer.training and not_followable(loader) is None:
                    recorder.watch(loader)
                return loader

            process_dataloader.dynalens_recorder = recorder  # type: ignore[attr-defined]  # how others find it
            trainer.strategy.process_dataloader = process_dataloader
        recorder._users += 1
        assert isinstance(recorder, cls)
        return recorder

    def detach(self) -> None:
        """Undo everything after the last callback has called this."""
        self._users -= 1
        if self._users:
            return
        vars(self._strategy).pop("process_dataloader", None)
        for reference in self._loaders:
            if (loader := reference()) is not None:
                unfollow(loader)
        self._loaders = []

    def watch(self, loader: Any) -> None:
        """Follow this loader from now on. Only a weak reference is kept, because a reload replaces the loader."""
        self._is_empty |= has_positions(loader.dataset) and not len(loader.dataset)
        follow(loader)
        self._loaders = [reference for reference in self._loaders if reference() not in (None, loader)]
        self._loaders.append(weakref.ref(loader))

    def check_samples(self) -> None:
        """Raise a SampleIdentityError if a dataset was empty: Lightning then trains nothing, and no record is made.

        It is called at the end of a fit without a step. An error at the point where a loader is made would also end
        trainings in which nobody asked for a record.
        """
        if self._is_empty:
            raise SampleIdentityError(
                "Expected a training dataset with samples, got 0 of them. Check its filter or path."
            )


def current_iteration(trainer: Any, position: int) -> Iteration | None:
    """Return what is known of Lightning's current pass over its training loader at this position."""
    return iteration_of(trainer.fit_loop._data_fetcher.combined_loader._iterator.iterators[position])


def step_indices(trainer: Any, position: int) -> Tensor | None:
    """Return the dataset indices of the batch whose step has just run; None if there was no batch.

    Args:
        trainer: The Trainer.
        position: Which of its loaders, see :class:`TrainingLoader`.

    Raises:
        SampleIdentityError: If they are not known.
    """
    iteration = current_iteration(trainer, position)
    try:
        if iteration is None:
            raise LookupError
        return iteration.take(trainer.fit_loop.total_batch_idx, batches_ahead(trainer))
    except LookupError:
        raise SampleIdentityError(
            f"Expected the indices of batch {trainer.fit_loop.batch_idx} to be recorded, got none. {REMEDY}"
        ) from None


def batches_ahead(trainer: Any) -> int:
    """Return how many batches Lightning has fetched for later steps: one if a loader's length is not known.

    Raises:
        SampleIdentityError: If a step with ``dataloader_iter`` took another number of batches than one.
    """
    fetcher = trainer.fit_loop._data_fetcher
    batches = getattr(fetcher, "batches", None)
    if batches is not None:
        return len(batches)
    steps = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    if fetcher.fetched != steps:
        raise SampleIdentityError(
            f"Expected each training step to take one batch of its `dataloader_iter`, got {fetcher.fetched} batches "
            f"in {steps} steps. Let the step take the batch that it trains on."
        )
    return 0


@dataclass(frozen=True)
class TrainingLoader:
    """One of the loaders of a training.

    Attributes:
        loader: The loader.
        position: Its position among all of them.
        path: The keys that lead to it in the structure of loaders, and to its part of a batch.
    """

    loader: Any
    position: int
    path: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Its name, as the argument ``loader`` takes it."""
        return ".".join(str(key) for key in self.path)

    def part_of(self, batch: Any) -> Any:
        """Return the part of a batch that comes from this loader; None if there is none.

        Raises:
            SampleIdentityError: If the batch has another structure than the loaders.
        """
        try:
            for key in self.path:
                batch = batch[key] if batch is not None else None
        except (KeyError, IndexError, TypeError):
            raise SampleIdentityError(
                f"Expected the batch to hold the part of the loader {self.name!r}, got a {type(batch).__name__}. "
                "Let the batch keep the structure of the loaders, or use `index='auto'`."
            ) from None
        return batch


def training_loader(trainer: Any, name: str | int | None) -> TrainingLoader:
    """Return the loader of that name, or the only one.

    Raises:
        SampleIdentityError: If there is none of that name, or no name and several loaders.
    """
    combined_loader = trainer.fit_loop._combined_loader
    candidates = [
        TrainingLoader(loader, position, path)
        for position, (path, loader) in enumerate(_leaves(combined_loader.iterables, combined_loader.flattened, ()))
    ]
    names = [candidate.name for candidate in candidates]
    if name is None and len(candidates) == 1:
        return candidates[0]
    if name is not None and str(name) in names:
        return candidates[names.index(str(name))]
    if names == [""]:
        raise SampleIdentityError(
            f"Expected `loader` to be None, as training has one loader without a name, got {name!r}. Leave it out."
        )
    raise SampleIdentityError(
        f"Expected `loader` to name one of the training loaders {', '.join(map(repr, names))}, got {name!r}. "
        f"Pass `loader={names[0]!r}` to record that one."
    )


def _leaves(loaders: Any, flat_loaders: list[Any], path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the loaders of a structure, each with the path to it, in Lightning's order."""
    if any(loaders is loader for loader in flat_loaders):
        yield path, loaders
        return
    for key, value in loaders.items() if isinstance(loaders, Mapping) else enumerate(loaders):
        yield from _leaves(value, flat_loaders, (*path, key))


def has_batch_hooks(trainer: Any) -> bool:
    """Return whether the module or its data have hooks that may change a batch."""
    owners = trainer.lightning_module, getattr(trainer, "datamodule", None)
    hooks = (getattr(owner, name, None) for owner in owners for name in _HOOKS)
    return any(hook is not None and not getattr(hook, "__qualname__", "").startswith("DataHooks.") for hook in hooks)
