"""From what a training step did to logits and class indices, or one error that says why not."""

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.capture.batch import CaptureError, described, holds, labels_of
from dynalens.capture.loss_tap import IGNORE_INDEX, LOSSES, TAP, DirectImports, LossCall
from dynalens.dynamics import IGNORED, NOT_A_CLASS
from dynalens.observation import captured_output, module_named, two_class_logits
from dynalens.paths import imported

Capture = str | Callable[[Any, Any], tuple[Tensor, Tensor]]
_MODULE = "module:"

_REMEDY = (
    "Return a dict with `loss`, `logits` and `targets` from `training_step`, or pass `capture=` with a "
    "callable(outputs, batch) -> (logits, targets), or with 'module:<name>' of the layer that gives the logits."
)


@dataclass(frozen=True)
class Presentation:
    """What a step computed with: ``logits`` (N, K), ``targets`` (N,) int64, and where they were found."""

    logits: Tensor
    targets: Tensor
    source: str


class StepCapture:
    """Find the logits and targets of each training step.

    ``install`` once, then for each step ``start``, ``before_backward`` and ``finish``; ``close`` undoes everything
    and may be called at any time, more than once.

    Args:
        capture: "auto" (what ``training_step`` returns under ``logits`` and ``targets``, else the loss call),
            "loss", "outputs", "module:<dotted name>" or callable(outputs, batch) -> (logits, targets), also as the
            dotted path of one.

    Raises:
        ValueError: If ``capture`` is none of these.
    """

    def __init__(self, capture: Capture = "auto") -> None:
        self.capture = capture
        self._function = _function_of(capture)
        self._layer_name = _layer_name_of(capture)
        self._listens = capture in ("auto", "loss")
        self._calls: list[LossCall] = []
        self._armed = False
        self._resolved = False
        self._needs_mode = True
        self._step = ExitStack()
        self._layer: Any = None
        self._labels_in_batch = False
        self._class_above_0: Tensor | None = None

    def install(self, model: nn.Module) -> None:
        """Begin to listen for losses, or look for the layer that ``capture`` names."""
        if self._layer_name is not None:
            module_named(model, self._layer_name, argument="capture")
        elif self._listens:
            TAP.add(self._listen)

    def close(self) -> None:
        """Stop listening; leave nothing behind."""
        self._armed, self._calls, self._layer = False, [], None
        self._labels_in_batch, self._class_above_0 = False, None
        self._step.close()
        TAP.remove(self._listen)

    def start(self, model: nn.Module) -> None:
        """A training step begins."""
        self._step.close()
        self._calls, self._armed = [], True
        if self._layer_name is not None:
            layer = module_named(model, self._layer_name, argument="capture")
            self._layer = self._step.enter_context(captured_output(layer))
        elif self._listens and self._needs_mode and not _compiled(model):
            self._step.enter_context(DirectImports())

    def before_backward(self) -> None:
        """What is computed from here on (recomputed activations, a second optimizer's pass) is not the step's loss."""
        self._armed = False

    def finish(self, outputs: Any, batch: Any, samples: Any = None) -> Presentation | None:
        """The step has ended: return what it computed with, or None if it trained on nothing.

        Args:
            outputs: What ``training_step`` returned.
            batch: The batch.
            samples: The part of it where the labels are to be looked for; default: all of it.

        Raises:
            CaptureError: If that is ambiguous or was not seen.
        """
        try:
            found = self._find(outputs, batch, batch if samples is None else samples)
        finally:
            self._armed = False
            self._step.close()
            calls, self._calls, self._layer = self._calls, [], None
        if found is not None:
            self._resolved = True
            # From the second batch on, the mode stays only where nothing else sees the loss.
            self._needs_mode = any(call.direct for call in calls)
        return found

    def _listen(self, call: LossCall) -> None:
        if self._armed:
            self._calls.append(call)

    def end_epoch(self) -> None:
        """The epoch has ended; waits for the device.

        Raises:
            CaptureError: If its targets were all zero and not those of the batches: they name no classes.
        """
        above_0, trusted = self._class_above_0, self._labels_in_batch
        self._labels_in_batch, self._class_above_0 = False, None
        if above_0 is not None and not trusted and not above_0.item():
            raise CaptureError(
                "Expected the targets of the loss to be classes of the samples, got class 0 throughout the epoch, in a "
                f"tensor that is not of the batch, as a contrastive loss has it. {_REMEDY}"
            )

    def _find(self, outputs: Any, batch: Any, samples: Any) -> Presentation | None:
        if self._function:
            return _checked(*self._function(outputs, batch), source="logits and targets: `capture`")
        if self._layer_name is not None:
            source = f"logits: output of {self._layer_name}; targets: of the batch"
            return _checked(self._layer.value, labels_of(samples), source=source)
        keys = isinstance(outputs, Mapping) and "logits" in outputs and "targets" in outputs
        if self.capture == "outputs" or (self.capture == "auto" and keys):
            if not keys:
                raise CaptureError(
                    "Expected `training_step` to return a dict with `logits` and `targets`, got "
                    f"{described(outputs)}. Add both to it, or use `capture='auto'`."
                )
            return _checked(outputs["logits"], outputs["targets"], source="logits and targets: returned by the step")
        return self._from_loss(outputs, batch)

    def _from_loss(self, outputs: Any, batch: Any) -> Presentation | None:
        # A teacher or a logged metric is computed without gradients and is not what is trained on.
        calls = [call for call in self._calls if call.logits.requires_grad]
        different = {(id(call.logits), id(call.targets)): call for call in calls}
        if not different and self._resolved and not outputs:
            return None  # the user's step returned nothing: no presentation
        if len(different) != 1:
            raise CaptureError(
                f"Expected one classification loss ({', '.join(LOSSES)}) in a training step, got "
                f"{_listed(list(different.values()))}. {_REMEDY}"
            )
        call = next(iter(different.values()))
        source = _loss_source(call.name, call.logits.shape)
        if call.name == "binary_cross_entropy_with_logits":
            return _checked(call.logits, call.targets, source=source)
        targets = call.targets
        if not targets.is_floating_point() and call.ignore_index not in (IGNORE_INDEX, IGNORED):
            targets = targets.masked_fill(targets == call.ignore_index, IGNORED)
        found = _classes(call.logits, targets, source)
        self._look_for_classes(call.targets, batch)
        return found

    def _look_for_classes(self, targets: Tensor, batch: Any) -> None:
        """Labels of the batch may all be class 0; a tensor made in the step that never holds another one names none."""
        if self._labels_in_batch or holds(batch, targets):
            self._labels_in_batch = True
            return
        above_0 = (targets != 0).any()
        self._class_above_0 = above_0 if self._class_above_0 is None else self._class_above_0 | above_0


