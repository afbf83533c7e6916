"""Save all that a model holds, and put it back later.

What a forward pass may change is found by walking from the modules through their attributes: containers, arrays, random
generators, functions with what they enclose, and objects of the user's own classes. Each object is copied one level
deep, by reference. Only tensors and arrays are copied by value. What did not change is not touched when everything is
put back.
"""

import functools
import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any
from weakref import CallableProxyType, ProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dynalens.observation.own_code import OwnCode
from dynalens.observation.stand_ins import StandIns
from dynalens.observation.undo import (
    EMPTY,
    enclosed,
    is_data,
    put_back_cells,
    put_back_class,
    put_back_dict,
    put_back_entry,
    put_back_sequence,
    put_back_set,
    put_back_slots,
    slot_value,
    slots_of,
)

_ATOMS = frozenset(
    {
        bool, int, float, complex, str, bytes, range, type(None), torch.dtype, torch.device, torch.Size, ProxyType,
        CallableProxyType,
    }
)  # fmt: skip
_CONTAINERS = frozenset({dict, OrderedDict, list, set, deque})
_MOST_FOLLOWED = 1000
"""Containers with more entries than this are put back, but what their entries hold is not followed. The state of a
step is small, a dataset is not."""

_FOREIGN = frozenset(
    {
        "torch", "numpy", "pandas", "PIL", "lightning", "pytorch_lightning", "lightning_fabric", "tensorboard", "wandb",
        "dynalens", "captum", "threading", "_thread", "logging", "io", "_io", "queue", "multiprocessing", "concurrent",
        "asyncio", "socket", "weakref", "subprocess", "ctypes", "importlib",
    }
)  # fmt: skip
"""Packages whose objects are not followed: they are ours, or lead to threads, streams or the Trainer with its
loaders."""

_LIBRARIES = _FOREIGN | {"builtins", "torchmetrics", "abc", "typing", "collections"}
"""Packages whose classes hold no state of a model."""


class Snapshot:
    """The state of some modules at one time.

    Example:
        >>> module = nn.Identity()
        >>> module.calls, module.history = 3, [1.0]
        >>> snapshot = Snapshot([module])
        >>> module.calls, module.table = 4, {}
        >>> module.history.append(2.0)
        >>> snapshot.restore()
        >>> module.calls, module.history, hasattr(module, "table")
        (3, [1.0], False)

    Attributes:
        modules: All of them, also those that stand in lists or objects rather than as submodules.
        tensors: Tensors among what they hold.

    Args:
        roots: Modules to begin with.
        copied: Ids of parameters whose values need no copy.
    """

    def __init__(self, roots: Iterable[nn.Module], copied_ids: frozenset[int] = frozenset()) -> None:
        self.modules: list[nn.Module] = []
        self.tensors: list[Tensor] = []
        self._undo: list[Callable[[], object]] = []
        self._empty_containers: list[Any] = []
        self._values_by_id: dict[int, Any] = {}  # the values keep the ids from being given away
        self._stand_ins, self._code = StandIns(), OwnCode()
        self._copied_ids = copied_ids
        self._walk(list(roots))
        while self._walk_globals():
            pass
        self._values = _Values([t for t in self.tensors if id(t) not in copied_ids and _has_values(t)])

    @property
    def parameters(self) -> frozenset[int]:
        """Ids of the parameters that are put back, by this snapshot or by the one that copied them."""
        return self._copied_ids | {id(tensor) for tensor in self.tensors if isinstance(tensor, nn.Parameter)}

    def restore(self) -> None:
        """Put everything back."""
        for container in self._empty_containers:
            if container:
                container.clear()
        for undo in self._undo:
            undo()
        self._values.restore()

    def keep(self, attributes: dict[str, Any]) -> None:
        """Put these attributes of an object back, too, by identity. What they hold is not followed."""
        self._later(put_back_dict, attributes, list(attributes.keys()), list(attributes.values()))

    def _later(self, function: Callable[..., object], *arguments: Any) -> None:
        self._undo.append(functools.partial(function, *arguments))

    def _walk(self, queue: list[Any]) -> None:
        while queue:
            value = queue.pop()
            kind = type(value)
            if kind in _ATOMS or id(value) in self._values_by_id:
                continue
            if kind in _CONTAINERS and not value:  # a module has two dozen of these
                self._empty_containers.append(value)
                continue
            self._values_by_id[id(value)] = value
            if isinstance(value, Tensor):
                self.tensors.append(value)
            else:
                queue.extend(self._parts_of(value))

    def _walk_globals(self) -> bool:
        """Follow global and enclosed variables that the known code mentions, and return whether there were any."""
        entries = [(namespace, name, namespace.get(name, EMPTY)) for namespace, name in self._code.new_globals()]
        for namespace, name, content in entries:
            self._later(put_back_entry, namespace, name, content)
            self._stand_ins.replace_entries(namespace, dict, [(name, content)])
            if isinstance(content, type) and _is_plain_object(content):
                self._code.add_class(content, makes=True)
        cells = [(cell, enclosed(cell)) for cell in self._code.cells]
        self._code.cells.clear()
        self._later(put_back_cells, cells)
        self._walk([content for _, _, content in entries] + [content for _, content in cells])
        return bool(entries or cells)

    def _parts_of(self, value: Any) -> Iterable[Any]:
        """Note how to put one object back, and return what it holds."""
        if isinstance(value, nn.Module):
            return self._module(value)
        if type(value) in _CONTAINERS:
            return self._container(value)
        if isinstance(value, (dict, list, deque, set)):
            return (*self._container(value), getattr(value, "__dict__", None))
        if isinstance(value, (tuple, frozenset)):
            return _entries_to_walk(value)
        if isinstance(value, (FunctionType, MethodType, functools.partial)):
            return self._function(value)
        undo = _state_of(value)
        if undo is not None:
            self._undo.append(undo)
        elif _is_plain_object(value):
            return self._attributes(value)
        return ()

    def _module(self, module: nn.Module) -> Iterator[Any]:
        self.modules.append(module)
        yield vars(module)
        yield from type(module).__mro__
        if isinstance(module, torch.jit.ScriptModule):  # it holds these outside of its dictionary
            yield from module.parameters(recurse=False)
            yield from module.buffers(recurse=False)
            yield from module.children()
            attributes = _scripted_attributes(module)
            self._undo += [functools.partial(module._c.setattr, name, content) for name, content in attributes.items()]
            yield from attributes.values()

    def _container(self, value: Any) -> Iterable[Any]:
        if isinstance(value, dict):
            keys, values = list(value.keys()), list(value.values())
            self._later(put_back_dict, value, keys, values)
            self._stand_ins.replace_entries(value, dict, zip(keys, _entries_to_walk(values), strict=False))
            return _entries_to_walk(values)
        entries = list(value)
        self._later(put_back_set if isinstance(value, set) else put_back_sequence, value, entries)
        if isinstance(value, list):
            self._stand_ins.replace_entries(value, list, enumerate(_entries_to_walk(entries)))
        return _entries_to_walk(entries)

    def _function(self, value: Any) -> Iterator[Any]:
        if isinstance(value, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, MethodType):
            yield from (value.__func__, value.__self__)
            if _package(type(value.__self__)) not in _LIBRARIES:  # an object of the user's own class
                yield getattr(value.__self__, "__dict__", None)
        elif str(value.__module__).partition(".")[0] not in _LIBRARIES:
            cells = [(cell, enclosed(cell)) for cell in value.__closure__ or ()]
            if cells:
                self._later(put_back_cells, cells)
            yield from (content for _, content in cells)
            yield from (value.__defaults__, value.__kwdefaults__, vars(value))
            self._code.add_function(value)

    def _attributes(self, value: Any) -> Iterator[Any]:
        if isinstance(value, type):
            attributes = {name: content for name, content in vars(value).items() if is_data(name, content)}
            self._later(put_back_class, value, attributes)
            self._code.add_class(value)
            yield from _entries_to_walk(list(attributes.values()))
            return
        yield from type(value).__mro__
        yield getattr(value, "__dict__", None)
        slots = [(slot, slot_value(slot, value)) for slot in slots_of(type(value))]
        if slots:
            self._later(put_back_slots, value, slots)
            yield from (content for _, content in slots)


