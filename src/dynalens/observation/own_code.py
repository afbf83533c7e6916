"""Find the global and enclosed variables that a model's own code mentions, in its compiled functions."""

import builtins
import dis
import functools
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

_PACKAGES = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_OF_GLOBALS = ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME")
_MAKING = ("__init__", "__new__", "__post_init__")
"""Methods that a forward pass calls only on objects that it makes itself."""


class _Names(NamedTuple):
    """The names that a function mentions."""

    of_globals: frozenset[str]
    every_name: frozenset[str]


class OwnCode:
    """Collects the functions of the user's files that a forward pass may run, and the globals that they mention.

    ``forward`` and methods with two underscores may run from the start. Any other method may run if a function that may
    run mentions its name. So functions that load the data, which mention the whole dataset, are left out. Functions of
    packages are left out, too.

    Example:
        >>> code = OwnCode()
        >>> code.add_function(lambda x: x * SCALE)
        >>> [name for _, name in code.new_globals()]
        ['SCALE']
    """

    def __init__(self) -> None:
        self._classes: dict[type, bool] = {}
        self._waiting: list[FunctionType] = []
        self._functions: set[FunctionType] = set()
        self._names = {"forward"}
        self._names_told: set[tuple[int, str]] = set()
        self.cells: list[CellType] = []
        """What the functions enclose that may run. Whoever reads them takes them out."""

    def add_class(self, cls: type, *, makes: bool = False) -> None:
        """Consider the methods of a class. ``makes``: also those that make an object."""
        self._classes[cls] = self._classes.get(cls, False) or makes

    def add_function(self, function: FunctionType) -> None:
        """Consider a function, unless it is part of a package."""
        if function not in self._functions and _is_own(function.__code__.co_filename):
            self._functions.add(function)
            self._waiting.append(function)
            self.cells += function.__closure__ or ()

    def new_globals(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Yield namespace and name of each global variable that was not yielded before. It may not exist yet."""
        while self._waiting or self._has_more_methods():
            function = self._waiting.pop()
            names = _names_of(function.__code__)
            self._names |= names.every_name
            for name in names.of_globals:
                if name in function.__globals__ or not hasattr(builtins, name):
                    yield from self._new_names(function.__globals__, name)
            for module in _own_modules(function.__globals__, names.of_globals):
                for name in names.every_name & vars(module).keys():
                    yield from self._new_names(vars(module), name)

    def _new_names(self, namespace: dict[str, Any], name: str) -> Iterator[tuple[dict[str, Any], str]]:
        if (id(namespace), name) not in self._names_told:
            self._names_told.add((id(namespace), name))
            yield namespace, name

    def _has_more_methods(self) -> bool:
        for cls, makes in self._classes.items():
            for name, member in vars(cls).items():
                is_special = name.startswith("__") and (makes or name not in _MAKING)
                if is_special or name in self._names:
                    for function in _functions_in(member):
                        self.add_function(function)
        return bool(self._waiting)


def _functions_in(member: Any) -> Iterator[FunctionType]:
    """Yield the functions of a method, of a property, or of what a decorator made from one."""
    parts = ("__func__", "fget", "fset", "func", "__wrapped__")
    candidates = [member] if isinstance(member, FunctionType) else [getattr(member, part, None) for part in parts]
    candidates += [getattr(member, "__wrapped__", None)]
    return (entry for entry in candidates if isinstance(entry, FunctionType))


@functools.cache
def _is_own(file: str) -> bool:
    return file.startswith("<") or not str(Path(file).resolve()).startswith(_PACKAGES)


@functools.cache
def _names_of(code: CodeType) -> _Names:
    inner = [_names_of(entry) for entry in code.co_consts if isinstance(entry, CodeType)]
    global_names = {str(entry.argval) for entry in dis.get_instructions(code) if entry.opname in _OF_GLOBALS}
    of_globals = frozenset(global_names.union(*(names.of_globals for names in inner)))
    return _Names(of_globals, frozenset(code.co_names).union(*(names.every_name for names in inner)))


def _own_modules(namespace: dict[str, Any], names: frozenset[str]) -> Iterator[ModuleType]:
    modules = (namespace.get(name) for name in names)
    for module in modules:
        if isinstance(module, ModuleType) and (file := getattr(module, "__file__", None)) and _is_own(file):
            yield module
