"""When to explain: every n epochs, or less often where explanations would take too much of the time."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Schedule:
    """Decides in which epochs explanations run, from the seconds that they and the training took.

    Args:
        every_n_epochs: Epochs between two explanations, at least.
        max_overhead: Explaining may take this fraction of the time of training; None: whatever it takes.
    """

    def __init__(self, every_n_epochs: int, max_overhead: float | None) -> None:
        self.every_n_epochs, self.max_overhead = every_n_epochs, max_overhead
        self.next_epoch = 0
        self._seconds, self._epochs, self._aside = 0.0, 0, 0.0
        self._epoch_start = self._explanations_start = 0.0

    def begin_epoch(self) -> None:
        """An epoch of training begins now."""
        self._epoch_start = time.perf_counter()

    def end_epoch(self) -> None:
        """The epoch's training has ended now."""
        self.trained(time.perf_counter() - self._epoch_start)

    def trained(self, seconds: float) -> None:
        """An epoch has ended that took so long without explanations."""
        self._seconds += seconds
        self._epochs += 1

    def aside(self, seconds: float) -> None:
        """Something that goes with the next explanation took so long."""
        self._aside += seconds

    @contextmanager
    def timed_aside(self) -> Iterator[None]:
        """Count the body as :meth:`aside`, and not as training, where it runs before the epoch's end."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.aside(seconds)
        self._epoch_start += seconds

    def due(self, epoch: int) -> bool:
        """Return whether explanations run at the end of this epoch."""
        return epoch % self.every_n_epochs == 0 and epoch >= self.next_epoch

    def overhead(self, seconds: float) -> float:
        """Return what explaining took, as a fraction of the training since the explanation before."""
        return (seconds + self._aside) / self._seconds if self._seconds else math.inf

    def wait(self, seconds: float) -> int:
        """Return after how many epochs another explanation that takes so long fits the budget."""
        if self.max_overhead is None or not self._seconds:
            return self.every_n_epochs
        epochs = (seconds + self._aside) / (self.max_overhead * self._seconds / self._epochs)
        return self.every_n_epochs * max(1, math.ceil(epochs / self.every_n_epochs))

    def begin_explanations(self) -> None:
        """Explaining begins now."""
        self._explanations_start = time.perf_counter()

    def end_explanations(self, epoch: int) -> dict[str, float]:
        """Explaining has ended now; return and plan what :meth:`account` does."""
        return self.account(epoch, time.perf_counter() - self._explanations_start)

    def account(self, epoch: int, seconds: float) -> dict[str, float]:
        """Explanations took so long at the end of this epoch: return what is logged of it, and plan the next."""
        overhead, wait = self.overhead(seconds), self.wait(seconds)
        self.explained(epoch, wait)
        return {"overhead": overhead, "every_n_epochs": wait}

    def explained(self, epoch: int, wait: int) -> None:
        """Explanations have run at the end of this epoch; the next come after ``wait`` epochs."""
        self.next_epoch, self._seconds, self._epochs, self._aside = epoch + wait, 0.0, 0, 0.0
