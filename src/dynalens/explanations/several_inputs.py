"""What is said of networks that are given several entries of a batch: maps are computed for one of them only."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from dynalens.capture import BatchLayout, BatchObserver, CaptureError
from dynalens.notices import warn
from dynalens.text import error_in_words

_OF_ONE_INPUT = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, CaptureError)


@contextmanager
def several_inputs_told(
    guard: AbstractContextManager[None], observer: BatchObserver, *, has_forward: bool, has_inputs: bool
) -> Iterator[None]:
    """If the body fails for a network with several inputs, raise an error within the guard that says what to pass.

    So does an error of the network itself: an encoder with a decoder, say, computes nothing from the inputs alone.

    Args:
        guard: Takes errors of the body.
        observer: Has seen what training steps gave to the network.
        has_forward: Whether the user has passed a function that computes logits.
        has_inputs: Whether the user has passed where the inputs stand, which may be wrong.
    """
    with guard:
        try:
            yield
        except _OF_ONE_INPUT as error:
            layout = observer.layout
            is_clear = has_inputs or str(error).startswith("Expected")
            if has_forward or isinstance(error, torch.OutOfMemoryError) or (is_clear and not layout.other_inputs):
                raise
            advice = _advice(layout.all_inputs) if layout.other_inputs else _advice_for_one(layout.all_inputs)
            raise ValueError(f"{advice} (Without these: {error_in_words(error)})") from error


def tell_other_inputs(layout: BatchLayout) -> None:
    """Warn if training steps gave the network more than the entry that is explained, and maps worked without it."""
    if layout.other_inputs:
        warn(
            f"Expected a network that is given one entry of the batch, got one that is given "
            f"{_in_words(layout.all_inputs)}. It is explained with {_in_words(layout.all_inputs[:1])} alone, so its "
            "logits may differ from those of the training. If they do, pass `forward=` with a callable(pl_module, "
            "inputs) -> logits that makes the other entries from the inputs."
        )


def _in_words(paths: Sequence[tuple[Any, ...]]) -> str:
    return " and ".join("batch" + "".join(f"[{key!r}]" for key in path) for path in paths)


def _advice_for_one(paths: Sequence[tuple[Any, ...]]) -> str:
    return (
        f"Expected a network that computes logits, and a gradient of them, from {_in_words(paths) or 'its inputs'} "
        "alone, got an error. Pass `forward=` with a callable(pl_module, inputs) -> logits that adds what else it "
        "needs, or other `methods`."
    )


def _advice(paths: Sequence[tuple[Any, ...]]) -> str:
    entries = _in_words(paths)
    return (
        f"Expected a network that is given one entry of the batch, got one that is given {entries}. If they are "
        "columns of a table, pass `inputs=` with a callable(batch) -> (all columns in one floating tensor, labels), "
        "`forward=` with a callable(pl_module, columns) -> logits that separates them again, with `.long()` for those "
        "of integers, and `methods=('captum:FeatureAblation',)`, as integers have no gradient. Otherwise, pass an "
        "entry and its labels by `inputs=`, and a `forward=` that needs this entry only, or makes the others from it."
    )
