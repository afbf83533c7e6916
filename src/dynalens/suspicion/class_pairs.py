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
        true: Shape ``(P,)``, the true class of each pair.
        label: Shape ``(P,)``, its label.
        places: Shape ``(2, 2, N)``: where the pair of each sample is with its label (0) or rival (1) as true class in
            the first dimension and as label in the second one; P where it is none of them.
        classes: Number K of classes.
    """

    true: Array
    label: Array
    places: Array
    classes: int

    @classmethod
    def of(cls, predictions: Predictions) -> "ClassPairs":
        """Return the pairs of some samples."""
        label, classes = predictions.label, predictions.classes
        rival = np.where(predictions.rival >= 0, predictions.rival, (label + 1) % classes)
        keys = [[true * classes + given_class for given_class in (label, rival)] for true in (label, rival)]
        if classes**2 <= len(label):
            return cls(*np.divmod(np.arange(classes**2), classes), np.array(keys), classes)
        diagonal = np.arange(classes) * (classes + 1)
        pairs, places = np.unique(np.concatenate([diagonal, keys[1][0]]), return_inverse=True)
        diagonal_places, rival_places = places[:classes], places[classes:]
        other = np.searchsorted(pairs, keys[0][1])
        other[pairs[np.minimum(other, len(pairs) - 1)] != keys[0][1]] = len(pairs)
        of_label, of_rival = diagonal_places[label], diagonal_places[rival]
        return cls(*np.divmod(pairs, classes), np.array([[of_label, other], [rival_places, of_rival]]), classes)

    def __len__(self) -> int:
        return len(self.true)

    def counts(self, places: Array, weights: Array | None = None) -> Array:
        """Return how many of these places, or what sum of weights, each pair has, shape ``(P,)``, float64."""
        return np.bincount(places, weights, len(self)).astype(np.float64, copy=False)

    def by_true(self, values: Array) -> Array:
        """Return the sum of the values of each true class, shape ``(K,)``."""
        return np.bincount(self.true, values, self.classes)

    def by_label(self, values: Array) -> Array:
        """Return the sum of the values of each label, shape ``(K,)``."""
        return np.bincount(self.label, values, self.classes)

    def is_diagonal(self) -> Array:
        """Return which pairs are of a class and itself, shape ``(P,)``, bool."""
        same: Array = self.true == self.label
        return same

    def dense(self, values: Array) -> Array:
        """Return the values as row ``true``, column ``label``, shape ``(K, K)``; zero where there is no pair."""
        table = np.zeros((self.classes, self.classes))
        table[self.true, self.label] = values
        return table
