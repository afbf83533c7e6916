"""Which of several heads is the main one: told by what the network returns in evaluation mode, or by ``forward``."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynalens.capture.entries import leaves
from dynalens.capture.graph import Node, source_of
from dynalens.capture.loss_tap import LossCall
from dynalens.capture.losses import in_backward
from dynalens.capture.parameters import Weights, weights_before, weights_behind
from dynalens.capture.stacked import entries_of
from dynalens.observation import captured_calls, named_logits, undisturbed

_MOST_CALLS = 16
"""Calls of modules with several outputs that are remembered in a step. More calls than that are not compared."""


class _Call(NamedTuple):
    module: nn.Module
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    heads: list[Node]
    """For each output of the call, the operation that gave it."""


class Heads:
    """Choose the loss of a network's main head among the losses of its heads.

    A network such as Inception returns logits of the main head and of auxiliary ones in training mode, and those of the
    main head alone in evaluation mode. So the main head is the one with the parameters that give the logits in
    evaluation mode, which takes one more forward pass, in the first step alone. In later steps it is the one with the
    same parameters.

    Of several networks, as a classifier and a probe, it is the one whose logits the module's own ``forward`` returned.
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._calls: list[_Call] = []
        self._own_outputs: set[Node] = set()
        self._weights = Weights()
        self._watching = ExitStack()

    def watch(self, model: nn.Module) -> None:
        """Remember which modules return several tensors, until ``stop``."""
        self.forget()
        self._model = model
        self._watching.enter_context(captured_calls(model, self._observe))

    def stop(self) -> None:
        """End the watch: the step has run."""
        if self._model is not None:
            self._watching.close()

    def forget(self) -> None:
        """Drop what the step computed."""
        self.stop()
        self._model, self._calls, self._own_outputs = None, [], set()

    def note_weights(self, call: LossCall) -> None:
        """Remember the parameters that gave the logits of the loss that the first step is recorded by."""
        self._weights = weights_before(call.logits)

    def main_of(self, calls: Sequence[LossCall]) -> LossCall | None:
        """Return the loss of the main head in the first step; None if it is not known, or if the targets differ.

        Waits for the device.
        """
        first_call, *other_calls = calls
        same_targets = all(
            call.name == first_call.name and _are_same(call.targets, first_call.targets) for call in other_calls
        )
        if not same_targets:
            return None
        logits = [call.logits for call in calls]
        return _only_call_with(calls, self._evaluation_weights(logits) or self._own_weights(logits))

    def with_known_weights(self, calls: Sequence[LossCall]) -> LossCall | None:
        """Return the loss whose logits come from the same parameters as in the first step.

        It is None unless there is exactly one.
        """
        return _only_call_with(calls, self._weights)

    def _observe(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or in_backward():
            return
        if torch.is_grad_enabled():
            with suppress(Exception):  # in the middle of the user's forward pass, which must go on
                if module is self._model:
                    self._own_outputs.update(_sources(output))
                heads = _heads_of(output)
                if len(heads) > 1 and len(self._calls) < _MOST_CALLS:
                    args, kwargs = arguments
                    self._calls.append(_Call(module, args, kwargs, heads))

    def _evaluation_weights(self, logits: Sequence[Tensor]) -> Weights:
        """Return the parameters that give the network's logits in evaluation mode; an empty set if that is not clear.

        The network is the outermost module that returned all these logits. If it returns several tensors in evaluation
        mode, too, the one that is named as the logits counts.
        """
        heads = {weights_before(values) for values in logits}
        for call in reversed(self._calls):  # in the order in which they ended, so that the outermost comes last
            if self._model is not None and heads <= set(map(weights_behind, call.heads)):
                with suppress(Exception), undisturbed(self._model):  # then several losses are an error, as ever
                    output = named_logits(call.module(*call.args, **call.kwargs))
                    return weights_before(output) if isinstance(output, Tensor) else Weights()
        return Weights()

    def have_returned(self, logits: Tensor) -> bool:
        """Return whether ``forward`` of the module returned these logits."""
        return source_of(logits)[0] in self._own_outputs

    def _own_weights(self, logits: Sequence[Tensor]) -> Weights:
        """Return the parameters behind the logits that ``forward`` of the module returned, if they gave these alone."""
        own_logits = [values for values in logits if self.have_returned(values)]
        are_parameters = all(weights_before(values) for values in logits)  # an inner update makes others
        return weights_before(own_logits[0]) if len(own_logits) == 1 and are_parameters else Weights()


def _heads_of(output: Any) -> list[Node]:
    """Return the operations that gave the outputs of a network with several. They may also stand in one stack."""
    if isinstance(output, Tensor):
        return entries_of(output.grad_fn)
    return _sources(output)


def _sources(output: Any) -> list[Node]:
    return [source_of(leaf)[0] for _, leaf in leaves(output) if leaf.grad_fn is not None]


def _are_same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def _only_call_with(calls: Sequence[LossCall], weights: Weights) -> LossCall | None:
    matches = [call for call in calls if weights and weights_before(call.logits) == weights]
    return matches[0] if len(matches) == 1 else None
