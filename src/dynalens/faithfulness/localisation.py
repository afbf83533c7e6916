"""Whether a map shows where the object is: the pointing game, and the share of relevance within the object."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Regions = Tensor | Sequence[Tensor]


def box_masks(boxes: Regions, size: Sequence[int]) -> Tensor:
    """Return for each image the mask of the pixels that lie in one of its boxes.

    Args:
        boxes: For each image (x0, y0, x1, y1) in pixels, the far edges excluded: ``(N, 4)``, or N tensors ``(M, 4)``.
        size: Height and width of the images.

    Returns:
        Shape ``(N, H, W)``, bool.

    Example:
        >>> box_masks(torch.tensor([[1, 0, 3, 1]]), (2, 3)).int()
        tensor([[[0, 1, 1],
                 [0, 0, 0]]], dtype=torch.int32)
    """
    height, width = size
    masks = []
    for image_boxes in boxes:
        x0, y0, x1, y1 = image_boxes.reshape(-1, 4).unbind(dim=1)
        x, y = torch.arange(width, device=image_boxes.device), torch.arange(height, device=image_boxes.device)
        columns = (x >= x0.unsqueeze(1)) & (x < x1.unsqueeze(1))
        rows = (y >= y0.unsqueeze(1)) & (y < y1.unsqueeze(1))
        masks.append((rows.unsqueeze(2) & columns.unsqueeze(1)).any(dim=0))
    return torch.stack(masks)


def pointing_game(maps: Tensor, regions: Regions, *, tolerance: int = 0) -> Tensor:
    r"""Return 1 if the most relevant pixel lies in the region, else 0. Higher is better.

    :math:`|T \cap R| \,/\, |T|`, where :math:`T` are the pixels with the largest relevance of the map, usually one, and
    :math:`R` are the pixels of the region, after it has grown by the tolerance. If there are several such pixels, this
    is the expected value for one of them that is drawn at random.

    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018, section 4.2. Differs from the
    source: the default tolerance is 0, there 15 pixels, and a region grows by a square, there by a circle.

    Args:
        maps: Shape ``(N, H, W)``, finite.
        regions: Masks ``(N, H, W)``, or boxes as :func:`box_masks` takes them.
        tolerance: Number of pixels by which a region grows on each side.

    Returns:
        Shape ``(N,)``, float32, in [0, 1].

    Raises:
        ValueError: If the regions are neither boxes nor of the shape of the maps.

    Example:
        The largest value, 9, is in the box of column 1 and row 0.

        >>> pointing_game(torch.tensor([[[0.0, 9.0], [1.0, 2.0]]]), torch.tensor([[1, 0, 2, 1]]))
        tensor([1.])
    """
    region = _masks(maps, regions)
    if tolerance:
        dilated_masks = F.max_pool2d(region.float().unsqueeze(1), 2 * tolerance + 1, stride=1, padding=tolerance)
        region = dilated_masks.squeeze(1) > 0
    largest = maps.flatten(1) == maps.flatten(1).amax(dim=1, keepdim=True)
    return (largest & region.flatten(1)).sum(dim=1) / largest.sum(dim=1)


def relevance_mass(maps: Tensor, regions: Regions) -> Tensor:
    r"""Return the share of the positive relevance that lies in the region. Higher is better.

    :math:`\sum_{i \in R} \max(A_i, 0) \big/ \sum_i \max(A_i, 0)`, where :math:`A_i` is the relevance of pixel i and
    :math:`R` are the pixels of the region.

    Source: Arras et al., "CLEVR-XAI", Information Fusion 81, 2022, the metric "relevance mass accuracy". Differs from
    the source: the map has one relevance for each pixel, and its negative part counts as 0. The source compares several
    ways to pool the channels of a map.

    Args:
        maps: Shape ``(N, H, W)``, finite.
        regions: Masks ``(N, H, W)``, or boxes as :func:`box_masks` takes them.

    Returns:
        Shape ``(N,)``, float32, in [0, 1]. It is NaN if no pixel has positive relevance.

    Raises:
        ValueError: If the regions are neither boxes nor of the shape of the maps.

    Example:
        The box is column 1. It holds 3 of the positive relevance, 4.

        >>> relevance_mass(torch.tensor([[[1.0, 3.0], [-5.0, 0.0]]]), torch.tensor([[1, 0, 2, 2]]))
        tensor([0.7500])
    """
    positive = maps.float().clamp(min=0).flatten(1)
    total = positive.sum(dim=1)
    return (positive * _masks(maps, regions).flatten(1)).sum(dim=1) / torch.where(total > 0, total, torch.nan)


def _masks(maps: Tensor, regions: Regions) -> Tensor:
    """Return the regions as masks, bool, in the shape of the maps."""
    boxes = not isinstance(regions, Tensor) or (regions.ndim == 2 and regions.shape[1] == 4)
    masks = box_masks(regions, maps.shape[1:]) if boxes and maps.ndim == 3 else regions
    if not isinstance(masks, Tensor) or masks.shape != maps.shape:
        shape = tuple(masks.shape) if isinstance(masks, Tensor) else f"a {type(masks).__name__} of {len(masks)}"
        raise ValueError(
            f"Expected `regions` to be masks of the shape of `maps`, {tuple(maps.shape)}, or boxes (N, 4), got "
            f"{shape}. Pass one region for each image."
        )
    return masks.to(maps.device).bool()
