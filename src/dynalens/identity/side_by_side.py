"""Rows of several views per sample that stand side by side, instead of one view of all samples after another."""

from torch import Tensor


def are_side_by_side(rows: Tensor, views: int) -> bool:
    """Return whether each group of ``views`` successive rows is one sample. Waits for the device.

    Args:
        rows: The row of the batch that each row comes from.
        views: Number of rows per sample, more than one.

    Example:
        >>> import torch
        >>> are_side_by_side(torch.tensor([2, 2, 0, 0]), 2), are_side_by_side(torch.tensor([2, 0, 2, 0]), 2)
        (True, False)
    """
    if len(rows) % views or not len(rows):
        return False
    of_sample = rows.view(-1, views)
    return bool((of_sample == of_sample[:, :1]).all())


def in_views(values: Tensor, views: int) -> Tensor:
    """Return rows that stand side by side as one view of all samples after another.

    Incomplete groups stay as they are.

    Example:
        >>> import torch
        >>> in_views(torch.tensor([20, 21, 0, 1]), 2)
        tensor([20,  0, 21,  1])
    """
    if len(values) % views:
        return values
    return values.view(-1, views, *values.shape[1:]).transpose(0, 1).flatten(0, 1)
