"""What stands where in a batch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from dynalens.keys import INPUT_KEYS, LABEL_KEYS
from dynalens.observation import is_tokens


class CaptureError(RuntimeError):
    """The logits and targets of a training step cannot be known.

    Example:
        >>> labels_of({"image": [0.5]})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dynalens.capture.batch.CaptureError: Expected one label in the batch...
    """


def holds(batch: Any, tensor: Tensor) -> bool:
    """Return whether the tensor is one of the batch's own, or a view of one."""
    parts: Iterable[Any] = (
        batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else ()
    )
    return any(part is tensor or part is tensor._base for part in parts if isinstance(part, Tensor))


def labels_of(batch: Any, *, remedy: str = "`capture=` with a callable(outputs, batch)") -> Any:
    """Return the batch's one label: a vector after its first entry, or under a usual key."""
    if isinstance(batch, Mapping):
        found = [batch[key] for key in LABEL_KEYS if key in batch]
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        found = [part for part in batch[1:] if isinstance(part, Tensor) and part.ndim == 1]
    else:
        found = []
    if len(found) != 1:
        raise CaptureError(
            f"Expected one label in the batch (its second entry, or a key of {', '.join(LABEL_KEYS)}), got "
            f"{len(found)} in {described(batch)}. Pass {remedy}."
        )
    return found[0]


def images_and_labels(batch: Any, inputs: Any = "auto") -> tuple[Tensor, Tensor]:
    """Return the images, floating (N, C, *spatial), or tokens, integers (N, T), and the labels, int64 (N,), of a batch.

    Args:
        batch: What the loader delivered.
        inputs: "auto" (first entry and its label, or the usual keys of a dict), (key, key) or callable(batch).

    Raises:
        CaptureError: If they are not found or have another shape.
    """
    if callable(inputs):
        images, labels = inputs(batch)
    elif inputs == "auto":
        images, labels = _image_of(batch), labels_of(batch, remedy="`inputs=` with (key, key) or a callable(batch)")
    else:
        images, labels = (batch[key] for key in inputs)
    tensors = isinstance(images, Tensor) and isinstance(labels, Tensor)
    if not tensors or not (_are_images(images) or is_tokens(images)) or labels.shape != images.shape[:1]:
        raise CaptureError(
            f"Expected floating images (N, C, ...) or tokens (N, T) with a label each, got {described(images)} and "
            f"{described(labels)}. Pass `inputs=` with (key, key) or a callable(batch) -> (images, labels)."
        )
    return images, labels.long()


def inputs_to_show(batch: Any) -> Tensor | None:
    """Return the images or signals (N, C, ...) of a batch, or None where its first entry is neither."""
    found = _image_of(batch)
    return found if isinstance(found, Tensor) and 3 <= found.ndim <= 5 else None  # N, C and space or time


def _are_images(inputs: Tensor) -> bool:
    return inputs.is_floating_point() and inputs.ndim >= 3


def _image_of(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return next((batch[key] for key in INPUT_KEYS if key in batch), None)
    return batch[0] if isinstance(batch, Sequence) and len(batch) else None


def described(value: Any) -> str:
    """Return what an error says of a value."""
    if isinstance(value, Mapping):
        return f"a dict with the keys {sorted(map(str, value))}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    return f"a {type(value).__name__}" if value is not None else "nothing"
