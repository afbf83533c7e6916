"""Which entry of a batch the flat targets of a loss come from.

All its tokens, all but the first, or those that count.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from dynalens.capture.entries import Path, entry_at
from dynalens.keys import LABEL_KEYS


class FlatTargets(NamedTuple):
    """How flat targets are divided among samples: as an entry of the batch is.

    Attributes:
        path: Where the entry stands.
        begin: Place of the first target in its row of the entry: a causal language model leaves out the first token.
        is_selection: Whether they are those targets of the entry that are not negative, in their order.
    """

    path: Path
    begin: int = 0
    is_selection: bool = False

    def shape(self, batch: object, rows: int, samples: int) -> tuple[int, ...]:
        """Return the shape of the targets if they have this number of rows."""
        entry = entry_at(batch, self.path)
        has_entry_shape = entry is not None and (self.is_selection or (entry.ndim > 2 and entry.numel() == rows))
        return tuple(entry.shape) if has_entry_shape and entry is not None else (samples, rows // samples)

    @classmethod
    def told_by(cls, targets: Tensor, entries: Iterable[tuple[Path, Tensor]], samples: int) -> "FlatTargets | None":
        """Return how the targets follow from an entry of the batch; None if they follow from none.

        Waits for the device.

        Args:
            targets: Shape ``(M,)``, negative where the loss ignores them.
            entries: Of the batch, with their paths; those that are called labels come first where several agree.
            samples: Number of samples in the batch.

        Example:
            >>> words = torch.tensor([[5, 2, 4], [1, 3, 6]])
            >>> FlatTargets.told_by(words[:, 1:].flatten(), [((0,), words)], 2)
            FlatTargets(path=(0,), begin=1, is_selection=False)
        """
        if not bool((targets >= 0).any()):
            return None
        suitable = {
            path: entry.detach().to(targets.device)
            for path, entry in sorted(entries, key=lambda item: not _is_label(item[0]))
            if entry.ndim > 1 and len(entry) == samples and not (entry.is_complex() or entry.is_nested)
        }
        if len(targets) % samples == 0:
            rows_of_targets = targets.reshape(samples, -1)
            for path, entry in suitable.items():
                rows = entry.flatten(1)
                for begin in dict.fromkeys((0, 1, rows.shape[1] - rows_of_targets.shape[1])):
                    if 0 <= begin < rows.shape[1] and _follows(rows_of_targets, rows[:, begin:]):
                        return cls(path, begin)
        paths = (path for path, entry in suitable.items() if torch.equal(entry[entry >= 0], targets))
        return next((cls(path, is_selection=True) for path in paths), None)


def _is_label(path: Path) -> bool:
    return bool(path) and path[-1] in LABEL_KEYS


def _follows(target_rows: Tensor, rows: Tensor) -> bool:
    """Return whether each target that counts equals the entry at its position, and none lies beyond the entry's end."""
    is_counted = target_rows >= 0
    common_length = min(target_rows.shape[1], rows.shape[1])
    agrees = (target_rows[:, :common_length] == rows[:, :common_length]) | ~is_counted[:, :common_length]
    return bool(agrees.all()) and not bool(is_counted[:, common_length:].any())
