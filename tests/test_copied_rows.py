"""Samples with which a collate function fills up the last batch are recorded as often as they were trained on."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from dynalens import IndexedDataset, TrainingDynamicsMonitor
from dynalens.identity.collate_order import OrderedCollate
from dynalens.identity.copied_rows import order_with_copies
from test_losses import assert_equals_the_definitions
from training import Classifier, dataset, fit, loader

pytestmark = pytest.mark.usefixtures("undrawn")

Fill = Callable[[list[Any], int], list[Any]]
FILLS: dict[str, Fill] = {
    "in turn": lambda samples, k: [samples[i % len(samples)] for i in range(k)],
    "the first": lambda samples, k: [samples[0]] * k,
    "the last": lambda samples, k: [samples[-1]] * k,
    "drawn": lambda samples, k: random.choices(samples, k=k),
}


class FillsUp:
    def __init__(self, fill: Fill, *, size: int = 5, in_place: bool = False) -> None:
        self.fill, self.size, self.in_place = fill, size, in_place

    def __call__(self, samples: list[Any]) -> Any:
        copies = self.fill(list(samples), self.size - len(samples))
        if self.in_place:
            samples += copies
        return default_collate(samples if self.in_place else [*samples, *copies])


@pytest.mark.parametrize("size", [5, 6, 7, 11, 20])  # of 22 samples: 2, 4, 1, 11 and 2 in the last batch
@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS.keys())
@pytest.mark.parametrize("in_place", [False, True], ids=["new list", "in place"])
def test_a_last_batch_that_is_filled_up_with_copies_is_recorded(
    tmp_path: Path, size: int, fill: Fill, in_place: bool
) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    collate = FillsUp(fill, size=size, in_place=in_place)
    data = lambda: loader(batch_size=size, collate_fn=collate)
    module = fit(tmp_path, monitor, data=data, max_epochs=2)
    assert sum(len(index) for _, index, *_ in module.seen) == 2 * -(-22 // size) * size
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class Noisy(FillsUp):
    def __call__(self, samples: list[Any]) -> Any:
        x, y, *index = super().__call__(samples)
        x[:, :, 1:] += torch.rand_like(x[:, :, 1:])
        return [x, y, *index]


class Normalises(FillsUp):
    """Changes its samples, copies alike, and marks the copies."""

    def __call__(self, samples: list[Any]) -> Any:
        x, y = super().__call__(samples)
        x[:, :, 1:] = (x[:, :, 1:] - 0.5) / 3
        return x, y, (torch.arange(self.size) < len(samples)).float()


@pytest.mark.parametrize("size", [5, 6, 7, 20])
@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS.keys())
def test_copies_of_samples_that_the_collate_function_changes_are_recorded(
    tmp_path: Path, size: int, fill: Fill
) -> None:
    class Module(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[:2], batch_idx)

    monitor = TrainingDynamicsMonitor(history=False)
    data = lambda: loader(batch_size=size, collate_fn=Normalises(fill, size=size))
    module = fit(tmp_path, monitor, model=Module(), data=data, max_epochs=1)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_copies_that_are_not_changed_alike_are_left_out_and_the_advice_works(tmp_path: Path) -> None:
    def fitted(name: str, data: Any) -> Any:
        class Module(Classifier):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return super().training_step(batch[:2], batch_idx)

        monitor = TrainingDynamicsMonitor(history=False)
        collate = Noisy(FILLS["in turn"])
        module = fit(
            tmp_path / name, monitor, model=Module(), max_epochs=1,
            data=lambda: loader(data, batch_size=5, collate_fn=collate),
        )  # fmt: skip
        return monitor, module

    with pytest.warns(UserWarning, match=r"Where the collate function repeats samples.*`IndexedDataset`"):
        monitor, _ = fitted("as it is", dataset())
    assert monitor.table().attrs["incomplete_epochs"] == [0]  # its last batch
    monitor, module = fitted("indexed", IndexedDataset(dataset()))
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_two_rows_for_each_sample_are_views_unless_a_batch_had_as_many_samples() -> None:
    samples = [(torch.tensor([float(i)] * 3), i) for i in range(4)]

    def doubled(batch: list[Any]) -> Any:
        return default_collate(batch if len(batch) == 4 else [*batch, *batch])

    collate = OrderedCollate(doubled)
    assert collate(samples[:2]).order is None
    assert collate(samples).order is None
    assert collate(samples[2:]).order == [0, 1, 0, 1]


def test_rows_of_labels_alone_or_of_other_samples_are_no_copies() -> None:
    x = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    rows = torch.stack([x[0], x[1], x[1]])
    samples: dict[Any, list[Any]] = {(0,): x, (1,): [5, 6]}
    assert order_with_copies(samples, {(0,): rows, (1,): torch.tensor([5, 6, 6])}) == [0, 1, 1]
    assert order_with_copies({(1,): [5, 6]}, {(1,): torch.tensor([5, 6, 6])}) is None
    # each row changed alike
    assert order_with_copies(samples, {(0,): rows + 1, (1,): torch.tensor([5, 6, 6])}) == [0, 1, 1]
    assert order_with_copies(samples, {(0,): rows + 1, (1,): torch.tensor([6, 5, 6])}) is None
    noise = torch.tensor([[0.0], [0.0], [0.5]])
    assert order_with_copies(samples, {(0,): rows + noise, (1,): torch.tensor([5, 6, 6])}) is None
    # equal arrays with different labels could be either
    alike: dict[Any, list[Any]] = {(0,): [x[0], x[0]], (1,): [5, 6]}
    assert order_with_copies(alike, {(0,): torch.stack([x[0]] * 3)}) is None
    assert order_with_copies({(0,): ["a", "a"]}, {(0,): ["a", "a", "a"]}) == [0, 0, 0]
