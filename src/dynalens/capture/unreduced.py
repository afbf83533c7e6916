"""Losses with ``reduction="none"``: which entries a step leaves out, for instance by multiplying padding with 0."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from dynalens.capture.graph import NETWORK, Node
from dynalens.observation import nodes_behind

LINEAR = (
    "Add", "Alias", "AsStrided", "Cat", "Clone", "Copy", "Div", "Expand", "Index", "Masked", "Mean", "Mul", "Nansum",
    "Neg", "Permute", "Reshape", "Select", "Slice", "Split", "Squeeze", "Stack", "Sub", "Sum", "TBackward", "ToCopy",
    "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View", "Where", "torch::autograd::CopySlices",
)  # fmt: skip
"""Linear operations, by the beginnings of their names. Behind them, gradients are the weights of the entries in the
loss."""
BY_VALUE = (
    "Amax", "Amin", "Clamp", "Gather", "Kthvalue", "Max", "Median", "Min", "Relu", "Sort", "Threshold", "Topk",
)  # fmt: skip
"""Operations that leave out entries by their values, as mining of hard examples does. Such entries count."""

_PRODUCT = "product"
CERTAIN = torch.finfo(torch.float32).eps
"""A loss, in nats, below which the label's probability may be 1 in float32. A focal factor is then 0."""


class UnreducedLoss:
    """The loss of each entry that ``reduction="none"`` gives, and which of the entries are trained on.

    An entry with gradient 0 is left out: it is masked, not selected, or overwritten. With a focal factor, entries that
    are certainly right have gradient 0 as well, and count.

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
        names = operations_between(loss, [self._losses.grad_fn])
        self._by_value = any(name.startswith(BY_VALUE) for name in names)
        self._is_linear = all(name.startswith(LINEAR) for name in names)

    def is_counted(self) -> Tensor | None:
        """Return which entries the step trained on, bool, in the shape of the losses; None if all. Does not wait."""
        if self._gradient is None or self._by_value:
            return None
        is_counted = self._gradient != 0
        return is_counted if self._is_linear else is_counted | (self._losses.detach() < CERTAIN)


def operations_between(loss: Tensor, starts: Sequence[Node]) -> set[str]:
    """Return the names of the operations on all paths between some operations and the loss.

    A product of two results has a name of its own.
    """
    users = defaultdict[Node, list[Node]](list)
    for node in nodes_behind([loss.grad_fn], NETWORK, ends=starts):
        if node not in starts and not node.name().startswith(NETWORK):
            for part, _ in node.next_functions:
                users[part].append(node)
    queue, on_way = list(starts), set[Node]()
    while queue:
        further = [user for user in users[queue.pop()] if user not in on_way]
        on_way.update(further)
        queue += further
    return {_PRODUCT if _is_product(node) else node.name() for node in on_way}


def _is_product(node: Node) -> bool:
    return node.name().startswith(("Mul", "Div")) and all(part is not None for part, _ in node.next_functions)
