"""The callback that says which concepts a layer has, epoch by epoch: Lightning hooks become calls."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dynalens.callbacks.base import NamedCallback
from dynalens.callbacks.paced import PacedPictures
from dynalens.concepts import ConceptSet
from dynalens.host import (
    Processes,
    check_whole_model,
    last_epoch,
    log_scalars,
    run_folder,
    tag_prefix,
)
from dynalens.logs import ConceptLog, ConceptSettings, sink_of


class ConceptMonitor(PacedPictures, NamedCallback):
    """Log after each epoch whether a layer has learned concepts that you name: TCAV of examples, IoU with masks.

    For each class and concept, ``score`` is the fraction of the class's images for which the concept speaks for the
    class (:func:`dynalens.tcav`), ``random`` the same for random images in place of the concept, and ``p_value`` that
    of the test between the two. If the network learns to use a concept, ``score`` moves away from 0.5 and from
    ``random``. With ``masks``, a sheet shows the channels that are detectors of a concept (:func:`dynalens.dissect`).
    Training is not disturbed: weights, random numbers and gradients are those of a run without the callback.

    Args:
        layer: Dotted name of the layer.
        samples: Images ``(N, C, *spatial)`` as the model takes them, and their classes ``(N,)``; or a folder that has a
            folder of pictures for each class, in the order of names, as torchvision's ImageFolder.
        concepts: For each name of a concept a tensor of examples or a folder of pictures; none for dissection alone.
        random: Images without the concepts, a tensor or a folder.
        transform: Callable(PIL image) -> tensor; needed for folders.
        runs: How many random sets each concept is compared with.
        masks: For each name of a concept, ``(N, H, W)``: where it is in the images of ``samples``; none for TCAV alone.
            If ``samples`` is a folder, a folder of pictures of the same names, white where the concept is.
        top: As for :func:`dynalens.dissect`.
        forward: Callable(pl_module, images) -> logits; default: the module, or its only child that gives logits.
        every_n_epochs: Ask every so many epochs, at least. Each time costs a pass of all examples and a backward pass
            of the images.
        max_overhead: Largest fraction of the training time that asking may take. If it would take more, it is asked in
            the first and the last epoch, and in those between only as often as there is time. None: whatever it takes.
        x_axis: "step" as Lightning logs an epoch's metrics, or "epoch".
        name: Tells several monitors of one Trainer apart; their tags begin with ``dynalens/<name>/``.
        on_error: "warn" switches it off with one warning if it fails while training; "raise" raises.

    Raises:
        ValueError: If an argument is out of its range, nothing is asked for, or a folder cannot be read.

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

    guarded = "Concepts"

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
        super().__init__()
        settings = ConceptSettings(layer, samples, concepts or {}, random, transform, runs, masks or {}, top)
        self._set_pace(every_n_epochs, max_overhead, x_axis, name=name, on_error=on_error)
        self.forward = forward
        self._concepts = ConceptLog(settings)
        self._processes: Processes | None = None
        self._pictures: Any = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the layer's name and find out where pictures go."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        check_whole_model(trainer, type(self).__name__)
        self._processes = Processes(trainer)
        self._begin_schedule(last_epoch(trainer))
        self._concepts.check(pl_module)
        folder = run_folder(trainer, self.name)
        self._begin_writes(folder)
        if self._processes.is_first:
            self._pictures = sink_of(trainer, folder)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Make the results of the last epoch if they are due, and warn of files that could not be written."""
        super().on_train_end(trainer, pl_module)
        if self._pictures is not None:
            self._writes.say_missing("Make room on the disk before the next fit.")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Release the writer."""
        self._pictures = self._processes = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Do what ``teardown`` does, because Lightning does not call that after an exception."""
        self.teardown(trainer, pl_module, "fit")

    def _make(self, trainer: Any, pl_module: Any, *, epoch: int, step: int) -> None:
        prefix, sink = f"{tag_prefix(self.name)}/concepts", self._pictures
        scores = self._concepts.scores(pl_module, self.forward)
        log_scalars(trainer, {f"{prefix}/{tag}": value for tag, value in scores.items()}, step)
        sheet = self._concepts.sheet(pl_module, self.forward, epoch)
        if sheet is not None:
            self._attempt("pictures", lambda: sink.image(f"{prefix}/dissection", sheet, step))
