"""All code that touches Lightning beyond the documented hooks of callbacks, for both of its packages."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler

from dynalens.notices import warn

if TYPE_CHECKING:
    CallbackBase = pl.Callback
else:
    # `pytorch_lightning` and `lightning.pytorch` hold two copies of every class, and each checks against its own.
    try:
        from lightning.pytorch import Callback as _OtherCallback
    except ImportError:
        _OtherCallback = pl.Callback
    CallbackBase = type("CallbackBase", tuple(dict.fromkeys((pl.Callback, _OtherCallback))), {})

_FAILED: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""Loggers that did not take numbers, which was said once."""
_SHARDED = {"DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy"}

Array = npt.NDArray[Any]


def check_data_parallel(trainer: Any, asker: str) -> None:
    """Raise if processes share their batches: each presentation would be counted more than once."""
    sampling: Mapping[str, int] = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    replicas = sampling.get("num_replicas", trainer.world_size)
    if replicas != trainer.world_size:
        raise MisconfigurationException(
            f"Expected `strategy` to give each process batches of its own, because {asker} counts the samples of every "
            f"process, got {type(trainer.strategy).__name__}, where {trainer.world_size} processes train on "
            f"{replicas} parts of the data. Train without tensor parallelism, or leave {asker} out."
        )


def check_whole_model(trainer: Any, asker: str) -> None:
    """Raise if a process does not hold the whole model, and so cannot run it alone."""
    # By name: the two packages' strategies are different classes.
    sharding_classes = {cls.__name__ for cls in type(trainer.strategy).__mro__} & _SHARDED
    if sharding_classes:
        raise MisconfigurationException(
            f"Expected `strategy` to keep the whole model in each process, because {asker} runs it in one process, got "
            f"{type(trainer.strategy).__name__}. Train with DDP, or explain the trained model with `dynalens.explain`."
        )


