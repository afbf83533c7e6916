"""Find inputs and labels in a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dynalens.capture.entries import entry_at, leaves
from dynalens.capture.labels import class_labels
from dynalens.capture.layout import BatchLayout
from dynalens.capture.sequences import attended_tokens
from dynalens.keys import INPUT_KEYS, LABEL_KEYS, UNIT_LABEL_KEYS
from dynalens.observation import is_tokens

_INPUTS = (
    "`inputs=` with (key, key) or a callable(batch) -> (images, labels), one class for each sample; if the model "
    "does not give one row of logits for each sample, also pass `forward=` with a callable(pl_module, images) "
    "that picks one"
)
CALLABLE = "`capture=` with a callable(outputs, batch) -> (logits, targets)"


class CaptureError(RuntimeError):
    """Is raised in the first batch if the logits and targets of the training step cannot be found out.

    The message says what was looked for and which argument of :class:`~dynalens.TrainingDynamicsMonitor` helps,
    usually ``capture=``. ``docs/arguments.md`` shows each case.

    Example:
        A batch without a label.

        >>> labels_of({"image": [0.5]})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dynalens.capture.batch.CaptureError: Expected one label in the batch...
    """


def label_vectors(batch: Any) -> list[Any]:
    """Return the vectors after the first entry of a batch, or what is under usual keys of labels.

    Example:
        >>> label_vectors({"x": 1.5, "y": 2}), len(label_vectors([Tensor(3, 4), Tensor(3), Tensor(3)]))
        ([2], 2)
    """
    if isinstance(batch, Mapping):
        return [batch[key] for key in LABEL_KEYS if key in batch]
    is_listed = isinstance(batch, Sequence) and not isinstance(batch, str)
    return [part for part in batch[1:] if isinstance(part, Tensor) and part.ndim == 1] if is_listed else []


def labels_of(batch: Any, *, remedy: str = f"Pass {CALLABLE}.") -> Any:
    """Return the labels of the batch.

    These are the only vector after its first entry, or the entry under a usual key of labels.
    """
    candidates = label_vectors(batch)
    if len(candidates) != 1:
        raise CaptureError(
            f"Expected one label in the batch (its second entry, or a key of {', '.join(LABEL_KEYS)}), got "
            f"{len(candidates)} in {summary(batch)}. {remedy}"
        )
    return candidates[0]


def labels_beside(batch: Any, logits: Any) -> Any:
    """Return the labels of the batch that logits are compared with: of samples, or of pixels, signals or volumes.

    Those of pixels, and several labels of a sample, are the only entry that has their axes, after the first entry or
    under a usual key of labels.

    Example:
        >>> labels_beside([Tensor(5, 1, 8, 8), Tensor(5, 8, 8)], Tensor(5, 3, 8, 8)).shape
        torch.Size([5, 8, 8])
        >>> labels_beside([Tensor(5, 7), Tensor(5, 3)], Tensor(5, 3)).shape
        torch.Size([5, 3])
    """
    if not isinstance(logits, Tensor) or logits.ndim < 2 or (logits.ndim == 2 and label_vectors(batch)):
        return labels_of(batch)
    n, units = len(logits), logits.shape[2:]
    shapes = [logits.shape, *([(n, *units), (n, 1, *units)] if units else [])]
    is_listed = not isinstance(batch, Mapping)
    places = [(path, leaf) for path, leaf in leaves(batch) if path]
    entries = [leaf for path, leaf in places if (path[0] != 0 if is_listed else path[-1] in UNIT_LABEL_KEYS)]
    matches = [entry for entry in entries if entry.shape in shapes]
    return matches[0] if len(matches) == 1 else labels_of(batch)


def images_and_labels(batch: Any, inputs: Any = "auto", layout: BatchLayout | None = None) -> tuple[Tensor, Tensor]:
    """Return the inputs of a batch, (N, ...), and what it holds as labels: classes (N,) or (N, 1), or rows (N, K).

    Inputs that a step only converts and scales are converted and scaled alike.

    Args:
        batch: What the loader delivered.
        inputs: "auto", (key, key) or callable(batch).
        layout: For "auto": where a training step took inputs and labels from. If it does not say, or the batch has
            nothing there, the first entry and its label are taken, or the entries under the usual keys of a dict.

    Raises:
        CaptureError: If they are not found or have another shape.
    """
    if callable(inputs):
        images, labels = inputs(batch)
    elif inputs == "auto" and layout is not None and layout.dense:
        return _images_and_units(batch, layout)
    elif inputs == "auto":
        images = input_of(batch, layout)
        images = images if layout is None else layout.scaled(images)
        labels = entry_at(batch, layout.labels) if layout is not None else None
        labels = _usual_labels_of(batch) if labels is None else labels
        if layout is not None and any(entry_at(batch, path) is labels for path in layout.renumbered):
            raise CaptureError(
                "Expected the labels of the batch to be the classes that the loss compares, got others, which "
                "`training_step` gives other numbers. Pass `inputs=` with a callable(batch) -> (images, classes)."
            )
    else:
        images, labels = (batch[key] for key in inputs)
    tensors = isinstance(images, Tensor) and isinstance(labels, Tensor)
    if not tensors or images.ndim < 2 or labels.shape[:1] != images.shape[:1] or class_labels(labels) is None:
        raise CaptureError(
            f"Expected images (N, C, ...), rows (N, F) or tokens (N, T) with a label each, got {summary(images)} and "
            f"{summary(labels)}. Pass {_INPUTS}."
        )
    return images, labels


def _images_and_units(batch: Any, layout: BatchLayout) -> tuple[Tensor, Tensor]:
    """Return the inputs of a batch and the class of each token (N, T) or pixel (N, H, W), or labels (N, K, H, W)."""
    images, entry = layout.scaled(input_of(batch, layout)), entry_at(batch, layout.labels)
    labels = None if entry is None or entry.is_complex() or entry.ndim < 2 else layout.units.labels_of(entry)
    if isinstance(images, Tensor) and images.ndim > 1 and labels is not None and len(labels) == len(images):
        return images, labels
    raise CaptureError(
        "Expected the batch to hold the class of each token (N, T) or pixel (N, H, W), or the labels of each "
        f"pixel (N, K, H, W), that the loss is given, got {summary(images)} as inputs and {summary(entry)} as "
        f"targets. Perhaps `training_step` makes the targets: pass {_INPUTS}."
    )


def inputs_to_show(batch: Any, layout: BatchLayout | None = None, *, rows: bool = False) -> Tensor | None:
    """Return the images or signals (N, C, ...) of a batch, or None where its inputs are neither.

    With ``rows``, ids of tokens (N, T) and rows of numbers (N, F) as well. Padding is -1 then.
    """
    inputs = input_of(batch, layout)
    if not isinstance(inputs, Tensor):
        return None
    if rows and is_tokens(inputs):
        return attended_tokens(batch, None if layout is None else layout.inputs, inputs)
    is_row = rows and inputs.ndim == 2 and inputs.is_floating_point()
    return inputs if 3 <= inputs.ndim <= 5 or is_row else None  # N, C and space or time


def input_of(batch: Any, layout: BatchLayout | None = None) -> Any:
    """Return what a training step gave to the network, else the first entry or what is under a usual key."""
    inputs = layout.input_in(batch) if layout is not None else None
    if inputs is not None:
        return inputs
    usual = _usual_input_of(batch)
    if layout is not None and isinstance(usual, Tensor) and usual is entry_at(batch, layout.labels):
        rest = (leaf for _, leaf in leaves(batch) if leaf.ndim > 1 and len(leaf) == len(usual) and leaf is not usual)
        return next(rest, usual)  # labels stand first, and a step scales its inputs itself
    return usual


def _usual_input_of(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        usual = next((batch[key] for key in INPUT_KEYS if key in batch), None)
        if isinstance(usual, Tensor):
            return usual
    elif isinstance(batch, Sequence):
        return batch[0] if len(batch) else None
    images = [leaf for _, leaf in leaves(batch) if leaf.ndim > 3]
    return images[0] if len(images) == 1 else None


def _usual_labels_of(batch: Any) -> Any:
    pair = isinstance(batch, Sequence) and len(batch) == 2 and isinstance(batch[1], Tensor)
    return batch[1] if pair else labels_of(batch, remedy=f"Pass {_INPUTS}.")


def summary(value: Any) -> str:
    """Return what an error says of a value."""
    if isinstance(value, Mapping):
        return f"a dict with the keys {sorted(map(str, value.keys()))}"  # some iterate over their rows
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    return f"a {type(value).__name__}" if value is not None else "nothing"
