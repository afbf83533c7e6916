"""What an audit asks about: what was given to each sample, as answers and as plans have it."""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.text import escaped, label_positions

MOST_CODES = 2**31
"""Codes are below it, so that plans can keep them as int32."""


class Given(NamedTuple):
    """What was given to each of N samples.

    Attributes:
        codes: Shape ``(N,)``, int64: the class of each sample. Where a sample has several labels or a number, a
            checksum of what was given to it; 0 where the record does not keep all of it.
        texts: Says of some rows, as answers have it, what was given to them: the numbers of their labels, or their
            target; an empty text where the record does not keep it. None where each sample has one class.
    """

    codes: Array
    texts: Callable[[Array], list[str]] | None = None


def given_to(statistics: SampleStatistics) -> Given:
    """Return what was given to each sample: a class, several labels, or the target of a regression.

    Of tokens and pixels, and of several targets, the record keeps the worst one only, which changes from epoch to
    epoch. These have no text.

    Example:
        >>> import torch
        >>> from dynalens import TrainingDynamics
        >>> dynamics = TrainingDynamics(2)
        >>> dynamics.update([0, 1], torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
        >>> _ = dynamics.end_epoch(0)
        >>> given_to(dynamics.compute())
        Given(codes=array([0, 1]), texts=None)
    """
    if statistics.unit is None:
        return Given(statistics.label.astype(np.int64))
    if not keeps_all_given(statistics):
        return Given(np.zeros(len(statistics), np.int64), lambda rows: [""] * len(rows))
    if statistics.unit_given is not None:
        labels = statistics.unit_given
        return Given(_checksums(labels), lambda rows: [label_positions(labels[row].tolist()) for row in rows])
    assert statistics.target is not None
    targets = statistics.target
    return Given(_checksums(targets[:, None]), lambda rows: [f"{target:.6g}" for target in targets[rows]])


def keeps_all_given(statistics: SampleStatistics) -> bool:
    """Return whether the record says all that was given to a sample: not of tokens, pixels and several targets."""
    has_one_target = statistics.unit_residuals is not None and statistics.unit_residuals.shape[1] == 1
    return statistics.unit is None or statistics.unit_given is not None or has_one_target


def label_list(bits: Array, names: Sequence[str] | None) -> str:
    """Return in words which labels a sample has.

    Args:
        bits: Shape ``(K,)``, 1 where it has the label, 0 where not, -1 where the loss ignored it.
        names: Of the labels; without it they are numbered.

    Example:
        >>> label_list(np.array([1, 0, 1]), ["cat", "dog", "owl"]), label_list(np.array([0, -1]), None)
        ('cat, owl', 'no label (1 was not given)')
    """
    label_names = [escaped(name) for name in names or ()]
    label_numbers = np.flatnonzero(bits == 1).tolist()
    words = [label_names[number] if number < len(label_names) else str(number) for number in label_numbers]
    text = ", ".join(words) or "no label"
    ignored_count = int((bits < 0).sum())
    return f"{text} ({ignored_count} {'was' if ignored_count == 1 else 'were'} not given)" if ignored_count else text


def _checksums(values: Array) -> Array:
    """Return a number from 0 to 2^31 - 1 for each row."""
    rows = np.ascontiguousarray(values)
    return np.array([zlib.crc32(row.tobytes()) % MOST_CODES for row in rows], dtype=np.int64)
