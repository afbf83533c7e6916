"""A dataset whose samples carry their own index, and what is below all subsets."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from dynalens import IndexedDataset
from dynalens.datasets import class_names, has_positions, network_class_names, root_indices
from training import dataset


class Pair(NamedTuple):
    x: float
    y: int


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"x": 1.5, "y": 2}, {"x": 1.5, "y": 2, "index": 1}),
        ((1.5, 2), (1.5, 2, 1)),
        ([1.5, 2], [1.5, 2, 1]),
        (Pair(1.5, 2), (1.5, 2, 1)),
        (1.5, (1.5, 1)),
        (None, None),
    ],
)
def test_each_form_of_sample_carries_its_index(sample: Any, expected: Any) -> None:
    data = IndexedDataset([None, sample])
    assert data[1] == expected
    assert type(data[1]) is type(expected)
    assert data.__getitems__([1, 1]) == [expected, expected]
    assert len(data) == 2


@pytest.mark.parametrize("samples", [[{"x": 5.0}, {"x": 6.0}], [(5.0, 0), (6.0, 1)], [5.0, 6.0]])
def test_the_indices_of_a_collated_batch_are_found(samples: list[Any]) -> None:
    data = IndexedDataset(samples)
    indices = IndexedDataset.indices(default_collate(data.__getitems__([1, 0])))
    assert torch.equal(indices, torch.tensor([1, 0]))


def test_the_wrapped_dataset_may_return_several_samples_at_once() -> None:
    class AtOnce(Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> Any:
            raise AssertionError

        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [(f"sample {i}",) for i in indices]

    assert IndexedDataset(AtOnce()).__getitems__([2, 0]) == [("sample 2", 2), ("sample 0", 0)]


def test_a_dataset_without_indices_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(range(3))

        def __len__(self) -> int:
            return 3

    for data in (Stream(), iter([1]), {1, 2}):
        assert not has_positions(data)
        with pytest.raises(TypeError, match=f"`dataset` to be map-style.*got {type(data).__name__}. Let an iterable"):
            IndexedDataset(data)
    with pytest.raises(ValueError, match=r"without the key 'index', got one with the keys \['index'\]"):
        IndexedDataset([{"index": 3}])[0]


def test_subsets_of_subsets_lead_to_the_root_index() -> None:
    inner = Subset(dataset(), [5, 7, 9, 11])
    assert root_indices(Subset(inner, [3, 1])).tolist() == [11, 7]
    assert root_indices(IndexedDataset(Subset(inner, [3, 1]))).tolist() == [11, 7]
    assert root_indices(Subset(IndexedDataset(inner), torch.tensor([2, 0]).tolist())).tolist() == [9, 5]
    assert root_indices(dataset(3)).tolist() == [0, 1, 2]


def test_class_names_are_those_of_the_root_dataset() -> None:
    data = dataset()
    assert class_names(data) is None
    data.classes = ["a", "b", "c"]  # type: ignore[attr-defined]  # as torchvision's datasets have it
    assert class_names(IndexedDataset(Subset(Subset(data, [1, 2]), [0]))) == ["a", "b", "c"]
    data.classes = Tensor([1])  # type: ignore[attr-defined]  # no names
    assert class_names(data) is None


def test_class_names_of_parts_are_those_of_every_part() -> None:
    one, other = (TensorDataset(torch.zeros(2, 1)) for _ in range(2))
    one.classes, other.classes = ["a", "b"], ["a", "b"]  # type: ignore[attr-defined]  # as those of torchvision have
    assert class_names(Subset(ConcatDataset([Subset(one, [1]), other]), [0])) == ["a", "b"]
    other.classes = ["a", "c"]  # type: ignore[attr-defined]
    assert class_names(ConcatDataset([one, other])) is None


def test_class_names_of_a_hugging_face_dataset_are_those_of_its_class_column() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    assert class_names(Subset(data, [1])) == ["no", "yes"]
    assert class_names(data.remove_columns("label")) is None


class ToyForImageClassification(nn.Module):
    """Has a head and a config as the classifiers of transformers do."""

    def __init__(self, names: dict[Any, Any], outputs: int) -> None:
        super().__init__()
        self.classifier, self.config = nn.Linear(4, outputs), SimpleNamespace(id2label=names)


ANIMALS = {1: "dog", 0: "cat"}


def test_class_names_of_a_network_are_those_of_its_hugging_face_classifier() -> None:
    network = nn.ModuleList([nn.Linear(4, 4), ToyForImageClassification(ANIMALS, 2)])
    assert network_class_names(network) == ["cat", "dog"]
    assert network_class_names(nn.ModuleList([network, ToyForImageClassification({"0": "cat", "1": "dog"}, 2)])) == [
        "cat",
        "dog",
    ]


@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(4, 2),
        ToyForImageClassification({0: "LABEL_0", 1: "LABEL_1"}, 2),  # what transformers writes without names
        ToyForImageClassification(ANIMALS, 10),  # the head was replaced
        ToyForImageClassification({1: "cat", 2: "dog"}, 2),
        ToyForImageClassification({"cat": 0, "dog": 1}, 2),  # numbered the other way round
        nn.ModuleList([ToyForImageClassification(ANIMALS, 2), ToyForImageClassification({0: "no", 1: "yes"}, 2)]),
    ],
)
def test_names_that_may_be_those_of_other_classes_are_none(network: nn.Module) -> None:
    assert network_class_names(network) is None


def test_a_backbone_does_not_name_the_classes_of_the_head_above_it() -> None:
    backbone = nn.Linear(4, 2)
    backbone.config = SimpleNamespace(id2label=ANIMALS)  # type: ignore[assignment]  # as a ViTModel has that was fine-tuned
    assert network_class_names(nn.Sequential(backbone, nn.Linear(2, 2))) is None


def test_an_indexed_dataset_takes_what_samplers_draw() -> None:
    class Sized(Dataset[Any]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, key: Any) -> tuple[str, int]:
            return f"{key}", 0

    data = IndexedDataset(Sized())
    assert [data[key][-1] for key in (3, -1, (2, 32), {"index": 4}, np.int64(-5))] == [3, 4, 2, 4, 0]
    assert [sample[-1] for sample in data.__getitems__([(1, 32), (-2, 64)])] == [1, 3]
