"""The arguments of callbacks, and the settings that hold them."""

from typing import Any

import pytest

from dynalens import AttributionMonitor, LayerMonitor, TrainingDynamicsMonitor


@pytest.mark.parametrize(
    ("monitor", "arguments"),
    [
        (
            TrainingDynamicsMonitor,
            {
                "views": 2, "history": False, "mean_probabilities": 0.5, "name_of": str, "save_dir": "here", "top_k": 3,
                "decode": str,
                "features": "head", "projector_every_n_epochs": 2, "audit": 9, "log_every_n_epochs": 4,
                "max_overhead": 0.5, "x_axis": "epoch", "name": "own", "class_names": ["cat", "dog"],
            },
        ),
        (
            AttributionMonitor,
            {
                "methods": ("saliency",), "method_args": {"saliency": {}}, "metrics": ("deletion",), "baseline": "zero",
                "steps": 3, "patch_size": 2, "precision": "bfloat16", "seed": 4, "num_samples": 2, "samples": [5, 6],
                "suspects": 1, "target": "prediction", "inputs": ("x", "y"), "forward": print, "decode": str,
                "target_layer": "body", "contrast": None, "every_n_epochs": 2, "max_overhead": 0.5, "x_axis": "epoch",
                "name": "own", "on_error": "raise",
            },
        ),
        (
            LayerMonitor,
            {
                "layer": "body", "channels": [1, 2], "weights": True, "feature_maps": 1, "top_inputs": 2,
                "maximise": "classes", "classes": [0], "maximise_steps": 3, "inputs": "x", "forward": print,
                "every_n_epochs": 2, "max_overhead": 0.5, "x_axis": "epoch", "name": "own", "on_error": "raise",
            },
        ),
    ],
)  # fmt: skip
def test_arguments_of_a_monitor_are_its_attributes(monitor: Any, arguments: dict[str, Any]) -> None:
    built = monitor(**arguments)
    assert {name: getattr(built, name) for name in arguments} == arguments


@pytest.mark.parametrize(
    ("monitor", "argument", "value", "kept", "message"),
    [
        (AttributionMonitor(), "every_n_epochs", 0, 1, "Expected `every_n_epochs` to be at least 1, got 0"),
        (LayerMonitor(weights=True), "max_overhead", 0, 0.05, "Expected `max_overhead`"),
        (AttributionMonitor(), "precision", "float8", "auto", "Expected `precision` to be one of float32"),
        (TrainingDynamicsMonitor(), "projector_every_n_epochs", 2, None, "Expected `features` to name a layer"),
    ],
    ids=["number", "fraction", "word", "combination"],
)
def test_an_attribute_of_a_monitor_is_checked_as_its_argument_is(
    monitor: Any, argument: str, value: Any, kept: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        setattr(monitor, argument, value)
    assert getattr(monitor, argument) == kept


def test_an_attribute_of_a_monitor_can_be_set_to_what_its_argument_may_be() -> None:
    monitor = AttributionMonitor()
    monitor.every_n_epochs = 3
    assert (monitor.every_n_epochs, monitor.max_overhead) == (3, 0.05)