def _layer_name_of(capture: Capture) -> str | None:
    return capture.removeprefix(_MODULE) if isinstance(capture, str) and capture.startswith(_MODULE) else None


def _function_of(capture: Capture) -> Callable[[Any, Any], tuple[Tensor, Tensor]] | None:
    if not isinstance(capture, str):
        return capture
    if capture in ("auto", "loss", "outputs") or capture.startswith(_MODULE):
        return None
    try:
        function: Callable[[Any, Any], tuple[Tensor, Tensor]] = imported(capture)
    except ImportError as error:
        raise _unknown(capture) from error
    return function


def _unknown(capture: Any) -> ValueError:
    return ValueError(
        "Expected `capture` to be 'auto', 'loss', 'outputs', 'module:<dotted name>', a callable or the dotted path "
        f"of one that can be imported, got {capture!r}. Use 'auto' unless its first batch raises."
    )


@functools.lru_cache(maxsize=64)  # the same text at every step
def _loss_source(name: str, shape: torch.Size) -> str:
    kind = "log-probabilities, whose margins are those of the logits: " if name == "nll_loss" else ""
    return f"logits: {kind}input of {name} {list(shape)}; targets: its argument"


def _compiled(model: nn.Module) -> bool:
    # Under a mode every graph is compiled once more, and breaks at each operation.
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())


def _checked(logits: Any, targets: Any, *, source: str) -> Presentation:
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
        raise CaptureError(
            f"Expected tensors of logits and targets, got {described(logits)} and {described(targets)}. {_REMEDY}"
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
    return Presentation(logits, targets.long(), source)


def _binary(targets: Tensor) -> Tensor:
    """0 and 1 as classes; anything else is marked, without waiting for the device, and raised at the epoch's end."""
    return torch.where((targets == 0) | (targets == 1), targets.long(), NOT_A_CLASS)


def _listed(calls: list[LossCall]) -> str:
    if not calls:
        return "none"
    shapes = [f"{call.name} of {list(call.logits.shape)} and {list(call.targets.shape)}" for call in calls]
    return f"{len(calls)}: " + "; ".join(shapes)
