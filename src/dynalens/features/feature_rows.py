"""The newest features of each sample, stored on the device of the training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

BUDGET = 2**30
"""Bytes that the features of all samples may take: 1 GiB."""

_DTYPE = torch.bfloat16  # as wide as float32, so that nothing overflows; cosines are exact to about 0.001


class FeatureRows:
    """Stores the newest feature vector of each of N samples, in bfloat16. The host never waits for the device.

    Args:
        budget: Number of bytes that the N x D values may take.

    Example:
        >>> rows = FeatureRows()
        >>> rows.update(torch.tensor([2, 0]), torch.tensor([[1.0], [2.0]]), num_samples=3)
        >>> rows.update(torch.tensor([2]), torch.tensor([[5.0]]), num_samples=3)
        >>> rows.has_row.tolist(), rows.values[:, 0].tolist()
        ([True, False, True], [2.0, 0.0, 5.0])
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        # There is one row more than there are samples. If a sample is in a batch twice, its first vector goes there.
        self._values = torch.empty(1, 0, dtype=_DTYPE)
        self._has_row = torch.zeros(1, dtype=torch.bool)
        self._stamp = torch.zeros(1, dtype=torch.int64)  # number of the step in this epoch that wrote the row, from 1
        self._step = 0

    @property
    def values(self) -> Tensor:
        """The features, shape ``(N, D)``, bfloat16: zeros for samples that have none yet."""
        return self._values[:-1]

    @property
    def has_row(self) -> Tensor:
        """Whether a sample has features, shape ``(N,)``, bool."""
        return self._has_row[:-1]

    def update(self, rows: Tensor, features: Tensor, num_samples: int) -> None:
        """Store the features of a batch. If a sample is in it twice, the later features count.

        Args:
            rows: Position of each sample, shape ``(B,)``, int64, below ``num_samples``.
            features: Shape ``(B, D)``.
            num_samples: Number of samples of the dataset. It may grow.

        Raises:
            ValueError: If the features take more than the budget, or D changes.
        """
        self._make_room(num_samples, features)
        is_repeated = (rows.unsqueeze(1) == rows).triu(1).any(dim=1)
        places = torch.where(is_repeated, len(self._has_row) - 1, rows).to(features.device, non_blocking=True)
        self._step += 1
        self._values.index_copy_(0, places, features.to(_DTYPE))
        self._has_row.index_fill_(0, places, True)
        self._stamp.index_fill_(0, places, self._step)

    def merge(self, gather: Callable[[Tensor], list[Tensor]]) -> None:
        """Give every process the newest features of all processes: those of the latest step, then of the highest rank.

        Args:
            gather: Callable(tensor) that returns the tensors of all processes. Their first dimensions may differ.
        """
        shapes = torch.cat(gather(torch.tensor([[len(self._has_row) - 1, self._values.shape[1]]])))
        length, width = shapes.amax(dim=0).tolist()
        if not width:
            return
        self._make_room(length, torch.empty(0, width, device=self._values.device))
        own_rows = self._stamp[:-1].nonzero().squeeze(1)
        row, stamp = (np.concatenate([part.numpy() for part in gather(t)]) for t in (own_rows, self._stamp[own_rows]))
        # They are sent as bytes, which every backend can gather.
        values = torch.cat(gather(self._values[own_rows].view(torch.uint8))).view(_DTYPE)
        newest_first = np.argsort(stamp, kind="stable")[::-1].copy()
        _, newest_places = np.unique(row[newest_first], return_index=True)
        newest = newest_first[newest_places]
        places = torch.from_numpy(row[newest]).to(self._values.device)
        self._values.index_copy_(0, places, values[torch.from_numpy(newest)].to(self._values.device))
        self._has_row.index_fill_(0, places, True)
        self.end_epoch()

    def end_epoch(self) -> None:
        """Count steps from the beginning again."""
        self._stamp.zero_()
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """Return copies on the host, of 2 x N x D bytes."""
        return {"values": self.values.cpu().clone(), "known": self.has_row.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the features of a checkpoint. They are moved to the device with the next batch."""
        n, width = state["values"].shape
        self._values = torch.zeros(n + 1, width, dtype=_DTYPE)
        self._has_row, self._stamp = torch.zeros(n + 1, dtype=torch.bool), torch.zeros(n + 1, dtype=torch.int64)
        self._values[:-1], self._has_row[:-1], self._step = state["values"], state["known"], 0

    def _make_room(self, num_samples: int, features: Tensor) -> None:
        """Move the rows to the device of the features, and add rows if there are fewer than samples."""
        length, width, device = len(self._has_row) - 1, features.shape[1], features.device
        if length and width != self._values.shape[1]:
            raise ValueError(
                f"Expected `features` to name a layer that always gives {self._values.shape[1]} values, got "
                f"{width}. Name a layer after the pooling, or call `reset()` if the layer was changed."
            )
        if self._values.device != device:
            self._values, self._has_row, self._stamp = (
                t.to(device) for t in (self._values, self._has_row, self._stamp)
            )
        if num_samples <= length:
            return
        size = num_samples * width * _DTYPE.itemsize
        if size > self._budget:
            raise ValueError(
                f"Expected `features` to name a layer whose outputs of all samples fit into {self._budget:,} bytes, "
                f"got {num_samples:,} samples with {width:,} values of 2 bytes, {size:,} bytes. Name a layer that "
                "gives fewer values for each sample."
            )
        max_rows = self._budget // (width * _DTYPE.itemsize)
        # If ids appear one after another, the number of rows is doubled within the budget, so that few copies are made.
        room = num_samples if not length else min(max(num_samples, 2 * length), max_rows)
        values = self._values if length else torch.zeros(1, width, dtype=_DTYPE, device=device)
        self._values, self._has_row, self._stamp = (
            _longer(t, room - length, keep=length) for t in (values, self._has_row, self._stamp)
        )


def _longer(tensor: Tensor, extra: int, *, keep: int) -> Tensor:
    """Return the first ``keep`` rows of a tensor, followed by ``extra`` rows of zeros and one more."""
    return torch.cat([tensor[:keep], tensor.new_zeros(extra + 1, *tensor.shape[1:])])
