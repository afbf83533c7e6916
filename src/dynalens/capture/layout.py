"""Where a batch holds the inputs and the targets of a training step, as seen while the step ran."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from dynalens.capture.labels import class_labels
from dynalens.capture.loss_tap import IGNORE_INDEX, TAP, DirectImports, LossCall
from dynalens.keys import INPUT_KEYS
from dynalens.observation import captured_calls, is_compiled

Path = tuple[Any, ...]
"""Keys, positions and attribute names that lead from a batch to one of its tensors."""

_DEEPEST = 4
_LONGEST = 64
_STEPS = 3
_CALLS = 64


@dataclass(frozen=True)
class BatchLayout:
    """Where inputs and targets stand in a batch.

    Attributes:
        inputs: Path of the tensor that the network was given; None where it was not seen.
        labels: Path of the targets of the loss; None where they were not seen.
        loss: Name of the loss function; None where none was seen.
        ignore_index: The target that this loss ignores.
    """

    inputs: Path | None = None
    labels: Path | None = None
    loss: str | None = None
    ignore_index: int = IGNORE_INDEX


class ModuleCall(NamedTuple):
    """One call of a module with entries of the batch: their paths, and the tensors that it returned."""

    paths: list[Path]
    outputs: list[Tensor]


class BatchObserver:
    """Learns the layout of the batches from the first training steps; nothing is watched afterwards.

    The targets are the entry of the batch that the loss was called with, itself or as a view, else the only entry that
    names the same classes. The inputs are the entry that a module was given whose output led to the loss.

    Args:
        alone: Whether nobody else, as a :class:`StepCapture`, looks out for losses that were imported by their names.

    Attributes:
        layout: What is known so far.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self.layout, self._alone = BatchLayout(), alone
        self._steps_left = _STEPS
        self._watching = ExitStack()
        self._leaves: list[tuple[Path, Tensor]] = []
        self._calls: list[ModuleCall] = []
        self._losses: list[LossCall] = []

    @property
    def done(self) -> bool:
        """Whether no further step is watched."""
        return self._steps_left == 0

    def start(self, model: nn.Module, batch: Any) -> None:
        """A training step begins; watch it if it is one of the first."""
        if self.done:
            return
        self.close()
        self._leaves = list(leaves(batch))
        TAP.add(self._observe_loss)
        self._watching.callback(TAP.remove, self._observe_loss)
        self._watching.enter_context(captured_calls(model, self._observe_call))
        if self._alone and not is_compiled(model):
            self._watching.enter_context(DirectImports(lambda _loss: None))

    def stop(self) -> None:
        """Watch no longer: what is computed from here on is not the step's forward pass."""
        self._watching.close()

    def finish(self) -> None:
        """The training step has ended: work out where its inputs and targets stand."""
        self.stop()
        if self.done or not self._leaves:
            return
        with suppress(Exception):  # an odd tensor: the usual keys are looked through instead
            self.layout = self._learned()
        complete = self.layout.inputs is not None and self.layout.labels is not None
        self._steps_left = 0 if complete else self._steps_left - 1
        self.close()

    def close(self) -> None:
        """Watch no longer, and let go of the step's tensors."""
        self.stop()
        self._leaves, self._calls, self._losses = [], [], []

    def _observe_loss(self, call: LossCall) -> None:
        self._losses.append(call)

    def _observe_call(self, arguments: Any, outputs: Any) -> None:
        if len(self._calls) == _CALLS or torch.compiler.is_compiling():
            return
        with suppress(Exception):  # in the middle of the user's forward pass, which must go on
            tensors = [tensor for _, tensor in leaves(arguments)]
            paths = [path for path, leaf in self._leaves if any(_same_memory(leaf, tensor) for tensor in tensors)]
            if not paths:  # a copy, of another dtype perhaps
                paths = [path for path, leaf in self._leaves if any(_same_values(leaf, tensor) for tensor in tensors)]
            if paths:
                self._calls.append(ModuleCall(paths, [tensor for _, tensor in leaves(outputs)]))

    def _learned(self) -> BatchLayout:
        loss = next((call for call in self._losses if call.logits.requires_grad), None)
        labels = _path_of_targets(self._leaves, loss) if loss is not None else None
        logits = loss.logits if loss is not None else None
        inputs = _path_of_inputs(self._calls, dict(self._leaves), labels, logits)
        known = self.layout
        return BatchLayout(
            inputs=known.inputs or inputs,
            labels=known.labels or labels,
            loss=known.loss or (loss.name if loss is not None else None),
            ignore_index=loss.ignore_index if loss is not None else known.ignore_index,
        )


