"""The callback that explains some samples in every epoch: Lightning hooks become calls."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import Tensor

from dynalens.attribution import Method, resolved_methods
from dynalens.callbacks.base import Setting
from dynalens.callbacks.paced import PacedMonitor
from dynalens.callbacks.tracked_samples import TrackedSamples
from dynalens.datasets import feature_names
from dynalens.dynamics import Array
from dynalens.explanations import (
    DEFAULT_METHODS,
    DEFAULT_METRICS,
    EpochExplanations,
    ExplanationPictures,
    ExplanationSettings,
    MapSettings,
    RunExplanations,
    SampleSettings,
    several_inputs_told,
)
from dynalens.faithfulness import UNCONTROLLED, check_metrics
from dynalens.host import (
    chart_layouts,
    first_position,
    loader_at,
    log_scalars,
    picture_loggers,
    scoring_precision,
    tag_prefix,
    tensorboard_writer,
    validates_in_epoch,
)
from dynalens.logs import GallerySource, show_as_trained, sink_of, switched_off_on_error
from dynalens.notices import warn
from dynalens.observation import module_named
from dynalens.paths import resolved
from dynalens.record import epoch_file, forget_epochs, write_arrays
from dynalens.robustness import check_robustness
from dynalens.tensorboard import Layout, faithfulness_layout, write_layout

Forward = Callable[[Any, Tensor], Tensor]


class AttributionMonitor(PacedMonitor):
    """Show at the end of each epoch where the model looks, and whether its maps name the pixels that it uses.

    The monitor explains the same eight samples in every epoch, in float32, for the class of their label. It chooses
    them from the first 100 batches of the first validation (not the sanity check), from as many classes as possible. If
    the first epoch has no validation, it takes them from the first training batch. If there is a
    TrainingDynamicsMonitor, it also explains the worst suspects of the epoch before, each for its given and for its
    predicted label. Pictures go to TensorBoard, or to files if there is no TensorBoardLogger. The ids, maps and numbers
    of the samples go to ``<log_dir>/dynalens/explanations/``, which :func:`load_explanations` reads. Each metric is
    logged next to its value for a random ranking. If another callback averages weights, those that are trained are
    explained. Weights, random numbers and gradients are those of a run without the callback.

    The inputs may be images; integer images that the model scales; complex images, which are explained as real and
    imaginary parts; volumes (N, C, D, H, W), of which pictures show the middle slice; signals (N, C, T); rows of a
    table (N, F), whose replaced columns are zero by default; or tokens (N, T), which are explained at their embedding.
    The default methods and metrics adapt, also if you pass them: Grad-CAM needs a layer with feature maps, and curves
    need logits of classes, and of tokens a ``baseline``. Others that are not defined are left out, with one warning.
    Samples whose label is not a class are left out. If each token or pixel has a class of its own, one token or region
    of each sample is explained: of a suspect, the most suspicious one. With several processes, the first process
    explains samples that it sees.

    Args:
        methods: Names of the methods that compute maps: functions in ``dynalens.attribution``, such as "saliency",
            "smooth_grad" or "grad_cam", or "captum:<Class>", such as "captum:Occlusion". A method may also be a
            callable(model, images, targets) that returns maps, or its dotted path. It is named by its ``__name__``.
        method_args: Arguments of each method: ``{"smooth_grad": {"samples": 10}}``. See :func:`dynalens.explain`.
        metrics: Names of metrics of each map: "deletion" and "insertion" (areas under the curves),
            "symmetric_relevance_gain", "deletion_rescaled", "insertion_rescaled", "average_drop", "average_increase",
            "pointing_game" and "relevance_mass" (both need ``masks``), "infidelity", "sensitivity" (to noise),
            "local_fidelity", "class_sensitivity" (rank correlation with the map of the most probable other class),
            "attribution_drift" (with the map of the last explanation), "randomisation_check" (with the map of the first
            explanation) and "consensus" (with the mean of all earlier maps).
        baseline: What replaced pixels show: "blur", "zero", "mean", a callable(images) -> images, or its dotted path.
            For tokens, pass the id of a token without meaning, such as the mask token or the token of unknown words.
        steps: Number of steps of a curve, or "auto" to set points where it bends.
        patch_size: Side of the patches that are replaced together, in pixels.
        precision: Precision of the forward passes that score perturbed images: "float32", "bfloat16", "float16", or
            "auto", which is the Trainer's.
        seed: Seed of the order of equally relevant pixels, and of the random ranking.
        num_samples: How many samples are explained in every epoch.
        samples: Samples to explain instead: images (N, C, H, W) and labels (N,), or ids of training samples.
        suspects: How many suspects are explained, too: the first ones of ``TrainingDynamicsMonitor.suspects()``.
        target: The class for which the samples of every epoch are explained: "label" or "prediction".
        inputs: Where images and labels stand in the batch: a pair of keys, a callable(batch) -> (images, labels), or
            its dotted path. "auto" takes the entries that the first training steps give to the network and to the loss.
            If it cannot see these, it takes the first entry and its label, or usual keys of a dict.
        forward: Callable(pl_module, images) -> logits. Default: the module, or its only child that gives logits.
        decode: Callable(token id) -> its word, such as a tokenizer's, for pictures of tokens and the table of suspects.
            Empty words are not drawn. Default: that of a TrainingDynamicsMonitor of the same Trainer, or the id.
        masks: Where the batch has masks (N, H, W) or boxes (N, 4) of the objects, for "pointing_game" and
            "relevance_mass": a key, a position, a callable(batch) or its dotted path. For given ``samples``: a tensor.
        target_layer: Dotted name of the layer for class activation maps. Default: the last one with feature maps, which
            is searched before the first explanation (:func:`~dynalens.find_target_layer`).
        contrast: Name of the method that shows in the gallery of suspects what speaks for the suggested rather than the
            given class (:func:`dynalens.contrast`). None: no such map.
        robustness: How to try to change the predictions of the explained samples: "fgsm", "pgd" and "random_sign" look
            for the smallest step (:func:`dynalens.smallest_step`), "gaussian_noise", "blur", "brightness" and
            "contrast" corrupt the samples (:func:`dynalens.corrupted`). A picture and scalars show the result.
        every_n_epochs: Number of epochs from one explanation to the next.
        max_overhead: Largest fraction of the training time that explaining may take. If it would take more, only the
            first epoch, the last one and some in between are explained, and one message says so. None: no limit.
        x_axis: "step", the step at which Lightning logs the metrics of an epoch, or "epoch".
        name: Tells several monitors of one Trainer apart. Files go to ``<log_dir>/dynalens/<name>/``.
        on_error: What to do if something fails during training. "warn" warns once and goes on without the method,
            the metric or the explanations that failed. "raise" raises the error. If memory runs out, smaller chunks are
            tried first.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        A mistake in an argument is an error before training.

        >>> AttributionMonitor(methods="smooth_grad", method_args={"smooth_grad": {"samples": 10}}).methods
        ('smooth_grad',)
        >>> AttributionMonitor(metrics=["deletions"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: Expected `metrics` ...
    """

    results = "Explanations"

    methods = Setting[tuple[Method, ...]]("_maps")
    method_args = Setting[dict[str, dict[str, Any]] | None]("_maps")
    metrics = Setting[tuple[str, ...]]("_maps")
    baseline = Setting[Any]("_maps")
    steps = Setting[int | Literal["auto"]]("_maps")
    patch_size = Setting[int]("_maps")
    precision = Setting[str]("_maps")
    seed = Setting[int]("_maps")
    forward = Setting[Forward | None]("_maps")
    target_layer = Setting[str | None]("_maps")
    contrast = Setting[str | None]("_maps")
    robustness = Setting[tuple[str, ...]]("_maps")
    num_samples = Setting[int]("_choice")
    samples = Setting[Any]("_choice")
    suspects = Setting[int]("_choice")
    target = Setting[str]("_choice")
    inputs = Setting[Any]("_choice")
    decode = Setting[Callable[[int], str] | None]("_choice")
    masks = Setting[Any]("_choice")

    def __init__(
        self,
        *,
        methods: Sequence[Method] | Method = DEFAULT_METHODS,
        method_args: dict[str, dict[str, Any]] | None = None,
        metrics: Sequence[str] = DEFAULT_METRICS,
        baseline: int | str | Callable[[Tensor], Tensor] = "blur",
        steps: int | Literal["auto"] = 20,
        patch_size: int = 1,
        precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        seed: int = 0,
        num_samples: int = 8,
        samples: tuple[Tensor, Tensor] | Sequence[int] | Sequence[str] | None = None,
        suspects: int = 4,
        target: Literal["label", "prediction"] = "label",
        inputs: str | tuple[str, str] | Callable[[Any], tuple[Tensor, Tensor]] = "auto",
        forward: Forward | None = None,
        decode: Callable[[int], str] | None = None,
        masks: str | int | Tensor | Callable[[Any], Tensor] | None = None,
        target_layer: str | None = None,
        contrast: str | None = "input_x_gradient",
        robustness: Sequence[str] = (),
        every_n_epochs: int = 1,
        max_overhead: float | None = 0.05,
        x_axis: Literal["step", "epoch"] = "step",
        name: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(every_n_epochs, max_overhead, x_axis, name=name, on_error=on_error)
        # Texts come first in the types above: jsonargparse cannot write them into a saved configuration otherwise.
        self._maps = MapSettings(
            resolved_methods(methods), method_args, check_metrics(metrics), resolved(baseline), steps, patch_size,
            precision, seed, forward, target_layer, contrast, check_robustness(robustness),
        )  # fmt: skip
        self._choice = SampleSettings(num_samples, samples, suspects, target, resolved(inputs), decode, resolved(masks))
        self._explanations = RunExplanations(self._settings)
        self._tracked_samples = TrackedSamples()
        self._contrasts_on = True

    @property
    def _settings(self) -> ExplanationSettings:
        return ExplanationSettings(self._maps, self._choice, strict=self.on_error == "raise")

    def _begin_fit(self, trainer: Any, pl_module: Any) -> None:
        self._contrasts_on = True
        if self.target_layer is not None:
            module_named(pl_module, self.target_layer)
        by_id = self._explanations.samples.by_id
        self._tracked_samples.install(trainer, by_id=by_id, gallery=GallerySource(self._contrasts, self.decode))
        has_no_tracker = self._tracked_samples.tracker is None
        self._explanations.begin_fit(self._settings, scoring_precision(trainer), is_only_one=has_no_tracker)

    def _open_pictures(self, trainer: Any) -> ExplanationPictures:
        if tensorboard_writer(trainer) is None and not picture_loggers(trainer):
            warn(
                "Expected the Trainer to have a TensorBoardLogger, got none. Pass `logger=TensorBoardLogger(...)` "
                "to see the explanations in TensorBoard. Their pictures are written to "
                f"{self._folder / 'pictures'}."
            )
        decode = self.decode or self._tracked_samples.decode
        return ExplanationPictures(sink_of(trainer, self._folder), tag_prefix(self.name), decode)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find out how inputs are scaled and what the classes are called, so that pictures can show both."""
        if self._pictures is None:
            return
        folder, epoch = self._folder / "explanations", trainer.current_epoch
        self._attempt(folder.name, lambda: forget_epochs(folder, epoch))
        with self._or_switched_off():  # a dataset may hold anything
            show_as_trained(self._pictures, trainer, pl_module)
            self._pictures.names = self._tracked_samples.class_names or self._pictures.names
            if self.inputs == "auto":  # others may have the columns in another order
                self._pictures.columns = feature_names(self._tracked_samples.dataset(trainer))
        writer = tensorboard_writer(trainer)
        if writer is not None:
            write_layout(writer, chart_layouts(trainer))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Ask the record for the suspects that are to be explained, and begin to collect them from the batches."""
        super().on_train_epoch_start(trainer, pl_module)
        with self._or_switched_off():
            self._tracked_samples.begin_epoch(trainer)
            self._explanations.samples.look_for_suspects(self._suspects_to_explain(trainer.current_epoch))

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Choose the samples to explain from the first validation that is no sanity check."""
        samples = self._explanations.samples
        if self._pictures is None or trainer.sanity_checking or dataloader_idx or samples.is_chosen:
            return
        with self._or_switched_off():
            loader = loader_at(trainer.val_dataloaders, dataloader_idx)
            part = samples.readable(batch, getattr(loader, "dataset", None))
            samples.choose_from(part, position=first_position(loader, batch_idx))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the samples that were chosen."""
        super().on_validation_end(trainer, pl_module)
        if self._pictures is not None and not trainer.sanity_checking:
            self._explanations.samples.end_choice()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Copy the samples of the batch that will be explained."""
        if self._pictures is None:
            return
        with self._or_switched_off():
            part = self._tracked_samples.part_of(batch)
            if part is not None:
                samples = self._explanations.samples
                part = samples.readable(part, self._tracked_samples.dataset(trainer))
                ids = self._tracked_samples.ids_of(trainer, batch)
                samples.begin_step(pl_module, part, ids, choose=not validates_in_epoch(trainer))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Stop observing the forward pass of the training step, which ends here."""
        self._explanations.samples.observer.stop(loss)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Find out from the first steps where images and labels stand in a batch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        samples = self._explanations.samples
        if self._pictures is not None and not samples.observer.is_done:
            with self._or_switched_off():
                samples.end_step(self._tracked_samples.presented_units)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Explain the last epoch if it is due, write the last pictures, and warn if nothing could be explained."""
        super().on_train_end(trainer, pl_module)
        if self._pictures is None:
            return
        with self._or_switched_off():
            self._attempt("pictures", self._pictures.finish)
        self._writes.say_missing("The files of all other epochs are complete.")
        if not self._explanations.samples.is_chosen:
            warn(
                "Expected at least one batch with images to explain, got none in this fit, so nothing was explained. "
                "Validate more often, or pass the samples to explain as `samples=(images, labels)` or as ids."
            )

    def _or_switched_off(self) -> AbstractContextManager[None]:
        return several_inputs_told(
            super()._or_switched_off(), self._explanations.samples.observer,
            has_forward=self.forward is not None, has_inputs=self.inputs != "auto",
        )  # fmt: skip

    def tensorboard_layout(self) -> Layout:
        """Return the custom charts that compare each method with a random ranking."""
        names = [method if isinstance(method, str) else method.__name__ for method in self.methods]
        controlled = [metric for metric in self.metrics if metric not in UNCONTROLLED]
        uncontrolled = [metric for metric in self.metrics if metric in UNCONTROLLED]
        return faithfulness_layout(tag_prefix(self.name), names, controlled=controlled, uncontrolled=uncontrolled)

    def state_dict(self) -> dict[str, Any]:
        """Return the chosen samples and the maps with which later maps are compared."""
        return self._explanations.state_dict() | super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the samples and maps of a checkpoint."""
        self._explanations.load_state_dict(state_dict)
        super().load_state_dict(state_dict)

    def _end_fit(self) -> None:
        super()._end_fit()
        self._explanations.samples.look_for_suspects(None)
        self._explanations.samples.observer.close()
        self._tracked_samples.close()

    def _suspects_to_explain(self, epoch: int) -> Sequence[int | str] | None:
        is_due = self._pictures is not None and self._schedule.is_due(epoch)
        if not is_due or not self._explanations.samples.suspects_readable:
            return None
        return self._tracked_samples.suspects(self.suspects, epoch, in_gallery=self.contrast is not None)

    def _make(self, trainer: Any, pl_module: Any, *, epoch: int, step: int) -> bool:
        units = self._tracked_samples.units(self._explanations.samples.suspect_ids)
        explanations = self._explanations.explain(pl_module, units)
        if explanations is not None:  # None: no sample that can be explained has passed yet
            self._write(trainer, explanations, epoch, step)
        return explanations is not None

    def _log_account(self, trainer: Any, account: dict[str, float], step: int) -> None:
        prefix = tag_prefix(self.name)
        log_scalars(trainer, {f"{prefix}/explanations/{key}": value for key, value in account.items()}, step)

    def _contrasts(self, pl_module: Any, classes: Mapping[Any, tuple[int, int]]) -> dict[Any, Array]:
        """Return maps of the tracker's suspects for its gallery; ``classes`` has suggested and given class by id."""
        maps: dict[Any, Array] = {}
        if self._pictures is None or not self._contrasts_on:
            return maps
        switch_off = functools.partial(setattr, self, "_contrasts_on", False)
        guard = switched_off_on_error("Maps in the gallery of suspects", switch_off, self.on_error)
        with self._schedule.timed_aside(), guard:
            maps = self._explanations.contrasts(pl_module, classes)
        return maps

    def _write(self, trainer: Any, explanations: EpochExplanations, epoch: int, step: int) -> None:
        assert self._pictures is not None
        prefix, scalars = tag_prefix(self.name), explanations.scalars()
        log_scalars(trainer, {f"{prefix}/{key}": value for key, value in scalars.items()}, step)
        draw = functools.partial(self._pictures.write, explanations, epoch=epoch, step=step)
        self._attempt("pictures", draw)
        file = self._folder / "explanations" / epoch_file(epoch)
        self._attempt(file.name, lambda: write_arrays(file, explanations.arrays()))
