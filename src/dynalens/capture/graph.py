"""What autograd's graph of a loss shows: the logits that it was computed from, and the constants that it used."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynalens.capture.stacked import entry_behind, takes_all
from dynalens.observation import nodes_behind

SOFTMAX = ("SoftmaxBackward0", "LogSoftmaxBackward0", "LogsumexpBackward0")
SIGMOID = ("SigmoidBackward0", "LogSigmoidBackward0")
ACTIVATIONS = (*SOFTMAX, *SIGMOID)
"""The operations that make probabilities of logits."""

_REGRESSION = ("MseLossBackward0", "L1LossBackward0", "SmoothL1LossBackward0", "HuberLossBackward0")
"""torch's losses of numbers."""

_SAME_VALUES = {
    "ViewBackward0", "ReshapeAliasBackward0", "UnsafeViewBackward0", "SqueezeBackward0", "SqueezeBackward1",
    "SqueezeBackward2", "UnsqueezeBackward0", "ToCopyBackward0", "CloneBackward0", "AliasBackward0",
}  # fmt: skip
_PARAMETER = "torch::autograd::AccumulateGrad"
NETWORK = (
    "Addmm", "MmBackward", "Bmm", "Baddbmm", "Linear", "Convolution", "Mkldnn", "Cudnn", "Native", "Embedding",
    "Scaled", _PARAMETER, "CompiledFunction",
)  # fmt: skip
"""Operations of a network, by the beginnings of their names. A walk from a loss into the graph ends at them."""
_CHOOSES = (
    "Index", "Flip", "Gather", "Roll", "Slice", "Select", "Split", "MaskedSelect", "Sort", "Take", "Repeat", "Unbind",
)  # fmt: skip
"""Operations that select or reorder rows or entries along another axis, by the beginnings of their names."""
_QUOTIENT = (
    "DivBackward0", "ReciprocalBackward0", "MulBackward0", "AddBackward0", "RsubBackward1", "NegBackward0",
)  # fmt: skip
"""Operations that a sigmoid written by hand applies to exponentials."""
_QUOTIENT_DEPTH = 8
"""Longest chain of these that is followed. A sigmoid has 4; views and a factor may stand between them."""
LIMIT = "Clamp"
"""Beginning of the names of operations that limit values."""
_SAVED = ("_saved_index", "_saved_indices", "_saved_self", "_saved_other", "_saved_condition", "_saved_target")

Node = Any
"""torch.autograd.graph.Node, whose saved tensors torch does not type."""


class Activation(NamedTuple):
    """A softmax or sigmoid between the network and a loss."""

    logits: Tensor
    """What the probabilities were computed from, (N, K), (N, 1) or (N,); or its log-softmax, which has the same
    margins."""
    name: str
    node: Node
    negated: bool


class Limit(NamedTuple):
    """Values that a loss limits, such as probabilities before their logarithm; None: no limit."""

    values: Tensor
    low: Any
    high: Any


class LossGraph(NamedTuple):
    """The part of autograd's graph that lies between a loss and the network."""

    loss: Tensor
    activations: list[Activation]
    """The activations of different logits. Several activations of the same logits are listed once."""
    constants: list[Tensor]
    """Tensors without gradients that values were multiplied with, selected by, or compared with."""
    nodes: list[Node]
    """All activations of these logits."""
    limits: list[Limit]


def origin(logits: Tensor) -> Any:
    """Return the node or leaf that gave the values of a tensor, whatever views, reshapes and conversions came after it.

    Example:
        >>> logits = torch.ones(2, 3, requires_grad=True) * 2
        >>> origin(logits.view(-1, 3).float()) is origin(logits), origin(logits * 1) is origin(logits)
        (True, False)
    """
    node = logits.grad_fn
    return logits if node is None else _source_node(node)


