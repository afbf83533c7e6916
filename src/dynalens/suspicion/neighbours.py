"""Labels that the nearest samples do not share."""

import numpy as np
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.embeddings import nearest, usable_rows


def neighbour_scores(features: Tensor, labels: Array, *, k: int = 10, references: int = 50_000) -> Array:
    r"""Return the fraction of each sample's nearest neighbours that have another label; higher is more suspicious.

    :math:`\frac{1}{k} \sum_{j \in N_k(i)} [y_j \ne y_i]`, where y are the given labels, a bracket is 1 if the condition
    holds and else 0, and :math:`N_k(i)` are the k samples :math:`j \ne i` with the largest cosine
    :math:`\langle f_i, f_j \rangle / (|f_i| |f_j|)` of their features f.

    Source: Bahri, Jiang, Gupta, "Deep k-NN for Noisy Labels", ICML 2020, Section 3. https://arxiv.org/abs/2004.12289;
    Zhu, Dong, Liu, "Detecting Corrupted Labels Without Training a Model to Predict", ICML 2022, Section 3.
    https://arxiv.org/abs/2110.06283
    Differs from the sources: the features vote once, as they are. No network is trained on trusted labels, and no vote
    is repeated with cleaned labels.

    Args:
        features: Shape ``(N, D)``, floating, on any device. The cosines are computed on this device.
        labels: Shape ``(N,)``, integers. A sample with a negative number has no label.
        k: Number of neighbours. Fewer are used if there are fewer samples.
        references: Number of samples among which neighbours are searched. If there are more samples, this many are
            drawn at random (seed 0). The cost is N x ``references`` x D products and 64 MiB of memory.

    Returns:
        Shape ``(N,)``, float64, in [0, 1]. NaN if a sample has no label or no neighbour, or if its features are zero or
        not finite. Such a sample is not a neighbour of others either.

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
