"""Which entries of unreduced losses a step leaves out: of padding, say, whose losses it multiplies by 0."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from dynalens.capture.graph import NETWORK, Node

_LINEAR = (
    "Add", "Alias", "AsStrided", "Cat", "Clone", "Copy", "Div", "Expand", "Index", "Masked", "Mean", "Mul", "Nansum",
    "Neg", "Permute", "Reshape", "Select", "Slice", "Split", "Squeeze", "Stack", "Sub", "Sum", "TBackward", "ToCopy",
    "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View", "Where", "torch::autograd::CopySlices",
)  # fmt: skip
"""How the operations begin of which gradients are the weights that entries have in a loss."""
_BY_VALUE = (
    "Amax", "Amin", "Clamp", "Gather", "Kthvalue", "Max", "Median", "Min", "Relu", "Sort", "Threshold", "Topk",
)  # fmt: skip
"""How those begin that leave out entries by their own values, as mining of hard ones does: these are counted."""

_PRODUCT = "product"
_CERTAIN = torch.finfo(torch.float32).eps
"""Loss in nats below which the probability of the label may be 1 in float32, so that a focal factor is 0."""


class UnreducedLoss:
    """The losses of single entries that ``reduction="none"`` gives, and which of them are trained on.

    An entry whose gradient is 0 is left out: masked, not picked, or filled with a number. Where a focal factor stands
    between, an entry that is certain and right has the gradient 0 as well; it counts.

    Args:
        losses: What the function returned.
    """

    def __init__(self, losses: Tensor) -> None:
        self._losses = losses
        self._gradient: Tensor | None = None
        self._by_value = self._is_linear = False

    def listen(self) -> None:
        """Keep the gradient that the backward pass brings."""
        self._losses.register_hook(self._keep)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _keep(self, gradient: Tensor) -> None:
        self._gradient = gradient.detach()

    def look(self, loss: Tensor) -> None:
        """Look at what lies between the entries and the loss, before its backward pass."""
        names = _names_between(loss, self._losses)
        self._by_value = any(name.startswith(_BY_VALUE) for name in names)
        self._is_linear = all(name.startswith(_LINEAR) for name in names)

    def is_counted(self) -> Tensor | None:
        """Return which entries the step trained on, bool, in the shape of the losses; None: all. Does not wait."""
        if self._gradient is None or self._by_value:
            return None
        is_counted = self._gradient != 0
        return is_counted if self._is_linear else is_counted | (self._losses.detach() < _CERTAIN)


def _names_between(loss: Tensor, losses: Tensor) -> set[str]:
    """Return the names of the operations on all ways from losses to the loss; a product of two results is its own."""
    start, users = losses.grad_fn, defaultdict[Node, list[Node]](list)
    queue, known_nodes = [loss.grad_fn], set()
    while queue:
        node: Any = queue.pop()
        if node is None or node is start or node in known_nodes or node.name().startswith(NETWORK):
            continue
        known_nodes.add(node)
        for part, _ in node.next_functions:
            users[part].append(node)
            queue.append(part)
    queue, on_way = [start], set()
    while queue:
        further = [user for user in users[queue.pop()] if user not in on_way]
        on_way.update(further)
        queue += further
    return {_PRODUCT if _is_product(node) else node.name() for node in on_way}


def _is_product(node: Node) -> bool:
    return node.name().startswith(("Mul", "Div")) and all(part is not None for part, _ in node.next_functions)
