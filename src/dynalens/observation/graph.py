"""Walk through autograd's graph."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch.autograd.graph import Node

Edge = tuple[Any, int]
"""An operation in autograd's graph, and the number of one of its results."""


def nodes_behind(
    nodes: Iterable[Node | None], end_names: tuple[str, ...] = (), *, ends: Collection[Node] = ()
) -> Iterator[Node]:
    """Yield these nodes and all that they were computed from, each once, the nearest first.

    Args:
        nodes: Operations, or None, as ``grad_fn`` is of what autograd does not follow.
        end_names: Beginnings of the names of nodes at which the walk ends. These nodes are yielded, too.
        ends: Nodes at which it ends as well.

    Example:
        >>> import torch
        >>> value = torch.ones(2, requires_grad=True).exp().sum()
        >>> [node.name() for node in nodes_behind([value.grad_fn], end_names=("Exp",))]
        ['SumBackward0', 'ExpBackward0']
    """
    queue, known_nodes = deque(nodes), set[Node]()
    while queue:
        node = queue.popleft()
        if node is None or node in known_nodes:
            continue
        known_nodes.add(node)
        yield node
        if node not in ends and not node.name().startswith(end_names):
            queue.extend(earlier_node for earlier_node, _ in node.next_functions)


def results_behind(start_edges: Iterable[Edge], results: Collection[Edge], *, walks_through: bool = False) -> set[Edge]:
    """Return which of some results are among these edges, or lie behind them.

    With ``walks_through``, also those behind the results that are met.
    """
    queue, known_edges = list(start_edges), set[Edge]()
    while queue:
        edge = queue.pop()
        if edge[0] is None or edge in known_edges:
            continue
        known_edges.add(edge)
        if walks_through or edge not in results:
            queue += edge[0].next_functions
    return known_edges.intersection(results)
