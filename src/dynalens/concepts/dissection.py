"""Network dissection: which channels of a layer are active where a concept is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.arguments import check_any
from dynalens.dynamics import Array
from dynalens.features import feature_maps
from dynalens.observation import device_of
from dynalens.text import escaped

DETECTOR = 0.04
"""Intersection over union from which the source calls a channel a detector of the concept."""

_TOP = 0.005  # fraction of all positions at which a channel counts as active, as in the source
_AT_ONCE = 32  # number of images in one pass


@dataclass(frozen=True, eq=False)
class Dissection:
    """How well the active positions of F channels match the masks of concepts, as :func:`dissect` returns it.

    Attributes:
        iou: Shape ``(F, concepts)``, intersection over union, in [0, 1]. It is NaN if neither the channel is active nor
            the concept present in any image.
        concepts: Names of the concepts.
        active: Shape ``(N, F, *spatial)``, bool, at the size of the images: where each channel is active.

    Example:
        >>> dissection = Dissection(np.array([[0.5, 0.0], [0.1, 0.02]]), ("sky", "tree"), torch.zeros(1, 2, 1, 1))
        >>> dissection.detectors()[["channel", "concept"]].to_numpy().tolist()
        [[0, 'sky'], [1, 'sky']]
    """

    iou: Array
    concepts: tuple[str, ...]
    active: Tensor

    def detectors(self, least: float = DETECTOR) -> pd.DataFrame:
        """Return the channels that detect a concept: those whose best concept has at least this IoU, the best first.

        The columns are ``channel``, ``concept`` and ``iou``.
        """
        shares = np.nan_to_num(self.iou, nan=-1.0)
        best = shares.argmax(axis=1)
        table = pd.DataFrame(
            {
                "channel": np.arange(len(best)),
                "concept": [self.concepts[i] for i in best],
                "iou": shares[np.arange(len(best)), best],
            }
        )
        table = table[table["iou"] >= least].sort_values("iou", ascending=False, kind="stable")
        return table.reset_index(drop=True)


def dissect(
    model: nn.Module,
    images: Tensor,
    masks: Mapping[str, Tensor],
    *,
    layer: str,
    top: float = _TOP,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Dissection:
    r"""Return how well each channel's active positions match the masks of concepts, as intersection over union (IoU).

    :math:`|A \cap L| / |A \cup L|`, where :math:`A` are the active positions of a channel in all N images and :math:`L`
    those of a concept. The maps of the channel are enlarged to the size of the images by bilinear interpolation. A
    position is active if its value is above the threshold that the channel exceeds in a fraction ``top`` of all
    positions of its maps. The model is left as it was.

    Source: Bau et al., "Network Dissection: Quantifying Interpretability of Deep Visual Representations", CVPR 2017,
    section 2.3. https://arxiv.org/abs/1704.05796. The source counts only images in which a concept is annotated. Here
    each mask covers all images.

    Args:
        model: The model.
        images: Shape ``(N, C, H, W)``, or with another number of spatial dimensions.
        masks: For the name of each concept, shape ``(N, H, W)``: where the concept is, as bool or as numbers that are
            not 0.
        layer: Dotted name of a layer whose output has a map for each channel.
        top: Fraction of the positions that are active, in (0, 1).
        forward: Callable(images) that runs the model. Default: the model.

    Raises:
        ValueError: If a mask has another shape, there is no mask, or the layer has no maps.

    Example:
        The pixels of 9 and 8 are active, the concept is the left column. They share one pixel of three.

        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten())
        >>> _ = model[0].weight.data.fill_(1.0)
        >>> images = torch.tensor([[[[9.0, 8.0], [0.0, 0.0]]]])
        >>> masks = {"left": torch.tensor([[[True, False], [True, False]]])}
        >>> dissect(model, images, masks, layer="0", top=0.5).iou
        array([[0.33333333]])
    """
    check_masks(images, masks, top)
    device = device_of(model, images)
    parts = [
        feature_maps(model, part.to(device), layer, forward=forward).cpu() for part in torch.split(images, _AT_ONCE)
    ]
    maps = torch.cat(parts)
    by_channel = maps.transpose(0, 1).flatten(1).numpy()
    threshold = torch.from_numpy(np.quantile(by_channel, 1 - top, axis=1).astype(np.float32))
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[images.ndim - 2]
    large_maps = F.interpolate(maps, size=images.shape[2:], mode=mode, align_corners=False)
    is_active = large_maps > threshold.view(1, -1, *[1] * (images.ndim - 2))
    iou = np.stack([_iou(is_active, mask.cpu() != 0) for mask in masks.values()], axis=1)
    return Dissection(iou, tuple(map(escaped, masks)), is_active)


def check_masks(images: Tensor, masks: Mapping[str, Tensor], top: float) -> None:
    """Raise a ValueError if there are no images or no masks, a mask has another shape, or ``top`` is out of range."""
    if not 0 < top < 1:
        raise ValueError(
            f"Expected `top` in (0, 1), got {top}. Pass for instance 0.005, the value of the paper for large sets "
            "of images."
        )
    check_any(images)
    shape = (len(images), *images.shape[2:])
    shapes = {name: tuple(mask.shape) for name, mask in masks.items() if tuple(mask.shape) != shape}
    if shapes or not masks:
        raise ValueError(
            f"Expected `masks` of shape {shape}, one for each image, got {shapes or 'none'}. Pass a mask for each "
            "image and concept. It is empty if the concept is not in the image."
        )


def _iou(is_active: Tensor, mask: Tensor) -> Array:
    """Return the intersection over union (F,) over all images."""
    dims = [0, *range(2, is_active.ndim)]
    intersection = (is_active & mask.unsqueeze(1)).sum(dim=dims).double()
    union = (is_active | mask.unsqueeze(1)).sum(dim=dims).double()
    ratio: Array = torch.where(union > 0, intersection / union, torch.nan).numpy()
    return ratio
