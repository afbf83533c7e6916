"""The logits and targets that a training step has really computed with."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dynalens.dynamics import IGNORED, NOT_A_CLASS
from dynalens.observation import captured_output, module_named, two_class_logits

Capture = str | Callable[[Any, Any], tuple[Tensor, Tensor]]

_LOSSES = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits")
_IGNORE_INDEX_POSITION = 4  # of cross_entropy and nll_loss
_IMAGE_KEYS = ("image", "images", "img", "input", "inputs", "pixel_values", "x")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y")
_REMEDY = (
    "Return a dict with `loss`, `logits` and `targets` from `training_step`, or pass `capture=` with a "
    "callable(outputs, batch) -> (logits, targets), or with 'module:<name>' of the layer that gives the logits."
)


class CaptureError(RuntimeError):
    """The logits and targets of a training step cannot be known."""


@dataclass(frozen=True)
class Presentation:
    """What a step computed with: ``logits`` (N, K), ``targets`` (N,) int64, and where they were found."""

    logits: Tensor
    targets: Tensor
    source: str


@dataclass(frozen=True)
class _LossCall:
    name: str
    logits: Tensor
    targets: Tensor
    ignore_index: int
    direct: bool
    """Seen by the mode alone: the function was imported by its name, before it was patched."""


class _LossTap:
    """Stands before torch's classification losses while anyone listens."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[_LossCall], None]] = []
        self._originals: dict[str, Callable[..., Tensor]] = {}
        self._inside = False

    def add(self, listener: Callable[[_LossCall], None]) -> None:
        if not self._listeners:
            for name in _LOSSES:
                self._originals[name] = getattr(F, name)
                setattr(F, name, self._wrapped(name))
        self._listeners.append(listener)

    def remove(self, listener: Callable[[_LossCall], None]) -> None:
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
        call = _LossCall(
            name=name,
            logits=kwargs["input"] if "input" in kwargs else args[0],
            targets=kwargs["target"] if "target" in kwargs else args[1],
            ignore_index=kwargs.get("ignore_index", args[_IGNORE_INDEX_POSITION] if len(args) > 4 else -100),
            direct=direct,
        )
        for listener in self._listeners:
            listener(call)
        return loss

    def seen_by_mode(self, function: Any) -> bool:
        return not self._inside and getattr(function, "__name__", "") in _LOSSES


_TAP = _LossTap()


