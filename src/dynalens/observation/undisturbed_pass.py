"""Look at a model in evaluation mode, and leave no trace."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dynalens.observation.muting import mute, trainers_of
from dynalens.observation.snapshot import Snapshot


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the body with the model in evaluation mode and gradients on, then undo all that the body changed.

    These are saved before the body and put back after it, even if the body raises an error:

    - the state of every module, also of modules in lists, and of the objects of your own classes that modules hold:
      attributes, entries of lists, dictionaries, sets and deques, values of arrays, parameters, buffers and other
      tensors, states of metrics, hooks, and class attributes. In a container with more than a thousand entries, the
      entries are put back, but not what these hold,
    - the global variables that ``forward`` and the functions of your own files that it calls mention, and what these
      hold,
    - ``requires_grad`` and ``.grad`` of each parameter. In the body, ``.grad`` is None,
    - the random generators of torch on every device, of numpy and of Python, and those that modules hold.

    In the body, a LightningModule logs nothing, and inference mode and autocast are off. Compiled modules run eagerly,
    because they would ignore hooks that are added after the compilation. Activation checkpoints keep what they compute.

    Raises:
        ValueError: If the forward pass takes an item from a generator, from an iterator of a loader, or from an
            iterator of ``itertools`` other than ``count``. The item cannot be given back.

    Example:
        >>> model = torch.nn.Dropout()
        >>> model.calls = 3
        >>> with undisturbed(model):
        ...     model.calls += 1
        ...     model.training, torch.rand(1).shape
        (False, torch.Size([1]))
        >>> model.training, model.calls
        (True, 3)
    """
    with (
        _same_random_numbers(),
        _same_state(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        _no_autocast(model),
        torch.compiler.set_stance("force_eager"),
        _no_checkpoints(),
    ):
        yield


@contextmanager
def gradients_throughout(*, detached: bool = True) -> Iterator[None]:
    """Let ``no_grad`` and ``inference_mode`` do nothing, so that a backbone that a model runs in them gets a graph.

    Args:
        detached: Whether ``detach`` does nothing either.

    Example:
        >>> x = torch.ones(1, requires_grad=True)
        >>> with gradients_throughout(), torch.no_grad():
        ...     y = 3 * x.detach()
        >>> torch.autograd.grad(y, x)[0]
        tensor([3.])
    """
    names = ("__enter__", "__exit__")
    methods = [getattr(torch.inference_mode, name) for name in names]
    try:
        for name in names:
            setattr(torch.inference_mode, name, lambda *_: None)
        with _GradientMode(detached):
            yield
    finally:
        for name, method in zip(names, methods, strict=True):
            setattr(torch.inference_mode, name, method)


class _GradientMode(TorchFunctionMode):
    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.detached = detached

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        if self.detached and func in (torch.detach, Tensor.detach):
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Draw the same random numbers in each look, for code that uses only the global generators.

    Their states are put back.
    """
    with _same_random_numbers():
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield


_snapshots: list[Snapshot] = []  # looks that are under way, each within the one before


@contextmanager
def _same_state(model: nn.Module) -> Iterator[None]:
    """Set all modules to evaluation and let them log nothing. Afterwards, put back what they held."""
    snapshot = Snapshot([model], copied_ids=_snapshots[-1].parameters if _snapshots else frozenset())
    for attributes in trainers_of(snapshot.modules):
        snapshot.keep(attributes)
    _snapshots.append(snapshot)
    try:
        with _same_gradients(snapshot.tensors):
            # Set directly: `train()` and `eval()` are overridden by models that freeze parts of themselves.
            for module in snapshot.modules:
                module.training = False
            mute(snapshot.modules)
            yield
    finally:
        _snapshots.remove(snapshot)
        snapshot.restore()


@contextmanager
def _same_gradients(tensors: list[Tensor]) -> Iterator[None]:
    originals = [(tensor, tensor.requires_grad, tensor.grad) for tensor in tensors if tensor.is_leaf]
    try:
        for tensor, _, grad in originals:
            if grad is not None:
                tensor.grad = None
        yield
    finally:
        for tensor, requires_grad, grad in originals:
            if not tensor.is_leaf and not tensor._is_view():
                tensor.detach_()  # `tensor += output` made it part of a graph
            if tensor.is_leaf and tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if tensor.is_leaf and tensor.grad is not grad:
                tensor.grad = grad


@contextmanager
def _no_checkpoints() -> Iterator[None]:
    """Let activation checkpoints keep what they compute: a recomputation would ignore ``grad`` and modes."""
    names = vars(torch.utils.checkpoint)
    generator = "_checkpoint_without_reentrant_generator"  # torch 2.14 calls the one with "_impl" behind its name
    ours = {"CheckpointFunction": _Uncheckpointed, generator: _run_once, f"{generator}_impl": _run_once}
    theirs = {name: names[name] for name in ours if name in names}
    try:
        names.update({name: ours[name] for name in theirs})
        yield
    finally:
        names.update(theirs)


def _run_once(*_args: Any, **_options: Any) -> Iterator[None]:
    yield  # the function runs here


class _Uncheckpointed:
    @staticmethod
    def apply(function: Callable[..., Any], _preserve_random_numbers: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    has_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    cuda = torch.cuda.get_rng_state_all() if has_cuda else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    cpu, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def _no_autocast(model: nn.Module) -> Iterator[None]:
    devices = {parameter.device.type for parameter in model.parameters()} | {"cpu"}
    with ExitStack() as stack:
        for device in sorted(devices):
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
