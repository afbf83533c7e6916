"""Does a map name the pixels that the model uses? Deletion and insertion curves of Petsiuk et al. 2018."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice, check_positive, checked_names
from dynalens.faithfulness.adaptive import bisected
from dynalens.faithfulness.perturbation import (
    Baseline,
    check_baseline,
    random_ranking,
    replaced_fractions,
    replaced_pixels,
    replacement,
    replacement_ranks,
)
from dynalens.faithfulness.scoring import PRECISIONS, Forward, Jobs, Perturbed, Scorer, scoring, with_channel

CURVES = ("deletion", "insertion")


@dataclass(frozen=True)
class CurveSettings:
    """Settings of deletion and insertion curves. Use the same settings for all curves that you compare.

    Attributes:
        baseline: What replaced pixels show, see :func:`baseline_images`.
        steps: Steps from no pixel to all of them, or "auto": points are set where a curve bends (``tolerance``).
        patch_size: Side of the patches that are replaced together, or 1. A 7 x 7 Grad-CAM and a map of pixels can be
            compared patch by patch only.
        seed: Seed of the order of pixels with equal relevance, and of random rankings.
        precision: "float32", or "bfloat16" or "float16" to score under autocast (areas then differ by about .001).
        chunk_size: Images in one forward pass; bounds the memory. None: by device and size of the images.
        tolerance: With ``steps="auto"``, an interval is halved while its width times its rise exceeds this. The
            rise is averaged with that of its neighbours.

    Example:
        >>> CurveSettings("zero", steps=10, patch_size=2).baseline
        'zero'
    """

    baseline: Baseline = "blur"
    steps: int | Literal["auto"] = 20
    patch_size: int = 1
    seed: int = 0
    precision: str = "float32"
    chunk_size: int | None = None
    tolerance: float = 0.006

    def __post_init__(self) -> None:
        """Check what can be checked without images."""
        check_baseline(self.baseline)
        check_choice("precision", self.precision, PRECISIONS)
        if isinstance(self.steps, str) and self.steps != "auto":
            raise ValueError(f"Expected `steps` to be a number or 'auto', got {self.steps!r}. Pass one of them.")
        steps = None if isinstance(self.steps, str) else self.steps
        check_positive(steps=steps, patch_size=self.patch_size, chunk_size=self.chunk_size)
        if not self.tolerance > 0:
            raise ValueError(f"Expected `tolerance` to be above 0, got {self.tolerance}. Pass 0.006, say.")


DEFAULT_SETTINGS = CurveSettings()


@dataclass(frozen=True)
class Curve:
    """A curve of each sample.

    Attributes:
        values: Shape ``(N, M)``, float32, in [0, 1]: probability of the target.
        fractions: Shape ``(M,)``, or ``(N, M)`` where each curve has its own points; float64, ascending, in [0, 1].
            A curve with fewer points than others repeats its last one.
        evaluations: Shape ``(N,)``, int64: images that were scored for the curve beside its two ends.
    """

    values: Tensor
    fractions: Tensor
    evaluations: Tensor

    @property
    def areas(self) -> Tensor:
        """Area under each curve, shape ``(N,)``."""
        return area_under_curve(self.values, self.fractions)

    @property
    def errors(self) -> Tensor:
        """Half the sum of absolute rise times width over the intervals, shape ``(N,)``.

        It is the largest error that the area can have if the curve is monotone between its points.
        """
        rise, width = self.values.diff(dim=-1).abs(), self.fractions.to(self.values).diff(dim=-1)
        return (rise * width).sum(dim=-1) / 2

    def resampled(self, fractions: Tensor) -> Tensor:
        """Return the values at other fractions, linear between the points: shape ``(N, len(fractions))``."""
        abscissa = self.fractions.to(self.values).expand_as(self.values).contiguous()
        points = fractions.to(abscissa).expand(len(abscissa), -1).contiguous()
        right = torch.searchsorted(abscissa, points).clamp(1, abscissa.shape[1] - 1)
        left = right - 1
        x0, x1 = abscissa.gather(1, left), abscissa.gather(1, right)
        y0, y1 = self.values.gather(1, left), self.values.gather(1, right)
        return torch.lerp(y0, y1, ((points - x0) / (x1 - x0).clamp(min=1e-12)).clamp(0, 1))


def faithfulness_curves(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    settings: CurveSettings = DEFAULT_SETTINGS,
    *,
    metrics: Sequence[str] = CURVES,
    forward: Forward | None = None,
    logits: Tensor | None = None,
) -> dict[str, Curve]:
    """Return for each metric the curves that :func:`deletion_curve` and :func:`insertion_curve` define.

    All perturbed images of all samples and curves are scored in chunks, each image once: both curves share their
    ends. With a number of steps the host never waits for the device before the curves are ready.

    Args:
        model: Gives logits; in evaluation mode meanwhile, and afterwards as it was.
        images: Shape ``(N, C, *spatial)``, floating: pictures (N, C, H, W) or signals (N, C, T); or tokens (N, T),
            integers, which a ``baseline`` token replaces. Not modified.
        targets: Shape ``(N,)``, int64.
        maps: Shape ``(N, *spatial)``, finite; larger is more relevant. Only their order matters.
        settings: Baseline, steps and the like.
        metrics: Names: ``deletion``, ``insertion``.
        forward: Callable(images) -> logits, where it is not the model.
        logits: Shape ``(N, K)``; logits of the images, where they are known already.

    Returns:
        By the name of each metric, the curves of the N images.

    Raises:
        ValueError: If shapes do not agree, a map is not finite or an argument is unknown.

    Example:
        The logit is the sum of the pixels, and the map is the image.

        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> curves = faithfulness_curves(score, image, target, image[:, 0], CurveSettings("zero", steps=2))
        >>> curves["deletion"].values, curves["insertion"].values
        (tensor([[0.9933, 0.5000, 0.5000]]), tensor([[0.5000, 0.9933, 0.9933]]))
    """
    names = checked_names("metrics", metrics, CURVES)
    images, forward = with_channel(model, images, forward)
    check_shapes(images, targets, maps)
    guard = scoring(model, images, forward=forward, precision=settings.precision, chunk_size=settings.chunk_size)
    with guard as (scorer, x):
        views = Perturbed(
            x,
            replacement(x, settings.baseline).to(x).contiguous(),  # autocast gives blurred ones its own dtype
            replacement_ranks(maps, patch_size=settings.patch_size, seed=settings.seed),
        )
        units = maps.shape[1:].numel() // settings.patch_size ** (maps.ndim - 1)
        ends = _ends(scorer, views, targets, logits)
        if settings.steps == "auto":
            curves = bisected(scorer, views, targets, ends, units=units, names=names, tolerance=settings.tolerance)
            curve_of = {name: Curve(*parts) for name, parts in curves.items()}
        else:
            curve_of = _fixed(scorer, views, targets, ends, units=units, names=names, steps=settings.steps)
    check_finite(maps)  # only now: it waits for the device
    if not images.is_floating_point():
        _check_scored(curve_of.values())
    return curve_of


def deletion_curve(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    baseline: Baseline = "blur",
    steps: int = 20,
    patch_size: int = 1,
    least_first: bool = False,
    seed: int = 0,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the probability of the target while its most relevant pixels are replaced by the baseline.

    At step k the round(k * P / steps) most relevant of the P positions are replaced, in all channels at once.
    A faithful map makes the curve fall early.

    Source: Petsiuk et al., "RISE", BMVC 2018, section 4.2.
    Differs from the source: the number of steps is fixed rather than the pixels of a step, both end points are
    included, ties are broken by a seeded permutation, and the baseline is named (the source deletes to zero).

    Args:
        model: See :func:`faithfulness_curves`, also for ``images``, ``targets`` and ``maps``; the settings that are not
            named here are those of :class:`CurveSettings`.
        least_first: Replace the least relevant first, in exactly the reverse order.

    Returns:
        Shape ``(N, steps + 1)``, float32, in [0, 1]; :func:`replaced_fractions` is its abscissa.

    Example:
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> deletion_curve(score, image, target, image[:, 0], baseline="zero", steps=2)
        tensor([[0.9933, 0.5000, 0.5000]])
    """
    settings = CurveSettings(baseline, steps, patch_size, seed, chunk_size=chunk_size)
    return _one(model, images, targets, maps, settings, metric="deletion", least_first=least_first)


