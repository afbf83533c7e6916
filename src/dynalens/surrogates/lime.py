"""Linear models around samples, computed by Captum's LIME, with their fidelity, and with a prior for each class."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive, installed
from dynalens.attribution.captum import captum_method
from dynalens.faithfulness import patches

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LimeMaps:
    """Linear models around N samples, as :func:`lime_maps` returns them.

    Attributes:
        maps: Shape ``(N, *spatial)``, float32: for each position the weight of its feature.
        fidelity: Shape ``(N,)``, float32, at most 1: the weighted R^2 of each linear model on the perturbed copies that
            it was fitted to. It is NaN if the logit does not change at all.
        features: Shape ``spatial``, int64: for each position the number of its feature.

    Example:
        >>> LimeMaps(torch.ones(1, 2), torch.ones(1), torch.arange(2)).fidelity
        tensor([1.])
    """

    maps: Tensor
    fidelity: Tensor
    features: Tensor


def lime_maps(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    features: Tensor | None = None,
    samples: int = 1000,
    baseline: float | Tensor = 0.0,
    prior: Mapping[int, Tensor] | None = None,
    penalty: float = 1.0,
    forward: Forward | None = None,
    chunk_size: int = 50,
) -> LimeMaps:
    r"""Return the weights of LIME's linear model around each sample, or with ``prior`` those of G-LIME.

    The weights :math:`w` minimise :math:`\sum_k \pi_k (z_k - b - v_k^\top w)^2 + \lambda \lVert w - w_0 \rVert^2` over
    perturbed copies k of the sample, where :math:`z_k` is the target's logit for copy k, :math:`v_k` says which
    features are kept in it (1) or replaced (0), :math:`\pi_k` is Captum's similarity of the copy to the sample,
    :math:`b` is the intercept, :math:`\lambda` the penalty, and :math:`w_0` the prior, 0 in LIME.

    The perturbed copies are the same in each call. A sample costs ``samples`` forward passes.

    Source: Ribeiro et al., "Why Should I Trust You?", KDD 2016 (LIME), computed by ``captum.attr.Lime`` and
    scikit-learn's ``Ridge``; Li et al., "G-LIME: Statistical learning for local interpretations of deep neural networks
    using global priors", 2023, for the prior. :func:`normlime` of other samples is such a prior.

    Args:
        model: Returns logits (N, K).
        images: Shape ``(N, C, *spatial)``, floating. Pass rows of a table as (N, 1, F). Not modified.
        targets: Shape ``(N,)``, int64.
        features: For each position the number of its feature, int64, ``spatial``. Default: a grid of 7 x 7 patches.
        samples: Number of perturbed copies of each sample.
        baseline: What replaced features show: a value, or a tensor that broadcasts to the images.
        prior: For a class, weights ``spatial``. The weights of its samples are drawn towards them.
        penalty: :math:`\lambda`, at least 0.
        forward: Callable(images) that returns logits. Default: ``model``.
        chunk_size: Number of perturbed copies in one forward pass.

    Returns:
        The maps, their fidelity, and the features.

    Raises:
        ValueError: If Captum or scikit-learn is not installed, or shapes do not agree.

    Example:
        For a linear model, the weight of a feature is its value times the model's weight: 3 * 1 and 2 * -2.

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> image, label = torch.tensor([[[3.0, 2.0]]]), torch.tensor([0])
        >>> surrogate = lime_maps(model, image, label, samples=64, penalty=1e-4)
        >>> surrogate.maps.round(decimals=2), surrogate.fidelity.round(decimals=2)
        (tensor([[ 3., -4.]]), tensor([1.]))
    """
    check_positive(samples=samples, chunk_size=chunk_size)
    place = patches(images.shape[2:]) if features is None else features.cpu()
    if place.shape != images.shape[2:]:
        raise ValueError(
            f"Expected `features` of shape {tuple(images.shape[2:])}, got {tuple(place.shape)}. Pass for each position "
            "the number of its feature."
        )
    attribute = captum_method("captum:Lime")
    maps, fidelity = [], []
    for image, target in zip(torch.split(images, 1), torch.split(targets, 1), strict=True):
        prior_of_class = None if prior is None else prior.get(int(target))
        ridge = _Ridge(_prior_weights(prior_of_class, place), penalty)
        weights = attribute(
            model, image, target, forward=forward, interpretable_model=ridge, n_samples=samples,
            perturbations_per_eval=chunk_size, baselines=baseline,
            feature_mask=place.expand(1, image.shape[1], *place.shape),
        )  # fmt: skip
        maps.append(weights[:, 0])
        fidelity.append(ridge.fidelity)
    return LimeMaps(torch.cat(maps), torch.tensor(fidelity), place)


def _prior_weights(prior: Tensor | None, place: Tensor) -> Tensor:
    """Return the prior weight of each feature, (F,): that of one of its positions, or 0 without a prior."""
    weights = torch.zeros(int(place.max()) + 1, dtype=torch.float64)
    if prior is not None:
        weights[place.flatten()] = prior.detach().cpu().double().flatten()
    return weights


class _Ridge:
    """A ridge regression in the form that Captum's LIME takes: with the methods ``fit`` and ``representation``."""

    def __init__(self, prior: Tensor, penalty: float) -> None:
        self._prior, self._penalty = prior.numpy(), penalty
        self._weights = self._prior
        self.fidelity = float("nan")

    def fit(self, batches: Iterable[Any], **_options: Any) -> None:
        """Fit the weights to the perturbed copies, and compute the fidelity."""
        presence, logits, similarity = (
            torch.cat(list(part)).cpu().double().numpy() for part in zip(*batches, strict=True)
        )
        with installed("scikit-learn", "a surrogate", "scikit-learn"):
            from sklearn.linear_model import Ridge
            from sklearn.metrics import r2_score
        ridge = Ridge(alpha=self._penalty)
        ridge.fit(presence, logits - presence @ self._prior, sample_weight=similarity)
        self._weights = ridge.coef_ + self._prior
        if logits.min() < logits.max():
            predictions = ridge.intercept_ + presence @ self._weights
            self.fidelity = float(r2_score(logits, predictions, sample_weight=similarity))

    def representation(self) -> Tensor:
        """Return the weights, shape ``(1, F)``."""
        return torch.as_tensor(self._weights).float().unsqueeze(0)
