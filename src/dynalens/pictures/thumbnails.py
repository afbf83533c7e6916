"""Thumbnails of some samples, all of one size, copied from the batches as they pass."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.dynamics import Array
from dynalens.pictures.inputs import Normalisation, to_rgb
from dynalens.pictures.watch import small_copies

SIDE = 32
_IMAGES = (4, 5)  # N, C and two or three axes of space


class Thumbnails:
    """Keeps small square copies of images. The host never waits for the device while batches pass.

    Args:
        samples: M different rows of the record.
        num_rows: Number of rows of the record. Later rows are not looked for.

    Example:
        >>> thumbnails = Thumbnails([3, 1], num_rows=4)
        >>> thumbnails.see(torch.tensor([0, 1]), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
        >>> pictures = thumbnails.pictures()
        >>> pictures.shape, int(pictures[0].min())  # sample 3 has not passed
        ((2, 32, 32, 3), 255)
    """

    def __init__(self, samples: Sequence[int], num_rows: int) -> None:
        self._number = len(samples)
        # Where a row of the record is kept; the last place takes those that nobody wants.
        self._place = torch.full((num_rows + 1,), self._number)
        self._place[torch.tensor(list(samples), dtype=torch.int64)] = torch.arange(self._number)
        self._copies: Tensor | None = None
        self._is_filled = torch.zeros(0)

    def see(self, rows: Tensor, inputs: Tensor | None) -> None:
        """Copy wanted images from a batch.

        Args:
            rows: Shape ``(N,)``, int64.
            inputs: Shape ``(N, C, H, W)``, or with a third axis of space. Other inputs are left out.
        """
        if inputs is None or inputs.ndim not in _IMAGES or len(inputs) != len(rows):
            return
        small = _square(inputs.detach())
        if self._copies is None:
            self._copies = small.new_zeros(self._number + 1, *small.shape[1:])
            self._is_filled = torch.zeros(self._number + 1, dtype=torch.bool, device=small.device)
        if self._copies.shape[1:] != small.shape[1:]:
            return
        self._place = self._place.to(rows.device, non_blocking=True)
        places = self._place[rows.clamp(max=len(self._place) - 1)].to(small.device, non_blocking=True)
        self._copies.index_copy_(0, places, small)
        self._is_filled.index_fill_(0, places, True)

    def pictures(self, normalisation: Normalisation | None = None) -> Array | None:
        """Return the pictures (M, 32, 32, 3), uint8; None if no images have passed. Missing samples are white."""
        if self._copies is None or not self._number:
            return None
        thumbnails = to_rgb(self._copies[:-1], normalisation)
        thumbnails[~self._is_filled[:-1].cpu().numpy()] = 255
        return thumbnails


def _square(images: Tensor) -> Tensor:
    small = small_copies(images, SIDE)
    height, width = (max(1, round(side * SIDE / max(small.shape[2:]))) for side in small.shape[2:])
    pad_columns, pad_rows = SIDE - width, SIDE - height
    padding = (pad_columns // 2, pad_columns - pad_columns // 2, pad_rows // 2, pad_rows - pad_rows // 2)
    return F.pad(F.interpolate(small, (height, width), mode="nearest"), padding, mode="replicate")
