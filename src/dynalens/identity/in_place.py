"""Labels that a step or a hook reorders: in the tensor in which they came, or without the index beside them."""

from collections.abc import Iterable
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


def check_index_moves_along(delivered: Iterable[NotedLabels], after_hooks: NotedLabels, index: list[int]) -> None:
    """Raise if hooks have reordered labels of a batch, but not the index of each sample beside them.

    Args:
        delivered: Labels and indices of the newest batches as the loader delivered them.
        after_hooks: Those of the batch that the step was given.
        index: Of the samples of that batch, in any order.

    Raises:
        SampleIdentityError: If it is so.

    Example:
        >>> before, after = [(None, [4, 2, 2]), (None, [7, 8, 9])], [(None, [2, 2, 4]), (None, [9, 8, 7])]
        >>> check_index_moves_along([before], after, [9, 8, 7])
        >>> check_index_moves_along([before], [after[0], before[1]], [7, 8, 9])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dynalens.identity.errors.SampleIdentityError: Expected hooks to reorder the index...
    """
    for labels in delivered:
        vectors = [values for _, values in labels]
        places_of_index = [n for n, values in enumerate(vectors) if sorted(map(str, values)) == sorted(map(str, index))]
        if not places_of_index or len(set(index)) < len(index) or len(after_hooks) != len(vectors):
            continue
        place = places_of_index[0]
        rows, new_index = {sample: row for row, sample in enumerate(vectors[place])}, after_hooks[place][1]
        if rows.keys() != set(new_index) or len(new_index) != len(index):
            continue
        for values, (_, new_values) in zip(vectors, after_hooks, strict=True):
            if len(values) == len(index) and is_reordered([values[rows[sample]] for sample in new_index], new_values):
                raise SampleIdentityError(
                    "Expected hooks to reorder the index of each sample together with its labels, got labels in an "
                    "order that is not that of the index. Let the hook reorder all that is in the batch."
                )
