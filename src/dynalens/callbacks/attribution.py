"""The callback that explains some samples in every epoch: Lightning hooks become calls."""

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynalens.attribution import Explanation, check_methods, explain, find_forward, pixel_relevance
from dynalens.callbacks.explanation_pictures import ExplanationPictures
from dynalens.capture import images_and_labels
from dynalens.faithfulness import (
    area_under_curve,
    baseline_images,
    check_metrics,
    faithfulness_curves,
    replaced_fractions,
)
from dynalens.host import (
    CallbackBase,
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
from dynalens.identity import dataset_class_names
from dynalens.observation import module_named
from dynalens.pictures import ExplanationRow, Normalisation, class_name, find_normalisation, shown_inputs
from dynalens.records import write_arrays
from dynalens.tensorboard import Layout, Sink, faithfulness_layout, make_sink, write_layout

Forward = Callable[[Any, Tensor], Tensor]


class AttributionMonitor(CallbackBase):
    """Show at the end of each epoch where the model looks, and whether its maps name the pixels that it uses.

    The first images of the first real validation batch are kept for the whole run (without validation, of the first
    training batch) and explained in every epoch, with the label as target, on the module's device in float32. The
    picture goes to TensorBoard, or to files where there is no such logger; curves and areas of each sample go to
    ``<log_dir>/dynalens/explanations/``. Training is not disturbed: weights, random streams and gradients stay as
    they would be without the callback.

    Args:
        methods: Names of maps: "saliency", "input_x_gradient", "grad_cam".
        metrics: Names of metrics of each map: "deletion", "insertion".
        baseline: What replaced pixels show: "blur", "zero" or "mean".
        steps: Steps of a curve.
        seed: Of the order of pixels with equal relevance.
        num_samples: How many images are kept.
        samples: Images (N, C, H, W) and labels (N,) to explain instead of a batch's.
        inputs: Where images and labels stand in the batch: "auto", (key, key) or callable(batch) -> (images, labels).
        forward: Callable(pl_module, images) -> logits; default: the module, or its only child that gives logits.
        target_layer: Dotted name of Grad-CAM's layer; default: the last one with a feature map.
        every_n_epochs: Epochs between two explanations.
        x_axis: "step" as Lightning logs an epoch's metrics, or "epoch".
        name: Tells several monitors of one Trainer apart; they write ``dynalens/<name>/``.
        on_error: "warn" switches explanations off with one warning if one fails while training; "raise" raises.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        *,
        methods: Sequence[str] = ("saliency", "grad_cam"),
        metrics: Sequence[str] = ("deletion", "insertion"),
        baseline: str = "blur",
        steps: int = 20,
        seed: int = 0,
        num_samples: int = 8,
        samples: tuple[Tensor, Tensor] | None = None,
        inputs: str | tuple[str, str] | Callable[[Any], tuple[Tensor, Tensor]] = "auto",
        forward: Forward | None = None,
        target_layer: str | None = None,
        every_n_epochs: int = 1,
        x_axis: Literal["step", "epoch"] = "step",
        name: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__()
        for argument, value in (("steps", steps), ("num_samples", num_samples), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise ValueError(f"Expected `{argument}` to be at least 1, got {value}. Pass a positive number.")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"Expected `on_error` to be 'warn' or 'raise', got {on_error!r}. Choose one of them.")
        baseline_images(torch.zeros(1, 1, 1, 1), baseline)  # raises if it is unknown
        self.methods, self.metrics = check_methods(methods), check_metrics(metrics)
        self.baseline, self.steps, self.seed = baseline, steps, seed
        self.num_samples, self.samples, self.inputs, self.forward = num_samples, samples, inputs, forward
        self.target_layer, self.every_n_epochs, self.x_axis = target_layer, every_n_epochs, check_x_axis(x_axis)
        self.name, self.on_error = name, on_error
        self._kept: tuple[Tensor, Tensor] | None = None
        self._sink: Sink | None = None
        self._pictures: ExplanationPictures | None = None
        self._class_names: Sequence[str] | None = None
        self._normalisation: Normalisation | None = None
        self._folder = Path()

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the layer's name and find out where pictures go."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        refuse_processes(trainer, type(self).__name__)
        if self.target_layer is not None:
            module_named(pl_module, self.target_layer)
        self._folder = run_folder(trainer, self.name)
        writer = tensorboard_writer(trainer)
        others = picture_loggers(trainer)
        self._sink = make_sink(writer, others, self._folder / "pictures")
        if writer is None and not others:
            warnings.warn(
                "Expected the Trainer to have a TensorBoardLogger, got none. Pass `logger=TensorBoardLogger(...)` to "
                f"see explanations there; their pictures are written to {self._folder / 'pictures'} meanwhile.",
                stacklevel=2,
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find out how inputs and classes are shown."""
        if self._sink is None:
            return
        dataset = getattr(trainer.train_dataloader, "dataset", None)
        self._pictures = ExplanationPictures(self._sink, tag_prefix(self.name))
        self._class_names = dataset_class_names(dataset)
        self._normalisation = find_normalisation(pl_module, getattr(trainer, "datamodule", None), dataset)
        writer = tensorboard_writer(trainer)
        if writer is not None:
            write_layout(writer, chart_layouts(trainer))

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first images of the first real validation batch."""
        if not trainer.sanity_checking:
            self._keep(batch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the first training images where nothing is validated."""
        if not trainer.enable_validation:
            self._keep(batch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Explain the images that are kept."""
        if self._sink is None or trainer.current_epoch % self.every_n_epochs:
            return
        if self.samples is not None:
            self._kept = self.samples[0].to(pl_module.device), self.samples[1].to(pl_module.device)
        if self._kept is None:
            return  # validation runs less often than every epoch, and has not run yet
        try:
            self._explain(trainer, pl_module, *self._kept)
        except Exception as error:
            self._sink = None
            if self.on_error == "raise":
                raise
            warnings.warn(
                f"Explanations are switched off, training goes on: {type(error).__name__}: {error}", stacklevel=2
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the film strips up to the last epoch."""
        if self._sink is not None and self._pictures is not None:
            self._pictures.write_films()

    def tensorboard_layout(self) -> Layout:
        """Return the custom charts that show this monitor's scalars together."""
        return faithfulness_layout(tag_prefix(self.name), self.methods, self.metrics)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of the writer."""
        self._sink = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of the writer; Lightning leaves ``teardown`` out after an exception."""
        self._sink = None

    def _keep(self, batch: Any) -> None:
        if self._sink is None or self._kept is not None or self.samples is not None:
            return
        images, labels = images_and_labels(batch, self.inputs)
        # Cloned: the step may work in place.
        self._kept = images[: self.num_samples].detach().clone(), labels[: self.num_samples].detach().clone()

    def _explain(self, trainer: Any, pl_module: nn.Module, images: Tensor, targets: Tensor) -> None:
        forward = functools.partial(self.forward, pl_module) if self.forward else find_forward(pl_module, images)
        explanation = explain(
            pl_module, images, targets, methods=self.methods, target_layer=self.target_layer, forward=forward
        )
        relevance = {m: pixel_relevance(m, maps, images.shape[2:]) for m, maps in explanation.maps.items()}
        curves = {
            m: faithfulness_curves(
                pl_module, images, targets, maps, metrics=self.metrics, baseline=self.baseline, steps=self.steps,
                seed=self.seed, forward=forward,
            )
            for m, maps in relevance.items()
        }  # fmt: skip
        self._write(trainer, images, targets, explanation, relevance, curves)

    def _write(
        self,
        trainer: Any,
        images: Tensor,
        targets: Tensor,
        explanation: Explanation,
        relevance: dict[str, Tensor],
        curves: dict[str, dict[str, Tensor]],
    ) -> None:
        assert self._sink is not None
        epoch, step, prefix = trainer.current_epoch, log_step(trainer, self.x_axis), tag_prefix(self.name)
        fractions = replaced_fractions(images.shape[2:].numel(), self.steps)
        areas = {
            m: {metric: area_under_curve(c, fractions.to(c.device)) for metric, c in of.items()}
            for m, of in curves.items()
        }
        log_scalars(
            trainer,
            {f"{prefix}/faithfulness/{m}/{k}": float(a.mean()) for m, of in areas.items() for k, a in of.items()},
            step,
        )
        layer = f"; Grad-CAM of {explanation.target_layer}" if explanation.target_layer else ""
        assert self._pictures is not None
        rows = _rows(
            images, targets, explanation, relevance, curves, areas,
            names=self._class_names, normalisation=self._normalisation,
        )  # fmt: skip
        title = f"epoch {epoch}{layer}"
        self._pictures.write(rows, fractions.numpy(), epoch=epoch, step=step, title=title, fixed=len(rows))
        arrays = {"fractions": fractions, "targets": targets, "logits": explanation.logits}
        for m, of in curves.items():
            for metric, values in of.items():
                arrays |= {f"{m}/{metric}/curves": values, f"{m}/{metric}/areas": areas[m][metric]}
        write_arrays(
            self._folder / "explanations" / f"epoch_{epoch:06d}.npz",
            {key.replace("/", "."): values.cpu().numpy() for key, values in arrays.items()},
        )


def _rows(
    images: Tensor,
    targets: Tensor,
    explanation: Explanation,
    relevance: dict[str, Tensor],
    curves: dict[str, dict[str, Tensor]],
    areas: dict[str, dict[str, Tensor]],
    *,
    names: Sequence[str] | None,
    normalisation: Normalisation | None,
) -> list[ExplanationRow]:
    p = explanation.logits.softmax(dim=1)
    shown, predicted = shown_inputs(images, normalisation), p.argmax(dim=1).tolist()
    p_label = p.gather(1, targets.unsqueeze(1)).squeeze(1).tolist()
    return [
        ExplanationRow(
            image=shown[i],
            label=class_name(target, names),
            predicted=class_name(predicted[i], names),
            p_label=p_label[i],
            right=target == predicted[i],
            maps={m: maps[i].cpu().numpy() for m, maps in relevance.items()},
            curves={m: {metric: c[i].cpu().numpy() for metric, c in of.items()} for m, of in curves.items()},
            areas={m: {metric: float(a[i]) for metric, a in of.items()} for m, of in areas.items()},
        )
        for i, target in enumerate(targets.tolist())
    ]
