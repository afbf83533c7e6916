"""Does a map name the pixels that the model uses? Deletion and insertion curves of Petsiuk et al. 2018."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.observation import floating_dtype, two_class_logits, undisturbed

Forward = Callable[[Tensor], Tensor]

METRICS = ("deletion", "insertion")
BASELINES = ("blur", "zero", "mean")
_BLUR_FRACTION = 8
"""The blur's standard deviation is the longer side over this; half a side is lost in it."""


def check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple, or raise a ValueError that lists the known ones."""
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(
            f"Expected `metrics` to be among {', '.join(METRICS)}, got {unknown}. Name some of them or none."
        )
    return names


def replaced_pixels(pixels: int, steps: int) -> list[int]:
    """Return how many of P pixels are replaced at step k = 0, ..., steps: Python's ``round(k * P / steps)``.

    Example:
        >>> replaced_pixels(6, 4)
        [0, 2, 3, 4, 6]
    """
    if steps < 1:
        raise ValueError(f"Expected `steps` to be at least 1, got {steps}. Pass a positive number.")
    return [round(k * pixels / steps) for k in range(steps + 1)]


def replaced_fractions(pixels: int, steps: int) -> Tensor:
    """Return :func:`replaced_pixels` over P, the abscissa of a curve: shape ``(steps + 1,)``, float64, in [0, 1]."""
    return torch.tensor(replaced_pixels(pixels, steps), dtype=torch.float64) / pixels


def baseline_images(images: Tensor, baseline: str | Tensor) -> Tensor:
    """Return what replaced pixels show.

    Args:
        images: Shape ``(N, C, H, W)``.
        baseline: "blur" (Gaussian, standard deviation max(H, W) / 8, edges mirrored), "zero" (in the model's input
            space), "mean" (of each image and channel), or a tensor that broadcasts to the images.

    Returns:
        Shape of ``images``.

    Raises:
        ValueError: If ``baseline`` is unknown.

    Example:
        >>> baseline_images(torch.tensor([[[[1.0, 3.0]]]]), "mean")
        tensor([[[[2., 2.]]]])
    """
    if isinstance(baseline, Tensor):
        return baseline.to(images).expand_as(images)
    if baseline == "zero":
        return torch.zeros_like(images)
    if baseline == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    if baseline == "blur":
        return _blurred(images)
    raise ValueError(
        f"Expected `baseline` to be one of {', '.join(BASELINES)} or a tensor, got {baseline!r}. Choose one of them."
    )


def faithfulness_curves(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    metrics: Sequence[str] = METRICS,
    baseline: str | Tensor = "blur",
    steps: int = 20,
    seed: int = 0,
    forward: Forward | None = None,
    chunk_size: int = 128,
) -> dict[str, Tensor]:
    """Return for each metric the curves that :func:`deletion_curve` and :func:`insertion_curve` define.

    Args:
        model: Gives logits; in evaluation mode meanwhile.
        images: Shape ``(N, C, H, W)``, floating. Not modified.
        targets: Shape ``(N,)``, int64.
        maps: Shape ``(N, H, W)``, finite; larger is more relevant.
        metrics: Names: ``deletion``, ``insertion``.
        baseline: See :func:`baseline_images`.
        steps: Steps from no pixel to all of them.
        seed: Of the order of pixels with equal relevance.
        forward: Callable(images) -> logits, where it is not the model.
        chunk_size: Images in one forward pass; bounds the memory.

    Raises:
        ValueError: If shapes do not agree, a map is not finite or an argument is unknown.
    """
    names = check_metrics(metrics)
    _check(images, targets, maps)
    run = forward if forward is not None else model
    guard: AbstractContextManager[None] = nullcontext()
    if isinstance(model, nn.Module):
        guard, images = undisturbed(model), images.to(floating_dtype(model, images))
    with guard, torch.no_grad():
        replacement = baseline_images(images, baseline)
        ranks = _ranks(maps, seed)
        counts = torch.tensor(replaced_pixels(ranks.shape[1], steps), device=images.device)
        ends = {"deletion": (images, replacement), "insertion": (replacement, images)}
        return {name: _curve(run, *ends[name], targets, ranks.view(maps.shape), counts, chunk_size) for name in names}


def deletion_curve(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    baseline: str | Tensor = "blur",
    steps: int = 20,
    seed: int = 0,
    chunk_size: int = 128,
) -> Tensor:
    """Return the probability of the target while its most relevant pixels are replaced by the baseline.

    At step k the round(k * P / steps) most relevant of the P = H * W pixels are replaced, in all channels at once.
    A faithful map makes the curve fall early.

    Source: Petsiuk et al., "RISE", BMVC 2018, section 4.2.
    Differs from the source: the number of steps is fixed rather than the pixels of a step, both end points are
    included, ties are broken by a seeded permutation, and the baseline is named (the source deletes to zero).

    Args:
        model: See :func:`faithfulness_curves`, also for the other arguments.
        images: Shape ``(N, C, H, W)``, floating.
        targets: Shape ``(N,)``, int64.
        maps: Shape ``(N, H, W)``.
        baseline: See :func:`baseline_images`.
        steps: Steps from no pixel to all of them.
        seed: Of the order of pixels with equal relevance.
        chunk_size: Images in one forward pass.

    Returns:
        Shape ``(N, steps + 1)``, float32, in [0, 1]; :func:`replaced_fractions` is its abscissa.

    Example:
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> deletion_curve(score, image, target, image[:, 0], baseline="zero", steps=2)
        tensor([[0.9933, 0.5000, 0.5000]])
    """
    return faithfulness_curves(
        model, images, targets, maps, metrics=("deletion",), baseline=baseline, steps=steps, seed=seed,
        chunk_size=chunk_size,
    )["deletion"]  # fmt: skip


def insertion_curve(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    baseline: str | Tensor = "blur",
    steps: int = 20,
    seed: int = 0,
    chunk_size: int = 128,
) -> Tensor:
    """Return the probability of the target while its most relevant pixels are put back into the baseline.

    The counterpart of :func:`deletion_curve`, from the baseline to the image; a faithful map makes it rise early.

    Source: Petsiuk et al., "RISE", BMVC 2018, section 4.2; differs as :func:`deletion_curve` does.

    Args:
        model: See :func:`faithfulness_curves`, also for the other arguments.
        images: Shape ``(N, C, H, W)``, floating.
        targets: Shape ``(N,)``, int64.
        maps: Shape ``(N, H, W)``.
        baseline: See :func:`baseline_images`.
        steps: Steps from no pixel to all of them.
        seed: Of the order of pixels with equal relevance.
        chunk_size: Images in one forward pass.

    Returns:
        Shape ``(N, steps + 1)``, float32, in [0, 1].

    Example:
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> insertion_curve(score, image, target, image[:, 0], baseline="zero", steps=2)
        tensor([[0.5000, 0.9933, 0.9933]])
    """
    return faithfulness_curves(
        model, images, targets, maps, metrics=("insertion",), baseline=baseline, steps=steps, seed=seed,
        chunk_size=chunk_size,
    )["insertion"]  # fmt: skip


def area_under_curve(curves: Tensor, fractions: Tensor) -> Tensor:
    """Return the area under each curve by the trapezoid rule over the true fractions.

    Args:
        curves: Shape ``(..., steps + 1)``.
        fractions: Shape ``(steps + 1,)``, ascending.

    Returns:
        Shape ``(...)``; for probabilities over [0, 1] it is in [0, 1].

    Example:
        >>> area_under_curve(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.25, 1.0]))
        tensor(0.3750)
    """
    return torch.trapezoid(curves, fractions.to(curves), dim=-1)


def _curve(
    run: Forward, start: Tensor, end: Tensor, targets: Tensor, ranks: Tensor, counts: Tensor, chunk_size: int
) -> Tensor:
    n, points = len(start), len(counts)
    scores = []
    for jobs in torch.split(torch.arange(n * points, device=start.device), chunk_size):
        sample = jobs // points
        replaced = ranks[sample] < counts[jobs % points].view(-1, 1, 1)
        logits = run(torch.where(replaced.unsqueeze(1), end[sample], start[sample]))
        p = two_class_logits(logits).float().softmax(dim=1)
        scores.append(p.gather(1, targets[sample].unsqueeze(1)).squeeze(1))
    return torch.cat(scores).view(n, points)


def _ranks(maps: Tensor, seed: int) -> Tensor:
    """Return each pixel's place in the order of falling relevance, (N, P); equal pixels in a seeded order."""
    relevance = maps.flatten(1)
    pixels = relevance.shape[1]
    # On the CPU, so that every device breaks ties alike; the same order for each sample, whatever its batch.
    shuffled = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)).to(maps.device)
    order = shuffled[relevance[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(pixels, device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _blurred(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    sigma = max(height, width) / _BLUR_FRACTION
    blurred = images
    for dim, size in ((2, height), (3, width)):
        radius = min(round(3 * sigma), size - 1)  # mirroring cannot reach further
        offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        weight = (kernel / kernel.sum()).to(images.dtype).view((1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1))
        padding = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
        padded = F.pad(blurred, padding, mode="reflect")
        blurred = F.conv2d(padded.flatten(0, 1).unsqueeze(1), weight).view(images.shape)
    return blurred


def _check(images: Tensor, targets: Tensor, maps: Tensor) -> None:
    if images.ndim != 4 or maps.shape != (len(images), *images.shape[2:]) or targets.shape != images.shape[:1]:
        raise ValueError(
            "Expected `images` (N, C, H, W), `targets` (N,) and `maps` (N, H, W), got "
            f"{tuple(images.shape)}, {tuple(targets.shape)} and {tuple(maps.shape)}. "
            "Bring maps to that form with `reduce_channels` and `resize`."
        )
    if not bool(maps.isfinite().all()):
        raise ValueError("Expected `maps` to be finite, got NaN or infinity. Such a map has no order of pixels.")
