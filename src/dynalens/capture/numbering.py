"""Whether a step gives classes other numbers than the labels of its batch have."""

from collections.abc import Sequence

from torch import Tensor

from dynalens.capture.entries import Path
from dynalens.capture.labels import class_labels
from dynalens.capture.loss_tap import LossCall
from dynalens.capture.row_order import is_reordered

_REPEATS = 2
"""Fewest rows per label, on average. Fewer rows could have any targets: each would follow from its own label."""


class Numbering:
    """Compare the targets of the first steps with the labels of their batches.

    Labels are renumbered if equal labels always have the same target, and some targets differ from their label.

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
        """Compare a step's batch with its loss. Waits for the device."""
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
        """Paths at which batches hold labels that the step renumbers."""
        return frozenset(path for path in self._in_order if _is_renumbered(self._pairs[path]))


def _is_renumbered(pairs: Sequence[tuple[int, int]]) -> bool:
    kinds, targets = set(pairs), {target for _, target in pairs}
    follows = len(kinds) == len({label for label, _ in kinds}) and len(pairs) >= _REPEATS * len(kinds)
    return follows and len(targets) > 1 and any(label != target for label, target in kinds)
