"""Why suspects are taken for another class than they are labelled: maps for the gallery."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.explanations.result import middle_slices
from dynalens.explanations.samples import PassedSuspects
from dynalens.observation import is_tokens

ContrastMaps = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From inputs (N, ...) and two classes (N,) each to maps (N, *spatial)."""


def suspect_contrasts(
    suspects: PassedSuspects | None, wanted: Mapping[Any, tuple[int, int]], contrast_maps: ContrastMaps
) -> dict[Any, Array]:
    """Return maps of what speaks for the suggested rather than the given class.

    Args:
        suspects: Ids, images and labels of the suspects that have passed.
        wanted: Suggested and given class by the sample's id.
        contrast_maps: Called with images, suggested and given classes.
    """
    if suspects is None or is_tokens(suspects[1]):
        return {}
    rows = [row for row, sample in enumerate(suspects[0]) if sample in wanted]
    if not rows:
        return {}
    ids = [suspects[0][row] for row in rows]
    suggested, labels = torch.tensor([wanted[sample] for sample in ids]).unbind(dim=1)
    maps = middle_slices(contrast_maps(suspects[1][rows], suggested, labels))
    return dict(zip(ids, maps.float().cpu().numpy(), strict=True))
