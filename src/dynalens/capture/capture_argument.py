"""Where the argument `capture` says that logits and targets are: a function, or a layer whose output are the logits."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from dynalens.capture.advice import NO_LABELS, REMEDY
from dynalens.capture.batch import CaptureError
from dynalens.capture.graph import Node
from dynalens.observation import LayerCalls, layer_calls, module_named
from dynalens.paths import imported

Capture = str | Callable[[Any, Any], tuple[Tensor, Tensor]]
_MODULE = "module:"


def layer_name_of(capture: Capture) -> str | None:
    """Return the name of the layer that is asked for; None where it is none."""
    return capture.removeprefix(_MODULE) if isinstance(capture, str) and capture.startswith(_MODULE) else None


def function_of(capture: Capture) -> Callable[[Any, Any], tuple[Tensor, Tensor]] | None:
    """Return the callable that is asked for; None where it is none.

    Raises:
        ValueError: If it is nothing that can be asked for.
    """
    if not isinstance(capture, str):
        return capture
    if capture in ("auto", "labels", "loss", "outputs") or capture.startswith(_MODULE):
        return None
    try:
        function: Callable[[Any, Any], tuple[Tensor, Tensor]] = imported(capture)
    except ImportError as error:
        raise ValueError(
            "Expected `capture` to be 'auto', 'labels', 'loss', 'outputs', 'module:<dotted name>', a callable or the "
            f"dotted path of one that can be imported, got {capture!r}. Use 'auto': if it cannot read the step, its "
            "error says what to pass."
        ) from error
    return function


class NamedLayer:
    """Watch a layer in each step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._step = ExitStack()
        self._calls = LayerCalls()
        self._losses: list[Node] = []
        self._has_gradients = False

    def start(self, model: nn.Module) -> None:
        """A step begins."""
        layer = module_named(model, self.name, argument="capture")
        self._calls, self._losses = self._step.enter_context(layer_calls(layer)), []

    def before_backward(self, loss: Tensor) -> None:
        """A loss of the step is known."""
        self._losses.append(loss.grad_fn)

    def close(self) -> None:
        """The step has ended."""
        self._step.close()
        self._calls = LayerCalls()

    def output(self) -> Any:
        """Return what the layer gave in this step; None if a step after the first one trains something else.

        Raises:
            CaptureError: If several calls of the layer lead to the loss, or if it did not run in the first step.
        """
        if self._has_gradients and not self._calls.have_gradients:
            return None
        try:
            calls = self._calls.leading_to(self._losses)
        except RuntimeError as error:
            hint = "" if self._calls.have_run else f" {NO_LABELS}, without `capture=`."
            raise CaptureError(f"{error}{hint}") from None
        if len(calls) != 1:
            raise CaptureError(
                f"Expected `capture` to name a layer that is called once to compute the loss, got {len(calls)} calls "
                f"of {self.name}. {REMEDY}"
            )
        self._has_gradients = self._calls.have_gradients
        return calls[0].value
