"""The callback that shows what a layer computes: Lightning hooks become calls."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from dynalens.callbacks.base import Setting
from dynalens.callbacks.paced import PacedMonitor
from dynalens.capture import BatchObserver, CaptureError, batch_copy, inputs_to_show
from dynalens.explanations.forms import forward_in_network
from dynalens.explanations.unlike_inputs import ChangedInputs
from dynalens.host import log_step, tag_prefix
from dynalens.logs import LayerLog, LayerPictures, LayerSettings, show_as_trained, sink_of, unit_numbers


class LayerMonitor(PacedMonitor):
    """Show what a layer computes: first-layer filters, feature maps, the inputs that excite a channel, ideal inputs.

    It shows only what you ask for, so pass at least one of ``weights``, ``feature_maps``, ``top_inputs`` and
    ``maximise``. Pictures go to TensorBoard, or to files if there is no TensorBoardLogger. With several processes, the
    first process shows what it sees. Weights, random numbers and gradients are those of a run without the callback.

    Args:
        layer: Dotted name of the layer whose channels are shown. Only filters and images of classes need none.
        channels: The numbers of the channels, or one number: how many channels, from the first one.
        weights: True shows the filters of the first convolution. A dotted name shows those of another convolution.
        feature_maps: Number of inputs for which the maps of the channels are shown. They are the first inputs of the
            first validation batch (not of the sanity check) or, without validation, of the first training batch.
        top_inputs: Number of inputs to show for each channel: those with the largest value in the channel's map. They
            are searched in the forward passes of each validation, in which the weights stay the same, or without
            validation in those of training.
        maximise: "classes" or "channels": at the end of training, draw an image that maximises each of them
            (:func:`dynalens.maximise_activation`). None: no such images.
        classes: The numbers of the classes to maximise, or one number: how many classes, from the first one.
        maximise_steps: Number of forward and backward passes that make such an image.
        maximise_args: More arguments of :func:`dynalens.maximise_activation`: "variants", "diversity",
            "diversity_layer" (default: ``layer``), "frequency_penalty", "robust", "seed".
        inputs: Where images stand in the batch: a key or a callable(batch). "auto" takes the entry that the first
            training steps give to the network. If it cannot see it, it takes the first entry or a usual key of a dict.
        forward: Callable(pl_module, images) -> logits. Default: the module, or its only child that gives logits. Of
            several outputs, the one whose loss was computed.
        every_n_epochs: Smallest number of epochs from one picture to the next. After ten epochs with pictures they are
            drawn less often, and always in the last epoch.
        max_overhead: Largest fraction of the training time that pictures may take. The search for ``top_inputs`` and
            the images of ``maximise`` are not counted. If pictures would take more, only the first epoch, the last one
            and some in between have them. None: no limit.
        x_axis: "step", the step at which Lightning logs the metrics of an epoch, or "epoch".
        name: Tells several monitors of one Trainer apart. Their tags begin with ``dynalens/<name>/``.
        on_error: What to do if a picture fails during training. "warn" warns once and draws no more pictures. "raise"
            raises the error.

    Raises:
        ValueError: If an argument is out of its range, or nothing is asked for.

    Example:
        >>> LayerMonitor(layer="layer4", feature_maps=4, top_inputs=8).layer
        'layer4'
        >>> LayerMonitor(feature_maps=4)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: Expected `layer` to name a layer for `feature_maps`...
    """

    results = "Pictures of layers"

    layer = Setting[str | None]("_settings")
    channels = Setting[Sequence[int]]("_settings")
    weights = Setting[bool | str]("_settings")
    feature_maps = Setting[int]("_settings")
    top_inputs = Setting[int]("_settings")
    maximise = Setting[Literal["classes", "channels"] | None]("_settings")
    classes = Setting[Sequence[int]]("_settings")
    maximise_steps = Setting[int]("_settings")
    maximise_args = Setting[dict[str, Any] | None]("_settings")

    def __init__(
        self,
        *,
        layer: str | None = None,
        channels: Sequence[int] | int = 7,
        weights: bool | str = False,
        feature_maps: int = 0,
        top_inputs: int = 0,
        maximise: Literal["classes", "channels"] | None = None,
        classes: Sequence[int] | int = 8,
        maximise_steps: int = 256,
        maximise_args: dict[str, Any] | None = None,
        inputs: Callable[[Any], Tensor] | str = "auto",
        forward: Callable[[Any, Tensor], Tensor] | None = None,
        every_n_epochs: int = 1,
        max_overhead: float | None = 0.05,
        x_axis: Literal["step", "epoch"] = "step",
        name: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(every_n_epochs, max_overhead, x_axis, name=name, on_error=on_error)
        self._settings = LayerSettings(
            layer, unit_numbers("channels", channels), weights, feature_maps, top_inputs, maximise,
            unit_numbers("classes", classes), maximise_steps, maximise_args,
        )  # fmt: skip
        self.inputs, self.forward = inputs, forward
        self._layer = LayerLog(self._settings)
        self._observer, self._changes = BatchObserver(), ChangedInputs("LayerMonitor", "images")
        self._unlearned: Any = None  # a batch of which the step will tell where its inputs stand

    def _begin_fit(self, trainer: Any, pl_module: Any) -> None:
        self._layer.settings = self._settings
        self._observer = BatchObserver()
        self._layer.check(pl_module)

    def _open_pictures(self, trainer: Any) -> LayerPictures:
        return LayerPictures(sink_of(trainer, self._folder), tag_prefix(self.name))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find out how inputs are scaled and what the classes are called, so that pictures can show both."""
        if self._pictures is not None:
            show_as_trained(self._pictures, trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a new search for the strongest inputs."""
        super().on_train_epoch_start(trainer, pl_module)
        self._layer.begin_search()

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a new search, as for a training epoch: each validation has its own strongest inputs."""
        self._layer.begin_search()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Find out where a batch holds its inputs. Without a validation, also collect inputs from training batches."""
        if self._pictures is not None and not self._observer.is_done:
            self._unlearned = batch_copy(batch) if self.inputs == "auto" else None  # the step may work in place
            self._observer.start(pl_module, batch)
        if not trainer.enable_validation:
            self._begin(trainer, pl_module, batch)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Stop observing the forward pass of the training step, which ends here."""
        self._layer.stop(loss)
        self._observer.stop(loss)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep what the layer computed for the batch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._observer.finish()
        self._tell_changes()
        unlearned, self._unlearned = self._unlearned, None
        self._end(unlearned if not trainer.enable_validation else None)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect inputs from the batches of the first validation loader."""
        if not trainer.sanity_checking and dataloader_idx == 0:
            self._begin(trainer, pl_module, batch)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep what the layer computed for the batch."""
        self._end()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw the last pictures and the activation maxima in the first process, while the others wait for it."""
        super().on_train_end(trainer, pl_module)
        if self._processes is not None and self.maximise is not None:
            self._processes.in_first(lambda: self._maximise(trainer, pl_module))
        if self._pictures is not None:
            with self._or_switched_off():
                self._attempt("pictures", self._pictures.finish)
        if self._pictures is not None:
            self._writes.say_missing("Make room on the disk before the next fit.")

    def _end_fit(self) -> None:
        super()._end_fit()
        self._layer.close()
        self._observer.close()
        self._unlearned = None

    def state_dict(self) -> dict[str, Any]:
        """Return the collected inputs, and the epochs in which pictures are drawn."""
        return {"kept": self._layer.images, **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the inputs of a checkpoint."""
        self._layer.images = state_dict["kept"]
        super().load_state_dict(state_dict)

    def _begin(self, trainer: Any, pl_module: Any, batch: Any) -> None:
        if self._pictures is None:
            return
        with self._or_switched_off():
            search = trainer.current_epoch % self.every_n_epochs == 0
            images = None if self._unlearned is not None else self._images(batch)
            self._layer.start(pl_module, images, search=search)

    def _end(self, unlearned: Any = None) -> None:
        if self._pictures is None:
            self._layer.stop()
            return
        with self._or_switched_off():
            self._layer.finish(None if unlearned is None else self._images(unlearned))

    def _tell_changes(self) -> None:
        """Say that feature maps are those of the batch's inputs if the step changes these first."""
        own_inputs = self.inputs == "auto" and self.forward is None and self.feature_maps > 0
        if own_inputs and self._pictures is not None and self._observer.changes_inputs:
            self._changes.tell()

    def _images(self, batch: Any) -> Tensor:
        if callable(self.inputs):
            images: Any = self.inputs(batch)
        else:
            auto = self.inputs == "auto"
            images = inputs_to_show(batch, self._observer.layout) if auto else inputs_to_show([batch[self.inputs]])
        if not isinstance(images, Tensor) or images.is_complex():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise CaptureError(
                f"Expected images or signals (N, C, ...) of real numbers in the batch, got {kind}. Pass `inputs=` with "
                "their key or a callable(batch)."
            )
        return images

    def _make(self, trainer: Any, pl_module: Any, *, epoch: int, step: int) -> bool:
        assert self._pictures is not None
        draw = functools.partial(
            self._layer.draw, self._pictures, pl_module, self._find_logits,
            epoch=epoch, step=step, on_error=self.on_error,
        )  # fmt: skip
        self._attempt("pictures", draw)
        return True

    def _maximise(self, trainer: Any, pl_module: Any) -> None:
        if self._pictures is not None:
            with self._or_switched_off():
                step = log_step(trainer, self.x_axis)
                maximise = functools.partial(
                    self._layer.maximise, self._pictures, pl_module, self._find_logits, step=step
                )
                self._attempt("maximised inputs", maximise)

    def _find_logits(self, model: Any, images: Tensor) -> Callable[[Tensor], Any]:
        """Return what computes the logits: `forward`, or the network whose output the loss was computed from."""
        if self.forward is not None:
            return functools.partial(self.forward, model)
        return forward_in_network(model, images, self._observer.network)
