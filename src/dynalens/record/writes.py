"""Writing while a training goes on: a disk that fails ends nothing, is said once, and is tried again."""

from collections.abc import Callable

from dynalens.notices import warn


class Writes:
    """What a monitor writes in a fit, and what of it is missing.

    Args:
        target: What is written, and where.
        meanwhile: What is kept and tried again, as sentences of the warning.

    Attributes:
        errors: The error of what could not be written, by its name, in the order of the first errors.

    Example:
        >>> writes = Writes("maps to a folder", "Training goes on.")
        >>> writes.attempt("epoch 0", lambda: None)
        >>> writes.errors
        {}
    """

    def __init__(self, target: str, meanwhile: str) -> None:
        self._target, self._meanwhile, self._has_warned = target, meanwhile, False
        self.errors: dict[str, OSError | MemoryError] = {}

    def attempt(self, name: str, write: Callable[[], None]) -> None:
        """Write something; if the disk fails, or memory is short, note its name, and say so the first time."""
        try:
            write()
            self.errors.pop(name, None)
        except (OSError, MemoryError) as error:
            self.errors[name] = error
            if not self._has_warned:
                self._has_warned = True
                warn(f"{self._expectation(error)} {self._meanwhile}")

    def say_missing(self, advice: str) -> None:
        """Warn of what is missing at the end, if anything is, with what to do about it."""
        if self.errors:
            expectation = self._expectation(next(iter(self.errors.values())))
            warn(f"{expectation} Missing or old: {', '.join(self.errors)}. {advice}")

    def _expectation(self, error: OSError | MemoryError) -> str:
        return f"Expected to write {self._target}, got {type(error).__name__}: {error}."
