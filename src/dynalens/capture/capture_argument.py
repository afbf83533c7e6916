"""Where the argument `capture` says that logits and targets are."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

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
