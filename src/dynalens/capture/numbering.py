"""Whether a step numbers classes otherwise than the labels of its batch do."""

from collections.abc import Sequence

from torch import Tensor

from dynalens.capture.entries import Path
from dynalens.capture.labels import class_labels
from dynalens.capture.loss_tap import LossCall
from dynalens.capture.row_order import is_reordered

_REPEATS = 2
"""Rows that each label has at least, on average: a few labels follow from anything that is different for each row."""


class Numbering:
    """Compare the targets of the first steps with the labels of their batches.

    Labels have other numbers if the target follows from the label in all rows and is another number in some of them.

    Example:
        >>> import torch
        >>> numbering, logits = Numbering(), torch.zeros(4, 3)
        >>> labels, targets = torch.tensor([1, 2, 1, 2]), torch.tensor([0, 1, 0, 1])
        >>> loss = LossCall("cross_entropy", logits, targets, -100, direct=False)
        >>> numbering.see([((1,), labels)], loss)
        >>> numbering.paths
        frozenset({(1,)})
    """

    def __init__(self) -> None:
        self._pairs: dict[Path, list[tuple[int, int]]] = {}
        self._in_order: set[Path] = set()

    def see(self, entries: Sequence[tuple[Path, Tensor]], loss: LossCall) -> None:
        """Look at a step's batch and its loss; waits for the device."""
        targets = class_labels(loss.counted_targets(), loss=loss.name)
        if targets is None:
            return
        numbers = targets.tolist()
        for path, entry in entries:
            labels = class_labels(entry) if entry.ndim == 1 and len(entry) == len(numbers) else None
            pairs = [] if labels is None else list(zip(labels.tolist(), numbers, strict=True))
            counted_pairs = [(label, target) for label, target in pairs if label >= 0 and target >= 0]
            self._pairs.setdefault(path, []).extend(counted_pairs)
            if counted_pairs and not is_reordered(*map(list, zip(*counted_pairs, strict=True))):
                self._in_order.add(path)

    @property
    def paths(self) -> frozenset[Path]:
        """Where the batches hold labels with other numbers."""
        return frozenset(path for path in self._in_order if _is_renumbered(self._pairs[path]))


def _is_renumbered(pairs: Sequence[tuple[int, int]]) -> bool:
    kinds, targets = set(pairs), {target for _, target in pairs}
    follows = len(kinds) == len({label for label, _ in kinds}) and len(pairs) >= _REPEATS * len(kinds)
    return follows and len(targets) > 1 and any(label != target for label, target in kinds)
