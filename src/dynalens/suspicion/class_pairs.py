"""The pairs of classes that a run can count, instead of all K x K of them."""

from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.predictions import Predictions


@dataclass(frozen=True)
class ClassPairs:
    """Pairs of a true class and a label, each once: all where they are fewer than samples, else those that occur.

    A sample's true class is its label or its rival, so that N samples of K classes have at most N + K pairs. Where a
    sample has no rival, another class stands for it, as good as the others.

    Attributes:
        true_class: Shape ``(P,)``, the true class of each pair.
        label: Shape ``(P,)``, its label.
        pair_index: Shape ``(2, 2, N)``, which of the pairs each sample is. The first dimension says whether its label
            (0) or its rival (1) is the true class, the second one which of them is the label. P where the pair does not
            occur.
        class_count: Number K of classes.
    """

    true_class: Array
    label: Array
    pair_index: Array
    class_count: int

    @classmethod
    def from_predictions(cls, predictions: Predictions) -> "ClassPairs":
        """Return the pairs of some samples."""
        label, class_count = predictions.label, predictions.class_count
        rival = np.where(predictions.rival >= 0, predictions.rival, (label + 1) % class_count)
        keys = [[row * class_count + column for column in (label, rival)] for row in (label, rival)]
        if class_count**2 <= len(label):
            return cls(*np.divmod(np.arange(class_count**2), class_count), np.array(keys), class_count)
        diagonal = np.arange(class_count) * (class_count + 1)
        pairs, pair_index = np.unique(np.concatenate([diagonal, keys[1][0]]), return_inverse=True)
        diagonal_index, rival_index = pair_index[:class_count], pair_index[class_count:]
        reverse_index = np.searchsorted(pairs, keys[0][1])
        reverse_index[pairs[np.minimum(reverse_index, len(pairs) - 1)] != keys[0][1]] = len(pairs)
        index_table = [[diagonal_index[label], reverse_index], [rival_index, diagonal_index[rival]]]
        return cls(*np.divmod(pairs, class_count), np.array(index_table), class_count)

    def __len__(self) -> int:
        return len(self.true_class)

    def counts(self, pair_index: Array, weights: Array | None = None) -> Array:
        """Return how often each pair is in ``pair_index``, or its sum of weights, shape ``(P,)``, float64."""
        return np.bincount(pair_index, weights, len(self)).astype(np.float64, copy=False)

    def sum_by_true_class(self, values: Array) -> Array:
        """Return the sum of the values of each true class, shape ``(K,)``."""
        return np.bincount(self.true_class, values, self.class_count)

    def sum_by_label(self, values: Array) -> Array:
        """Return the sum of the values of each label, shape ``(K,)``."""
        return np.bincount(self.label, values, self.class_count)

    def is_diagonal(self) -> Array:
        """Return which pairs are of a class and itself, shape ``(P,)``, bool."""
        is_same_class: Array = self.true_class == self.label
        return is_same_class
