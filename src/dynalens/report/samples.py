"""Small pictures and file names of samples: from a dataset, or as they were kept while training."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.keys import IMAGE_KEYS
from dynalens.pictures import Normalisation, find_normalisation, input_cell, shown_inputs

_GREY_AND_COLOUR = (1, 3)
_SIGNAL_CELL = (160, 120)
TEXT_KEYS = ("text", "sentence", "content", "document", "review", "question")
_LONGEST_TEXT, _LONGEST_ROW = 2000, 60  # letters and numbers of a sample that are shown


class SamplePictures:
    """Looks up pictures of samples.

    Args:
        kept: Pictures that were kept while training, by sample.
        dataset: What was trained on, or None. It is indexed, so this is not for the middle of a run.
    """

    def __init__(self, kept: Mapping[int, Array], dataset: Any = None) -> None:
        self._kept, self._dataset = kept, dataset
        self._normalisation = find_normalisation(dataset) if dataset is not None else None

    def thumbnail(self, sample: Any, side: int) -> str | None:
        """Return a picture as a data URI, at most ``side`` pixels wide and high; None if there is none."""
        image = self._image(sample)
        if image is None:
            return None
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        # Tiny pictures are enlarged by the browser, where JPEG's blocks would be seen.
        small = max(image.size) <= side // 2
        image.convert("RGB").save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 72}))
        kind = "png" if small else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

    def text(self, sample: Any) -> str | None:
        """Return the text of a sample that is a text, or the numbers of one that is a row; None if it is neither."""
        return None if self._dataset is None else as_text(self._dataset[sample])

    def file_name(self, sample: Any) -> str:
        """Return the name of the sample's file, where the dataset keeps it as torchvision's do; else an empty text."""
        dataset, position = self._dataset, sample
        while dataset is not None and not hasattr(dataset, "samples") and hasattr(dataset, "dataset"):
            indices = getattr(dataset, "indices", None)
            position = indices[position] if indices is not None else position
            dataset = dataset.dataset
        try:
            entry = getattr(dataset, "samples", ())[position]
        except (IndexError, KeyError, TypeError):
            return ""
        path = entry[0] if isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) else entry
        return Path(path).name if isinstance(path, str | Path) else ""

    def _image(self, sample: Any) -> Image.Image | None:
        if self._dataset is None:
            kept = self._kept.get(sample)
            return None if kept is None else _drawn(kept)
        return as_image(self._dataset[sample], self._normalisation)


def as_image(item: Any, normalisation: Normalisation | None) -> Image.Image | None:
    """Return a dataset's item as a picture: of a PIL image, an array (H, W[, 3]) or a tensor (C, *spatial)."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in IMAGE_KEYS if key in item), None)
    elif isinstance(item, tuple | list):
        item = item[0] if item else None
    if isinstance(item, Image.Image):
        return item.copy()
    if isinstance(item, np.ndarray):
        item = _tensor_of(item)
    if not isinstance(item, Tensor) or item.ndim not in (2, 3, 4):
        return None
    return _drawn(shown_inputs(item.unsqueeze(0), normalisation)[0])


def as_text(item: Any) -> str | None:
    """Return a dataset's item in words: a text as it is, a row of numbers (F,) as numbers, else None.

    Example:
        >>> as_text(("a fine film", 1)), as_text((torch.tensor([0.5, 2.0]), 0)), as_text({"text": "bad", "label": 0})
        ('a fine film', '0.5, 2', 'bad')
    """
    if isinstance(item, Mapping):
        item = next((item[key] for key in TEXT_KEYS if isinstance(item.get(key), str)), None)
    elif isinstance(item, tuple | list):
        item = item[0] if item else None
    if isinstance(item, str):
        return item[:_LONGEST_TEXT]
    values = item.numpy(force=True) if isinstance(item, Tensor) else item
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iufb":
        return None
    return ", ".join(f"{value:.4g}" for value in values[:_LONGEST_ROW].tolist()) + (
        ", ..." if len(values) > _LONGEST_ROW else ""
    )


def _tensor_of(array: Array) -> Tensor:
    """Return channels first; arrays have them last, as image files do."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).float()
    if tensor.ndim == 2:
        return tensor.unsqueeze(0)
    return tensor.permute(2, 0, 1) if tensor.ndim == 3 and tensor.shape[2] in _GREY_AND_COLOUR else tensor


def _drawn(shown: Array) -> Image.Image:
    return Image.fromarray(shown) if shown.ndim == 3 else input_cell(shown, _SIGNAL_CELL)
