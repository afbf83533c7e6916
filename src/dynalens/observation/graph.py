"""Walk through autograd's graph."""

from collections import deque
from collections.abc import Iterable, Iterator

from torch.autograd.graph import Node


def nodes_behind(nodes: Iterable[Node | None], end_names: tuple[str, ...] = ()) -> Iterator[Node]:
    """Yield these nodes and all that they were computed from, each once, the nearest first.

    Args:
        nodes: Operations, or None, as ``grad_fn`` is of what autograd does not follow.
        end_names: Beginnings of the names of nodes at which the walk ends. These nodes are yielded, too.

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
