"""A matrix that counts flagged samples by their given and their suggested class."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dynalens.dynamics import Array
from dynalens.pictures.axes import PLOT, Axes, Axis, number
from dynalens.pictures.drawing import DENSITY, PAPER, class_name, colours_of, text_width

MOST_CLASSES = 12
"""Most classes in a matrix. If there are more, the ones with the most flagged samples are shown."""
_TICK, _ROOM = 12, 26  # size of letters, and pixels left of the plot
_FEWEST_LETTERS = 3  # if fewer of a name fit, classes have their numbers
_FEWEST_ACROSS = 2  # of names across, as those down the side say more of them


def class_pairs(
    labels: Array, suggestions: Array, names: Sequence[str] | None = None, subtitle: str = ""
) -> Image.Image:
    """Return how many flagged samples have which given class (down) and which suggested one (across).

    Args:
        labels: Shape ``(M,)``, class that each flagged sample was trained on.
        suggestions: Shape ``(M,)``, class that the network names instead; -1 where it names none, which is left out.
        names: Name of each class, or None. Long names are cut to their first letters; where these would be alike, or
            fewer than three (across: two), the axes show the numbers of the classes.
        subtitle: Behind the title.
    """
    counts, classes = counted_pairs(labels, suggestions)
    has_suggestion = suggestions >= 0
    k, num_all_classes = len(classes), len(np.unique(np.append(labels[has_suggestion], suggestions[has_suggestion])))
    rows = _tick_names(classes, names, _ROOM)
    columns = _tick_names(classes, names, PLOT[0] / max(k, 1) - 3, _FEWEST_ACROSS)
    if columns is None or rows is None:
        columns = rows = [str(label) for label in classes]
    legend = f"the {k} classes with the most, of {num_all_classes}" if num_all_classes > k else ""
    return _matrix("Given and suggested", counts, ("given class", rows), ("suggested class", columns), legend, subtitle)


def doubted_labels(
    labels: Array, was_given: Array, names: Sequence[str] | None = None, subtitle: str = ""
) -> Image.Image:
    """Return how often each label of flagged samples is probably missing, and how often it is extra.

    Args:
        labels: Shape ``(M,)``, number of the label that is doubted of each flagged sample.
        was_given: Shape ``(M,)``, bool, whether the sample has it: it is then extra, else missing.
        names: Name of each label, or None. Long names are cut as for :func:`class_pairs`.
        subtitle: Behind the title.

    Example:
        >>> doubted_labels(np.array([2, 2, 5]), np.array([True, False, True])).size  # rows 2 and 5, of 1 | 1 and 0 | 1
        (350, 215)
    """
    all_labels, frequency = np.unique(labels, return_counts=True)
    top_labels = np.sort(all_labels[np.argsort(-frequency, kind="stable")[:MOST_CLASSES]])
    counts = np.array([[((labels == k) & (was_given == extra)).sum() for extra in (False, True)] for k in top_labels])
    rows = _tick_names(top_labels.tolist(), names, _ROOM) or [str(label) for label in top_labels.tolist()]
    legend = (
        f"the {len(top_labels)} labels with the most, of {len(all_labels)}" if len(all_labels) > len(top_labels) else ""
    )
    return _matrix(
        "Doubted labels", counts.reshape(-1, 2), ("label", rows), ("probably", ["missing", "extra"]), legend, subtitle
    )


def _matrix(
    title: str, counts: Array, rows: tuple[str, list[str]], columns: tuple[str, list[str]], legend: str, subtitle: str
) -> Image.Image:
    """Return a picture of counts ``(R, C)``; rows and columns are what they are, and the name of each."""
    height, width = max(len(rows[1]), 1), max(len(columns[1]), 1)
    column_names = tuple((float(i), name) for i, name in enumerate(columns[1]))
    row_names = tuple((float(height - 1 - i), name) for i, name in enumerate(rows[1]))
    axes = Axes(
        title, subtitle, colour_bar=True,
        x=Axis(columns[0], -0.5, width - 0.5, names=column_names, last_tick=-1.0),
        y=Axis(rows[0], -0.5, height - 0.5, names=row_names, last_tick=-1.0),
    )  # fmt: skip
    max_count = int(counts.max(initial=0))
    axes.colour_bar(DENSITY, "flagged", low="1", high=number(max(max_count, 1)))
    if not max_count:
        axes.note("no sample is flagged")
        return axes.image
    strength = (counts / max_count)[..., None]
    cells = np.where(strength > 0, colours_of(strength[..., 0], DENSITY), PAPER).round().astype(np.uint8)
    axes.raster(cells)
    for row, column in np.argwhere(counts):
        text = number(int(counts[row, column]))
        axes.count((column + 0.5) / width, 1 - (row + 0.5) / height, text, background=cells[row, column])
    if legend:
        axes.legend([(legend, DENSITY[-1])])
    return axes.image


def _tick_names(
    classes: Sequence[int], names: Sequence[str] | None, width: float, fewest: int = _FEWEST_LETTERS
) -> list[str] | None:
    """Return the names of classes, cut to their first letters if they are too wide; None if these look alike."""
    whole_names = [class_name(label, names) for label in classes]
    beginnings = [_beginning(name, width) for name in whole_names]
    are_clear = all(
        len(beginning) >= min(fewest, len(name)) for beginning, name in zip(beginnings, whole_names, strict=True)
    )
    return beginnings if are_clear and len(set(beginnings)) == len(classes) else None


def _beginning(name: str, width: float) -> str:
    return next((name[:end] for end in range(len(name), 0, -1) if text_width(name[:end], _TICK) <= width), "")


def counted_pairs(labels: Array, suggestions: Array, most_classes: int = MOST_CLASSES) -> tuple[Array, list[int]]:
    """Return the counts of pairs, given class by row and suggested one by column, and the classes in their order.

    Example:
        >>> counted_pairs(np.array([3, 3, 5, 7]), np.array([5, 5, 3, -1]))
        (array([[0, 2],
               [1, 0]]), [3, 5])
    """
    has_suggestion = suggestions >= 0
    labels, suggestions = labels[has_suggestion], suggestions[has_suggestion]
    classes, frequency = np.unique(np.append(labels, suggestions), return_counts=True)
    classes = np.sort(classes[np.argsort(-frequency, kind="stable")[:most_classes]])
    is_frequent = np.isin(labels, classes) & np.isin(suggestions, classes)
    pairs = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(
        pairs, (np.searchsorted(classes, labels[is_frequent]), np.searchsorted(classes, suggestions[is_frequent])), 1
    )
    return pairs, classes.tolist()
