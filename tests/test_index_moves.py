"""An index that travels with the samples, and hooks or collate functions that reorder the samples but not the index."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from dynalens import IndexedDataset, SampleIdentityError, TrainingDynamicsMonitor
from dynalens.identity.in_place import check_index_moves_along
from dynalens.identity.order import OrderError, order_of_rows
from test_losses import assert_equals_the_definitions
from training import Classifier, N, fit, images, labels, loader

pytestmark = pytest.mark.usefixtures("undrawn")


class Unlabelled(Dataset[Any]):
    """Does not show its labels."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return images()[i], int(labels()[i])


Rows = Callable[[Tensor], Tensor]
ORDERS: dict[str, Rows] = {
    "backwards": lambda y: torch.arange(len(y)).flip(0),
    "by label": lambda y: y.argsort(descending=True, stable=True),
    "drawn": lambda y: torch.randperm(len(y)),
}


class Hooked(Classifier):
    def __init__(self, order: Rows, *, moves_index: bool, in_place: bool = False) -> None:
        super().__init__()
        self.order, self.moves_index, self.in_place = order, moves_index, in_place

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y, index = batch
        order = self.order(y)
        if self.in_place:
            for part in (x, y, index) if self.moves_index else (x, y):
                part.copy_(part[order].clone())
            return batch
        return [x[order], y[order], index[order] if self.moves_index else index]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


def indexed(**options: Any) -> Callable[[], Any]:
    return lambda: loader(IndexedDataset(Unlabelled()), batch_size=11, **options)


@pytest.mark.parametrize("in_place", [False, True], ids=["copies", "in place"])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_hook_that_leaves_the_index_behind_raises_in_the_first_batch(
    tmp_path: Path, order: Rows, in_place: bool
) -> None:
    module = Hooked(order, moves_index=False, in_place=in_place)
    with pytest.raises(SampleIdentityError, match="hooks to reorder the index of each sample together with its labels"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=indexed())
    assert len(module.seen) == 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_hook_that_takes_the_index_along_is_recorded(tmp_path: Path, order: Rows, workers: int) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = Hooked(order, moves_index=True)
    fit(tmp_path, monitor, model=module, data=indexed(num_workers=workers), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def sorted_before(samples: list[Any]) -> Any:
    index = torch.tensor([sample[2] for sample in samples])
    batch = default_collate(sorted(samples, key=lambda sample: float(sample[0].sum())))
    return [*batch[:2], index]


def sorted_with_index(samples: list[Any]) -> Any:
    return default_collate(sorted(samples, key=lambda sample: float(sample[0].sum())))


class Carried(Unlabelled):
    """Returns its index itself, which no argument names."""

    def __getitem__(self, i: int) -> Any:
        return *super().__getitem__(i), i


class Three(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


@pytest.mark.parametrize("data", [IndexedDataset(Unlabelled()), Carried()], ids=["IndexedDataset", "its own"])
def test_a_collate_function_that_leaves_the_index_behind_raises_in_the_first_batch(tmp_path: Path, data: Any) -> None:
    module = Three()
    with pytest.raises(SampleIdentityError, match="collate function to reorder all columns of a batch alike"):
        fit(
            tmp_path, TrainingDynamicsMonitor(), model=module,
            data=lambda: loader(data, batch_size=11, collate_fn=sorted_before),
        )  # fmt: skip
    assert len(module.seen) == 1
    monitor, module = TrainingDynamicsMonitor(history=False), Three()
    fit(
        tmp_path, monitor, model=module, max_epochs=2,
        data=lambda: loader(data, batch_size=11, collate_fn=sorted_with_index),
    )  # fmt: skip
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_a_second_image_in_another_order_is_no_sign_of_another_order() -> None:
    x = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([5.0, 6.0])]
    samples: dict[Any, list[Any]] = {(0,): x, (1,): [7, 8, 9]}
    rows, numbers = torch.stack(x), torch.tensor([7, 8, 9])
    assert order_of_rows(samples, {(0,): rows, (1,): numbers, (2,): rows.flip(0)}) is None
    with pytest.raises(OrderError, match="in the order of the samples and others are not"):
        order_of_rows(samples, {(0,): rows.flip(0), (1,): numbers})
    assert order_of_rows(samples, {(0,): rows.flip(0), (1,): numbers.flip(0)}) == [2, 1, 0]


def test_an_index_that_occurs_twice_or_in_no_delivered_batch_says_nothing() -> None:
    before = [(None, [4, 2, 2]), (None, [7, 8, 8])]
    check_index_moves_along([before], [(None, [2, 4, 2]), (None, [7, 8, 8])], [7, 8, 8])
    check_index_moves_along([before], [(None, [2, 4, 2]), (None, [1, 2, 3])], [1, 2, 3])
    check_index_moves_along([[]], [], [1, 2])


def without_index(samples: list[Any]) -> Any:
    return default_collate([sample[:2] for sample in samples])


def with_sizes(samples: list[Any]) -> Any:
    return [*default_collate([sample[:2] for sample in samples]), torch.full((len(samples),), 36)]


def with_another_sample(samples: list[Any]) -> Any:
    """Puts another sample in the place of a broken one."""
    return default_collate([IndexedDataset(Unlabelled())[N - 1], *samples[1:]])


def without_key(samples: list[Any]) -> Any:
    return default_collate([{"x": sample["x"], "y": sample["y"]} for sample in samples])


class OfKeys(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["x"], batch["y"]), batch_idx)


class Dropped(Three):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[:2]


class Keyed(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return {"x": images()[i], "y": int(labels()[i])}


DROPS: dict[str, tuple[Callable[[], Classifier], Callable[[], Any], str]] = {
    "collate function": (Three, indexed(collate_fn=without_index), "other integers there, "),
    "sizes in its place": (Three, indexed(collate_fn=with_sizes), r"other integers there, \[36, 36, 36, 36\]"),
    "hook": (Dropped, indexed(), "other integers there, "),
    "dict": (
        OfKeys,
        lambda: loader(IndexedDataset(Keyed()), collate_fn=without_key),
        r"the keys \['x', 'y'\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "data", "message"), DROPS.values(), ids=DROPS.keys())
def test_an_index_that_is_not_passed_on_is_an_error_in_the_first_batch(
    tmp_path: Path, model: Callable[[], Classifier], data: Callable[[], Any], message: str
) -> None:
    module = model()
    with pytest.raises(SampleIdentityError, match=f"positions that `IndexedDataset` adds to its.*got {message}"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=data)
    assert len(module.seen) <= 1


def test_samples_that_a_collate_function_adds_with_their_index_are_recorded(tmp_path: Path) -> None:
    monitor, module = TrainingDynamicsMonitor(history=False), Three()
    fit(tmp_path, monitor, model=module, max_epochs=2, data=indexed(collate_fn=with_another_sample))
    assert_equals_the_definitions(monitor.statistics(), module.seen)
