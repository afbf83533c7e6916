"""Whether a step gives its network the inputs of the batch, or others that it has made of them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynalens.capture.entries import Path, leaves
from dynalens.observation import nodes_behind

Node = Any
"""A node of autograd's graph."""
_CALLS = 64
_ROWS = 32
"""Number of rows that are looked for among those of an entry: with all of them, long batches of a table take long."""


class _Call(NamedTuple):
    """A call of a module, with those of its arguments that no parameter had a part in."""

    paths: frozenset[Path]
    """Paths of the batch's entries among its arguments."""
    has_values: bool
    """Whether the arguments are rows of an entry in another form."""
    has_parameters: bool
    nodes: frozenset[Node]
    """What computed its outputs."""


class GivenInputs:
    """Find out, from the calls of modules in a step, whether the network is given something that the step has made.

    Modules without parameters, such as transforms, are not the network.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def forget(self) -> None:
        """Drop what the step computed."""
        self._calls = []

    def observe(
        self,
        module: nn.Module,
        arguments: Any,
        outputs: Any,
        entries: Sequence[tuple[Path, Tensor]],
        paths: Collection[Path],
    ) -> None:
        """Remember a call.

        Args:
            module: That has run.
            arguments: What it was given.
            outputs: What it has returned.
            entries: Paths and tensors of the batch.
            paths: Paths of those that are among the arguments.
        """
        inputs = {path: entry for path, entry in entries if entry.ndim > 1}
        paths = inputs.keys() & paths
        tensors = [tensor for _, tensor in leaves(arguments) if tensor.ndim > 1]
        nodes = frozenset(tensor.grad_fn for _, tensor in leaves(outputs) if tensor.grad_fn is not None)
        is_first = bool(tensors) and tensors[0].grad_fn is None  # no layer has computed its arguments
        if len(self._calls) == _CALLS or not (is_first and (nodes or paths)):
            return
        has_values = not paths and any(
            are_rows_of(entry, tensor) for entry in _with_stacks(list(inputs.values())) for tensor in tensors
        )
        has_parameters = next(module.parameters(), None) is not None
        self._calls.append(_Call(frozenset(paths), has_values, has_parameters, nodes))

    def are_changed(self, labels: Path | None, ends: Iterable[Tensor]) -> bool:
        """Return whether the modules that lead to the loss were given none of the batch's inputs.

        Args:
            labels: Path of the targets in the batch, if it is known.
            ends: The logits or the loss.
        """
        nodes = set(nodes_behind([end.grad_fn for end in ends]))
        calls = [call for call in self._calls if call.has_parameters or call.nodes & nodes]
        has_entries = any(call.has_values or call.paths - {labels} for call in calls)
        return bool(calls) and not has_entries


def _with_stacks(entries: list[Tensor]) -> list[Tensor]:
    """Return the entries, and those of one shape as one tensor: a batch may be a list of images."""
    groups = defaultdict[torch.Size, list[Tensor]](list)
    for entry in entries:
        groups[entry.shape].append(entry)
    return entries + [torch.stack(group) for group in groups.values() if len(group) > 1]


def are_rows_of(entry: Tensor, tensor: Tensor) -> bool:
    """Return whether at least half of the rows of a tensor have the numbers of some row of an entry, in any order.

    So they have after a selection of samples, a view or a conversion. Mean, norms and extreme values of rows are
    compared, which waits for the device.

    Example:
        >>> images = torch.arange(12.0).view(3, 2, 2)
        >>> are_rows_of(images, images.flip(0).flatten(1).double()), are_rows_of(images, images / 255)
        (True, False)
    """
    if entry.ndim < 2 or not len(entry) or not len(tensor) or entry[0].numel() != tensor[0].numel():
        return _is_part(entry, tensor)
    tensor = tensor[:: -(-len(tensor) // _ROWS)]
    ours, theirs = _summaries(entry)[None], _summaries(tensor)[:, None]
    # A conversion rounds to the coarser of both dtypes.
    tolerance = 4 * max(torch.finfo(_floating(values[:1]).dtype).eps for values in (entry, tensor))
    is_near = (ours - theirs).abs() <= tolerance * theirs.abs().amax(dim=2, keepdim=True)
    has_row = (is_near | (ours.isnan() & theirs.isnan())).all(dim=2).any(dim=1)
    return 2 * int(has_row.sum()) >= len(tensor)


def _is_part(entry: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor holds an entry's tokens without some at the end, as padding is cut off."""
    are_tokens = entry.ndim == tensor.ndim == 2 and not (entry.is_floating_point() or entry.is_complex())
    return are_tokens and len(entry) == len(tensor) and torch.equal(entry[:, : tensor.shape[1]], tensor)


def _floating(values: Tensor) -> Tensor:
    values = torch.view_as_real(values) if values.is_complex() else values
    return values if values.is_floating_point() else values.float()


def _summaries(values: Tensor) -> Tensor:
    """Return mean, mean absolute value, root mean square, smallest and largest value of each row, (N, 5)."""
    rows = _floating(values.detach()).flatten(1)
    count = rows.shape[1]
    norms = [torch.linalg.vector_norm(rows, p, dim=1, dtype=torch.float64) / count ** (1 / p) for p in (1, 2)]
    return torch.stack([rows.mean(dim=1, dtype=torch.float64), *norms, rows.amin(dim=1), rows.amax(dim=1)], dim=1)
