"""Let modules of Lightning log nothing while they are looked at. Lightning is known here by names only."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

_LOGGING = ("log", "log_dict")


def lightning_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the modules that are a LightningModule, of either package of Lightning."""
    return [m for m in modules if any(cls.__name__ == "LightningModule" for cls in type(m).__mro__)]


def trainers_of(modules: Iterable[nn.Module]) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each Trainer that the modules are attached to."""
    for module in lightning_modules(modules):
        trainer = vars(module).get("_trainer")
        if trainer is not None:
            yield trainer.__dict__  # `vars` knows no weak proxies


def mute(modules: Iterable[nn.Module]) -> None:
    """Give the modules and their Trainers attributes that log nothing. The caller has to remove them."""
    modules = list(modules)
    for module in lightning_modules(modules):
        vars(module).update(dict.fromkeys(_LOGGING, _nothing))
    for trainer in trainers_of(modules):
        if "_loggers" in trainer:
            trainer["_loggers"] = [_silent_copy(logger) for logger in trainer["_loggers"]]


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Log nothing."""


class _Silent:
    """An experiment of which all methods do nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Silent()

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return self

    def __getitem__(self, _key: Any) -> Any:
        return self

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Keep nothing."""


def _silent_copy(logger: Any) -> Any:
    """Return a logger of the same class, with the same folder and version, that writes nothing."""
    cls = type(logger)
    if isinstance(logger, _Silent) or issubclass(cls, _Muted):
        return logger
    writing_methods = [
        name
        for name in dir(cls)
        if name.startswith(("log", "save", "finalize", "after_save", "watch"))
        and inspect.isfunction(inspect.getattr_static(cls, name))
    ]
    silent = type(cls.__name__, (_Muted, cls), {"experiment": _Silent(), **dict.fromkeys(writing_methods, _nothing)})
    copy: Any = object.__new__(silent)
    copy.__dict__.update(vars(logger))
    return copy


class _Muted:
    """Marks the class of a silent copy."""
