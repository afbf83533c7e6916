"""Labels that a step, or a hook before it, reorders in the tensor in which they came."""

from typing import Any

from dynalens.capture import is_reordered
from dynalens.identity.columns import is_integer_vector, parts
from dynalens.identity.errors import SampleIdentityError

NotedLabels = list[tuple[Any, list[Any]]]
"""Vectors of integers and lists of a batch, each with a copy of its values."""


def noted_labels(batch: Any) -> NotedLabels:
    """Return each vector of integers and each list of a batch, with a copy of its values. Waits for the device.

    Example:
        >>> import torch
        >>> noted_labels([torch.zeros(2, 3), torch.tensor([4, 2])])
        [(tensor([4, 2]), [4, 2])]
    """
    vectors = [part for _, part in parts(batch) if isinstance(part, list) or is_integer_vector(part)]
    return [(vector, list(vector) if isinstance(vector, list) else vector.tolist()) for vector in vectors]


def check_in_place(labels: NotedLabels, *, carried: bool) -> None:
    """Raise if labels are in another order than before.

    Args:
        labels: Labels of the batch as they were before.
        carried: Whether the batch holds the index of each sample. It may be reordered together with the labels.

    Raises:
        SampleIdentityError: If it is so.
    """
    changes = [values for vector, values in labels if is_reordered(values, noted_labels([vector])[0][1])]
    ids_move_along = carried and any(len(set(values)) == len(values) for values in changes)
    if changes and not ids_move_along:
        raise SampleIdentityError(
            "Expected the step and the hooks before it to leave the labels of the batch in their order, got them in "
            "another order in the same tensor. Order copies instead, inputs and labels alike: `labels = labels[order]`."
        )
