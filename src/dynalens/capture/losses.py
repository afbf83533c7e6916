"""The losses of a step, and which of them it trains on: those whose gradients reach parameters."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynalens.capture.graph import Node, have_same_origin
from dynalens.capture.loss_tap import LossCall, in_transform
from dynalens.capture.parameters import HIDING, LEAF, updates_before, weights_before
from dynalens.observation import nodes_behind, results_behind

_MOST_KINDS = 3
"""Of how many kinds of losses or operations an error speaks: more say no more."""


class Reach(NamedTuple):
    """What a backward pass computes gradients of."""

    parameters: bool = False
    """Parameters of a model."""
    inputs: bool = False
    """Inputs, as an adversarial attack does."""
    is_returned: bool = False
    """Whether gradients of parameters are returned, as by ``torch.autograd.grad``, and not added to ``.grad``."""

    @property
    def ends_step(self) -> bool:
        """Whether such a backward pass can only be the training on this loss."""
        return self.parameters and not self.inputs and not self.is_returned


_NOWHERE = Reach()


def reach(values: Tensor, *, fully: bool, running: bool = False) -> Reach:
    """Return what a backward pass through a tensor computes gradients of.

    Args:
        values: A loss, or logits.
        fully: Whether to look for inputs, too, after a parameter was found. This takes a walk through the whole graph.
        running: Whether the backward pass is running now. Then gradients that it does not compute are left out.
    """
    parameters = inputs = is_returned = False
    for node in _end_nodes(values):
        goes = _goes_to(node) if running else "kept"
        is_parameter = node.name() == HIDING or isinstance(node.variable, nn.Parameter)
        parameters |= is_parameter and bool(goes)
        inputs |= not is_parameter and bool(goes)
        is_returned |= is_parameter and goes == "returned"
        if parameters and not fully:
            break
    return Reach(parameters, inputs, is_returned)


def in_backward() -> bool:
    """Return whether a backward pass is running in this thread. It may compute parts of the forward pass again."""
    return bool(torch._C._current_graph_task_id() != -1)


def leads_to(loss: Tensor, calls: Sequence[LossCall]) -> list[LossCall]:
    """Return the calls whose logits this loss was computed from."""
    # With the number of the result: all parts of a split have one node.
    edges = [(call.logits.grad_fn, call.logits.output_nr) for call in calls]
    edges_behind = results_behind([(loss.grad_fn, loss.output_nr)], set(edges))
    return [call for call, edge in zip(calls, edges, strict=True) if edge in edges_behind or call.logits.is_leaf]


def different(calls: Sequence[LossCall]) -> list[LossCall]:
    """Return the calls that differ in logits or targets. Of calls with the same ones, the last is returned."""
    return list({(id(call.logits), id(call.targets)): call for call in calls}.values())


def calls_in_words(calls: Sequence[LossCall]) -> str:
    """Return a description of the calls: how many there are, and the shapes that each was given."""
    if not calls:
        return "none"
    shapes = [f"{call.name} of {list(call.logits.shape)} and {list(call.targets.shape)}" for call in calls]
    return f"{len(calls)}: " + in_few_words(shapes)


def in_few_words(items: Iterable[str]) -> str:
    """Return descriptions of a step's losses or operations as one text: each once, and of many kinds the first three.

    Example:
        >>> in_few_words(["sigmoid of [4, 2]"] * 80 + ["loss of [4]"])
        'sigmoid of [4, 2] (80 times); loss of [4]'
    """
    numbers = Counter(items)
    kinds = [item if number == 1 else f"{item} ({number} times)" for item, number in numbers.items()]
    return "; ".join(kinds if len(kinds) <= _MOST_KINDS else [*kinds[:_MOST_KINDS], "and others"])


class StepLosses:
    """The classification losses that a step computes, and which of them it trains on.

    If Lightning begins the backward pass, the step trains on the losses that this pass begins from. If the step begins
    it, it trains on the losses with a gradient for parameters. A gradient for inputs alone, as in an adversarial
    attack, does not count. Losses after the first backward pass that trains are kept apart: they are a second look at
    the same rows, or further rows.

    Attributes:
        calls: All losses that were computed with gradients.
    """

    def __init__(self) -> None:
        self.start(None)

    def start(self, automatic: bool | None, *, fully: bool = True) -> None:
        """Begin a step. ``automatic``: Lightning begins its backward pass. ``fully``: see :func:`reach`."""
        self._automatic, self._fully = automatic, fully
        self.calls: list[LossCall] = []
        self._reached: list[Reach] = []
        self._are_logged = False  # whether those seen so far were computed without gradients
        self._first_pass: int | None = None

    def add(self, call: LossCall) -> None:
        """Remember a loss. One without gradients, as of a teacher or for a log, is not trained on and is left out.

        Lightning's backward pass does not go into transforms of ``torch.func``, as for a Hessian.

        If only the logits have gradients, the loss is remembered until another one has: a checkpoint may compute it
        again.
        """
        if not call.logits.requires_grad or in_backward() or (self._automatic and in_transform(call.logits)):
            return
        is_logged = not torch.is_grad_enabled()
        if self.calls and is_logged and not self._are_logged:
            return
        if self._are_logged and not is_logged:
            self.calls, self._reached = [], []
        self._are_logged = is_logged
        if self._automatic is False:
            call = call._replace(updates=updates_before(call.logits))
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
        """A backward pass begins. If Lightning begins it, losses that this one was not computed from are dropped."""
        if loss is None:
            return
        is_only = self._automatic is not False
        for call in self.calls if is_only else leads_to(loss, self.calls):
            if call.entries is not None:
                call.entries.look(loss)
        if len(self.calls) < 2 or not is_only:
            return
        first_call, *other_calls = self.calls
        if not all(have_same_origin(call.logits, first_call.logits) for call in other_calls):
            self.calls = leads_to(loss, self.calls) or self.calls

    @property
    def trained_calls(self) -> list[LossCall]:
        """The losses that are trained on, up to the first pass that only trains.

        Without gradients, all losses that were seen.
        """
        return self._with_gradient(slice(self._first_pass)) or self.calls

    @property
    def later_calls(self) -> list[LossCall]:
        """The losses that are trained on after that pass."""
        return self._with_gradient(slice(self._first_pass, None)) if self._first_pass is not None else []

    def are_of_one_update(self, calls: Sequence[LossCall]) -> bool:
        """Return whether nothing tells that weights were updated between these losses, as meta-learning does.

        Gradients that are returned for one loss alone may be those of an inner update.
        """
        numbers = {id(call): number for number, call in enumerate(self.calls)}
        are_returned = {self._reached[numbers[id(call)]].is_returned for call in calls}
        updates = [(weights_before(call.logits), call.updates) for call in calls]
        return len(are_returned) == 1 and len(set(updates)) == len(dict(updates))

    @property
    def have_gradients(self) -> bool:
        """Whether any gradient was computed for parameters, or for inputs if there are no parameters."""
        return any(any(reach_of_call) for reach_of_call in self._reached)

    def _with_gradient(self, part: slice) -> list[LossCall]:
        reaches = list(zip(self.calls, self._reached, strict=False))[part]
        return [call for call, reach_of_call in reaches if reach_of_call.parameters] or [
            call for call, reach_of_call in reaches if reach_of_call.inputs
        ]


def _end_nodes(values: Tensor) -> Iterator[Node]:
    nodes = nodes_behind([torch.autograd.graph.get_gradient_edge(values).node])
    return (node for node in nodes if node.name() in (LEAF, HIDING))


def _goes_to(node: Node) -> str:
    try:
        return "kept" if torch._C._will_engine_execute_node(node) else ""
    except RuntimeError:  # of leaves whose gradients `torch.autograd.grad` returns, torch does not answer
        return "returned"
