"""TensorBoard's tags, and what is written under them: to an event file, to plain files, to a logger's own pictures."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from dynalens.dynamics import Array
from dynalens.pictures import jpeg_bytes, png_bytes
from dynalens.record import replaced

_BINS = 64
_EPOCHS_IN_A_TAG = 10
_RGB = 3
_BYTE = 255

Layout = Mapping[str, Mapping[str, Sequence[str]]]
"""Custom charts: category -> title -> regular expressions of the scalars on it."""


class Tag(NamedTuple):
    """A tag's row in ``docs/tensorboard.md``; ``<epochs>``, ``<method>`` and ``<metric>`` stand for names."""

    tag: str
    what: str
    unit: str
    when: str


_EACH, _SECOND, _EXPLAINED = "each logged epoch", "each logged epoch from the second", "each explained epoch"
_DRAWN = "each epoch with charts"
_DRAWN_2ND, _SHEETS = _DRAWN + " from the second", "each explained epoch with pictures"
_AGAIN, _UNIT = "each explained epoch from the second", "[-1, 1]"
_ROBUSTNESS = "dynalens/robustness"
_CONCEPTS, _ASKED = "dynalens/concepts", "each `every_n_epochs` of `ConceptMonitor`"
_LAYERS, _EACH_N = "dynalens/layers", "each `every_n_epochs` of `LayerMonitor`"
_DYNAMICS, _CHARTS, _FAITHFULNESS = "dynalens/dynamics", "dynalens/charts", "dynalens/faithfulness"

