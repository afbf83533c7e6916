"""Callbacks for every Trainer without a change to the script: Lightning asks an entry point for them."""

import functools
import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, cast

from dynalens.callbacks.attribution import AttributionMonitor
from dynalens.callbacks.concepts import ConceptMonitor
from dynalens.callbacks.layers import LayerMonitor
from dynalens.callbacks.training_dynamics import TrainingDynamicsMonitor
from dynalens.host import CallbackBase, run_folder
from dynalens.notices import warn
from dynalens.paths import missing_argument, resolved

VARIABLE = "DYNALENS"
NAME = "environment"
"""Name of these monitors, so that they and those of the script have folders, tags and states of their own."""

_HOOKS = (
    "setup", "load_state_dict", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_backward",
    "on_train_batch_end", "on_validation_epoch_start", "on_validation_batch_start", "on_validation_batch_end",
    "on_validation_end", "on_train_epoch_end", "on_train_end", "teardown", "state_dict", "on_exception",
)  # fmt: skip
"""In which the monitors work."""


class Unasked(CallbackBase):
    """A monitor that the script does not know of: what it cannot do it says once in a fit, and training goes on.

    Several Trainers of a script may be given one list of callbacks, which Lightning extends: the newest monitor in it
    works, and the earlier ones do nothing. Where several would write to one folder, the later ones have a number in
    their names.
    """

    name: str | None
    _num_monitors: ClassVar[int]
    _writers: ClassVar[dict[Path, int]]
    """Number of the monitor that writes to a folder."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._num_monitors, cls._writers = 0, {}
        cls.__name__ = cls.__mro__[2].__name__  # shown to users; pickles use the qualified name
        for hook in _HOOKS:
            setattr(cls, hook, _guarded_hook(getattr(super(), hook)))

    def __init__(self) -> None:
        super().__init__(name=NAME)  # type: ignore[call-arg]  # of the monitor that stands beside this class
        self.enrol()

    def enrol(self) -> None:
        """Count this monitor as the newest of its class."""
        type(self)._num_monitors += 1
        self._number = type(self)._num_monitors
        self.idle = False

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint; that of the newest monitor is the same in each run of a script."""
        newest = self._number >= type(self)._num_monitors
        return self._generate_state_key(name=NAME if newest else f"{NAME}-{self._number}")

    def begin(self, trainer: Any) -> None:
        """Decide whether to work in this fit, and under which name."""
        siblings = [callback for callback in trainer.callbacks if type(callback) is type(self)]
        self.idle = siblings[-1] is not self
        if self.idle:
            return
        folder = run_folder(trainer, NAME)
        for name in itertools.chain([NAME], (f"{NAME}-{number}" for number in itertools.count(2))):
            if self._writers.setdefault(folder.with_name(name), self._number) == self._number:
                self.name = name
                return

    def give_up(self, error: Exception) -> None:
        """Say what went wrong, undo what was installed, and do nothing until the next fit."""
        self.idle = True
        warn(
            f"The callbacks that {VARIABLE} names are switched off in this fit, training goes on: "
            f"{type(error).__name__}: {error}"
        )
        with suppress(Exception):
            super().on_exception(cast("Any", None), cast("Any", None), error)


def _guarded_hook(hook: Callable[..., Any]) -> Callable[..., Any]:
    name = hook.__name__

    @functools.wraps(hook)
    def call(self: Unasked, *args: Any, **kwargs: Any) -> Any:
        try:
            if name == "setup" and "fit" in (*args, *kwargs.values()):
                self.begin(args[0])
            if not self.idle:
                return hook(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever it is, the script's training is not ours to end
            self.give_up(error)
        return {} if name == "state_dict" else None

    return call


class UnaskedDynamics(Unasked, TrainingDynamicsMonitor):
    """A TrainingDynamicsMonitor that never ends a fit."""


class UnaskedAttribution(Unasked, AttributionMonitor):
    """An AttributionMonitor that never ends a fit."""


class UnaskedLayers(Unasked, LayerMonitor):
    """A LayerMonitor that never ends a fit."""


class UnaskedConcepts(Unasked, ConceptMonitor):
    """A ConceptMonitor that never ends a fit."""


_MONITORS: dict[str, type[Unasked]] = {"dynamics": UnaskedDynamics, "attribution": UnaskedAttribution}
_GUARDED: dict[type, type[Unasked]] = {
    cls.__mro__[2]: cls for cls in (UnaskedDynamics, UnaskedAttribution, UnaskedLayers, UnaskedConcepts)
}


def callbacks_from_environment() -> list[CallbackBase]:
    """Return the monitors that the environment variable ``DYNALENS`` asks for.

    Its values, with commas between several: ``dynamics`` and ``attribution``, with their default arguments, and dotted
    paths of callables without arguments that return a monitor, such as a ConceptMonitor, which has no defaults. Empty
    or unset for none. The entry points ``lightning.pytorch.callbacks_factory`` and
    ``pytorch_lightning.callbacks_factory`` lead here, so that ``DYNALENS=dynamics python train.py`` records a run.
    Files are in ``<log_dir>/dynalens/environment/``, those of a second Trainer with the same ``log_dir`` in
    ``environment-2``. A fit that they cannot follow, as one without classes, goes on with one warning.

    Raises:
        ValueError: If the variable names another monitor, or a callable returns none.

    Example:
        >>> os.environ["DYNALENS"] = "dynamics"
        >>> [type(callback).__name__ for callback in callbacks_from_environment()]
        ['TrainingDynamicsMonitor']
        >>> del os.environ["DYNALENS"]
        >>> callbacks_from_environment()
        []
    """
    keys = [part.strip() for part in os.environ.get(VARIABLE, "").split(",") if part.strip()]
    callables = {key: resolved(key) for key in keys if key not in _MONITORS}
    unknown_keys = sorted(key for key, value in callables.items() if not callable(value))
    if unknown_keys:
        raise ValueError(
            f"Expected the environment variable {VARIABLE} to name some of {', '.join(_MONITORS)}, or dotted paths "
            f"of callables that can be imported, got {unknown_keys}. Correct it, or unset it to train without "
            "dynalens."
        )
    own_monitors = [monitor() for key, monitor in _MONITORS.items() if key in keys]
    return [*own_monitors, *(_guarded_monitor(key, make) for key, make in callables.items())]


def _guarded_monitor(key: str, make: Callable[[], Any]) -> CallbackBase:
    """Return the monitor that a callable makes, as a class whose errors do not end a fit."""
    argument = missing_argument(make)
    if argument is not None:
        raise ValueError(
            f"Expected {key} of {VARIABLE} to be a callable without arguments, got one with some: {argument}. Write a "
            "function that returns the monitor, and name it."
        )
    monitor = make()
    guarded_class = _GUARDED.get(type(monitor))
    if guarded_class is None:
        raise ValueError(
            f"Expected {key} of {VARIABLE} to return a monitor of dynalens, got {type(monitor).__name__}. Return one "
            f"of {', '.join(cls.__name__ for cls in _GUARDED)}."
        )
    monitor.__class__, monitor.name = guarded_class, NAME
    monitor.enrol()
    return cast("CallbackBase", monitor)
