"""What loggers show of a record: scalars of each epoch, and pictures as long as they can be drawn."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.callbacks.dynamics_pictures import DynamicsPictures
from dynalens.dynamics import Array, EpochRecord, SampleStatistics
from dynalens.host import chart_layouts, log_scalars, log_step, picture_loggers, tag_prefix, tensorboard_writer
from dynalens.pictures import find_normalisation
from dynalens.suspicion import epoch_summary, overlap
from dynalens.tensorboard import make_sink, write_layout


class DynamicsLog:
    """Logs one monitor's record, in the process that writes.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        folder: Of the record; pictures go there where there is no TensorBoardLogger.
        monitor: The monitor, whose ``name``, ``x_axis``, ``top_k`` and ``class_names`` are read.
        dataset: What is trained on.
    """

    def __init__(self, trainer: Any, pl_module: Any, folder: Path, monitor: Any, dataset: Any) -> None:
        self._prefix, self._x_axis = tag_prefix(monitor.name), monitor.x_axis
        self._device: torch.device = pl_module.device
        self._below_zero: Array | None = None
        writer = tensorboard_writer(trainer)
        if writer is not None:
            write_layout(writer, chart_layouts(trainer))
        self.pictures: DynamicsPictures | None = DynamicsPictures(
            make_sink(writer, picture_loggers(trainer), folder / "pictures"),
            self._prefix,
            top_k=monitor.top_k,
            class_names=monitor.class_names,
            normalisation=find_normalisation(pl_module, getattr(trainer, "datamodule", None), dataset),
        )

    def see(self, rows: Tensor | None, inputs: Tensor | None) -> None:
        """Copy the inputs of suspects from a batch."""
        if self.pictures is not None and rows is not None:
            self.pictures.see(rows, inputs)

    def end_epoch(self, epoch: int, statistics: SampleStatistics, record: EpochRecord) -> None:
        """Follow those that are worst now."""
        if self.pictures is not None:
            self.pictures.end_epoch(epoch, statistics, record, self._device)

    def write(
        self, trainer: Any, epoch: int, statistics: SampleStatistics, record: EpochRecord, ids: Array | None
    ) -> None:
        """Write scalars and pictures."""
        step, summary = log_step(trainer, self._x_axis), epoch_summary(statistics, record)
        below_zero = statistics.margin < 0
        if self._below_zero is not None:
            new = len(below_zero) - len(self._below_zero)  # ids that were not seen before
            summary["suspects_overlap"] = overlap(below_zero, np.append(self._below_zero, np.zeros(new, bool)))
        self._below_zero = below_zero
        log_scalars(trainer, {f"{self._prefix}/dynamics/{key}": value for key, value in summary.items()}, step)
        self._draw(epoch, statistics, ids, step)

    def _draw(self, epoch: int, statistics: SampleStatistics, ids: Array | None, step: int) -> None:
        """A picture that fails is no reason to end a training run, because the record does not need it."""
        if self.pictures is None:
            return
        try:
            self.pictures.write(statistics, epoch, step, ids)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is said and training goes on
            self.pictures = None
            warnings.warn(
                f"Pictures of the record are switched off, training goes on: {type(error).__name__}: {error}",
                stacklevel=2,
            )
