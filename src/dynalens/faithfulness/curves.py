"""Deletion and insertion curves of Petsiuk et al. 2018: whether a map names the pixels that the model uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice, check_positive, checked_names
from dynalens.faithfulness.adaptive import bisected_curve
from dynalens.faithfulness.checks import check_finite, check_scored, check_shapes
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
        steps: Number of steps from no replaced pixel to all of them. Or "auto": points are set where the curve bends,
            see ``tolerance``.
        patch_size: Side of the patches that are replaced together; 1 replaces single pixels. Compare a 7 x 7 Grad-CAM
            with a map of pixels patch by patch only.
        seed: Seed of the order of pixels with equal relevance, and of random rankings.
        precision: "float32", or "bfloat16" or "float16" to run the model under autocast. Areas then differ by about
            .001.
        chunk_size: Number of images in one forward pass, which limits the memory. None: chosen by device and size of
            the images.
        tolerance: With ``steps="auto"``, an interval is halved while its width times its rise exceeds this. The rise is
            averaged with that of its neighbours.

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
            raise ValueError(f"Expected `tolerance` to be above 0, got {self.tolerance}. Pass for instance 0.006.")


DEFAULT_SETTINGS = CurveSettings()


@dataclass(frozen=True)
class Curve:
    """The deletion or insertion curves of N samples.

    Attributes:
        values: Shape ``(N, M)``, float32, in [0, 1]: probability of the target at each of M points.
        fractions: Float64, ascending, in [0, 1]: fraction of replaced pixels at each point. Its shape is ``(M,)``, or
            ``(N, M)`` with ``steps="auto"``, where each curve has its own points. A curve with fewer points than the
            others repeats its last one.
        evaluations: Shape ``(N,)``, int64: number of images that were scored for the curve, without its two ends.
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
        """Largest error that each area can have if the curve is monotone between its points, shape ``(N,)``.

        It is half the sum over the intervals of absolute rise times width.
        """
        rise, width = self.values.diff(dim=-1).abs(), self.fractions.to(self.values).diff(dim=-1)
        return (rise * width).sum(dim=-1) / 2

    def resampled(self, fractions: Tensor) -> Tensor:
        """Return the values at other fractions, linear between the points: shape ``(N, len(fractions))``."""
        abscissa = self.fractions.to(self.values).expand_as(self.values).contiguous()
        points = fractions.to(abscissa).expand(len(abscissa), -1).contiguous()
        upper = torch.searchsorted(abscissa, points).clamp(1, abscissa.shape[1] - 1)
        lower = upper - 1
        x0, x1 = abscissa.gather(1, lower), abscissa.gather(1, upper)
        y0, y1 = self.values.gather(1, lower), self.values.gather(1, upper)
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
    """Return the curves of maps that :func:`deletion_curve` and :func:`insertion_curve` define.

    The perturbed images of all samples and both curves are scored together in chunks. Both curves share their ends,
    which are scored once. If ``steps`` is a number, the CPU does not wait for the device before the curves are ready.

    The arguments below are those of all functions that measure maps, so they are explained only here.

    Args:
        model: Module or callable that returns logits. A module runs in evaluation mode and is left as it was.
        images: Shape ``(N, C, *spatial)``, floating: pictures (N, C, H, W) or signals (N, C, T). Or tokens (N, T),
            integers, which are replaced by the token ``baseline``. Not modified.
        targets: Shape ``(N,)``, int64.
        maps: Shape ``(N, *spatial)``, finite. Larger values mean more relevant. Only their order counts.
        settings: Baseline, steps and so on.
        metrics: Names of curves: "deletion", "insertion".
        forward: Callable(images) that returns logits, if ``model`` does not.
        logits: Shape ``(N, K)``, the logits of the images, if you know them already. This saves a forward pass.

    Returns:
        For the name of each metric, the curves of the N images.

    Raises:
        ValueError: If shapes do not agree, a map is not finite, or an argument is unknown.

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
        end_values = _end_values(scorer, views, targets, logits)
        if settings.steps == "auto":
            curves = bisected_curve(
                scorer, views, targets, end_values, units=units, names=names, tolerance=settings.tolerance
            )
            curve_of = {name: Curve(*parts) for name, parts in curves.items()}
        else:
            curve_of = _fixed_curve(scorer, views, targets, end_values, units=units, names=names, steps=settings.steps)
    check_finite(maps)  # only now: it waits for the device
    if not images.is_floating_point():
        check_scored(curve.values for curve in curve_of.values())
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
    r"""Return the deletion curve: the target's probability while its most relevant pixels become the baseline.

    :math:`c_k = p_y(x^{(k)})` for the steps k = 0, ..., S, where :math:`p_y` is the probability of the target y. In
    :math:`x^{(k)}`, the round(k P / S) most relevant of the P positions show the baseline :math:`b`, in all channels at
    once, and the other positions show the image :math:`x`. If the map is faithful, the curve falls early.

    Source: Petsiuk et al., "RISE", BMVC 2018, section 4.2. Differs from the source: the number of steps is fixed, not
    the pixels per step. Both end points are included. A seeded permutation orders pixels of equal relevance. The
    baseline can be chosen, where the source replaces pixels by zero.

    Args:
        model: This, ``images``, ``targets`` and ``maps``: see :func:`faithfulness_curves`. The settings that are not
            listed here are those of :class:`CurveSettings`.
        least_first: Replace the least relevant pixels first, in exactly the reverse order.

    Returns:
        Shape ``(N, steps + 1)``, float32, in [0, 1]. :func:`replaced_fractions` gives the fraction of replaced pixels
        for each entry.

    Raises:
        ValueError: As for :func:`faithfulness_curves`.

    Example:
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> deletion_curve(score, image, target, image[:, 0], baseline="zero", steps=2)
        tensor([[0.9933, 0.5000, 0.5000]])
    """
    settings = CurveSettings(baseline, steps, patch_size, seed, chunk_size=chunk_size)
    return _one_curve(model, images, targets, maps, settings, metric="deletion", least_first=least_first)


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
    """Return the insertion curve: the target's probability while its most relevant pixels are put into the baseline.

    It is the counterpart of :func:`deletion_curve`, with image and baseline exchanged: it goes from the baseline to the
    image. If the map is faithful, the curve rises early.

    Source: Petsiuk et al., "RISE", BMVC 2018, section 4.2, with the same differences as :func:`deletion_curve`.

    Args:
        model: This and all arguments that are not listed here: see :func:`deletion_curve`.
        least_first: Put in the least relevant pixels first.

    Returns:
        Shape ``(N, steps + 1)``, float32, in [0, 1].

    Example:
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> insertion_curve(score, image, target, image[:, 0], baseline="zero", steps=2)
        tensor([[0.5000, 0.9933, 0.9933]])
    """
    settings = CurveSettings(baseline, steps, patch_size, seed, chunk_size=chunk_size)
    return _one_curve(model, images, targets, maps, settings, metric="insertion", least_first=least_first)


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
    """Return the curves of a random order of the pixels, with the same settings: a map is useful only if it beats them.

    Args:
        model: This and all arguments that are not listed here: see :func:`faithfulness_curves`.
        settings: Baseline, steps and so on. The seed also determines the random orders.

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
    """Return the area under each curve by the trapezoid rule.

    Args:
        curves: Shape ``(..., M)``.
        fractions: Abscissa of the points, ascending, of shape ``(M,)`` or the shape of ``curves``.

    Returns:
        Shape ``(...)``. For probabilities over [0, 1] it is in [0, 1].

    Example:
        The trapezoids are 0.25 (1.0 + 0.5) / 2 and 0.75 (0.5 + 0.0) / 2.

        >>> area_under_curve(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.25, 1.0]))
        tensor(0.3750)
    """
    return torch.trapezoid(curves, fractions.to(curves), dim=-1)


