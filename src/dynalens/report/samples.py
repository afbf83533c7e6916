"""Small pictures of samples as they were kept while training; those of a dataset are in ``items``."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from dynalens.dynamics import Array
from dynalens.pictures import input_cell
from dynalens.record import Record
from dynalens.report.sentences import KeptTexts
from dynalens.suspicion import is_dense

_SIGNAL_CELL = (160, 120)


class SamplePictures:
    """Looks up samples among the pictures that were kept; their texts and files were not.

    Args:
        kept: Pictures that were kept while training, by sample.
        texts: Texts of those that were tokens, by sample; with the doubtful token in brackets, where there is one.
    """

    def __init__(self, stored_pictures: Mapping[int, Array], texts: Mapping[int, str] | None = None) -> None:
        self._stored_pictures, self._texts = stored_pictures, texts or {}

    def thumbnail(self, sample: Any, side: int) -> str | None:
        """Return a picture as a data URI, at most ``side`` pixels wide and high; None if there is none."""
        image = self.image(sample)
        return None if image is None else data_uri(image, side)

    def text(self, sample: Any, token: int | None = None) -> str | None:
        """Return the text of a sample, with this token marked; None where there is none."""
        return self._texts.get(sample)

    def file_name(self, sample: Any) -> str:
        """Return the name of the sample's file; an empty text where none is known."""
        return ""

    def image(self, sample: Any) -> Image.Image | None:
        """Return the picture of a sample; None where there is none."""
        thumbnail = self._stored_pictures.get(sample)
        return None if thumbnail is None else picture_of(thumbnail)


def sample_pictures(record: Record, dataset: Any, texts: KeptTexts) -> SamplePictures:
    """Return what looks up the samples of a dataset, or, without one, what was kept of them.

    Args:
        record: That keeps pictures.
        dataset: What was trained on, or None.
        texts: Texts that it keeps.
    """
    if dataset is None:
        return SamplePictures(record.pictures(), texts.texts)
    from dynalens.report.items import DatasetPictures  # torch, which pages without a dataset do without

    if not is_dense(record.statistics):
        return DatasetPictures(dataset)
    # Pictures have the pixels that the network contradicts, and words are those that its tokens were made of.
    return DatasetPictures(dataset, record.pictures(), texts.texts if texts.decoded else None)


def data_uri(image: Image.Image, side: int) -> str:
    """Return a picture as a data URI, at most ``side`` pixels wide and high; it is made smaller in place."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Tiny pictures are enlarged by the browser, where JPEG's blocks would be seen.
    small = max(image.size) <= side // 2
    image.convert("RGB").save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 72}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def picture_of(pixels: Array) -> Image.Image:
    """Return an image ``(H, W, 3)`` or a signal ``(C, L)`` as a picture."""
    return Image.fromarray(pixels) if pixels.ndim == 3 else input_cell(pixels, _SIGNAL_CELL)
