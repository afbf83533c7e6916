"""What a curve says beyond the model's confidence: gains over the reverse order, curves between their own ends."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dynalens.faithfulness.curves import DEFAULT_SETTINGS, Curve, CurveSettings, faithfulness_curves
from dynalens.faithfulness.scoring import Forward

_LEAST_GAP = 0.05


def symmetric_relevance_gain(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    settings: CurveSettings = DEFAULT_SETTINGS,
    *,
    forward: Forward | None = None,
    logits: Tensor | None = None,
) -> Tensor:
    """Return how much longer the class survives when the least relevant pixels go first than when the most do.

    A_least - A_most, with A the area under p(target) over the fraction of replaced pixels. Rankings of methods by this
    gain agree across baselines where those by deletion or insertion alone do not; a random ranking has a gain near 0.

    Source: Blücher et al., "Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks", TMLR 2024.
    Read from its end, the insertion curve is the curve that replaces the least relevant first, so A_least is its area
    and no further image is scored.

    Args:
        model: See :func:`faithfulness_curves`, also for the arguments that are not named here.

    Returns:
        Shape ``(N,)``, float32, in [-1, 1].

    Example:
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> settings = CurveSettings(baseline="zero", steps=2)  # areas 0.8650 and 0.6233
        >>> symmetric_relevance_gain(score, image, target, image[:, 0], settings)
        tensor([0.2467])
    """
    curves = faithfulness_curves(model, images, targets, maps, settings, forward=forward, logits=logits)
    return gain_of(curves)


def gain_of(curves: Mapping[str, Curve]) -> Tensor:
    """Return :func:`symmetric_relevance_gain` of curves that were measured already."""
    return curves["insertion"].areas - curves["deletion"].areas


def rescaled_curve(values: Tensor, original: Tensor, baseline: Tensor, *, least_gap: float = _LEAST_GAP) -> Tensor:
    r"""Return a curve between its own ends: what is left of the difference between image and baseline.

    :math:`(p - p_b) / (p_x - p_b)` with p_x and p_b the probabilities of the image and of its baseline. Over epochs,
    raw areas follow the confidence p_x; these do not. NaN where \|p_x - p_b\| < ``least_gap``: then the quotient says
    nothing.

    Args:
        values: Shape ``(N, M)``.
        original: Shape ``(N,)``, p_x.
        baseline: Shape ``(N,)``, p_b.
        least_gap: In [0, 1].

    Returns:
        Shape ``(N, M)``; 1 where the curve is as high as at the image, 0 where it is as low as at the baseline; it may
        leave [0, 1].

    Example:
        >>> rescaled_curve(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([0.9]), torch.tensor([0.1]))
        tensor([[1.0000, 0.5000, 0.0000]])
    """
    gap = (original - baseline).unsqueeze(1)
    gap = torch.where(gap.abs() < least_gap, torch.nan, gap)
    return (values - baseline.unsqueeze(1)) / gap


def rescaled(curves: Mapping[str, Curve], *, least_gap: float = _LEAST_GAP) -> dict[str, Curve]:
    """Return deletion and insertion curves as :func:`rescaled_curve` gives them.

    Args:
        curves: What :func:`faithfulness_curves` gave.
        least_gap: In [0, 1].
    """
    rescaled_curves = {}
    for name, curve in curves.items():
        first, last = curve.values[:, 0], curve.values[:, -1]
        original, baseline = (first, last) if name == "deletion" else (last, first)
        values = rescaled_curve(curve.values, original, baseline, least_gap=least_gap)
        rescaled_curves[name] = Curve(values, curve.fractions, curve.evaluations)
    return rescaled_curves
