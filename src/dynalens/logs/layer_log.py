"""Watch what a layer computes while batches pass, and draw it."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from dynalens.capture import CaptureError
from dynalens.faithfulness import class_logits
from dynalens.features import (
    TopInputs,
    channel_activations,
    existing_channels,
    feature_maps,
    first_layer_weights,
    layer_output,
    maximise_activation,
)
from dynalens.logs.layer_pictures import LayerPictures
from dynalens.logs.layer_settings import LayerSettings
from dynalens.logs.sinks import switched_off_on_error
from dynalens.observation import LayerCalls, channels_first, layer_calls, module_named
from dynalens.pictures import small_copies

_KEPT = 32  # images that are kept to know the size and the range of inputs
_IMAGES = 4  # number of axes of images (N, C, H, W)
_SIDE = 96  # longest side of the images that excite channels most, in pixels

FindLogits = Callable[[Any, Tensor], Callable[[Tensor], Any]]
"""Returns what computes the logits of a model, given some of its inputs."""


class LayerLog:
    """Keeps some images, searches the inputs to which channels respond most, and draws.

    It does not know the Trainer.

    Attributes:
        settings: What is shown; another one holds from the next fit on.
        images: The images that are kept; None before the first batch.
    """

    def __init__(self, settings: LayerSettings) -> None:
        self.settings = settings
        self.images: Tensor | None = None
        self._top: TopInputs | None = None
        self._pass = ExitStack()
        self._images_and_calls: tuple[Tensor | None, LayerCalls] | None = None
        self._nodes: tuple[Any, ...] = ()
        self._shows_maps = True

    def check(self, model: Any) -> None:
        """Begin a fit. Raise a ValueError if the model lacks a layer that is asked for."""
        self._shows_maps = self.settings.feature_maps > 0
        if self.settings.layer is not None:
            module_named(model, self.settings.layer, argument="layer")
        if self.settings.weights:
            self._filters(model)

    def begin_search(self) -> None:
        """Search the strongest inputs anew."""
        self._top = None

    def start(self, model: Any, images: Tensor | None, *, search: bool) -> None:
        """A forward pass begins: keep its first images, once, and watch the layer.

        Args:
            model: The module.
            images: Images of the batch; None if ``finish`` will get them.
            search: Whether to search this batch for the strongest inputs.
        """
        if images is not None:
            self._keep(images)
        if self.settings.top_inputs and self.settings.layer is not None and search:
            layer = module_named(model, self.settings.layer, argument="layer")
            self._pass.close()
            calls = self._pass.enter_context(
                layer_calls(layer, lambda output: channel_activations(channels_first(layer, output)))
            )
            self._images_and_calls = None if images is None else _small(images), calls

    def _keep(self, images: Tensor) -> None:
        if self.images is None:
            # Cloned: the step may work in place.
            self.images = images[: max(_KEPT, self.settings.feature_maps)].detach().clone()

    def stop(self, loss: Tensor | None = None) -> None:
        """The forward pass has given this loss, and is over."""
        self._pass.close()
        self._nodes = () if loss is None else (loss.grad_fn,)

    def finish(self, images: Tensor | None = None) -> None:
        """The pass has ended: take what the layer computed.

        Args:
            images: Images of the batch as they were before the pass, if ``start`` did not get them.

        Raises:
            CaptureError: If it did not compute a row for each input.
        """
        self._pass.close()
        images_and_calls, self._images_and_calls = self._images_and_calls, None
        nodes, self._nodes = self._nodes, ()
        if images is not None:
            self._keep(images)
        if images_and_calls is None:
            return
        small, calls = images_and_calls
        if small is None:
            assert images is not None
            small = _small(images)
        outputs = [call.value for call in calls.leading_to(nodes)]
        activations = outputs[-1]  # without a loss, as in a validation, the latest
        if len(small) != len(activations) or (nodes and len(outputs) > 1):
            count = f"{len(activations)} rows" if len(outputs) == 1 else f"{len(outputs)} calls behind the loss"
            raise CaptureError(
                f"Expected `layer` to give one row for each of {len(small)} inputs in one call, got {count} of "
                f"{self.settings.layer}. Name a layer that runs once in a step and does not mix inputs, or leave "
                "`top_inputs` out."
            )
        channels = existing_channels(self.settings.channels, activations.shape[1])
        self._top = self._top or TopInputs(channels, self.settings.top_inputs)
        self._top.offer(small, activations)

    def close(self) -> None:
        """Drop the layer and what was found in it. The images stay."""
        self._pass.close()
        self._top = self._images_and_calls = None

    def draw(
        self, pictures: LayerPictures, model: Any, find: FindLogits, *, epoch: int, step: int, on_error: str = "warn"
    ) -> None:
        """Draw filters, maps and strongest inputs. In a long training they come less often, but always at the end.

        They are computed in each epoch, because the model is another one at the end. ``find`` returns what computes
        the logits. If maps cannot be computed, they alone are left out from then on.
        """
        settings = self.settings
        writes: list[Callable[[], None]] = []
        if settings.weights:
            name, weights = self._filters(model)
            writes.append(functools.partial(pictures.write_filters, name, weights.detach().cpu().clone(), epoch, step))
        if self._shows_maps and self.images is not None and settings.layer is not None:
            images = self.images[: settings.feature_maps].to(model.device)
            with switched_off_on_error("Feature maps", self._leave_out_maps, on_error):
                maps = feature_maps(model, images, settings.layer, forward=find(model, images))
                channels = existing_channels(settings.channels, maps.shape[1])
                writes.append(
                    functools.partial(pictures.write_maps, images.float(), maps, settings.layer, channels, epoch, step)
                )
        if self._top is not None and settings.layer is not None:
            writes.append(functools.partial(pictures.write_top_inputs, self._top, settings.layer, epoch, step))
        pictures.offer(writes)

    def _leave_out_maps(self) -> None:
        self._shows_maps = False

    def maximise(self, pictures: LayerPictures, model: Any, find: FindLogits, *, step: int) -> None:
        """Draw images that maximise classes or channels; nothing before the first batch."""
        if self.images is None:
            return
        if self.images.ndim != _IMAGES or not self.images.is_floating_point():
            raise ValueError(
                f"Expected floating images (N, C, H, W) for `maximise`, got {tuple(self.images.shape)}, "
                f"{self.images.dtype}. Leave `maximise` out: only images are made by gradient ascent."
            )
        settings, images = self.settings, self.images.to(model.device)
        dims = (0, *range(2, images.ndim))
        run = find(model, images)
        if settings.maximise == "channels" and settings.layer is not None:
            layer, output = settings.layer, layer_output(model, images[:1], settings.layer, forward=run)
        else:
            layer, output = None, class_logits(model, images[:1], forward=run)
        units = existing_channels(settings.classes if layer is None else settings.channels, output.shape[1])
        own_arguments = {"diversity_layer": settings.layer, **(settings.maximise_args or {})}
        maximisers = maximise_activation(
            model, list(units), images.shape[1:], layer=layer, low=images.amin(dim=dims),
            high=images.amax(dim=dims), steps=settings.maximise_steps, forward=run, **own_arguments,
        )  # fmt: skip
        shown_units = [unit for unit in units for _ in range(len(maximisers) // len(units))]
        pictures.write_maximised(maximisers, shown_units, layer, step, number=output.shape[1])

    def _filters(self, model: Any) -> tuple[str, Tensor]:
        weights = self.settings.weights
        return first_layer_weights(model, weights if isinstance(weights, str) else None)


def _small(images: Tensor) -> Tensor:
    """Return small copies of images, and all columns of rows of a table."""
    return images.detach().clone() if images.ndim == 2 else small_copies(images.detach(), _SIDE)
