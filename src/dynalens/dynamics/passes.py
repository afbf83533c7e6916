"""What needs a pass over the classes of each presentation, in as few passes as its device allows."""

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics.statistics import Array
from dynalens.units.kinds import NOT_A_CLASS as NOT_A_CLASS

PARTS = 7
"""What the rows are made of: see :func:`class_passes`."""

_BLOCK = 2**19  # numbers computed together on the host, 2 MiB: the fastest of 2**15 to 2**20
_MANY = 16  # classes from which on a CPU goes sample by sample: with 10 to 20 both ways are equally fast
_LANES = 16  # numbers of float32 that a processor computes at once, at most
_FAR = 3e38  # times any difference of logits that a softmax can show, it is beyond the number of classes


class HostBlock:
    """Copies of logits on the host, until there are enough of them for one computation, which uses them up.

    A step's operations cost more than its numbers, and fresh memory costs as much as a pass over it: so the steps of
    all epochs are copied into the same block.

    Attributes:
        classes: K of the logits in it.
        free_rows: How many rows more have room.
    """

    def __init__(self) -> None:
        self._logits, self._targets = np.empty((0, 0), np.float32), np.empty(0, np.int64)
        self._rows = self.classes = self.free_rows = 0

    def __len__(self) -> int:
        return self._rows

    def begin(self, classes: int) -> None:
        """Make room for logits of this number of classes. The content of the block is lost."""
        rows = max(_BLOCK // classes, 1)
        self._logits, self._targets = np.empty((rows, _width(classes)), np.float32), np.empty(rows, np.int64)
        self.classes = classes
        self.drop()

    def drop(self) -> None:
        """Lose what is in it."""
        self._rows, self.free_rows = 0, len(self._targets)

    def take(self, logits: Array, targets: Array) -> None:
        """Copy rows, no more than are free."""
        begin, count = self._rows, len(targets)
        self._rows, self.free_rows = begin + count, self.free_rows - count
        self._logits[begin : begin + count, : self.classes] = logits
        self._targets[begin : begin + count] = targets

    def take_all(self) -> tuple[Tensor, Tensor]:
        """Return logits ``(n, K)``, with columns of -inf behind them, and targets ``(n,)``, where the next rows go."""
        n = self._rows
        self.drop()
        self._logits[:n, self.classes :] = -np.inf
        return torch.from_numpy(self._logits[:n]), torch.from_numpy(self._targets[:n])


def _width(classes: int) -> int:
    """Return the length of a row of the block.

    The processor computes a row that is no multiple of its lanes in up to twice the time: it waits for the end of the
    row before, just written, to read the next one.
    """
    return classes if classes < _MANY else -(-classes // _LANES) * _LANES


def class_passes(logits: Tensor, targets: Tensor, turns: Tensor, parts: Tensor, *, classes: int) -> None:
    """Write what the rows are made of into ``parts``, :data:`PARTS` times ``(N,)``.

    With the softmax q over all classes but the label: the logits of the label, of the class in turn and of the rival,
    which is the largest but the label's, the q of the rival, the 2-norm of q, the rival, and the target.

    Args:
        logits: Shape ``(N, K)``, float32, in the order of their memory; used up. Columns of -inf may follow.
        targets: Shape ``(N,)``; negative ones are taken for class 0, and so are those of K and more, which become
            :data:`NOT_A_CLASS`.
        turns: Shape ``(N,)``, a class each.
        parts: Shape ``(PARTS, N)``, float32.
        classes: K.
    """
    targets = torch.where(targets < classes, targets, NOT_A_CLASS)
    if logits.device.type != "cpu":
        torch.stack((*_by_class(logits, targets.clamp(min=0), turns, 1), targets), out=parts)
        return
    places, numbers = parts.numpy(), targets.numpy()
    if classes >= _MANY:
        _by_sample(logits, np.maximum(numbers, 0), turns.numpy(), places, classes)
    else:
        # A CPU reduces over few classes, which are few numbers in a row, one by one; over the first axis, it takes
        # many samples at once. numpy turns the axes in a third of torch's time.
        by_class = torch.from_numpy(np.ascontiguousarray(logits.numpy().T))
        pieces = _by_class(by_class, targets.clamp(min=0), turns, 0)
        for place, piece in zip(places, pieces, strict=False):  # in a third of torch's time
            place[:] = piece.numpy()
    places[-1] = numbers


def _by_sample(z: Tensor, label: Array, turn: Array, parts: Array, classes: int) -> None:
    """Go through the classes of one sample after the other, each time while its numbers are in the fastest cache.

    All but the exponentials is numpy's: its operations begin in a third of torch's time, its largest takes a tenth, and
    its product of a row with itself half of the time of torch's norm.
    """
    logits, row_starts = z.numpy().reshape(-1), np.arange(0, z.numel(), z.shape[1])
    label_places = row_starts + label
    parts[0], parts[1] = logits[label_places], logits[row_starts + turn]
    logits[label_places] = -np.inf
    rival = z.numpy().argmax(1)
    rival_places = row_starts + rival
    parts[2], parts[5] = logits[rival_places], rival
    q = torch.softmax(z, 1, out=z).numpy()
    parts[3] = q.reshape(-1)[rival_places]
    q = q[:, :classes]  # the length of a sum may change its last digits, other rows do not
    square = np.matmul(q[:, np.newaxis], q[:, :, np.newaxis])
    np.sqrt(square[:, 0, 0], out=parts[4])


def _by_class(z: Tensor, label: Tensor, turn: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Go through all samples once for each result; their classes are on the axis ``dim``."""
    label, turn = label.unsqueeze(dim), turn.unsqueeze(dim)
    label_at, turn_at = z.gather(dim, label).squeeze(dim), z.gather(dim, turn).squeeze(dim)
    largest = z.scatter_(dim, label, -torch.inf).amax(dim, keepdim=True)
    gaps = z.sub_(largest)
    rival = _first_largest(gaps, dim)
    e = gaps.scatter_(dim, label, 0.0).exp_().scatter_(dim, label, 0.0)  # a CPU's exp(-inf) is slow
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
    pair = e.numpy() if e.shape[1] > 1 else np.repeat(e.numpy(), 2, axis=1)  # numpy adds one column in another order
    total, norm = np.add.reduce(pair, axis=0), np.sqrt(np.add.reduce(np.square(pair), axis=0))
    return torch.from_numpy(total)[: e.shape[1]], torch.from_numpy(norm)[: e.shape[1]]
