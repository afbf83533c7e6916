"""The rows of the record that belong to a step's samples, however these are identified."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from dynalens.datasets import IndexedDataset, class_names, has_positions, root_indices, sample_names
from dynalens.identity.columns import Path
from dynalens.identity.errors import REMEDY, SampleIdentityError
from dynalens.identity.given_index import GivenIndex
from dynalens.identity.in_place import NotedLabels, check_index_moves_along
from dynalens.identity.loaders import Delivery, Iteration, is_tagged, not_followable
from dynalens.identity.recorder import (
    IndexRecorder,
    TrainingLoader,
    batches_ahead,
    current_iteration,
    step_indices,
    training_loader,
)
from dynalens.identity.same_samples import SameSamples, checksums_of
from dynalens.identity.sample_ids import SampleIds, indices_in_batch
from dynalens.identity.second_reading import are_drawn_anew

Index = str | int | Callable[[Any], Any]

WAYS = {
    "sampler": "their positions, which the sampler drew",
    "carried": "their positions, which the loader passes on with the samples",
    "`index`": "the values of `index`",
    "IndexedDataset": "the positions that IndexedDataset adds",
}
"""The ways to identify samples, with the words for the line at the start of a fit."""

_OTHER_DATASETS = (
    "Expected the same training dataset in each process, got {}. Give each of them the whole dataset and let the "
    "sampler share it out."
)


class SampleIdentity:
    """Identify the samples of each training step.

    A sample is identified by its position in the loader's dataset, which is also its row in the record. The batch may
    hold something else: strings, or integers that are no positions in the loader's dataset, as for an iterable dataset.
    Then these are the ids of the samples, and the record has one row for each id.

    Args:
        index: "auto" follows the loader; otherwise the key of the batch that holds the index or id of each sample,
            or a callable(batch).
        loader: Which loader, if training has several: the key of a dict, or the position in a list.
    """

    def __init__(self, index: Index = "auto", loader: str | int | None = None) -> None:
        self.index, self.loader = index, loader
        self.ids: SampleIds | None = None
        self.way = ""
        self._recorder: IndexRecorder | None = None
        self._source: TrainingLoader | None = None
        self._extract: Index | None = None
        self._by_position: bool | None = None
        self._same_samples = SameSamples()
        self._given_index: GivenIndex | None = None

    def install(self, trainer: Any) -> None:
        """Begin to follow loaders, before the first one is made."""
        if self.index == "auto":
            self._recorder = IndexRecorder.attach(trainer)

    def check_samples(self) -> None:
        """Raise a SampleIdentityError if a fit without a step had an empty dataset."""
        if self._recorder is not None:
            self._recorder.check_samples()

    def close(self) -> None:
        """Undo ``install``."""
        if self._recorder is not None:
            self._recorder.detach()
        self._recorder, self._source = None, None

    def start(self, trainer: Any, record_length: int | None, *, training: bool = True) -> None:
        """Find the loader when training begins, and again after each reload.

        Args:
            trainer: The Trainer.
            record_length: Number of samples in the record that is continued; None if it is a new one.
            training: Whether steps will follow. A resumed fit may have none left, and then no iterator was made.

        Raises:
            SampleIdentityError: If it is not clear which loader, if it has no indices, or if its dataset is not that
                of the record.
        """
        self._source = training_loader(trainer, self.loader)
        self._extract = None if self.index == "auto" else self.index
        if self._extract is None and isinstance(self.dataset, IndexedDataset):
            self._extract, self.way = IndexedDataset.indices, "IndexedDataset"
        elif self._extract is not None:
            self.way, self._given_index = "`index`", GivenIndex(self.dataset, self._extract)
        else:
            if training:
                _check_followed(trainer, self._source)
            self.way = "carried" if is_tagged(self._source.loader) else "sampler"
        self._by_position = _by_position(self.dataset, explicit=self.way == "`index`")
        self._check_continues(record_length)

    def check_processes(self, processes: Any, num_samples: int | None) -> None:
        """Check that all processes record the same dataset. All of them have to call it.

        Args:
            processes: The processes that train.
            num_samples: Length of this process's record; None if it is not known yet.

        Raises:
            SampleIdentityError: In every process, if several are to go on with a record of ids, or if datasets differ
                in length or are other subsets or files.
        """
        if processes.number > 1 and self.ids is not None:
            raise SampleIdentityError(
                "Expected a record of positions in the dataset where several processes train, got one of ids, whose "
                "rows differ between processes. Resume with `devices=1`."
            )
        lengths = {int(n) for n in torch.cat(processes.gather(torch.tensor([num_samples or -1])))}
        if len(lengths) > 1:
            raise SampleIdentityError(_OTHER_DATASETS.format(f"lengths {sorted(lengths)}"))
        if processes.number > 1:
            samples = processes.gather(torch.tensor([self._checksums()]))
            if not all(torch.equal(each, samples[0]) for each in samples):
                raise SampleIdentityError(_OTHER_DATASETS.format("other samples at the same positions"))

    def _checksums(self) -> list[int]:
        """Return numbers that tell the dataset's samples from others; -1 where nothing is known."""
        if not self._by_position:
            return [-1, -1]
        roots = root_indices(self.dataset)
        checksums = checksums_of(roots, sample_names(self.dataset, roots))
        return [-1 if checksum is None else checksum for checksum in checksums.values()]

    @property
    def dataset(self) -> Any:
        """The dataset of the loader; None if it has none."""
        return getattr(self._source.loader, "dataset", None) if self._source else None

    @property
    def num_samples(self) -> int | None:
        """Length of the dataset, if samples are identified by their position; else None."""
        return len(self.dataset) if self._by_position else None

    @property
    def undecided(self) -> bool:
        """Whether the first batch must still show if samples are identified by their position."""
        return self._by_position is None

    def rows(self, trainer: Any, batch: Any) -> Tensor | None:
        """Return the row of each sample of the batch whose step has just run; None where there was no batch.

        Raises:
            SampleIdentityError: If they cannot be known.
        """
        indices = self._find(trainer, batch)
        if indices is None:
            return None
        if self._by_position is None:
            self._by_position = isinstance(indices, Tensor)
        if not self._by_position:
            if self.ids is None:
                self.ids = _new_ids(trainer)
            return self.ids.rows(indices)
        if not isinstance(indices, Tensor):
            raise SampleIdentityError(
                f"Expected `index` to give positions in the dataset, as in the record so far, got {indices[0]!r}. "
                "Use one kind of index, or call `reset()` to begin a new record."
            )
        return indices

    def sample_ids(self, trainer: Any, batch: Any) -> Sequence[int | str] | Tensor:
        """Return the ids of the samples of the coming step's batch.

        Their positions, or the ids that the batch holds.
        """
        rows = self.rows_before_step(trainer, batch)
        if rows is None:
            return []
        return rows if self.ids is None else self.ids.ids_of(rows)

    def rows_before_step(self, trainer: Any, batch: Any) -> Tensor | None:
        """Return the row of each sample of the coming step's batch; None if they are not known yet.

        Errors are raised after the step, when every process can raise them.
        """
        fetches_in_step = not hasattr(trainer.fit_loop._data_fetcher, "batches")
        if batch is None or fetches_in_step or self.part_of(batch) is None:
            return None
        try:
            return self.rows(trainer, batch)
        except SampleIdentityError:
            return None

    def part_of(self, batch: Any) -> Any:
        """Return the part of a batch that comes from the loader, if training has several; None if there is none."""
        if self._source is None or not self._source.path:
            return batch  # at once: each step asks several times
        try:
            return self._source.part_of(batch)
        except SampleIdentityError:
            return None

    @property
    def in_words(self) -> str:
        """How samples are identified, in words for the line at the start of a fit."""
        return f"samples: identified by {WAYS[self.way]}"

    @property
    def known_by_loader(self) -> bool:
        """Whether samples are positions in the loader's dataset, and the loader or its dataset told them."""
        return self.way != "`index`" and bool(self._by_position)

    @property
    def is_carried(self) -> bool:
        """Whether the batch itself holds the indices of its samples."""
        return self._extract is not None

    def delivery(self, trainer: Any, rows: Tensor) -> Delivery:
        """Return the batch with these rows as the loader delivered it, an empty one if it is not known any more."""
        iteration = self._iteration(trainer)
        newest = () if iteration is None else iteration.newest
        return next((delivery for delivery in newest if delivery.indices is rows), Delivery())

    def _iteration(self, trainer: Any) -> Iteration | None:
        return None if self._source is None else current_iteration(trainer, self._source.position)

    def draws_targets(self, rows: Tensor, batch: Any, place: Path) -> bool:
        """Return whether the samples of a batch have other targets there if the loader's dataset is read again."""
        if not self.known_by_loader or self._source is None:
            return False
        return are_drawn_anew(self._source.loader, rows.tolist(), batch, place)

    def check_index_moves(self, trainer: Any, rows: Tensor, after_hooks: NotedLabels, presentation: Any) -> None:
        """Raise if a hook or a collate function reordered samples, but not the indices of :class:`IndexedDataset`.

        Raise as well if it did not pass these on.
        """
        iteration = self._iteration(trainer)
        if iteration is not None and self.way == "IndexedDataset":
            iteration.check_columns()
            iteration.check_drawn(rows.tolist(), [] if presentation.units else presentation.targets.tolist())
            check_index_moves_along([batch.noted for batch in iteration.newest], after_hooks, rows.tolist())

    def check_index(self, rows: Tensor, targets: Tensor) -> None:
        """Raise if the values of ``index`` cannot be those of the samples of a first step's targets, ``(M,)`` each."""
        if self._given_index is not None:
            values = rows.tolist() if self.ids is None else self.ids.ids_of(rows)
            self._given_index.check(values, targets, are_positions=self.ids is None)

    def samples_of(self, batch: Any) -> Any:
        """Return the part of a batch that comes from the loader, without indices that :class:`IndexedDataset` added."""
        part = self.part_of(batch)
        return IndexedDataset.without_indices(part) if self._extract is IndexedDataset.indices else part

    def root_index(self, length: int) -> Any:
        """Return, for each of the first rows, the position in the dataset below all subsets; -1 if it is not known."""
        dataset = self.dataset
        if self._by_position is not False:
            roots = root_indices(dataset)
            if 0 < length != len(roots):
                raise SampleIdentityError(
                    f"Expected the dataset to keep its {length} samples during a fit, got {len(roots)}. Give the "
                    "loader all samples and choose from them with a sampler, or return a name (str) with each sample "
                    "and pass the key of it or its place in the batch as `index=`."
                )
            return roots
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        ids = np.arange(0) if self.ids is None else self.ids.array(length)
        if ids.dtype.kind != "i" or not has_positions(dataset):
            return np.full(length, -1)
        roots, is_position = root_indices(dataset), (ids >= 0) & (ids < len(dataset))
        return np.where(is_position, roots[np.where(is_position, ids, 0)], -1)

    def describe(
        self, length: int, name_of: Callable[[Any], str] | None
    ) -> tuple[Any, Any, list[str] | None, list[str] | None]:
        """Return what is known of the first rows, as :meth:`~dynalens.record.LiveRecord.describe` takes it.

        Args:
            length: Number of rows.
            name_of: Callable(sample id) -> name; default: the names that the dataset has.

        Returns:
            Positions below all subsets, ids where these are no positions, names of samples, and names of classes.

        Raises:
            SampleIdentityError: If samples are known by their position, and the dataset has others by now.
        """
        roots, ids = self.root_index(length), None if self.ids is None else self.ids.array(length)
        names, names_of_classes = sample_names(self.dataset, roots), class_names(self.dataset)
        if self._by_position:
            self._same_samples.check(roots, names)
        if name_of is None:
            return roots, ids, names, names_of_classes
        samples = range(len(roots)) if ids is None else ids.tolist()
        names = None if self.undecided else [str(name_of(sample)) for sample in samples]
        return roots, ids, names, names_of_classes

    def state(self) -> dict[str, Any]:
        """Return the ids in the order of their rows, None if samples are known by position, and how they are known."""
        return {"sample_ids": None if self.ids is None else list(self.ids), "same_samples": self._same_samples.state()}

    def _find(self, trainer: Any, batch: Any) -> Tensor | list[str] | None:
        assert self._source is not None
        if self._extract is None:
            return step_indices(trainer, self._source.position)
        batches_ahead(trainer)
        if self.way == "IndexedDataset":  # it takes positions from the sampler's draws, too
            iteration = self._iteration(trainer)
            if iteration is not None and iteration.problem is not None:
                raise iteration.problem
        part = self._source.part_of(batch)
        return None if part is None else indices_in_batch(part, self._extract)

    def _check_continues(self, record_length: int | None) -> None:
        if self.ids is not None and self._by_position:
            raise SampleIdentityError(
                f"Expected an `index` that gives ids as those of the record, {next(iter(self.ids), '')!r}, got "
                f"{self.index!r}. Resume with the `index` of the checkpoint, or call `reset()` first."
            )
        if self.ids is not None:
            self._by_position = False
        elif record_length is not None:
            length = len(self.dataset) if self._by_position is not False else "unknown length"
            if length != record_length:
                raise SampleIdentityError(
                    f"Expected the dataset of the record, {record_length} samples, got one of {length}. "
                    "Resume with the dataset of the checkpoint, or call `reset()` to begin a new record. If samples "
                    "come and go while you train, return a name (str) with each and pass its key as `index=`."
                )
            self._by_position = True

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue with the samples of ``state``; with none if it is empty."""
        ids = state.get("sample_ids")
        self._same_samples, self.ids = SameSamples(state.get("same_samples")), None if ids is None else SampleIds(ids)


def _new_ids(trainer: Any) -> SampleIds:
    if trainer.world_size > 1:
        raise SampleIdentityError(
            "Expected samples to be known by their position in the dataset where several processes train, got ids, "
            "whose rows differ between processes. Wrap the dataset in `IndexedDataset`, or train with `devices=1`."
        )
    return SampleIds()


def _by_position(dataset: Any, *, explicit: bool) -> bool | None:
    """Return whether an index is a position in the dataset; None if the first batch must show it."""
    # What a batch brings from within a subset is an index into what is below it.
    if not has_positions(dataset) or (explicit and isinstance(dataset, Subset)):
        return False
    return None if explicit else True


def _check_followed(trainer: Any, source: TrainingLoader) -> None:
    obstacle = not_followable(source.loader)
    if obstacle is not None:
        raise SampleIdentityError(
            f"Expected the training loader to be a DataLoader over a map-style dataset, got {obstacle}. {REMEDY}"
        )
    if current_iteration(trainer, source.position) is None:
        raise SampleIdentityError(
            f"Expected the iterator of the {type(source.loader).__name__} to be made in `fit`, got one that was there "
            "before, for instance because of persistent workers. Make a new loader for `fit`."
        )
