"""Maps from the gradient at the image, or at points near it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice, check_positive
from dynalens.attribution.passes import Forward, check_finite
from dynalens.attribution.score import Score, score

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
    r"""Return the saliency map: the gradient of the target's logit with respect to the image.

    :math:`\partial z_y / \partial x`, where :math:`x` is the image, :math:`y` the target class and :math:`z_y` its
    logit.

    Source: Simonyan et al., "Deep Inside Convolutional Networks", 2014, section 3. The source, and Captum by default,
    take the absolute value. Here the sign is kept, and ``reduce_channels`` takes the absolute value.

    The arguments below are those of all functions that compute a map, so they are explained only here.

    Args:
        model: The model. It runs in evaluation mode and is left as it was (:func:`undisturbed`).
        images: Shape ``(N, C, *spatial)``, floating. If ``at`` is given, whatever the model takes. Not modified.
        targets: Shape ``(N,)``, int64, in [0, K): the class y to explain for each image. With shape ``(N, 2)`` each row
            is a pair of classes (a, b), and :math:`z_a - z_b` is explained: see :func:`contrast`.
        forward: Callable(images) that returns logits, shape ``(N, K)``; for two classes also ``(N,)`` or ``(N, 1)``.
            Default: ``model``.
        at: Dotted name of a layer, such as the embedding of tokens. The map is then computed for the output of this
            layer instead of the image, and has the shape of this output.
        chunk_size: Number of images in one pass, which limits the memory. Default: 16, or 8 if an image has more than
            16,384 numbers. Maps that need several passes of an image choose the number such that activations take less
            than 44 MiB on a CPU and 1 GiB on an accelerator, at most 32.

    Returns:
        Shape ``(N, C, *spatial)``, float32, on the device of ``images``. It is computed in the dtype of the model, with
        autocast off. The gradients of a float16 model are scaled, so that small ones do not become 0.

    Raises:
        ValueError: If shapes do not agree, a target is out of range, the output is not a tensor of logits or does not
            depend on the images, or the map is not finite.

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
    r"""Return the input multiplied by the gradient, element by element: :math:`x \cdot \partial z_y / \partial x`.

    :math:`x` is the image and :math:`z_y` the logit of its target y. If the model has ReLUs and no biases, each map
    sums to :math:`z_y`.

    Source: Shrikumar et al., "Not Just a Black Box", 2016, section 3.2 compares with it.

    Args:
        model: This and all arguments that are not listed here: see :func:`saliency`.

    Returns:
        As :func:`saliency`.

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
    r"""Return SmoothGrad: the gradient averaged over noisy copies of the image.

    :math:`\frac{1}{n} \sum_{k=1}^n \partial z_y / \partial x \,(x + \sigma \epsilon_k)`, where :math:`x` is the image,
    :math:`z_y` the logit of its target, :math:`n` the number of copies, :math:`\epsilon_k` standard normal noise, and
    :math:`\sigma` is ``noise`` times the difference between the largest and the smallest value of the image.

    All images of a batch get the same noise, so that a map does not depend on the other images. The noise is drawn on
    the CPU by a generator of its own, so that it is the same on every device.

    Source: Smilkov et al., "SmoothGrad", 2017, section 3.

    Args:
        model: This and all arguments that are not listed here: see :func:`saliency`.
        images: Shape ``(N, C, *spatial)``. Their memory layout is kept. Large images are faster in
            ``torch.channels_last``.
        samples: Number n of noisy copies of each image. Each costs one forward and one backward pass.
        noise: Standard deviation of the noise, as a fraction of the range of the image. The source finds 0.1 to 0.2
            best.
        seed: Seed of the noise.
        autocast: Run the model under bfloat16 autocast, which is faster. It changes a map far less than another seed
            does.
        at: Dotted name of a layer. The noise is then added to the output of this layer.
        chunk_size: Number of noisy copies in one pass.

    Returns:
        As :func:`saliency`.

    Raises:
        ValueError: As for :func:`saliency`, and if ``samples`` is not positive or ``noise`` is negative.

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
        points, generator = target_score.points, torch.Generator()
        values = points.flatten(1)
        value_range = (values.amax(dim=1) - values.amin(dim=1)).view(-1, *[1] * (points.ndim - 1))

        def noisy(k: int, rows: Tensor) -> Tensor:
            if k == 0:
                generator.manual_seed(seed)  # all samples get the same noise, whatever the batch
            draw = torch.randn(points.shape[1:], generator=generator).to(points)
            return points[rows] + noise * value_range[rows] * draw

        mean = target_score.mean_gradient(samples, noisy, torch.full((samples,), 1 / samples))
        return check_finite("smooth_grad", mean)


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
    r"""Return integrated gradients: the gradient averaged from the baseline to the image, times their difference.

    :math:`(x - x') \int_0^1 \partial z_y / \partial x \,(x' + \alpha (x - x'))\, d\alpha`, where :math:`x` is the
    image, :math:`x'` the baseline and :math:`z_y` the logit of the target. Each map sums to :math:`z_y(x) - z_y(x')`,
    up to the :func:`completeness_gap`.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, section 3. The source evaluates
    the gradient at the right end of each step, this function in the middle of it. For networks with ReLUs and 50 steps,
    this halves the gap that Captum's default (Gauss-Legendre) leaves.

    Args:
        model: This and all arguments that are not listed here: see :func:`saliency`.
        images: Shape ``(N, C, *spatial)``. Their memory layout is kept, see :func:`smooth_grad`.
        baseline: The image x' that shows nothing: a number, a tensor that broadcasts to the images, or a
            callable(images) that returns such a tensor, for instance
            ``functools.partial(baseline_images, baseline="blur")``. If ``at`` is given, it is a baseline of the output
            of that layer, or integer inputs of the model from which this output is computed.
        steps: Number of points between baseline and image. Each costs one forward and one backward pass.
        rule: Rule by which the points are chosen: "midpoint" or "gauss_legendre".
        autocast: See :func:`smooth_grad`.
        chunk_size: Number of points in one pass.

    Returns:
        As :func:`saliency`.

    Raises:
        ValueError: As for :func:`saliency`, and if ``rule`` is unknown or the baseline does not broadcast to the
            images.

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
    r"""Return the gradient at one point between baseline and image, which integrated gradients average over all points.

    :math:`\partial z_y / \partial x \,(x' + \alpha (x - x'))`, where :math:`x` is the image, :math:`x'` the baseline
    and :math:`z_y` the logit of the target. Where the logit saturates, the gradient at the image itself is nearly 0
    everywhere. With a small :math:`\alpha` it still shows which pixels matter.

    Source: Sundararajan et al., "Gradients of Counterfactuals", 2016, section 2.

    Args:
        model: This and all arguments that are not listed here: see :func:`saliency`.
        alpha: Place between baseline (0) and image (1).
        baseline: See :func:`integrated_gradients`.

    Returns:
        As :func:`saliency`.

    Raises:
        ValueError: As for :func:`integrated_gradients`, and if ``alpha`` is outside [0, 1].

    Example:
        >>> class Square(torch.nn.Module):
        ...     def forward(self, x):
        ...         return (x**2).flatten(1)
        >>> interior_gradient(Square(), torch.tensor([[[3.0, 4.0]]]), torch.tensor([1]), alpha=0.25)
        tensor([[[0., 2.]]])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"Expected `alpha` to be in [0, 1], got {alpha}. Pass 0 for the baseline, 1 for the image, or a number "
            "between them."
        )
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
    r"""Return the numerical error of integrated gradients: the sum of each map minus what it should be.

    :math:`\sum_i m_i - (z_y(x) - z_y(x'))`, where :math:`m_i` are the values of a map of :func:`integrated_gradients`,
    :math:`x` is the image, :math:`x'` the baseline and :math:`z_y` the logit of the target. If the gap is large, use
    more ``steps``.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, section 3, axiom "completeness".

    Args:
        model: This and all arguments that are not listed here: see :func:`saliency`.
        maps: Shape ``(N, ...)``, the maps of these images.
        baseline: The baseline that the maps were computed with.
        at: The layer that the maps were computed at.

    Returns:
        Shape ``(N,)``, float32, in units of the logit. It may be negative.

    Raises:
        ValueError: As for :func:`integrated_gradients`, and if there is not one map for each image.

    Example:
        >>> def cube(x: Tensor) -> Tensor:
        ...     return torch.stack([x.flatten() ** 3, x.flatten()], dim=1)
        >>> model, image, target = torch.nn.Identity(), torch.full((1, 1, 1, 1), 2.0), torch.tensor([0])
        >>> maps = integrated_gradients(model, image, target, forward=cube, steps=1)
        >>> completeness_gap(model, image, target, maps, forward=cube)  # 2 * 3 * 1^2 in the middle, instead of 2^3
        tensor([-2.])
    """
    if len(maps) != len(images):
        raise ValueError(
            f"Expected `maps` to hold one map for each of {len(images)} images, got {len(maps)} maps. Pass the "
            "maps of these images."
        )
    with score(model, images, targets, forward=forward, at=at, chunk_size=chunk_size) as target_score:
        difference = target_score.values(target_score.points) - target_score.values(_baseline(target_score, baseline))
        return maps.flatten(1).sum(dim=1) - difference


def _quadrature(rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Return points in [0, 1] and their weights, with which the integral over [0, 1] is estimated."""
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
