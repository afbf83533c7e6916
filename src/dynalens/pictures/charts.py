"""Charts of a record. They show counts in cells and bars, so that a million samples take as long as a thousand."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from dynalens.dynamics import Array, SampleStatistics
from dynalens.pictures.axes import PLOT, Axes, Axis, number
from dynalens.pictures.drawing import AGREEMENT, BLUE, DENSITY, FAINT, GREEN, ORANGE, PAPER, colours_of
from dynalens.text import percent

_PALEST = 0.5
"""Opacity of a cell with one sample. The fullest cell is opaque."""
_BARS = 55
_NO_DATA = "no sample was seen yet"
# Few samples need large cells to be seen; many need small ones to show a shape.
_CELL_SIZES = ((2_000, 4), (50_000, 3))
_SMALLEST_CELL = 2


class Counts(NamedTuple):
    """Number of samples in each cell, and the mean of another quantity there. It is NaN in empty cells.

    The first row of cells is at the top.
    """

    samples: Array
    mean: Array | None


def data_map(statistics: SampleStatistics, subtitle: str = "") -> Image.Image:
    """Return the data map of Swayamdipta et al. 2020: variability across, confidence up, correctness as colour.

    Easy samples are at the upper left, ambiguous ones at the right, hard and mislabeled ones at the lower left.

    Source: Swayamdipta et al., "Dataset Cartography", EMNLP 2020, figure 1. https://arxiv.org/abs/2009.10795
    Differs from the source: cells with the mean of their samples rather than 25,000 markers drawn at random.

    Args:
        statistics: The record; samples never seen are left out.
        subtitle: Behind the title.
    """
    p = statistics.probability_name
    x, y = Axis(f"variability of {p}", 0.0, 0.5), Axis(f"mean {p}", 0.0, 1.0)
    axes = Axes("Data map", subtitle, x=x, y=y, colour_bar=True)
    cells = cell_counts(x.place(statistics.variability), y.place(statistics.confidence), statistics.correctness)
    axes.colour_bar(AGREEMENT, "correctness", low="0", high="1")
    if not cells.samples.any():
        axes.note(_NO_DATA)
        return axes.image
    assert cells.mean is not None
    axes.raster(_mixed_with_paper(colours_of(np.nan_to_num(cells.mean), AGREEMENT), cells.samples))
    axes.legend([("strong: many samples, pale: few", FAINT)])
    # In the corners at the right, where there are no samples: the variability is at most sqrt(p (1 - p)).
    axes.name(0.98, 0.03, f"left: hard or {_mislabeled(statistics)}", "rd")
    axes.name(0.98, 0.97, "right: ambiguous", "ra")
    return axes.image


def training_data_analysis(statistics: SampleStatistics, subtitle: str = "") -> Image.Image:
    """Return the scatter of last forgetting epoch and probability gap, where mislabeled samples stand at the top.

    Across: epoch of the last forgetting event, "never" at the left; up: max_k p_k - p(label) at the last presentation,
    of a regression 1 - 2 p with its closeness p, at least 0.
    Easy samples are at the bottom left, difficult ones to the right, mislabeled ones at the top.

    Source: the training-data analysis of Li et al., "InterpretDL", JMLR 2022.

    Args:
        statistics: The record; samples never seen are left out.
        subtitle: Behind the title.
    """
    last_epochs = np.fmax(statistics.last_forgotten, -1.0)  # NaN, never forgotten, becomes -1
    epochs = int(max(1, last_epochs.max(initial=0)))
    x = Axis("epoch of the last forgetting event", -1.5, epochs + 0.5, integers=True, names=((-1.0, "never"),))
    p = statistics.probability_name
    y = Axis(f"max p - {p}" if statistics.target is None else f"1 - 2 {p}, at least 0", 0.0, 1.0)
    axes = Axes("Training-data analysis", subtitle, x=x, y=y, colour_bar=True)
    cells = cell_counts(x.place(last_epochs), y.place(statistics.probability_gap), num_columns=min(epochs + 2, 84))
    max_count = int(cells.samples.max(initial=0))
    axes.colour_bar(DENSITY, "samples (log)", low="1", high=number(max(max_count, 1)))
    if not max_count:
        axes.note(_NO_DATA)
        return axes.image
    strength = np.log1p(cells.samples) / np.log1p(max_count)
    axes.raster(np.where(cells.samples[..., None] > 0, colours_of(strength, DENSITY), PAPER).round().astype(np.uint8))
    axes.name(0.03, 0.97, f"{_mislabeled(statistics)}?", "la")
    axes.name(0.97, 0.97, "difficult", "ra")
    return axes.image


def forgetting_events(statistics: SampleStatistics, subtitle: str = "") -> Image.Image:
    """Return how many learned samples were forgotten how often, on a logarithmic scale; never learned ones apart.

    Args:
        statistics: The record; samples never seen are left out.
        subtitle: Behind the title.
    """
    is_learned, num_never_learned, total = _learned_counts(statistics)
    counts = np.bincount(statistics.forgetting_events[is_learned], minlength=2)
    axes = _count_bars("Forgetting", subtitle, counts, num_never_learned, label="forgetting events", log=True)
    if total:
        unforgotten = f"never forgotten {_share(int(counts[0]), total)}"
        axes.legend([(unforgotten, GREEN), (f"never learned {_share(num_never_learned, total)}", ORANGE)])
    return axes.image


def margins(statistics: SampleStatistics, subtitle: str = "", *, threshold: float = 0.0) -> Image.Image:
    """Return the distribution of the mean margin (AUM), with a line at the threshold.

    The margin of a regression is log(tolerance / abs(residual)).

    Args:
        statistics: The record; samples never seen are left out.
        subtitle: Behind the title.
        threshold: Mean margin below which bars are marked: another class was ahead of the label, or the prediction
            was farther off than the tolerance.
    """
    margin = statistics.margin
    finite = np.isfinite(margin)
    low, high = _range(margin, finite, threshold)
    bins = np.where(finite, (margin - low) * (_BARS / (high - low)), _BARS)  # none reaches the last edge
    heights = np.bincount(bins.astype(np.int32), minlength=_BARS + 1)[:_BARS]
    edges = np.linspace(low, high, _BARS + 1)
    label = "mean margin (logits)" if statistics.target is None else "mean log(tolerance / |residual|)"
    axes = Axes("Margins", subtitle, x=Axis(label, low, high), y=_count_axis(heights))
    if not finite.any():
        axes.note(_NO_DATA)
        return axes.image
    middles = (edges[:-1] + edges[1:]) / 2
    axes.bars(edges, heights, [ORANGE if middle < threshold else BLUE for middle in middles])
    count_below, total = int((margin < threshold).sum()), int(finite.sum())
    axes.legend([(f"below {threshold:g}: {count_below:,} of {total:,} ({_share(count_below, total)})", ORANGE)])
    axes.mark(threshold)
    return axes.image


def first_learned(statistics: SampleStatistics, subtitle: str = "") -> Image.Image:
    """Return in which epoch how many samples were first correct; those never learned apart.

    Args:
        statistics: The record; samples never seen are left out.
        subtitle: Behind the title.
    """
    is_learned, num_never_learned, total = _learned_counts(statistics)
    counts = np.bincount(statistics.first_learned[is_learned].astype(np.int32), minlength=2)
    label = "epoch of the first correct prediction"
    axes = _count_bars("First learned", subtitle, counts, num_never_learned, label=label, log=False)
    if total:
        axes.legend([(f"never learned: {num_never_learned:,} ({_share(num_never_learned, total)})", ORANGE)])
    return axes.image


def accuracy_curve(epochs: Array, accuracy: Array, subtitle: str = "") -> Image.Image:
    """Return a line of the training accuracy over the epochs.

    Args:
        epochs: Shape ``(E,)``, ascending.
        accuracy: Shape ``(E,)``, in [0, 1].
        subtitle: Behind the title.
    """
    x = Axis("epoch", float(epochs[0]), float(max(epochs[-1], epochs[0] + 1)), integers=True)
    axes = Axes("Training accuracy", subtitle, x=x, y=Axis("right presentations", 0.0, 1.0))
    axes.line(epochs, accuracy, BLUE, width=3)
    return axes.image


def cell_counts(x: Array, y: Array, value: Array | None = None, *, num_columns: int | None = None) -> Counts:
    """Count the points of the unit square in cells whose size fits their number.

    Args:
        x: Shape ``(N,)``; points outside [0, 1] and NaN are left out.
        y: Shape ``(N,)``, upwards.
        value: Shape ``(N,)``, averaged in each cell.
        num_columns: Number of columns, where the data say it.

    Example:
        >>> cell_counts(np.array([0.0, 1.0]), np.array([0.0, 1.0])).samples.shape
        (36, 63)
    """
    size = next((side for max_points, side in _CELL_SIZES if len(x) <= max_points), _SMALLEST_CELL)
    columns, rows = num_columns or PLOT[0] // size, PLOT[1] // size
    if not _all_inside(x, y):
        is_inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)  # NaN is not
        x, y, value = x[is_inside], y[is_inside], None if value is None else value[is_inside]
    # One column and one row more than there are cells, for the points at 1; they are folded back below.
    cell = (y * rows).astype(np.int32)
    cell *= columns + 1
    cell += (x * columns).astype(np.int32)
    points, shape = (rows + 1) * (columns + 1), (rows + 1, columns + 1)
    samples = _folded_cells(np.bincount(cell, minlength=points).reshape(shape))
    if value is None:
        return Counts(samples, None)
    sums = _folded_cells(np.bincount(cell, value, points).reshape(shape))
    return Counts(samples, np.divide(sums, samples, out=np.full(samples.shape, np.nan), where=samples > 0))


def _mislabeled(statistics: SampleStatistics) -> str:
    return "mislabeled" if statistics.target is None else "wrong target"


def _all_inside(x: Array, y: Array) -> bool:
    """Return whether all points are inside: this takes two passes instead of the eight of a mask."""
    return bool(len(x)) and all(values.min() >= 0 and values.max() <= 1 for values in (x, y))


def _folded_cells(cells: Array) -> Array:
    """Add the last row and column to their neighbours, and put the first row at the bottom."""
    cells[-2] += cells[-1]
    cells[:, -2] += cells[:, -1]
    return cells[-2::-1, :-1]


def _mixed_with_paper(colours: Array, samples: Array) -> Array:
    """Mix colours with white: the more samples, the stronger the colour."""
    strength = np.log(np.maximum(samples, 1)) / max(np.log(samples.max()), 1.0)
    opacity = np.where(samples > 0, _PALEST + (1 - _PALEST) * strength, 0.0)[..., None]
    blend: Array = opacity * colours + (1 - opacity) * np.array(PAPER)
    return blend.round().astype(np.uint8)


def _sums_of_groups(counts: Array, group: int) -> Array:
    """Return the sums of each ``group`` neighbouring counts."""
    padded_counts = np.pad(counts, (0, -len(counts) % group))
    return np.asarray(padded_counts.reshape(-1, group).sum(axis=1))


def _count_axis(heights: Array, *, log: bool = False) -> Axis:
    max_count = float(max(heights.max(initial=0), 1))
    if log:
        return Axis("samples (log)", 0.5, max(max_count * 1.5, 10.0), log=True)
    return Axis("samples", 0.0, max(max_count * 1.08, 2.0), integers=True)


def _learned_counts(statistics: SampleStatistics) -> tuple[Array, int, int]:
    """Return which samples were learned, the number of samples that were not, and the number of all that were seen."""
    has_presentations = statistics.presentations > 0
    is_learned = has_presentations & statistics.learned
    total = int(has_presentations.sum())
    return is_learned, total - int(is_learned.sum()), total


def _count_bars(title: str, subtitle: str, counts: Array, num_never_learned: int, *, label: str, log: bool) -> Axes:
    """Return a chart with a bar for each count 0, 1, ..., and a separate bar for samples that were never learned."""
    group = -(-len(counts) // _BARS)
    heights = np.append(_sums_of_groups(counts, group), [0, num_never_learned])
    edges = np.arange(len(heights) + 1) * group - 0.5
    place_of_never = float(edges[-2:].mean())
    x = Axis(label, edges[0], edges[-1], integers=True, names=((place_of_never, "never"),), last_tick=len(counts) - 1)
    axes = Axes(title, subtitle, x=x, y=_count_axis(heights, log=log))
    if not heights.any():
        axes.note(_NO_DATA)
        return axes
    first_colour = GREEN if log else BLUE
    axes.bars(edges, heights, [first_colour, *[BLUE] * (len(heights) - 2), ORANGE])
    return axes


def _range(values: Array, finite: Array, threshold: float) -> tuple[float, float]:
    if not finite.any():
        return threshold - 1, threshold + 1
    low, high = min(float(np.nanmin(values)), threshold), max(float(np.nanmax(values)), threshold)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def _share(part: int, total: int) -> str:
    return percent(part / total) if total else "-"
