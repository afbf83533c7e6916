"""What replaced pixels show, in which order they are replaced, and how many at each step."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.arguments import check_positive
from dynalens.observation import is_tokens

Baseline = str | int | Tensor | Callable[[Tensor], Tensor]

BASELINES = ("blur", "zero", "mean")
_BLUR_FRACTION = 8
"""The standard deviation of the blur is the longest side divided by this number."""


def replaced_pixels(pixels: int, steps: int) -> list[int]:
    """Return how many of P pixels are replaced at step k = 0, ..., steps: Python's ``round(k * P / steps)``.

    Raises:
        ValueError: If ``steps`` is smaller than 1.

    Example:
        >>> replaced_pixels(6, 4)
        [0, 2, 3, 4, 6]
    """
    check_positive(steps=steps)
    return [round(k * pixels / steps) for k in range(steps + 1)]


def replaced_fractions(pixels: int, steps: int) -> Tensor:
    """Return the fraction of replaced pixels at each step of a curve: shape ``(steps + 1,)``, float64, in [0, 1].

    Entry k is round(k * P / steps) / P, where P is the number of positions.

    Args:
        pixels: Number P of positions.
        steps: Number of steps.

    Example:
        >>> replaced_fractions(4, 2).tolist()
        [0.0, 0.5, 1.0]
    """
    return torch.tensor(replaced_pixels(pixels, steps), dtype=torch.float64) / pixels


def check_baseline(baseline: Baseline) -> Baseline:
    """Return ``baseline``, or raise a ValueError if it cannot be a baseline.

    Example:
        >>> check_baseline("blur"), check_baseline(0)
        ('blur', 0)
    """
    number = isinstance(baseline, int) and not isinstance(baseline, bool)
    if number or isinstance(baseline, Tensor) or callable(baseline) or baseline in BASELINES:
        return baseline
    raise ValueError(
        f"Expected `baseline` to be one of {', '.join(BASELINES)}, an integer, a tensor or a callable, got "
        f"{baseline!r}. Choose one of them."
    )


def baseline_images(images: Tensor, baseline: Baseline) -> Tensor:
    """Return the baseline of each image: what replaced pixels show.

    Args:
        images: Shape ``(N, C, *spatial)``.
        baseline: "blur", a Gaussian blur with a standard deviation of an eighth of the longest side and mirrored edges;
            "zero", in the input space of the model; "mean", the mean of each image and channel; a tensor that
            broadcasts to the images; or a callable(images) that returns such a tensor.

    Returns:
        Shape of ``images``.

    Raises:
        ValueError: If ``baseline`` is unknown or does not broadcast to the images.

    Example:
        >>> baseline_images(torch.tensor([[[[1.0, 3.0]]]]), "mean")
        tensor([[[[2., 2.]]]])
    """
    return replacement(images, baseline).expand_as(images)


def replacement(images: Tensor, baseline: Baseline) -> Tensor:
    """Return :func:`baseline_images`, of shape ``(1, C, *spatial)`` if all images have the same baseline."""
    check_baseline(baseline)
    if isinstance(baseline, int):
        return torch.full_like(images[:1], baseline)
    if isinstance(baseline, str):
        if not images.is_floating_point():
            raise _no_token(repr(baseline))
        if baseline == "zero":
            return torch.zeros_like(images[:1])
        if baseline == "mean":
            return images.flatten(2).mean(dim=2).view(images.shape[:2] + (1,) * (images.ndim - 2)).expand_as(images)
        return blurred(images, max(images.shape[2:]) / _BLUR_FRACTION)
    values = baseline if isinstance(baseline, Tensor) else baseline(images)
    if values.is_floating_point() and not images.is_floating_point():
        raise _no_token(f"values of {values.dtype}")
    values = values.to(images)
    one_for_each = values.ndim == images.ndim and len(values) == len(images)
    try:
        return values.expand(len(images) if one_for_each else 1, *images.shape[1:])
    except RuntimeError:
        raise ValueError(
            f"Expected `baseline` to broadcast to images {tuple(images.shape)}, got {tuple(values.shape)}. "
            "Pass one value, one image or an image for each."
        ) from None


def _no_token(description: str) -> ValueError:
    return ValueError(
        f"Expected `baseline` for tokens to be the id of a token without meaning, got {description}. Pass the id of "
        "the mask token or of the token of unknown words, such as `baseline=1`, or leave the curves out: `metrics=()`."
    )


def random_ranking(images: Tensor, seed: int = 0) -> Tensor:
    """Return maps that rank the pixels of each image at random. Any faithful map must beat them.

    Args:
        images: Shape ``(N, C, *spatial)``, or tokens (N, T). Only the shape and the device matter.
        seed: Seed of the rankings. The ranking of the i-th image does not depend on the number of images.

    Returns:
        Shape ``(N, *spatial)``, float32, without ties.

    Example:
        >>> random_ranking(torch.zeros(1, 3, 1, 4)).sort().values
        tensor([[[0., 1., 2., 3.]]])
    """
    space = images.shape[1:] if is_tokens(images) else images.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    maps = torch.empty(len(images), space.numel())
    for ranks in maps:
        ranks.copy_(torch.randperm(space.numel(), generator=generator))
    return maps.view(len(images), *space).to(images.device, non_blocking=True)


def tie_fraction(maps: Tensor) -> Tensor:
    """Return the fraction of a map's pixels that share their value with another pixel, so that the seed orders them.

    Args:
        maps: Shape ``(N, *spatial)``.

    Returns:
        Shape ``(N,)``, float32, in [0, 1].

    Example:
        >>> tie_fraction(torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor([0.5000])
    """
    sorted_values = maps.flatten(1).sort(dim=1).values
    equal = sorted_values[:, 1:] == sorted_values[:, :-1]
    return (F.pad(equal, (1, 0)) | F.pad(equal, (0, 1))).float().mean(dim=1)


def patch_relevance(maps: Tensor, patch_size: int) -> Tensor:
    """Return the mean relevance of each square patch, so that coarse and fine maps are compared at one resolution.

    Args:
        maps: Shape ``(N, *spatial)``.
        patch_size: Side of a patch in pixels; must divide every side.

    Returns:
        Shape ``(N, *(side / patch_size))``.

    Raises:
        ValueError: If ``patch_size`` does not divide a side.

    Example:
        >>> patch_relevance(torch.tensor([[1.0, 3.0, 5.0, 5.0]]), 2)
        tensor([[2., 5.]])
    """
    if patch_size < 1 or any(side % patch_size for side in maps.shape[1:]):
        raise ValueError(
            f"Expected `patch_size` to divide the sides {tuple(maps.shape[1:])}, got {patch_size}. "
            "Pass a common divisor, or 1 for single pixels."
        )
    for dim in range(1, maps.ndim):
        maps = maps.reshape(*maps.shape[:dim], -1, patch_size, *maps.shape[dim + 1 :]).mean(dim=dim + 1)
    return maps


def replacement_ranks(maps: Tensor, *, patch_size: int = 1, seed: int = 0) -> Tensor:
    """Return the place of each pixel in the order of falling relevance. A seed orders pixels of equal relevance.

    Args:
        maps: Shape ``(N, *spatial)``.
        patch_size: Side of the patches that are replaced together; 1 replaces single pixels.
        seed: Seed of the order of equal relevance.

    Returns:
        Shape ``(N, *spatial)``, int64, in [0, P / patch_size**d) for P pixels in d dimensions. The pixels of a patch
        share a place.

    Example:
        >>> replacement_ranks(torch.tensor([[5.0, 9.0, 1.0]]))
        tensor([[1, 0, 2]])
    """
    relevance = maps if patch_size == 1 else patch_relevance(maps, patch_size)
    ranks = _places(relevance.flatten(1), seed).view(relevance.shape)
    if patch_size > 1:
        for dim in range(1, maps.ndim):
            ranks = ranks.repeat_interleave(patch_size, dim=dim, output_size=maps.shape[dim])
    return ranks


def _places(relevance: Tensor, seed: int) -> Tensor:
    """Return the place (N, P) of each unit in the order of falling relevance (N, P)."""
    units = relevance.shape[1]
    # It is drawn on the CPU, so that every device breaks ties in the same way. All samples have the same order of ties,
    # so that it does not depend on the batch.
    permutation = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    permutation = permutation.to(relevance.device, non_blocking=True)
    order = permutation[relevance[:, permutation].argsort(dim=1, descending=True, stable=True)]
    return torch.empty_like(order).scatter_(1, order, torch.arange(units, device=order.device).expand_as(order))


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Return images (N, C, *spatial) after a Gaussian blur with mirrored edges.

    Args:
        images: Floating.
        sigma: Standard deviation in pixels. The kernel ends at three standard deviations.

    Example:
        >>> image = torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]])
        >>> blurred(image, 1 / 3)  # weights e^-4.5, 1 and e^-4.5, scaled to the sum 1
        tensor([[[0.0000, 0.0109, 0.9783, 0.0109, 0.0000]]])
    """
    sides: Sequence[int] = images.shape[2:]
    for dim, side in enumerate(sides, start=2):
        radius = min(round(3 * sigma), side - 1)  # a mirrored edge has at most side - 1 pixels
        kernel = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
        weight = torch.tensor([[[value / sum(kernel) for value in kernel]]], dtype=images.dtype)
        lines = images.movedim(dim, -1)
        padded_lines = F.pad(lines.reshape(-1, 1, side), (radius, radius), mode="reflect")
        blur = F.conv1d(padded_lines, weight.to(images.device, non_blocking=True))
        images = blur.view(lines.shape).movedim(-1, dim)
    return images
