"""What touches Lightning beyond its documented callback hooks: one place, for both of its packages."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info

if TYPE_CHECKING:
    CallbackBase = pl.Callback
else:
    # `pytorch_lightning` and `lightning.pytorch` hold two copies of every class, and each checks against its own.
    try:
        from lightning.pytorch import Callback as _OtherCallback
    except ImportError:
        _OtherCallback = pl.Callback
    CallbackBase = type("CallbackBase", tuple(dict.fromkeys((pl.Callback, _OtherCallback))), {})

X_AXES = ("step", "epoch")


def check_x_axis(x_axis: str) -> str:
    """Return ``x_axis``, or raise a ValueError if it is none."""
    if x_axis not in X_AXES:
        raise ValueError(f"Expected `x_axis` to be 'step' or 'epoch', got {x_axis!r}. Choose one of them.")
    return x_axis


def refuse_processes(trainer: Any, who: str) -> None:
    """Raise where several processes train: their records are not merged."""
    if trainer.world_size > 1:
        raise MisconfigurationException(
            f"Expected {who} to run in one process, got {trainer.world_size} of them. Train with `devices=1`: "
            "a record of one process's share would be wrong without a sign of it."
        )


def log_step(trainer: Any, x_axis: str) -> int:
    """Return the step at which Lightning itself logs an epoch's metrics, or the epoch."""
    if x_axis == "epoch":
        return int(trainer.current_epoch)
    # `global_step` counts every optimizer; the logger connector uses this counter.
    stepped = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)
    return max(0, int(stepped) - 1)


def log_scalars(trainer: Any, values: Mapping[str, float], step: int) -> None:
    """Send the finite values to each of the Trainer's loggers."""
    finite = {tag: float(value) for tag, value in values.items() if math.isfinite(value)}
    for logger in trainer.loggers:
        logger.log_metrics(finite, step=step)


def tensorboard_writer(trainer: Any) -> Any:
    """Return the SummaryWriter of the Trainer's first TensorBoardLogger, or None."""
    for logger in trainer.loggers:
        # By name: the two packages' loggers are different classes.
        if any(cls.__name__ == "TensorBoardLogger" for cls in type(logger).__mro__):
            return logger.experiment
    return None


def picture_loggers(trainer: Any) -> list[Any]:
    """Return the loggers that take pictures: those with a method ``log_image``, as Lightning's for W&B has it."""
    return [logger for logger in trainer.loggers if callable(getattr(logger, "log_image", None))]


def chart_layouts(trainer: Any) -> list[Any]:
    """Return the custom charts of all monitors of the Trainer; each is asked, because a run has one layout."""
    asked = (getattr(callback, "tensorboard_layout", None) for callback in trainer.callbacks)
    return [layout() for layout in asked if callable(layout)]


def run_folder(trainer: Any, name: str | None) -> Path:
    """Return ``<log_dir>/dynalens`` or ``<log_dir>/dynalens/<name>``; must be called in every process."""
    folder = Path(trainer.log_dir or trainer.default_root_dir) / "dynalens"
    return folder / name if name else folder


def tag_prefix(name: str | None) -> str:
    """Return what a monitor's tags begin with."""
    return f"dynalens/{name}" if name else "dynalens"


def announce(message: str) -> None:
    """Tell the user once, where Lightning itself says what it does."""
    rank_zero_info(message)
