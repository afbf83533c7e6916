"""The one error of this package, and what helps against it."""

REMEDY = (
    "Let the dataset return its own index (`IndexedDataset` wraps one that does not) and pass `index=` the key of it, "
    "or a callable(batch) -> indices."
)


class SampleIdentityError(RuntimeError):
    """The dataset indices of a batch cannot be known, or do not fit its rows.

    Example:
        >>> check_rows(4, 2, 1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dynalens.identity.errors.SampleIdentityError: ...
    """


def check_rows(rows: int, samples: int, views: int) -> None:
    """Raise a SampleIdentityError unless the batch has ``views`` rows of logits for each of its samples."""
    if rows == samples * views:
        return
    if samples and rows % samples == 0:
        hint = f"Pass `views={rows // samples}` if each sample has that many rows, all with its own class."
    else:
        hint = (
            "Keep all rows and leave some out with -100 as their target, or return a dict of `loss`, and `logits` and "
            "`targets` of the whole batch in its order, with -100 for rows left out. Where the collate function drops "
            "or adds samples, wrap the dataset in `IndexedDataset`."
        )
    raise SampleIdentityError(
        f"Expected {samples * views} rows of logits for {samples} samples in the batch, got {rows}. {hint}"
    )
