"""What callbacks have in common: their names and their settings."""

import dataclasses
import functools
from typing import Any, Generic, TypeVar, cast

from dynalens.host import CallbackBase

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
    idle = False
    """Whether it does nothing in this fit: a script that does not know of it could not be followed."""

    @functools.cached_property  # Lightning asks for it at every hook
    def state_key(self) -> str:
        """Key of the state in a checkpoint."""
        return self._generate_state_key(name=self.name)
