"""What monitors have in common that run the model as often as the training leaves time for, and never end it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dynalens.arguments import check_choice, check_overhead, check_positive, check_x_axis
from dynalens.callbacks.base import NamedCallback, Setting
from dynalens.host import Processes, announce, check_whole_model, last_epoch, log_step, run_folder
from dynalens.logs import switched_off_on_error
from dynalens.record import Writes
from dynalens.schedule import Schedule


@dataclass(frozen=True)
class PaceSettings:
    """How often results are made.

    Attributes:
        every_n_epochs: Smallest number of epochs from one result to the next.
        max_overhead: Largest fraction of the training time that results may take; None: no limit.

    Raises:
        ValueError: If one of them is out of its range.
    """

    every_n_epochs: int
    max_overhead: float | None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_positive(every_n_epochs=self.every_n_epochs)
        check_overhead(self.max_overhead)


class PacedMonitor(NamedCallback):
    """A monitor that makes results in the first and the last epoch, and in between if there is time.

    If it fails, it is switched off and training goes on. A monitor that needs one of these hooks itself calls
    ``super()`` in it.
    """

    results: ClassVar[str]
    """What it makes, and what is switched off if it fails."""

    every_n_epochs = Setting[int]("_pace")
    max_overhead = Setting[float | None]("_pace")

    def __init__(
        self, every_n_epochs: int, max_overhead: float | None, x_axis: str, *, name: str | None, on_error: str
    ) -> None:
        super().__init__()
        check_choice("on_error", on_error, ("warn", "raise"))
        self._pace = PaceSettings(every_n_epochs, max_overhead)
        self.x_axis, self.name, self.on_error = check_x_axis(x_axis), name, on_error
        self._schedule = Schedule(every_n_epochs, max_overhead)
        self._last_epoch: tuple[int, int] | None = None  # the last epoch that has ended, and its step in the logger
        self._processes: Processes | None = None
        self._pictures: Any = None
        self._folder = Path()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the names of layers and find out where pictures go."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        check_whole_model(trainer, type(self).__name__)
        self._processes, self._last_epoch = Processes(trainer), None
        self._schedule = Schedule(self.every_n_epochs, self.max_overhead, last_epoch(trainer))
        self._begin_fit(trainer, pl_module)
        self._folder = run_folder(trainer, self.name)
        meanwhile = "Training goes on, and writing is tried again in later epochs. Make room on the disk."
        self._writes = Writes(f"{self.results.lower()} to {self._folder}", meanwhile)
        if self._processes.is_first:
            self._pictures = self._open_pictures(trainer)

    def _begin_fit(self, trainer: Any, pl_module: Any) -> None:
        """Check what the monitor looks at."""
        raise NotImplementedError  # each monitor looks at something else

    def _open_pictures(self, trainer: Any) -> Any:
        """Return what takes the pictures of this fit."""
        raise NotImplementedError  # each monitor draws its own

    def _make(self, trainer: Any, pl_module: Any, *, epoch: int, step: int) -> bool:
        """Make the results of this epoch and show them at this step of the logger. Return whether there were any."""
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

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Release what the fit has opened."""
        self._end_fit()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Do what ``teardown`` does, because Lightning does not call that after an exception."""
        self._end_fit()

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch of the newest results, and the epoch in which the next results are due."""
        return {"next_epoch": self._schedule.next_epoch, "newest_epoch": self._schedule.newest_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the epochs of a checkpoint."""
        self._schedule.next_epoch, self._schedule.newest_epoch = state_dict["next_epoch"], state_dict["newest_epoch"]

    def _end_fit(self) -> None:
        self._pictures = self._processes = None

    def _make_in_first(self, trainer: Any, pl_module: Any, is_due: Callable[[int], bool]) -> None:
        if self._processes is not None:
            self._processes.in_first(lambda: self._make_if(is_due, trainer, pl_module))

    def _make_if(self, is_due: Callable[[int], bool], trainer: Any, pl_module: Any) -> None:
        if self._pictures is None or self._last_epoch is None or not is_due(self._last_epoch[0]):
            return
        epoch, step = self._last_epoch
        self._schedule.begin()
        with self._or_switched_off():
            if self._make(trainer, pl_module, epoch=epoch, step=step):
                account = self._schedule.end(epoch)
                self._log_account(trainer, account, step)
                words = self._schedule.first_words(self.results.lower(), type(self).__name__, **account)
                if words is not None:
                    announce(f"dynalens: {words}")

    def _log_account(self, trainer: Any, account: dict[str, float], step: int) -> None:
        """Log the time that the results took, and how many epochs go by until the next; most monitors do not."""

    def _attempt(self, name: str, write: Callable[[], None]) -> None:
        """Call ``write``. If the disk fails, warn once, or raise if ``on_error`` is "raise"."""
        if self.on_error == "raise":
            write()
        else:
            self._writes.attempt(name, write)

    def _or_switched_off(self) -> AbstractContextManager[None]:
        """Switch this monitor off if the body fails, and warn once, or raise if ``on_error`` is "raise"."""

        def switch_off() -> None:
            self._pictures = None

        return switched_off_on_error(self.results, switch_off, self.on_error)
