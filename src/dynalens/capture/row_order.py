"""Whether some numbers are a column's numbers in another order, and how probable that would be by chance."""

import math
from collections import Counter
from typing import Any

_CHANCE = 0.01
"""Largest probability of chance at which the same numbers in another order, in each step, count as a reordering."""
CHANCE_OF_ANY_COLUMN = 0.001
"""The same for the columns of a batch, most of which are no labels: of those, one in a hundred would be refused."""
ENOUGH_FOR_ORDER = 1000
"""Number of targets from which a column shows another order. Of batches of 300 with two balanced classes, one in twenty
is as frequent as another by chance, so that three of them are needed."""


def is_reordered(label: list[Any], target: list[Any]) -> bool:
    """Return whether the targets are the numbers of a column, each as often, in another order.

    Example:
        >>> is_reordered([0, 1, 2], [1, 0, 2]), is_reordered([0, 1, 2], [0, 1, 1])
        (True, False)
    """
    return len(set(target)) > 1 and label != target and Counter(label) == Counter(target)


def log_chance_of(counts: Counter[int], *, in_order: bool = False) -> float:
    """Return the log probability that independent targets have each class so often, or are in exactly this order.

    Example:
        >>> [round(math.exp(log_chance_of(Counter([0, 1]), in_order=in_order)), 9) for in_order in (False, True)]
        [0.5, 0.25]
    """
    n = counts.total()
    of_one_order = sum(c * math.log(c / n) for c in counts.values())
    orders = 0.0 if in_order else math.lgamma(n + 1) - sum(math.lgamma(c + 1) for c in counts.values())
    return of_one_order + orders


class SameNumbers:
    """Whether two vectors hold the same numbers, in any order, in each of the first steps, and not by chance.

    Example:
        >>> same = SameNumbers()
        >>> same.tells([0, 1, 2, 0], [0, 2, 1, 0]), same.tells([0, 1, 2, 0], [0, 1, 2, 0])
        (False, True)
    """

    def __init__(self) -> None:
        self.is_open = True
        """Whether a further step can still show it."""

        self._log_chance = 0.0

    def tells(self, a: list[int], b: list[int]) -> bool:
        """Return whether this step and the earlier ones show it."""
        counts = Counter(b)
        self.is_open &= Counter(a) == counts
        self._log_chance += log_chance_of(counts, in_order=a == b) if counts else 0.0
        return self.is_open and self._log_chance < math.log(_CHANCE)


class OrderCheck:
    r"""Whether targets are, in each of the first steps, the numbers of a column in another order, by no accident.

    Classes that are drawn as often as those of n targets, :math:`c_k` of each, are that often each with probability
    :math:`n! \prod_k (c_k / n)^{c_k} / c_k!`. The K values of a column may also be other numbers or words, if only one
    of the :math:`K!` ways to number them makes each as frequent in each step as its class. Where each value has become
    one class throughout, the classes were exchanged: batches with as many samples of each look as if they were in
    another order.

    Args:
        limit: Largest probability of chance at which it is no accident.

    Example:
        >>> check = OrderCheck()
        >>> check.refutes([0, 1, 2, 0], [1, 0, 0, 2]), [check.refutes([0, 1, 2, 0], [1, 0, 0, 2]) for _ in range(2)]
        (False, [False, True])
        >>> check = OrderCheck()
        >>> [check.refutes(["a", "b", "b", "b", "b"], [0, 0, 1, 0, 0]) for _ in range(6)][-2:]
        [False, True]
    """

    def __init__(self, limit: float = _CHANCE) -> None:
        self.is_open = True
        """Whether a further step can still show it."""

        self._log_limit = math.log(limit)
        self._is_reordered, self._log_chance = True, 0.0
        self._pairs: set[tuple[Any, int]] = set()
        self._counts: list[tuple[Counter[Any], Counter[int]]] = []

    def refutes(self, label: list[Any], target: list[int]) -> bool:
        """Return whether this step and the earlier ones show another order."""
        counts = Counter(target)
        self._pairs.update(zip(label, target, strict=True))
        if len(counts) > 1 and label != target:
            self._is_reordered &= is_reordered(label, target)
            self._log_chance += log_chance_of(counts)
            self._counts.append((Counter(label), counts))
        is_exchange = len(self._pairs) == len(dict(self._pairs))
        of_labels, of_targets = self._frequencies(), self._frequencies(of_targets=True)
        self.is_open = not is_exchange and of_labels == of_targets
        is_one_numbering = len(set(of_labels)) == len(of_labels)
        log_ways = 0.0 if self._is_reordered else math.lgamma(len(of_labels) + 1) if is_one_numbering else math.inf
        return self.is_open and self._log_chance + log_ways < self._log_limit

    def _frequencies(self, *, of_targets: bool = False) -> list[tuple[int, ...]]:
        """Return how often each value of the labels, or of the targets, is in each step, in the order of these."""
        steps = [counts[of_targets] for counts in self._counts]
        return sorted(tuple(counts[value] for counts in steps) for value in set().union(*steps))
