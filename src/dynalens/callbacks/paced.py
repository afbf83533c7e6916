"""The common part of monitors whose results are made as often as the training leaves time for."""

from collections.abc import Callable
from typing import Any

from dynalens.arguments import check_overhead, check_positive, check_x_axis
from dynalens.callbacks.base import GuardedPictures
from dynalens.host import Processes, announce, log_step
from dynalens.schedule import Schedule


class PacedPictures(GuardedPictures):
    """The part of a monitor that makes results in the first and the last epoch, and in between if there is time.

    The monitor calls ``_begin_schedule`` in ``setup``. If it has these hooks itself, it calls ``super()`` in them.
    """

    def _set_pace(
        self, every_n_epochs: int, max_overhead: float | None, x_axis: str, *, name: str | None, on_error: str
    ) -> None:
        """Take the arguments that all of these monitors have; raise a ValueError if one is out of its range."""
        check_positive(every_n_epochs=every_n_epochs)
        check_overhead(max_overhead)
        self._set_guard(on_error)
        self.every_n_epochs, self.max_overhead = every_n_epochs, max_overhead
        self.x_axis, self.name = check_x_axis(x_axis), name
        self._processes: Processes | None = None
        self._begin_schedule()

    def _begin_schedule(self, last_number: int | None = None) -> None:
        """Begin a fit. ``last_number`` is the number of its last epoch, or None if it is not known."""
        self._schedule = Schedule(self.every_n_epochs, self.max_overhead, last_number)
        self._last_epoch: tuple[int, int] | None = None  # the last epoch that has ended, and its step in the logger

    def _make(self, trainer: Any, pl_module: Any, *, epoch: int, step: int) -> None:
        """Make the results of this epoch and show them at this step of the logger."""
        raise NotImplementedError  # each monitor makes its own

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to measure the training time of the epoch."""
        self._schedule.begin_epoch()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add the step to the training time."""
        self._schedule.end_step()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the validation to the training time."""
        self._schedule.end_step()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Make the results if they are due, in the first process, while the others wait for it."""
        self._schedule.end_epoch()
        self._last_epoch = trainer.current_epoch, log_step(trainer, self.x_axis)
        self._make_in_first(trainer, pl_module, self._schedule.is_due)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Make the results of the last epoch if training stopped earlier than planned."""
        self._make_in_first(trainer, pl_module, self._schedule.leaves_out)

    def _make_in_first(self, trainer: Any, pl_module: Any, is_due: Callable[[int], bool]) -> None:
        if self._processes is not None:
            self._processes.in_first(lambda: self._make_if(is_due, trainer, pl_module))

    def _make_if(self, is_due: Callable[[int], bool], trainer: Any, pl_module: Any) -> None:
        if self._pictures is None or self._last_epoch is None or not is_due(self._last_epoch[0]):
            return
        epoch, step = self._last_epoch
        self._schedule.begin()
        with self._or_switched_off():
            self._make(trainer, pl_module, epoch=epoch, step=step)
            words = self._schedule.first_words(self.guarded.lower(), **self._schedule.end(epoch))
            if words is not None:
                announce(f"dynalens: {words}")

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch of the newest results, and the epoch in which the next results are due."""
        return {"next_epoch": self._schedule.next_epoch, "newest_epoch": self._schedule.newest_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the epochs of a checkpoint. A checkpoint of an earlier version may lack them."""
        self._schedule.next_epoch = state_dict.get("next_epoch", 0)
        self._schedule.newest_epoch = state_dict.get("newest_epoch")
