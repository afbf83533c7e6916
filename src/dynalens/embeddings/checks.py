"""Embeddings as a user has them become one row for each sample, or one clear error."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics import Array

_SHOWN = 5  # most rows or ids that an error lists


def embedding_rows(embeddings: Any, num_samples: int, sample_ids: Array | None = None) -> Tensor:
    """Return embeddings as a tensor ``(N, D)``, float32, one row for each sample.

    Args:
        embeddings: An array or tensor ``(N, D)`` in the order of the dataset; a mapping of ids to vectors where samples
            are known by ids.
        num_samples: N.
        sample_ids: Shape ``(N,)``, id of each sample; None where it is its position.

    Raises:
        ValueError: If they are not that, or if a number is not finite.

    Example:
        >>> embedding_rows({"b": [3.0, 4.0], "a": [1.0, 2.0]}, 2, np.array(["a", "b"]))
        tensor([[1., 2.],
                [3., 4.]])
    """
    if sample_ids is not None:
        embeddings = _in_order(embeddings, sample_ids)
    elif isinstance(embeddings, Mapping):
        raise ValueError(
            f"Expected `embeddings` to be an array of shape ({num_samples}, D), as the samples are known by their "
            f"position, got a {type(embeddings).__name__}. Pass `np.stack([embeddings[i] for i in range(len(data))])`."
        )
    if isinstance(embeddings, Tensor):
        rows = embeddings.detach()
        numbers = not rows.is_complex() and rows.dtype is not torch.bool
    else:
        array = np.asarray(embeddings)
        numbers = array.dtype.kind in "fiu"
        rows = torch.from_numpy(np.array(array, dtype=np.float32)) if numbers else torch.zeros(array.shape)
    if not numbers or rows.ndim != 2 or rows.shape[1] == 0:
        kind = getattr(embeddings, "dtype", type(embeddings).__name__)
        raise ValueError(
            f"Expected `embeddings` to be an array of numbers of shape ({num_samples}, D), got {kind} of shape "
            f"{tuple(rows.shape)}. Pass one vector for each sample, for instance what `dynalens.embed` returns."
        )
    if len(rows) != num_samples:
        raise ValueError(
            f"Expected `embeddings` to have a row for each of the {num_samples} samples of the dataset, got "
            f"{len(rows)}. Embed the dataset of the training loader, without shuffling and with every sample."
        )
    return _finite(rows.float())


def _in_order(embeddings: Any, sample_ids: Array) -> Array:
    """Return the vectors of a mapping in the order of the ids."""
    if not isinstance(embeddings, Mapping):
        raise ValueError(
            f"Expected `embeddings` to be a mapping of ids to vectors, as the samples of this record are known by "
            f"ids such as {sample_ids[0].item()!r}, got a {type(embeddings).__name__}. Pass {{id: vector, ...}} in "
            "Python, for instance to `load_record(folder).suspects(embeddings=...)`."
        )
    missing_ids = [sample_id for sample_id in sample_ids.tolist() if sample_id not in embeddings]
    if missing_ids:
        raise ValueError(
            f"Expected `embeddings` to have a vector for each id, got none for {len(missing_ids)}, such as "
            f"{missing_ids[:_SHOWN]}. Embed every sample that was trained on."
        )
    vectors = [np.asarray(embeddings[sample_id]) for sample_id in sample_ids.tolist()]
    shapes = {vector.shape for vector in vectors}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected `embeddings` to be vectors of one length, got shapes {sorted(shapes)[:_SHOWN]}. "
            "Embed every sample with the same encoder."
        )
    return np.stack(vectors)


def _finite(rows: Tensor) -> Tensor:
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"Expected `embeddings` to be finite float32 numbers, got NaN or infinity in {len(bad)} rows, such as "
            f"{bad[:_SHOWN].tolist()}. Look at these samples, or run the encoder in float32."
        )
    return rows
