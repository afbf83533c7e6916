"""From explanations of many samples to those of classes."""

import torch
from torch import Tensor


def normlime(maps: Tensor, labels: Tensor, *, features: Tensor | None = None) -> dict[int, Tensor]:
    r"""Return the importance of each feature for each class, from the linear models of its samples.

    :math:`I_c(f) = \frac{1}{|E_f|} \sum_{i \in E_f} \frac{|w_{if}|}{\lVert w_i \rVert_1} |w_{if}|` with the weight
    :math:`w_{if}` of feature f in the explanation of sample i for class c, and the explanations :math:`E_f` in which it
    has one other than 0.

    Source: Ahern et al., "NormLime: A New Feature Importance Metric for Explaining Deep Neural Networks", 2019,
    section 3.

    A feature is a position: it means something where samples are aligned, as digits, faces, and rows of a table are.

    Args:
        maps: Shape ``(N, *spatial)``, such as :attr:`LimeMaps.maps`, or those of "captum:Lime" that an
            AttributionMonitor kept. Each for the class of its label.
        labels: Shape ``(N,)``, int64.
        features: Which feature each position belongs to, int64, ``spatial``, if several share one, whose weights are
            then their mean; default: each is one.

    Returns:
        For each class that has a sample: ``spatial``, float32, >= 0.

    Raises:
        ValueError: If the shapes do not agree.

    Example:
        The weights of the first sample are 1/4 and 3/4 of their sum. The second feature has none in the second.

        >>> normlime(torch.tensor([[1.0, -3.0], [2.0, 0.0]]), torch.tensor([7, 7]))
        {7: tensor([1.1250, 2.2500])}
    """
    if maps.ndim < 2 or labels.shape != maps.shape[:1]:
        raise ValueError(
            f"Expected `maps` (N, *spatial) and `labels` (N,), got {tuple(maps.shape)} and {tuple(labels.shape)}. Pass "
            "one map and one class for each sample."
        )
    spatial = maps.shape[1:]
    place = torch.arange(spatial.numel()).view(spatial) if features is None else features
    if place.shape != spatial:
        raise ValueError(
            f"Expected `features` of shape {tuple(spatial)}, got {tuple(place.shape)}. Pass the number of the feature "
            "of each position."
        )
    place = place.to(maps.device).flatten()
    weights = _of_features(maps.float().flatten(1), place)
    total = weights.abs().sum(dim=1, keepdim=True)
    shares = torch.where(total > 0, weights.square() / total, 0.0)
    importance = {}
    for label in sorted(set(labels.tolist())):
        rows = labels == label
        explained = (weights[rows] != 0).sum(dim=0)
        importance[int(label)] = (shares[rows].sum(dim=0) / explained.clamp(min=1))[place].view(spatial)
    return importance


def _of_features(flat: Tensor, place: Tensor) -> Tensor:
    """Return the mean (N, F) over the positions of each feature."""
    number = int(place.max()) + 1
    sums = flat.new_zeros(len(flat), number).index_add_(1, place, flat)
    return sums / torch.bincount(place, minlength=number).clamp(min=1)
