"""A relabelled dataset changes the labels it was asked to, and nothing else."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dynalens.datasets import IndexedDataset, RelabelledDataset


class Pair(NamedTuple):
    image: str
    label: int


@pytest.mark.parametrize(
    ("sample", "place", "expected"),
    [
        (("x", 0), None, ("x", 2)),
        (["x", 0], None, ["x", 2]),
        (Pair("x", 0), None, Pair("x", 2)),
        ((0, "x"), 0, (2, "x")),
        ({"image": "x", "target": 0}, None, {"image": "x", "target": 2}),
        ({"image": "x", "kind": 0}, "kind", {"image": "x", "kind": 2}),
    ],
)
def test_the_label_is_replaced_in_its_place(sample: Any, place: Any, expected: Any) -> None:
    data = RelabelledDataset([sample, sample], {1: (0, 2)}, label=place)
    assert data[0] is sample
    assert data[1] == data[-1] == expected
    assert type(data[1]) is type(sample)
    assert len(data) == 2


def test_a_tensor_stays_a_tensor() -> None:
    label = torch.tensor(0, dtype=torch.int32)
    changed = RelabelledDataset([("x", label)], {0: (0, 2)})[0][1]
    assert (changed.dtype, int(changed), int(label)) == (torch.int32, 2, 0)


def test_other_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`dataset` to be the one that was trained on, with 3 samples, got 1"):
        RelabelledDataset([("x", 0)], {}, length=3)
    with pytest.raises(ValueError, match=r"sample 0 of `dataset` to have the label 1 that was trained on, got 0"):
        RelabelledDataset([("x", 0)], {0: (1, 2)})[0]
    with pytest.raises(ValueError, match=r"`label` to be where the label stands in a sample, got None for \['z'\]"):
        RelabelledDataset([{"z": 0}], {0: (0, 2)})[0]
    with pytest.raises(ValueError, match=r"`label` to be where the label stands in a sample, got None for str"):
        RelabelledDataset(["x"], {0: (0, 2)})[0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 0, 0, -100], [0, 1, 1, -100]),
        ((1.0, 0.0, 0.0, -100.0), (0.0, 1.0, 1.0, -100.0)),
        (np.array([1, 0, 0, -100], np.int8), np.array([0, 1, 1, -100], np.int8)),
        (torch.tensor([1.0, 0.0, 0.0, torch.nan]), torch.tensor([0.0, 1.0, 1.0, torch.nan])),
    ],
)
def test_several_labels_keep_their_type_and_ignored_labels_their_value(labels: Any, expected: Any) -> None:
    data = RelabelledDataset([("x", labels)], {0: ("0 ?3", "1 2 ?3")})
    changed = data[0][1]
    assert type(changed) is type(labels)
    assert getattr(changed, "dtype", None) == getattr(labels, "dtype", None)
    np.testing.assert_array_equal(np.asarray(changed), np.asarray(expected))
    assert np.asarray(labels)[0] == 1  # the original stays
    with pytest.raises(ValueError, match="to have the label 0 1 that was trained on, got"):
        RelabelledDataset([("x", labels)], {0: ("0 1", "1")})[0]


@pytest.mark.parametrize(
    "labels",
    [np.array([1, 0, 1], np.uint16), np.array([1, 0, 1], np.uint32), torch.tensor([1, 0, 1], dtype=torch.uint16)],
)
def test_several_labels_may_be_unsigned_numbers(labels: Any) -> None:
    changed = RelabelledDataset([("x", labels)], {0: ("0 2", "1")})[0][1]
    assert changed.dtype == labels.dtype
    assert changed.tolist() == [0, 1, 0]


def test_a_class_in_one_hot_form_is_replaced_in_one_hot_form() -> None:
    assert RelabelledDataset([("x", [0, 1, 0])], {0: (1, 2)})[0] == ("x", [0, 0, 1])


def test_labels_that_stand_in_a_row_are_replaced_one_by_one() -> None:
    data = RelabelledDataset([("x", torch.tensor([[1, 0, 0]]))], {0: ("0", "0 2")})
    assert data[0][1].tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("label", [[1], (1,), np.array([1.0]), np.array(1), torch.tensor([1.0])])
def test_a_class_that_is_alone_in_an_array_is_replaced_in_its_type(label: Any) -> None:
    changed = RelabelledDataset([("x", label)], {0: (1, 0)})[0][1]
    assert type(changed) is type(label)
    assert np.shape(changed) == np.shape(label)
    assert np.ravel(changed).tolist() == [0]


class Labelled(list[tuple[str, int]]):
    """Pairs with the attributes that torchvision's datasets have."""

    def __init__(self, labels: list[int], targets: Any) -> None:
        super().__init__(("x", label) for label in labels)
        self.targets, self.classes, self.class_to_idx = targets, ["cat", "dog", "owl"], {"cat": 0, "dog": 1, "owl": 2}


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array, tuple])
def test_targets_are_the_labels_that_are_returned(kind: Any) -> None:
    labels = [2, 0, 1]
    data = Labelled(labels, kind(labels))
    changed = RelabelledDataset(IndexedDataset(data), {1: (0, 2)})
    assert [int(target) for target in changed.targets] == [changed[i][1] for i in range(3)] == [2, 2, 1]
    assert isinstance(changed.targets, list if kind is tuple else type(data.targets))
    assert [int(target) for target in data.targets] == labels  # those of the dataset below stay


def test_targets_of_several_labels_have_the_changes() -> None:
    data = Labelled([0, 0], torch.tensor([[1, 0, 0], [0, 1, 1]]))
    assert RelabelledDataset(data, {0: ("0", "0 2")}).targets.tolist() == [[1, 0, 1], [0, 1, 1]]


def test_a_wrapped_dataset_has_the_classes_of_the_one_below() -> None:
    data = Labelled([2, 0], [2, 0])
    for wrapper in (IndexedDataset(data), RelabelledDataset(data, {})):
        assert wrapper.classes == ["cat", "dog", "owl"]
        assert wrapper.class_to_idx["owl"] == 2
        assert list(wrapper.targets) == [2, 0]


def test_a_wrapped_dataset_has_no_attribute_that_the_one_below_lacks() -> None:
    for wrapper in (IndexedDataset([("x", 0)]), RelabelledDataset([("x", 0)], {0: (0, 1)})):
        assert not any(hasattr(wrapper, name) for name in ("classes", "class_to_idx", "targets"))


def test_targets_that_are_not_the_labels_of_the_samples_are_no_attribute() -> None:
    for targets in ([1, 2], [0], None, ["cat", "dog"]):
        assert not hasattr(RelabelledDataset(Labelled([0, 1], targets), {0: (0, 2)}), "targets")
    coarse = Labelled([0, 1], [0, 1])
    coarse.target_transform = lambda label: label // 2  # type: ignore[attr-defined]  # as torchvision's datasets have it
    assert not hasattr(RelabelledDataset(coarse, {0: (0, 2)}), "targets")
