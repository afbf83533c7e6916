"""Names of a package that are imported when they are first asked for: torch and Lightning take seconds to start."""

import importlib
import sys
from collections.abc import Callable
from typing import Any


def deferred(package: str, **places: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package (PEP 562) that imports names when they are asked for.

    A module of the package is imported by its name as well, as if the package had imported it. Type checkers and
    editors read the same imports under ``TYPE_CHECKING``; a test compares both.

    Args:
        package: Name of the package.
        **places: The names that a module of the package defines, with spaces between them, by the module.

    Example:
        >>> find, names = deferred("json", decoder="JSONDecodeError", tool="main")
        >>> find("main").__module__, "main" in names()
        ('json.tool', True)
        >>> find("mane")
        Traceback (most recent call last):
        AttributeError: module 'json' has no attribute 'mane'
    """
    place_of = {name: place for place, names in places.items() for name in names.split()}

    def find(name: str) -> Any:
        module = place_of.get(name, name)
        path = f"{package}.{module}"
        try:
            submodule = None if name.startswith("__") else importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:  # one that this one needs is missing
                raise
            submodule = None
        if submodule is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(submodule, name) if name in place_of else submodule
        setattr(sys.modules[package], name, value)  # later looks find it without this function
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *place_of})

    return find, names
