"""When to explain: every n epochs, or less often where explanations would take too much of the time of a training."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Schedule:
    """Decides in which epochs explanations run, from the seconds that they and the training took.

    They run in the first and in the last epoch, and evenly between them as often as the whole training leaves room for.
    Where the last epoch is not known, each is followed by as many epochs as it needs to be within the budget.

    Args:
        every_n_epochs: Epochs between two explanations, at least.
        max_overhead: Explaining may take this fraction of the time of training; None: whatever it takes.
        last_epoch: The last epoch of the training; None where it is not known.

    Attributes:
        next_epoch: Explanations run in no epoch before it but the last.
        explained_epoch: In which they ran last, or None.

    Example:
        >>> schedule, epochs = Schedule(1, 0.1, last_epoch=40), []
        >>> for epoch in range(41):
        ...     schedule.trained(seconds=1.0)
        ...     if schedule.due(epoch):
        ...         epochs.append(epoch)
        ...         plan = schedule.account(epoch, seconds=1.0)
        >>> epochs  # 4 of 41 seconds
        [0, 14, 27, 40]
    """

    def __init__(self, every_n_epochs: int, max_overhead: float | None, last_epoch: int | None = None) -> None:
        self.every_n_epochs, self.max_overhead, self.last_epoch = every_n_epochs, max_overhead, last_epoch
        self.next_epoch = 0
        self.explained_epoch: int | None = None
        self._told = False
        self._trained, self._spent = 0.0, 0.0  # in the whole fit; what follows is since the last explanation
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
        self._trained += seconds
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
        if epoch == self.last_epoch and self.leaves_out(epoch):
            return True
        return epoch % self.every_n_epochs == 0 and epoch >= self.next_epoch

    def leaves_out(self, epoch: int) -> bool:
        """Return whether explanations would have run by this epoch, if they took no time, since they last ran."""
        return self.explained_epoch is not None and epoch >= self.explained_epoch + self.every_n_epochs

    def first_words(self, overhead: float, wait: float) -> str | None:
        """Return, the first time that epochs are left out, what is said of it; else None."""
        if self._told or wait == self.every_n_epochs or self.explained_epoch == self.last_epoch:
            return None
        self._told = True
        next_epoch = self.next_epoch if self.last_epoch is None else min(self.next_epoch, self.last_epoch)
        return (
            f"explaining took {overhead:.0%} of the training time since the last explanation, more than "
            f"`max_overhead={self.max_overhead}`. Epoch {next_epoch} is explained next, and the last one always. Pass "
            "`max_overhead=None` to explain each epoch."
        )

    def overhead(self, seconds: float) -> float:
        """Return what explaining took, as a fraction of the training since the explanation before."""
        return (seconds + self._aside) / self._seconds if self._seconds else math.inf

    def wait(self, seconds: float, remaining: int = 0) -> int:
        """Return after how many epochs another explanation that takes so long fits the budget.

        Args:
            seconds: What this one took.
            remaining: Epochs to come, if that is known: explanations are spread over them, up to the last one.
        """
        if self.max_overhead is None or not self._seconds:
            return self.every_n_epochs
        cost, mean = seconds + self._aside, self._seconds / self._epochs
        epochs = cost / (self.max_overhead * mean)
        if remaining > 0:
            budget = self.max_overhead * (self._trained + remaining * mean) - self._spent - cost
            epochs = remaining / max(1, budget // cost)
        return self.every_n_epochs * max(1, math.ceil(epochs / self.every_n_epochs))

    def begin_explanations(self) -> None:
        """Explaining begins now."""
        self._explanations_start = time.perf_counter()

    def end_explanations(self, epoch: int) -> dict[str, float]:
        """Explaining has ended now; return and plan what :meth:`account` does."""
        return self.account(epoch, time.perf_counter() - self._explanations_start)

    def account(self, epoch: int, seconds: float) -> dict[str, float]:
        """Explanations took so long at the end of this epoch: return what is logged of it, and plan the next."""
        remaining = 0 if self.last_epoch is None else self.last_epoch - epoch
        overhead, wait = self.overhead(seconds), self.wait(seconds, remaining)
        self._spent += seconds + self._aside
        self.explained(epoch, wait)
        return {"overhead": overhead, "every_n_epochs": wait}

    def explained(self, epoch: int, wait: int) -> None:
        """Explanations have run at the end of this epoch; the next come after ``wait`` epochs."""
        self.explained_epoch, self.next_epoch = epoch, epoch + wait
        self._seconds, self._epochs, self._aside = 0.0, 0, 0.0
