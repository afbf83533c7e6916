"""One small row for each presentation, made in the training step, on its device, without waiting for it."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics.passes import NOT_A_CLASS as NOT_A_CLASS
from dynalens.dynamics.passes import PARTS, HostBlock, class_passes
from dynalens.dynamics.statistics import Array
from dynalens.units.masks import CERTAIN as CERTAIN
from dynalens.units.masks import MASKED as MASKED
from dynalens.units.masks import without_half_masks

IGNORED = -1
"""Target of a presentation that the loss ignored (``ignore_index``): it is not counted."""

MARGIN, LOG_P, EL2N, RIVAL, TARGET, LOG_OTHER = range(6)
ROWS = 6


_AT_ONCE = 2**15  # numbers in a batch of logits that is large enough to be computed by itself
_TOGETHER = 2**16  # numbers in the small batches that wait to be computed together
_FINISHED = 2**13  # presentations whose rows are finished together
_INDICES = 2**13  # indices that share an array on the host, 64 KiB
_TURNS = 2**13  # classes in turn, after which they begin again


def presentation_rows(logits: Tensor, targets: Tensor, turns: Tensor | None = None) -> Tensor:
    r"""Return the six numbers that the record takes from each presentation of a sample.

    With the logits :math:`z`, the label :math:`y` and :math:`p = \mathrm{softmax}(z)`, they are in this order:

    - the margin :math:`z_y - \max_{k \ne y} z_k` (Pleiss et al. 2020, equation 1),
    - the log-probability of the label, :math:`\log p_y`,
    - EL2N, :math:`\lVert p - \mathrm{onehot}(y) \rVert_2` (Paul et al. 2021),
    - the rival, which is the class with the largest logit but the label's, or the label if all others are masked,
    - the target :math:`y`,
    - the log-probability :math:`\log p_k` of one class :math:`k`, which ``turns`` names.

    No operation waits for the device. The numbers of a presentation do not depend on the other presentations of the
    batch, except for k if ``turns`` is None, and for the last digits if torch uses several threads. A class may be
    masked by a logit of -inf: its probability is 0. If all classes but the label are masked, the margin is inf.

    Args:
        logits: Shape ``(N, K)``, K >= 2, any floating dtype; computed in float32.
        targets: Shape ``(N,)``, integers in [0, K). A negative value marks a presentation that is not counted.
            The returned target of a value of K or more is -2^31.
        turns: Shape ``(N,)``, integers in [0, K): the class k of each presentation. Default: all classes in turn.

    Returns:
        Shape ``(6, N)``, float32, on the device of ``logits``.

    Example:
        >>> import torch
        >>> presentation_rows(torch.tensor([[2.0, 0.5]]), torch.tensor([1]))[[0, 3, 4], 0]
        tensor([-1.5000,  0.0000,  1.0000])

        The margin is 0.5 - 2, the rival is class 0, and the target is class 1.
    """
    turns = in_turn(len(targets), logits.shape[1], targets.device) if turns is None else turns
    parts = torch.empty(PARTS, len(targets), device=logits.device)
    class_passes(_float_copy(logits), targets.detach(), turns, parts, classes=logits.shape[1])
    return _presentation_rows(parts)


def _float_copy(logits: Tensor) -> Tensor:
    """Return a copy that may be used up; in other strides the sums would have other last digits."""
    return logits.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _presentation_rows(parts: Tensor) -> Tensor:
    """Return the rows; some operations on one number for each presentation, which cost the same for many of them."""
    label_at, turn_at, rival_at, q_rival, q_norm, rival, target = parts.unbind()
    label, top = target.clamp(min=0), torch.maximum(label_at, rival_at)
    label_below, rival_below, turn_below = label_at - top, rival_at - top, turn_at - top
    has_no_rival = rival_below == -torch.inf  # no class is left beside the label
    # e_k = exp(z_k - top), and q_k = e_k / sum(e) over all classes but the label, so that the rival's tells the sum.
    e_others = torch.where(has_no_rival, 0.0, rival_below.exp() / q_rival)
    norm = torch.where(has_no_rival, 0.0, q_norm * e_others)
    # p_k = e_k / sum(e). One e is 1; the rest of the sum keeps its digits when p_y is near 1.
    e_rest = e_others + label_below.expm1()
    log_sum = e_rest.log1p()
    el2n = torch.hypot(norm, e_others) / (1 + e_rest)
    rival = torch.where(has_no_rival, label, rival)
    return torch.stack([label_below - rival_below, label_below - log_sum, el2n, rival, target, turn_below - log_sum])


def predicted_classes(rows: Array) -> Array:
    """Return the class with the largest logit of each presentation, the lowest one of a tie."""
    margin, target, rival = rows[MARGIN], rows[TARGET], rows[RIVAL]
    classes: Array = np.where((margin > 0) | ((margin == 0) & (target < rival)), target, rival)
    return classes


def in_turn(number: int, classes: int, device: torch.device) -> Tensor:
    """Return all K classes in turn, so many, each round one class further on: labels in turn shall not meet them.

    Example:
        >>> in_turn(7, 3, torch.device("cpu"))
        tensor([0, 1, 2, 1, 2, 0, 2])
    """
    place = torch.arange(number, device=device) % _period(classes)
    return (place + place // classes) % classes


def _period(classes: int) -> int:
    """Return after how many presentations the turns begin again: up to K rounds, so that it stays a small table."""
    return classes * min(classes, max(2, _TURNS // classes))


def _device_of(piece: Array | Tensor) -> torch.device | None:
    return piece.device if isinstance(piece, Tensor) else None


class Indices:
    """Indices of the steps of an epoch.

    Those on the host share large arrays: a small piece of memory for each step would take a tenth of its time.
    """

    def __init__(self) -> None:
        self._pieces: list[Array | Tensor] = []
        self._room, self._end = np.empty(0, np.int64), 0  # the newest array on the host, and where it is free
        self._counts = array("q")  # of each step
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def add(self, index: Sequence[int] | Tensor) -> None:
        """Copy those of one step; where it chose rows of its batch, they are on the device, and stay there."""
        count = index.shape[0] if isinstance(index, Tensor) else len(index)
        self._counts.append(count)
        self._total += count
        if isinstance(index, Tensor) and not index.is_cpu:
            self._close()
            self._pieces.append(index.clone())
            return
        begin, end = self._end, self._end + count
        if end > len(self._room):
            self._close()
            begin, end, self._room = 0, count, np.empty(max(_INDICES, count), np.int64)
        self._room[begin:end] = index.numpy() if isinstance(index, Tensor) else index
        self._end = end

    def _close(self) -> None:
        """Keep what is in the newest array; the rest of it is the next one."""
        self._pieces.append(self._room[: self._end])
        self._room, self._end = self._room[self._end :], 0

    def on_host(self) -> tuple[Array, Array]:
        """Return all M indices in their order, (M,), and the number of the step of each, (M,), int64."""
        self._close()
        pieces: list[Any] = []
        for device, device_pieces in groupby(self._pieces, key=_device_of):
            pieces_there: list[Any] = list(device_pieces)
            pieces += pieces_there if device is None else [torch.cat(pieces_there).cpu().numpy()]
        step = np.repeat(np.arange(len(self._counts)), np.asarray(self._counts))
        return np.concatenate(pieces, dtype=np.int64), step


class PendingRows:
    """The rows of the epoch under way.

    On a small batch the operations cost more than their numbers, so that the logits of small batches are copied and
    wait until there are enough for one computation.

    Args:
        probabilities: Keep the probabilities of all K classes too, 4 K bytes for each presentation.
        block: Where logits wait on the host; empty.

    Attributes:
        unit_numbers: Numbers of units of each presentation, which follow in the rows.
    """

    def __init__(self, *, probabilities: bool = False, block: HostBlock | None = None) -> None:
        self._probabilities: list[Tensor] | None = [] if probabilities else None
        self.unit_numbers: list[Tensor] = []
        self._index = Indices()
        self._rows: list[Tensor] = []
        # What is kept lies in one place: small tensors between large ones keep freed memory from being used again.
        self._parts = torch.empty(PARTS, 0)
        self._rows_in_part = 0  # presentations in it
        self._block = HostBlock() if block is None else block
        self._transfers: list[tuple[Tensor, Tensor]] = []
        self._waiting_numbers = 0
        self._kind: tuple[int, torch.dtype, torch.dtype, torch.device] | None = None
        self._earlier_rows: tuple[Array, Array, Array] | None = None
        self._rows_made = 0  # presentations whose rows are made
        self._turns = 0, torch.empty(0, dtype=torch.int64)  # of how many classes, and these in turn
        self.heads: set[int] = set()  # numbers of classes of the logits

    def __len__(self) -> int:
        continued_count = len(self._earlier_rows[0]) if self._earlier_rows else 0
        return continued_count + len(self._index)

    def add(self, index: Sequence[int] | Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add one step: N indices, logits (N, K) and targets (N,). All are copied or used up before it returns."""
        self._index.add(index)
        if logits.requires_grad:
            logits = logits.detach()
        if logits.dtype is not torch.float32:
            logits = without_half_masks(logits)
        if logits.is_cpu:
            self._copy((logits if logits.dtype is torch.float32 else logits.float()).numpy(), targets.numpy())
        else:
            self._wait(logits, targets)

    def _copy(self, logits: Array, targets: Array) -> None:
        if self._transfers or self._block.classes != logits.shape[1]:
            self._compute()
            self._block.begin(logits.shape[1])
        while self._block.free_rows <= len(targets):
            count = self._block.free_rows
            self._block.take(logits[:count], targets[:count])
            self._compute()
            logits, targets = logits[count:], targets[count:]
        self._block.take(logits, targets)

    def _wait(self, logits: Tensor, targets: Tensor) -> None:
        kind = (logits.shape[1], logits.dtype, targets.dtype, logits.device)
        at_once = logits.numel() >= _AT_ONCE
        if at_once or len(self._block) or kind != self._kind:
            self._compute()
            self._kind = kind
        if at_once:
            self._keep(_float_copy(logits), targets, logits.shape[1])
            return
        self._transfers.append((logits.clone(), targets.clone()))
        self._waiting_numbers += logits.numel()
        if self._waiting_numbers >= _TOGETHER:
            self._compute()

    def on_host(self) -> tuple[Array, Array, Array]:
        """Return index (M,), rows (6, M) and step (M,) of the M presentations in their order; the one copy to the host.

        Where probabilities are kept, they follow in the rows, (6 + K, M); so do the numbers of units.
        Index and step are int64; steps count the calls of ``add`` from 0 in each epoch, those before a checkpoint
        from -1 down.
        """
        self._compute()
        self._finish()
        index, step = self._index.on_host()
        rows = torch.cat(self._rows, dim=1).cpu().numpy() if self._rows else np.empty((ROWS, 0), np.float32)
        for extra_rows in (self._probabilities, self.unit_numbers):
            if extra_rows:
                # One by one: all of them together would need the room on the device twice.
                rows = np.concatenate([rows, np.concatenate([piece.cpu().numpy() for piece in extra_rows]).T])
        if self._earlier_rows is None:
            return index, rows, step
        earlier_index, rows_before, step_before = self._earlier_rows
        if not len(index):
            return self._earlier_rows
        return (
            np.concatenate([earlier_index, index]),
            np.concatenate([rows_before, rows], axis=1),
            np.concatenate([step_before, step]),
        )

    def continue_from(self, index: Array, rows: Array, step: Array, heads: Iterable[int]) -> None:
        """Put back what ``on_host`` returned and ``heads``, before anything is added."""
        # Every process counts its own steps from 0, and only one continues a checkpoint: its earlier ones come before.
        self._earlier_rows = (index, rows, step - step[-1] - 1) if len(index) else None
        self._rows_made = len(index)
        self.heads = set(heads)

    def _compute(self) -> None:
        if len(self._block):
            self._keep(*self._block.take_all(), self._block.classes)
        if self._transfers:
            logits, targets = (torch.cat(tensors) for tensors in zip(*self._transfers, strict=True))
            self._transfers, self._waiting_numbers = [], 0
            self._keep(logits.float(), targets, logits.shape[1])

    def _places(self, n: int, device: torch.device) -> Tensor:
        """Return where the parts of the next rows go, (PARTS, n)."""
        begin, end = self._rows_in_part, self._rows_in_part + n
        # A tensor that was made in inference mode stays one.
        is_inference = self._parts.is_inference() and not torch.is_inference_mode_enabled()
        if is_inference or end > self._parts.shape[1] or device != self._parts.device:
            self._finish()
            begin, end = 0, n
            self._parts = torch.empty(PARTS, max(_FINISHED, end), device=device)
        self._rows_in_part = end
        return self._parts.narrow(1, begin, n)

    def _finish(self) -> None:
        if self._rows_in_part:
            self._rows.append(_presentation_rows(self._parts.narrow(1, 0, self._rows_in_part)))
            self._rows_in_part = 0

    def _keep(self, logits: Tensor, targets: Tensor, classes: int) -> None:
        """Compute what the rows are made of; the logits are used up."""
        self.heads.add(classes)
        if self._probabilities is not None:
            self._probabilities.append(logits.narrow(1, 0, classes).softmax(dim=1))
        turns = self._next_turns(len(logits), classes, logits.device)
        class_passes(logits, targets, turns, self._places(len(logits), logits.device), classes=classes)
        self._rows_made += len(targets)

    @property
    def classes(self) -> int | None:
        """Number of classes; None where there is not one number of them: of nothing, and of several heads."""
        return next(iter(self.heads)) if len(self.heads) == 1 else None

    def turns(self) -> Array:
        """Return the class k of each presentation's last row, (M,), int64; -1 where that is not known."""
        if self.classes is None:
            return np.full(len(self), -1)
        return in_turn(len(self), self.classes, torch.device("cpu")).numpy()

    def _next_turns(self, n: int, classes: int, device: torch.device) -> Tensor:
        """Return which classes come next: all in turn, however the presentations are computed together."""
        period, (classes_of_turns, turns) = _period(classes), self._turns
        if classes_of_turns != classes or turns.device != device or len(turns) < period + n:
            turns = in_turn(period + n, classes, device)
            self._turns = classes, turns
        return turns.narrow(0, self._rows_made % period, n)
