"""Pictures, texts and file names of samples, from the training dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynalens.datasets import feature_names
from dynalens.dynamics import Array
from dynalens.keys import IMAGE_KEYS, LABEL_KEYS
from dynalens.pictures import Normalisation, excerpt, find_normalisation, numbers_text, shown_inputs
from dynalens.pictures.inputs import with_channels_first
from dynalens.report.samples import SamplePictures, picture_of

_GREY_AND_COLOUR = (1, 3)
TEXT_KEYS = ("text", "sentence", "content", "document", "review", "question")
_IDS = "input_ids"
WORD_KEYS = ("tokens", "words", _IDS)
_LONGEST_TEXT = 2000  # letters of a sample that are shown


class DatasetPictures(SamplePictures):
    """Looks up the samples of a dataset.

    Args:
        dataset: The training dataset. It is indexed, so do not use this in the middle of a run.
        kept: Pictures, by sample, that show more than those of the dataset.
        texts: Texts, by sample, that show more than those of the dataset.
    """

    def __init__(
        self, dataset: Any, stored_pictures: Mapping[int, Array] | None = None, texts: Mapping[int, str] | None = None
    ) -> None:
        super().__init__(stored_pictures or {}, texts)
        self._dataset = dataset
        self._normalisation, self._columns = find_normalisation(dataset), feature_names(dataset)

    def text(self, sample: Any, token: int | None = None) -> str | None:
        """Return the text of a sample, or the numbers of a row as text; None for other samples."""
        return super().text(sample, token) or as_text(self._dataset[sample], token, self._columns)

    def file_name(self, sample: Any) -> str:
        """Return the name of the sample's file, if the dataset keeps it as torchvision's datasets do.

        Else an empty text.
        """
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

    def image(self, sample: Any) -> Image.Image | None:
        """Return the picture of a sample of the dataset; None if it is not one."""
        picture = super().image(sample)
        return as_image(self._dataset[sample], self._normalisation) if picture is None else picture


def as_image(item: Any, normalisation: Normalisation | None) -> Image.Image | None:
    """Return an item of a dataset as a picture: a PIL image, an array (H, W[, 3]) or a tensor (C, *spatial)."""
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
    images = item.unsqueeze(0)
    images = with_channels_first(images) if images.ndim == 4 else images
    return picture_of(shown_inputs(images, normalisation)[0])


def as_text(item: Any, token: int | None = None, columns: Sequence[str] | None = None) -> str | None:
    """Return an item of a dataset as text: a text, words, or a row of numbers (F,); None for other items.

    Args:
        item: Item of the dataset.
        token: Position of the word or number to mark.
        columns: Names of the numbers of a row that has as many.

    Example:
        >>> as_text(("a fine film", 1)), as_text((torch.tensor([0.5, 2.0]), 0)), as_text({"text": "bad", "label": 0})
        ('a fine film', '0: 0.5, 1: 2', 'bad')
        >>> as_text({"target": torch.tensor([1.0]), "features": torch.tensor([0.5, 2.0])})  # any name but one of labels
        '0: 0.5, 1: 2'
        >>> as_text({"tokens": ["Paris", "is", "big"]}, 0), as_text((torch.tensor([4, 7, 9]), 0), 1)
        ('[Paris] is big', '4, [7], 9')
        >>> as_text({"tokens": ["Paris", "is"], "input_ids": [1, 8, 3, 2]}, 1)  # which the model is given
        '1, [8], 3, 2'
    """
    if isinstance(item, Mapping):
        row_keys = (name for name in item if name not in LABEL_KEYS and _are_numbers(item[name]))
        key = _key_of_text(item, token) or next(row_keys, None)
        item = None if key is None else item[key]
    elif isinstance(item, tuple | list):
        item = item[0] if item else None
    if isinstance(item, str):
        return item[:_LONGEST_TEXT]
    if _are_words(item):
        return excerpt(list(item), token)
    values = item.numpy(force=True) if isinstance(item, Tensor) else np.asarray(item) if _is_row(item) else item
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iufb":
        return None
    names = columns if columns is not None and len(columns) == len(values) else None
    if names is None and values.dtype.kind != "f":  # ids of tokens
        return excerpt([str(int(value)) for value in values.tolist()], token, ", ")
    return numbers_text(values.tolist(), token, names)


def _key_of_text(item: Mapping[str, Any], token: int | None) -> str | None:
    """Return the key of the text, or of the row with a token: a row of pieces of words is longer than one of words."""
    keys = (*TEXT_KEYS, *WORD_KEYS) if token is None else (*WORD_KEYS, *TEXT_KEYS)
    present_keys = [key for key in keys if key in item]
    if token is not None and _IDS in present_keys and len(item[present_keys[0]]) != len(item[_IDS]):
        return _IDS
    return next(iter(present_keys), None)


def _are_words(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) > 0 and all(isinstance(word, str) for word in item)


def _are_numbers(item: Any) -> bool:
    """Return whether a value is a row (F,) of numbers that are neither classes nor ids: those are integers."""
    is_floating = isinstance(item, Tensor) and item.is_floating_point()
    return (is_floating or (isinstance(item, np.ndarray) and item.dtype.kind == "f")) and item.ndim == 1


def _is_row(item: Any) -> bool:
    return isinstance(item, list) and len(item) > 0 and all(isinstance(value, int | float) for value in item)


def _tensor_of(array: Array) -> Tensor:
    """Return a tensor with channels first. Arrays have them last, as image files do."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).float()
    if tensor.ndim == 2:
        return tensor.unsqueeze(0)
    return tensor.permute(2, 0, 1) if tensor.ndim == 3 and tensor.shape[2] in _GREY_AND_COLOUR else tensor
