"""Pictures of samples from their files, or as they were kept during training. For those of a dataset see ``items``."""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dynalens.dynamics import Array
from dynalens.pictures import input_cell
from dynalens.record import Record
from dynalens.report.sentences import KeptTexts
from dynalens.suspicion import is_dense

_SIGNAL_CELL = (160, 120)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of files that torchvision's ImageFolder takes for pictures."""
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""Pillow's names of their formats. Only formats that no other program is started for are read."""
_LONGEST_SIDE = 1000
"""Longest side of a picture that is read from a JPEG file. Larger ones take longer, and pages show none."""


class SamplePictures:
    """Finds the pictures of samples in their files, if they are named after files, or among those that were kept.

    Args:
        stored_pictures: Pictures that were kept during training, by sample.
        texts: Texts of samples that are tokens, by sample. A doubtful token is in brackets.
        files: Path of the file of each sample; None if the dataset had none.
    """

    def __init__(
        self,
        stored_pictures: Mapping[int, Array],
        texts: Mapping[int, str] | None = None,
        files: Sequence[str] | None = None,
    ) -> None:
        self._stored_pictures, self._texts, self._files = stored_pictures, texts or {}, files

    def has_content(self, sample: int) -> bool:
        """Return whether there is a picture or a text to show."""
        is_kept = sample in self._stored_pictures or sample in self._texts
        return is_kept or is_picture_file(self._file_of(sample))

    def thumbnail(self, sample: Any, side: int) -> str | None:
        """Return a picture as a data URI, at most ``side`` pixels wide and high; None if there is none."""
        image = self.image(sample)
        return None if image is None else data_uri(image, side)

    def text(self, sample: Any, token: int | None = None) -> str | None:
        """Return the text of a sample, with this token marked; None if there is none."""
        return self._texts.get(sample)

    def file_name(self, sample: Any) -> str:
        """Return the name of the sample's file; an empty text if it is not known."""
        return ""

    def image(self, sample: Any) -> Image.Image | None:
        """Return the picture of a sample; None where there is none."""
        picture = picture_in_file(self._file_of(sample))
        if picture is not None:  # as a person knows it: whole, and larger than the copy that was kept
            return picture
        thumbnail = self._stored_pictures.get(sample)
        return None if thumbnail is None else picture_of(thumbnail)

    def _file_of(self, sample: int) -> str:
        return self._files[sample] if self._files is not None and sample < len(self._files) else ""


def sample_pictures(record: Record, dataset: Any, texts: KeptTexts) -> SamplePictures:
    """Return an object that finds pictures of samples in a dataset, or without one in their files and in the record.

    Args:
        record: The record, which keeps pictures and the names of files.
        dataset: The training dataset, or None.
        texts: Texts that the record keeps.
    """
    if dataset is None:
        # Of masks, the copies that were kept have the pixels that the network contradicts.
        files = None if is_dense(record.statistics) else record.names()
        return SamplePictures(record.pictures(), texts.texts, files)
    from dynalens.report.items import DatasetPictures  # torch, which pages without a dataset do without

    if not is_dense(record.statistics):
        return DatasetPictures(dataset)
    # Pictures have the pixels that the network contradicts, and words are those that its tokens were made of.
    return DatasetPictures(dataset, record.pictures(), texts.texts if texts.has_words else None)


def is_picture_file(path: str) -> bool:
    """Return whether there is a file of this name that ends as pictures do.

    Example:
        >>> is_picture_file("photos/no_such_cat.jpg")
        False
    """
    try:
        return path.lower().endswith(_SUFFIXES) and Path(path).is_file()
    except ValueError:  # a name that no file can have
        return False


def picture_in_file(path: str) -> Image.Image | None:
    """Return the picture in a file; None if there is none that can be read.

    Pictures with so many pixels that Pillow warns of them are not read, because the record may come from a stranger.
    """
    if not is_picture_file(path):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=_FORMATS) as image:
                image.draft("RGB", (_LONGEST_SIDE, _LONGEST_SIDE))
                return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError):
        return None


def data_uri(image: Image.Image, side: int) -> str:
    """Return a picture as a data URI, at most ``side`` pixels wide and high. The picture itself is made smaller."""
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
