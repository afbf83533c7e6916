"""Copies of values of some samples, taken from the batches as they pass."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class PassingCopies:
    """Keeps the newest copy for each of some samples. Nothing waits for the device until :meth:`take`.

    Args:
        most_shapes: If batches hold indices on a device, copies of each shape take room for all samples there. Those of
            so many shapes are kept, the newest ones. None: all.

    Example:
        >>> copies = PassingCopies()
        >>> copies.follow([5])
        >>> copies.offer([4, 5], torch.tensor([[0.0], [1.0]]), torch.clone)
        >>> copies.take()
        {5: tensor([[1.]])}
    """

    def __init__(self, most_shapes: int | None = None) -> None:
        self._most_shapes = most_shapes
        self._samples: set[int] = set()
        self._order = torch.empty(0, dtype=torch.int64)
        self._copies: dict[int, Tensor] = {}
        self._on_device: list[tuple[Tensor, Tensor]] = []  # of each shape: whether a sample has passed, and its copy

    def follow(self, samples: Sequence[int], device: torch.device | None = None) -> None:
        """Look for these samples from now on. What was copied for others on a device is dropped.

        Args:
            samples: Dataset indices.
            device: Device of batches that hold their own indices.
        """
        self._samples, self._on_device = set(samples), []
        self._order = torch.tensor(list(samples), dtype=torch.int64, device=device)

    def offer(self, indices: Sequence[int] | Tensor, values: Tensor, copy: Callable[[Tensor], Tensor]) -> None:
        """Copy the rows of followed samples.

        Args:
            indices: Dataset index of each row.
            values: One row for each index.
            copy: Returns copies of some rows, which it may make smaller.
        """
        values = values.detach()
        if isinstance(indices, Tensor) and indices.device.type != "cpu":
            self._look_up(indices, values, copy)
            return
        samples = indices.tolist() if isinstance(indices, Tensor) else indices
        if self._samples.isdisjoint(samples):  # as of most batches
            return
        for row, sample in enumerate(samples):
            if sample in self._samples:
                # Not by an index held on the host, which would wait for the device.
                self._copies[sample] = copy(values.narrow(0, row, 1))

    def take(self) -> dict[int, Tensor]:
        """Return the copies by sample, each with a first axis of one, and drop them here."""
        copies, self._copies = self._copies, {}
        order = self._order.tolist()
        for is_match, device_copies in self._on_device:
            for place in is_match.nonzero().squeeze(1).tolist():
                copies[order[place]] = device_copies[place : place + 1]
        self._on_device = []
        return copies

    def _look_up(self, indices: Tensor, values: Tensor, copy: Callable[[Tensor], Tensor]) -> None:
        """Copy a row for each followed sample, whether the batch has it or not: the host does not know its indices."""
        matches = self._order.to(indices.device, non_blocking=True).unsqueeze(1) == indices.unsqueeze(0)
        is_match = matches.any(dim=1)
        copies = copy(values.index_select(0, matches.byte().argmax(dim=1)))
        for entry, (was_match, earlier_copies) in enumerate(self._on_device):
            if earlier_copies.shape == copies.shape:
                newest = torch.where(is_match.view(-1, *[1] * (copies.ndim - 1)), copies, earlier_copies)
                self._on_device[entry] = is_match | was_match, newest
                return
        self._on_device.append((is_match, copies))
        if self._most_shapes is not None:
            del self._on_device[: -self._most_shapes]


def by_shape(copies: dict[int, Tensor]) -> list[list[int]]:
    """Return the samples whose copies have one shape together, so that they go to the host in one copy."""
    samples_of: dict[torch.Size, list[int]] = {}
    for sample, copy in copies.items():
        samples_of.setdefault(copy.shape, []).append(sample)
    return list(samples_of.values())
