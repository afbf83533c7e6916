"""Targets that a step draws, as pretext tasks do, are told from labels of samples before the first epoch ends."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dynalens import CaptureError, TrainingDynamicsMonitor
from dynalens.identity.drawn_targets import are_unrelated
from training import Classifier, K, fit, images, loader

COUNT = 120
"""More samples than the first hundred targets."""


def of_many(y: Tensor | None = None) -> DataLoader[Any]:
    drawn = torch.randint(0, K, (COUNT,), generator=torch.Generator().manual_seed(5))
    return loader(TensorDataset(images(COUNT), drawn if y is None else y), batch_size=30)


class Targets(Classifier):
    """Makes its targets itself, of the images and labels of a batch."""

    def __init__(self, targets: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.targets = targets

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        targets, logits = self.targets(x, y), self(x / COUNT)
        self.remember(x, logits, targets)
        return self.loss(logits, targets)


DRAWS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "python": lambda x, y: torch.tensor([min(random.randrange(6), K - 1) for _ in x]),
    "numpy": lambda x, y: torch.from_numpy(np.random.randint(0, K, len(x))),
    "numpy's choice": lambda x, y: torch.as_tensor(np.random.choice(K, len(x), p=[0.5, 0.25, 0.25])),
}
MADE: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "in place": lambda x, y: torch.empty(len(x), dtype=torch.long).random_(0, K),
    "by weights": lambda x, y: torch.multinomial(torch.ones(K), len(x), replacement=True),
    "uniform": lambda x, y: torch.zeros(len(x)).uniform_(0, K).long(),
}


@pytest.mark.parametrize("targets", DRAWS.values(), ids=DRAWS.keys())
def test_targets_that_a_step_draws_outside_torch_raise_after_a_hundred(tmp_path: Path, targets: Any) -> None:
    module = Targets(targets)
    with pytest.raises(CaptureError, match=r"nothing to do with the labels of the batch.*`capture="):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=of_many)
    assert len(module.seen) == 4  # of 30 samples


@pytest.mark.parametrize("targets", MADE.values(), ids=MADE.keys())
def test_targets_that_a_step_draws_by_torch_raise_in_the_first_batch(tmp_path: Path, targets: Any) -> None:
    module = Targets(targets)
    with pytest.raises(CaptureError, match="numbers that the step itself makes"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=of_many)
    assert len(module.seen) == 1


def jittered(function: Callable[[Tensor, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """Draw numbers, as for an augmentation, before the targets are made."""

    def targets(x: Tensor, y: Any) -> Tensor:
        random.random(), np.random.rand(len(x))
        return function(x, y)

    return targets


def assert_recorded(monitor: TrainingDynamicsMonitor, module: Classifier) -> None:
    """Compare with the mean of the margins that the module remembers of each sample."""
    margins: list[list[float]] = [[] for _ in range(COUNT)]
    for _, index, logits, targets in module.seen:
        for i, z, k in zip(index, logits.tolist(), targets.tolist(), strict=True):
            margins[i].append(z[k] - max(z[:k] + z[k + 1 :]))
    expected = [sum(values) / len(values) for values in margins]
    np.testing.assert_allclose(monitor.statistics().margin, expected, rtol=1e-5, atol=1e-6)


CLASS_OF = {0: 2, 1: 0, 2: 1}
LABELS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "the labels": jittered(lambda x, y: y.clone()),
    "a table": jittered(lambda x, y: torch.tensor([CLASS_OF[int(k)] for k in y])),
    "by torch from images": jittered(lambda x, y: x[:, 0, 0, 0].long() % K),
    "by numpy from images, nothing drawn": lambda x, y: torch.from_numpy(x[:, 0, 0, 0].numpy().astype(int) % K),
}


@pytest.mark.parametrize("targets", LABELS.values(), ids=LABELS.keys())
def test_labels_of_samples_beside_other_random_numbers_are_recorded(tmp_path: Path, targets: Any) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=Targets(targets), data=of_many, max_epochs=2)
    assert_recorded(monitor, module)


class Named(Dataset[Any]):
    """Samples with a name, and a label that is not what is trained on."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Any:
        return {"x": images(COUNT)[i], "label": i // 7 % 2, "name": f"{i}.png"}


def test_labels_that_are_looked_up_by_name_are_recorded(tmp_path: Path) -> None:
    class LooksUp(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            random.random()
            y = torch.tensor([int(name.removesuffix(".png")) % K for name in batch["name"]])
            return super().training_step((batch["x"], y), batch_idx)

    monitor = TrainingDynamicsMonitor(history=False)
    data = lambda: loader(Named(), batch_size=30)  # noqa: E731
    module = fit(tmp_path, monitor, model=LooksUp(), data=data, max_epochs=2)
    assert_recorded(monitor, module)


def test_one_column_of_independent_numbers_is_unrelated_and_a_noisy_copy_is_not() -> None:
    draw = random.Random(1)
    label = [draw.randrange(4) for _ in range(200)]
    noisy = [draw.randrange(4) if draw.random() < 0.5 else value for value in label]
    assert not are_unrelated(label, noisy)
    assert not are_unrelated(list(range(200)), label)  # no label occurs twice
    assert not are_unrelated(label[:50], label[50:100])  # too few
    independent = [are_unrelated(label, [draw.randrange(4) for _ in label]) for _ in range(200)]
    assert sum(independent) >= 190
