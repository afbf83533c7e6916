"""Callbacks for every Trainer without a change to the script: Lightning asks an entry point for them."""

import os

from dynalens.callbacks.attribution import AttributionMonitor
from dynalens.callbacks.training_dynamics import TrainingDynamicsMonitor
from dynalens.host import CallbackBase

VARIABLE = "DYNALENS"
NAME = "environment"
"""Name of these monitors, so that they and those of the script have folders, tags and states of their own."""

_MONITORS: dict[str, type[TrainingDynamicsMonitor] | type[AttributionMonitor]] = {
    "dynamics": TrainingDynamicsMonitor,
    "attribution": AttributionMonitor,
}


def callbacks_from_environment() -> list[CallbackBase]:
    """Return the monitors that the environment variable ``DYNALENS`` asks for, with their default arguments.

    Its values: ``dynamics``, ``attribution``, or both with a comma between them; empty or unset for none. The entry
    points ``lightning.pytorch.callbacks_factory`` and ``pytorch_lightning.callbacks_factory`` lead here, so that
    ``DYNALENS=dynamics python train.py`` records a run. Files are in ``<log_dir>/dynalens/environment/``.

    Raises:
        ValueError: If the variable names another monitor.

    Example:
        >>> os.environ["DYNALENS"] = "dynamics"
        >>> [type(callback).__name__ for callback in callbacks_from_environment()]
        ['TrainingDynamicsMonitor']
        >>> del os.environ["DYNALENS"]
        >>> callbacks_from_environment()
        []
    """
    asked = [part.strip() for part in os.environ.get(VARIABLE, "").split(",") if part.strip()]
    unknown = sorted(set(asked) - _MONITORS.keys())
    if unknown:
        raise ValueError(
            f"Expected the environment variable {VARIABLE} to name among {', '.join(_MONITORS)}, got {unknown}. "
            "Correct it, or unset it to train without dynalens."
        )
    return [monitor(name=NAME) for key, monitor in _MONITORS.items() if key in asked]
