"""The claims of the sources: the rules by hand, and every table on a few images."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dynalens import TrainingDynamics

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from reproduce import data_maps, forgetting, mislabeled
from reproduce.__main__ import main
from reproduce.training import Recorded, spread
from suspects import late_learned


def recorded(right: list[list[bool]], margins: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Recorded:
    """A record where sample i is predicted right in epoch e as the table says, with that epoch's margin."""
    dynamics = TrainingDynamics(len(right))
    targets = torch.zeros(len(right), dtype=torch.int64)
    for epoch, margin in enumerate(margins):
        signs = torch.tensor([[1.0 if row[epoch] else -1.0] for row in right])
        dynamics.update(range(len(right)), torch.cat([margin * signs, torch.zeros(len(right), 1)], dim=1), targets)
        dynamics.end_epoch(epoch)
    return Recorded(dynamics.compute(), None, np.array(right), 0.0)  # type: ignore[arg-type]  # no rule reads the table


NEVER, LATE, ALWAYS, FORGOTTEN = [False] * 3, [False, False, True], [True] * 3, [True, False, True]


def test_a_sample_that_was_never_learned_counts_as_forgotten_most() -> None:
    assert forgetting.least_forgotten_first(recorded([NEVER, FORGOTTEN, LATE, ALWAYS])).tolist() == [3, 2, 1, 0]


def test_never_forgotten_are_those_that_were_learned() -> None:
    assert forgetting.never_forgotten(recorded([NEVER, FORGOTTEN, LATE, ALWAYS])) == 0.5


def test_regions_are_thirds_of_the_data_map() -> None:
    regions = data_maps.regions(recorded([NEVER, FORGOTTEN, ALWAYS]), seed=0)
    assert {name: rows.tolist() for name, rows in regions.items() if name != "at random"} == {
        "ambiguous": [1],
        "easy": [2],
        "hard": [0],
    }


def test_the_late_rule_skips_what_was_never_right() -> None:
    # 99 samples right from epoch 0 on have a mean epoch of 1; one that is right in epoch 2 alone has 2.
    # Their mean is 1.01 and their deviation 0.0995: the bound is 1.51.
    right = np.array([ALWAYS] * 99 + [LATE] + [NEVER])
    assert np.flatnonzero(late_learned(right)[1]).tolist() == [99]


def test_recall_and_precision_are_fractions_of_the_wrong_and_of_the_flagged() -> None:
    flags, wrong = np.array([True, True, False, False, True]), np.array([True, False, True, True, False])
    assert mislabeled.recall_and_precision(flags, wrong) == (1 / 3, 1 / 3)
    assert mislabeled.recall_and_precision(np.zeros(5, bool), wrong) == (0, 0)


def test_the_spread_is_half_the_width_of_students_interval() -> None:
    # Deviation 0.0141, two seeds: 12.706 * 0.0141 / sqrt(2) = 0.127.
    assert spread([0.5, 0.52]) == "51.0 ± 12.7"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
def test_every_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200).astype(np.uint8)
    images = (80 * labels[:, None, None] + rng.integers(0, 90, (200, 12, 12))).astype(np.uint8)
    np.savez(tmp_path / "mnist10k.npz", images=images, labels=labels)
    main(["--data", str(tmp_path), "--sets", "mnist", "--seeds", "2", "--epochs", "2", "--samples", "150"])
    out = capsys.readouterr().out
    for line in ("| ambiguous |", "| 80% |", "| 20% |", "InterpretDL's, on this run", "`flagged` at precision 0.8"):
        assert line in out
