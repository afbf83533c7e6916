"""Dotted paths of callables, as in configuration files."""

import importlib
import inspect
from contextlib import suppress
from typing import Any


def imported(path: str) -> Any:
    """Return the callable of a dotted path, or raise an ImportError.

    Example:
        >>> imported("math.floor")(2.5)
        2
    """
    module, _, name = path.rpartition(".")
    try:
        entry = getattr(importlib.import_module(module), name)
    except (AttributeError, ValueError) as error:  # ValueError: no module before the dot
        raise ImportError(f"no {name!r} in {module!r}") from error
    if not callable(entry):
        raise ImportError(f"{path} is no callable")
    return entry


def resolved(value: Any) -> Any:
    """Return the callable of a dotted path.

    Anything else is returned unchanged, also names without a dot and unknown paths.

    Example:
        >>> resolved("math.floor")(2.5), resolved("blur"), resolved(("a.b", "c"))
        (2, 'blur', ('a.b', 'c'))
    """
    if not isinstance(value, str) or "." not in value:
        return value
    try:
        return imported(value)
    except ImportError:
        return value


def missing_argument(function: Any) -> str | None:
    """Return in words which argument a callable needs; None if it can be called without any, or may be.

    Example:
        >>> missing_argument(lambda: 1), missing_argument(lambda x: x)
        (None, "missing a required argument: 'x'")
    """
    try:
        with suppress(ValueError):  # of a callable whose arguments are not known
            inspect.signature(function).bind()
    except TypeError as error:
        return str(error)
    return None
