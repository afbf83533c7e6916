"""An `index` that takes something else than the index of each sample is an error in the first batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from dynalens import IndexedDataset, SampleIdentityError, TrainingDynamicsMonitor
from training import Classifier, K, dataset, fit, images, loader

pytestmark = pytest.mark.usefixtures("undrawn")
COUNT = 60


class OfTriples(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


def with_index(index: torch.Tensor) -> TensorDataset:
    drawn = torch.randint(K, (COUNT,), generator=torch.Generator().manual_seed(2))
    return TensorDataset(images(COUNT), drawn, index)


def of(data: Dataset[Any], **options: Any) -> DataLoader[Any]:
    return loader(data, batch_size=15, **options)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(with_index(torch.arange(COUNT)))


def sorts_all_but_the_index(samples: list[Any]) -> list[Any]:
    x, y, index = default_collate(samples)
    order = y.argsort()
    return [x[order], y[order], index]


PARTS: ConcatDataset[Any] = ConcatDataset([IndexedDataset(Subset(dataset(), range(n))) for n in (9, 11)])


@pytest.mark.parametrize(
    ("data", "index", "message"),
    [
        (of(with_index(torch.arange(COUNT))), 1, "got its label, by 1"),
        (DataLoader(Stream(), batch_size=15), 1, "got its label, by 1"),
        (of(with_index(10 * torch.arange(COUNT))), 2, "positions in the dataset, from 0 to 59, got"),
        (of(with_index(-torch.arange(COUNT))), 2, "positions in the dataset, from 0 to 59, got -"),
        (
            of(with_index(torch.arange(COUNT)), collate_fn=sorts_all_but_the_index),
            2,
            "the labels of these samples in another order",
        ),
        (of(PARTS), 2, "one `IndexedDataset` around all samples, got a ConcatDataset of 2"),
        (of(PARTS), IndexedDataset.indices, "one `IndexedDataset` around all samples, got a ConcatDataset of 2"),
    ],
    ids=["labels", "labels of a stream", "beyond", "negative", "sorted", "parts", "callable of parts"],
)
def test_an_index_that_is_not_that_of_the_samples_is_an_error_in_the_first_steps(
    tmp_path: Path, data: DataLoader[Any], index: Any, message: str
) -> None:
    with pytest.raises(SampleIdentityError, match=message):
        fit(
            tmp_path, TrainingDynamicsMonitor(index=index, history=False), model=OfTriples(), data=lambda: data,
            limit_train_batches=3, max_epochs=1,
        )  # fmt: skip


FIRST_OF_TWO = torch.arange(COUNT) // 2 * 2
CLIPS = TensorDataset(images(COUNT), FIRST_OF_TWO % K, FIRST_OF_TWO)
"""Two clips of each film."""


class ChangedOnPurpose(TensorDataset):
    """Shows other labels than it returns, for two fifths of its samples."""

    def __init__(self) -> None:
        super().__init__(*with_index(torch.arange(COUNT)).tensors)
        self.targets = torch.where(torch.arange(COUNT) % 5 < 2, (self.tensors[1] + 1) % K, self.tensors[1])


@pytest.mark.parametrize(
    ("data", "index"),
    [
        (ChangedOnPurpose(), 2),
        (PARTS, "auto"),
        (PARTS, lambda batch: [f"{x[0, 0, 0]}" for x in batch[0]]),
        (CLIPS, 2),
    ],
    ids=["changed labels", "parts", "names", "clips"],
)
def test_an_index_of_samples_is_taken_although_labels_or_numbers_are_unusual(
    tmp_path: Path, data: Dataset[Any], index: Any
) -> None:
    monitor = TrainingDynamicsMonitor(index=index, history=False)
    fit(tmp_path, monitor, model=OfTriples(), data=lambda: of(data), max_epochs=1)
    assert monitor.statistics().presentations.sum() == len(data)  # type: ignore[arg-type]  # it has a length
