"""Targets that are drawn, as pretext tasks do, are no labels of samples: they have nothing to do with the labels."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from dynalens.capture import CHANCE_OF_ANY_COLUMN, OrderCheck

_ENOUGH = 100
"""Least number of targets, and of pairs of rows with the same label, from which something is concluded."""


class RandomDraws:
    """See whether a step draws from the global generators of Python or NumPy. torch's draws are traced instead."""

    def __init__(self) -> None:
        self._states = _states()

    def begin(self) -> None:
        """A step begins."""
        self._states = _states()

    def have_begun(self) -> bool:
        """Return whether something was drawn since the step began."""
        old, new = self._states, _states()
        return old[0] != new[0] or old[1] != new[1] or not np.array_equal(old[2], new[2])


class OwnLabels:
    """Whether the targets of the first steps have nothing to do with the labels that the samples themselves have.

    These are the labels that the dataset shows, and those in the samples from which a collate function makes a batch.
    So a dataset or a collate function may draw the targets, or have labels of another kind than the dataset shows.

    Example:
        >>> own = OwnLabels()
        >>> own.see({"given": [0, 1] * 60}, [0, 0, 1, 1] * 30), own.are_unrelated
        (None, True)
    """

    def __init__(self) -> None:
        self._pairs: dict[Hashable, list[tuple[Any, int]]] = {}
        self._orders = defaultdict[Hashable, OrderCheck](partial(OrderCheck, CHANCE_OF_ANY_COLUMN))
        self._reordered: set[Hashable] = set()

    def see(self, labels: Mapping[Any, list[Any]], targets: list[int]) -> None:
        """Add a step: labels by where they come from, each with one for each target. Negative targets do not count."""
        for source, values in labels.items():
            pairs = [pair for pair in zip(values, targets, strict=True) if pair[1] >= 0]
            self._pairs.setdefault(source, []).extend(pairs)
            if self._orders[source].refutes([label for label, _ in pairs], [target for _, target in pairs]):
                self._reordered.add(source)

    @property
    def is_open(self) -> bool:
        """Whether further steps can still show it."""
        return max(map(len, self._pairs.values()), default=_ENOUGH) < _ENOUGH and not self._tell

    @property
    def are_reordered(self) -> bool:
        """Whether the targets are one kind of these labels in another order, and no other kind tells them."""
        return bool(self._reordered) and not self._tell

    @property
    def are_unrelated(self) -> bool:
        """Whether one kind of these labels has nothing to do with the targets, and no other kind tells them."""
        columns = (([label for label, _ in pairs], [target for _, target in pairs]) for pairs in self._pairs.values())
        return any(are_unrelated(*pair) for pair in columns) and not self._tell

    @property
    def _tell(self) -> bool:
        """Whether each label of one kind has one target, and some labels are repeated."""
        return any(len(set(pairs)) == len(dict(pairs)) < len(pairs) for pairs in self._pairs.values())


def _states() -> tuple[Any, int, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)
    inner: Any = numpy_state["state"]
    return random.getstate(), inner.get("pos", 0), inner.get("key", 0)


def are_unrelated(label: list[Any], target: list[int]) -> bool:
    r"""Return whether targets have nothing to do with a column of labels, as far as repeated labels show it.

    The fraction of pairs of rows with the same label that also have the same target is compared with the fraction
    :math:`p` among all pairs. It must not be above :math:`p` by more than four standard errors,
    :math:`4 \sqrt{p (1 - p) / m}` for m pairs with the same label, nor by more than an eighth of :math:`1 - p`. If
    targets follow from labels, it is 1.

    Args:
        label: One value per row.
        target: One class per row.

    Returns:
        False where nothing can be concluded: with fewer than 100 rows or pairs, or if all labels or targets are equal.

    Example:
        >>> are_unrelated([0, 1] * 60, [0, 0, 1, 1] * 30), are_unrelated([0, 1] * 60, [1, 0] * 60)
        (True, False)
    """
    same_label, same_target = _pairs(label), _pairs(target)
    total = len(target) * (len(target) - 1) // 2
    if len(target) < _ENOUGH or same_label < _ENOUGH or same_label == total or same_target == total:
        return False
    chance = same_target / total
    excess = _pairs(zip(label, target, strict=True)) / same_label - chance
    return bool(excess < min(4 * (chance * (1 - chance) / same_label) ** 0.5, (1 - chance) / 8))


def _pairs(values: Iterable[Any]) -> int:
    """Return the number of pairs of equal values."""
    return sum(count * (count - 1) // 2 for count in Counter(values).values())
