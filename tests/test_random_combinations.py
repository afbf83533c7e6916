"""Random combinations of what a training may be made of: the record is exact, or the first batch says why not."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from combinations import Combined, data_of, drawn, may_raise
from dynalens import CaptureError, SampleIdentityError, TrainingDynamicsMonitor
from test_losses import assert_equals_the_definitions
from training import N, fit

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata calls it
    pytest.mark.filterwarnings("ignore:.*training_step.* returned .None."),
    pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU"),
]
COUNT = int(os.environ.get("DYNALENS_TEST_COMBINATIONS", "60"))
FIRST = int(os.environ.get("DYNALENS_TEST_FIRST_COMBINATION", "0"))
"""Every combination is drawn from its number: these are the ones from here on."""


def trained(folder: Path, module: Combined, number: int, *monitors: Any) -> Tensor:
    """Train, and return the state of the random numbers at the end."""
    fit(folder, *monitors, model=module, data=lambda: data_of(module.case), max_epochs=2, **module.case.options)
    return torch.get_rng_state()


def unit_margins(z: Tensor, y: Tensor) -> Tensor:
    """Return the margin of each unit of a sample: of labels (K,) with their bits, or of tokens (K, T) with classes."""
    if z.ndim == 1:
        return (2 * y - 1) * z
    others = [torch.cat([z[: int(k), t], z[int(k) + 1 :, t]]).max() for t, k in enumerate(y)]
    return torch.stack([z[int(k), t] - other for (t, k), other in zip(enumerate(y), others, strict=True)])


def assert_units(statistics: Any, seen: Any) -> None:
    """Compare with a record of samples whose targets are no classes, made one presentation at a time, in float64."""
    histories: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for _, index, logits, targets in seen:
        for i, z, y in zip(index, logits.double(), targets.double(), strict=True):
            histories.setdefault(i, []).append((z, y))
    assert statistics.presentations.tolist() == [len(histories.get(i, [])) for i in range(N)]
    for i, history in histories.items():
        if history[0][0].ndim == 0:  # numbers
            tolerance = float(statistics.tolerance[i])
            assert statistics.target[i] == pytest.approx(float(history[0][1]))
            # A prediction that equals its target, as in half precision, has the largest margin: log(2^24).
            margins = [min(float((tolerance / (z - y).abs()).log()), 24 * math.log(2)) for z, y in history]
            assert statistics.margin[i] == pytest.approx(sum(margins) / len(margins), rel=1e-3, abs=1e-3)
            continue
        units = [unit_margins(z, y) for z, y in history]
        assert statistics.margin[i] == pytest.approx(
            sum(float(m.min()) for m in units) / len(units), rel=1e-4, abs=1e-5
        )
        assert statistics.correctness[i] == pytest.approx(
            sum(float((m > 0).double().mean()) for m in units) / len(units)
        )
        losses = [
            F.softplus(-m).mean() if z.ndim == 1 else F.cross_entropy(z.T, y.long())
            for m, (z, y) in zip(units, history, strict=True)
        ]
        assert statistics.loss[i] == pytest.approx(float(sum(losses)) / len(losses), rel=1e-4)


@pytest.mark.parametrize("number", range(FIRST, FIRST + COUNT))
def test_a_random_combination_gives_the_exact_record_or_one_error_in_the_first_batch(
    tmp_path: Path, number: int
) -> None:
    monitor, case = TrainingDynamicsMonitor(history=False), drawn(number)
    torch.manual_seed(number)
    modules = Combined(case), Combined(case)
    modules[1].load_state_dict(modules[0].state_dict())
    try:
        random_state = trained(tmp_path / "with", modules[0], number, monitor)
    except (SampleIdentityError, CaptureError, ValueError) as error:
        # Where the first batches hold one class, or the same ones in both orders, only the whole epoch tells.
        first = {epoch for epoch, *_ in modules[0].seen} <= {0} or len(modules[0].seen) <= 3
        if may_raise(case) and first and str(error).startswith("Expected"):
            return
        raise
    compare = assert_units if case.has_units else assert_equals_the_definitions
    compare(monitor.statistics(), modules[0].seen)
    assert torch.equal(random_state, trained(tmp_path / "without", modules[1], number))
    for key, value in modules[1].state_dict().items():
        assert torch.equal(value, modules[0].state_dict()[key]), key
