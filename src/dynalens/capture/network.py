"""The chain of modules that gave the logits of a loss, and where in the output of the last one they stand."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynalens.capture.entries import Path, entry_at, leaves
from dynalens.capture.graph import NETWORK, Node, source_of
from dynalens.observation import nodes_behind

Modules = tuple[str | None, ...]


class LogitsEntry(NamedTuple):
    """Path and shape of the logits in what a network returns."""

    path: Path
    shape: torch.Size


class Network(NamedTuple):
    """The network that gave the logits of a loss, as it was seen in a step.

    Attributes:
        modules: Dotted names of the modules that gave the logits, see :meth:`NetworkRuns.path`; None if they are not
            known.
        entries: The outputs of the last module that the loss was computed from; empty if they are not known.
    """

    modules: Modules | None = None
    entries: tuple[LogitsEntry, ...] = ()

    def logits_in(self, output: Any) -> Any:
        """Return the logits in a network's output, from the place at which training steps took them.

        If there is nothing at that place, the whole output is returned.

        Raises:
            ValueError: If the loss was made of several outputs.

        Example:
            >>> early, late = torch.zeros(2, 3), torch.ones(2, 3)
            >>> network = Network(("net",), (LogitsEntry((1,), late.shape),))
            >>> network.logits_in([early, late]) is late, network.logits_in(early) is early
            (True, True)
        """
        if isinstance(output, Tensor):
            return output
        tensors = [entry_at(output, entry.path) for entry in self.entries]
        is_known = bool(tensors) and all(
            value is not None and value.ndim == len(entry.shape) and value.shape[1:2] == entry.shape[1:2]
            for value, entry in zip(tensors, self.entries, strict=True)
        )
        if is_known and len(tensors) > 1:
            raise ValueError(
                f"Expected the loss to use one output of the network, got a loss that uses {len(tensors)} outputs. "
                "Pass `forward=` with a callable(pl_module, images) -> logits that does the same."
            )
        return tensors[0] if is_known else output


class _Output(NamedTuple):
    """A tensor that a module returned. It is not kept alive."""

    path: Path
    value: "weakref.ref[Tensor]"
    source: tuple[Any, int]
    node: Node
    shape: torch.Size


class _Run(NamedTuple):
    """One call of a module."""

    module: nn.Module
    source_run: "_Run | None"
    """The call whose output is its only input; None if the input came from elsewhere, or if there are several."""
    is_followed: bool
    """Whether ``source_run`` returned its only input, or its inputs have no gradients: no module computed them."""
    outputs: list[_Output]


class NetworkRuns:
    """Remember the outermost modules that run in a step, and find the ones that lead from its inputs to the logits.

    A step may call ``self.head(self.backbone(x))``, although the module has no ``forward`` or one that ends before the
    logits.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def forget(self) -> None:
        """Drop what the step computed."""
        self._runs = []

    def observe(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """Remember a call, and drop the calls that happened inside of it."""
        outputs = [
            _Output(path, weakref.ref(leaf), source_of(leaf), leaf.grad_fn, leaf.shape)
            for path, leaf in leaves(output)
            if leaf.grad_fn is not None
        ]
        if not outputs or not torch.is_grad_enabled():
            return
        if not _has_tensor(arguments):  # a `forward` that is given the whole batch: the network is in it
            return
        inputs = [leaf for _, leaf in leaves(arguments)]
        source_run = self._run_that_gave(inputs[0]) if len(inputs) == 1 else None
        is_followed = source_run is not None or all(leaf.grad_fn is None for leaf in inputs)
        inner = set(module.modules()) - {module}
        self._runs = [run for run in self._runs if run.module not in inner]
        self._runs.append(_Run(module, source_run, is_followed, outputs))

    def _run_that_gave(self, value: Tensor) -> _Run | None:
        return next((run for run in self._runs if len(run.outputs) == 1 and run.outputs[0].value() is value), None)

    def network(self, model: nn.Module, losses: Sequence[Tensor]) -> Network:
        """Return the network that gave the logits of a step's first loss.

        Args:
            model: The module.
            losses: Logits of each loss of a step.
        """
        entries = {entry: None for logits in losses for entry in self._entries(logits)}
        is_one_head = len(entries) == 1 or len(losses) == 1
        return Network(self.path(model, losses[0]), tuple(entries) if is_one_head else ())

    def _entries(self, logits: Tensor) -> list[LogitsEntry]:
        """Return the outputs of a module that these logits were computed from."""
        none: list[_Output] = []
        outputs = next((run.outputs for run in reversed(self._runs) if _gave(run.outputs, logits)), none)
        source, nodes = source_of(logits), set(nodes_behind([logits.grad_fn], NETWORK))
        equal_outputs = [output for output in outputs if output.source == source]
        return [
            LogitsEntry(output.path, output.shape)
            for output in equal_outputs or outputs
            if equal_outputs or output.node in nodes
        ]

    def path(self, model: nn.Module, logits: Tensor) -> Modules | None:
        """Return the dotted names of the modules that gave the logits. Each module got the output of the one before.

        The model itself has an empty name. If an operation outside of modules stands between them, the path is (None,),
        or ("", None) after the model's own ``forward``. If no module is known to lead to the logits, it is None.
        """
        names: Mapping[nn.Module, str] = {module: name for name, module in model.named_modules()}
        run = next((run for run in reversed(self._runs) if _gave(run.outputs, logits)), None)
        modules: list[nn.Module] = []
        while run is not None and run.is_followed:
            modules.insert(0, run.module)
            if run.source_run is None:
                return tuple(names[module] for module in modules)
            run = run.source_run
        nodes = set(nodes_behind([logits.grad_fn]))
        runs = [run for run in self._runs if any(output.node in nodes for output in run.outputs)]
        modules = [run.module for run in runs]
        has_given = any(run.module is model and _gave(run.outputs, logits) for run in self._runs)
        if has_given or not modules:
            return None
        return ("", None) if model in modules else (None,)


def _has_tensor(arguments: Any) -> bool:
    """Return whether a module was given a tensor by itself, in the positional arguments or the keywords of a call."""
    args, kwargs = arguments
    return any(isinstance(argument, Tensor) for argument in (*args, *kwargs.values()))


def _gave(outputs: Sequence[_Output], logits: Tensor) -> bool:
    """Return whether a module's outputs are the logits.

    They are if an output is the logits or has their shape, or if the logits are a part or a mean of an output, and no
    other layer stands between.
    """
    if source_of(logits) in {output.source for output in outputs}:
        return True
    nodes: set[Node] = set(nodes_behind([logits.grad_fn], NETWORK))
    has_shape = any(output.node in nodes and output.shape == logits.shape for output in outputs)
    return has_shape or _are_of_nothing_else(logits, {output.node for output in outputs})


def _are_of_nothing_else(logits: Tensor, nodes: set[Node]) -> bool:
    """Return whether the logits were computed from these operations alone, without any other layer or parameter."""
    nodes_on_way = set(nodes_behind([logits.grad_fn], NETWORK, ends=nodes))
    return bool(nodes_on_way & nodes) and not any(node.name().startswith(NETWORK) for node in nodes_on_way - nodes)
