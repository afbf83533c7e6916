"""Examples of a concept, as tensors or as a folder of pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ConceptSet = Tensor | str | Path
"""Images ``(M, C, *spatial)`` as the model takes them, or a folder of pictures."""

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def concept_images(name: str, examples: ConceptSet, transform: Callable[[Any], Tensor] | None) -> Tensor:
    """Return the images of a set, of a folder those that ``transform`` makes of its pictures in the order of names.

    Args:
        name: Of the set, for errors.
        examples: A tensor, or a folder.
        transform: From a PIL image to a tensor as the model takes it: that of the validation data.

    Raises:
        ValueError: If it is neither, has fewer than two images, or a folder comes without ``transform``.

    Example:
        >>> concept_images("dots", torch.zeros(2, 1, 4, 4), None).shape
        torch.Size([2, 1, 4, 4])
    """
    if isinstance(examples, (str, Path)):
        examples = _read(name, Path(examples), transform)
    if not isinstance(examples, Tensor) or examples.ndim < 2 or len(examples) < 2 or not examples.is_floating_point():
        kind = tuple(examples.shape) if isinstance(examples, Tensor) else type(examples).__name__
        raise ValueError(
            f"Expected the concept {name!r} to be at least two floating images (M, C, ...) or a folder of pictures, "
            f"got {kind}. Pass a tensor as the model takes it."
        )
    return examples


def _read(name: str, folder: Path, transform: Callable[[Any], Tensor] | None) -> Tensor:
    from PIL import Image

    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in _ENDINGS)
    if not files:
        raise ValueError(
            f"Expected pictures of the concept {name!r} in {folder}, got none. Name a folder that holds them."
        )
    if transform is None:
        raise ValueError(
            f"Expected `transform` for the folder of the concept {name!r}, got None. Pass the callable that makes "
            "an input of the model of a PIL image, as for the validation data."
        )
    images = []
    for path in files:
        with Image.open(path) as picture:
            images.append(transform(picture.copy()))
    return torch.stack(images)
