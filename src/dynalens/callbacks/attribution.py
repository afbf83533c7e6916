"""The callback that explains some samples in every epoch: Lightning hooks become calls."""

import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dynalens.attribution import Method, check_contrast, check_methods, resolved_methods
from dynalens.callbacks.checks import check_choice, check_explained, check_positive
from dynalens.callbacks.guarded import GuardedPictures, switched_off_on_error
from dynalens.callbacks.named import NamedCallback
from dynalens.callbacks.training_dynamics import TrainingDynamicsMonitor
from dynalens.datasets import class_names
from dynalens.dynamics import Array
from dynalens.explanations import (
    EarlierMaps,
    EpochExplanations,
    ExplainedSamples,
    Explainer,
    ExplanationPictures,
    Passed,
    Schedule,
    check_inputs,
    suspect_contrasts,
)
from dynalens.faithfulness import CurveSettings, check_metrics
from dynalens.host import (
    Processes,
    chart_layouts,
    check_whole_model,
    check_x_axis,
    first_position,
    loader_at,
    log_scalars,
    log_step,
    picture_loggers,
    run_folder,
    scoring_precision,
    tag_prefix,
    tensorboard_writer,
    validates_in_epoch,
)
from dynalens.identity import SampleIdentity
from dynalens.observation import module_named
from dynalens.paths import resolved
from dynalens.pictures import Normalisation, find_normalisation
from dynalens.record import epoch_file, forget_epochs, write_arrays
from dynalens.tensorboard import Layout, faithfulness_layout, make_sink, write_layout

Forward = Callable[[Any, Tensor], Tensor]

_METRICS = ("deletion", "insertion", "symmetric_relevance_gain", "attribution_drift")


