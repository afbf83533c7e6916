"""Maps from the gradient at the image, or at points near it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice, check_positive
from dynalens.attribution.passes import Forward, Score, check_finite, score

Baseline = float | Tensor | Callable[[Tensor], Tensor]


def saliency(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    forward: Forward | None = None,
    at: str | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the saliency map, the gradient of the target's logit.

    :math:`\partial z_y / \partial x` with image :math:`x` and logit :math:`z_y` of the target :math:`y`.

    Source: Simonyan et al., "Deep Inside Convolutional Networks", 2014, section 3.
    Differs from the source, and from Captum's default: the sign is kept; ``reduce_channels`` takes the absolute value.

    Args:
        model: The model; undisturbed, and in evaluation mode meanwhile.
        images: Shape ``(N, C, *spatial)``, floating; with ``at``, whatever the model takes. Not modified.
        targets: Shape ``(N,)``, int64, in [0, K): the class y to explain for each image. A pair of classes (a, b) for
            each, ``(N, 2)``, explains z_a - z_b: see :func:`contrast`.
        forward: Callable(images) -> logits, (N, K), or (N,) or (N, 1) for two classes; default: ``model``.
        at: Dotted name of a layer whose output takes the place of the image, such as the embedding of tokens. The
            map then has the shape of this output.
        chunk_size: Images in one pass; bounds the memory. Default: 16, or 8 of more than 16,384 numbers each, where an
            image needs one pass; elsewhere what keeps the activations below 44 MiB on a processor and 1 GiB on an
            accelerator, at most 32.

    Returns:
        Shape ``(N, C, *spatial)``, float32, on the device of ``images``. Computed in the dtype of the model with
        autocast off: in half precision for a bfloat16 or float16 model, for the latter with its gradients scaled.

    Raises:
        ValueError: If shapes do not agree, a target is out of range, the output is no logits or no function of the
            images, or the map is not finite.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> saliency(model, torch.zeros(1, 1, 1, 2), torch.tensor([0]))
        tensor([[[[ 1., -2.]]]])
    """
    with score(model, images, targets, forward=forward, at=at, chunk_size=chunk_size) as target_score:
        return check_finite("saliency", target_score.gradients(target_score.points))