def have_same_origin(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same values in the graph, apart from views, reshapes and conversions.

    Example:
        >>> logits = torch.ones(4, 3, requires_grad=True) * 2
        >>> first, second = logits.chunk(2)
        >>> have_same_origin(first.float(), first.view(-1)), have_same_origin(first, second)
        (True, False)
    """
    return a is b or source_of(a) == source_of(b)


def have_same_scores(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same origin, or that of one is the logarithm of the softmax of the other.

    Margins and probabilities are then the same.

    Example:
        >>> logits = torch.ones(2, 3, requires_grad=True) * 2
        >>> have_same_scores(logits.log_softmax(1), logits), have_same_scores(logits / 2, logits)
        (True, False)
    """
    scores = _SAME_VALUES | {"LogSoftmaxBackward0"}
    return a is b or source_of(a, scores) == source_of(b, scores)


def source_of(values: Tensor, passed_operations: Collection[str] = _SAME_VALUES) -> tuple[Any, int]:
    """Return the node that gave the values, and the number of its result that they are.

    The number is needed because all parts of a split have one node. For an entry that was taken out of a stack, it is
    the node of what was stacked there.

    Args:
        values: Of a graph.
        passed_operations: Names of operations that keep the values: what they were given is looked at instead.
    """
    node: Any = values.grad_fn
    if node is None:
        return values.data_ptr(), 0
    number = values.output_nr
    while edge := node.next_functions[0] if node.name() in passed_operations else entry_behind(node, number):
        node, number = edge
    return node, number


def share_values(a: Tensor, b: Tensor) -> bool:
    """Return whether two results of a network may share numbers of its output. Separate parts of one output do not.

    Example:
        >>> logits = torch.nn.Linear(2, 3)(torch.ones(4, 2))
        >>> first, second = logits[:2], logits[2:]
        >>> share_values(logits / 2, logits), share_values(first, second), share_values(first, logits[1:])
        (True, False, True)
    """
    return bool(_outputs(a) & _outputs(b)) and not _are_apart(a, b)


def _outputs(values: Tensor) -> set[Node]:
    """Return the operations of the network that gave the numbers which these values were computed from."""
    nodes = nodes_behind([values.grad_fn], NETWORK)
    return {node for node in nodes if node.name().startswith(NETWORK) and node.name() != _PARAMETER}


def _are_apart(a: Tensor, b: Tensor) -> bool:
    """Return whether both tensors are views of one result that have no number in common."""
    have_one_base = a._base is not None and a._base is b._base
    starts, stops = zip(*((values.data_ptr(), _end(values)) for values in (a, b)), strict=True)
    return have_one_base and a.is_contiguous() and b.is_contiguous() and max(starts) >= min(stops)


def _end(values: Tensor) -> int:
    return values.data_ptr() + values.numel() * values.element_size()


def comes_from(logits: Tensor, names: tuple[str, ...]) -> bool:
    """Return whether an operation of these names gave the values, or gave the values that they were selected from.

    Example:
        >>> logits = torch.ones(2, 3, requires_grad=True)
        >>> comes_from(logits.sigmoid()[:, 0], SIGMOID), comes_from(logits.sigmoid() * 2, SIGMOID)
        (True, False)
    """
    node = origin(logits)
    while not isinstance(node, Tensor) and node.name().startswith(_CHOOSES):
        node = _source_node(node.next_functions[0][0])
    return not isinstance(node, Tensor) and node.name() in names


def is_behind(values: Tensor, names: tuple[str, ...]) -> bool:
    """Return whether an operation of one of these names lies between a tensor and the network.

    Example:
        >>> logits = torch.ones(2, 3, requires_grad=True)
        >>> is_behind(2 * logits.softmax(1), SOFTMAX), is_behind(2 * logits, SOFTMAX)
        (True, False)
    """
    return any(node.name() in names for node in nodes_behind([values.grad_fn], NETWORK))


def divides_exponentials(logits: Tensor) -> bool:
    """Return whether each value is a quotient with an exponential in it, as a sigmoid that is written by hand computes.

    Example:
        >>> logits = torch.ones(2, 3, requires_grad=True)
        >>> divides_exponentials(1 / (1 + torch.exp(-logits))), divides_exponentials(logits.sum().exp() * logits)
        (True, False)
    """
    queue, divides = [(origin(logits), _QUOTIENT_DEPTH)], False
    while queue:
        node, depth = queue.pop()
        if node is None or isinstance(node, Tensor) or not depth:
            continue
        if node.name() == "ExpBackward0":
            if divides and math.prod(node._input_metadata[0].shape) >= logits.numel():
                return True
        elif node.name() in _QUOTIENT or node.name() in _SAME_VALUES:
            divides |= node.name() in ("DivBackward0", "ReciprocalBackward0")
            queue += [(earlier_node, depth - 1) for earlier_node, _ in node.next_functions]
    return False


def _source_node(node: Node) -> Any:
    while node.name() in _SAME_VALUES:
        node = node.next_functions[0][0]
    return getattr(node, "variable", node)


def look_behind(loss: Tensor, inputs: Mapping[Node, Tensor]) -> LossGraph:
    """Walk from a loss back to the network, and return the activations and constants on the way.

    Args:
        loss: Before its backward pass.
        inputs: Inputs of activations, as far as they were seen when they were computed. Others follow from what
            autograd has saved.
    """
    activations: dict[Any, Activation] = {}
    others: list[Node] = []
    nodes: list[Node] = []
    limits: list[Limit] = []
    for node in _nodes_of_loss(loss):
        if node.name() not in ACTIVATIONS:
            limits += [_limit(node)] if node.name().startswith(LIMIT) else []
            others.append(node)
            continue
        logits = inputs.get(node)
        logits = _logits_of(node) if logits is None else logits
        if logits is not None and logits.ndim <= 2 and _over_classes(node, logits):
            nodes.append(node)
            source, is_negated = _source_and_sign(node)
            if not is_negated or source not in activations:
                activations[source] = Activation(
                    (-logits if is_negated else logits).detach(), node.name(), node, is_negated
                )
    of_one_row = all(activation.logits.numel() == 1 for activation in activations.values())
    constants = [constant for node in others for constant in _constants(node)]
    if of_one_row and not constants:  # a batch of one that was squeezed
        constants = [constant for node in others for constant in _constants(node, may_be_number=True)]
    return LossGraph(loss, list(activations.values()), constants, nodes, limits)


def is_of_numbers(loss: Tensor) -> bool:
    """Return whether a loss compares one number per sample with its target, and computes no probabilities.

    Example:
        >>> z = torch.ones(2, requires_grad=True)
        >>> is_of_numbers(torch.nn.functional.mse_loss(z, torch.zeros(2)))
        True
        >>> is_of_numbers(torch.nn.functional.mse_loss(z.sigmoid(), torch.zeros(2)))
        False
    """
    nodes = list(_nodes_of_loss(loss))
    targets = [node._saved_target for node in nodes if node.name() in _REGRESSION]
    one_each = any(target.shape[1:] in ((), (1,)) for target in targets)
    return one_each and not any(node.name() in ACTIVATIONS for node in nodes)


def tells_outputs(loss: Tensor) -> bool:
    """Return whether a loss has a softmax or sigmoid of outputs, or compares them with numbers by a loss of torch.

    Losses of embeddings, which compare outputs with each other, do not.

    Example:
        >>> z = torch.ones(2, 3, requires_grad=True)
        >>> tells_outputs(z.softmax(1).log().mean()), tells_outputs(torch.cdist(z, z).mean())
        (True, False)
    """
    return any(node.name() in (*ACTIVATIONS, *_REGRESSION) for node in _nodes_of_loss(loss))


def chooses_rows(nodes: Iterable[Node]) -> bool:
    """Return whether rows were selected or reordered between the network and these operations.

    Example:
        >>> logits = torch.nn.Linear(2, 3)(torch.ones(4, 2))
        >>> [chooses_rows([rows.grad_fn]) for rows in (logits.flip(0), logits[1:], logits[:-1])]
        [True, True, True]
        >>> chooses_rows([logits[:, 1:].grad_fn]), chooses_rows([logits[:4].grad_fn])
        (False, False)
    """
    return any(_chooses(node) for node in nodes_behind(nodes, NETWORK) if not node.name().startswith(NETWORK))


def joins_rows(nodes: Iterable[Node]) -> bool:
    """Return whether rows of several outputs of the network were put one after another before these operations.

    Example:
        >>> parts = torch.nn.Linear(2, 3)(torch.ones(4, 2)), torch.nn.Linear(2, 3)(torch.ones(4, 2))
        >>> joins_rows([torch.cat(parts).grad_fn]), joins_rows([torch.stack(parts, dim=1).flatten(0, 1).grad_fn])
        (True, False)
    """
    joins = (node for node in nodes_behind(nodes, NETWORK) if node.name() == "CatBackward0")
    return any(getattr(node, "_saved_dim", 0) == 0 for node in joins)


def _chooses(node: Node) -> bool:
    axes = getattr(node, "_saved_dims", getattr(node, "_saved_dim", 0))
    is_of_rows = node.name().startswith(_CHOOSES) and 0 in (axes if isinstance(axes, tuple) else (axes,))
    return is_of_rows and not takes_all(node)


def pull(loss: Tensor, activation: Activation) -> Tensor:
    """Return the gradient of the loss for the input of the activation. No other gradient is changed."""
    edge = torch.autograd.graph.GradientEdge(*activation.node.next_functions[0])
    gradient: Tensor = torch.autograd.grad(loss, [edge], torch.ones_like(loss), retain_graph=True)[0]
    return -gradient.detach() if activation.negated else gradient.detach()


def _nodes_of_loss(loss: Tensor) -> Iterator[Node]:
    nodes = nodes_behind([loss.grad_fn], (*NETWORK, *ACTIVATIONS))
    return (node for node in nodes if not node.name().startswith(NETWORK))


def _source_and_sign(node: Node) -> tuple[Any, bool]:
    """Return where an activation's logits come from, and whether a sigmoid got them with the opposite sign.

    sigmoid(-z) is 1 - sigmoid(z), the probability of the other class.
    """
    source = _source_node(node.next_functions[0][0])
    if node.name() not in SIGMOID or isinstance(source, Tensor) or source.name() != "NegBackward0":
        return source, False
    return _source_node(source.next_functions[0][0]), True


def _logits_of(node: Node) -> Tensor | None:
    name = node.name()
    if name in ("LogsumexpBackward0", "LogSigmoidBackward0"):
        logits: Tensor = node._saved_self
        return logits
    result: Tensor = node._saved_result.detach()
    if name == "LogSoftmaxBackward0":
        return result
    tiny = torch.finfo(result.dtype).tiny
    return result.clamp(min=tiny).log() if name == "SoftmaxBackward0" else torch.logit(result.float(), 2**-24)


def _over_classes(node: Node, logits: Tensor) -> bool:
    """Return whether a softmax normalises over the last axis of (N, K).

    A sigmoid normalises over no axis and counts, too.
    """
    if node.name() in SIGMOID:
        return True
    dims = node._saved_dim if isinstance(node._saved_dim, tuple) else (node._saved_dim,)
    return logits.ndim == 2 and dims in ((1,), (2**64 - 1,))  # -1, as autograd keeps it


def _limit(node: Node) -> Limit:
    return Limit(node._saved_self.detach(), getattr(node, "_saved_min", None), getattr(node, "_saved_max", None))


def _constants(node: Node, *, may_be_number: bool = False) -> Iterator[Tensor]:
    for name in _SAVED:
        constant = getattr(node, name, None)
        if name == "_saved_indices":  # of logits[rows, classes]; a tensor is that of a sort, or of the largest values
            indices = constant if isinstance(constant, tuple) else ()
            constant = next((index for index in reversed(indices) if index is not None), None)
        # A number is a factor of the whole loss, except where a batch of one was squeezed.
        has_rows = name == "_saved_target" or may_be_number or getattr(constant, "ndim", 0) > 0
        if isinstance(constant, Tensor) and has_rows and not constant.requires_grad:
            yield constant.detach()
