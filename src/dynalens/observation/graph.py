"""Autograd's graph of what was computed."""

from collections import deque
from collections.abc import Iterable, Iterator

from torch.autograd.graph import Node


def nodes_behind(nodes: Iterable[Node | None], end_names: tuple[str, ...] = ()) -> Iterator[Node]:
    """Yield these operations and all that they were computed from, each once, the nearest first.

    Args:
        nodes: Operations, or None, as ``grad_fn`` is of what autograd does not follow.
        end_names: How the names of operations begin behind which nothing is looked at. They are yielded themselves.

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
        if not node.name().startswith(end_names):
            queue.extend(earlier_node for earlier_node, _ in node.next_functions)
