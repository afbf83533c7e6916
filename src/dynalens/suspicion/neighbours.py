"""Labels that the nearest samples do not share."""

import numpy as np
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.embeddings import nearest, usable_rows


def neighbour_scores(features: Tensor, labels: Array, *, k: int = 10, references: int = 50_000) -> Array:
    r"""Return the fraction of each sample's nearest neighbours that have another label; higher is more suspicious.

    With :math:`N_k(i)` the k samples :math:`j \ne i` of the largest cosine :math:`\langle f_i, f_j \rangle / (|f_i|
    |f_j|)` between features f, and y the given labels: :math:`\frac{1}{k} \sum_{j \in N_k(i)} [y_j \ne y_i]`.

    Source: Bahri, Jiang, Gupta, "Deep k-NN for Noisy Labels", ICML 2020, Section 3. https://arxiv.org/abs/2004.12289;
    Zhu, Dong, Liu, "Detecting Corrupted Labels Without Training a Model to Predict", ICML 2022, Section 3.
    https://arxiv.org/abs/2110.06283
    Differs from the sources: one vote of the features as they are; no network is trained on trusted labels, and no
    vote is repeated with cleaned ones.

    Args:
        features: Shape ``(N, D)``, floating, of any device, on which the products are made.
        labels: Shape ``(N,)``, integers; negative where there is none.
        k: Neighbours, fewer where there are fewer samples.
        references: Neighbours are looked for among so many samples, a random choice (seed 0) of more: the cost is
            N x ``references`` x D, and 64 MiB of cosines are held at a time.

    Returns:
        Shape ``(N,)``, float64, in [0, 1]. NaN for a sample without label, whose features are zero or not finite, or
        that has no neighbour; such samples are no neighbours of others either.

    Raises:
        ValueError: If shapes do not agree or a number is below 1.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [0.0, 1.0]])  # 0, 6, 17, 90 degrees
        >>> neighbour_scores(features, np.array([0, 0, 1, 1]), k=2)
        array([0.5, 0.5, 1. , 0.5])
    """
    if features.ndim != 2 or labels.shape != (len(features),) or k < 1 or references < 1:
        raise ValueError(
            f"Expected features (N, D) with N labels and positive `k` and `references`, got {tuple(features.shape)}, "
            f"{labels.shape}, {k} and {references}. Pass one vector and one label for each sample."
        )
    scores: Array = np.full(len(features), np.nan)
    usable = usable_rows(features)
    usable = usable[labels[usable] >= 0]
    pool = np.sort(np.random.default_rng(0).permutation(usable)[:references]) if len(usable) > references else usable
    if len(pool) < 2:
        return scores
    for block, neighbour_rows in nearest(features, k, usable, pool):
        is_neighbour = neighbour_rows >= 0  # all but the sample itself
        has_other_label = (labels[neighbour_rows] != labels[usable[block]][:, None]) & is_neighbour
        scores[usable[block]] = has_other_label.sum(axis=1) / is_neighbour.sum(axis=1)
    return scores
