"""What a linear model of the embeddings says of samples that it was not fitted to."""

from collections.abc import Callable
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


Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From logits and targets ``(N, K)`` to the sum of the losses and its gradient by the logits."""


@dataclass(frozen=True)
class LinearProbe:
    """Logistic regression, with the logits x W' + b, or ridge regression, with these predictions.

    Attributes:
        weight: W, shape ``(K, D)``.
        bias: b, shape ``(K,)``.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits, shape ``(N, K)``: of P(class | x) by a softmax, or of P(label | x) by a sigmoid."""
        return F.linear(x, self.weight, self.bias)


def class_loss(logits: Tensor, one_hot: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropies of classes, and its gradient."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p * one_hot).sum(), log_p.exp() - one_hot


def label_loss(logits: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the binary cross-entropies of labels, and its gradient; labels of NaN do not count.

    Example:
        >>> label_loss(torch.zeros(1, 2), torch.tensor([[1.0, torch.nan]]))  # log 2, and 1/2 - 1
        (tensor(0.6931), tensor([[-0.5000,  0.0000]]))
    """
    is_known = ~bits.isnan()
    losses = F.softplus(logits) - logits * bits
    return losses[is_known].sum(), torch.where(is_known, logits.sigmoid() - bits, 0.0)


def number_loss(predictions: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return half the sum of the squared residuals, and its gradient; numbers of NaN do not count.

    Example:
        >>> number_loss(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, torch.nan]]))
        (tensor(2.), tensor([[-2.,  0.]]))
    """
    residuals = torch.where(numbers.isnan(), 0.0, predictions - numbers)
    return residuals.square().sum() / 2, residuals


def out_of_fold(features: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return the logits of models that were fitted without the sample, shape ``(N, K)``, float32.

    The samples are divided into five parts at random (seed 0); a :class:`LinearProbe` is fitted to four of them and
    predicts the fifth. The features are standardised. Of penalties from 10 down by factors of the root of ten, the last
    before the loss of the first part rises is taken: features that say nothing of the labels end at the strongest,
    which predicts how frequent the classes or labels are, or the mean
    of the numbers.

    Source: Northcutt, Jiang, Chuang, "Confident Learning", JAIR 2021, Section 3, on probabilities out of sample, in
    five parts. https://arxiv.org/abs/1911.00068

    Args:
        features: Shape ``(N, D)``, finite, N at least 2.
        targets: Shape ``(N, K)``, float: one-hot classes, 1 and 0 for labels, or numbers whose mean is 0 and whose
            variance is 1.
        loss: :func:`class_loss`, :func:`label_loss` or :func:`number_loss`.
    """
    x, variance = principal_components(features)
    folds = min(FOLDS, len(x))
    part = torch.from_numpy(np.random.default_rng(0).permutation(len(x)) % folds).to(x.device)
    logits = x.new_empty(len(x), targets.shape[1])
    is_held_out = part == 0
    strength, probe = _best_penalty(x, variance, targets, part, loss)
    logits[is_held_out] = probe.logits(x[is_held_out])
    for fold in range(1, folds):
        is_train, is_held_out = part != fold, part == fold
        probe = fit_probe(x[is_train], variance, targets[is_train], strength, loss=loss)
        logits[is_held_out] = probe.logits(x[is_held_out])
    return logits


def principal_components(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the standardised features along their principal axes, float32, and the variance of each.

    A rotation changes no prediction and no penalty; the optimizer needs a tenth of the rounds along these axes. Labels
    are not used.
    """
    x = features.float()
    x = x / x.abs().amax(dim=0).clamp_min(torch.finfo(x.dtype).tiny)  # squares of huge or tiny ones have no room
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
    x: Tensor, variance: Tensor, targets: Tensor, strength: float, *, loss: Loss, start: LinearProbe | None = None
) -> LinearProbe:
    r"""Return the minimum of the mean loss of a sample plus :math:`\frac{\lambda}{2} |W|^2`, by L-BFGS.

    Args:
        x: Shape ``(N, D)``, of :func:`principal_components`.
        variance: Shape ``(D,)``, of :func:`principal_components`.
        targets: Shape ``(N, K)``, as for :func:`out_of_fold`.
        strength: The penalty, positive. scikit-learn's ``C`` is 1 / (N * strength).
        loss: As for :func:`out_of_fold`.
        start: Where to begin, for a fit to the same samples.
    """
    scale = (variance / targets.shape[1] + strength).rsqrt()  # about 1 / root of the curvature: the axes become alike
    x_scaled, penalty = x * scale, strength * scale**2
    weight = x.new_zeros(targets.shape[1], x.shape[1]) if start is None else start.weight / scale
    bias = _starting_bias(targets, loss) if start is None else start.bias.clone()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ROUNDS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe"
    )

    def penalized_loss() -> Tensor:
        loss_sum, gradient = loss(F.linear(x_scaled, weight, bias), targets)
        error = gradient / len(x)
        weight.grad, bias.grad = error.T @ x_scaled + penalty * weight, error.sum(dim=0)
        return loss_sum / len(x) + (penalty * weight.square()).sum() / 2

    optimizer.step(penalized_loss)  # type: ignore[no-untyped-call, unused-ignore]  # in some torch releases
    return LinearProbe(weight * scale, bias.detach())


def _starting_bias(targets: Tensor, loss: Loss) -> Tensor:
    """Return the bias of a model that knows about how frequent each class or label is, or the mean of each number."""
    if loss is number_loss:
        return targets.nanmean(dim=0)
    bias = (targets.nansum(dim=0) + 1).log()
    return bias - ((1 - targets).nansum(dim=0) + 1).log() if loss is label_loss else bias


def _best_penalty(x: Tensor, variance: Tensor, targets: Tensor, part: Tensor, loss: Loss) -> tuple[float, LinearProbe]:
    """Return the penalty, and the probe that was fitted with it without the first part."""
    is_train, is_held_out = part != 0, part == 0
    strength, best = _STRONGEST, float("inf")
    best_probe: tuple[float, LinearProbe] | None = None
    probe = None
    while strength >= _WEAKEST:
        probe = fit_probe(x[is_train], variance, targets[is_train], strength, loss=loss, start=probe)
        held_out_loss = float(loss(probe.logits(x[is_held_out]), targets[is_held_out])[0])
        if best_probe is not None and held_out_loss >= best:
            break
        best, best_probe, strength = held_out_loss, (strength, probe), strength / _STEP
    assert best_probe is not None
    return best_probe
