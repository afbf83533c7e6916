"""The calls of a layer in a training step, and which of them a loss or its logits were computed from."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynalens.observation.graph import Edge, results_behind

Node = Any
"""torch.autograd.graph.Node."""


class LayerCall(NamedTuple):
    """One call of a layer.

    Attributes:
        value: Its output, or what ``reduce`` made of it.
        edge: The output in autograd's graph; None if it has no gradient.
        mark: What ``mark`` returned for its input.
    """

    value: Any
    edge: Edge | None
    mark: Any


class LayerCalls:
    """The calls of a layer while it is watched. If some of them had gradients, only these count."""

    def __init__(self) -> None:
        self._calls_with_gradient: list[LayerCall] = []
        self._other_calls: list[LayerCall] = []

    def add(self, call: LayerCall) -> None:
        """Add a call."""
        (self._calls_with_gradient if torch.is_grad_enabled() else self._other_calls).append(call)

    @property
    def have_gradients(self) -> bool:
        """Whether the layer has run while gradients were followed."""
        return bool(self._calls_with_gradient)

    @property
    def have_run(self) -> bool:
        """Whether the layer was called."""
        return bool(self._calls_with_gradient or self._other_calls)

    def leading_to(self, nodes: Iterable[Node]) -> list[LayerCall]:
        """Return the calls that something was computed from, in their order.

        If a layer runs again on its own output, only the last call is returned.

        Args:
            nodes: Nodes of autograd's graph that it was computed by. If there are none, all calls are returned.

        Raises:
            RuntimeError: If the layer did not run, or gave no tensor.
        """
        calls = self._calls_with_gradient or self._other_calls
        nodes = [node for node in nodes if node is not None]
        if len(calls) > 1 and nodes and self._calls_with_gradient:
            calls = _nearest(calls, nodes)
        if not calls or not all(isinstance(call.value, Tensor) for call in calls):
            kind = f"a {type(calls[-1].value).__name__}" if calls else "no call of it"
            raise RuntimeError(
                f"Expected the layer to run and give a tensor, got {kind}. Name a layer that this forward pass uses."
            )
        return calls


@contextmanager
def layer_calls(
    layer: nn.Module,
    reduce: Callable[[Tensor], Tensor] = lambda output: output,
    *,
    mark: Callable[[Any], Any] = lambda _input: None,
) -> Iterator[LayerCalls]:
    """Yield an object that collects the calls of a layer. Calls within a backward pass do not count.

    Args:
        layer: The layer.
        reduce: Function that makes of an output what is kept. It is called at once, because later operations may work
            in place.
        mark: Function of the layer's input that returns what to keep beside its output.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(1, 1)
        >>> with layer_calls(layer) as calls:
        ...     first, second = layer(torch.zeros(1, 1)), layer(torch.ones(2, 1))
        >>> [call.value is first for call in calls.leading_to([first.exp().grad_fn])]
        [True]
    """
    calls = LayerCalls()

    def keep(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        is_eager = not torch.compiler.is_compiling()
        if is_eager and torch._C._current_graph_task_id() != -1:  # an activation checkpoint computes once more
            return
        is_tensor = isinstance(output, Tensor)
        edge = (output.grad_fn, output.output_nr) if is_eager and is_tensor and output.grad_fn is not None else None
        layer_input = args[0] if args else next(iter(kwargs.values()), None)
        calls.add(LayerCall(reduce(output) if is_tensor else output, edge, mark(layer_input) if is_eager else None))

    with layer.register_forward_hook(keep, with_kwargs=True):
        yield calls


def _nearest(calls: list[LayerCall], nodes: Iterable[Node]) -> list[LayerCall]:
    latest = {call.edge: call for call in calls if call.edge is not None}
    own_nodes = set(nodes)
    edges = {edge for edge in latest if edge[0] in own_nodes}
    edges |= results_behind(
        [edge for node in own_nodes - {node for node, _ in edges} for edge in node.next_functions], latest.keys()
    )
    if len(edges) > 1:
        edges -= {
            edge for node, _ in edges for edge in results_behind(node.next_functions, latest.keys(), walks_through=True)
        }
    return [call for call in calls if call.edge in edges and latest[call.edge] is call]
