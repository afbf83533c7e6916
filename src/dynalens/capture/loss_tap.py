"""The calls of torch's classification losses, seen while anyone listens."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LOSSES = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits")
IGNORE_INDEX = -100
"""Default of ``ignore_index``."""
_IGNORE_INDEX_POSITION = 4  # of cross_entropy and nll_loss


class LossCall(NamedTuple):
    """One call of a classification loss."""

    name: str
    logits: Tensor
    targets: Tensor
    ignore_index: int
    direct: bool
    """Seen by the mode alone: the function was imported by its name, before it was patched."""


class LossTap:
    """Stands before torch's classification losses while anyone listens."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[LossCall], None]] = []
        self._originals: dict[str, Callable[..., Tensor]] = {}
        self._inside = False

    def add(self, listener: Callable[[LossCall], None]) -> None:
        """Tell this listener of each call."""
        if not self._listeners:
            for name in LOSSES:
                self._originals[name] = getattr(F, name)
                setattr(F, name, self._wrapped(name))
        self._listeners.append(listener)

    def remove(self, listener: Callable[[LossCall], None]) -> None:
        """Tell it no more; the last one to leave restores torch's functions."""
        if listener not in self._listeners:
            return
        self._listeners.remove(listener)
        if not self._listeners:
            for name, original in self._originals.items():
                setattr(F, name, original)

    def _wrapped(self, name: str) -> Callable[..., Tensor]:
        original = self._originals[name]

        @functools.wraps(original)
        def tapped(*args: Any, **kwargs: Any) -> Tensor:
            if self._inside or torch.compiler.is_compiling():
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
        """Call a loss and tell the listeners, once, however deep the call passes through this object."""
        self._inside = True
        try:
            loss = function(*args, **kwargs)
        finally:
            self._inside = False
        call = LossCall(
            name=name,
            logits=kwargs["input"] if "input" in kwargs else args[0],
            targets=kwargs["target"] if "target" in kwargs else args[1],
            ignore_index=kwargs.get("ignore_index", args[_IGNORE_INDEX_POSITION] if len(args) > 4 else IGNORE_INDEX),
            direct=direct,
        )
        for listener in self._listeners:
            listener(call)
        return loss

    def seen_by_mode(self, function: Any) -> bool:
        """Return whether this is a loss that did not pass through the patched module."""
        return not self._inside and getattr(function, "__name__", "") in LOSSES


TAP = LossTap()


class DirectImports(TorchFunctionMode):
    """Sees losses that were imported by name, which no patch of the module reaches; costs a little on every call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not TAP.seen_by_mode(func):
            return func(*args, **(kwargs or {}))
        return TAP.call(func, args, kwargs or {}, name=func.__name__, direct=True)
