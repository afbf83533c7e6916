"""Results of a network that were stacked and separated again, such as the heads of deep supervision."""

from typing import Any

Node = Any
"""torch.autograd.graph.Node, whose attributes torch does not type."""
Edge = tuple[Node, int]
"""An operation, and the number of its result."""

_STACK = "StackBackward0"


def entry_behind(node: Node, number: int) -> Edge | None:
    """Return what was put into a stack at the place from which an operation took its result.

    It is None for other operations.

    Example:
        >>> import torch
        >>> first, second = (torch.ones(2, requires_grad=True) * factor for factor in (2, 3))
        >>> taken = torch.stack([first, second], dim=1)[:, 1]
        >>> entry_behind(taken.grad_fn, 0)[0] is second.grad_fn
        True
    """
    if node.name() not in ("UnbindBackward0", "SelectBackward0"):
        return None
    stack = node.next_functions[0][0]
    while stack is not None and takes_all(stack):
        stack = stack.next_functions[0][0]
    if stack is None or stack.name() != _STACK:
        return None
    entries = stack.next_functions
    ndim = len(stack._input_metadata[0].shape)
    if _axis(node, ndim) != _axis(stack, ndim):
        return None
    place = number if node.name() == "UnbindBackward0" else _to_signed(node._saved_index)
    edge: Edge = entries[place]
    return edge if edge[0] is not None else None


def entries_of(node: Node) -> list[Node]:
    """Return the operations whose results a stack holds; an empty list if the node is not a stack.

    Example:
        >>> import torch
        >>> values = torch.ones(2, requires_grad=True) * 2
        >>> len(entries_of(torch.stack([values, values + 1]).grad_fn)), entries_of(values.grad_fn)
        (2, [])
    """
    return [entry for entry, _ in node.next_functions] if node is not None and node.name() == _STACK else []


def takes_all(node: Node) -> bool:
    """Return whether an operation is a slice of everything: older releases of torch have two in ``x[:, :, -1]``."""
    if not node.name().startswith("Slice"):
        return False
    shape, start, stop = node._saved_self_sym_sizes, node._saved_start or 0, node._saved_end
    size = shape[_axis(node, len(shape))]
    return start == 0 and node._saved_step == 1 and (stop is None or _to_signed(stop) >= size)


def _axis(node: Node, ndim: int) -> int:
    return _to_signed(node._saved_dim) % ndim


def _to_signed(number: int) -> int:
    """Return a number that autograd keeps as an unsigned one with its sign."""
    return number - 2**64 if number >= 2**63 else number