class Processes:
    """The processes that train together: they merge their presentations, and agree on errors.

    All methods are collective: all processes have to call them. A single process never waits.

    Args:
        trainer: The Trainer, after Lightning has set up its processes.
    """

    def __init__(self, trainer: Any) -> None:
        self.number: int = trainer.world_size
        self.is_first: bool = trainer.is_global_zero
        self._strategy = trainer.strategy
        self._step_error: Exception | None = None
        self._has_agreed = False

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes on the CPU, by rank. Their first dimensions may differ."""
        if self.number == 1:
            return [tensor.cpu()]
        local = tensor.to(self._device())
        sizes = [int(size) for size in self._all_gather(torch.tensor([len(local)], device=local.device))]
        if not max(sizes):
            return [tensor.cpu() for _ in sizes]
        padded_values = local.new_zeros(max(sizes), *local.shape[1:])
        padded_values[: len(local)] = local
        return [part[:size].cpu() for part, size in zip(self._all_gather(padded_values), sizes, strict=True)]

    def any(self, value: bool) -> bool:
        """Return whether a value is true in any process."""
        return value if self.number == 1 else any(bool(flag) for flag in self.gather(torch.tensor([value])))

    def agree(self, error: Exception | None) -> None:
        """Raise in all processes if one of them has an error, so that none waits for a process that has ended.

        Raises:
            RuntimeError: With the message of the first process that failed; that process raises its own error.
        """
        text = "" if error is None else f"{type(error).__name__}: {error}"
        messages = self.gather(torch.tensor(list(text.encode()), dtype=torch.uint8))
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if len(message):
                message_text = bytes(message.tolist()).decode()
                raise RuntimeError(
                    f"Expected all {self.number} processes to go on, got an error in process {rank}: {message_text} "
                    "The other processes stop because of this one."
                )

    def run_in_all(self, action: Callable[[], None]) -> None:
        """Do something in each process. If it fails in one, raise in all."""
        error: Exception | None = None
        try:
            action()
        except Exception as raised:
            if self.number == 1:
                raise
            error = raised
        self.agree(error)

    def in_step(self, action: Callable[[], None]) -> None:
        """Do something in each process at each step, until it fails in this one. The first error is kept.

        An error in the first step is raised at once. Later, the other processes would wait for this one, so its error
        is raised in :meth:`end_steps`.
        """
        if self._step_error is None:
            try:
                action()
            except Exception as error:
                if self.number == 1:
                    raise
                self._step_error = error
        if not self._has_agreed:
            self.agree(self._step_error)
            self._has_agreed = True

    def end_steps(self, action: Callable[[], None]) -> None:
        """Do something in each process after the steps of an epoch. If it or a step has failed in one, raise in all."""

        def act() -> None:
            if self._step_error is not None:
                raise self._step_error
            action()

        self.run_in_all(act)

    def in_first(self, action: Callable[[], None]) -> None:
        """Do something in the first process. If it fails, raise in all."""
        self.run_in_all(action if self.is_first else lambda: None)

    def merge(self, index: Array, rows: Array, step: Array) -> tuple[Array, Array]:
        """Return the presentations of all processes, ordered by step, then rank, then position in the batch.

        Args:
            index: Shape ``(n,)``, dataset index of this process's presentations.
            rows: Shape ``(R, n)``, the recorded numbers of the presentations.
            step: Shape ``(n,)``, the step of each presentation.
        """
        if self.number == 1:
            return index, rows
        every_step = np.concatenate(self._gather_array(step))
        indices = self._gather_array(index)
        # Flat, because a process without presentations does not know how many numbers the others have of each.
        flat = self._gather_array(rows.T.ravel())
        if not len(every_step):
            return index, rows
        every_index = np.concatenate(indices)
        every_row = np.concatenate([part for part in flat if len(part)]).reshape(len(every_index), -1)
        order = np.argsort(every_step, kind="stable")  # gathered by rank, and a batch is in its order
        return every_index[order], np.ascontiguousarray(every_row[order].T)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.number > 1:
            self._strategy.barrier()

    def _gather_array(self, array: Array) -> list[Array]:
        return [part.numpy() for part in self.gather(torch.from_numpy(array))]

    def _all_gather(self, tensor: Tensor) -> list[Tensor]:
        if not _has_process_group():
            return list(self._strategy.all_gather(tensor))
        parts = [torch.empty_like(tensor) for _ in range(self.number)]
        torch.distributed.all_gather(parts, tensor)
        return parts

    def _device(self) -> torch.device:
        if _has_process_group() and torch.distributed.get_backend() == "gloo":
            return torch.device("cpu")  # gloo gathers host memory only
        return torch.device(self._strategy.root_device)


def _has_process_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def may_be_last_epoch(trainer: Any) -> bool:
    """Return whether the epoch that begins may be the last one.

    It is if it is the last planned epoch, or if training may end sooner and it is the epoch ``min_epochs``.
    """
    kinds = {kind.__name__ for callback in trainer.callbacks for kind in type(callback).__mro__}
    if trainer.max_epochs == -1 or trainer.max_steps != -1 or kinds & {"EarlyStopping", "Timer"}:
        min_epochs = max(trainer.min_epochs or 1, 1)
        return int(trainer.current_epoch) + 1 >= min_epochs
    return int(trainer.current_epoch) + 1 == int(trainer.max_epochs)


def last_epoch(trainer: Any) -> int | None:
    """Return the number of the last epoch, unless training stops sooner; None if steps or time end the training."""
    if trainer.max_epochs in (None, -1) or trainer.max_steps != -1:
        return None
    return int(trainer.max_epochs) - 1


def log_step(trainer: Any, x_axis: str) -> int:
    """Return the step at which Lightning logs the metrics of an epoch, or the epoch."""
    if x_axis == "epoch":
        return int(trainer.current_epoch)
    # `global_step` counts every optimizer; the logger connector uses this counter.
    step_count = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)
    return max(0, int(step_count) - 1)


def log_scalars(trainer: Any, values: Mapping[str, float], step: int) -> None:
    """Send the finite values to each of the Trainer's loggers.

    If a logger fails, training goes on, and it is said once.
    """
    finite = {tag: float(value) for tag, value in values.items() if math.isfinite(value)}
    for logger in trainer.loggers:
        try:
            logger.log_metrics(finite, step=step)
        except Exception as error:  # noqa: BLE001, PERF203  # as of a server that is away, which may come back
            if logger not in _FAILED:
                _FAILED.add(logger)
                warn(
                    f"Expected to log numbers to {type(logger).__name__}, got {type(error).__name__}: {error}. "
                    "Training goes on, and dynalens tries again to log later numbers. Check where this logger writes."
                )


def scoring_precision(trainer: Any) -> str:
    """Return the precision in which the Trainer runs operations: "float32", "bfloat16" or "float16"."""
    return {"bf16-mixed": "bfloat16", "16-mixed": "float16"}.get(str(trainer.precision), "float32")


def tensorboard_writer(trainer: Any) -> Any:
    """Return the SummaryWriter of the Trainer's first TensorBoardLogger, or None."""
    for logger in trainer.loggers:
        # By name: the two packages' loggers are different classes.
        if any(cls.__name__ == "TensorBoardLogger" for cls in type(logger).__mro__):
            return logger.experiment
    return None


