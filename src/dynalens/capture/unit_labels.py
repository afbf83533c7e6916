"""How an entry of a batch holds the classes, or several labels, of tokens or pixels."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dynalens.capture.entries import Path
from dynalens.capture.loss_tap import BINARY, LossCall
from dynalens.dynamics import NOT_A_CLASS
from dynalens.keys import LABEL_KEYS
from dynalens.units import PIXEL_LABELS, PIXELS, TOKEN_LABELS, TOKENS


class UnitLabels(NamedTuple):
    """How to read the class, or the labels, of each token or pixel from an entry of a batch.

    Attributes:
        axis: Of the entry, on which the classes in one-hot form or the labels stand; None: it holds the classes.
        multi_label: Whether each unit may have any number of labels.
        squeezed: Whether the entry has one channel more than there are axes of units.
    """

    axis: int | None = None
    multi_label: bool = False
    squeezed: bool = False

    def labels_of(self, entry: Tensor) -> Tensor:
        """Return classes ``(N, ...)`` or labels ``(N, K, ...)``, int64. Smoothed ones are rounded.

        A negative number stands where the entry gives no class.

        Example:
            >>> one_hot = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]])  # two classes behind three tokens
            >>> UnitLabels(axis=-1).labels_of(one_hot).tolist()
            [[1, 0, -2147483648]]
        """
        integers = (entry.round() if entry.is_floating_point() else entry).long()
        if self.axis is None:
            return integers.squeeze(1) if self.squeezed else integers
        levels = integers.movedim(self.axis, 1)
        return levels if self.multi_label else _classes_of_one_hot(levels)


CLASSES = UnitLabels()


class UnitTargets(NamedTuple):
    """Targets of a step for each token or pixel.

    Attributes:
        values: Classes ``(N, ...)`` or flat, or labels ``(N, K, ...)``; int64, negative where they do not count.
        multi_label: Whether the values are labels.
        has_fractions: Whether the targets were fractions, as smoothed ones are.
    """

    values: Tensor
    multi_label: bool
    has_fractions: bool = False

    @classmethod
    def of_kind(cls, targets: Tensor, kind: str) -> "UnitTargets":
        """Return the targets as those of this kind of units."""
        bits = CLASSES.labels_of(targets.detach())
        has_fractions = _has_fractions(targets)
        channels = bits.ndim > 3 and bits.shape[1] == 1
        if kind == TOKEN_LABELS or (kind == PIXEL_LABELS and not channels):
            return cls(bits, multi_label=True, has_fractions=has_fractions)
        is_one_hot = targets.is_floating_point() and bits.ndim > (2 if kind == TOKENS else 3) and not channels
        classes = _classes_of_one_hot(bits) if is_one_hot else bits.squeeze(1) if channels else bits
        return cls(classes, multi_label=False, has_fractions=has_fractions)

    def held_by(self, entries: Iterable[tuple[Path, Tensor]]) -> "tuple[Path, UnitLabels] | None":
        """Return the entry that holds these targets, and how it holds them; None if there is none.

        An entry of fractions, such as an image from which a threshold made a mask, counts only if these are smoothed
        labels.
        """
        if not bool((self.values >= 0).any()):
            return None
        suitable = [item for item in entries if item[1].ndim > 1 and not _is_odd(item[1])]
        candidates = [item for item in suitable if self.has_fractions or not _has_fractions(item[1])]
        for path, entry in sorted(candidates, key=_is_less_likely):
            for form in self._forms(entry):
                if self._agrees(form.labels_of(entry.detach().to(self.values.device))):
                    return path, form
        return None

    def _forms(self, entry: Tensor) -> Iterator[UnitLabels]:
        if not self.multi_label:
            yield CLASSES
        if entry.ndim > 2 and entry.shape[1] == 1 and not self.multi_label:
            yield UnitLabels(squeezed=True)
        if entry.ndim > 2:
            yield from (UnitLabels(axis, self.multi_label) for axis in (1, -1))

    def _agrees(self, values: Tensor) -> bool:
        targets = self.values
        if targets.ndim == 1 and targets.numel() == values.numel():
            targets = targets.reshape(values.shape)
        return targets.shape == values.shape and bool(((values == targets) | (targets < 0)).all())


def kind_of_units(loss: LossCall) -> str | None:
    """Return the kind of units that the targets of a loss have, by their shape; None if these are not units.

    Targets of a binary loss with an axis of labels are classes if each unit has exactly one. Waits for the device.
    """
    targets, logits = loss.targets, loss.logits
    if loss.name in BINARY:
        if targets.ndim < 3 or targets[:1].numel() == 1:
            return None
        labels = targets.ndim > 3 and targets.shape[1] > 1
        return PIXEL_LABELS if labels and bool((_classes_of_one_hot(CLASSES.labels_of(targets)) < 0).any()) else PIXELS
    if logits.ndim < 3 or targets.ndim < 2 or targets[:1].numel() == 1:
        return None
    return TOKENS if logits.ndim == 3 else PIXELS


def _is_odd(entry: Tensor) -> bool:
    return entry.is_complex() or entry.is_nested or entry.is_sparse


def _has_fractions(values: Tensor) -> bool:
    return values.is_floating_point() and bool((values != values.round()).any())


def _is_less_likely(item: tuple[Path, Tensor]) -> tuple[bool, bool]:
    """Return whether an entry holds fractions, as inputs do, and whether it has no usual key of labels."""
    path, entry = item
    return _has_fractions(entry), not (path and path[-1] in LABEL_KEYS)


def _classes_of_one_hot(levels: Tensor) -> Tensor:
    """Return the classes ``(N, ...)`` of one-hot ``(N, K, ...)``; NOT_A_CLASS where there is not exactly one 1."""
    is_one_hot = ((levels == 0) | (levels == 1)).all(dim=1) & (levels.sum(dim=1) == 1)
    return torch.where(is_one_hot, levels.argmax(dim=1), NOT_A_CLASS)
