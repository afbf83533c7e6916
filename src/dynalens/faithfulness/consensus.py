"""What several maps of the same images agree on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dynalens.faithfulness.agreement import rank_correlation


def consensus(maps: Sequence[Tensor] | Tensor) -> Tensor:
    r"""Return the consensus of several maps of the same images: the mean of the normalised maps.

    :math:`\frac{1}{R} \sum_r A_r / \lVert A_r \rVert_2`, where :math:`A_r` are the R maps of an image, from several
    epochs, seeds, runs or methods. Without the norm, a map would count more because its gradients are larger. A map of
    zeros adds nothing.

    Source: Li et al., "Cross-Model Consensus of Explanations and Beyond for Image Classification Models", Machine
    Learning 112 (2023), section 3.2. The source normalises the maps of LIME in this way. It scales other maps to [0,
    1], which loses their signs.

    Args:
        maps: R tensors of shape ``(N, *spatial)``.

    Returns:
        Shape ``(N, *spatial)``, float32.

    Raises:
        ValueError: If there are no maps, or their shapes differ.

    Example:
        >>> consensus([torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 10.0]])])
        tensor([[0.3000, 0.9000]])
    """
    map_sets = list(maps)
    if not map_sets or len({run_maps.shape for run_maps in map_sets}) > 1:
        shapes = ", ".join(sorted({str(tuple(run_maps.shape)) for run_maps in map_sets})) or "none"
        raise ValueError(
            f"Expected `maps` of one shape (N, *spatial), got {shapes}. Pass maps of the same images by the same "
            "method."
        )
    return torch.stack([normalised(run_maps) for run_maps in map_sets]).mean(dim=0)


def consensus_agreement(maps: Sequence[Tensor] | Tensor) -> Tensor:
    """Return how well each of R sets of maps agrees with the :func:`consensus` of the others, as a rank correlation.

    The consensus leaves out the set that is compared with it, because otherwise the set would be compared with itself.

    Args:
        maps: R tensors of shape ``(N, *spatial)``, at least 2.

    Returns:
        Shape ``(R, N)``, float32, in [-1, 1]. It is NaN if a map is constant.

    Raises:
        ValueError: If there are fewer than two tensors, or their shapes differ.

    Example:
        >>> consensus_agreement([torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0]])])
        tensor([[1.],
                [1.]])
    """
    map_sets = list(maps)
    if len(map_sets) < 2:
        raise ValueError(
            f"Expected two or more sets of `maps` to compare, got {len(map_sets)}. Pass the maps of each run."
        )
    consensus(map_sets)  # raises the error if their shapes differ
    means = [consensus(map_sets[:r] + map_sets[r + 1 :]) for r in range(len(map_sets))]
    return torch.stack([rank_correlation(run_maps, mean) for run_maps, mean in zip(map_sets, means, strict=True)])


def normalised(maps: Tensor) -> Tensor:
    """Return each map divided by its 2-norm, float32. A map of zeros stays zero."""
    maps = maps.detach().float()
    norms = maps.flatten(1).norm(dim=1).view(-1, *[1] * (maps.ndim - 1))
    return maps / torch.where(norms > 0, norms, 1)