def check_tensorboard(trainer: Any, argument: str) -> None:
    """Raise if an argument needs a TensorBoardLogger and the Trainer has none."""
    if tensorboard_writer(trainer) is None:
        raise MisconfigurationException(
            f"Expected the Trainer to have a TensorBoardLogger for `{argument}`, got none. Pass "
            "`logger=TensorBoardLogger(...)`, or leave the argument out."
        )


def picture_loggers(trainer: Any) -> list[Any]:
    """Return the loggers with a method ``log_image`` for pictures, such as Lightning's WandbLogger."""
    return [logger for logger in trainer.loggers if callable(getattr(logger, "log_image", None))]


def chart_layouts(trainer: Any) -> list[Any]:
    """Return the custom charts of all monitors of the Trainer.

    They are written together, because a run has one layout.
    """
    layouts = (getattr(callback, "tensorboard_layout", None) for callback in trainer.callbacks)
    return [layout() for layout in layouts if callable(layout)]


def run_folder(trainer: Any, name: str | None) -> Path:
    """Return ``<log_dir>/dynalens`` or ``<log_dir>/dynalens/<name>``. It must be called in every process."""
    folder = Path(trainer.log_dir or trainer.default_root_dir) / "dynalens"
    return folder / name if name else folder


def tag_prefix(name: str | None) -> str:
    """Return the beginning of a monitor's tags."""
    return f"dynalens/{name}" if name else "dynalens"


def announce(message: str) -> None:
    """Tell the user something once, in the place where Lightning itself tells what it does."""
    rank_zero_info(message)


def loader_at(loaders: Any, place: int) -> Any:
    """Return the loader at this position in the Trainer's loaders.

    A key of a dict, a position in a list, or the only one.
    """
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    return loaders[place] if isinstance(loaders, Sequence) else loaders


def validates_in_epoch(trainer: Any) -> bool:
    """Return whether there is a validation before the current epoch ends."""
    period = trainer.check_val_every_n_epoch
    if not trainer.enable_validation:
        return False
    if period is None:  # counted in steps over all epochs
        return bool(trainer.val_check_batch <= trainer.num_training_batches)
    return (int(trainer.current_epoch) + 1) % int(period) == 0


def first_position(loader: Any, batch_idx: int) -> int | None:
    """Return the dataset position of the first sample of a batch; None if the loader has an order of its own."""
    sampler, size = getattr(loader, "batch_sampler", None), getattr(loader, "batch_size", None)
    in_order = type(sampler) is BatchSampler and type(sampler.sampler) is SequentialSampler
    return batch_idx * size if in_order and isinstance(size, int) else None
