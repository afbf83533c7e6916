"""TensorBoard's tags, and what is written under them: to an event file, or to plain files without a logger."""

import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from dynalens.dynamics import Array
from dynalens.pictures import jpeg_bytes
from dynalens.records import replaced

_BINS = 64
_EPOCHS_IN_A_TAG = 10
_RGB = 3


def epochs_tag(prefix: str, epoch: int) -> str:
    """Return the tag of an epoch's picture.

    TensorBoard's server shows ten steps of an image tag, drawn at random; a tag for each ten epochs shows them all.

    Example:
        >>> epochs_tag("dynalens/explanations", 12)
        'dynalens/explanations/epochs 010-019'
    """
    first = epoch - epoch % _EPOCHS_IN_A_TAG
    return f"{prefix}/epochs {first:03d}-{first + _EPOCHS_IN_A_TAG - 1:03d}"


class Sink(Protocol):
    """Takes pictures and distributions."""

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a photograph-like picture."""

    def histogram(self, tag: str, values: Array, step: int) -> None:
        """Write the distribution of the finite values; nothing if there are none."""


class EventSink:
    """Writes to an event file.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a picture as JPEG; ``add_image`` would encode a PNG, 24 times as long and 7 times as large."""
        encoded = Summary.Image(
            height=image.height, width=image.width, colorspace=_RGB, encoded_image_string=jpeg_bytes(image)
        )
        summary = Summary(value=[Summary.Value(tag=tag, image=encoded)])
        self._writer._get_file_writer().add_summary(summary, step)

    def histogram(self, tag: str, values: Array, step: int) -> None:
        """Write the distribution in 64 bins; eight times faster than ``add_histogram``."""
        finite = values[np.isfinite(values)].astype(np.float64)
        if not finite.size:
            return
        counts, limits = np.histogram(finite, bins=_BINS)
        self._writer.add_histogram_raw(
            tag,
            min=finite.min(),
            max=finite.max(),
            num=finite.size,
            sum=finite.sum(),
            sum_squares=np.square(finite).sum(),
            bucket_limits=limits[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )


class FileSink:
    """Writes pictures as files: ``<folder>/<tag>/<step>.jpg``, with ``_`` for spaces.

    Args:
        folder: Made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a picture as JPEG."""
        path = self._folder / re.sub(r"[^\w/.-]", "_", tag) / f"{step:06d}.jpg"
        with replaced(path) as temporary:
            temporary.write_bytes(jpeg_bytes(image))

    def histogram(self, tag: str, values: Array, step: int) -> None:
        """Write nothing: the values themselves are in ``record.npz``."""
