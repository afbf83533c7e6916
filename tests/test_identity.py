"""Whatever the loader, the recorder names the samples that are really in the batch, and changes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset, WeightedRandomSampler

from dynalens.identity import (
    IndexRecorder,
    SampleIdentityError,
    dataset_class_names,
    indices_in_batch,
    root_indices,
)
from training import Classifier, N, dataset, fit, labels, loader, trainer


class Follow(pl.Callback):
    """Asks for the indices of each batch, as a monitor does."""

    def __init__(self) -> None:
        self.recorder: IndexRecorder | None = None
        self.batches: list[list[int]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.recorder = IndexRecorder.attach(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        assert self.recorder
        self.batches.append(list(self.recorder.indices(trainer, args[3])))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.recorder
        self.recorder.end_epoch()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert self.recorder
        self.recorder.detach()

    def on_exception(self, *args: Any) -> None:
        assert self.recorder
        self.recorder.detach()


class RandomBatches:
    """No BatchSampler, and its draws come from the global generator."""

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(5):
            yield torch.randint(N, (3,)).tolist()

    def __len__(self) -> int:
        return 5


def in_order() -> DataLoader[Any]:
    return loader(shuffle=False)


def weighted() -> DataLoader[Any]:
    return loader(shuffle=False, sampler=WeightedRandomSampler([i + 1.0 for i in range(N)], N))


def dataset_of_batches() -> DataLoader[Any]:
    sampler = BatchSampler(torch.utils.data.RandomSampler(range(N)), 4, drop_last=False)
    return DataLoader(dataset(), batch_size=None, sampler=sampler)


def with_workers(**options: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: loader(num_workers=2, **options)


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "shuffle": loader,
    "in order": in_order,
    "drop_last": lambda: loader(drop_last=True),
    "workers": with_workers(prefetch_factor=4),
    "persistent workers": with_workers(persistent_workers=True),
    "weighted, with repeats": weighted,
    "own batch sampler": lambda: DataLoader(dataset(), batch_sampler=RandomBatches()),
    "batches as a list": lambda: DataLoader(dataset(), batch_sampler=[[3, 1], [2], [3, 0, 5]]),
    "no automatic batches": dataset_of_batches,
    "subset": lambda: loader(Subset(dataset(), range(N))),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "limit_train_batches": {"limit_train_batches": 2},
    "reload": {"reload_dataloaders_every_n_epochs": 1},
    "accumulate": {"accumulate_grad_batches": 3},
    "overfit_batches": {"overfit_batches": 2, "data": in_order},
    "validation in the epoch": {"val": in_order, "val_check_interval": 2},
    "max_steps": {"max_steps": 8, "max_epochs": -1},
}


def compare(tmp_path: Path, **options: Any) -> None:
    follow = Follow()
    watched, plain = fit(tmp_path, follow, **options), fit(tmp_path, **options)
    assert follow.batches == [indices for _, indices, _, _ in watched.seen]
    assert follow.batches
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


@pytest.mark.parametrize("data", LOADERS.values(), ids=LOADERS.keys())
def test_the_samples_of_every_loader_are_known_and_weights_stay_bit_identical(
    tmp_path: Path, data: Callable[[], DataLoader[Any]]
) -> None:
    compare(tmp_path, data=data)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_samples_under_every_trainer_option_are_known(tmp_path: Path, options: dict[str, Any]) -> None:
    compare(tmp_path, **options)


def test_nothing_is_left_behind_and_the_same_loader_fits_again(tmp_path: Path) -> None:
    data, follow = loader(), Follow()
    runner = trainer(tmp_path, follow)
    model = Classifier()
    runner.fit(model, data)
    assert type(data) is DataLoader
    assert "process_dataloader" not in vars(runner.strategy)
    assert not [name for name in vars(data) if "dynalens" in name]
    runner.fit_loop.max_epochs = 5
    runner.fit(model, data)
    assert follow.batches == [indices for _, indices, _, _ in model.seen]


def test_nothing_is_left_behind_after_an_exception(tmp_path: Path) -> None:
    class Failing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise RuntimeError("stop here")
            return super().training_step(batch, batch_idx)

    data = loader()
    with pytest.raises(RuntimeError, match="stop here"):
        fit(tmp_path, Follow(), model=Failing(), data=lambda: data)
    assert type(data) is DataLoader
    assert not [name for name in vars(data) if "dynalens" in name]


def test_several_callbacks_share_one_recorder(tmp_path: Path) -> None:
    first, second = Follow(), Follow()
    model = fit(tmp_path, first, second)
    assert first.recorder is second.recorder
    assert first.batches == second.batches == [indices for _, indices, _, _ in model.seen]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(dataset())


class Batches:
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.randn(4, 1, 6, 6), labels(4))])


class Stateful(DataLoader[Any]):
    def load_state_dict(self, state: Any) -> None:
        """As torchdata's loader, which restores its sampler without drawing from it."""


class Empty(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: DataLoader(Stream(), batch_size=4), "got the iterable dataset Stream, which has no index"),
        (Batches, "got a Batches"),
        (lambda: Stateful(dataset(), batch_size=4), "got the stateful loader Stateful"),
        (lambda: loader(num_workers=1, in_order=False), "got `in_order=False` with workers"),
        (lambda: DataLoader(Empty()), "a training dataset with samples, got 0"),
        (lambda: {"a": loader(), "b": loader()}, "got a second dataset"),
    ],
)
def test_loaders_that_cannot_be_followed_raise_before_training(
    tmp_path: Path, data: Callable[[], Any], message: str
) -> None:
    with pytest.raises(SampleIdentityError, match=message):
        fit(tmp_path, Follow(), data=data)


def test_a_batch_can_carry_its_indices() -> None:
    batch = {"x": torch.zeros(2, 1), "position": torch.tensor([4, 2])}
    assert torch.equal(torch.as_tensor(indices_in_batch(batch, "position")), torch.tensor([4, 2]))
    assert torch.equal(torch.as_tensor(indices_in_batch((1, [7, 8]), lambda b: b[1])), torch.tensor([7, 8]))


@pytest.mark.parametrize(
    ("batch", "index", "message"),
    [
        ({"x": 1}, "position", r"the key 'position', got the keys \['x'\]"),
        ([1, 2], "position", "the key 'position', got a list"),
        ({"position": torch.zeros(2)}, "position", "one integer for each sample"),
        ({"position": torch.zeros(2, 2).long()}, "position", "one integer for each sample"),
    ],
)
def test_a_batch_without_indices_raises(batch: Any, index: str, message: str) -> None:
    with pytest.raises(SampleIdentityError, match=message):
        indices_in_batch(batch, index)


def test_subsets_of_subsets_lead_to_the_root_index() -> None:
    inner = Subset(dataset(), [5, 7, 9, 11])
    assert root_indices(Subset(inner, [3, 1]), 2) == [11, 7]


def test_class_names_are_those_of_the_root_dataset() -> None:
    data = dataset()
    assert dataset_class_names(data) is None
    data.classes = ["a", "b", "c"]  # type: ignore[attr-defined]  # as torchvision's datasets have it
    assert dataset_class_names(Subset(Subset(data, [1, 2]), [0])) == ["a", "b", "c"]
    data.classes = Tensor([1])  # type: ignore[attr-defined]  # no names
    assert dataset_class_names(data) is None
