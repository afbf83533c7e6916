"""Which samples can be left out, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynalens import SampleStatistics, TrainingDynamics, TrainingDynamicsMonitor, removable
from training import Classifier, N, dataset, fit, loader

# Margins of eight samples in three epochs; None where a sample is not seen.
MARGINS: list[list[float | None]] = [
    [1.0, 1.0, 1.0],  # 0: learned in epoch 0, mean margin 1
    [-1.0, 3.0, 4.0],  # 1: learned in epoch 1, mean margin 2
    [2.0, 2.0, 2.0],  # 2: learned in epoch 0, mean margin 2
    [5.0, -1.0, 5.0],  # 3: forgotten once
    [-1.0, -1.0, -1.0],  # 4: never learned
    [None, None, None],  # 5: never seen
    [1.0, 1.0, 1.0],  # 6: as 0
    [-1.0, 0.0, 9.0],  # 7: learned in epoch 2, as a tie is wrong
]


def statistics() -> SampleStatistics:
    dynamics = TrainingDynamics(len(MARGINS))
    for epoch in range(3):
        seen = [(i, margins[epoch]) for i, margins in enumerate(MARGINS) if margins[epoch] is not None]
        logits = torch.tensor([[margin, 0.0] for _, margin in seen])
        dynamics.update([i for i, _ in seen], logits, torch.zeros(len(seen), dtype=torch.int64))
        dynamics.end_epoch(epoch)
    return dynamics.compute()


# Seven were seen; the order is by first learned epoch, then mean margin, then index.
@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0, []), (1 / 7, [2]), (0.5, [2, 0, 6]), (4 / 7, [2, 0, 6, 1]), (5 / 7, [2, 0, 6, 1, 7])],
)
def test_never_forgotten_samples_are_ordered_by_their_first_learned_epoch(fraction: float, expected: list[int]) -> None:
    assert removable(statistics(), fraction).tolist() == expected


def test_a_fraction_that_rounding_leaves_just_below_a_number_is_that_number() -> None:
    dynamics = TrainingDynamics(100)
    dynamics.update(range(100), torch.tensor([[1.0, 0.0]]).expand(100, 2), torch.zeros(100, dtype=torch.int64))
    dynamics.end_epoch(0)
    assert int(0.29 * 100) == 28
    assert removable(dynamics.compute(), 0.29).tolist() == list(range(29))


def test_a_fraction_above_the_share_of_never_forgotten_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`fraction` to be at most 0\.714, the share of the 7 samples that"):
        removable(statistics(), 0.9)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_out_of_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"Expected `fraction` to be in \[0, 1\], got"):
        removable(statistics(), fraction)


def test_a_record_without_presentations_has_nothing_to_remove() -> None:
    assert removable(TrainingDynamics(3).compute(), 0.5).tolist() == []


class Named(torch.utils.data.Dataset[Any]):
    """Samples with an id of their own."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return (*dataset()[i], f"sample {i}")


def test_a_monitor_returns_ids(tmp_path: Path) -> None:
    by_position, by_name = TrainingDynamicsMonitor(name="a"), TrainingDynamicsMonitor(index=lambda b: b[2], name="b")

    class Three(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[:2], batch_idx)

    torch.manual_seed(0)
    fit(tmp_path, by_position, by_name, model=Three(), data=lambda: loader(Named()), max_epochs=4)
    share = float((by_position.table()["learned"] & (by_position.table()["forgetting_events"] == 0)).mean())
    assert share > 0.1
    positions = by_position.removable(share)
    assert (
        sorted(positions)
        == np.flatnonzero(by_position.statistics().learned & (by_position.statistics().forgetting_events == 0)).tolist()
    )
    names = by_name.removable(share)
    assert {f"sample {i}" for i in positions} == set(names)
