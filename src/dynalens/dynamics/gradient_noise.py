"""The noise of stochastic gradients, from the last layer's gradient of each sample, which has a closed form."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_SUMS = 4  # sums are kept of the norm, the trace, the squared length of the expected gradient, and the steps


class GradientNoise:
    r"""Measure how far the gradients of single samples scatter: their variance and the noise scale of the batch.

    With logits :math:`z = W h + b`, the gradient of sample i's cross-entropy for W and b is
    :math:`g_i = (p_i - e_{y_i}) (h_i, 1)^\top`, with its softmax :math:`p_i` and the one-hot row :math:`e_{y_i}`. Let
    :math:`\hat g` be the mean over the B samples of a step. Up to rounding, these estimates are unbiased:

    - of the trace of the covariance of the gradients,
      :math:`\hat S = \frac{1}{B - 1} \sum_i \lVert g_i - \hat g \rVert^2`,
    - of the squared length of the expected gradient, :math:`\hat G = \lVert \hat g \rVert^2 - \hat S / B`.

    The noise scale is :math:`\sum \hat S / \sum \hat G` over the steps. At this batch size, the noise of a step is as
    large as its gradient. Steps of smaller batches are mostly noise, and much larger batches waste samples.

    Source: McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, equation 2.9 and appendix A.1; the
    trace is that of the covariance of Wu et al., "On the Noisy Gradient Descent that Generalizes as SGD", ICML 2020.
    Differs from the sources: they measure the gradient of all parameters. This is the gradient of the last layer, and
    of the plain cross-entropy, whatever the loss of the training is.

    A step costs a forward pass of the last layer and about two dozen small operations, which take half a millisecond on
    one core. It does not wait for the device.

    Example:
        With one feature of 1 and no bias, a gradient is p - onehot(y): (-1/2, 1/2) for the first sample and (1/2, -1/2)
        for the second. Their mean is 0, and the trace is 4 times 1/4, divided by B - 1 = 1.

        >>> noise = GradientNoise()
        >>> noise.update(torch.ones(2, 1), torch.zeros(2, 2), torch.tensor([0, 1]), bias=False)
        >>> {name: round(value, 3) for name, value in noise.end_epoch().items()}
        {'gradient_norm': 0.0, 'gradient_variance': 1.0}
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def update(self, features: Tensor, logits: Tensor, targets: Tensor, *, bias: bool = True) -> None:
        """Add a step.

        A step of fewer than two samples, or with a number that is not finite, is left out.

        Args:
            features: Shape ``(B, D)``: the inputs h of the last layer.
            logits: Shape ``(B, K)``. With K = 1, the only logit is that of class 1, and that of class 0 is 0.
            targets: Shape ``(B,)``, int64. Samples with a negative target do not count.
            bias: Whether the layer has a bias.

        Raises:
            ValueError: If the shapes do not agree.
        """
        if features.ndim != 2 or logits.ndim != 2 or not features.shape[:1] == logits.shape[:1] == targets.shape:
            raise ValueError(
                f"Expected `features` (B, D), `logits` (B, K) and `targets` (B,), got {tuple(features.shape)}, "
                f"{tuple(logits.shape)} and {tuple(targets.shape)}. Pass one row of each for each sample."
            )
        with torch.no_grad():
            residual = _residuals(logits.detach().float(), targets)
            self._add(residual, features.detach().float(), (targets >= 0).sum(), bias=bias)

    def _add(self, residual: Tensor, features: Tensor, samples: Tensor, *, bias: bool) -> None:
        lengths = _squared_norm(residual, dim=1) * (_squared_norm(features, dim=1) + bias)
        squared_norm = (_squared_norm(residual.T @ features) + bias * _squared_norm(residual.sum(dim=0))) / samples**2
        variance = (lengths.sum() - samples * squared_norm) / (samples - 1)
        step = torch.stack(
            [squared_norm.sqrt(), variance, squared_norm - variance / samples, torch.ones_like(squared_norm)]
        )
        step = torch.where(step.isfinite().all() & (samples > 1), step, 0.0)
        wide = step.double() if step.device.type != "mps" else step  # which has no such numbers
        self._sums = wide if self._sums is None else self._sums + wide

    def end_epoch(self, gather: Callable[[Tensor], list[Tensor]] | None = None) -> dict[str, float]:
        """Return the means over the steps since the last call, by name.

        Args:
            gather: If several processes train, a callable that takes the tensor of this process, shape ``(1, 4)``, and
                returns those of all processes. All of them must call ``end_epoch``.

        Returns:
            "gradient_norm", the mean length of the mean gradients; "gradient_variance", the mean trace; and
            "noise_scale", in samples, which is missing if the estimated length of the expected gradient is not above 0.
            The dictionary is empty if there was no step.
        """
        sums = torch.zeros(_SUMS) if self._sums is None else self._sums
        self._sums = None
        rows = torch.cat(gather(sums.unsqueeze(0))) if gather is not None else sums.unsqueeze(0)
        norm, variance, squared_norm, steps = rows.sum(dim=0).tolist()
        if not steps:
            return {}
        means = {"gradient_norm": norm / steps, "gradient_variance": variance / steps}
        scale = variance / squared_norm if squared_norm > 0 else math.inf
        return means | ({"noise_scale": scale} if scale < math.inf else {})


def _squared_norm(values: Tensor, dim: int | None = None) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, dim=dim)
    return length.square()


def _residuals(logits: Tensor, targets: Tensor) -> Tensor:
    """Return p - onehot, (B, K), 0 for samples that do not count."""
    is_counted = (targets >= 0).unsqueeze(1)
    if logits.shape[1] == 1:
        residuals = logits.sigmoid() - targets.unsqueeze(1)
    else:
        residuals = logits.softmax(dim=1)
        residuals.scatter_add_(1, targets.clamp(min=0).unsqueeze(1), -torch.ones_like(residuals[:, :1]))
    return torch.where(is_counted, residuals, 0.0)
