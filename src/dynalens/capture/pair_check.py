"""Check that returned logits and targets, or the output of a named layer, are paired as the loss paired them."""

from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.capture.batch import CaptureError
from dynalens.capture.graph import NETWORK, SOFTMAX, Node, look_behind
from dynalens.capture.merging import RowsOf
from dynalens.capture.presentation import Presentation
from dynalens.capture.row_order import OrderCheck
from dynalens.capture.soft import tolerance_of

_COMPARED_STEPS = 3
"""Number of steps that are checked: as many as those in which targets are compared with labels."""
_LARGEST = 2**24
"""Most numbers that are compared to find rows of logits among others. This takes a tenth of a second on one core."""
_ROUNDING = 1e-5
"""Largest relative difference between a float32 mean of losses and the same mean in another order."""
_ORDER = (
    "Expected each row of logits to come with the target that the loss compared it with, got the targets in "
    "another order. Let `capture`, or what `training_step` returns, give `logits` and `targets` in the order of "
    "the batch, as in `logits[order.argsort()]`."
)
_COMPILED = (
    "Expected the loss of a compiled step to be the mean cross-entropy of the layer's output and the labels of "
    "the batch, got {:.6g} where that mean is {:.6g}. Nothing else shows that the rows of a compiled step are "
    "in the order of the batch. Return a dict of `loss`, and `logits` and `targets` in the order of the batch, "
    "and leave `capture` out."
)


class _Compared(NamedTuple):
    """What a loss compared: log-probabilities (M, K) and classes (M,)."""

    log_p: Tensor
    targets: Tensor


class ClaimedPairs:
    """Compare logits and targets of the first steps with those in the graph of their loss.

    If the graph shows none, or several, nothing is checked. Targets that a step changes are no error, because the
    samples' own labels should be returned beside them. The same targets in another order are an error.
    """

    def __init__(self) -> None:
        self._comparisons_left, self._order = _COMPARED_STEPS, OrderCheck()
        self._comparison: _Compared | None = None
        self._compiled_loss: Tensor | None = None

    def start(self) -> None:
        """A step begins."""
        self._comparison = self._compiled_loss = None

    def before_backward(self, loss: Tensor) -> None:
        """Look at a loss of the step before its backward pass."""
        if self._comparisons_left and self._comparison is None and self._compiled_loss is None:
            # A trace of the step follows the step alone. Autograd may have freed what it saved.
            with torch._C.DisableTorchFunction(), suppress(RuntimeError):
                self._comparison = _comparison_of(loss)
                is_hidden = self._comparison is None and loss.numel() == 1 and _is_compiled(loss)
                self._compiled_loss = loss.detach() if is_hidden else None

    def check(self, presentation: Presentation, rows_of: RowsOf, *, accumulates: int = 1) -> None:
        """Compare what was captured with the graph. Waits for the device, in the first steps.

        Args:
            presentation: What was captured.
            rows_of: Tells which rows of the batch some targets are; None where these are all rows, or not known.
            accumulates: Number of batches whose losses Lightning averages.

        Raises:
            CaptureError: If rows and targets are paired otherwise.
        """
        comparison, loss = self._comparison, self._compiled_loss
        if not self._comparisons_left or presentation.units is not None or not len(presentation.targets):
            return
        self._comparisons_left -= 1
        if comparison is not None:
            with torch._C.DisableTorchFunction():
                self._check_compared(comparison, presentation, rows_of)
        elif loss is not None and presentation.of_layer:
            _check_mean(loss, presentation, accumulates)

    def _check_compared(self, comparison: _Compared, presentation: Presentation, rows_of: RowsOf) -> None:
        places = _places(presentation.logits, comparison.log_p)
        if places is None:
            return
        rows = None if presentation.of_layer else rows_of(comparison.targets)  # a layer's inputs tell it
        is_own = rows_of(presentation.step_targets) is None and len(places) == len(comparison.targets)
        if rows is not None and is_own and not torch.equal(rows[places].cpu(), torch.arange(len(places))):
            raise CaptureError(_ORDER)
        in_order = torch.equal(places.cpu(), torch.arange(len(places)))
        if not in_order and _is_same_vector(comparison.targets, presentation.step_targets):
            raise CaptureError(_ORDER)
        pairs = zip(comparison.targets[places].tolist(), presentation.targets.tolist(), strict=True)
        counted_pairs = [(of_loss, target) for of_loss, target in pairs if of_loss >= 0 and target >= 0]
        if self._order.refutes([of_loss for of_loss, _ in counted_pairs], [target for _, target in counted_pairs]):
            raise CaptureError(_ORDER)


def _comparison_of(loss: Tensor) -> _Compared | None:
    graph = look_behind(loss, {})
    if len(graph.activations) != 1 or graph.activations[0].name not in SOFTMAX:
        return None
    logits = graph.activations[0].logits
    n = len(logits)
    vectors = [vector for vector in graph.constants if vector.dtype is torch.int64 and vector.shape in ((n,), (n, 1))]
    vector_by_address = {vector.data_ptr(): vector for vector in vectors}
    if len(vector_by_address) != 1:
        return None
    return _Compared(logits.detach().float().log_softmax(dim=1), vectors[0].flatten())


def _is_same_vector(a: Tensor, b: Tensor) -> bool:
    """Return whether the loss was given the captured targets themselves. Then its rows are their rows."""
    return a.numel() == b.numel() and a.dtype == b.dtype and a.data_ptr() == b.data_ptr()


def _is_compiled(loss: Tensor) -> bool:
    """Return whether compiled code computed a loss, apart from factors that Lightning multiplied it with."""
    node: Node = loss.grad_fn
    while node is not None and not node.name().startswith(NETWORK):
        node = next((earlier_node for earlier_node, _ in node.next_functions if earlier_node is not None), None)
    return node is not None and node.name().startswith("CompiledFunction")


def _places(logits: Tensor, log_p: Tensor) -> Tensor | None:
    """Return for each row of logits which row of the loss it is; None if that is not clear."""
    if logits.ndim != 2 or log_p.shape[1] != logits.shape[1]:
        return None
    rows, tolerance = logits.detach().float().log_softmax(dim=1), max(_ROUNDING, tolerance_of(logits))
    if rows.shape == log_p.shape and torch.allclose(rows, log_p, atol=tolerance):
        return torch.arange(len(rows), device=rows.device)
    if rows.numel() * len(log_p) > _LARGEST:
        return None
    is_near = torch.cdist(rows, log_p, p=torch.inf) < tolerance
    return is_near.int().argmax(dim=1) if bool((is_near.sum(dim=1) == 1).all()) else None


def _check_mean(loss: Tensor, presentation: Presentation, accumulates: int) -> None:
    logits, targets = presentation.logits.float(), presentation.targets
    losses = F.cross_entropy(logits, targets.clamp(min=-1), ignore_index=-1, reduction="none")
    total, mean = float(losses.sum()), float(losses.sum() / (targets >= 0).sum())
    relative_error = _ROUNDING if presentation.logits.dtype in (torch.float32, torch.float64) else tolerance_of(logits)
    values = [float(loss) * factor for factor in {1, accumulates}]
    if not any(
        abs(value - reference) <= relative_error * abs(reference) for value in values for reference in (mean, total)
    ):
        raise CaptureError(_COMPILED.format(values[0], mean))