def insertion_curve(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    baseline: Baseline = "blur",
    steps: int = 20,
    patch_size: int = 1,
    least_first: bool = False,
    seed: int = 0,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the probability of the target while its most relevant pixels are put back into the baseline.

    The counterpart of :func:`deletion_curve`, from the baseline to the image; a faithful map makes it rise early.

    Source: Petsiuk et al., "RISE", BMVC 2018, section 4.2; differs as :func:`deletion_curve` does.

    Args:
        model: See :func:`deletion_curve`, also for the arguments that are not named here.
        least_first: Put the least relevant back first.

    Returns:
        Shape ``(N, steps + 1)``, float32, in [0, 1].

    Example:
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> insertion_curve(score, image, target, image[:, 0], baseline="zero", steps=2)
        tensor([[0.5000, 0.9933, 0.9933]])
    """
    settings = CurveSettings(baseline, steps, patch_size, seed, chunk_size=chunk_size)
    return _one(model, images, targets, maps, settings, metric="insertion", least_first=least_first)


def random_ranking_control(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    settings: CurveSettings = DEFAULT_SETTINGS,
    *,
    metrics: Sequence[str] = CURVES,
    forward: Forward | None = None,
    logits: Tensor | None = None,
) -> dict[str, Curve]:
    """Return the curves of a random ranking, with the same budget and settings: what a map must beat.

    Args:
        model: See :func:`faithfulness_curves`, also for the arguments that are not named here.
        settings: Baseline, steps and the like; the seed also determines the rankings.

    Returns:
        As :func:`faithfulness_curves`.

    Example:
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> control = random_ranking_control(score, image, target, CurveSettings("zero", steps=2))
        >>> control["deletion"].values[:, [0, 2]]  # the ends are those of every ranking
        tensor([[0.9933, 0.5000]])
    """
    maps = random_ranking(images, settings.seed)
    return faithfulness_curves(model, images, targets, maps, settings, metrics=metrics, forward=forward, logits=logits)


def area_under_curve(curves: Tensor, fractions: Tensor) -> Tensor:
    """Return the area under each curve by the trapezoid rule over the true fractions.

    Args:
        curves: Shape ``(..., M)``.
        fractions: Shape ``(M,)`` or that of ``curves``, ascending.

    Returns:
        Shape ``(...)``; for probabilities over [0, 1] it is in [0, 1].

    Example:
        >>> area_under_curve(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.25, 1.0]))
        tensor(0.3750)
    """
    return torch.trapezoid(curves, fractions.to(curves), dim=-1)


def check_shapes(images: Tensor, targets: Tensor, maps: Tensor) -> None:
    """Raise a ValueError if the shapes do not belong together."""
    if images.ndim < 3 or maps.shape != (len(images), *images.shape[2:]) or targets.shape != images.shape[:1]:
        raise ValueError(
            "Expected `images` (N, C, *spatial), `targets` (N,) and `maps` (N, *spatial), got "
            f"{tuple(images.shape)}, {tuple(targets.shape)} and {tuple(maps.shape)}. "
            "Bring maps to that form with `reduce_channels` and `resize`."
        )


def check_finite(maps: Tensor) -> None:
    """Raise a ValueError if a map has no order of pixels."""
    if not bool(maps.isfinite().all()):
        raise ValueError("Expected `maps` to be finite, got NaN or infinity. Such a map has no order of pixels.")


def _one(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    settings: CurveSettings,
    *,
    metric: str,
    least_first: bool,
) -> Tensor:
    if settings.steps == "auto":
        raise ValueError("Expected `steps` to be a number, got 'auto'. Call `faithfulness_curves` for such curves.")
    if least_first:
        check_shapes(images, targets, maps)
        check_finite(maps)
        # The exact reverse, ties included, which the order of -maps would not be.
        maps = replacement_ranks(maps, patch_size=settings.patch_size, seed=settings.seed).float()
    return faithfulness_curves(model, images, targets, maps, settings, metrics=(metric,))[metric].values


def _check_scored(curves: Iterable[Curve]) -> None:
    """Raise a ValueError if a model of tokens has nothing to look at where all of them are replaced."""
    if not all(bool(curve.values.isfinite().all()) for curve in curves):
        raise ValueError(
            "Expected finite probabilities while tokens are replaced, got NaN. Pass a `baseline` token that the model "
            "does not mask out, as it does padding: that of the mask or of unknown words."
        )


def _ends(scorer: Scorer, views: Perturbed, targets: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the probabilities (N,) of the originals and of what replaces them."""
    if len(views.replacement) == 1:
        replaced = scorer.probabilities(views.replacement).squeeze(0).index_select(0, targets)
    else:
        replaced = scorer.of_targets(views.replacement, targets)
    if logits is None:
        return scorer.of_targets(views.originals, targets), replaced
    return scorer.of_logits(logits).gather(1, targets.unsqueeze(1)).squeeze(1), replaced


