"""Which parameters a tensor was computed with: those of its last layer, and those of all layers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from dynalens.capture.graph import NETWORK, Node, source_of
from dynalens.observation import nodes_behind

LEAF = "torch::autograd::AccumulateGrad"
HIDING = "CheckpointFunctionBackward"
"""torch's operation for activation checkpoints. The parameters behind it are not in the graph."""
Weights = frozenset[int]
"""A set of parameters, by their ``id``."""


def weights_before(logits: Tensor) -> Weights:
    """Return the parameters of the last layer that computed the logits.

    Example:
        >>> import torch
        >>> head = torch.nn.Linear(2, 3)
        >>> logits = head(torch.nn.Linear(2, 2)(torch.ones(1, 2))).view(-1, 3) / 2
        >>> weights_before(logits) == {id(head.weight), id(head.bias)}
        True
    """
    return weights_behind(source_of(logits)[0] if logits.grad_fn is not None else None)


def weights_behind(node: Node) -> Weights:
    """Return the parameters of the last layers before an operation."""
    return Weights(map(id, _last_parameters(node)))


def updates_before(logits: Tensor) -> int:
    """Return how often the parameters of the last layer that computed the logits were changed until now.

    Example:
        >>> import torch
        >>> head = torch.nn.Linear(2, 3, bias=False)
        >>> logits = head(torch.ones(1, 2))
        >>> updates = updates_before(logits)
        >>> _ = torch.nn.init.zeros_(head.weight)
        >>> updates_before(logits) - updates
        1
    """
    node = source_of(logits)[0] if logits.grad_fn is not None else None
    return sum(parameter._version for parameter in _last_parameters(node))


def are_of_one_network(tensors: Iterable[Tensor]) -> bool:
    """Return whether all tensors were computed with the same parameters.

    Example:
        >>> import torch
        >>> body, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> x = torch.ones(1, 2)
        >>> are_of_one_network([head(body(x)), head(body(2 * x))]), are_of_one_network([head(body(x)), head(x)])
        (True, False)
    """
    return len({all_weights([tensor.grad_fn])[0] for tensor in tensors}) == 1


class KnownNetwork:
    """The network that gave the logits of the steps so far, known by its parameters.

    A network may have several heads, for instance one for each task. Another network has a last layer of its own, and
    shares no parameter with it. If the last layer is frozen, the other half of the same network may train.
    """

    def __init__(self) -> None:
        self._last_layers: set[Weights] = set()
        self._last_weights, self._weights = Weights(), Weights()

    def gave(self, nodes: Sequence[Node]) -> bool:
        """Return whether these operations belong to it, and remember their parameters. The first ones do.

        Example:
            >>> import torch
            >>> body, head, other, deeper = (torch.nn.Linear(2, 2) for _ in range(4))
            >>> x, network = torch.ones(1, 2), KnownNetwork()
            >>> logits = head(body(x)), other(body(x)), other(x), x @ x.T, deeper(head(x))
            >>> [network.gave([values.grad_fn]) for values in logits]
            [True, True, True, True, True]
            >>> network.gave([torch.nn.Linear(2, 2)(x).grad_fn])
            False
        """
        # In nearly all steps an operation was given a known parameter as it is, such as the bias of a linear layer.
        for node in nodes:
            for edge, _ in () if node is None else node.next_functions:
                if id(getattr(edge, "variable", None)) in self._last_weights:
                    return True
        last_layers = Weights().union(*map(weights_behind, nodes))
        if last_layers in self._last_layers:
            return True
        weights, are_all = all_weights(nodes)
        if last_layers and any(self._last_layers) and are_all and not weights & self._weights:
            return False
        self._last_layers.add(last_layers)
        self._last_weights, self._weights = self._last_weights | last_layers, self._weights | weights
        return True


def all_weights(nodes: Iterable[Node]) -> tuple[Weights, bool]:
    """Return the parameters in a graph, and whether no activation checkpoint hides further ones."""
    ends = [node for node in nodes_behind(nodes) if node.name() in (LEAF, HIDING)]
    leaves = [getattr(node, "variable", None) for node in ends]
    weights = Weights(id(leaf) for leaf in leaves if isinstance(leaf, nn.Parameter))
    return weights, all(node.name() == LEAF for node in ends)


def _last_parameters(node: Node) -> Iterator[nn.Parameter]:
    layers = [node for node in nodes_behind([node], NETWORK) if node.name().startswith(NETWORK)]
    leaves = (_leaf(node) for layer in layers for node, _ in layer.next_functions)
    return (leaf for leaf in leaves if isinstance(leaf, nn.Parameter))


def _leaf(node: Any) -> Any:
    """Return the tensor at the end of a chain of operations with one input each, such as a conversion."""
    while node is not None and not hasattr(node, "variable"):
        earlier_nodes = [earlier_node for earlier_node, _ in node.next_functions if earlier_node is not None]
        if len(earlier_nodes) != 1 or node.name().startswith(NETWORK):
            return None
        node = earlier_nodes[0]
    return None if node is None else node.variable
