"""Why suspects are taken for another class than they are labelled: maps for the gallery."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.explanations.samples import PassedSuspects

ContrastMaps = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images (N, C, *spatial) and two classes (N,) each to maps (N, *spatial)."""


def suspect_contrasts(
    suspects: PassedSuspects | None, wanted: Mapping[Any, tuple[int, int]], contrast_maps: ContrastMaps
) -> dict[Any, Array]:
    """Return maps of what speaks for the suggested rather than the given class.

    Args:
        suspects: Ids, images and labels of the suspects that have passed.
        wanted: Suggested and given class by the sample's id.
        contrast_maps: Called with images, suggested and given classes.
    """
    if suspects is None or not suspects[1].is_floating_point():
        return {}
    rows = [row for row, sample in enumerate(suspects[0]) if sample in wanted]
    if not rows:
        return {}
    ids = [suspects[0][row] for row in rows]
    suggested, given = torch.tensor([wanted[sample] for sample in ids]).unbind(dim=1)
    maps = contrast_maps(suspects[1][rows], suggested, given)
    return dict(zip(ids, maps.float().cpu().numpy(), strict=True))
