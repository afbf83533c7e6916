"""Prototypes and criticisms: samples that stand for a class, and samples that these do not stand for (MMD-critic)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.embeddings.neighbours import unit_rows, usable_rows

_BLOCK = 2**24  # kernel values held at a time, 64 MiB
_EQUAL = 1e-6  # squared distance of rows that float32 cannot tell apart
_FOR_SCALE = 2000  # samples whose distances set the scale: their median is within 5 % of the median of all


@dataclass(frozen=True)
class Representatives:
    """Samples that represent a set of samples, and samples that these do not represent (:func:`mmd_critic`).

    Attributes:
        prototypes: Rows of the prototypes, in the order in which they were chosen.
        criticisms: Rows of the criticisms, in the order in which they were chosen. None of them is a prototype.
    """

    prototypes: list[int]
    criticisms: list[int]


def mmd_critic(features: Tensor, prototypes: int, criticisms: int, *, gamma: float | None = None) -> Representatives:
    r"""Return the prototypes and criticisms of a set of samples (MMD-critic).

    Prototypes stand for the set: their distribution is close to that of all n samples, measured by the squared maximum
    mean discrepancy. They are chosen one by one. The next one added to the prototypes S is the sample that raises most
    :math:`J(S) = \frac{2}{n|S|} \sum_{i \le n, j \in S} k(x_i, x_j) - \frac{1}{|S|^2} \sum_{i, j \in S} k(x_i, x_j)`.

    Criticisms are samples that the prototypes do not stand for: at them the two distributions differ. The next one
    added to the criticisms C is the sample that raises most
    :math:`\sum_{l \in C} |\frac1n \sum_i k(x_i, x_l) - \frac{1}{|S|} \sum_{j \in S} k(x_j, x_l)| + \log\det K_{C,C}`.

    The kernel is :math:`k(x, y) = \exp(-\gamma |x - y|^2)`. Each row of features is scaled to length 1 first.

    Source: Kim, Khanna, Koyejo, "Examples are not Enough, Learn to Criticize!", NeurIPS 2016, sections 3 and 4.
    https://papers.nips.cc/paper/6300. Differs from the source: they choose :math:`\gamma` by cross-validation. The
    default here is one over the median of the squared distances (Gretton et al., "A Kernel Two-Sample Test", JMLR 2012,
    section 8).

    Args:
        features: Shape ``(n, D)``, floating. Rows that are all zeros or not finite are left out.
        prototypes: Largest number of prototypes, at least 0.
        criticisms: Largest number of criticisms, at least 0.
        gamma: Width parameter of the kernel, above 0.

    Returns:
        The rows of ``features`` that were chosen.

    Raises:
        ValueError: If a number is negative, or ``gamma`` is not positive.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0]])
        >>> mmd_critic(rows, 1, 1)
        Representatives(prototypes=[0], criticisms=[3])
    """
    if min(prototypes, criticisms) < 0 or (gamma is not None and not gamma > 0):
        raise ValueError(
            f"Expected `prototypes` and `criticisms` of at least 0 and a positive `gamma`, got {prototypes}, "
            f"{criticisms} and {gamma}. Pass numbers of samples, and no gamma for the default."
        )
    rows = usable_rows(features)
    if not len(rows):
        return Representatives([], [])
    x = unit_rows(features[torch.from_numpy(rows).to(features.device)])
    kernel = _Kernel(x, gamma)
    mean = kernel.mean()
    selection = _prototypes(kernel, mean, min(prototypes, len(rows)))
    is_candidate = np.ones(len(rows), bool)
    is_candidate[selection] = False
    prototype_mean = kernel.columns(selection).mean(axis=1) if selection else np.zeros(len(rows))
    critical = _criticisms(kernel, np.abs(mean - prototype_mean), is_candidate, criticisms)
    return Representatives(rows[selection].tolist(), rows[critical].tolist())


class _Kernel:
    def __init__(self, x: Tensor, gamma: float | None) -> None:
        self.x = x
        self._gamma = gamma if gamma is not None else 1 / _median_distance(x)

    def mean(self) -> Array:
        """Return the mean of each row of the kernel, (n,), float64, in blocks."""
        size = max(1, _BLOCK // len(self.x))
        parts = [self._kernel_rows(part).mean(dim=1) for part in torch.split(self.x, size)]
        means: Array = torch.cat(parts).cpu().numpy()
        return means

    def columns(self, rows: list[int]) -> Array:
        """Return the kernel of all with the chosen ones, (n, m), float64."""
        values: Array = self._kernel_rows(self.x[rows]).T.cpu().numpy()
        return values

    def _kernel_rows(self, rows: Tensor) -> Tensor:
        squared_distance = (2 - 2 * (rows @ self.x.T)).clamp(min=0)  # of rows of length 1
        return torch.exp(-self._gamma * squared_distance.double())


def _median_distance(x: Tensor) -> float:
    sample = x[torch.linspace(0, len(x) - 1, min(len(x), _FOR_SCALE), device=x.device).long()]
    squared_distance = (2 - 2 * (sample @ sample.T)).clamp(min=0)
    upper = squared_distance[torch.ones_like(squared_distance, dtype=torch.bool).triu(1)]
    positive = upper[upper > _EQUAL]
    return float(positive.median()) if len(positive) else 1.0


def _prototypes(kernel: _Kernel, mean: Array, number: int) -> list[int]:
    """Return the greedy choice; J of S and each candidate is updated from that of S."""
    selection: list[int] = []
    similarities, inner, outer = np.zeros(len(mean)), 0.0, 0.0  # sums of k(s, c), of k within S, and of the means of S
    for size in range(1, number + 1):
        gain = 2 * (outer + mean) / size - (inner + 2 * similarities + 1) / size**2
        gain[selection] = -np.inf
        best = int(gain.argmax())
        inner, outer = inner + 2 * float(similarities[best]) + 1, outer + float(mean[best])
        similarities = similarities + kernel.columns([best])[:, 0]
        selection.append(best)
    return selection


def _criticisms(kernel: _Kernel, witness: Array, is_candidate: Array, number: int) -> list[int]:
    """Return the greedy choice; the log determinant grows by the log of what a candidate adds to those chosen."""
    selection: list[int] = []
    is_candidate = is_candidate.copy()
    for _ in range(min(number, int(is_candidate.sum()))):
        residual = np.ones(len(witness))
        if selection:
            columns = kernel.columns(selection)
            residual = 1 - np.einsum("nm,nm->n", columns, np.linalg.solve(columns[selection], columns.T).T)
        gain = np.where(is_candidate & (residual > _EQUAL), witness + np.log(np.maximum(residual, _EQUAL)), -np.inf)
        best = int(gain.argmax())
        if not np.isfinite(gain[best]):
            break
        selection.append(best)
        is_candidate[best] = False
    return selection
