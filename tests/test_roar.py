"""Masked training sets by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dynalens.faithfulness import kar_datasets, retrain, roar_datasets

IMAGES = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[8.0, 7.0], [6.0, 5.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
LABELS = torch.tensor([2, 0, 1])
SET = TensorDataset(IMAGES, LABELS)


def values(images: Tensor, targets: Tensor) -> Tensor:
    return images[:, 0]


def test_the_most_relevant_pixels_are_gone_or_alone_are_left(tmp_path: Path) -> None:
    removed = roar_datasets(SET, values, tmp_path / "roar", fractions=(0, 0.25, 0.5, 1), batch_size=2)
    kept = kar_datasets(SET, values, tmp_path / "kar", fractions=(0.25, 0.75), baseline="zero")
    mean = 36 / 12
    assert removed[0.25][0][0].tolist() == [[[1, 2], [3, mean]]]
    assert removed[0.25][1][0].tolist() == [[[mean, 7], [6, 5]]]
    assert removed[0.5][0][0].tolist() == [[[1, 2], [mean, mean]]]
    assert kept[0.25][0][0].tolist() == [[[0, 2], [3, 4]]]
    assert kept[0.75][1][0].tolist() == [[[8, 0], [0, 0]]]
    assert torch.equal(removed[0][1][0], IMAGES[1])
    assert removed[1][1][0].tolist() == [[[mean, mean], [mean, mean]]]
    assert int((removed[0.5][2][0] == mean).sum()) == 2  # ties, in an exact number
    assert [int(removed[0.5][i][1]) for i in range(len(removed[0.5]))] == LABELS.tolist()


def test_maps_are_asked_for_the_labels_and_loaders_can_read_the_sets(tmp_path: Path) -> None:
    seen: list[int] = []

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        seen.extend(targets.tolist())
        return images[:, 0]

    sets = roar_datasets(SET, explain, tmp_path, fractions=(0.5,), batch_size=2)
    assert seen == LABELS.tolist()
    batches = list(DataLoader(sets[0.5], batch_size=3))
    assert batches[0][0].shape == (3, 1, 2, 2)
    assert batches[0][1].tolist() == LABELS.tolist()


def test_retraining_calls_the_factory_for_each_fraction_and_seed(tmp_path: Path) -> None:
    train = roar_datasets(SET, values, tmp_path / "train", fractions=(0.25, 0.5))
    test = roar_datasets(SET, values, tmp_path / "test", fractions=(0.25, 0.5))
    calls: list[tuple[int, int, int]] = []

    def factory(train_set: object, test_set: object, seed: int) -> float:
        assert train_set in train.values()
        assert test_set in test.values()
        calls.append((list(train.values()).index(train_set), list(test.values()).index(test_set), seed))  # type: ignore[arg-type]  # checked above
        return 0.5 + seed

    assert retrain(train, test, factory, seeds=(0, 1)) == {0.25: [0.5, 1.5], 0.5: [0.5, 1.5]}
    assert calls == [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)]
    with pytest.raises(ValueError, match=r"`test_sets` with the fractions \[0.25, 0.5\], got \[0.25\]"):
        retrain(train, {0.25: test[0.25]}, factory)


def test_arguments_of_masking_out_of_their_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`fraction` to be in \[0, 1\], got 2"):
        roar_datasets(SET, values, tmp_path / "unwritten", fractions=(0.5, 2))
    with pytest.raises(ValueError, match=r"`baseline` to be one of .* got 'grey'"):
        kar_datasets(SET, values, tmp_path / "unwritten", baseline="grey")
    assert not (tmp_path / "unwritten").exists()
    with pytest.raises(ValueError, match="`dataset` to have samples, got 0"):
        roar_datasets(TensorDataset(IMAGES[:0], LABELS[:0]), values, tmp_path)
    with pytest.raises(ValueError, match="`maps` to be finite"):
        roar_datasets(SET, lambda images, _: images[:, 0] / 0, tmp_path)
    with pytest.raises(ValueError, match=r"`maps` \(N, \*spatial\)"):
        roar_datasets(SET, lambda images, _: images, tmp_path)
