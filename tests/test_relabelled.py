"""A relabelled dataset changes the labels it was asked to, and nothing else."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dynalens.datasets import RelabelledDataset


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
