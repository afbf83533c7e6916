"""See the calls of a model's modules while a training step runs."""

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import nn

_COMPILED = "_torchdynamo_orig_callable"
"""Attribute of a function that ``torch.compile`` has made."""
_WITH_FUNCTIONS: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Models with such functions."""


@contextmanager
def captured_calls(model: nn.Module, observe: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Call ``observe`` with each module that runs, its arguments and its output, in the order in which they finish.

    Compiled modules, and what is in them, are left alone: a hook would make them compile again. So are all of them if a
    module holds a function that is compiled, because nothing shows which modules it calls.
    """
    with ExitStack() as hooks:
        for module in _eager_modules(model):

            def call(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                observe(module, (args, kwargs), output)

            hooks.enter_context(module.register_forward_hook(call, with_kwargs=True))
        yield


def is_compiled(model: nn.Module) -> bool:
    """Return whether ``torch.compile`` compiles a model or a part of it. Hooks and modes would make it compile again.

    A module that TorchScript has compiled does not count: a mode of torch's functions leaves it as it is. Functions
    that are compiled count if :func:`has_compiled_functions` was asked about the model before and has found some.
    """
    return model in _WITH_FUNCTIONS or any(_own_compilation(module) for module in model.modules())


def has_compiled_functions(model: nn.Module) -> bool:
    """Return whether a module holds a function that is compiled, as ``torch.compile(self.network.forward)``.

    They stand among the attributes of the modules and of their classes, which takes too long to be asked in each step.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> model.fast = torch.compile(model.forward, backend="eager")
        >>> has_compiled_functions(model), is_compiled(model), is_compiled(nn.Linear(2, 2))
        (True, True, False)
    """
    modules = [
        module for module in model.modules() if not _own_compilation(module)
    ]  # whose `forward` is such a function
    bases = {base for kind in set(map(type, modules)) for base in kind.__mro__}
    values = itertools.chain.from_iterable(vars(holder).values() for holder in (*modules, *bases))
    has_some = any(type(value) is FunctionType and hasattr(value, _COMPILED) for value in values)
    if has_some:
        _WITH_FUNCTIONS.add(model)
    return has_some


def _own_compilation(module: nn.Module) -> bool:
    marks = ("_orig_mod", "_compiler_ctx")  # of torch._dynamo's wrapper; of what Lightning unwrapped
    is_compiled = any(getattr(module, mark, None) is not None for mark in marks)
    return is_compiled or module._compiled_call_impl is not None


def _eager_modules(model: nn.Module) -> Iterator[nn.Module]:
    known_modules: set[nn.Module] = set()
    queue = [] if has_compiled_functions(model) else [model]
    while queue:
        module = queue.pop()
        is_script = isinstance(module, torch.jit.ScriptModule)  # takes no hook
        if module not in known_modules and not is_script and not _own_compilation(module):
            known_modules.add(module)
            yield module
            queue += module.children()
