"""Select a few samples of as many classes as possible while batches pass."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class BalancedSelection:
    """Keeps the first samples that pass, and later replaces samples of frequent classes by those of rarer ones.

    Once it is full, it takes a sample if the most frequent class has at least two more samples than the sample's class
    has. The newest sample of the frequent class then goes. Samples of another size than the first one are left out.

    Example:
        >>> selection = BalancedSelection(2)
        >>> for labels in ([0, 0], [0, 1]):
        ...     _ = selection.offer(torch.zeros(2, 1, 4, 4), labels, ["a", "b"].__getitem__)
        >>> selection.result()[1].tolist(), selection.ids
        ([0, 1], ['a', 'b'])
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._rows: list[tuple[int, Tensor, int | str]] = []

    @property
    def complete(self) -> bool:
        """Whether no further sample can make the classes more even."""
        return len(self._rows) == self._number == len({label for label, _, _ in self._rows})

    @property
    def ids(self) -> list[int | str]:
        """Return the ids of the samples in the order in which they passed."""
        return [sample for _, _, sample in self._rows]

    def offer(self, images: Tensor, labels: Sequence[int], name_of: Callable[[int], int | str]) -> dict[int | str, int]:
        """Take samples of a batch that are wanted. A negative label is no class.

        Args:
            images: Shape ``(N, ...)``.
            labels: N of them.
            name_of: Gives the id of a row.

        Returns:
            The rows that were taken, by their ids.
        """
        rows_of_samples: dict[int | str, int] = {}
        for row, label in enumerate(labels):
            if label >= 0 and self._has_room_for(label, images.shape[1:]):
                sample = name_of(row)
                rows_of_samples[sample] = row
                self._rows.append((label, images[row].detach().clone(), sample))  # the step may work in place
        return rows_of_samples

    def result(self) -> tuple[Tensor, Tensor] | None:
        """Return images and labels (N,), int64, in the order in which they passed; None if there are none."""
        if not self._rows:
            return None
        images = torch.stack([image for _, image, _ in self._rows])
        labels = torch.tensor([label for label, _, _ in self._rows], device=images.device)
        return images, labels

    def _has_room_for(self, label: int, shape: torch.Size) -> bool:
        if self._rows and self._rows[0][1].shape != shape:
            return False
        if len(self._rows) < self._number:
            return True
        counts = Counter(label for label, _, _ in self._rows)
        frequent, max_count = counts.most_common(1)[0]
        if max_count < counts[label] + 2:
            return False
        newest = max(place for place, (row_label, _, _) in enumerate(self._rows) if row_label == frequent)
        del self._rows[newest]
        return True
