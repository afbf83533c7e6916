"""Targets of later steps that are not the labels of their rows: counted and marked on the device."""

from collections import Counter
from typing import Any

from torch import Tensor

from dynalens.dynamics import NOT_A_CLASS
from dynalens.identity.errors import SampleIdentityError
from dynalens.identity.labels import OTHER_LATER

_MOVED, _CHANGED, _UNTRACED = "moved", "changed", "untraced"


class OtherTargets:
    """Count the targets of an epoch that differ from the labels of the batch although those of the first steps agreed.

    If a trace shows that a step made its targets of the labels row by row, the step has changed labels, and the rows
    are certain. Such targets are marked, so that the step is left out. In steps that are not traced, rows may have been
    reordered instead. This is an error unless a traced step of the same epoch has changed labels.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Tensor | int] = {}
        self._is_other: Tensor | None = None

    def begin_step(self) -> None:
        """Forget the marks of the step before."""
        self._is_other = None

    def count_moved(self, number: Tensor) -> None:
        """Add targets that were reordered although nothing shows that the logits were."""
        self._add(_MOVED, number)

    def count_changed(self, number: int) -> None:
        """Add targets of a step that a trace shows to change labels, and that is left out."""
        self._add(_CHANGED, number)

    def compare(self, labels: Tensor, targets: Tensor, *, is_traced: bool) -> None:
        """Compare the targets of a step with the labels of the same rows, ``(M,)`` each.

        ``is_traced``: whether a trace showed which rows they are. It does not wait for the device.
        """
        self._is_other = (labels != targets) & (targets >= 0)
        self._add(_CHANGED if is_traced else _UNTRACED, self._is_other.sum())

    def _add(self, kind: str, number: Tensor | int) -> None:
        self._counts[kind] = self._counts[kind] + number if kind in self._counts else number

    def marked(self, presentation: Any) -> Any:
        """Return what the step shows, with changed targets marked."""
        if self._is_other is None:
            return presentation
        return presentation._replace(targets=presentation.targets.masked_fill(self._is_other, NOT_A_CLASS))

    @property
    def num_changed(self) -> int:
        """How many labels the steps of the epoch have changed. It waits for the device."""
        counts = self._numbers()
        return counts[_CHANGED] + counts[_UNTRACED]

    @property
    def are_refused(self) -> bool:
        """Whether rows of the epoch may have been reordered. It waits for the device."""
        counts = self._numbers()
        return bool(counts[_MOVED] or (counts[_UNTRACED] and not counts[_CHANGED]))

    def _numbers(self) -> Counter[str]:
        return Counter({kind: int(number) for kind, number in self._counts.items()})

    def check(self) -> None:
        """End an epoch: raise a SampleIdentityError if rows may have been reordered."""
        are_refused, counts = self.are_refused, self._numbers()
        self._counts = {}
        if are_refused:
            raise SampleIdentityError(OTHER_LATER.format(counts.total()))
