"""Rows that a loss which a user wrote leaves out, for instance by multiplying padding with 0."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.capture.graph import LIMIT, LossGraph
from dynalens.capture.unreduced import BY_VALUE, CERTAIN, LINEAR, operations_between

_OF_LABEL = ("Log", "Exp", "Gather")
"""Operations on the label's own entry, by the beginnings of their names. Their gradient is never 0."""
_BY_VALUE = tuple(name for name in BY_VALUE if name not in (*_OF_LABEL, LIMIT))


class MaskedRows:
    """Which rows a loss was trained on, by the gradients that its backward pass brings to softmax or sigmoid.

    A row without a gradient is left out, with two exceptions. If the loss leaves out rows by their values, as mining of
    hard examples does, all count. A row also counts if its label's value is beyond a limit, or if a factor of the loss
    depends on the prediction and the label's probability is certain: then the gradient is 0 as well.

    Args:
        graph: Of the loss, before its backward pass.
    """

    def __init__(self, graph: LossGraph) -> None:
        self._graph = graph
        self._gradients: list[Tensor] = []
        self._handles = [node.register_prehook(self._keep) for node in graph.nodes]

    def _keep(self, gradients: Sequence[Tensor | None]) -> None:
        self._gradients += [gradient.detach() for gradient in gradients if gradient is not None]

    def close(self) -> None:
        """Listen no longer."""
        for handle in self._handles:
            handle.remove()

    def is_counted(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Return which targets the step trained on, bool, in the shape of the targets; None if all. Does not wait.

        Args:
            logits: Shape ``(N, K)``, ``(N, 1)`` or ``(N,)``.
            targets: Classes ``(N,)``, or zeros and ones ``(N, K)``.
        """
        if not self._gradients or not targets.numel():
            return None
        per_target = logits.numel() // targets.numel()
        if targets.device.type == "cpu" and _all_have_gradients(self._gradients[0], targets, per_target):
            return None  # in nearly all steps; a device would have to be waited for
        names = operations_between(self._graph.loss, self._graph.nodes)
        by_value = any(name.startswith(_BY_VALUE) for name in names)
        each = [*self._gradients, *(limit.values for limit in self._graph.limits)]
        if by_value or any(values.numel() % targets.numel() for values in each):
            return None
        is_counted = [_of_each(gradient, targets).any(dim=-1) for gradient in self._gradients]
        for values, low, high in self._graph.limits:
            of_label = _of_label(values, targets, per_target)
            is_counted += [] if low is None else [(of_label <= low).any(dim=-1)]
            is_counted += [] if high is None else [(of_label >= high).any(dim=-1)]
        is_linear = all(name.startswith((*LINEAR, *_OF_LABEL, LIMIT)) for name in names)
        is_counted += [] if is_linear else [_loss(logits, targets, per_target) < CERTAIN]
        return torch.stack(is_counted).any(dim=0)


def _all_have_gradients(gradient: Tensor, targets: Tensor, per_target: int) -> bool:
    """Return whether the label's own gradient, which is looked up fastest, is 0 nowhere."""
    is_whole = gradient.numel() % targets.numel() == 0
    return is_whole and bool((_of_label(gradient, targets, per_target)[..., 0] != 0).all())


def _of_each(values: Tensor, targets: Tensor) -> Tensor:
    return values.reshape(*targets.shape, -1)


def _of_label(values: Tensor, targets: Tensor, per_target: int) -> Tensor:
    """Return the values for each target: that of the label's class if there is one for each class."""
    values = _of_each(values, targets)
    if values.shape[-1] != per_target or per_target == 1:
        return values
    return values.gather(-1, targets.clamp(0, per_target - 1).unsqueeze(-1))


def _loss(logits: Tensor, targets: Tensor, per_target: int) -> Tensor:
    """Return the negative logarithm of the probability of each target."""
    if per_target > 1:
        return F.cross_entropy(logits.float(), targets.clamp(0, per_target - 1), reduction="none")
    return F.softplus((1 - 2 * targets) * logits.float().reshape(targets.shape))
