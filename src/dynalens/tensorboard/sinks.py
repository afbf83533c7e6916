"""Where pictures, texts and distributions are written: to an event file, to plain files, or to a logger."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from dynalens.dynamics import Array
from dynalens.notices import warn
from dynalens.pictures import jpeg_bytes, png_bytes
from dynalens.record import replacement_file
from dynalens.tensorboard.tags import Layout
from dynalens.text import error_in_words

_BINS = 64
_RGB = 3
_BYTE = 255


class Sink(Protocol):
    """Takes pictures, texts and distributions."""

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a photograph-like picture."""

    def chart(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a chart: lines and few colours."""

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write a text in Markdown."""

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
        self._encode(tag, image, jpeg_bytes(image), step)

    def chart(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a picture as PNG with a palette."""
        self._encode(tag, image, png_bytes(image), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write a text."""
        self._writer.add_text(tag, markdown, step)

    def histogram(self, tag: str, values: Array, step: int) -> None:
        """Write the distribution in 64 bins; eight times faster than ``add_histogram``."""
        finite = values[np.isfinite(values)].astype(np.float64)
        if not finite.size:
            return
        counts, limits = np.histogram(finite, bins=_BINS)
        self._writer.add_histogram_raw(
            tag, min=finite.min(), max=finite.max(), num=finite.size, sum=finite.sum(),
            sum_squares=np.square(finite).sum(), bucket_limits=limits[1:].tolist(), bucket_counts=counts.tolist(),
            global_step=step,
        )  # fmt: skip

    def _encode(self, tag: str, image: Image.Image, data: bytes, step: int) -> None:
        summary_image = Summary.Image(
            height=image.height, width=image.width, colorspace=_RGB, encoded_image_string=data
        )
        self._writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=summary_image)]), step)


class FileSink:
    """Writes pictures as files: ``<folder>/<tag>/<step>.jpg``, ``.png`` or ``.md``, with ``_`` for spaces.

    Args:
        folder: The folder. It is made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a picture as JPEG."""
        self._write(tag, step, "jpg", jpeg_bytes(image))

    def chart(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a picture as PNG with a palette."""
        self._write(tag, step, "png", png_bytes(image))

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write a text."""
        self._write(tag, step, "md", f"{markdown}\n".encode())

    def histogram(self, tag: str, values: Array, step: int) -> None:
        """Write nothing: the values themselves are in ``record.npz``."""

    def _write(self, tag: str, step: int, suffix: str, data: bytes) -> None:
        path = self._folder / re.sub(r"[^\w/.-]", "_", tag) / f"{step:06d}.{suffix}"
        with replacement_file(path) as temporary:
            temporary.write_bytes(data)


class WithLoggers:
    """Writes to a sink, and hands pictures to loggers that take them, as Lightning's logger for W&B does.

    Loggers agree on pictures only, and the tables are on disk. A logger that fails is left out from then on, with a
    warning.

    Args:
        sink: Where all is written.
        loggers: Objects with a method ``log_image(key, images, step)``, in the order of writing.
    """

    def __init__(self, sink: Sink, loggers: Sequence[Any]) -> None:
        self._sink, self._loggers = sink, list(loggers)
        self.text, self.histogram = sink.text, sink.histogram

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a picture."""
        self._sink.image(tag, image, step)
        self._log(tag, image, step)

    def chart(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a chart."""
        self._sink.chart(tag, image, step)
        self._log(tag, image, step)

    def _log(self, tag: str, image: Image.Image, step: int) -> None:
        for logger in list(self._loggers):
            try:
                logger.log_image(key=tag, images=[image], step=step)
            except Exception as error:  # noqa: BLE001, PERF203  # of the logger: it is said, and the others go on
                self._loggers.remove(logger)
                words = error_in_words(error)
                warn(f"Pictures for {type(logger).__name__} are switched off, training goes on: {words}")


def make_sink(writer: Any, picture_loggers: Sequence[Any], folder: Path) -> Sink:
    """Return the sink for pictures: the event file, or files without one, and each logger that takes pictures."""
    sink: Sink = FileSink(folder) if writer is None else EventSink(writer)
    return WithLoggers(sink, picture_loggers) if picture_loggers else sink


def write_embedding(
    writer: Any,
    tag: str,
    values: Array,
    header: Sequence[str],
    metadata: Sequence[Sequence[str]],
    pictures: Array | None,
    step: int,
) -> None:
    """Write vectors for the projector, beside the event file: one embedding ``<tag>:<step>`` per step.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``.
        tag: Name of the embedding.
        values: Shape ``(M, D)``.
        header: Names of the columns of the metadata.
        metadata: M rows of texts. Line breaks and tabulators become spaces.
        pictures: Shape ``(M, S, S, 3)``, uint8, or None.
        step: Step of the logger.
    """
    rows = [[" ".join(text.split()) or "-" for text in row] for row in metadata]
    images = None if pictures is None else torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / _BYTE
    writer.add_embedding(
        values, metadata=rows, metadata_header=list(header), label_img=images, global_step=step, tag=tag
    )


def write_layout(writer: Any, layouts: Sequence[Layout]) -> None:
    """Write the custom charts of all monitors.

    They are written together, because TensorBoard reads one layout per run.
    """
    merged_layout: dict[str, dict[str, list[Any]]] = {}
    for layout in layouts:
        for category, charts in layout.items():
            entries = {title: [kind, list(tags)] for title, (kind, tags) in charts.items()}
            merged_layout.setdefault(category, {}).update(entries)
    if merged_layout and not getattr(writer, "_dynalens_layout", False):
        writer._dynalens_layout = True
        writer.add_custom_scalars(merged_layout)
