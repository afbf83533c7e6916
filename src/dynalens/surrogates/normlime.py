"""The importance of features for classes, from the linear models of many samples."""

import torch
from torch import Tensor


def normlime(maps: Tensor, labels: Tensor, *, features: Tensor | None = None) -> dict[int, Tensor]:
    r"""Return the importance of each feature for each class (NormLIME), from the linear models of single samples.

    :math:`I_c(f) = \frac{1}{|E_f|} \sum_{i \in E_f} \frac{|w_{if}|}{\lVert w_i \rVert_1} |w_{if}|`, where
    :math:`w_{if}` is the weight of feature f in the linear model of sample i for class c, and :math:`E_f` are the
    samples of the class in whose model this weight is not 0.

    A feature is a position. This is useful if positions mean the same in all samples, as in digits, aligned faces, and
    rows of a table.

    Source: Ahern et al., "NormLime: A New Feature Importance Metric for Explaining Deep Neural Networks", 2019, section
    3.

    Args:
        maps: Shape ``(N, *spatial)``: :attr:`LimeMaps.maps`, or the maps of "captum:Lime" that an AttributionMonitor
            stored. Each explains the class in ``labels``.
        labels: Shape ``(N,)``, int64.
        features: For each position the number of its feature, int64, ``spatial``. Positions of one feature share the
            mean of their weights. Default: each position is a feature.

    Returns:
        For each class that has a sample: shape ``spatial``, float32, >= 0.

    Raises:
        ValueError: If the shapes do not agree.

    Example:
        In the first sample the features have 1/4 and 3/4 of the sum of weights, in the second one 1 and 0. Feature 1
        has the importance (1/4 * 1 + 1 * 2) / 2, feature 2 has 3/4 * 3.

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
            f"Expected `features` of shape {tuple(spatial)}, got {tuple(place.shape)}. Pass for each position the "
            "number of its feature."
        )
    place = place.to(maps.device).flatten()
    weights = _feature_means(maps.float().flatten(1), place)
    total = weights.abs().sum(dim=1, keepdim=True)
    shares = torch.where(total > 0, weights.square() / total, 0.0)
    importance = {}
    for label in sorted(set(labels.tolist())):
        rows = labels == label
        counts = (weights[rows] != 0).sum(dim=0)
        importance[int(label)] = (shares[rows].sum(dim=0) / counts.clamp(min=1))[place].view(spatial)
    return importance


def _feature_means(flat: Tensor, place: Tensor) -> Tensor:
    """Return the mean (N, F) of maps (N, P) over the positions of each feature."""
    number = int(place.max()) + 1
    sums = flat.new_zeros(len(flat), number).index_add_(1, place, flat)
    return sums / torch.bincount(place, minlength=number).clamp(min=1)