class _Values:
    """Copies of tensors, whose values, storage and gradient are put back if they have changed."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._aliases = [tensor.detach() for tensor in tensors]  # keep the storage if `tensor.data` is set
        self._copies = [torch.empty_like(alias) for alias in self._aliases]
        _copy(self._copies, self._aliases)

    def restore(self) -> None:
        pairs = []
        for tensor, alias, copy in zip(self._tensors, self._aliases, self._copies, strict=True):
            if not _same_storage(tensor, alias):
                tensor.data = alias
            if not _same_bits(alias, copy):
                pairs.append((alias, copy))
        _copy([alias for alias, _ in pairs], [copy for _, copy in pairs])


def _copy(aliases: list[Tensor], copies: list[Tensor]) -> None:
    # A launch for each kind, not for each of a network's many small buffers.
    kinds: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(aliases, copies, strict=True):
        targets, sources = kinds.setdefault((source.device, source.dtype), ([], []))
        targets.append(target)
        sources.append(source)
    with torch.no_grad():
        for targets, sources in kinds.values():
            torch._foreach_copy_(targets, sources)


def _has_values(tensor: Tensor) -> bool:
    """Return whether a tensor has memory of its own that can be copied."""
    ordinary = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized
    return ordinary and not is_lazy(tensor) and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


def _same_storage(tensor: Tensor, alias: Tensor) -> bool:
    return (
        tensor.data_ptr() == alias.data_ptr()
        and tensor.shape == alias.shape
        and tensor.stride() == alias.stride()
        and tensor.dtype is alias.dtype
    )


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether all values are equal bit for bit: NaN equals NaN, and -0 differs from 0."""
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    kind = _INTEGERS[a.element_size()]
    return torch.equal(a.view(kind), b.view(kind))


def _entries_to_walk(entries: Any) -> Iterable[Any]:
    return entries if len(entries) <= _MOST_FOLLOWED else ()


def _state_of(value: Any) -> Callable[[], object] | None:
    """Return a function that puts back an array or a random generator; None for other objects."""
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return functools.partial(value.setstate, value.getstate())
    if type(value) is np.ndarray and value.flags.writeable:
        return functools.partial(value.__setitem__, (), value.copy())
    if isinstance(value, (bytearray, array)):
        return functools.partial(value.__setitem__, slice(None), value[:])
    return None


def _scripted_attributes(module: torch.jit.ScriptModule) -> dict[str, Any]:
    """Return what a scripted module holds in C++ beside its parameters, buffers and children, such as its mode."""
    kind: Any = torch._C.ConcreteModuleType.from_jit_type(module._c._type())
    return {name: module._c.getattr(name) for name in kind.get_attributes()}


def _is_plain_object(value: Any) -> bool:
    """Return whether the value is an object or a class in which a user's code may keep state."""
    if isinstance(value, type):
        return _package(value) not in _LIBRARIES
    of_python = bool(type(value).__flags__ & _HEAP_TYPE) or type(value) is SimpleNamespace
    return of_python and not any(_package(base) in _FOREIGN for base in type(value).__mro__)


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made by a `class` statement, or by a library as if it were


def _package(cls: type) -> str:
    return str(cls.__module__).partition(".")[0]
