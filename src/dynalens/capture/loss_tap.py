"""Watch the calls of torch's losses of classes and of numbers, while anyone listens."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dynalens.capture.graph import ACTIVATIONS, Node
from dynalens.capture.unreduced import UnreducedLoss
from dynalens.dynamics import IGNORED

PROBABILITIES = "binary_cross_entropy"
BINARY = ("binary_cross_entropy_with_logits", PROBABILITIES, "multilabel_soft_margin_loss")
"""Losses of labels that are independent of each other: each has a logit or a probability of its own."""
OF_CLASSES = ("cross_entropy", "nll_loss", "multi_margin_loss")
LOSSES = (*OF_CLASSES, *BINARY)
REGRESSIONS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
"""Losses of predictions and targets that are numbers."""
_OPTIONS = {"smooth_l1_loss": ("beta", 5, 1.0), "huber_loss": ("delta", 3, 1.0)}
"""Further arguments that the losses depend on: name, position and default."""
_NO_WEIGHT = 99
IGNORE_INDEX = -100
"""Default of ``ignore_index``."""
_IGNORE_INDEX_POSITION = 4  # of cross_entropy and nll_loss
_WEIGHT_POSITIONS = {"multi_margin_loss": 4, "mse_loss": 5, "l1_loss": 5, "smooth_l1_loss": _NO_WEIGHT, "huber_loss": 4}
_WEIGHT_POSITION = 2


class LossCall(NamedTuple):
    """One call of a loss."""

    name: str
    logits: Tensor
    targets: Tensor
    ignore_index: int
    direct: bool
    """Whether only the function mode saw the call: the step imported the function by its name before it was patched."""
    weight: Tensor | None = None
    option: float | None = None
    """``beta`` or ``delta`` of a loss that has one."""
    entries: UnreducedLoss | None = None
    """The losses of single entries, where the call returned these."""
    selection: Tensor | None = None
    """The mask (N, K) by which the step selected flat logits, as far as it was seen while the graph was whole."""
    version: int = 0
    """How often the logits had been changed in place before this call, as torch counts."""
    updates: int = 0
    """In manual optimization: how often the weights of the last layer had been changed before this call."""

    def is_as_it_was(self) -> bool:
        """Return whether the logits have the values that the loss was given."""
        return self.logits._version == self.version

    def is_counted(self) -> Tensor | None:
        """Return which targets count by weights of their own and by their part in the loss, bool; None if all count.

        Weights of classes have no influence on it.
        """
        mask = None if self.entries is None else self.entries.is_counted()
        if self.weight is None or self.name in OF_CLASSES:
            return mask
        return self.weight != 0 if mask is None else (self.weight != 0) & mask

    def counted_targets(self) -> Tensor:
        """Return the targets, with those that the loss ignores marked."""
        if self.ignore_index in (IGNORE_INDEX, IGNORED) or self.targets.is_floating_point():
            return self.targets
        return self.targets.masked_fill(self.targets == self.ignore_index, IGNORED)


class LossTap:
    """Replaces some of torch's losses, while anyone listens, by functions that report each call.

    Args:
        names: Of the losses, functions of ``torch.nn.functional``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._listeners: list[Callable[[LossCall], None]] = []
        self._originals: dict[str, Callable[..., Tensor]] = {}
        self._is_calling = False

    def add(self, listener: Callable[[LossCall], None]) -> None:
        """Report each call to this listener."""
        if not self._listeners:
            for name in self._names:
                self._originals[name] = getattr(F, name)
                setattr(F, name, self._tap(name))
        self._listeners.append(listener)

    def remove(self, listener: Callable[[LossCall], None]) -> None:
        """Report no further call to it. When the last listener leaves, torch's functions are put back."""
        if listener not in self._listeners:
            return
        self._listeners.remove(listener)
        if not self._listeners:
            for name, original in self._originals.items():
                setattr(F, name, original)

    def _tap(self, name: str) -> Callable[..., Tensor]:
        original = self._originals[name]

        @functools.wraps(original)
        def tapped(*args: Any, **kwargs: Any) -> Tensor:
            if self._is_calling or torch.compiler.is_compiling():
                return original(*args, **kwargs)
            return self.call(original, args, kwargs, name=name, direct=False)

        return tapped

    def call(
        self,
        function: Callable[..., Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        name: str,
        direct: bool,
    ) -> Tensor:
        """Call a loss, and report it to the listeners once, even if the call passes through here several times."""
        self._is_calling = True
        try:
            loss = function(*args, **kwargs)
        finally:
            self._is_calling = False
        call = _call_of(name, args, kwargs, direct=direct)
        if _is_batched(call.logits):
            return loss
        if loss.ndim and loss.grad_fn is not None and _is_unreduced(loss, call):
            call = call._replace(entries=UnreducedLoss(loss))
        for listener in self._listeners:
            listener(call)
        return loss

    def seen_by_mode(self, function: Any) -> bool:
        """Return whether the function is one of the losses and was not called through the patched module."""
        return not self._is_calling and bool(self._listeners) and getattr(function, "__name__", "") in self._names


def _call_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, direct: bool) -> LossCall:
    def argument(key: str, position: int, default: Any) -> Any:
        return kwargs.get(key, args[position] if len(args) > position else default)

    is_ignoring, logits = name in ("cross_entropy", "nll_loss"), argument("input", 0, None)
    return LossCall(
        name=name,
        logits=logits,
        targets=argument("target", 1, None),
        ignore_index=argument("ignore_index", _IGNORE_INDEX_POSITION, IGNORE_INDEX) if is_ignoring else IGNORE_INDEX,
        direct=direct,
        weight=argument("weight", _WEIGHT_POSITIONS.get(name, _WEIGHT_POSITION), None),
        option=argument(*_OPTIONS[name]) if name in _OPTIONS else None,
        version=logits._version if logits.requires_grad else 0,  # tensors of inference count no changes
    )


