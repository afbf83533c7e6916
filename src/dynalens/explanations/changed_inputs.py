"""The warning for steps that change the inputs of the batch before the network gets them."""

from dynalens.notices import warn


class ChangedInputs:
    """Warns once if a monitor looks at inputs as the batch holds them, and the step gives the network others.

    Args:
        monitor: Name of the monitor.
        returned: What a callable that is passed as ``inputs=`` returns.
    """

    def __init__(self, monitor: str, returned: str) -> None:
        self._monitor, self._returned, self._has_told = monitor, returned, False

    def tell(self) -> None:
        """Warn, unless it has been said before."""
        if self._has_told:
            return
        self._has_told = True
        warn(
            "Expected `training_step` to give the network the inputs of the batch, got a step that changes them first, "
            f"for instance by scaling or resizing. {self._monitor} gives the network the inputs of the batch without "
            "this change. Make the change in the dataset, in `on_after_batch_transfer` or in `forward`, or pass "
            f"`inputs=` with a callable(batch) -> {self._returned} that makes it. If the change is only an "
            "augmentation, ignore this warning."
        )
