"""Which parameters a tensor was computed with: those of its last layer, and those of all layers."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.capture.graph import NETWORK, Node, source_of
from dynalens.observation import nodes_behind

LEAF = "torch::autograd::AccumulateGrad"
Weights = frozenset[int]
"""A set of parameters, by their ``id``."""


def weights_before(logits: Tensor) -> Weights:
    """Return the parameters of the last layer that computed the logits.

    Example:
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
        >>> body, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> x = torch.ones(1, 2)
        >>> are_of_one_network([head(body(x)), head(body(2 * x))]), are_of_one_network([head(body(x)), head(x)])
        (True, False)
    """
    return len({_all_weights(tensor) for tensor in tensors}) == 1


def _all_weights(values: Tensor) -> Weights:
    nodes: Iterator[Any] = nodes_behind([torch.autograd.graph.get_gradient_edge(values).node])
    leaves = (node.variable for node in nodes if node.name() == LEAF)
    return Weights(id(leaf) for leaf in leaves if isinstance(leaf, nn.Parameter))


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