def _one_curve(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    settings: CurveSettings,
    *,
    metric: str,
    least_first: bool,
) -> Tensor:
    """Return the values (N, steps + 1) of one kind of curve."""
    if settings.steps == "auto":
        raise ValueError("Expected `steps` to be a number, got 'auto'. Call `faithfulness_curves` for such curves.")
    if least_first:
        check_shapes(images, targets, maps)
        check_finite(maps)
        # The ranks give exactly the reverse order. The order of -maps would not: it has the same order of ties.
        maps = replacement_ranks(maps, patch_size=settings.patch_size, seed=settings.seed).float()
    return faithfulness_curves(model, images, targets, maps, settings, metrics=(metric,))[metric].values


def _end_values(scorer: Scorer, views: Perturbed, targets: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the probabilities (N,) of the originals and of what replaces them."""
    if len(views.replacement) == 1:
        p_replacement = scorer.probabilities(views.replacement.clone()).squeeze(0).index_select(0, targets)
    else:
        p_replacement = scorer.target_probabilities(views.replacement, targets)
    return scorer.target_probabilities(views.originals, targets, logits), p_replacement


def _fixed_curve(
    scorer: Scorer,
    views: Perturbed,
    targets: Tensor,
    end_values: tuple[Tensor, Tensor],
    *,
    units: int,
    names: Sequence[str],
    steps: int,
) -> dict[str, Curve]:
    """Return for each name the curves at a fixed number of steps. Equal numbers of replaced units are scored once."""
    counts, n, device = replaced_pixels(units, steps), len(targets), targets.device
    inner_counts = sorted(set(counts) - {0, units})
    scores = torch.empty(n, len(names), len(inner_counts), device=device)
    if inner_counts and n:
        entries = [(i, count, name == "insertion") for i in range(n) for name in names for count in inner_counts]
        jobs = Jobs.from_rows(entries, device)
        scores = scorer.perturbed_probabilities(views, jobs, targets).view(scores.shape)
    column_of = {0: 0, units: len(inner_counts) + 1} | {count: i for i, count in enumerate(inner_counts, start=1)}
    columns = [column_of[count] for count in counts]
    fractions, evaluations = replaced_fractions(units, steps), torch.full((n,), len(inner_counts))
    curves = {}
    for number, name in enumerate(names):
        first_values, last_values = end_values if name == "deletion" else end_values[::-1]
        values = torch.cat([first_values.unsqueeze(1), scores[:, number], last_values.unsqueeze(1)], dim=1)
        if len(columns) > values.shape[1]:  # there are more steps than pixels, so values repeat
            values = values.index_select(1, torch.tensor(columns).to(device, non_blocking=True))
        curves[name] = Curve(values, fractions, evaluations)
    return curves
