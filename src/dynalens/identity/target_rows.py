"""Rows of a step's targets: of the whole batch, of views side by side, and what the batch's columns hold for them."""

import torch
from torch import Tensor

from dynalens.identity.columns import Column, Path
from dynalens.identity.errors import SampleIdentityError, check_rows
from dynalens.identity.labels import LAYER_ORDER
from dynalens.identity.trace import TRACE, RowSource


def _padding(targets: Tensor, count: int) -> int:
    """Return how many rows at the end only fill up the batch. The loss ignores all of them."""
    padding = max(targets.shape[0] - count, 0)
    return padding if padding and not bool((targets[count:] >= 0).any()) else 0


def rows_of_all(rows: Tensor, targets: Tensor, views: int) -> Tensor:
    """Return the row of the record of each target, if the step trains on the whole batch, in each view.

    Rows that only fill up the batch get any row.
    """
    padding = _padding(targets, rows.shape[0]) if views == 1 else 0
    check_rows(targets.shape[0] - padding, rows.shape[0], views, targets)
    target_rows = rows.repeat(views) if views > 1 else rows
    return torch.cat([target_rows, rows[:1].expand(padding)]) if padding else target_rows


def columns_of_samples(columns: dict[Path, Column], samples: list[int], selection: list[int]) -> dict[Path, Column]:
    """Return the columns at these samples. A sample that was drawn twice has one label."""
    place = dict(zip(samples, range(len(samples)), strict=True))
    places = [place[sample] for sample in selection]
    return {
        path: [column[i] for i in places] if isinstance(column, list) else column[places]
        for path, column in columns.items()
    }


def num_out_of_order(rows: Tensor, count: int, *, is_joined: bool = False) -> Tensor:
    """Return how many rows are not the batch's ``count`` ones in order, one view after another or side by side.

    A network with several heads, or crops of which it averages the features, has its rows side by side. Logits that
    were joined (``is_joined``) are one view after another.

    Example:
        >>> [int(num_out_of_order(torch.tensor(rows), 2)) for rows in ([0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1])]
        [0, 0, 2]
    """
    place = torch.arange(len(rows), device=rows.device)
    orders = place % count, place // max(len(rows) // count, 1)
    return torch.stack([(rows != order).sum() for order in (orders[:1] if is_joined else orders)]).min()


def check_layer(inputs: RowSource | None, count: int) -> None:
    """Raise if layers computed other rows than the whole batch in order, once for each view."""
    if inputs is not None and int(num_out_of_order(inputs.rows, count)):
        raise SampleIdentityError(LAYER_ORDER)


def are_side_by_side(rows: Tensor, views: int) -> bool:
    """Return whether each group of ``views`` successive rows is one sample. Waits for the device.

    Args:
        rows: The row of the batch that each row comes from.
        views: Number of rows per sample, more than one.

    Example:
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
        >>> in_views(torch.tensor([20, 21, 0, 1]), 2)
        tensor([20,  0, 21,  1])
    """
    if len(values) % views:
        return values
    return values.view(-1, views, *values.shape[1:]).transpose(0, 1).flatten(0, 1)


def rows_of_layer(inputs: RowSource | None, batch: Tensor, target_rows: Tensor, views: int) -> list[Tensor]:
    """Return candidates for the rows that a layer computed, the likeliest first.

    If its inputs were traced, theirs is first.
    """
    if inputs is None:
        return [target_rows, batch] if TRACE.chose_inputs else [batch, target_rows]
    if not inputs.is_choice:
        return [batch, target_rows]
    chosen_rows = inputs.rows[: len(inputs.rows) // views]
    return [batch.to(chosen_rows.device, non_blocking=True)[chosen_rows], batch]
