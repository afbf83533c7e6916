"""What callbacks have in common: their names, their settings, and how a failing picture ends."""

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

from dynalens.arguments import check_choice
from dynalens.host import CallbackBase
from dynalens.logs import switched_off_on_error
from dynalens.record import Writes

T = TypeVar("T")


class Setting(Generic[T]):
    """An argument of a callback's constructor, read and set as its attribute; a settings object holds it.

    Setting it replaces the settings object, whose own checks then refuse what does not go together.

    Args:
        holder: Attribute of the callback that is the settings object, a frozen dataclass with a field of this name.
    """

    def __init__(self, holder: str) -> None:
        self._holder, self._field = holder, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._field = name

    def __get__(self, callback: Any, owner: type | None = None) -> T:
        return cast("T", self if callback is None else getattr(getattr(callback, self._holder), self._field))

    def __set__(self, callback: Any, value: T) -> None:
        settings = getattr(callback, self._holder)
        setattr(callback, self._holder, dataclasses.replace(settings, **{self._field: value}))


class NamedCallback(CallbackBase):
    """A callback with a name, by which a checkpoint tells its state from the states of other callbacks of its class."""

    name: str | None

    @functools.cached_property  # Lightning asks for it at every hook
    def state_key(self) -> str:
        """Key of the state in a checkpoint."""
        return self._generate_state_key(name=self.name)


class GuardedPictures:
    """The part of a monitor that runs the model. If it fails, it is switched off and training goes on."""

    guarded: ClassVar[str] = "Pictures"
    """What is switched off."""
    _writes: Writes

    def _set_guard(self, on_error: str) -> None:
        """Take what to do if this part fails, "warn" or "raise". The monitor opens ``_pictures`` when a fit begins."""
        check_choice("on_error", on_error, ("warn", "raise"))
        self.on_error = on_error
        self._pictures: Any = None

    def _begin_writes(self, folder: Path) -> None:
        """Begin a fit that writes to this folder."""
        meanwhile = "Training goes on, and writing is tried again in later epochs. Make room on the disk."
        self._writes = Writes(f"{self.guarded.lower()} to {folder}", meanwhile)

    def _attempt(self, name: str, write: Callable[[], None]) -> None:
        """Call ``write``. If the disk fails, warn once, or raise if ``on_error`` is "raise"."""
        if self.on_error == "raise":
            write()
        else:
            self._writes.attempt(name, write)

    def _or_switched_off(self) -> AbstractContextManager[None]:
        """Switch this part off if the body fails, and warn once, or raise if ``on_error`` is "raise"."""

        def switch_off() -> None:
            self._pictures = None

        return switched_off_on_error(self.guarded, switch_off, self.on_error)