class _DirectImports(TorchFunctionMode):
    """Sees losses that were imported by name, which no patch of the module reaches; costs a little on every call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _TAP.seen_by_mode(func):
            return func(*args, **(kwargs or {}))
        return _TAP.call(func, args, kwargs or {}, name=func.__name__, direct=True)


class StepCapture:
    """Find the logits and targets of each training step.

    ``install`` once, then for each step ``start``, ``before_backward`` and ``finish``; ``close`` undoes everything
    and may be called at any time, more than once.

    Args:
        capture: "auto" (what ``training_step`` returns under ``logits`` and ``targets``, else the loss call),
            "loss", "outputs", "module:<dotted name>" or callable(outputs, batch) -> (logits, targets).

    Raises:
        ValueError: If ``capture`` is none of these.
    """

    def __init__(self, capture: Capture = "auto") -> None:
        known = callable(capture) or capture in ("auto", "loss", "outputs") or capture.startswith("module:")
        if not known:
            raise ValueError(
                "Expected `capture` to be 'auto', 'loss', 'outputs', 'module:<dotted name>' or a callable, "
                f"got {capture!r}. Use 'auto' unless its first batch raises."
            )
        self.capture = capture
        self._calls: list[_LossCall] = []
        self._armed = False
        self._resolved = False
        self._needs_mode = True
        self._step = ExitStack()
        self._layer: Any = None

    def install(self, model: nn.Module) -> None:
        """Begin to listen for losses, or look for the layer that ``capture`` names."""
        if isinstance(self.capture, str) and self.capture.startswith("module:"):
            module_named(model, self.capture.removeprefix("module:"), argument="capture")
        elif self.capture in ("auto", "loss"):
            _TAP.add(self._listen)

    def close(self) -> None:
        """Stop listening; leave nothing behind."""
        self._armed, self._calls, self._layer = False, [], None
        self._step.close()
        _TAP.remove(self._listen)

    def start(self, model: nn.Module) -> None:
        """A training step begins."""
        self._step.close()
        self._calls, self._armed = [], True
        if isinstance(self.capture, str) and self.capture.startswith("module:"):
            layer = module_named(model, self.capture.removeprefix("module:"), argument="capture")
            self._layer = self._step.enter_context(captured_output(layer))
        elif self.capture in ("auto", "loss") and self._needs_mode and not _compiled(model):
            self._step.enter_context(_DirectImports())

    def before_backward(self) -> None:
        """What is computed from here on (recomputed activations, a second optimizer's pass) is not the step's loss."""
        self._armed = False

    def finish(self, outputs: Any, batch: Any) -> Presentation | None:
        """The step has ended: return what it computed with, or None if it trained on nothing.

        Raises:
            CaptureError: If that is ambiguous or was not seen.
        """
        try:
            found = self._find(outputs, batch)
        finally:
            self._armed = False
            self._step.close()
            calls, self._calls, self._layer = self._calls, [], None
        if found is not None:
            self._resolved = True
            # From the second batch on, the mode stays only where nothing else sees the loss.
            self._needs_mode = any(call.direct for call in calls)
        return found

    def _listen(self, call: _LossCall) -> None:
        if self._armed:
            self._calls.append(call)

    def _find(self, outputs: Any, batch: Any) -> Presentation | None:
        if callable(self.capture):
            return _checked(*self.capture(outputs, batch), source="logits and targets: `capture`")
        if self.capture.startswith("module:"):
            name = self.capture.removeprefix("module:")
            return _checked(
                self._layer.value, _labels_of(batch), source=f"logits: output of {name}; targets: of the batch"
            )
        keys = isinstance(outputs, Mapping) and "logits" in outputs and "targets" in outputs
        if self.capture == "outputs" or (self.capture == "auto" and keys):
            if not keys:
                raise CaptureError(
                    "Expected `training_step` to return a dict with `logits` and `targets`, got "
                    f"{_described(outputs)}. Add both to it, or use `capture='auto'`."
                )
            return _checked(outputs["logits"], outputs["targets"], source="logits and targets: returned by the step")
        return self._from_loss(outputs)

    def _from_loss(self, outputs: Any) -> Presentation | None:
        # A teacher or a logged metric is computed without gradients and is not what is trained on.
        calls = [call for call in self._calls if call.logits.requires_grad]
        different = {(id(call.logits), id(call.targets)): call for call in calls}
        if not different and self._resolved and not outputs:
            return None  # the user's step returned nothing: no presentation
        if len(different) != 1:
            raise CaptureError(
                f"Expected one classification loss ({', '.join(_LOSSES)}) in a training step, got "
                f"{_listed(list(different.values()))}. {_REMEDY}"
            )
        call = next(iter(different.values()))
        source = f"logits: input of {call.name} {list(call.logits.shape)}; targets: its argument"
        if call.name == "binary_cross_entropy_with_logits":
            return _checked(call.logits, call.targets, source=source)
        targets = call.targets
        if not targets.is_floating_point():
            targets = torch.where(targets == call.ignore_index, IGNORED, targets)
        return _classes(call.logits, targets, source)


def _compiled(model: nn.Module) -> bool:
    # Under a mode every graph is compiled once more, and breaks at each operation.
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())


def _checked(logits: Any, targets: Any, *, source: str) -> Presentation:
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
        raise CaptureError(
            f"Expected tensors of logits and targets, got {_described(logits)} and {_described(targets)}. {_REMEDY}"
        )
    if logits.ndim >= 1 and logits.shape[1:] in ((), (1,)) and targets.shape[1:] in ((), (1,)):
        return _two_classes(logits, targets, source)
    return _classes(logits, targets, source)


def _two_classes(logits: Tensor, targets: Tensor, source: str) -> Presentation:
    rows = two_class_logits(logits.detach())
    return Presentation(rows, _binary(targets.detach().flatten()), source + " (two classes)")


def _classes(logits: Tensor, targets: Tensor, source: str) -> Presentation:
    logits, targets = logits.detach(), targets.detach()
    if logits.ndim == 1 and targets.ndim == 0:
        logits, targets = logits.unsqueeze(0), targets.unsqueeze(0)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise CaptureError(
            f"Expected logits of shape (N, K) with K >= 2 classes, got {tuple(logits.shape)} ({source}). "
            f"Dense prediction is not tracked. {_REMEDY}"
        )
    if targets.is_floating_point() or targets.shape != logits.shape[:1]:
        raise CaptureError(
            f"Expected one class index for each of {len(logits)} rows of logits, got targets of shape "
            f"{tuple(targets.shape)}, {targets.dtype}: soft, mixed or multi-label targets ({source}). "
            "Pass `capture=` with a callable(outputs, batch) -> (logits, targets) that picks one class for each sample."
        )
    # Any negative target is one that is not counted; NOT_A_CLASS stays our own mark.
    return Presentation(logits, targets.long().clamp(min=IGNORED), source)


def _binary(targets: Tensor) -> Tensor:
    """0 and 1 as classes; anything else is marked, without waiting for the device, and raised at the epoch's end."""
    return torch.where((targets == 0) | (targets == 1), targets, NOT_A_CLASS).long()


def _labels_of(batch: Any, *, remedy: str = "`capture=` with a callable(outputs, batch)") -> Any:
    if isinstance(batch, Mapping):
        found = [batch[key] for key in _LABEL_KEYS if key in batch]
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        found = [part for part in batch[1:] if isinstance(part, Tensor) and part.ndim == 1]
    else:
        found = []
    if len(found) != 1:
        raise CaptureError(
            f"Expected one label in the batch (its second entry, or a key of {', '.join(_LABEL_KEYS)}), got "
            f"{len(found)} in {_described(batch)}. Pass {remedy}."
        )
    return found[0]


def images_and_labels(batch: Any, inputs: Any = "auto") -> tuple[Tensor, Tensor]:
    """Return the images, floating (N, C, *spatial), and the labels, int64 (N,), of a batch.

    Args:
        batch: What the loader delivered.
        inputs: "auto" (first entry and its label, or the usual keys of a dict), (key, key) or callable(batch).

    Raises:
        CaptureError: If they are not found or have another shape.
    """
    if callable(inputs):
        images, labels = inputs(batch)
    elif inputs == "auto":
        images, labels = _image_of(batch), _labels_of(batch, remedy="`inputs=` with (key, key) or a callable(batch)")
    else:
        images, labels = (batch[key] for key in inputs)
    tensors = isinstance(images, Tensor) and isinstance(labels, Tensor)
    if not tensors or not images.is_floating_point() or images.ndim < 3 or labels.shape != images.shape[:1]:
        raise CaptureError(
            f"Expected floating images (N, C, ...) with a label each, got {_described(images)} and "
            f"{_described(labels)}. Pass `inputs=` with (key, key) or a callable(batch) -> (images, labels)."
        )
    return images, labels.long()


def _image_of(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return next((batch[key] for key in _IMAGE_KEYS if key in batch), None)
    return batch[0] if isinstance(batch, Sequence) and len(batch) else None


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with the keys {sorted(map(str, value))}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    return f"a {type(value).__name__}" if value is not None else "nothing"


def _listed(calls: list[_LossCall]) -> str:
    if not calls:
        return "none"
    shapes = [f"{call.name} of {list(call.logits.shape)} and {list(call.targets.shape)}" for call in calls]
    return f"{len(calls)}: " + "; ".join(shapes)
