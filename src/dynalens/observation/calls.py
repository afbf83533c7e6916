"""See the calls of a model's modules while a training step runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def captured_calls(model: nn.Module, observe: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Call ``observe`` with each module that runs, its arguments and its output, in the order in which they finish.

    Compiled modules, and what is in them, are left alone: a hook would make them compile again.
    """
    with ExitStack() as hooks:
        for module in _eager_modules(model):

            def call(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                observe(module, (args, kwargs), output)

            hooks.callback(module.register_forward_hook(call, with_kwargs=True).remove)
        yield


def is_compiled(model: nn.Module) -> bool:
    """Return whether ``torch.compile`` compiles a model or a part of it. Hooks and modes would make it compile again.

    A module that TorchScript has compiled does not count: a mode of torch's functions leaves it as it is.
    """
    return any(_own_compilation(module) for module in model.modules())


def _own_compilation(module: nn.Module) -> bool:
    marks = ("_orig_mod", "_compiler_ctx")  # of torch._dynamo's wrapper; of what Lightning unwrapped
    is_compiled = any(getattr(module, mark, None) is not None for mark in marks)
    return is_compiled or module._compiled_call_impl is not None


def _eager_modules(model: nn.Module) -> Iterator[nn.Module]:
    known_modules: set[nn.Module] = set()
    queue = [model]
    while queue:
        module = queue.pop()
        is_script = isinstance(module, torch.jit.ScriptModule)  # takes no hook
        if module not in known_modules and not is_script and not _own_compilation(module):
            known_modules.add(module)
            yield module
            queue += module.children()
