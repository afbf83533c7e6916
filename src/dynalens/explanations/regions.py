"""Masks or boxes that come with the batch, and say where the object is in the explained samples."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynalens.faithfulness import box_masks

Where = str | int | Tensor | Callable[[Any], Any] | None
"""Key or position in the batch, a callable(batch), or the masks of the samples that were passed."""


class Regions:
    """Keeps the masks of the samples that are explained in every epoch, by the samples' ids.

    Args:
        where: Where a batch holds masks or boxes; None if it holds none.

    Example:
        >>> regions = Regions("box")
        >>> batch = {"box": torch.tensor([[0, 0, 1, 1], [0, 0, 2, 1]])}
        >>> regions.keep(batch, torch.zeros(2, 3, 1, 2), {"b": 1})
        >>> regions.regions_of(["b"]).int().tolist()
        [[[1, 1]]]
    """

    def __init__(self, place_of_regions: Where) -> None:
        self._place = place_of_regions
        self.masks: dict[int | str, Tensor] = {}

    @property
    def reads_batches(self) -> bool:
        """Whether masks are read from batches."""
        return self._place is not None and not isinstance(self._place, Tensor)

    def keep(self, batch: Any, images: Tensor, rows: Mapping[int | str, int]) -> None:
        """Copy the masks of some samples of a batch.

        Args:
            batch: What a step is given.
            images: Images of the batch, ``(N, C, *spatial)``.
            rows: For the id of each wanted sample, its row in the batch.

        Raises:
            ValueError: If the batch has no masks there, or their shape is not that of the images.
        """
        if not self.reads_batches or not rows:
            return
        masks = masks_for(self._masks_in(batch), images)
        self.masks |= {sample: masks[row].detach().clone() for sample, row in rows.items()}

    def forget_others(self, ids: Collection[int | str]) -> None:
        """Drop the masks of all samples but these."""
        self.masks = {sample: mask for sample, mask in self.masks.items() if sample in ids}

    def regions_of(self, ids: Sequence[int | str]) -> Tensor | None:
        """Return masks ``(N, *spatial)``, bool, of these samples; None if there are none."""
        masks = [self.masks[sample] for sample in ids if sample in self.masks]
        return torch.stack(masks) if masks and len(masks) == len(ids) else None

    def _masks_in(self, batch: Any) -> Any:
        if callable(self._place):
            return self._place(batch)
        try:
            return batch[self._place]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"Expected the batch to have `masks` at {self._place!r}, got a {type(batch).__name__}"
                f"{f' with the keys {sorted(map(str, batch))}' if isinstance(batch, Mapping) else ''}. Pass its key or "
                "position, or a callable(batch) -> masks (N, H, W) or boxes (N, 4)."
            ) from error


def masks_for(regions: Any, images: Tensor) -> Tensor:
    """Return masks ``(N, *spatial)``, bool, from the masks or boxes of a batch.

    Args:
        regions: Masks ``(N, *spatial)`` or ``(N, 1, *spatial)``, not 0 inside; or boxes (x0, y0, x1, y1), ``(N, 4)``
            or N tensors ``(M, 4)``.
        images: Shape ``(N, C, *spatial)``.

    Raises:
        ValueError: If their number or shape is not that of the images.
    """
    spatial = images.shape[1:] if images.ndim == 2 else images.shape[2:]
    boxes = isinstance(regions, Sequence) or (
        isinstance(regions, Tensor) and regions.shape[1:] == (4,) != tuple(spatial)
    )
    if boxes and len(spatial) == 2 and len(regions) == len(images):
        regions = box_masks([torch.as_tensor(region) for region in regions], spatial)
    if isinstance(regions, Tensor) and regions.ndim == len(spatial) + 2 and regions.shape[1] == 1:
        regions = regions.squeeze(1)
    if not isinstance(regions, Tensor) or regions.shape != (len(images), *spatial):
        kind = tuple(regions.shape) if isinstance(regions, Tensor) else f"a {type(regions).__name__}"
        raise ValueError(
            f"Expected `masks` of shape {(len(images), *spatial)} or boxes ({len(images)}, 4), got {kind}. Pass one "
            "region for each image, of the size of the image."
        )
    return regions.bool()
