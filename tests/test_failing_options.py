"""A fit ends bit-identical to one without callbacks, with one warning, where the helper of an option fails."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynalens import TrainingDynamicsMonitor
from test_concepts import monitor as concept_monitor
from test_undisturbed_training import differences, final_state, run
from training import attribution_monitor


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("on purpose")


def fails_in_training_mode(model: Any, images: Tensor) -> Any:
    """Run in another mode on random inputs, and fail."""
    model.train()(images + torch.rand(()))
    fails()


def maps(**options: Any) -> Any:
    return attribution_monitor(**({"methods": "saliency", "metrics": (), "num_samples": 2} | options))


OPTIONS: dict[str, tuple[str | None, Callable[[], Any]]] = {
    "concepts": (None, lambda: concept_monitor(layer="net.6", forward=fails_in_training_mode, on_error="warn")),
    "attacks": ("robustness.attacks._smallest", lambda: maps(robustness=("fgsm",))),
    "corruptions": ("explanations.robustness.corrupted_margins", lambda: maps(robustness=("blur",))),
    "consensus": ("explanations.comparison.normalised", lambda: maps(metrics=("consensus",))),
    "masks": (None, lambda: maps(metrics=("pointing_game",), masks=fails)),
    "similar": ("logs.dynamics_log._similar", lambda: TrainingDynamicsMonitor(features="net.6", similar=2)),
    "gradient noise": ("dynamics.GradientNoise.update", lambda: TrainingDynamicsMonitor(gradient_noise="net.8")),
    "prototypes": (
        "logs.dynamics_log.class_examples",
        lambda: TrainingDynamicsMonitor(features="net.6", prototypes=2),
    ),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return final_state(*run(tmp_path_factory.mktemp("bare"), [], manual=False, error=None))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_fit_whose_option_fails_ends_as_without_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Any, option: str
) -> None:
    place, callback = OPTIONS[option]
    if place is not None:
        monkeypatch.setattr(f"dynalens.{place}", fails)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched = final_state(*run(tmp_path, [callback()], manual=False, error=None))
    messages = [str(each.message) for each in caught if "on purpose" in str(each.message)]
    assert len(messages) == 1
    assert differences(bare, watched) == []
