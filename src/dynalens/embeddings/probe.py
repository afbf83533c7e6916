"""What a linear model of the embeddings says of samples that it was not fitted to."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FOLDS = 5
"""Parts of the samples; each is predicted by a model that was fitted to the others."""

_STRONGEST, _WEAKEST = 10.0, 1e-4  # penalties: the strongest leaves little more than class frequencies
_STEP = 10**0.5  # ratio of two penalties: near the best one the cross-entropy changes by less than .02 per step
_ROUNDS = 100  # most iterations of the optimizer; most fits end after 10 to 20
_TOLERANCE = 1e-3  # of the gradient at the end; with 1e-6 the out-of-fold cross-entropy differs by 2e-4


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression: P(class | x) = softmax(x W' + b).

    Attributes:
        weight: W, shape ``(K, D)``.
        bias: b, shape ``(K,)``.
    """

    weight: Tensor
    bias: Tensor

    def log_probabilities(self, x: Tensor) -> Tensor:
        """Return the logarithms of the probabilities, shape ``(N, K)``."""
        return F.linear(x, self.weight, self.bias).log_softmax(dim=1)


def out_of_fold(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return log P(class | features) of models that were fitted without the sample, shape ``(N, K)``, float32.

    The samples are divided into five parts at random (seed 0); a :class:`LinearProbe` is fitted to four of them and
    predicts the fifth. The features are standardised. Of penalties from 10 down by factors of the root of ten, the last
    before the cross-entropy of the first part rises is taken: features that say nothing of the labels end at the
    strongest, which predicts how frequent the classes are.

    Source: Northcutt, Jiang, Chuang, "Confident Learning", JAIR 2021, Section 3, on probabilities out of sample, in
    five parts. https://arxiv.org/abs/1911.00068

    Args:
        features: Shape ``(N, D)``, finite, N at least 2.
        labels: Shape ``(N,)``, int64, in [0, K).
        classes: K.
    """
    x, variance = principal_components(features)
    folds = min(FOLDS, len(x))
    part = torch.from_numpy(np.random.default_rng(0).permutation(len(x)) % folds).to(x.device)
    log_p = x.new_empty(len(x), classes)
    is_train, is_held_out = part != 0, part == 0
    strength, probe = _best_penalty(x, variance, labels, classes, part)
    log_p[is_held_out] = probe.log_probabilities(x[is_held_out])
    for fold in range(1, folds):
        is_train, is_held_out = part != fold, part == fold
        probe = fit_probe(x[is_train], variance, labels[is_train], classes, strength)
        log_p[is_held_out] = probe.log_probabilities(x[is_held_out])
    return log_p


def principal_components(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the standardised features along their principal axes, float32, and the variance of each.

    A rotation changes no prediction and no penalty; the optimizer needs a tenth of the rounds along these axes. Labels
    are not used.
    """
    x = features.float()
    x = x - x.mean(dim=0)
    spread = x.square().mean(dim=0).sqrt()
    x = x / torch.where(spread > 0, spread, 1)
    if x.shape[1] <= len(x):
        variance, axes = torch.linalg.eigh(x.T @ x / len(x))
        return x @ axes, variance.clamp_min(0)
    variance, axes = torch.linalg.eigh(x @ x.T / len(x))  # the same with fewer numbers
    variance = variance.clamp_min(0)
    return axes * (variance * len(x)).sqrt(), variance


def fit_probe(
    x: Tensor, variance: Tensor, labels: Tensor, classes: int, strength: float, start: LinearProbe | None = None
) -> LinearProbe:
    r"""Return the minimum of the mean cross-entropy plus :math:`\frac{\lambda}{2} |W|^2`, by L-BFGS.

    Args:
        x: Shape ``(N, D)``, of :func:`principal_components`.
        variance: Shape ``(D,)``, of :func:`principal_components`.
        labels: Shape ``(N,)``, int64, in [0, K).
        classes: K.
        strength: The penalty, positive. scikit-learn's ``C`` is 1 / (N * strength).
        start: Where to begin, for a fit to the same samples.
    """
    scale = (variance / classes + strength).rsqrt()  # about 1 / root of the curvature: the axes become alike
    x_scaled, penalty = x * scale, strength * scale**2
    one_hot = F.one_hot(labels, classes).to(x)
    weight = x.new_zeros(classes, x.shape[1]) if start is None else start.weight / scale
    bias = (one_hot.sum(dim=0) + 1).log() if start is None else start.bias.clone()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ROUNDS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        log_p = F.linear(x_scaled, weight, bias).log_softmax(dim=1)
        error = (log_p.exp() - one_hot) / len(x)
        weight.grad, bias.grad = error.T @ x_scaled + penalty * weight, error.sum(dim=0)
        return -(log_p * one_hot).sum() / len(x) + (penalty * weight.square()).sum() / 2

    optimizer.step(loss)  # type: ignore[no-untyped-call, unused-ignore]  # in some torch releases
    return LinearProbe(weight * scale, bias.detach())


def _best_penalty(x: Tensor, variance: Tensor, labels: Tensor, classes: int, part: Tensor) -> tuple[float, LinearProbe]:
    """Return the penalty, and the probe that was fitted with it without the first part."""
    is_train, is_held_out = part != 0, part == 0
    strength, best = _STRONGEST, float("inf")
    best_probe: tuple[float, LinearProbe] | None = None
    probe = None
    while strength >= _WEAKEST:
        probe = fit_probe(x[is_train], variance, labels[is_train], classes, strength, probe)
        loss = float(F.nll_loss(probe.log_probabilities(x[is_held_out]), labels[is_held_out]))
        if best_probe is not None and loss >= best:
            break
        best, best_probe, strength = loss, (strength, probe), strength / _STEP
    assert best_probe is not None
    return best_probe
