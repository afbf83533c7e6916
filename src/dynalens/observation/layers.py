"""Find layers by name, and see or replace their output while a model runs."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.observation.graph import nodes_behind


class Capturing:
    """The outputs of a layer that is being captured: the newest, and earlier ones that have a graph."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    @property
    def value(self) -> Tensor:
        """The output, with its graph. Raises a RuntimeError if the layer did not run or returned no tensor."""
        if not self._values or not isinstance(self._values[-1], Tensor):
            kind = f"a {type(self._values[-1]).__name__}" if self._values else "no call of it"
            raise RuntimeError(
                f"Expected the layer to run and give a tensor, got {kind}. Name a layer that this forward pass uses."
            )
        return self._values[-1]

    def behind(self, result: Tensor) -> Tensor:
        """Return the newest output that the result was computed from, or else the newest one."""
        nodes = set(nodes_behind([result.grad_fn])) if len(self._values) > 1 else set()
        values = [value for value in self._values if _has_graph(value) and value.grad_fn in nodes]
        return values[-1] if values else self.value


@contextmanager
def captured_output(layer: nn.Module) -> Iterator[Capturing]:
    """Yield an object whose ``value`` is the layer's newest output, with its graph.

    If the next operation works in place, such as a ReLU, ``value`` is the result of that operation. Value and gradient
    then still belong together.

    Example:
        >>> import torch
        >>> layer = torch.nn.Flatten()
        >>> with captured_output(layer) as captured:
        ...     _ = layer(torch.zeros(1, 2, 2))
        >>> captured.value.shape
        torch.Size([1, 4])
    """
    capture = Capturing()

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        capture._values = [*(value for value in capture._values if _has_graph(value)), output]

    with layer.register_forward_hook(keep):
        yield capture


def _has_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and value.grad_fn is not None


@contextmanager
def replaced_output(layer: nn.Module, value: Tensor) -> Iterator[None]:
    """Replace the layer's output by ``value``.

    Example:
        >>> import torch
        >>> layer = torch.nn.Flatten()
        >>> with replaced_output(layer, torch.ones(1)):
        ...     layer(torch.zeros(1, 2, 2))
        tensor([1.])
    """
    with layer.register_forward_hook(lambda _module, _args, _output: value):
        yield


@contextmanager
def captured_outputs(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, Tensor]]]:
    """Yield a list that fills with name, module and output of each submodule, in the order in which they finish.

    Names are those of :func:`layers_by_name`. Outputs that are not tensors are left out, and so are scripted modules,
    which take no hook.
    """
    outputs: list[tuple[str, nn.Module, Tensor]] = []
    with ExitStack() as hooks:
        for name, module in layers_by_name(model).items():

            def note(module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):
                    outputs.append((name, module, output))

            if not isinstance(module, torch.jit.ScriptModule):
                hooks.enter_context(module.register_forward_hook(note))
        yield outputs


@contextmanager
def out_of_place(model: nn.Module) -> Iterator[None]:
    """Set ``inplace`` of all submodules to False: Captum's backward hooks cannot follow operations in place."""
    modules = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        for module in modules:
            module.__dict__["inplace"] = False
        yield
    finally:
        for module in modules:
            module.__dict__["inplace"] = True


def forward_of(model: nn.Module, forward: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return the callable that gives logits: ``forward`` if there is one, else the model itself (:func:`unwrap`).

    An empty ``nn.Sequential`` counts as a callable, although it is false. The model gets a copy of its inputs, on which
    it may work in place.
    """
    run = unwrap(model) if forward is None else forward
    return lambda inputs: run(inputs.clone() if isinstance(inputs, Tensor) else inputs)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of ``torch.compile``, DistributedDataParallel and DataParallel.

    Example:
        >>> import torch
        >>> inner = nn.Linear(1, 1)
        >>> unwrap(torch.compile(inner, backend="eager")) is inner
        True
    """
    while True:
        inner = dict(model.named_children()).get("_orig_mod")  # of torch._dynamo's OptimizedModule
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def layers_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Return each submodule by its dotted name in the user's model, without the wrappers of :func:`unwrap`."""
    layers: dict[str, nn.Module] = {}

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            inner = unwrap(child)
            layers[prefix + name] = inner
            visit(inner, f"{prefix}{name}.")

    visit(unwrap(model), "")
    return layers


def module_named(model: nn.Module, name: str, *, argument: str = "target_layer") -> nn.Module:
    """Return the submodule of this dotted name, with or without the parts that wrappers add to names.

    Raises:
        ValueError: If there is none; it lists the nearest names.
    """
    modules = {**dict(model.named_modules()), **layers_by_name(model)}
    if name not in modules or not name:
        nearest = difflib.get_close_matches(name, modules, n=3, cutoff=0.0)
        raise ValueError(
            f"Expected `{argument}` to name a layer of {type(model).__name__}, got {name!r}. "
            f"The nearest names are: {', '.join(neighbour for neighbour in nearest if neighbour)}."
        )
    return unwrap(modules[name])