TAGS = (
    Tag(f"{_DYNAMICS}/forgotten", "samples that were right before and are wrong now", "samples", _EACH),
    Tag(f"{_DYNAMICS}/learned", "samples that are right for the first time", "samples", _EACH),
    Tag(f"{_DYNAMICS}/never_learned", "samples that were trained on and never right so far", "samples", _EACH),
    Tag(f"{_DYNAMICS}/suspects", "flagged samples, the number that `dynalens suspects` prints", "samples", _EACH),
    Tag(
        f"{_DYNAMICS}/suspects_overlap",
        "overlap (Jaccard index) of the flagged samples with those logged before",
        "[0, 1]",
        _SECOND,
    ),
    Tag(f"{_DYNAMICS}/noise_rate", "estimated fraction of wrong labels, from the run alone", "[0, 1]", _EACH),
    Tag(f"{_DYNAMICS}/train_accuracy", "fraction of the epoch's presentations that were right", "[0, 1]", _EACH),
    Tag(f"{_DYNAMICS}/mean_margin", "mean margin of the epoch's presentations", "logits", _EACH),
    Tag(f"{_DYNAMICS}/non_finite", "presentations left out, because a logit was not finite", "presentations", _EACH),
    Tag(f"{_DYNAMICS}/gradient_norm", "length of the last layer's gradients, with `gradient_noise`", "[0, inf)", _EACH),
    Tag(
        f"{_DYNAMICS}/gradient_variance",
        "variance of these gradients over samples (trace of the covariance)",
        "[0, inf)",
        _EACH,
    ),
    Tag(
        f"{_DYNAMICS}/noise_scale",
        "batch size at which noise and mean of the gradient are equally large",
        "samples",
        _EACH,
    ),
    Tag(f"{_DYNAMICS}/margin", "histogram of each sample's mean margin (AUM)", "logits", _EACH),
    Tag(f"{_DYNAMICS}/confidence", "histogram of each sample's mean p(label)", "[0, 1]", _EACH),
    Tag(f"{_DYNAMICS}/forgetting_events", "histogram of each sample's forgetting events", "events", _EACH),
    Tag(f"{_CHARTS}/data_map/<epochs>", "variability, confidence and correctness of each sample", "picture", _DRAWN),
    Tag(
        f"{_CHARTS}/training_data_analysis/<epochs>",
        "epoch of the last forgetting event, and `probability_gap`",
        "picture",
        _DRAWN,
    ),
    Tag(
        f"{_CHARTS}/forgetting_events/<epochs>",
        "number of samples by their forgetting events",
        "picture",
        _DRAWN,
    ),
    Tag(f"{_CHARTS}/margins/<epochs>", "histogram of mean margins; below 0 another class was ahead", "picture", _DRAWN),
    Tag(
        f"{_CHARTS}/class_pairs/<epochs>",
        "number of flagged samples by given and suggested class",
        "picture",
        _DRAWN,
    ),
    Tag(
        f"{_CHARTS}/first_learned/<epochs>",
        "number of samples by the epoch in which they were learned",
        "picture",
        _DRAWN,
    ),
    Tag("dynalens/summary", "flagged samples, noise rate, and reasons to doubt them", "text", _EACH),
    Tag(
        "dynalens/suspects/<epochs>",
        "gallery of the `top_k` worst suspects, for images and signals",
        "picture",
        _DRAWN_2ND,
    ),
    Tag("dynalens/suspects/table", "the same as a table, for inputs without a picture", "text", _DRAWN),
    Tag(
        "dynalens/prototypes",
        "prototypes, criticisms, easiest and hardest samples of each class, with `prototypes`",
        "picture",
        "end of training",
    ),
    Tag(
        "dynalens/projector",
        "features of up to 2,000 samples, with `features`",
        "embedding",
        "each `projector_every_n_epochs`",
    ),
    Tag(
        f"{_CONCEPTS}/<concept>/<class>/score",
        "fraction of the class's images for which the concept speaks for the class",
        "[0, 1]",
        _ASKED,
    ),
    Tag(
        f"{_CONCEPTS}/<concept>/<class>/random", "the same for random images in place of the concept", "[0, 1]", _ASKED
    ),
    Tag(
        f"{_CONCEPTS}/<concept>/<class>/p_value",
        "p-value of the two-sided test between `score` and `random`",
        "[0, 1]",
        _ASKED,
    ),
    Tag(
        f"{_CONCEPTS}/<concept>/<class>/accuracy",
        "accuracy of telling examples of the concept from random images",
        "[0, 1]",
        _ASKED,
    ),
    Tag(f"{_CONCEPTS}/dissection/<epochs>", "channels whose activity overlaps most with a mask", "picture", _ASKED),
    Tag("dynalens/explanations/<epochs>", "one row per sample: input, maps, curves", "picture", _SHEETS),
    Tag(
        "dynalens/film/<method>",
        "film strip: maps of the samples over the epochs",
        "picture",
        "1st, 2nd, 4th, ... and last explained epoch",
    ),
    Tag(
        "dynalens/explanations/overhead",
        "time spent explaining, as a fraction of the training time since the previous explanation",
        "fraction",
        _EXPLAINED,
    ),
    Tag(
        "dynalens/explanations/every_n_epochs",
        "epochs until the next explanation; `max_overhead` makes it more",
        "epochs",
        _EXPLAINED,
    ),
    Tag(f"{_ROBUSTNESS}/<epochs>", "the nearest inputs with another prediction", "picture", _SHEETS),
    Tag(
        f"{_ROBUSTNESS}/<attack>/median_step",
        "median of the smallest steps that change the prediction",
        "units of the input",
        _EXPLAINED,
    ),
    Tag(
        f"{_ROBUSTNESS}/<attack>/changed",
        "fraction of the samples for which there is such a step",
        "[0, 1]",
        _EXPLAINED,
    ),
    Tag(
        f"{_ROBUSTNESS}/<corruption>/accuracy",
        "accuracy on corrupted samples; `none`: on unchanged ones",
        "[0, 1]",
        _EXPLAINED,
    ),
    Tag(
        f"{_ROBUSTNESS}/<corruption>/margin",
        "mean margin of corrupted samples; `none`: of unchanged ones",
        "logits",
        _EXPLAINED,
    ),
    Tag(f"{_LAYERS}/weights/<epochs>", "filters of the first layer", "picture", _EACH_N),
    Tag(f"{_LAYERS}/feature_maps/<epochs>", "maps of a layer's channels for fixed inputs", "picture", _EACH_N),
    Tag(f"{_LAYERS}/top_inputs/<epochs>", "the inputs to which a channel responds most", "picture", _EACH_N),
    Tag(f"{_LAYERS}/maximised", "images that maximise classes or channels", "picture", "end of training"),
    Tag(f"{_FAITHFULNESS}/<method>/<metric>", "mean of the metric over the explained samples", _UNIT, _EXPLAINED),
    Tag(f"{_FAITHFULNESS}/random/<metric>", "the same for a random ranking, which a map must beat", _UNIT, _EXPLAINED),
    Tag(
        f"{_FAITHFULNESS}/<method>/attribution_drift",
        "rank correlation with the map of the previous explanation",
        _UNIT,
        _AGAIN,
    ),
)


def tags_table() -> str:
    """Return the guide's table of tags in Markdown."""
    rows = [f"| `{tag.tag}` | {tag.what} | {tag.unit} | {tag.when} |" for tag in TAGS]
    return "\n".join(["| tag | what it shows | unit or range | when |", "| --- | --- | --- | --- |", *rows])


def epochs_tag(prefix: str, epoch: int) -> str:
    """Return the tag of an epoch's picture.

    TensorBoard's server shows ten steps of an image tag, drawn at random; a tag for each ten epochs shows them all.

    Example:
        >>> epochs_tag("dynalens/explanations", 12)
        'dynalens/explanations/epochs 010-019'
    """
    first = epoch - epoch % _EPOCHS_IN_A_TAG
    return f"{prefix}/epochs {first:03d}-{first + _EPOCHS_IN_A_TAG - 1:03d}"


def dynamics_layout(prefix: str) -> Layout:
    """Return the custom charts of a :class:`TrainingDynamicsMonitor`."""
    pattern = f"{re.escape(prefix)}/dynamics"
    counts: dict[str, tuple[str, ...]] = {"forgotten and learned in the epoch": ("forgotten", "learned")}
    counts |= {"never learned and suspects": ("never_learned", "suspects")}
    counts |= {"stability of the suspects": ("suspects_overlap",)}
    counts |= {"estimated noise rate": ("noise_rate",)}
    return {prefix: {title: [f"{pattern}/{name}$" for name in names] for title, names in counts.items()}}


