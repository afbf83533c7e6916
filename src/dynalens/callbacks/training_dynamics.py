"""The callback that keeps the per-sample record: Lightning hooks become calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dynalens.callbacks.base import Setting
from dynalens.callbacks.last_layer import LastLayer
from dynalens.callbacks.layer_features import LayerFeatures
from dynalens.callbacks.recording import RecordingCallback
from dynalens.callbacks.training_step import TrainingStep
from dynalens.capture import BatchObserver, Capture, inputs_to_show
from dynalens.datasets import network_class_names
from dynalens.dynamics import EpochRecord
from dynalens.host import Processes, announce, check_data_parallel, check_tensorboard, run_folder, tag_prefix
from dynalens.identity import SampleIdentity
from dynalens.logs import DynamicsLog, LogSettings
from dynalens.notices import warn
from dynalens.paths import resolved
from dynalens.record import LiveRecord, RecordFolder, RecordSettings
from dynalens.tensorboard import Layout, dynamics_layout


class TrainingDynamicsMonitor(RecordingCallback):
    """Record margin, loss and prediction of each training sample in each step, and rank the labels by suspicion.

    Margin, confidence, forgetting events and the other statistics come from the step's own forward pass, before the
    weights change. There is no second pass, no step waits for the device, and weights, random numbers and gradients are
    those of a run without the callback. Files go to ``<log_dir>/dynalens/``. ``docs/tensorboard.md`` lists the
    tags. Pictures go to TensorBoard, or to files if there is no TensorBoardLogger, and to loggers with ``log_image``.

    Args:
        index: How to know which samples are in a batch. "auto" observes the sampler of the loader. Otherwise say where
            the batch has the dataset index, or an id, of each sample: the key in a dict, the position in a tuple, or a
            callable(batch) that returns them, or its dotted path. Strings are ids, and so are integers of an iterable
            dataset or of a dataset in a Subset: each new id gets a row in the record.
        capture: How to find logits and targets. "auto" takes the first of these that it finds: ``logits`` and
            ``targets`` in the dict that ``training_step`` returns; a call of ``cross_entropy``, ``nll_loss``,
            ``multi_margin_loss`` or a binary loss; for a regression ``predictions`` and ``targets`` in that dict, or a
            call of ``mse_loss``, ``l1_loss``, ``smooth_l1_loss`` or ``huber_loss`` with labels of the batch; the
            softmax or sigmoid before the loss, with the batch's labels. "labels" is "auto" for samples with any number
            of labels, even if each has exactly one in the first batch (``docs/units.md``). "loss" ignores the dict.
            "outputs" requires it. "module:<dotted name>" takes the output of a layer, and the batch's labels. A
            callable(outputs, batch), or its dotted path, returns logits and targets. One logit z per sample counts as
            two classes with the logits 0 and z. Log-probabilities given to ``nll_loss`` count as logits.
        loader: Which loader to record if training has several: its key in a dict or its position in a list. ``index``
            then refers to the part of the batch that comes from this loader.
        views: How many rows of logits each sample has, if a step concatenates several views of the batch.
        features: Dotted name of a layer, best the one before the last linear layer. Its newest output for each sample,
            averaged over positions, gives the column ``score_neighbours`` of the table. N outputs of D numbers stay on
            the device as bfloat16 (2 N D bytes, at most 1 GiB) and are saved in checkpoints. None: no such column.
        projector_every_n_epochs: Show ``features`` of 2,000 samples in the projector every n epochs. None: never.
        gradient_noise: True logs length and noise of the last linear layer's gradients
            (:class:`~dynalens.GradientNoise`). If another layer gives the logits, pass its dotted name. Each step then
            costs one more forward pass of that layer and half a millisecond of small operations.
        class_names: Name of each class. Default: the dataset's ``classes``, or a Hugging Face model's ``id2label``.
        name_of: Callable(sample id) that returns the name of a sample. Default: the paths in the dataset's ``samples``.
        decode: Callable(token id) that returns its word, such as a tokenizer's ``decode``, for samples that are tokens.
            An empty word is not shown. Default: that of an AttributionMonitor of the same Trainer.
        save_dir: Folder of the record. Default: ``<log_dir>/dynalens``.
        history: Whether to keep index, p(label), margin, prediction and p(another class) of each presentation on disk.
        mean_probabilities: Whether to keep the mean of all K probabilities of each of the N samples, for cleanlab for
            instance. They take 4 N K bytes, in ``record.npz``, too. True allows 1 GiB, a number that many GiB.
            :class:`~dynalens.TrainingDynamics` says how much memory they take during training.
        tolerance: For a regression (``docs/regression.md``): the absolute residual below which a prediction is right, a
            number or one for each target. Default: the median absolute deviation of the targets.
        top_k: How many suspects the gallery shows. Their pictures are copied from the batches of the next epoch.
        similar: How many training samples of the given and of the suggested class, those with the most similar
            ``features``, are shown beside each suspect in gallery and report.
        prototypes: How many prototypes, criticisms, easiest and hardest samples of each class a sheet shows, for up to
            20 classes. They are chosen by ``features`` before the last epoch (:func:`~dynalens.prototypes`). 0: none.
        audit: How many samples of an audit (:func:`~dynalens.audit_plan`) to draw before the last epoch. Their inputs
            and labels of tokens and pixels are copied from its batches: ``dynalens audit`` needs no ``--data``. If
            ``max_steps``, ``max_time`` or early stopping may end training sooner, they are drawn before the epoch
            ``min_epochs``, but not before the second. A plan in the folder is kept. A fit of one epoch draws none.
        log_every_n_epochs: Number of epochs from one writing to the logger to the next.
        max_overhead: Largest fraction of the training time that charts and suspects may take. If they would take more,
            only the first epoch, the last one and some in between have them, and one message says so. Numbers are
            written in each epoch. None: no limit.
        x_axis: "step", the step at which Lightning logs the metrics of an epoch, or "epoch".
        name: Tells several monitors of one Trainer apart. Files go to ``<log_dir>/dynalens/<name>/``.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        The logits of this model are its inputs. The label of the third sample contradicts them.

        >>> import tempfile, torch
        >>> import pytorch_lightning as pl
        >>> class Inputs(pl.LightningModule):
        ...     automatic_optimization = False
        ...     def training_step(self, batch, batch_idx):
        ...         torch.nn.functional.cross_entropy(batch[0].requires_grad_(), batch[1]).backward()
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(logits, labels), shuffle=True)
        >>> quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar"], False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dynamics = TrainingDynamicsMonitor(save_dir=folder)
        ...     trainer = pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=dynamics, **quiet)
        ...     trainer.fit(Inputs(), loader)
        ...     dynamics.table()["margin"].tolist()
        [2.0, 1.0, -3.0]
    """

    views = Setting[int]("_record_settings")
    history = Setting[bool]("_record_settings")
    mean_probabilities = Setting[bool | float]("_record_settings")
    tolerance = Setting[float | Sequence[float] | None]("_record_settings")
    name_of = Setting[Callable[[Any], str] | None]("_record_settings")
    save_dir = Setting[str | Path | None]("_record_settings")
    features = Setting[str | None]("_log_settings")
    projector_every_n_epochs = Setting[int | None]("_log_settings")
    top_k = Setting[int]("_log_settings")
    similar = Setting[int]("_log_settings")
    prototypes = Setting[int]("_log_settings")
    audit = Setting[int | None]("_log_settings")
    log_every_n_epochs = Setting[int]("_log_settings")
    max_overhead = Setting[float | None]("_log_settings")
    x_axis = Setting[Literal["step", "epoch"]]("_log_settings")
    decode = Setting[Callable[[int], str] | None]("_log_settings")

    def __init__(
        self,
        *,
        index: str | int | Callable[[Any], Sequence[int] | Sequence[str] | Tensor] = "auto",
        capture: Capture = "auto",
        loader: str | int | None = None,
        views: int = 1,
        features: str | None = None,
        projector_every_n_epochs: int | None = None,
        gradient_noise: bool | str = False,
        class_names: Sequence[str] | None = None,
        name_of: Callable[[Any], str] | None = None,
        decode: Callable[[int], str] | None = None,
        save_dir: str | Path | None = None,
        history: bool = True,
        mean_probabilities: bool | float = False,
        tolerance: float | Sequence[float] | None = None,
        top_k: int = 20,
        similar: int = 0,
        prototypes: int = 0,
        audit: int | None = None,
        log_every_n_epochs: int = 1,
        max_overhead: float | None = 0.05,
        x_axis: Literal["step", "epoch"] = "step",
        name: str | None = None,
    ) -> None:
        self._record_settings = RecordSettings(views, history, mean_probabilities, tolerance, name_of, save_dir)
        self._log_settings = LogSettings(
            features, projector_every_n_epochs, top_k, similar, prototypes, audit, log_every_n_epochs, max_overhead,
            x_axis, decode,
        )  # fmt: skip
        self._features, self._last_layer = LayerFeatures(features), LastLayer(gradient_noise)
        live = LiveRecord(
            history=history, mean_probabilities=mean_probabilities, tolerance=tolerance,
            class_names=class_names, neighbours=self._features.scores,
        )  # fmt: skip
        super().__init__(live)
        self.name = name
        self._log: DynamicsLog | None = None
        self._observer = BatchObserver(is_only_one=False)
        self._identity = SampleIdentity(resolved(index), loader)
        self._step = TrainingStep(self._identity, capture, self._features, views)
        self._processes: Processes | None = None
        self._is_active, self._has_begun, self._announcements = False, False, set[bool]()

    def reset(self) -> None:
        """Forget the record; the next fit starts a new one."""
        self._identity.load_state({})
        self._features.load_state(None)
        self._live = self._live.empty_copy()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Install what must be in place before Lightning makes the first loader."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        check_data_parallel(trainer, type(self).__name__)
        self._features.check(pl_module)
        self._last_layer.install(pl_module)
        if self.projector_every_n_epochs is not None:
            check_tensorboard(trainer, "projector_every_n_epochs")
        self._processes = Processes(trainer)
        self._live.use(RecordFolder(Path(self.save_dir) if self.save_dir else run_folder(trainer, self.name)))
        self._is_active, self._has_begun, self._announcements = True, False, set()
        self._observer = BatchObserver(is_only_one=False)
        self._step.install(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin or continue the record of this dataset."""
        if not self._is_active:
            return
        self._begin(trainer)
        assert self._processes is not None
        if self._processes.is_first:
            self._log = DynamicsLog(
                trainer, pl_module, self._live, self._log_settings,
                name=self.name, dataset=self._identity.dataset, sources=self._gallery_sources,
            )  # fmt: skip
            self._log.restore()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Follow the training loader again, because Lightning may have made a new one."""
        if self._is_active:
            self._find_samples(trainer)
            self._step.begin_epoch()
            if self._log is not None:
                self._log.begin_epoch(trainer, self._epoch(trainer), self._features.rows)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to observe the training step."""
        if not self._is_active:
            return
        if batch_idx == 0 or self._live.current is None:  # asked once an epoch, as each question takes its time
            self._begin_steps(trainer, is_first_step=batch_idx == 0)
        if self._log is not None:  # now, because the step may work in place
            if self._log.copies:
                inputs = inputs_to_show(self._identity.part_of(batch), self._observer.layout, rows=True)
                self._log.see(None if inputs is None else self._identity.rows_before_step(trainer, batch), inputs)
            self._observer.start(pl_module, self._identity.part_of(batch))
        self._step.start(pl_module, batch)
        self._last_layer.start()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Note the loss of the step, from which gradients are computed."""
        if self._is_active:
            self._step.before_backward(loss)
            self._last_layer.close()
            self._observer.stop()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record what the step showed of each sample in its batch."""
        self._step.stop()
        self._observer.finish()
        self._last_layer.close()
        if self._is_active and self._processes is not None:
            self._processes.in_step(lambda: self._record(trainer, outputs, batch))
        if self._log is not None:
            self._log.schedule.end_step()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Count the validation as training time, a part of which may be spent on drawing."""
        if self._log is not None:
            self._log.schedule.end_step()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch to the record, write the record and log it."""
        if not self._is_active or self._processes is None:
            return
        self._processes.end_steps(self._step.end_epoch)
        if self._log is not None:
            self._log.schedule.end_epoch()
        self._end_epoch(
            self._epoch(trainer), log_to=trainer if self._log_settings.logged(trainer.current_epoch) else None
        )

    def tensorboard_layout(self) -> Layout:
        """Return the custom charts that show this monitor's scalars together."""
        return dynamics_layout(tag_prefix(self.name))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write the tables and undo what ``setup`` installed."""
        if not self._is_active:
            return
        try:
            if not self._has_begun and self._live.dynamics is not None:
                self._begin(trainer, training=False)  # nothing was left to train
            elif not self._has_begun:
                self._identity.check_samples()
            if self._live.open_epoch is not None:
                self._end_epoch(self._live.open_epoch)
        finally:
            self._end_fit()
        assert self._processes is not None
        self._processes.wait()  # for the files
        self._processes = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Do what ``teardown`` does, which Lightning does not call after an exception. Drop the unfinished epoch."""
        try:
            if self._is_active:
                self._live.cut_off()
            self._end_fit()
        except Exception as error:  # noqa: BLE001  # the user's own exception is the one to see
            warn(f"Expected to write the record of a failed fit, got {type(error).__name__}: {error}. Call `save()`.")
        self._processes = None

    def _begin(self, trainer: Any, *, training: bool = True) -> None:
        assert self._processes is not None
        self._find_samples(trainer, training=training)
        self._identity.check_processes(self._processes, self._live.num_samples)
        self._describe_samples(network_class_names(trainer.lightning_module))
        self._processes.in_first(self._live.begin_files)
        self._has_begun = True

    def _begin_steps(self, trainer: Any, *, is_first_step: bool) -> None:
        if self._live.open_epoch is not None and self._live.open_epoch != self._epoch(trainer):
            # The checkpoint was saved after the epoch's last step: Lightning goes on.
            self._end_epoch(self._live.open_epoch)
        epoch = self._epoch(trainer)
        self._live.begin_steps(epoch, is_first_step=is_first_step)
        if self._processes is not None and self._processes.is_first:
            self._live.write_under_way(epoch)

    def _record(self, trainer: Any, outputs: Any, batch: Any) -> None:
        if (presentation_of_step := self._step.read(trainer, outputs, batch)) is not None:
            rows, presentation = presentation_of_step
            self.presented_units = self._step.units
            length = self._live.num_samples or self._live.make_room(self._identity.num_samples or 1).num_samples
            self._step.keep_features(presentation, length)
            self._last_layer.record(presentation)
            logits, targets, units = presentation.logits, presentation.targets, presentation.units
            self._live.update(rows, logits, targets, units)
            if self._log is not None:
                self._log.note(rows, units)
            if presentation.has_other_losses not in self._announcements:
                announce(f"dynalens: {presentation.source}; {self._identity.in_words}{self._live.continued}")
                self._announcements.add(presentation.has_other_losses)
        elif self._step.misses:
            self._live.leave_out(self._epoch(trainer))
        self._step.close()

    def _epoch(self, trainer: Any) -> int:
        return self._live.epoch(int(trainer.current_epoch))

    def _end_epoch(self, epoch: int, log_to: Any = None) -> None:
        assert self._processes is not None
        if self._live.dynamics is None:  # samples are known by their ids, and none was seen
            return
        if self._identity.ids is not None:
            self._live.dynamics.grow(len(self._identity.ids))
        if self._identity.ids is not None or self._live.names is None:
            self._describe_samples()
        presentations = self._live.end_epoch(epoch, self._step.merge(self._processes))
        if self._processes.any(self._step.misses):
            self._live.leave_out(epoch)
        self._features.end_epoch(self._processes)
        noise = self._last_layer.end_epoch(self._processes)
        if presentations is not None:  # that of weight averaging, say, has no training step
            self._processes.in_first(lambda: self._write_epoch(presentations, log_to, noise))

    def state_dict(self) -> dict[str, Any]:
        """Return the record as tensors and plain Python."""
        if self._live.dynamics is None:
            return {}
        # A collective would dead-lock where one process alone writes a checkpoint, as on an exception.
        record = self._live.state(is_only_process=self._processes is None or self._processes.number == 1)
        return record | self._identity.state() | {"features": self._features.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the record of a checkpoint."""
        if not state_dict:
            return
        self._features.load_state(state_dict.get("features"))
        # With several processes, the first one brings the epoch under way to the merge.
        self._live.load_state(state_dict, keeps_pending=self._processes is None or self._processes.is_first)
        self._identity.load_state(state_dict)

    @property
    def identity(self) -> SampleIdentity:
        """The samples in the current training batch, for other callbacks that ask in the same step."""
        return self._identity

    def _end_fit(self) -> None:
        if not self._is_active:
            return
        self._is_active, self.presented_units = False, None
        self._observer.close()
        self._step.end_fit()
        self._last_layer.end_fit()
        if self._live.epochs and self._has_begun and self._processes and self._processes.is_first:
            if self._log is None:
                self._live.end_files({})
            else:
                self._log.end_fit()
        self._log = None
        self._gallery_sources.clear()

    def _find_samples(self, trainer: Any, *, training: bool = True) -> None:
        self._identity.start(trainer, self._live.num_samples, training=training)
        if self._identity.num_samples is not None:
            self._live.make_room(self._identity.num_samples)

    def _describe_samples(self, network_names: Sequence[str] | None = None) -> None:
        roots, ids, names, classes = self._identity.describe(self._live.num_samples or 0, self.name_of)
        self._live.describe(roots, ids, names, classes or network_names)

    def _write_epoch(self, presentations: EpochRecord, log_to: Any, noise: dict[str, float]) -> None:
        self._live.write_epoch(presentations)
        if self._log is not None:
            self._log.end_epoch(presentations, self._features.rows, log_to, also=noise)

    def followed_suspects(self, epoch: int) -> int:
        """Return the largest number of suspects in the gallery of this epoch, 0 if no gallery is drawn."""
        is_due = self._log is None or self._log.schedule.is_due(self._live.epoch(epoch))
        return self._log_settings.followed_suspects(epoch) if is_due else 0