def leaves(value: Any, depth: int = _DEEPEST) -> Iterator[tuple[Path, Tensor]]:
    """Yield path and tensor of each tensor in nested mappings, sequences, dataclasses and objects with attributes.

    Example:
        >>> [path for path, _ in leaves({"image": torch.zeros(1), "meta": [3, torch.zeros(1)]})]
        [('image',), ('meta', 1)]
    """
    if isinstance(value, Tensor):
        yield (), value
    elif depth:
        for key, part in _parts(value):
            for path, tensor in leaves(part, depth - 1):
                yield (key, *path), tensor


def entry_at(batch: Any, path: Path | None) -> Tensor | None:
    """Return the tensor at this path, or None if the batch has none there.

    Example:
        >>> entry_at((torch.tensor([1]), {"y": torch.tensor([2])}), (1, "y"))
        tensor([2])
    """
    if path is None:
        return None
    for key in path:
        parts = dict(_parts(batch))
        if key not in parts:
            return None
        batch = parts[key]
    return batch if isinstance(batch, Tensor) else None


def copied(batch: Any) -> Any:
    """Return the batch with copies of its tensors, which a step that works in place does not change."""
    return apply_to_collection(batch, Tensor, lambda tensor: tensor.detach().clone(), allow_frozen=True)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, str | bytes | nn.Module | type):
        return ()
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if isinstance(value, Sequence):
        return enumerate(value[:_LONGEST])
    return getattr(value, "__dict__", {}).items()


def _same_memory(leaf: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor is the entry, or all of it in another shape."""
    if leaf is tensor:
        return True
    whole = leaf.numel() == tensor.numel() > 0 and leaf.dtype == tensor.dtype
    return whole and leaf.untyped_storage()._cdata == tensor.untyped_storage()._cdata


def _same_values(leaf: Tensor, tensor: Tensor) -> bool:
    return leaf.ndim > 1 and leaf.shape == tensor.shape and torch.equal(leaf.to(tensor.dtype), tensor.detach())


def _path_of_targets(entries: Sequence[tuple[Path, Tensor]], loss: LossCall) -> Path | None:
    for path, leaf in entries:
        if _same_memory(leaf, loss.targets):
            return path
    classes = class_labels(loss.targets, loss=loss.name)
    if classes is None:
        return None
    same = [path for path, leaf in entries if _names(classes, class_labels(leaf, loss=loss.name))]
    return same[0] if len(same) == 1 else None


def _names(classes: Tensor, others: Tensor | None) -> bool:
    return others is not None and others.shape == classes.shape and torch.equal(others, classes)


def _path_of_inputs(
    calls: Sequence[ModuleCall], entries: Mapping[Path, Tensor], labels: Path | None, logits: Tensor | None
) -> Path | None:
    """Return the entry that reached the logits through a module, of several the one that a module was given alone."""
    given = [
        ModuleCall([path for path in call.paths if path != labels and entries[path].ndim > 1], call.outputs)
        for call in calls
    ]
    given = [call for call in given if call.paths]
    nodes = _graph_of(logits) if logits is not None else set()
    leading = [
        call for call in given if any(output is logits or output.grad_fn in nodes for output in call.outputs)
    ] or given
    if not leading:
        return None
    fewest = min(leading, key=lambda call: len(call.paths)).paths
    return next((path for path in fewest if path and path[-1] in INPUT_KEYS), fewest[0])


def _graph_of(tensor: Tensor) -> set[Any]:
    """Return all that autograd has computed the tensor from."""
    nodes: set[Any] = set()
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [before for before, _ in node.next_functions]
    return nodes