class AttributionMonitor(GuardedPictures, NamedCallback):
    """Show at the end of each epoch where the model looks, and whether its maps name the pixels that it uses.

    Eight samples of as many classes as the first 100 batches of the first real validation hold are kept for the run
    (of the first training batch where the first epoch has none) and explained in every epoch in float32, with the label
    as target. Their ids and maps are kept: see :func:`load_explanations`.
    Beside a TrainingDynamicsMonitor, the worst suspects of the epoch before are explained too, for given and predicted
    label. Pictures go to TensorBoard, or to files without such a logger, all numbers of each sample to
    ``<log_dir>/dynalens/explanations/``. Beside each metric stands that of a random ranking.

    Images, volumes (N, C, D, H, W), of which pictures show the middle slice, signals (N, C, T), rows of a table (N, F),
    whose replaced columns are zero by default, and tokens (N, T), explained at their embedding, can be explained; so
    can integer images that the model scales, and complex ones by real and imaginary parts. Samples whose label names no
    class are left out. With several processes the first one explains what it sees. Training is not disturbed.

    Args:
        methods: Names of maps: those of the functions in ``dynalens.attribution``, such as "saliency", "smooth_grad",
            "grad_cam"; "captum:<Class>", such as "captum:Occlusion"; or callables (model, images, targets) -> maps or
            dotted paths of such, which go by their ``__name__``.
        method_args: For the name of a method, arguments of its function: ``{"smooth_grad": {"samples": 10}}``. See
            :func:`dynalens.explain`.
        metrics: Names of metrics of each map: "deletion", "insertion" (areas under the curves),
            "symmetric_relevance_gain", "deletion_rescaled", "insertion_rescaled", "average_drop", "average_increase",
            "class_sensitivity" (against the map of the most probable other class), "attribution_drift" (rank
            correlation with the last explanation) and "randomisation_check" (with the first one).
        baseline: What replaced pixels show: "blur", "zero", "mean" or a callable(images) -> images or its dotted path;
            for tokens the id of one that says nothing: that of the mask or of unknown words.
        steps: Steps of a curve, or "auto" to set points where it bends.
        patch_size: Side of the patches that are replaced together.
        precision: Of the passes that score perturbed images: "auto" is the Trainer's, or "float32", "bfloat16",
            "float16".
        seed: Of the order of equally relevant pixels and of the random ranking.
        num_samples: How many samples are kept.
        samples: What to explain instead: images (N, C, H, W) and labels (N,), or ids of training samples.
        suspects: How many suspects are explained beside them: the first of ``TrainingDynamicsMonitor.suspects``
            so far.
        target: "label" or "prediction": the class that the kept samples are explained for.
        inputs: Where images and labels stand in the batch: (key, key), callable(batch) -> (images, labels) or its
            dotted path. "auto": where the first training steps take the network's input and the loss's targets from;
            where that is not seen, the first entry and its label, or usual keys.
        forward: Callable(pl_module, images) -> logits; default: the module, or its only child that gives logits.
        decode: Callable(token id) -> its word, as of a tokenizer, for pictures of tokens; an empty one is not drawn.
            Default: the id.
        target_layer: Dotted name of the layer for class activation maps; default: the last one with feature maps, of
            convolutional networks and of transformers, found at the first explanation.
        contrast: Name of the method that shows, in the gallery of a TrainingDynamicsMonitor's suspects, what speaks for
            the suggested rather than the given class (:func:`dynalens.contrast`); None for no such map.
        every_n_epochs: Epochs between two explanations.
        max_overhead: Explaining may take this fraction of the time of training: where it takes more, it happens less
            often. None: in each of the ``every_n_epochs``, whatever it takes.
        x_axis: "step" as Lightning logs an epoch's metrics, or "epoch".
        name: Tells several monitors of one Trainer apart; they write ``dynalens/<name>/``.
        on_error: "warn" says once what fails while training and leaves it out: a method, a metric, or all explanations;
            "raise" raises. Where memory runs out, smaller and smaller chunks are tried first.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        The maps' settings go by their names; a mistake is said before training.

        >>> AttributionMonitor(methods="smooth_grad", method_args={"smooth_grad": {"samples": 10}}).methods
        ('smooth_grad',)
        >>> AttributionMonitor(metrics=["deletions"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: Expected `metrics` ...
    """

    guarded = "Explanations"

    def __init__(
        self,
        *,
        methods: Sequence[Method] | Method = ("saliency", "grad_cam"),
        method_args: dict[str, dict[str, Any]] | None = None,
        metrics: Sequence[str] = _METRICS,
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
        target_layer: str | None = None,
        contrast: str | None = "input_x_gradient",
        every_n_epochs: int = 1,
        max_overhead: float | None = None,
        x_axis: Literal["step", "epoch"] = "step",
        name: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__()
        check_positive(num_samples=num_samples, every_n_epochs=every_n_epochs)
        check_explained(suspects=suspects, max_overhead=max_overhead)
        check_choice("on_error", on_error, ("warn", "raise"))
        check_choice("target", target, ("label", "prediction"))
        check_methods(methods, method_args)
        if contrast is not None:
            check_contrast(contrast)
        self.methods = resolved_methods(methods)
        self.method_args, self.metrics = method_args, check_metrics(metrics)
        # Texts come first in the types above: jsonargparse cannot write them into a saved configuration otherwise.
        baseline, inputs = resolved(baseline), resolved(inputs)
        self.baseline, self.steps, self.patch_size, self.seed = baseline, steps, patch_size, seed
        self.precision, self.suspects, self.target, self.contrast = precision, suspects, target, contrast
        self.num_samples, self.inputs, self.forward, self.decode = num_samples, inputs, forward, decode
        self.samples, self.target_layer, self.every_n_epochs = samples, target_layer, every_n_epochs
        self.max_overhead, self.x_axis = max_overhead, check_x_axis(x_axis)
        self.name, self.on_error = name, on_error
        self._explainer = self._new_explainer("float32" if precision == "auto" else precision)
        self._schedule = Schedule(every_n_epochs, max_overhead)
        check = functools.partial(check_inputs, methods=self.methods, metrics=self.metrics, baseline=baseline)
        self._samples = ExplainedSamples(samples, number=num_samples, inputs=inputs, check=check)
        self._earlier = EarlierMaps()
        self._dynamics: TrainingDynamicsMonitor | None = None
        self._identity: SampleIdentity | None = None
        self._processes: Processes | None = None
        self._pictures: ExplanationPictures | None = None
        self._class_names: Sequence[str] | None = None
        self._normalisation: Normalisation | None = None
        self._folder, self._epoch_began, self._contrasts_on = Path(), 0.0, True

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the layer's name and find out where pictures go."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        check_whole_model(trainer, type(self).__name__)
        self._processes = Processes(trainer)
        self._contrasts_on = True
        if self.target_layer is not None:
            module_named(pl_module, self.target_layer)
        monitors = [callback for callback in trainer.callbacks if isinstance(callback, TrainingDynamicsMonitor)]
        self._dynamics = monitors[0] if monitors else None
        self._samples.begin_fit(alone=self._dynamics is None)
        if self._dynamics is not None:
            self._identity = self._dynamics.identity
            self._dynamics.draw_contrasts_with(self._contrasts)
        elif self._samples.by_id:
            self._identity = SampleIdentity()
            self._identity.install(trainer)
        precision = scoring_precision(trainer) if self.precision == "auto" else self.precision
        self._explainer = self._new_explainer(precision)
        self._schedule = Schedule(self.every_n_epochs, self.max_overhead)
        self._folder = run_folder(trainer, self.name)
        writer = tensorboard_writer(trainer)
        if not self._processes.is_first:
            return
        others = picture_loggers(trainer)
        sink = make_sink(writer, others, self._folder / "pictures")
        self._pictures = ExplanationPictures(sink, tag_prefix(self.name))
        if writer is None and not others:
            warnings.warn(
                "Expected the Trainer to have a TensorBoardLogger, got none. Pass `logger=TensorBoardLogger(...)` to "
                f"see explanations there; their pictures are written to {self._folder / 'pictures'} meanwhile.",
                stacklevel=2,
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find out how inputs and classes are shown."""
        if self._pictures is None:
            return
        forget_epochs(self._folder / "explanations", trainer.current_epoch)
        dataset = getattr(trainer.train_dataloader, "dataset", None)
        self._class_names = class_names(dataset)
        self._normalisation = find_normalisation(pl_module, getattr(trainer, "datamodule", None), dataset)
        writer = tensorboard_writer(trainer)
        if writer is not None:
            write_layout(writer, chart_layouts(trainer))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Look out for the suspects of the epochs before."""
        self._epoch_began = time.perf_counter()
        with self._or_switched_off():
            if self._identity is not None and self._dynamics is None:
                self._identity.start(trainer, None)
            self._samples.look_for_suspects(self._wanted_suspects(trainer.current_epoch))

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Choose samples of the first real validation."""
        if self._pictures is None or trainer.sanity_checking or dataloader_idx or self._samples.chosen:
            return
        with self._or_switched_off():
            loader = loader_at(trainer.val_dataloaders, dataloader_idx)
            part = self._samples.readable(batch, getattr(loader, "dataset", None))
            self._samples.choose_from(part, first=first_position(loader, batch_idx))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the samples that were chosen."""
        if self._pictures is not None and not trainer.sanity_checking:
            self._samples.end_choice()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep what is to be explained of the training images."""
        if self._pictures is None:
            return
        with self._or_switched_off():
            part = self._identity.part_of(batch) if self._identity is not None else batch
            if part is None:
                return
            source = trainer.train_dataloader if self._identity is None else self._identity
            part, ids = self._samples.readable(part, getattr(source, "dataset", None)), None
            if self._identity is not None:
                ids = functools.partial(self._identity.sample_ids, trainer, batch)
            self._samples.begin_step(pl_module, part, ids, choose=not validates_in_epoch(trainer))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """What is computed from here on is not the step's forward pass."""
        self._samples.observer.stop(loss)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Learn from the first steps where images and labels stand in a batch."""
        if self._pictures is not None and not self._samples.observer.done:
            with self._or_switched_off():
                self._samples.end_step()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Explain the images that are kept, in the first process; the others wait for it."""
        self._schedule.trained(time.perf_counter() - self._epoch_began)
        if self._processes is not None:
            self._processes.in_first(lambda: self._explain_or_stop(trainer, pl_module))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the film strips up to the last epoch; say so if there was nothing to explain in any of them."""
        if self._pictures is None:
            return
        with self._or_switched_off():
            self._pictures.write_films()
        if not self._samples.chosen:
            warnings.warn(
                "Expected a batch whose images are explained, got none in this fit: nothing was explained. Validate "
                "more often, or pass `samples=`: images and labels, or ids.",
                stacklevel=2,
            )

    def tensorboard_layout(self) -> Layout:
        """Return the custom charts that show this monitor's scalars together."""
        names = [method if isinstance(method, str) else method.__name__ for method in self.methods]
        return faithfulness_layout(tag_prefix(self.name), names, self.metrics)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of the writer and of the loader."""
        self._end_fit()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """As ``teardown``, which Lightning leaves out after an exception."""
        self._end_fit()

    def state_dict(self) -> dict[str, Any]:
        """Return the images that are kept and the maps that later ones are compared with."""
        return self._samples.state_dict() | {
            "first": dict(self._earlier.first),
            "last": dict(self._earlier.last),
            "next_epoch": self._schedule.next_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the images of a checkpoint."""
        self._samples.load_state_dict(state_dict)
        self._earlier = EarlierMaps(state_dict["first"], state_dict["last"])
        self._schedule.next_epoch = state_dict["next_epoch"]

    def _new_explainer(self, precision: str) -> Explainer:
        settings = CurveSettings(self.baseline, self.steps, self.patch_size, self.seed, precision)
        return Explainer(
            self.methods, self.metrics, settings, self.method_args, self.target_layer, forward=self.forward,
            strict=self.on_error == "raise",
        )  # fmt: skip

    def _end_fit(self) -> None:
        self._pictures, self._processes = None, None
        self._samples.look_for_suspects(None)
        self._samples.observer.close()
        if self._identity is not None and self._dynamics is None:
            self._identity.close()
        self._identity = None

    def _wanted_suspects(self, epoch: int) -> Sequence[int | str] | None:
        due = self._pictures is not None and self._schedule.due(epoch)
        if not due or self._dynamics is None or not self._samples.suspects_readable:
            return None
        wanted = max(self.suspects, self._dynamics.followed_suspects(epoch) if self.contrast else 0)
        return self._dynamics.suspect_ids(wanted) if wanted else None

    def _explain_or_stop(self, trainer: Any, pl_module: Any) -> None:
        if self._pictures is None or not self._schedule.due(trainer.current_epoch):
            return
        began = time.perf_counter()
        with self._or_switched_off():
            samples = self._samples.every_epoch()
            if samples is None:
                return  # no sample that can be explained has passed yet
            self._write(trainer, self._explanations(pl_module, samples))
            accounts = self._schedule.account(trainer.current_epoch, time.perf_counter() - began)
            scalars = {f"{tag_prefix(self.name)}/explanations/{key}": value for key, value in accounts.items()}
            log_scalars(trainer, scalars, log_step(trainer, self.x_axis))

    def _explanations(self, pl_module: Any, samples: Passed) -> EpochExplanations:
        explained = functools.partial(self._explainer.explained, pl_module)
        kept = explained(samples, predicted=self.target == "prediction")
        self._earlier.compare(kept, self.metrics)
        suspects, passed = {}, self._samples.suspects(self.suspects)
        if passed is not None:
            suspects["label"] = explained(passed)
            predicted = suspects["label"].explanation.logits.argmax(dim=1)
            suspects["prediction"] = explained(passed, targets=predicted)
        return EpochExplanations(kept, suspects)

    def _contrasts(self, pl_module: Any, wanted: Mapping[Any, tuple[int, int]]) -> dict[Any, Array]:
        """Return maps of the tracker's suspects for its gallery; ``wanted`` has suggested and given class by id."""
        if self._pictures is None or self.contrast is None or not self._contrasts_on:
            return {}
        began, maps = time.perf_counter(), dict[Any, Array]()
        switch_off = functools.partial(setattr, self, "_contrasts_on", False)
        with switched_off_on_error("Maps in the gallery of suspects", switch_off, self.on_error):
            contrasted = functools.partial(self._explainer.contrasted, pl_module, method=self.contrast)
            maps = suspect_contrasts(self._samples.suspects(), wanted, contrasted)
        seconds = time.perf_counter() - began
        self._schedule.aside(seconds)
        self._epoch_began += seconds  # a tracker that draws first must not make the training look longer
        return maps

    def _write(self, trainer: Any, explanations: EpochExplanations) -> None:
        assert self._pictures is not None
        epoch, step, prefix = trainer.current_epoch, log_step(trainer, self.x_axis), tag_prefix(self.name)
        scalars = explanations.scalars()
        log_scalars(trainer, {f"{prefix}/faithfulness/{key}": mean for key, mean in scalars.items()}, step)
        self._pictures.write(
            explanations.rows(names=self._class_names, normalisation=self._normalisation, decode=self.decode),
            explanations.fractions().numpy(),
            epoch=epoch,
            step=step,
            title=explanations.title(epoch),
            fixed=len(explanations.kept.labels),
        )
        write_arrays(self._folder / "explanations" / epoch_file(epoch), explanations.arrays())
