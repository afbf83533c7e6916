"""Masked classes are no rivals, whichever number masks them."""

import numpy as np
import pytest
import torch

from dynalens import TrainingDynamics


def recorded(logits: torch.Tensor, targets: list[int]) -> TrainingDynamics:
    dynamics = TrainingDynamics(len(targets))
    dynamics.update(list(range(len(targets))), logits, torch.tensor(targets))
    dynamics.end_epoch(0)
    return dynamics


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [
        (-torch.inf, torch.float32), (torch.finfo(torch.float32).min, torch.float32), (-1e9, torch.float32),
        (torch.finfo(torch.bfloat16).min, torch.bfloat16), (torch.finfo(torch.float16).min, torch.float16),
        (torch.finfo(torch.float64).min, torch.float64),
    ],
)  # fmt: skip
def test_a_class_alone_has_the_margin_of_certainty_and_a_masked_label_is_not_counted(
    fill: float, dtype: torch.dtype
) -> None:
    logits = torch.tensor([[2.0, fill, fill], [2.0, 0.5, fill], [fill, 1.0, 0.0]], dtype=dtype)
    statistics = recorded(logits, [0, 0, 0]).compute()
    np.testing.assert_allclose(statistics.margin, [24 * np.log(2), 1.5, np.nan])
    np.testing.assert_allclose(statistics.confidence, [1, 1 / (1 + np.exp(-1.5)), np.nan], rtol=1e-6)
    assert statistics.presentations.tolist() == [1, 1, 0]


def test_large_logits_of_inputs_that_nobody_scaled_are_no_masks() -> None:
    statistics = recorded(torch.tensor([[4e6, -4e6], [-4e6, 4e6]]), [0, 0]).compute()
    assert statistics.margin.tolist() == [8e6, -8e6]