def _fixed(
    scorer: Scorer,
    views: Perturbed,
    targets: Tensor,
    ends: tuple[Tensor, Tensor],
    *,
    units: int,
    names: Sequence[str],
    steps: int,
) -> dict[str, Curve]:
    counts, n, device = replaced_pixels(units, steps), len(targets), targets.device
    inner = sorted(set(counts) - {0, units})
    scores = torch.empty(n, len(names), len(inner), device=device)
    if inner and n:
        rows = [(i, count, name == "insertion") for i in range(n) for name in names for count in inner]
        scores = scorer.perturbed(views, Jobs.of(rows, device), targets).view(n, len(names), len(inner))
    place = {0: 0, units: len(inner) + 1} | {count: i for i, count in enumerate(inner, start=1)}
    points = [place[count] for count in counts]
    fractions, evaluations = replaced_fractions(units, steps), torch.full((n,), len(inner))
    curves = {}
    for number, name in enumerate(names):
        first, last = ends if name == "deletion" else ends[::-1]
        values = torch.cat([first.unsqueeze(1), scores[:, number], last.unsqueeze(1)], dim=1)
        if len(points) > values.shape[1]:  # more steps than pixels: some repeat
            values = values.index_select(1, torch.tensor(points).to(device, non_blocking=True))
        curves[name] = Curve(values, fractions, evaluations)
    return curves
