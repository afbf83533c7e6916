"""The one error of this package, and what helps against it."""

REMEDY = (
    "Let the dataset return its own index (`IndexedDataset` wraps one that does not) and pass `index=` the key of it, "
    "or a callable(batch) -> indices."
)


class SampleIdentityError(RuntimeError):
    """The dataset indices of a batch cannot be known, or do not fit its rows."""
