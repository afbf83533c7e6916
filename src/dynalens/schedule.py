"""The epochs in which explanations and pictures are made: every n epochs, or fewer if they take too much time."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dynalens.text import percent


class Schedule:
    """Decides in which epochs some results are made, from the seconds that they and the training took.

    They are made in the first and in the last epoch, and evenly between them as often as the whole training leaves room
    for. Where the last epoch is not known, each is followed by as many epochs as it needs to be within the budget.

    Args:
        every_n_epochs: Epochs between two results, at least.
        max_overhead: Results may take this fraction of the time of training; None: whatever they take.
        last_epoch: The last epoch of the training; None where it is not known.

    Attributes:
        next_epoch: Results are made in no epoch before it but the last.
        newest_epoch: In which they were made last, or None.

    Example:
        >>> schedule, epochs = Schedule(1, 0.1, last_epoch=40), []
        >>> for epoch in range(41):
        ...     schedule.add_training(seconds=1.0)
        ...     if schedule.is_due(epoch):
        ...         epochs.append(epoch)
        ...         plan = schedule.account(epoch, seconds=1.0)
        >>> epochs  # 4 of 41 seconds
        [0, 14, 27, 40]
    """

    def __init__(self, every_n_epochs: int, max_overhead: float | None, last_epoch: int | None = None) -> None:
        self.every_n_epochs, self.max_overhead, self.last_epoch = every_n_epochs, max_overhead, last_epoch
        self.next_epoch = 0
        self.newest_epoch: int | None = None
        self._has_told = False
        # In the whole fit; what follows is since the last results.
        self._seconds_of_training, self._seconds_of_results = 0.0, 0.0
        self._seconds, self._epochs, self._seconds_aside = 0.0, 0, 0.0
        self._start = 0.0
        self.begin_epoch()  # a training that goes on within an epoch says nothing of its beginning

    def begin_epoch(self) -> None:
        """An epoch of training begins."""
        self._epoch_start = self._step_end = time.perf_counter()

    def end_step(self) -> None:
        """A step or a validation of the epoch has ended."""
        self._step_end = time.perf_counter()

    def end_epoch(self) -> None:
        """The epoch's training has ended with its last step or validation. What callbacks do later does not count."""
        self.add_training(self._step_end - self._epoch_start)

    def add_training(self, seconds: float) -> None:
        """Add the time of an epoch without results."""
        self._seconds_of_training += seconds
        self._seconds += seconds
        self._epochs += 1

    def add_aside(self, seconds: float) -> None:
        """Add time that belongs to the next results."""
        self._seconds_aside += seconds

    @contextmanager
    def timed_aside(self) -> Iterator[None]:
        """Count the body as :meth:`add_aside`."""
        start = time.perf_counter()
        yield
        self.add_aside(time.perf_counter() - start)

    def is_due(self, epoch: int) -> bool:
        """Return whether results are made at the end of this epoch."""
        if epoch == self.last_epoch and self.leaves_out(epoch):
            return True
        return epoch % self.every_n_epochs == 0 and epoch >= self.next_epoch

    def leaves_out(self, epoch: int) -> bool:
        """Return whether results would be due by this epoch if they took no time."""
        return self.newest_epoch is not None and epoch >= self.newest_epoch + self.every_n_epochs

    def first_words(self, results: str, callback: str, *, overhead: float, every_n_epochs: float) -> str | None:
        """Return a sentence for the first time that epochs are left out; else None.

        Args:
            results: Name of the results.
            callback: Name of the callback's class.
            overhead: From :meth:`account`.
            every_n_epochs: From :meth:`account`.
        """
        if self._has_told or every_n_epochs == self.every_n_epochs or self.newest_epoch == self.last_epoch:
            return None
        self._has_told = True
        next_epoch = self.next_epoch if self.last_epoch is None else min(self.next_epoch, self.last_epoch)
        last = "the last one" if next_epoch == self.last_epoch else "and the last epoch always has some"
        return (
            f"{results} took {percent(overhead)} of the training time since the previous ones, more than "
            f"`max_overhead={self.max_overhead}`. The next ones are of epoch {next_epoch}, {last}. To get "
            f"them for every epoch, pass `max_overhead=None` to {callback}."
        )

    def overhead(self, seconds: float) -> float:
        """Return the time of results as a fraction of the training time since the previous ones."""
        return (seconds + self._seconds_aside) / self._seconds if self._seconds else math.inf

    def wait(self, seconds: float, epochs_left: int = 0) -> int:
        """Return after how many epochs results that take as long again fit into the budget.

        Args:
            seconds: Time that these results took.
            epochs_left: Number of epochs left, if it is known. Results are spread over them, up to the last one.
        """
        if self.max_overhead is None or not self._seconds:
            return self.every_n_epochs
        cost, mean = seconds + self._seconds_aside, self._seconds / self._epochs
        epochs = cost / (self.max_overhead * mean)
        if epochs_left > 0:
            budget = (
                self.max_overhead * (self._seconds_of_training + epochs_left * mean) - self._seconds_of_results - cost
            )
            epochs = epochs_left / max(1, budget // cost)
        return self.every_n_epochs * max(1, math.ceil(epochs / self.every_n_epochs))

    def begin(self) -> None:
        """Begin to make results."""
        self._start = time.perf_counter()

    def end(self, epoch: int) -> dict[str, float]:
        """The results are made. Return what :meth:`account` returns, and plan the next ones."""
        return self.account(epoch, time.perf_counter() - self._start)

    def account(self, epoch: int, seconds: float) -> dict[str, float]:
        """Note the time of results at the end of this epoch. Return what is logged of it, and plan the next ones."""
        epochs_left = 0 if self.last_epoch is None else self.last_epoch - epoch
        overhead, wait = self.overhead(seconds), self.wait(seconds, epochs_left)
        self._seconds_of_results += seconds + self._seconds_aside
        self.note_results(epoch, wait)
        return {"overhead": overhead, "every_n_epochs": wait}

    def note_results(self, epoch: int, wait: int) -> None:
        """Note that results were made at the end of this epoch. The next ones come after ``wait`` epochs."""
        self.newest_epoch, self.next_epoch = epoch, epoch + wait
        self._seconds, self._epochs, self._seconds_aside = 0.0, 0, 0.0
