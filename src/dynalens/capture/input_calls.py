"""Calls of modules that were given inputs of a batch: which entry is the network's input, and in which form."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from dynalens.capture.entries import Path
from dynalens.capture.scaling import ScaledView, Scaling, conversion_from
from dynalens.capture.sequences import follows_from_tokens
from dynalens.capture.views import View, crops_in, same_values, view_from
from dynalens.keys import INPUT_KEYS, LABEL_KEYS
from dynalens.observation import nodes_behind


class ModuleCall(NamedTuple):
    """One call of a module: which entries of the batch it was given, by their paths, and what it returned.

    ``scalings`` are those of entries that it was given scaled.
    """

    arguments: dict[Path, Tensor]
    outputs: list[Tensor]
    scalings: dict[Path, ScaledView] = {}  # noqa: RUF012  # of a tuple; nobody changes it


def calls_to_logits(
    calls: Sequence[ModuleCall], entries: Mapping[Path, Tensor], labels: Path | None, logits: Tensor | None
) -> list[ModuleCall]:
    """Return the calls with possible inputs that led to the logits, without their labels.

    If none did, as under ``no_grad``, return all of them. Possible inputs have more than one axis.
    """
    calls_without_labels = [
        call._replace(arguments={path: x for path, x in call.arguments.items() if path != labels}) for call in calls
    ]
    calls_with_inputs = [
        call for call in calls_without_labels if any(entries[path].ndim > 1 for path in call.arguments)
    ]
    nodes = set() if logits is None else set(nodes_behind([logits.grad_fn]))
    calls_to_logits = [
        call
        for call in calls_with_inputs
        if any(output is logits or output.grad_fn in nodes for output in call.outputs)
    ]
    return calls_to_logits or calls_with_inputs


def path_of_inputs(calls: Sequence[ModuleCall], entries: Mapping[Path, Tensor]) -> Path | None:
    """Return the entry with several axes that a module was given alone, or with the fewest others of this kind.

    Entries under a usual key come first.
    """
    if not calls:
        return None
    paths = min(([path for path in call.arguments if entries[path].ndim > 1] for call in calls), key=len)
    return next((path for path in paths if path and path[-1] in INPUT_KEYS), paths[0])


def other_inputs(
    calls: Sequence[ModuleCall], path: Path, entries: Mapping[Path, Tensor], labels: Path | None
) -> tuple[Path, ...]:
    """Return the other entries that the outermost module was given, without labels and what tokens say themselves."""
    entry, arguments = entries[path], calls[-1].arguments
    others = [key for key in arguments if key not in (path, labels)] if path in arguments else []
    others = [key for key in others if not key or key[-1] not in LABEL_KEYS]  # the targets of a regression
    return tuple(key for key in others if not follows_from_tokens(entries[key], entry))


def form_of_inputs(calls: Sequence[ModuleCall], path: Path, entry: Tensor) -> tuple[View | None, Scaling | None]:
    """Return which view of an entry the outermost module was given, and how it was scaled before.

    They are None if a module was given the entry itself.
    """
    calls = [call for call in calls if path in call.arguments]
    arguments = [call.arguments[path] for call in calls]
    if all(path in call.scalings for call in calls):
        return calls[-1].scalings[path]
    return _view_of_inputs(arguments, entry), conversion_from(entry, arguments)


def _view_of_inputs(arguments: Sequence[Tensor], entry: Tensor) -> View | None:
    crops = crops_in(entry, arguments)
    if crops is not None:
        return crops
    if any(same_values(entry, tensor) for tensor in arguments):
        return None
    return view_from(entry, arguments[-1])
