"""The error for batches whose samples are not known. Its message says what to do."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

REMEDY = (
    "Let each sample carry its index (`IndexedDataset` adds one to the samples of a map-style dataset), and pass "
    "`index=` the key of it or its place in the batch, as in `index=2`, or a callable(batch) -> indices."
)
OTHER_ROWS = (
    "Expected each target of the loss to follow from the label of its sample, got classes that are as frequent as "
    f"these labels, but in another order. {REMEDY}"
)
NO_POSITIONS = (
    "Expected the batch to hold the positions that `IndexedDataset` adds to its samples, as its last part or under the "
    "key `index`, got {}. Let the collate function and the hooks of the module pass them on. If they stand elsewhere "
    "in the batch, pass `index=` the key or the place, or a callable(batch) -> indices."
)
ENOUGH = 12
"""Least number of targets that are not equal to other labels by chance: with two classes, one time in 4,096."""


class SampleIdentityError(RuntimeError):
    """Is raised if it cannot be found out which samples of the dataset are in a batch, or which row is which sample.

    The message says which argument of :class:`~dynalens.TrainingDynamicsMonitor` helps, usually ``index=``.
    ``docs/arguments.md`` shows each case.

    Example:
        A step with four rows of logits for two samples, each of which should have one.

        >>> check_rows(4, 2, 1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dynalens.identity.errors.RowCountError: ...
    """


class ColumnsApartError(SampleIdentityError):
    """Is raised if a batch holds columns of its samples in different orders, also where it holds their indices."""


_UNITS = (
    "Return a dict of `loss`, and of `logits` (N, K, T) and `targets` (N, T) of tokens, or (N, K, H, W) and (N, H, W) "
    "of pixels, in the order of the batch, with -100 as target of what does not count; of labels, both (N, K)."
)


class RowCountError(SampleIdentityError):
    """Is raised if a step has other numbers of rows than its batch. It tells nothing about earlier steps."""


_PAIRS = " If the targets are no labels of the samples, as in contrastive learning, leave the monitor out."


def check_rows(rows: int, samples: int, views: int, targets: Tensor | None = None) -> None:
    """Raise a RowCountError unless the batch has ``views`` rows of logits for each of its samples.

    Args:
        rows: Rows of logits.
        samples: Samples in the batch.
        views: Rows that each sample is expected to have.
        targets: Shape ``(rows,)``. If rows of one sample have different targets, they are not views of it.
    """
    if rows == samples * views:
        return
    if samples and rows % samples == 0 and (targets is None or _are_views(targets, samples)):
        hint = (
            f"Pass `views={rows // samples}` if the step makes that many rows of each sample, all with its own class. "
            f"If the collate function repeats samples, wrap the dataset in `IndexedDataset`.{_PAIRS}"
        )
    elif samples and rows > samples:
        hint = (
            "Where the collate function repeats samples, wrap the dataset in `IndexedDataset`. Where an item of the "
            "dataset is several samples, let it hold a name (str) of each, and pass their place in the batch as "
            "`index=`. Where the step adds rows of another loader or batch, return a dict of `loss`, and of `logits` "
            f"and `targets` without them. If these are tokens, pixels or labels: {_UNITS}{_PAIRS}"
        )
    else:
        hint = (
            "Keep all rows and leave some out with -100 as their target, or return a dict of `loss`, and `logits` and "
            "`targets` of the whole batch in its order, with -100 for rows left out. Where the collate function drops "
            "or adds samples, wrap the dataset in `IndexedDataset`."
        )
    raise RowCountError(
        f"Expected {samples * views} rows of logits for {samples} samples in the batch, got {rows}. {hint}"
    )


def check_views(targets: Tensor, views: int) -> None:
    """Raise a SampleIdentityError if the views of a sample have different targets. Waits for the device.

    Args:
        targets: Shape ``(views * N,)``; negative ones are not counted.
        views: Rows that each sample has.
    """
    if targets.shape[0] % views:
        return  # some rows were left out
    of_view = targets.view(views, -1)
    differs = (of_view != of_view[0]) & (of_view >= 0) & (of_view[0] >= 0)
    if bool(differs.any()):
        raise SampleIdentityError(
            f"Expected the same targets in each of {views} views, one view of all samples after another, got "
            f"{int(differs.any(dim=0).sum())} of {of_view.shape[1]} samples whose targets differ between views. "
            "Concatenate views as in `torch.cat([first, second])`, so that the rows of one sample are not side by "
            "side. If the collate function repeats samples, wrap the dataset in `IndexedDataset` instead."
        )


def check_one_target_each(rows: Tensor, targets: Tensor) -> None:
    """Raise a SampleIdentityError if a sample has several targets in one step. Waits for the device.

    Args:
        rows: The row of the record of each target.
        targets: Shape ``(M,)``; negative ones are not counted.

    Example:
        >>> import torch
        >>> check_one_target_each(torch.tensor([4, 4, 7]), torch.tensor([1, 1, 0]))
        >>> check_one_target_each(torch.tensor([4, 4, 7]), torch.tensor([1, 2, 0]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dynalens.identity.errors.SampleIdentityError: Expected each sample to have one target in a step, got 1 of 2...
    """
    pairs = {pair for pair in zip(rows.tolist(), targets.tolist(), strict=True) if pair[1] >= 0}
    counts = Counter(row for row, _ in pairs).values()
    num_wrong = sum(count > 1 for count in counts)
    if num_wrong:
        raise SampleIdentityError(
            f"Expected each sample to have one target in a step, got {num_wrong} of {len(counts)} "
            "samples with several. If a task makes them, such as the prediction of rotations, leave the monitor out. "
            "If the collate function makes several samples of one, let the dataset return these. If rows are not those "
            "of their samples, let each sample carry its own index and pass `index=`."
        )


def check_step_before(steps: Sequence[tuple[Mapping[Any, list[Any]], list[int]]]) -> None:
    """Raise if the targets of each step are numbers of the batch before, as of a step that trains one batch late.

    Args:
        steps: Columns of the batch, and targets, of the steps so far.

    Example:
        >>> check_step_before([({1: [2, 0]}, [2, 0]), ({1: [1, 2]}, [2, 0])])  # so few may be equal by chance
    """
    pairs = list(itertools.pairwise(steps))
    for path in steps[0][0]:
        late = [columns.get(path, []) for (columns, _), _ in pairs]
        targets = [targets for _, (_, targets) in pairs]
        if late == targets and sum(map(len, targets)) >= ENOUGH and len(set(targets[-1])) > 1:
            raise SampleIdentityError(
                "Expected the step to train on the batch that it was given, got targets that are the labels of the "
                "batch before. Return a dict of `loss`, and `logits` and `targets` of this batch, or train on it."
            )


def _are_views(targets: Tensor, samples: int) -> bool:
    """Return whether all rows of each sample have the same target, with its views one after another or side by side."""
    if targets.ndim != 1:
        return False
    one_after_another, side_by_side = targets.view(-1, samples), targets.view(samples, -1)
    return bool((one_after_another == targets[:samples]).all() or (side_by_side == side_by_side[:, :1]).all())
