"""What needs a pass over the classes of each presentation, in as few passes as its device allows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics.statistics import Array

PARTS = 7
"""What the rows are made of: see :func:`class_passes`."""

_BLOCK = 2**19  # numbers that are computed together on the host, 2 MiB: of 2**15 to 2**19 it took the least time
_MANY = 64  # classes from which on a CPU takes a sample's numbers in a row
_FAR = 3e38  # times any difference of logits that a softmax can show, it is beyond the number of classes


class HostBlock:
    """Copies of logits on the host, until there are enough of them for one computation, which uses them up.

    A step's operations cost more than its numbers, and fresh memory costs as much as a pass over it: so all steps are
    copied into the same block, and the results of passes lie in one more that is used again.
    """

    def __init__(self) -> None:
        self._logits, self._softmax = np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
        self._targets = np.empty(0, np.int64)
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def classes(self) -> int:
        """K of the logits in it."""
        return self._logits.shape[1]

    @property
    def full(self) -> bool:
        """Whether no more rows have room."""
        return self._rows == len(self._targets)

    def begin(self, classes: int) -> None:
        """Make room for logits of so many classes; what is in it is lost."""
        rows = max(_BLOCK // classes, 1)
        self._logits, self._softmax = np.empty((2, rows, classes), np.float32)
        self._targets, self._rows = np.empty(rows, np.int64), 0

    def take(self, logits: Array, targets: Array) -> int:
        """Copy the first rows, as many as have room, and return how many."""
        begin = self._rows
        self._rows = min(begin + len(targets), len(self._targets))
        count = self._rows - begin
        self._logits[begin : self._rows] = logits[:count]
        self._targets[begin : self._rows] = targets[:count]
        return count

    def emptied(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits ``(n, K)`` and targets ``(n,)``, and room for a softmax ``(n, K)``; the next rows go there."""
        n, self._rows = self._rows, 0
        logits, targets, room = (torch.from_numpy(x[:n]) for x in (self._logits, self._targets, self._softmax))
        return logits, targets, room


def class_passes(logits: Tensor, targets: Tensor, turns: Tensor, room: Tensor | None = None) -> Sequence[Tensor]:
    """Return what the rows are made of: :data:`PARTS` times ``(N,)``.

    With the softmax q over all classes but the label: the logits of the label, of the class in turn and of the rival,
    which is the largest but the label's, the q of the rival, the 2-norm of q, the rival, and the target.

    Args:
        logits: Shape ``(N, K)``, float32, in the order of their memory; used up.
        targets: Shape ``(N,)``; negative ones are taken for class 0.
        turns: Shape ``(N,)``, a class each.
        room: Shape ``(N, K)``, for a softmax on the host.
    """
    label, dim = targets.clamp(min=0), 1
    if logits.device.type == "cpu" and logits.shape[1] >= _MANY:
        return *_by_sample(logits, label, turns, room), targets
    if logits.device.type == "cpu":
        # A CPU reduces over few classes, which are few numbers in a row, one by one; over the first axis, it takes
        # many samples at once. numpy turns the axes in a third of torch's time.
        logits, dim = torch.from_numpy(np.ascontiguousarray(logits.numpy().T)), 0
    return *_by_class(logits, label, turns, dim), targets


def _by_sample(z: Tensor, label: Tensor, turn: Tensor, room: Tensor | None) -> tuple[Tensor, ...]:
    """Go through the classes of one sample after the other, each time while its numbers are in the fastest cache.

    numpy takes a tenth of torch's time for the largest, and a third for what is one number for each sample.
    """
    logits, first = z.numpy(), np.arange(0, z.numel(), z.shape[1])
    label_places = first + label.numpy()
    label_at, turn_at = logits.take(label_places), logits.take(first + turn.numpy())
    logits.put(label_places, -np.inf)
    rival = logits.argmax(1)
    q = torch.softmax(z, 1, out=room)
    parts = label_at, turn_at, logits.take(first + rival), q.numpy().take(first + rival)
    norm = torch.linalg.vector_norm(q, dim=1)
    return *(torch.from_numpy(part) for part in parts), norm, torch.from_numpy(rival)


def _by_class(z: Tensor, label: Tensor, turn: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Go through all samples once for each result; their classes are on the axis ``dim``."""
    label, turn = label.unsqueeze(dim), turn.unsqueeze(dim)
    label_at, turn_at = z.gather(dim, label).squeeze(dim), z.gather(dim, turn).squeeze(dim)
    largest = z.scatter_(dim, label, -torch.inf).amax(dim, keepdim=True)
    gaps = z.sub_(largest)
    rival = _first_largest(gaps, dim)
    e = gaps.scatter_(dim, label, 0.0).exp_().scatter_(dim, label, 0.0)  # of -inf, a CPU's exp is ten times slower
    total, norm = (_sum_and_norm if dim else _sum_and_norm_in_order)(e)
    return label_at, turn_at, largest.squeeze(dim), total.reciprocal(), norm / total, rival


def _first_largest(gaps: Tensor, dim: int) -> Tensor:
    """Return the class of the largest logit, the lowest one of a tie, by how far all are below it.

    The largest is 0 below itself and leaves the rank of its class; every other one falls far below all ranks. torch's
    ``argmax`` takes ten times as long as ``amax`` on a CPU, and may take any of a tie on a card.
    """
    classes = gaps.shape[dim]
    ranks = torch.arange(classes, 0, -1, dtype=gaps.dtype, device=gaps.device)
    return classes - torch.add(ranks.unsqueeze(1 - dim), gaps, alpha=_FAR).amax(dim)


def _sum_and_norm(e: Tensor) -> tuple[Tensor, Tensor]:
    return e.sum(dim=1), torch.linalg.vector_norm(e, dim=1)


def _sum_and_norm_in_order(e: Tensor) -> tuple[Tensor, Tensor]:
    """Add up over the first axis, in the order of the classes: torch's order depends on how many samples there are."""
    pair = e.numpy() if e.shape[1] > 1 else np.repeat(e.numpy(), 2, axis=1)  # of one sample, numpy's order is another
    total, norm = np.add.reduce(pair, axis=0), np.sqrt(np.add.reduce(np.square(pair), axis=0))
    return torch.from_numpy(total)[: e.shape[1]], torch.from_numpy(norm)[: e.shape[1]]
