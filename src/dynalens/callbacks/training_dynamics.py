"""The callback that keeps the per-sample record: Lightning hooks become calls."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from dynalens.callbacks.dynamics_pictures import DynamicsPictures
from dynalens.capture import Capture, StepCapture, inputs_to_show
from dynalens.dynamics import Array, EpochRecord, SampleStatistics, TrainingDynamics
from dynalens.host import (
    CallbackBase,
    announce,
    chart_layouts,
    check_x_axis,
    log_scalars,
    log_step,
    picture_loggers,
    refuse_processes,
    run_folder,
    tag_prefix,
    tensorboard_writer,
)
from dynalens.identity import IndexRecorder, SampleIdentityError, dataset_class_names, indices_in_batch, root_indices
from dynalens.pictures import find_normalisation
from dynalens.records import RecordFolder, RecordMeta, read_history
from dynalens.suspicion import (
    clean_indices,
    epoch_summary,
    flagged_overlap,
    samples_table,
    suggested_labels,
    suspects,
)
from dynalens.tensorboard import Layout, dynamics_layout, make_sink, write_layout

_NO_EPOCH = "Expected at least one complete epoch of training, got none. Call this after `trainer.fit`."


class TrainingDynamicsMonitor(CallbackBase):
    """Record, for each training sample, what the training steps show of it.

    Margin, confidence, forgetting events and the rest come from the step's own forward pass, before the update; no
    second pass is made, the step never waits for the device, and weights, random streams and gradients stay as
    they would be without the callback. Files go to ``<log_dir>/dynalens/``; the README lists the TensorBoard tags.
    Without a TensorBoardLogger the pictures are files there, and a logger with ``log_image`` gets them too.

    Args:
        index: "auto" observes the loader's sampler; otherwise the key of the batch that holds the dataset index, or a
            callable(batch) -> N indices.
        capture: "auto" takes ``logits`` and ``targets`` from the dict that ``training_step`` returns, else from the
            call of ``cross_entropy``, ``nll_loss`` or ``binary_cross_entropy_with_logits``; "loss" and "outputs"
            allow one of the two; "module:<dotted name>" takes the output of a layer and the batch's label; a
            callable(outputs, batch), or the dotted path of one, returns both. A binary logit, (N,) or (N, 1), counts
            as the two classes 0 and z. The inputs of ``nll_loss`` are log-probabilities; their margins and
            probabilities are those of the logits.
        views: Rows of logits for each sample, as concatenated views, all with the sample's own class as target.
        class_names: Name of each class; default: the dataset's ``classes``.
        save_dir: Folder of the record; default ``<log_dir>/dynalens``.
        history: Keep index, p(label), margin and prediction of every presentation on disk.
        top_k: Suspects in the gallery; their pictures are copied from the batches of the epoch after.
        log_every_n_epochs: Epochs between two entries in the logger.
        x_axis: "step" as Lightning logs an epoch's metrics, or "epoch".
        name: Tells several monitors of one Trainer apart; they write ``dynalens/<name>/``.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        *,
        index: str | Callable[[Any], Sequence[int] | Tensor] = "auto",
        capture: Capture = "auto",
        views: int = 1,
        class_names: Sequence[str] | None = None,
        save_dir: str | Path | None = None,
        history: bool = True,
        top_k: int = 20,
        log_every_n_epochs: int = 1,
        x_axis: Literal["step", "epoch"] = "step",
        name: str | None = None,
    ) -> None:
        super().__init__()
        for argument, value in (("views", views), ("top_k", top_k), ("log_every_n_epochs", log_every_n_epochs)):
            if value < 1:
                raise ValueError(f"Expected `{argument}` to be at least 1, got {value}. Pass a positive number.")
        self.index, self.views, self.history, self.name = index, views, history, name
        self.class_names, self.save_dir, self.log_every_n_epochs = class_names, save_dir, log_every_n_epochs
        self.top_k, self.x_axis = top_k, check_x_axis(x_axis)
        self._pictures: DynamicsPictures | None = None
        self._capture = StepCapture(capture)
        self._recorder: IndexRecorder | None = None
        self._active = False
        self._begun = False
        self._announced = False
        self.reset()

    def reset(self) -> None:
        """Forget the record; the next fit starts a new one."""
        self._dynamics: TrainingDynamics | None = None
        self._epochs: list[int] = []
        self._incomplete: list[int] = []
        self._folder: RecordFolder | None = None
        self._source: Path | None = None
        self._root_index = np.arange(0)
        self._flagged_before: Array | None = None

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Install what must stand before the first loader is made."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        refuse_processes(trainer, type(self).__name__)
        self._folder = RecordFolder(Path(self.save_dir) if self.save_dir else run_folder(trainer, self.name))
        self._active, self._begun, self._announced = True, False, False
        self._capture.install(pl_module)
        if self.index == "auto":
            self._recorder = IndexRecorder.attach(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin or continue the record of this dataset."""
        if not self._active:
            return
        dataset: Any = self._recorder.dataset if self._recorder else getattr(trainer.train_dataloader, "dataset", None)
        if not hasattr(dataset, "__len__"):
            raise SampleIdentityError(
                "Expected a training dataset with a length, got "
                f"{type(dataset).__name__}. Its indices have no upper bound that the record could be made for."
            )
        self._dynamics = self._dynamics or TrainingDynamics(len(dataset))
        if self._dynamics.num_samples != len(dataset):
            raise SampleIdentityError(
                f"Expected the dataset of the record, {self._dynamics.num_samples} samples, got one of "
                f"{len(dataset)}. Resume with the dataset of the checkpoint, or call `reset()` first."
            )
        self._root_index = np.asarray(root_indices(dataset, len(dataset)), dtype=np.int64)
        self.class_names = self.class_names or dataset_class_names(dataset)
        assert self._folder is not None
        self._folder.begin(self._epochs, self._source)
        self._source, self._begun = self._folder.path, True
        self._pictures = self._make_pictures(trainer, pl_module, dataset)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch the step."""
        if not self._active:
            return
        self._capture.start(pl_module)
        if self._pictures is not None:  # now, because the step may work in place
            self._pictures.see(self._indices(trainer, batch, batch_idx), inputs_to_show(batch))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """The step's own loss is known."""
        if self._active:
            self._capture.before_backward()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the batch."""
        if not self._active:
            return
        assert self._dynamics is not None
        found = self._capture.finish(outputs, batch)
        indices = self._indices(trainer, batch, batch_idx)
        if found is None:
            return
        _check_rows(len(found.logits), len(indices), self.views)
        self._dynamics.update(_repeated(indices, self.views), found.logits, found.targets)
        if not self._announced:
            announce(f"dynalens: {found.source}; identity: {'sampler' if self._recorder else '`index`'}")
            self._announced = True

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Fold the epoch into the record, write it and log it."""
        if not self._active:
            return
        assert self._dynamics is not None
        assert self._folder is not None
        epoch = max(trainer.current_epoch, self._epochs[-1] + 1 if self._epochs else 0)
        self._capture.end_epoch()
        record = self._dynamics.end_epoch(epoch)
        if self._recorder:
            self._recorder.end_epoch()
        self._epochs.append(epoch)
        if self.history:
            self._folder.write_history(epoch, record)
        statistics = self.statistics()
        self._folder.write(statistics, self._root_index, self._meta())
        if self._pictures is not None:
            self._pictures.end_epoch(epoch, statistics, record, pl_module.device)
        if trainer.current_epoch % self.log_every_n_epochs == 0:
            self._write_logs(trainer, statistics, record)

    def tensorboard_layout(self) -> Layout:
        """Return the custom charts that show this monitor's scalars together."""
        return dynamics_layout(tag_prefix(self.name))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write the tables and undo what ``setup`` installed."""
        self._end_fit()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """As ``teardown``, which Lightning leaves out after an exception; the epoch that was cut off is dropped."""
        if self._active and self._dynamics is not None and self._dynamics.discard_pending():
            self._incomplete.append(trainer.current_epoch)
        self._end_fit()

    def state_dict(self) -> dict[str, Any]:
        """Return the record as tensors and plain Python."""
        if self._dynamics is None:
            return {}
        return {
            "dynamics": self._dynamics.state_dict(),
            "epochs": list(self._epochs),
            "incomplete_epochs": list(self._incomplete),
            "folder": str(self._folder.path) if self._folder else "",
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the record of a checkpoint."""
        if not state_dict:
            return
        self._dynamics = TrainingDynamics(state_dict["dynamics"]["num_samples"])
        self._dynamics.load_state_dict(state_dict["dynamics"])
        self._epochs, self._incomplete = list(state_dict["epochs"]), list(state_dict["incomplete_epochs"])
        self._source = Path(state_dict["folder"]) if state_dict["folder"] else None

    def statistics(self) -> SampleStatistics:
        """Return the statistics as of the last complete epoch; raise RuntimeError before there is one."""
        if self._dynamics is None or not self._epochs:
            raise RuntimeError(_NO_EPOCH)
        return self._dynamics.compute()

    def table(self) -> pd.DataFrame:
        """Return one row for each sample of the dataset, index ``sample_id``; the README lists the columns."""
        statistics = self.statistics()
        kept = read_history(self._folder.path, self._epochs) if self.history and self._folder else iter(())
        suggested = suggested_labels(statistics, (epoch for _, epoch in kept))
        return samples_table(statistics, suggested=suggested, class_names=self.class_names, root_index=self._root_index)

    def suspects(self, n: int | None = None) -> pd.DataFrame:
        """Return the samples that were seen, the most suspicious first; the first ``n`` of them."""
        return suspects(self.table(), n)

    def clean_indices(self) -> list[int]:
        """Return the ids of the samples that are not flagged, for ``torch.utils.data.Subset``."""
        return clean_indices(self.table())

    def save(self, path: str | Path | None = None) -> Path:
        """Write the record and the tables to a folder, by default the run's, and return it."""
        folder = RecordFolder(Path(path)) if path is not None else self._folder
        if folder is None:
            raise RuntimeError(_NO_EPOCH)
        folder.write(self.statistics(), self._root_index, self._meta())
        folder.write_tables(self.table())
        return folder.path

    def _end_fit(self) -> None:
        if not self._active:
            return
        self._active = False
        self._capture.close()
        if self._recorder:
            self._recorder.detach()
            self._recorder = None
        if self._epochs and self._begun:
            self.save()
            if self._pictures is not None and self._folder is not None:
                self._folder.write_pictures(self._pictures.pictures)
        self._pictures = None

    def _meta(self) -> RecordMeta:
        assert self._dynamics is not None
        return RecordMeta(self._dynamics.num_samples, self._epochs, self._incomplete, self.class_names)

    def _indices(self, trainer: Any, batch: Any, batch_idx: int) -> Sequence[int] | Tensor:
        return self._recorder.indices(trainer, batch_idx) if self._recorder else indices_in_batch(batch, self.index)

    def _make_pictures(self, trainer: Any, pl_module: Any, dataset: Any) -> DynamicsPictures:
        assert self._folder is not None
        writer = tensorboard_writer(trainer)
        if writer is not None:
            write_layout(writer, chart_layouts(trainer))
        pictures = DynamicsPictures(
            make_sink(writer, picture_loggers(trainer), self._folder.path / "pictures"),
            tag_prefix(self.name),
            top_k=self.top_k,
            class_names=self.class_names,
            normalisation=find_normalisation(pl_module, getattr(trainer, "datamodule", None), dataset),
        )
        if self._epochs:
            pictures.restore(self.statistics(), read_history(self._folder.path, self._epochs))
        return pictures

    def _write_logs(self, trainer: Any, statistics: SampleStatistics, record: EpochRecord) -> None:
        prefix, step = tag_prefix(self.name), log_step(trainer, self.x_axis)
        summary = epoch_summary(statistics, record)
        flagged = statistics.margin < 0
        if self._flagged_before is not None:
            summary["suspects_overlap"] = flagged_overlap(flagged, self._flagged_before)
        self._flagged_before = flagged
        log_scalars(trainer, {f"{prefix}/dynamics/{key}": value for key, value in summary.items()}, step)
        self._draw(statistics, step)

    def _draw(self, statistics: SampleStatistics, step: int) -> None:
        """Write the pictures; a failure is no reason to end a training run, because the record does not need them."""
        if self._pictures is None:
            return
        try:
            self._pictures.write(statistics, self._epochs[-1], step)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is said and training goes on
            self._pictures = None
            warnings.warn(
                f"Pictures of the record are switched off, training goes on: {type(error).__name__}: {error}",
                stacklevel=2,
            )


def _repeated(indices: Sequence[int] | Tensor, views: int) -> Sequence[int] | Tensor:
    if views == 1:
        return indices
    return indices.repeat(views) if isinstance(indices, Tensor) else list(indices) * views


def _check_rows(rows: int, samples: int, views: int) -> None:
    if rows == samples * views:
        return
    if samples and rows % samples == 0:
        hint = f"Pass `views={rows // samples}` if each sample has that many rows, all with its own class."
    else:
        hint = (
            "A collate function that drops or adds samples cannot be followed: let the dataset return its own "
            "index and pass `index=`."
        )
    raise SampleIdentityError(
        f"Expected {samples * views} rows of logits for {samples} samples in the batch, got {rows}. {hint}"
    )
