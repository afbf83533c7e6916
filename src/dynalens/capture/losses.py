"""The losses of a step, and which of them it trains on: told by where their gradients go."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynalens.capture.graph import Node, have_same_origin
from dynalens.capture.loss_tap import LossCall
from dynalens.observation import nodes_behind

_LEAF = "torch::autograd::AccumulateGrad"
_HIDING = "CheckpointFunctionBackward"
"""The operation of torch that has parameters behind it which are not in the graph; only a whole pass can go there."""


class Reach(NamedTuple):
    """Where a backward pass goes."""

    parameters: bool = False
    """To parameters of a model."""
    inputs: bool = False
    """To inputs, as an attack on them does."""
    is_returned: bool = False
    """The gradients of parameters are returned, as ``torch.autograd.grad`` does, and not kept in them."""

    @property
    def ends_step(self) -> bool:
        """Whether nothing but the training on this loss can be meant by it."""
        return self.parameters and not self.inputs and not self.is_returned


_NOWHERE = Reach()


def reach(values: Tensor, *, fully: bool, running: bool = False) -> Reach:
    """Return where a backward pass through a tensor goes.

    Args:
        values: A loss, or logits.
        fully: Whether inputs are looked for too when a parameter was met; it takes a walk through the whole graph.
        running: Whether the pass is under way: then what it does not compute is left out.
    """
    parameters = inputs = is_returned = False
    for node in _end_nodes(values):
        goes = _goes_to(node) if running else "kept"
        is_parameter = node.name() == _HIDING or isinstance(node.variable, nn.Parameter)
        parameters |= is_parameter and bool(goes)
        inputs |= not is_parameter and bool(goes)
        is_returned |= is_parameter and goes == "returned"
        if parameters and not fully:
            break
    return Reach(parameters, inputs, is_returned)


def in_backward() -> bool:
    """Return whether a backward pass is under way in this thread, which may compute forward passes again."""
    return bool(torch._C._current_graph_task_id() != -1)


def leads_to(loss: Tensor, calls: Sequence[LossCall]) -> list[LossCall]:
    """Return those calls whose logits a loss was computed from."""
    # With the number of the result: all parts of a split have one node.
    logits = {(call.logits.grad_fn, call.logits.output_nr) for call in calls}
    known_edges, queue = set(), [(loss.grad_fn, loss.output_nr)]
    while queue:
        edge = queue.pop()
        if edge[0] is not None and edge not in known_edges:
            known_edges.add(edge)
            queue += edge[0].next_functions if edge not in logits else []
    return [
        call for call in calls if (call.logits.grad_fn, call.logits.output_nr) in known_edges or call.logits.is_leaf
    ]


def different(calls: Sequence[LossCall]) -> list[LossCall]:
    """Return those that differ in their logits or targets, of equal ones the last."""
    return list({(id(call.logits), id(call.targets)): call for call in calls}.values())


def calls_in_words(calls: Sequence[LossCall]) -> str:
    """Return how many calls there are and what each was given, as text."""
    if not calls:
        return "none"
    shapes = [f"{call.name} of {list(call.logits.shape)} and {list(call.targets.shape)}" for call in calls]
    return f"{len(calls)}: " + "; ".join(shapes)


class StepLosses:
    """The classification losses that a step computes, and which of them it trains on.

    Where Lightning begins the backward pass, these are the losses that it begins from. Where the step does it by hand,
    these are the ones with a gradient for parameters: a gradient for inputs alone, as of an attack on them, is none.
    What comes after the first pass that trains is kept apart: a second look at the same rows, or further rows.

    Attributes:
        calls: All that were seen with gradients.
    """

    def __init__(self) -> None:
        self.start(None)

    def start(self, automatic: bool | None, *, fully: bool = True) -> None:
        """A step begins; Lightning begins its backward pass if ``automatic``. ``fully``: see :func:`reach`."""
        self._automatic, self._fully = automatic, fully
        self.calls: list[LossCall] = []
        self._reached: list[Reach] = []
        self._are_logged = False  # whether those seen so far were computed without gradients
        self._first_pass: int | None = None

    def add(self, call: LossCall) -> None:
        """Note a loss; a teacher's or a logged one, computed without gradients, is not what is trained on.

        One whose logits alone have gradients is noted until another is: a checkpoint may compute it once more.
        """
        if not call.logits.requires_grad or in_backward():
            return
        is_logged = not torch.is_grad_enabled()
        if self.calls and is_logged and not self._are_logged:
            return
        if self._are_logged and not is_logged:
            self.calls, self._reached = [], []
        self._are_logged = is_logged
        if self._automatic is False:
            # A backward pass that the step begins by itself has no other sign.
            on_gradient = functools.partial(self._on_gradient, call, len(self.calls))
            call.logits.register_hook(on_gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if call.entries is not None:
            call.entries.listen()
        self.calls.append(call)
        self._reached.append(_NOWHERE)

    def _on_gradient(self, call: LossCall, number: int, _gradient: Tensor) -> None:
        if number >= len(self.calls) or self.calls[number] is not call:
            return  # of an earlier step
        reach_of_call = reach(call.logits, fully=self._fully, running=True)
        self._reached[number] = Reach(*map(max, self._reached[number], reach_of_call))
        if reach_of_call.ends_step and self._first_pass is None:
            self._first_pass = len(self.calls)

    def begin_backward(self, loss: Tensor | None) -> None:
        """Lightning begins the backward pass from this loss: others are not trained on."""
        for call in self.calls:
            if loss is not None and call.entries is not None:
                call.entries.look(loss)
        if loss is None or len(self.calls) < 2:
            return
        first_call, *other_calls = self.calls
        if not all(have_same_origin(call.logits, first_call.logits) for call in other_calls):
            self.calls = leads_to(loss, self.calls) or self.calls

    @property
    def trained_calls(self) -> list[LossCall]:
        """Those that are trained on, until the first pass that does nothing else; those seen if no gradient was."""
        return self._with_gradient(slice(self._first_pass)) or self.calls

    @property
    def later_calls(self) -> list[LossCall]:
        """Those that are trained on after it."""
        return self._with_gradient(slice(self._first_pass, None)) if self._first_pass is not None else []

    @property
    def have_gradients(self) -> bool:
        """Whether a gradient for parameters was computed, or any where there are none."""
        return any(any(reach_of_call) for reach_of_call in self._reached)

    def _with_gradient(self, part: slice) -> list[LossCall]:
        reaches = list(zip(self.calls, self._reached, strict=False))[part]
        return [call for call, reach_of_call in reaches if reach_of_call.parameters] or [
            call for call, reach_of_call in reaches if reach_of_call.inputs
        ]


def _end_nodes(values: Tensor) -> Iterator[Node]:
    nodes = nodes_behind([torch.autograd.graph.get_gradient_edge(values).node])
    return (node for node in nodes if node.name() in (_LEAF, _HIDING))


def _goes_to(node: Node) -> str:
    try:
        return "kept" if torch._C._will_engine_execute_node(node) else ""
    except RuntimeError:  # of leaves whose gradients `torch.autograd.grad` returns, torch does not answer
        return "returned"
