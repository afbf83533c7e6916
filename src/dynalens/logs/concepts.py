"""Show the concepts of a layer in loggers: scores of example sets, and channels that detect masks."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynalens.attribution import find_forward
from dynalens.concepts import (
    ConceptSet,
    Dissection,
    check_masks,
    class_images,
    concept_images,
    dissect,
    mask_images,
    tcav,
)
from dynalens.dynamics import Array
from dynalens.observation import module_named
from dynalens.pictures import Relative, map_cell, relatives_sheet, shown_inputs

Forward = Callable[[Any, Tensor], Tensor]
Samples = tuple[Tensor, Tensor] | str | Path
"""Images with their classes, or a folder with a folder of pictures per class."""
Masks = Tensor | str | Path
"""One mask for each sample, or a folder of pictures of the samples' names."""
_MOST_ROWS, _SHOWN = 12, 4  # most channels on a sheet, and images of each
_CELL = 144  # side of a picture in pixels, more than twice its side on the sheet


@dataclass(frozen=True)
class ConceptSettings:
    """The concepts to look for in a layer; :class:`dynalens.ConceptMonitor` says what each setting means.

    Raises:
        ValueError: If one of them is out of its range, nothing is asked for, or a folder cannot be read.
    """

    layer: str
    images: Tensor
    classes: Tensor
    concepts: Mapping[str, Tensor]
    random: Tensor | None
    runs: int
    masks: Mapping[str, Tensor]
    top: float

    def __post_init__(self) -> None:
        """Check what is asked for, and that it fits together."""
        images, classes = self.images, self.classes
        if not self.concepts and not self.masks:
            raise ValueError(
                "Expected `concepts` or `masks` to be passed, got neither. Pass sets of examples and `random`, or "
                "a mask for each image."
            )
        if len(images) != len(classes) or not len(images) or classes.is_floating_point():
            raise ValueError(
                f"Expected `samples` to be images and a class for each, got {tuple(images.shape)} and "
                f"{tuple(classes.shape)}, {classes.dtype}. Pass some validation images with their labels."
            )
        if self.concepts and (self.random is None or self.runs < 2):
            raise ValueError(
                f"Expected `random` images and at least 2 `runs` for `concepts`, got {self.random!r} and {self.runs}. "
                "Pass images without the concepts: they are the control."
            )
        if self.masks:
            check_masks(images, self.masks, self.top)


def read_images(
    samples: Samples,
    concepts: Mapping[str, ConceptSet],
    random: ConceptSet | None,
    masks: Mapping[str, Masks],
    transform: Callable[[Any], Tensor] | None,
) -> dict[str, Any]:
    """Return ``images``, ``classes``, ``concepts``, ``random`` and ``masks`` of :class:`ConceptSettings`.

    Folders are read now, so that a mistake is an error before training.
    """
    names: list[str] | None = None
    if isinstance(samples, (str, Path)):
        images, classes, names = class_images(samples, transform)
    else:
        images, classes = samples
    folders = {name: mask for name, mask in masks.items() if isinstance(mask, (str, Path))}
    if folders and names is None:
        raise ValueError(
            f"Expected `samples` to be a folder, because `masks` are in the folder {next(iter(folders.values()))}, got "
            "tensors. A mask is found by the name of its sample's picture. Pass a folder for `samples`, or tensors for "
            "`masks`."
        )
    return {
        "images": images,
        "classes": classes,
        "concepts": {name: concept_images(name, examples, transform) for name, examples in concepts.items()},
        "random": None if random is None else concept_images("random", random, transform),
        "masks": {**masks, **{name: mask_images(name, folder, names or []) for name, folder in folders.items()}},
    }


class ConceptLog:
    """Measures the concepts of a layer. It does not know the Trainer."""

    def __init__(self, settings: ConceptSettings) -> None:
        self._settings = settings

    def check(self, model: Any) -> None:
        """Raise a ValueError if the model has no such layer."""
        module_named(model, self._settings.layer, argument="layer")

    def scores(self, model: Any, forward: Forward | None) -> dict[str, float]:
        """Return TCAV's numbers by ``<concept>/<class>/<number>``; none if there are no concepts."""
        settings, scores = self._settings, dict[str, float]()
        images, classes = settings.images, settings.classes
        if not settings.concepts or settings.random is None:
            return scores
        run = _logits_of(model, images.to(model.device), forward)
        for label in sorted(set(classes.tolist())):
            table = tcav(
                model, images[classes == label], label, settings.concepts, settings.random,
                layer=settings.layer, runs=settings.runs, forward=run,
            )  # fmt: skip
            for concept, row in table.iterrows():
                scores |= {f"{concept}/{label}/{number}": float(value) for number, value in row.items()}
        return scores

    def sheet(self, model: Any, forward: Forward | None, epoch: int) -> Image.Image | None:
        """Return a picture of the channels with the largest IoU and where they are active.

        It is None if there are no masks.
        """
        settings = self._settings
        if not settings.masks:
            return None
        images = settings.images
        run = _logits_of(model, images[:1].to(model.device), forward)
        dissection = dissect(model, images, settings.masks, layer=settings.layer, top=settings.top, forward=run)
        return dissection_sheet(dissection, images, f"epoch {epoch}: where channels of {settings.layer} are active")


def dissection_sheet(dissection: Dissection, images: Tensor, title: str) -> Image.Image:
    """Return a picture with a row for each of the channels with the largest IoU: where it is active in images.

    The images of a row are those in which the channel is active at most positions.

    Args:
        dissection: The result of :func:`dynalens.dissect`.
        images: Shape ``(N, C, H, W)``, the images that were dissected.
        title: First line of the picture.

    Example:
        >>> active = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
        >>> dissection = Dissection(np.array([[0.5]]), ("sky",), active)
        >>> dissection_sheet(dissection, torch.rand(2, 1, 8, 8), "one channel").size  # a row of two pictures
        (700, 256)
    """
    table = dissection.detectors(least=0.0).head(_MOST_ROWS)
    pictures, rows = shown_inputs(images), []
    for channel, concept, iou in table.itertuples(index=False):
        active_area = dissection.active[:, channel].flatten(1).sum(dim=1)
        order = torch.argsort(active_area, descending=True, stable=True)[:_SHOWN].tolist()
        cells = [Relative(_active_region(pictures[i], dissection.active[i, channel].numpy()), f"#{i}") for i in order]
        rows.append((f"channel {channel}: {concept}, IoU {iou:.2f}", {"active most": cells}))
    return relatives_sheet(rows or [("no channel is active anywhere", {})], title)


def _active_region(image: Array, active_area: Array) -> Image.Image:
    return map_cell(image, active_area.astype(np.float32), (_CELL, _CELL), is_signed=False)


def _logits_of(model: Any, images: Tensor, forward: Forward | None) -> Callable[[Tensor], Tensor]:
    return functools.partial(forward, model) if forward else find_forward(model, images)