def in_transform(values: Any) -> bool:
    """Return whether a transform of ``torch.func`` computes with these values."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(values))


def _is_batched(values: Any) -> bool:
    """Return whether ``torch.vmap`` computes with these values. Nobody can read them afterwards."""
    while in_transform(values):
        if torch._C._functorch.is_batchedtensor(values):
            return True
        values = torch._C._functorch.get_unwrapped(values)
    return False


def _is_unreduced(loss: Tensor, call: LossCall) -> bool:
    """Return whether a loss has an entry for each target."""
    one_hot = call.name in OF_CLASSES and call.targets.is_floating_point()
    shape = call.targets.shape[:1] + call.targets.shape[2:] if one_hot else call.targets.shape
    return loss.shape == shape


def _node_of(result: Tensor) -> Node:
    try:
        return result.grad_fn
    except RuntimeError:  # of a view that was changed without gradients, torch does not answer
        return None


TAP = LossTap(LOSSES)
NUMBERS_TAP = LossTap(REGRESSIONS)


class DirectImports(TorchFunctionMode):
    """A function mode that sees what patching a module does not reach. It costs a little in every call of torch.

    It sees losses that were imported by their names, the inputs of softmax and sigmoid, and a backward pass that the
    step begins itself.

    Args:
        on_backward: Is called with each loss whose ``backward`` is called, and with the ``inputs`` of that call.
    """

    def __init__(self, on_backward: Callable[[Tensor, Any], None]) -> None:
        super().__init__()
        self._inputs: dict[Node, tuple[Tensor, int]] = {}
        self._on_backward = on_backward

    @property
    def inputs(self) -> dict[Node, Tensor]:
        """What each softmax or sigmoid was computed from, by its node in the graph, if it was not changed since."""
        return {node: values for node, (values, version) in self._inputs.items() if values._version == version}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "__get__":  # of shape, dtype and the like, which are asked most
            return func(*args, **kwargs)
        for tap in (TAP, NUMBERS_TAP):
            if tap.seen_by_mode(func):
                return tap.call(func, args, kwargs, name=name, direct=True)
        if name == "backward" and args and isinstance(args[0], Tensor):
            self._on_backward(args[0], kwargs.get("inputs"))
        result = func(*args, **kwargs)
        node = _node_of(result) if isinstance(result, Tensor) and result.ndim <= 2 else None
        if node is not None and node.name() in ACTIVATIONS:
            loss_input = kwargs["input"] if "input" in kwargs else args[0]
            # `float`, `contiguous` and the like may return the probabilities that they were given.
            if isinstance(loss_input, Tensor) and loss_input.grad_fn is not node:
                self._inputs[node] = loss_input, loss_input._version
        return result