def input_x_gradient(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    forward: Forward | None = None,
    at: str | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return input times gradient, :math:`x \cdot \partial z_y / \partial x`.

    Source: Shrikumar et al., "Not Just a Black Box", 2016.

    Args:
        model: See :func:`saliency`, also for the arguments that are not named here.

    Returns:
        As :func:`saliency`. For a model without biases and with ReLUs a map sums to z_y.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> input_x_gradient(model, torch.full((1, 1, 1, 2), 5.0), torch.tensor([0]))
        tensor([[[[  5., -10.]]]])
    """
    with score(model, images, targets, forward=forward, at=at, chunk_size=chunk_size) as target_score:
        return check_finite("input_x_gradient", target_score.points * target_score.gradients(target_score.points))


def smooth_grad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    autocast: bool = False,
    forward: Forward | None = None,
    at: str | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the mean gradient over noisy copies of the image.

    :math:`\frac{1}{n} \sum_k \partial z_y / \partial x \,(x + \sigma \epsilon_k)` with standard normal
    :math:`\epsilon_k` and :math:`\sigma` = ``noise`` times (largest - smallest value of the image).

    The noise comes from a generator of its own on the CPU, so that it is the same on every device, and the same for
    each image, so that a map does not depend on the rest of its batch. On a GPU drawing it costs a copy.

    Source: Smilkov et al., "SmoothGrad", 2017, section 3.

    Args:
        model: See :func:`saliency`, also for the arguments that are not named here.
        images: Shape ``(N, C, *spatial)``. Their memory layout is kept: large images are faster in
            ``torch.channels_last``.
        samples: Noisy copies n of each image; each costs one forward and one backward pass.
        noise: The source finds 0.1 to 0.2 best.
        seed: Seed of the noise.
        autocast: Run the model under bfloat16 autocast, for speed. The change of a map is then far below that of
            another seed; for plain saliency it would not be.
        at: Name of a layer; noise is then added to its output.
        chunk_size: Copies in one pass.

    Returns:
        As :func:`saliency`.

    Raises:
        ValueError: As :func:`saliency`, and if ``samples`` is not positive or ``noise`` is below 0.

    Example:
        The gradient of a linear model is the same everywhere.

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> smooth_grad(model, torch.rand(1, 1, 1, 2), torch.tensor([1]), samples=4)
        tensor([[[[0., 3.]]]])
    """
    check_positive(samples=samples)
    if noise < 0:
        raise ValueError(f"Expected `noise` to be at least 0, got {noise}. Pass a fraction of the image's range.")
    with score(
        model, images, targets, forward=forward, at=at, chunk_size=chunk_size, autocast=autocast
    ) as target_score:
        draw = _Draws(seed, target_score.points)
        values = target_score.points.flatten(1)
        spread = (values.amax(dim=1) - values.amin(dim=1)).view(-1, *[1] * (target_score.points.ndim - 1))

        def noisy(k: int, rows: Tensor) -> Tensor:
            return target_score.points[rows] + noise * spread[rows] * draw(k)

        return check_finite(
            "smooth_grad", target_score.mean_gradient(samples, noisy, torch.full((samples,), 1 / samples))
        )


class _Draws:
    """Standard normal tensors k = 0, 1, ... of the shape of one sample, asked for in order, several times over."""

    def __init__(self, seed: int, like: Tensor) -> None:
        self.seed, self.like = seed, like
        self.generator = torch.Generator()

    def __call__(self, k: int) -> Tensor:
        if k == 0:
            self.generator.manual_seed(self.seed)
        return torch.randn(self.like.shape[1:], generator=self.generator).to(self.like)


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    baseline: Baseline = 0.0,
    steps: int = 50,
    rule: str = "midpoint",
    autocast: bool = False,
    forward: Forward | None = None,
    at: str | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the integrated gradients, the gradient's line integral from the baseline to the image.

    :math:`(x - x') \int_0^1 \partial z_y / \partial x \,(x' + \alpha (x - x'))\, d\alpha` with image :math:`x` and
    baseline :math:`x'`. A map sums to z_y(x) - z_y(x') up to :func:`completeness_gap`.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, section 3.
    Differs from the source: it sums at the right ends of the steps. The midpoints of networks with ReLUs leave half the
    gap of Captum's default, Gauss and Legendre's points, at 50 steps.

    Args:
        model: See :func:`saliency`, also for the arguments that are not named here.
        images: Shape ``(N, C, *spatial)``; their memory layout is kept, see :func:`smooth_grad`.
        baseline: The image x' that shows nothing, as for deletion curves: a number, a tensor that broadcasts to the
            images, or callable(images) -> tensor, such as ``functools.partial(baseline_images, baseline="blur")``.
            With ``at``, for the layer's output, or integer inputs of the model to compute it from.
        steps: Points on the line; each costs one forward and one backward pass.
        rule: Where they lie: "midpoint" or "gauss_legendre".
        autocast: See :func:`smooth_grad`.
        chunk_size: Points in one pass.

    Returns:
        As :func:`saliency`.

    Raises:
        ValueError: As :func:`saliency`, and if ``rule`` is unknown or the baseline does not broadcast to the images.

    Example:
        For a linear model this is weight times (image - baseline).

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> integrated_gradients(model, torch.full((1, 1, 1, 2), 5.0), torch.tensor([0]), steps=4)
        tensor([[[[  5., -10.]]]])
    """
    check_positive(steps=steps)
    alphas, weights = _quadrature(rule, steps)
    with score(
        model, images, targets, forward=forward, at=at, chunk_size=chunk_size, autocast=autocast
    ) as target_score:
        start = _baseline(target_score, baseline)

        def on_the_line(k: int, rows: Tensor) -> Tensor:
            return start[rows] + alphas[k] * (target_score.points[rows] - start[rows])

        mean = target_score.mean_gradient(steps, on_the_line, torch.tensor(weights))
        return check_finite("integrated_gradients", (target_score.points - start) * mean)


def interior_gradient(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.5,
    baseline: Baseline = 0.0,
    forward: Forward | None = None,
    at: str | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the gradient at one point between baseline and image: what integrated gradients average.

    :math:`\partial z_y / \partial x \,(x' + \alpha (x - x'))`. Where the score saturates, the gradient at the image is
    small everywhere; at a small :math:`\alpha` it still shows what matters.

    Source: Sundararajan et al., "Gradients of Counterfactuals", 2016, section 2.

    Args:
        model: See :func:`saliency`, also for the arguments that are not named here.
        alpha: Place on the line, in [0, 1].
        baseline: See :func:`integrated_gradients`.

    Returns:
        As :func:`saliency`.

    Raises:
        ValueError: As :func:`integrated_gradients`, and if ``alpha`` is outside [0, 1].

    Example:
        >>> class Square(torch.nn.Module):
        ...     def forward(self, x):
        ...         return (x**2).flatten(1)
        >>> interior_gradient(Square(), torch.tensor([[[3.0, 4.0]]]), torch.tensor([1]), alpha=0.25)
        tensor([[[0., 2.]]])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected `alpha` to be in [0, 1], got {alpha}. It is the place between baseline and image.")
    with score(model, images, targets, forward=forward, at=at, chunk_size=chunk_size) as target_score:
        start = _baseline(target_score, baseline)
        points = start + alpha * (target_score.points - start)
        return check_finite("interior_gradient", target_score.gradients(points))


def completeness_gap(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    baseline: Baseline = 0.0,
    forward: Forward | None = None,
    at: str | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return by how much each map's sum differs from what it should explain.

    :math:`\sum_i m_i - (z_y(x) - z_y(x'))` for a map :math:`m` of :func:`integrated_gradients`: the error of its steps.

    Source: Sundararajan et al., ICML 2017, section 3, axiom "completeness".

    Args:
        model: See :func:`saliency`, also for the arguments that are not named here.
        maps: Shape ``(N, ...)``.
        baseline: That of the maps.
        at: That of the maps.

    Returns:
        Shape ``(N,)``, float32, signed, in units of the logit.

    Raises:
        ValueError: As :func:`integrated_gradients`, and if there is not one map for each image.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> image, target = torch.full((1, 1, 1, 2), 5.0), torch.tensor([0])
        >>> completeness_gap(model, image, target, integrated_gradients(model, image, target)).abs() < 1e-5
        tensor([True])
    """
    if len(maps) != len(images):
        raise ValueError(
            f"Expected `maps` to hold one for each of {len(images)} images, got {len(maps)}. Pass those of the images."
        )
    with score(model, images, targets, forward=forward, at=at, chunk_size=chunk_size) as target_score:
        difference = target_score.values(target_score.points) - target_score.values(_baseline(target_score, baseline))
        return maps.flatten(1).sum(dim=1) - difference


def _quadrature(rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Return points and weights of the mean over [0, 1]."""
    check_choice("rule", rule, ("midpoint", "gauss_legendre"))
    if rule == "midpoint":
        return [(k + 0.5) / steps for k in range(steps)], [1 / steps] * steps
    points, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()


def _baseline(target_score: Score, baseline: Baseline) -> Tensor:
    """Return the baseline of each sample, in the shape of the points."""
    if callable(baseline):
        baseline = baseline(target_score.points)
    if not isinstance(baseline, Tensor):
        return torch.full_like(target_score.points, float(baseline))
    if target_score.layer is not None and not baseline.is_floating_point():
        baseline = target_score.outputs(baseline.to(target_score.inputs.device).expand_as(target_score.inputs))
    try:
        return baseline.to(target_score.points).expand_as(target_score.points)
    except RuntimeError as error:
        raise ValueError(
            f"Expected `baseline` to broadcast to {tuple(target_score.points.shape)}, got {tuple(baseline.shape)}. "
            "Pass a number, or a tensor for one or for all images."
        ) from error
