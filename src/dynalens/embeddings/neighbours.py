"""The nearest samples by cosine, in blocks of matrix products: N x N cosines are never held at once."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.embeddings.witness import SHOWN, SimilarSamples

NEIGHBOURS = 50
"""Of each sample; on CIFAR-10N the out-of-fold cross-entropy is within .01 between 50 and 200."""

MOST_EXACT = 200_000
"""Samples that are compared each with each: with 512 numbers each 4e13 products, a quarter of an hour on a core."""

_BLOCK = 2**24  # cosines held at a time, 64 MiB
_EDGES = 32  # edges of each sample in the graph of faiss
_CANDIDATES = 128  # candidates in a search: finds 99.8 % of the 50 nearest of 60,000 clustered samples, as 256 do


def usable_rows(features: Tensor) -> Array:
    """Return the rows that have a direction, ascending: all numbers finite, and not all zero."""
    rows: Array = np.flatnonzero((features.isfinite().all(dim=1) & features.any(dim=1)).cpu().numpy())
    return rows


def nearest(features: Tensor, k: int, rows: Array, pool_rows: Array) -> Iterator[tuple[slice, Array]]:
    """Yield slices of ``rows`` with the neighbours of each, from the nearest to the farthest.

    Args:
        features: Shape ``(N, D)``, floating, of any device, on which the products are made.
        k: Neighbours of each row, positive.
        rows: Shape ``(M,)``, the rows whose neighbours are asked for.
        pool_rows: Shape ``(R,)``, ascending, the rows that may be neighbours; a row is none of its own.

    Yields:
        A slice of n of the rows, and their neighbours, shape ``(n, min(k, R))``, int64, rows of ``features``; -1 where
        there is no other.

    Raises:
        ImportError: If there are more than 200,000 rows among which to look, and no faiss.
    """
    if len(pool_rows) > MOST_EXACT:
        yield from _by_index(features, k, rows, pool_rows)
        return
    columns = torch.from_numpy(pool_rows).to(features.device)
    pool = unit_rows(features[columns])
    size = max(1, _BLOCK // max(len(pool_rows), 1))
    for start in range(0, len(rows), size):
        block = slice(start, min(start + size, len(rows)))
        queries = torch.from_numpy(rows[block]).to(features.device)
        cosine = (unit_rows(features[queries]) @ pool.T).masked_fill_(queries.unsqueeze(1) == columns, -torch.inf)
        similarity, place = cosine.topk(min(k, len(pool_rows)), dim=1)
        yield block, torch.where(similarity > -torch.inf, columns[place], -1).cpu().numpy()


def similar_rows(features: Tensor, labels: Array, rows: Array, suggestions: Array, k: int = SHOWN) -> SimilarSamples:
    """Return the nearest samples of each class by cosine.

    Args:
        features: Shape ``(N, D)``, floating; rows without a direction, all zeros, are near to none.
        labels: Shape ``(N,)``, integers; negative for samples that are not compared with.
        rows: Shape ``(M,)``, of the samples asked for.
        suggestions: Shape ``(M,)``, the class suggested for each of them; negative for none.
        k: Samples of each class.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.2], [0.0, 1.0]])
        >>> similar_rows(features, np.array([0, 0, 1, 1]), np.array([0]), np.array([1]), k=2)
        SimilarSamples(rows=array([0]), label_rows=array([[ 1, -1]]), suggestion_rows=array([[2, 3]]))
    """
    usable = usable_rows(features)
    askable = np.isin(rows, usable)

    def of_classes(classes: Array) -> Array:
        neighbours_of_rows: Array = np.full((len(rows), k), -1)
        for label in np.unique(classes[askable & (classes >= 0)]):
            members, places = usable[labels[usable] == label], np.flatnonzero(askable & (classes == label))
            if len(members):
                for block, neighbours in nearest(features, k, rows[places], members):
                    neighbours_of_rows[places[block], : neighbours.shape[1]] = neighbours
        return neighbours_of_rows

    return SimilarSamples(rows, of_classes(labels[rows]), of_classes(suggestions))


def unit_rows(features: Tensor) -> Tensor:
    """Return the rows divided by their lengths, float32."""
    x = features.float()
    x = x / x.abs().amax(dim=1, keepdim=True)  # squares of large features would overflow
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length


def _by_index(features: Tensor, k: int, rows: Array, pool_rows: Array) -> Iterator[tuple[slice, Array]]:
    """Follow a graph of near samples (Malkov and Yashunin 2018): not exact, but not quadratic either."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"Expected faiss for the neighbours of more than {MOST_EXACT} samples, got none. Install it with "
            "`pip install faiss-cpu`, or leave the embeddings out."
        ) from error
    pool = unit_rows(features[torch.from_numpy(pool_rows).to(features.device)]).cpu().numpy()
    index = faiss.IndexHNSWFlat(pool.shape[1], _EDGES, faiss.METRIC_INNER_PRODUCT)
    index.add(pool)
    index.hnsw.efSearch = _CANDIDATES
    size = max(1, _BLOCK // pool.shape[1])
    for start in range(0, len(rows), size):
        block = slice(start, min(start + size, len(rows)))
        queries = unit_rows(features[torch.from_numpy(rows[block]).to(features.device)]).cpu().numpy()
        _, place = index.search(queries, min(k + 1, len(pool)))
        yield block, _without_itself(np.where(place >= 0, pool_rows[place], -1), rows[block], min(k, len(pool_rows)))


def _without_itself(neighbours: Array, rows: Array, k: int) -> Array:
    """Return each row's first k neighbours other than itself and other than the index's gaps."""
    is_itself = neighbours == rows[:, None]
    order = np.argsort(is_itself | (neighbours < 0), axis=1, kind="stable")[:, :k]
    neighbours_left: Array = np.take_along_axis(np.where(is_itself, -1, neighbours), order, axis=1)
    return neighbours_left
