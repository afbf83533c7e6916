"""Examples of a concept, as tensors or as a folder of pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ConceptSet = Tensor | str | Path
"""Images ``(M, C, *spatial)`` as the model takes them, or a folder of pictures."""

Transform = Callable[[Any], Tensor]

_HALF_WHITE = 127  # grey level above which a pixel counts as white: masks in compressed files have grey edges
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def concept_images(name: str, examples: ConceptSet, transform: Transform | None) -> Tensor:
    """Return the images of a set. The pictures of a folder are read in the order of their names.

    Args:
        name: Name of the set, for errors.
        examples: A tensor, or a folder.
        transform: Callable that makes a tensor of a PIL image as the model takes it: that of the validation data.

    Raises:
        ValueError: If ``examples`` is neither a tensor nor a folder, if there are fewer than two images, or if there
            is a folder but no ``transform``.

    Example:
        >>> concept_images("dots", torch.zeros(2, 1, 4, 4), None).shape
        torch.Size([2, 1, 4, 4])
    """
    if isinstance(examples, (str, Path)):
        examples = _concept_images(name, Path(examples), transform)
    if not isinstance(examples, Tensor) or examples.ndim < 2 or len(examples) < 2 or not examples.is_floating_point():
        kind = tuple(examples.shape) if isinstance(examples, Tensor) else type(examples).__name__
        raise ValueError(
            f"Expected the concept {name!r} to be at least two floating images (M, C, ...) or a folder of pictures, "
            f"got {kind}. Pass a tensor as the model takes it."
        )
    return examples


def class_images(folder: str | Path, transform: Transform | None) -> tuple[Tensor, Tensor, list[str]]:
    """Return the pictures of a folder that has a folder for each class, in the order of names, as for ImageFolder.

    Args:
        folder: Holds the folders of the classes. An empty folder also counts as a class.
        transform: Callable that makes a tensor of a PIL image as the model takes it.

    Returns:
        Images ``(N, C, *spatial)``, the class of each image, ``(N,)``, and the path of each image within the folder,
        without its ending.

    Raises:
        ValueError: If there are no pictures, or the name of a folder is the number of another class.
    """
    root = Path(folder)
    classes = sorted(path for path in root.glob("*") if path.is_dir())
    misplaced_names = [
        path.name for number, path in enumerate(classes) if path.name.isdecimal() and int(path.name) != number
    ]
    if misplaced_names:
        raise ValueError(
            f"Expected the folders in {root} to be those of the classes 0, 1, ... in the order of their names, got "
            f"{misplaced_names[0]!r} at another place. Write all numbers with the same number of digits, and keep an "
            "empty folder for a class without pictures."
        )
    pictures = [(number, path) for number, class_folder in enumerate(classes) for path in _pictures(class_folder)]
    if not pictures:
        raise ValueError(
            f"Expected `samples` to be a folder with a folder of pictures for each class, got none in {root}. "
            "Name a folder as torchvision's ImageFolder takes it."
        )
    images = _tensor_of_files("samples", [path for _, path in pictures], transform)
    names = [str(path.relative_to(root).with_suffix("")) for _, path in pictures]
    return images, torch.tensor([number for number, _ in pictures]), names


def mask_images(name: str, folder: str | Path, samples: Sequence[str]) -> Tensor:
    """Return the masks of a concept, ``(N, H, W)``, from a folder that has a picture for each sample.

    Args:
        name: Name of the concept, for errors.
        folder: Its pictures have the names of the samples and the size of the model's inputs. They are white where the
            concept is.
        samples: Names of the samples, as :func:`class_images` returns them.

    Raises:
        ValueError: If a sample has no mask, or the sizes of the masks differ.
    """
    from PIL import Image

    by_name = {str(path.relative_to(folder).with_suffix("")): path for path in Path(folder).rglob("*.*")}
    maskless = [sample for sample in samples if sample not in by_name]
    if maskless:
        raise ValueError(
            f"Expected a mask of {name!r} for each sample in {folder}, got none for {maskless[0]}. Add a black picture "
            "of this name where the concept is not in the sample."
        )
    masks = []
    for sample in samples:
        with Image.open(by_name[sample]) as picture:
            masks.append(torch.from_numpy(np.array(picture.convert("L")) > _HALF_WHITE))
    if len({mask.shape for mask in masks}) > 1:
        raise ValueError(
            f"Expected masks of {name!r} of one size in {folder}, got several. Make them as large as the "
            "model's inputs."
        )
    return torch.stack(masks)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in _ENDINGS)


def _concept_images(name: str, folder: Path, transform: Transform | None) -> Tensor:
    files = _pictures(folder)
    if not files:
        raise ValueError(
            f"Expected pictures of the concept {name!r} in {folder}, got none. Name a folder that holds them."
        )
    return _tensor_of_files(name, files, transform)


def _tensor_of_files(name: str, files: Sequence[Path], transform: Transform | None) -> Tensor:
    """Return the pictures in these files as one tensor of inputs of the model."""
    from PIL import Image

    if transform is None:
        raise ValueError(
            f"Expected `transform` for the folder of {name!r}, got None. Pass a callable that turns a PIL image into "
            "an input of the model, as for the validation data."
        )
    images = []
    for path in files:
        with Image.open(path) as picture:
            images.append(transform(picture.copy()))
    if len({image.shape for image in images}) > 1:
        raise ValueError(
            f"Expected `transform` to turn the pictures of {name!r} into tensors of one shape, got several shapes. Let "
            "it resize or crop them."
        )
    return torch.stack(images)
