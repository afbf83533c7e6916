"""Remove and retrain: training sets without the pixels that a map names, or with these pixels only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dynalens.faithfulness.checks import check_finite, check_shapes
from dynalens.faithfulness.perturbation import Baseline, check_baseline, replacement, replacement_ranks

Explain = Callable[[Tensor, Tensor], Tensor]

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)


class MaskedImages(Dataset[tuple[Tensor, Tensor]]):
    """A dataset of images in which a fraction of the pixels is replaced, as :func:`roar_datasets` returns it.

    Args:
        folder: Folder that :func:`roar_datasets` wrote, with ``images.npy``, ``labels.npy``, ``ranks.npy`` and
            ``mean.npy``.
        fraction: Part of the positions that is replaced, in [0, 1].
        keep: Whether to replace the least relevant pixels (keep and retrain) instead of the most relevant ones.
        baseline: What replaced pixels show. None: the mean of each channel over the dataset.
    """

    def __init__(self, folder: Path, fraction: float, *, keep: bool = False, baseline: Baseline | None = None) -> None:
        _check(fraction, baseline)
        self.fraction, self.keep, self.baseline = fraction, keep, baseline
        # Memory-mapped, so that several sets and all workers of a loader share one file.
        self._images, self._ranks = (np.load(folder / name, mmap_mode="r") for name in ("images.npy", "ranks.npy"))
        self._labels, self._mean = np.load(folder / "labels.npy"), torch.from_numpy(np.load(folder / "mean.npy"))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(np.array(self._images[i]))
        ranks = torch.from_numpy(np.array(self._ranks[i]))
        count = round(self.fraction * ranks.numel())
        is_replaced = ranks >= ranks.numel() - count if self.keep else ranks < count
        values = self._mean if self.baseline is None else self.baseline
        replacement_image = replacement(image.unsqueeze(0), values).squeeze(0)
        return torch.where(is_replaced.unsqueeze(0), replacement_image, image), torch.tensor(int(self._labels[i]))


def roar_datasets(
    dataset: Dataset[Any],
    explain: Explain,
    folder: str | Path,
    *,
    fractions: Sequence[float] = FRACTIONS,
    baseline: Baseline | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[float, MaskedImages]:
    """Return for each fraction the dataset without that part of its most relevant pixels (remove and retrain, ROAR).

    Train a new network on each of them. The more accuracy is lost, the better the maps name pixels that are needed.
    Blurry maps do well in this test even if they say nothing about the model (Song et al. 2023). So show it together
    with other metrics and with a random ranking: ``explain=lambda images, targets: random_ranking(images)``.

    Source: Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural Networks", NeurIPS 2019.

    Args:
        dataset: Map-style dataset of (image, label). It is read once, in order. Leave random augmentation out, because
            the images are written to disk.
        explain: Callable(images, targets) that returns maps (N, *spatial) of a batch.
        folder: Folder for ``images.npy``, ``labels.npy``, ``ranks.npy`` and ``mean.npy``. They take the size of the
            images and four bytes per position.
        fractions: Fractions of the positions that are replaced.
        baseline: What replaced pixels show. None: the mean of each channel over the dataset, as in the source.
        seed: Seed of the order of pixels with equal relevance.
        batch_size: Number of images that are explained together.

    Returns:
        For each fraction a dataset of (image, label).

    Raises:
        ValueError: If the dataset is empty, a fraction is outside [0, 1], or a map is not finite or has another size
            than the image.

    Example:
        Half of the pixels, here the two brightest, are replaced by the mean.

        >>> import tempfile
        >>> image = torch.tensor([[[0.0, 1.0, 5.0, 10.0]]])  # its mean is 4
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     masked = roar_datasets([(image, 0)], lambda images, _: images[:, 0], folder, fractions=[0.5])
        ...     print(masked[0.5][0][0])
        tensor([[[0., 1., 4., 4.]]])
    """
    return _masked_copy(
        dataset, explain, Path(folder), fractions, baseline, keep=False, seed=seed, batch_size=batch_size
    )


def kar_datasets(
    dataset: Dataset[Any],
    explain: Explain,
    folder: str | Path,
    *,
    fractions: Sequence[float] = FRACTIONS,
    baseline: Baseline | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[float, MaskedImages]:
    """Return for each fraction the dataset without that part of its least relevant pixels (keep and retrain, KAR).

    Train a new network on each of them. The less accuracy is lost, the better the maps name pixels that are sufficient.
    Arguments, errors and source are those of :func:`roar_datasets`.

    Example:
        Half of the pixels, here the two darkest, are replaced by the mean.

        >>> import tempfile
        >>> image = torch.tensor([[[0.0, 1.0, 5.0, 10.0]]])  # its mean is 4
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     masked = kar_datasets([(image, 0)], lambda images, _: images[:, 0], folder, fractions=[0.5])
        ...     print(masked[0.5][0][0])
        tensor([[[ 4.,  4.,  5., 10.]]])
    """
    return _masked_copy(
        dataset, explain, Path(folder), fractions, baseline, keep=True, seed=seed, batch_size=batch_size
    )


def retrain(
    train_sets: Mapping[float, Dataset[Any]],
    test_sets: Mapping[float, Dataset[Any]],
    train: Callable[[Dataset[Any], Dataset[Any], int], float],
    *,
    seeds: Sequence[int] = (0,),
) -> dict[float, list[float]]:
    """Train a new network for each fraction and seed, and return the accuracies.

    Args:
        train_sets: The result of :func:`roar_datasets` or :func:`kar_datasets` for the training set.
        test_sets: The same for the test set, with the same fractions.
        train: Callable(train_set, test_set, seed) that makes a new network, trains it, and returns its accuracy.
        seeds: A seed for each repetition. The source has five repetitions.

    Returns:
        For each fraction, one accuracy for each seed.

    Raises:
        ValueError: If the fractions of both differ.

    Example:
        >>> sets = {0.5: [1, 2]}
        >>> retrain(sets, sets, lambda train_set, test_set, seed: len(train_set) + seed, seeds=(0, 1))
        {0.5: [2, 3]}
    """
    if set(train_sets) != set(test_sets):
        raise ValueError(
            f"Expected `test_sets` with the fractions {sorted(train_sets)}, got {sorted(test_sets)}. Mask both "
            "sets with the same fractions."
        )
    return {fraction: [train(train_sets[fraction], test_sets[fraction], s) for s in seeds] for fraction in train_sets}


def _masked_copy(
    dataset: Any,
    explain: Explain,
    folder: Path,
    fractions: Sequence[float],
    baseline: Baseline | None,
    *,
    keep: bool,
    seed: int,
    batch_size: int,
) -> dict[float, MaskedImages]:
    for fraction in fractions:  # before the maps are computed, which takes long
        _check(fraction, baseline)
    _write(dataset, explain, folder, seed=seed, batch_size=batch_size)
    return {fraction: MaskedImages(folder, fraction, keep=keep, baseline=baseline) for fraction in fractions}


def _check(fraction: float, baseline: Baseline | None) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"Expected `fraction` to be in [0, 1], got {fraction}. Pass the part of the pixels that is replaced."
        )
    if baseline is not None:
        check_baseline(baseline)


def _write(dataset: Any, explain: Explain, folder: Path, *, seed: int, batch_size: int) -> None:
    """Write the images, their labels, the ranks of their pixels and the mean of each channel to files."""
    if not len(dataset):
        raise ValueError("Expected `dataset` to have samples, got 0 of them. Check its filter or path.")
    folder.mkdir(parents=True, exist_ok=True)
    first_image = torch.as_tensor(dataset[0][0])
    images = _new_file(folder / "images.npy", (len(dataset), *first_image.shape), first_image.numpy().dtype)
    ranks = _new_file(folder / "ranks.npy", (len(dataset), *first_image.shape[1:]), np.dtype(np.int32))
    labels, total = np.empty(len(dataset), dtype=np.int64), torch.zeros(len(first_image), dtype=torch.float64)
    for start, x, y in _batches(dataset, batch_size):
        maps = explain(x, y).detach().cpu()
        check_shapes(x, y, maps)
        check_finite(maps)
        rows = slice(start, start + len(x))
        images[rows], labels[rows] = x.numpy(), y.numpy()
        ranks[rows] = replacement_ranks(maps, seed=seed).numpy()
        total += x.double().flatten(2).mean(dim=2).sum(dim=0)
    for array in (images, ranks):
        array.flush()
    np.save(folder / "labels.npy", labels)
    mean = (total / len(dataset)).to(first_image.dtype).view(-1, *(1,) * (first_image.ndim - 1))
    np.save(folder / "mean.npy", mean.numpy())


def _new_file(path: Path, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> "np.memmap[Any, np.dtype[Any]]":
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _batches(dataset: Any, batch_size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the position of the first sample, the images and the labels of each batch."""
    for start in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        images = torch.stack([torch.as_tensor(sample[0]) for sample in samples])
        yield start, images, torch.tensor([int(sample[1]) for sample in samples])
