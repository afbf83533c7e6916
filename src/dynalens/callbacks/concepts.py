"""The callback that says which concepts a layer has, epoch by epoch: Lightning hooks become calls."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dynalens.callbacks.paced import PacedMonitor
from dynalens.concepts import ConceptSet
from dynalens.host import log_scalars, tag_prefix
from dynalens.logs import ConceptLog, ConceptSettings, read_images, sink_of
from dynalens.tensorboard import Sink


class ConceptMonitor(PacedMonitor):
    """Log after each epoch whether a layer has learned concepts that you name, by TCAV and network dissection.

    For each class and concept, ``score`` is the fraction of the class's images for which the concept speaks for the
    class (:func:`dynalens.tcav`), ``random`` the same for random images in place of the concept, and ``p_value`` that
    of the test between the two. If the network learns to use a concept, ``score`` moves away from 0.5 and from
    ``random``. With ``masks``, a sheet shows the channels that detect a concept (:func:`dynalens.dissect`). Weights,
    random numbers and gradients are those of a run without the callback.

    Args:
        layer: Dotted name of the layer.
        samples: Images ``(N, C, *spatial)`` as the model takes them, and their classes ``(N,)``. Or a folder with one
            folder of pictures for each class; as for torchvision's ImageFolder, the order of names numbers the classes.
        concepts: For TCAV: for the name of each concept, a tensor of examples ``(M, C, *spatial)`` or a folder of
            pictures.
        random: For TCAV: images without the concepts, a tensor or a folder.
        transform: Callable(PIL image) -> tensor. You must pass it with folders.
        runs: Number of random sets that each concept is compared with.
        masks: For dissection: for the name of each concept, a tensor ``(N, H, W)`` that is not 0 where the concept is
            in the images of ``samples``. If ``samples`` is a folder: a folder of pictures with the same names, white
            where the concept is.
        top: Fraction of the positions at which a channel counts as active, see :func:`dynalens.dissect`.
        forward: Callable(pl_module, images) -> logits. Default: the module, or its only child that gives logits.
        every_n_epochs: Smallest number of epochs from one test to the next. A test costs a forward pass of all examples
            and a backward pass of the images.
        max_overhead: Largest fraction of the training time that the tests may take. If they would take more, only the
            first epoch, the last one and some in between have one. None: no limit.
        x_axis: "step", the step at which Lightning logs the metrics of an epoch, or "epoch".
        name: Tells several monitors of one Trainer apart. Their tags begin with ``dynalens/<name>/``.
        on_error: What to do if a test fails during training. "warn" warns once and makes no more tests. "raise" raises
            the error.

    Raises:
        ValueError: If an argument is out of its range, neither ``concepts`` nor ``masks`` is passed, or a folder cannot
            be read.

    Example:
        >>> import torch
        >>> images, classes = torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
        >>> masks = {"edge": torch.zeros(4, 8, 8)}
        >>> ConceptMonitor(layer="layer4", samples=(images, classes), masks=masks).every_n_epochs
        1
        >>> ConceptMonitor(layer="layer4", samples=(images, classes))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: Expected `concepts` or `masks` to be passed, got neither. ...
    """

    results = "Concepts"

    def __init__(
        self,
        *,
        layer: str,
        samples: tuple[Tensor, Tensor] | str | Path,
        concepts: Mapping[str, ConceptSet] | None = None,
        random: ConceptSet | None = None,
        transform: Callable[[Any], Tensor] | None = None,
        runs: int = 10,
        masks: Mapping[str, Tensor | str | Path] | None = None,
        top: float = 0.005,
        forward: Callable[[Any, Tensor], Tensor] | None = None,
        every_n_epochs: int = 1,
        max_overhead: float | None = 0.05,
        x_axis: Literal["step", "epoch"] = "step",
        name: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__(every_n_epochs, max_overhead, x_axis, name=name, on_error=on_error)
        images = read_images(samples, concepts or {}, random, masks or {}, transform)
        settings = ConceptSettings(layer=layer, runs=runs, top=top, **images)
        self.forward = forward
        self._concepts = ConceptLog(settings)

    def _begin_fit(self, trainer: Any, pl_module: Any) -> None:
        self._concepts.check(pl_module)

    def _open_pictures(self, trainer: Any) -> Sink:
        return sink_of(trainer, self._folder)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Make the results of the last epoch if they are due, and warn of files that could not be written."""
        super().on_train_end(trainer, pl_module)
        if self._pictures is not None:
            self._writes.say_missing("Make room on the disk before the next fit.")

    def _make(self, trainer: Any, pl_module: Any, *, epoch: int, step: int) -> bool:
        prefix, sink = f"{tag_prefix(self.name)}/concepts", self._pictures
        scores = self._concepts.scores(pl_module, self.forward)
        log_scalars(trainer, {f"{prefix}/{tag}": value for tag, value in scores.items()}, step)
        sheet = self._concepts.sheet(pl_module, self.forward, epoch)
        if sheet is not None:
            self._attempt("pictures", lambda: sink.image(f"{prefix}/dissection", sheet, step))
        return True