def faithfulness_layout(prefix: str, methods: Sequence[str], metrics: Sequence[str]) -> Layout:
    """Return the custom charts of an :class:`AttributionMonitor`: methods compared, and each alone."""
    pattern = f"{re.escape(prefix)}/faithfulness"
    charts = {f"{metric}: all methods": [f"{pattern}/[^/]+/{re.escape(metric)}$"] for metric in metrics}
    # A method's own chart also shows its random control and whatever else is measured of it.
    charts |= {f"{method}: metrics and random order": [f"{pattern}/{re.escape(method)}/.*"] for method in methods}
    return {f"{prefix} faithfulness": charts} if metrics else {}


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
        self._encoded(tag, image, jpeg_bytes(image), step)

    def chart(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a picture as PNG with a palette."""
        self._encoded(tag, image, png_bytes(image), step)

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

    def _encoded(self, tag: str, image: Image.Image, data: bytes, step: int) -> None:
        encoded = Summary.Image(height=image.height, width=image.width, colorspace=_RGB, encoded_image_string=data)
        self._writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=encoded)]), step)


class FileSink:
    """Writes pictures as files: ``<folder>/<tag>/<step>.jpg``, ``.png`` or ``.md``, with ``_`` for spaces.

    Args:
        folder: Made when something is written.
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

    def _write(self, tag: str, step: int, ending: str, data: bytes) -> None:
        path = self._folder / re.sub(r"[^\w/.-]", "_", tag) / f"{step:06d}.{ending}"
        with replaced(path) as temporary:
            temporary.write_bytes(data)


class LoggerSink:
    """Hands pictures to a logger with a method ``log_image(key, images, step)``, as Lightning's for W&B has it.

    Args:
        logger: The logger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.name = type(logger).__name__

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Log a picture."""
        self._logger.log_image(key=tag, images=[image], step=step)

    chart = image

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Log nothing: loggers agree on pictures only, and the tables are on disk."""

    def histogram(self, tag: str, values: Array, step: int) -> None:
        """Log nothing, as for texts."""


class Sinks:
    """Writes to each of several sinks; a logger that fails is left out from then on, with a warning.

    Args:
        own: Where pictures go in any case.
        others: Those of loggers, in the order of writing.
    """

    def __init__(self, own: Sink, others: Sequence[LoggerSink]) -> None:
        self._own, self._others = own, list(others)

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a picture."""
        self._own.image(tag, image, step)
        self._write_to_others(lambda sink: sink.image(tag, image, step))

    def chart(self, tag: str, image: Image.Image, step: int) -> None:
        """Write a chart."""
        self._own.chart(tag, image, step)
        self._write_to_others(lambda sink: sink.chart(tag, image, step))

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write a text."""
        self._own.text(tag, markdown, step)
        self._write_to_others(lambda sink: sink.text(tag, markdown, step))

    def histogram(self, tag: str, values: Array, step: int) -> None:
        """Write a distribution."""
        self._own.histogram(tag, values, step)
        self._write_to_others(lambda sink: sink.histogram(tag, values, step))

    def _write_to_others(self, write: Callable[[Sink], None]) -> None:
        for sink in list(self._others):
            try:
                write(sink)
            except Exception as error:  # noqa: BLE001, PERF203  # of the logger: it is said, and the others go on
                self._others.remove(sink)
                warnings.warn(
                    f"Pictures for {sink.name} are switched off, training goes on: {type(error).__name__}: {error}",
                    stacklevel=5,
                )


def make_sink(writer: Any, picture_loggers: Sequence[Any], folder: Path) -> Sink:
    """Return where pictures go: the event file or, without one, files; and each logger that takes pictures."""
    sink: Sink = FileSink(folder) if writer is None else EventSink(writer)
    return Sinks(sink, [LoggerSink(logger) for logger in picture_loggers]) if picture_loggers else sink


def write_embedding(
    writer: Any,
    tag: str,
    values: Array,
    header: Sequence[str],
    metadata: Sequence[Sequence[str]],
    pictures: Array | None,
    step: int,
) -> None:
    """Write vectors for the projector, beside the event file: one embedding ``<tag>:<step>`` for each step.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``.
        tag: Name of the embedding.
        values: Shape ``(M, D)``.
        header: Names of the columns of the metadata.
        metadata: M rows of texts; line breaks and tabulators become spaces.
        pictures: Shape ``(M, S, S, 3)``, uint8, or None.
        step: Step of the logger.
    """
    rows = [[" ".join(text.split()) or "-" for text in row] for row in metadata]
    images = None if pictures is None else torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / _BYTE
    writer.add_embedding(
        values, metadata=rows, metadata_header=list(header), label_img=images, global_step=step, tag=tag
    )


def write_layout(writer: Any, layouts: Sequence[Layout]) -> None:
    """Write the custom charts of all monitors; TensorBoard reads one layout of a run, so it is written once."""
    merged_layout: dict[str, dict[str, list[Any]]] = {}
    for layout in layouts:
        for category, charts in layout.items():
            entries = {title: ["Multiline", list(tags)] for title, tags in charts.items()}
            merged_layout.setdefault(category, {}).update(entries)
    if merged_layout and not getattr(writer, "_dynalens_layout", False):
        writer._dynalens_layout = True
        writer.add_custom_scalars(merged_layout)
