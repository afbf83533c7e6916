"""Example similarity: the nearest training samples of a sample's given and of its suggested class."""

import numpy as np
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.embeddings.neighbours import nearest, usable_rows
from dynalens.embeddings.witness import SHOWN, SimilarSamples


def similar_rows(features: Tensor, labels: Array, rows: Array, suggested: Array, k: int = SHOWN) -> SimilarSamples:
    """Return the nearest samples of each class by cosine.

    Args:
        features: Shape ``(N, D)``, floating; rows without a direction, all zeros, are near to none.
        labels: Shape ``(N,)``, integers; negative for samples that are not compared with.
        rows: Shape ``(M,)``, of the samples asked for.
        suggested: Shape ``(M,)``, the class suggested for each of them; negative for none.
        k: Samples of each class.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.2], [0.0, 1.0]])
        >>> similar_rows(features, np.array([0, 0, 1, 1]), np.array([0]), np.array([1]), k=2)
        SimilarSamples(rows=array([0]), given=array([[ 1, -1]]), suggested=array([[2, 3]]))
    """
    usable = usable_rows(features)
    askable = np.isin(rows, usable)

    def of_classes(classes: Array) -> Array:
        near: Array = np.full((len(rows), k), -1)
        for label in np.unique(classes[askable & (classes >= 0)]):
            members, places = usable[labels[usable] == label], np.flatnonzero(askable & (classes == label))
            if len(members):
                for block, neighbours in nearest(features, k, rows[places], members):
                    near[places[block], : neighbours.shape[1]] = neighbours
        return near

    return SimilarSamples(rows, of_classes(labels[rows]), of_classes(suggested))
