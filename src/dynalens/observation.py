"""Look at a model and leave no trace: the only module that changes modes, hooks a layer or switches gradients on."""

import difflib
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Capturing:
    """Holds the latest output of a layer while it is being captured."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    @property
    def value(self) -> Tensor:
        """The output, with its graph; raises RuntimeError if the layer did not run or gave no tensor."""
        if not self._values or not isinstance(self._values[-1], Tensor):
            seen = f"a {type(self._values[-1]).__name__}" if self._values else "no call of it"
            raise RuntimeError(
                f"Expected the layer to run and give a tensor, got {seen}. Name a layer that this forward pass uses."
            )
        return self._values[-1]


@contextmanager
def captured_output(layer: nn.Module, reduced: Callable[[Tensor], Tensor] | None = None) -> Iterator[Capturing]:
    """Yield an object whose ``value`` is the layer's latest output, or what ``reduced`` makes of it at once.

    The tensor keeps its graph. Where the next operation works in place (a ReLU, say), its result is what is seen;
    value and gradient then still belong together.

    Example:
        >>> import torch
        >>> layer = torch.nn.Flatten()
        >>> with captured_output(layer) as captured:
        ...     _ = layer(torch.zeros(1, 2, 2))
        >>> captured.value.shape
        torch.Size([1, 4])
    """
    captured = Capturing()

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        captured._values = [output if reduced is None or not isinstance(output, Tensor) else reduced(output)]

    handle = layer.register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def replaced_output(layer: nn.Module, value: Tensor) -> Iterator[None]:
    """Let the layer's output be ``value``, whatever it computed.

    Example:
        >>> import torch
        >>> layer = torch.nn.Flatten()
        >>> with replaced_output(layer, torch.ones(1)):
        ...     layer(torch.zeros(1, 2, 2))
        tensor([1.])
    """
    handle = layer.register_forward_hook(lambda _module, _args, _output: value)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def captured_outputs(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, Tensor]]]:
    """Yield a list that fills with name, module and output of every submodule, in the order they finish.

    Names are those of :func:`layers_by_name`; outputs that are no tensors are left out.
    """
    seen: list[tuple[str, nn.Module, Tensor]] = []
    with ExitStack() as hooks:
        for name, module in layers_by_name(model).items():

            def note(module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):
                    seen.append((name, module, output))

            hooks.callback(module.register_forward_hook(note).remove)
        yield seen


@contextmanager
def out_of_place(model: nn.Module) -> Iterator[None]:
    """Switch off the ``inplace`` flag of every submodule: Captum's backward hooks cannot follow such layers."""
    flagged = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        for module in flagged:
            module.__dict__["inplace"] = False
        yield
    finally:
        for module in flagged:
            module.__dict__["inplace"] = True


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside what ``torch.compile``, DistributedDataParallel and DataParallel put around it.

    Example:
        >>> inner = nn.Linear(1, 1)
        >>> unwrapped(torch.compile(inner, backend="eager")) is inner
        True
    """
    while True:
        inner = model._modules.get("_orig_mod")  # of torch._dynamo's OptimizedModule
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def layers_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Return every submodule by its dotted name in the model as written, whatever :func:`unwrapped` leaves away."""
    found: dict[str, nn.Module] = {}

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            inner = unwrapped(child)
            found[prefix + name] = inner
            visit(inner, f"{prefix}{name}.")

    visit(unwrapped(model), "")
    return found


def module_named(model: nn.Module, name: str, *, argument: str = "target_layer") -> nn.Module:
    """Return the submodule of this dotted name, with or without the parts that wrappers add.

    Raises:
        ValueError: If there is none; it lists the nearest names.
    """
    modules = {**dict(model.named_modules()), **layers_by_name(model)}
    if name not in modules or not name:
        nearest = difflib.get_close_matches(name, modules, n=3, cutoff=0.0)
        raise ValueError(
            f"Expected `{argument}` to name a layer of {type(model).__name__}, got {name!r}. "
            f"The nearest names are: {', '.join(found for found in nearest if found)}."
        )
    return unwrapped(modules[name])


def floating_dtype(model: nn.Module, images: Tensor) -> torch.dtype:
    """Return the dtype in which the model computes: that of its first floating parameter, else of the images."""
    floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, images.dtype)


def is_tokens(inputs: Tensor) -> bool:
    """Return whether these are ids of tokens, integers (N, T), rather than images or signals."""
    return inputs.ndim == 2 and not inputs.is_floating_point() and inputs.dtype is not torch.bool


def two_class_logits(logits: Tensor) -> Tensor:
    """Return logits (N, K) with K >= 2; a binary logit z, of shape (N,) or (N, 1), becomes (0, z).

    Then softmax gives class 1 the probability sigmoid(z).

    Example:
        >>> two_class_logits(torch.tensor([3.0]))
        tensor([[0., 3.]])
    """
    if logits.ndim == 2 and logits.shape[1] > 1:
        return logits
    z = logits.reshape(len(logits), 1)
    return torch.cat([torch.zeros_like(z), z], dim=1)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the body on a model in evaluation mode with gradients on, and put back everything it could change.

    Saved and restored, also when the body raises: the training flag and the hooks of every submodule, each parameter's
    ``requires_grad`` and ``.grad`` (None inside), buffers, and the random generators of torch on every device, of numpy
    and of Python. Inference mode and autocast are off inside; compiled modules run eagerly, since hooks added
    after a compilation would be ignored.

    Example:
        >>> model = torch.nn.Dropout()
        >>> with undisturbed(model):
        ...     model.training, torch.rand(1).shape
        (False, torch.Size([1]))
        >>> model.training
        True
    """
    with (
        _same_random_numbers(),
        _same_flags(model),
        _same_hooks(model),
        _same_gradients(model),
        _same_buffers(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        _no_autocast(model),
        _eager(),
    ):
        yield


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Draw the same random numbers in each look, for code that knows only the global generators; they are put back."""
    with _same_random_numbers():
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield


@contextmanager
def _same_flags(model: nn.Module) -> Iterator[None]:
    # Set directly: `train()` and `eval()` are overridden by models that freeze parts of themselves.
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _same_hooks(model: nn.Module) -> Iterator[None]:
    kept = [
        (hooks, dict(hooks))
        for module in model.modules()
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        for hooks in [module.__dict__[name]]
    ]
    try:
        yield
    finally:
        for hooks, before in kept:
            if hooks != before:
                hooks.clear()
                hooks.update(before)


@contextmanager
def _same_gradients(model: nn.Module) -> Iterator[None]:
    kept = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in kept:
            parameter.grad = None
        yield
    finally:
        for parameter, requires_grad, grad in kept:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    kept = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    buffers = [buffer.detach() for _, _, buffer in kept if buffer is not None]
    values = [torch.empty_like(buffer) for buffer in buffers]
    _copy(values, buffers)
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer
        _copy(buffers, values)


def _copy(to: list[Tensor], of: list[Tensor]) -> None:
    # A launch for each kind, not for each of a network's many small buffers.
    kinds: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(to, of, strict=True):
        targets, sources = kinds.setdefault((source.device, source.dtype), ([], []))
        targets.append(target)
        sources.append(source)
    with torch.no_grad():
        for targets, sources in kinds.values():
            torch._foreach_copy_(targets, sources)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    cuda = torch.cuda.get_rng_state_all() if started else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    cpu, of_numpy, of_python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(of_numpy)
        random.setstate(of_python)
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


@contextmanager
def _eager() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield
