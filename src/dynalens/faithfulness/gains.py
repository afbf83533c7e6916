"""Curves without the model's confidence: the gain over the reverse order, and curves rescaled between their ends."""

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
    """Return how much larger the area is if the least relevant pixels are replaced first than if the most relevant are.

    A_least - A_most, where A is the area under the probability of the target over the fraction of replaced pixels. A
    random order has a gain near 0. If you compare methods by this gain, the choice of baseline hardly changes their
    order. With deletion or insertion alone it does.

    Source: Blücher et al., "Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks", TMLR 2024.
    Read backwards, the insertion curve is the curve that replaces the least relevant pixels first. So A_least is its
    area, and no further image is scored.

    Args:
        model: This and all arguments that are not listed here: see :func:`faithfulness_curves`.

    Returns:
        Shape ``(N,)``, float32, in [-1, 1].

    Raises:
        ValueError: As for :func:`faithfulness_curves`.

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
    """Return :func:`symmetric_relevance_gain` from the curves of :func:`faithfulness_curves`."""
    return curves["insertion"].areas - curves["deletion"].areas


def rescaled_curve(values: Tensor, original: Tensor, baseline: Tensor, *, least_gap: float = _LEAST_GAP) -> Tensor:
    """Return curves on a scale from 0, the probability for the baseline, to 1, the probability for the image.

    :math:`(p - p_b) / (p_x - p_b)`, where :math:`p` is a value of the curve and :math:`p_x` and :math:`p_b` are the
    probabilities of the target for the image and for its baseline. Over the epochs of a training, raw areas grow with
    the confidence :math:`p_x`. Rescaled ones do not.

    Args:
        values: Shape ``(N, M)``, the curves.
        original: Shape ``(N,)``, :math:`p_x`.
        baseline: Shape ``(N,)``, :math:`p_b`.
        least_gap: In [0, 1]. If :math:`|p_x - p_b|` is smaller, the quotient says nothing, and the curve is NaN.

    Returns:
        Shape ``(N, M)``. Values may be outside [0, 1].

    Example:
        >>> rescaled_curve(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([0.9]), torch.tensor([0.1]))
        tensor([[1.0000, 0.5000, 0.0000]])
    """
    gap = (original - baseline).unsqueeze(1)
    gap = torch.where(gap.abs() < least_gap, torch.nan, gap)
    return (values - baseline.unsqueeze(1)) / gap


def rescaled(curves: Mapping[str, Curve], *, least_gap: float = _LEAST_GAP) -> dict[str, Curve]:
    """Return the curves of :func:`faithfulness_curves` on a scale from the baseline (0) to the image (1).

    Each curve is rescaled by :func:`rescaled_curve`.

    Args:
        curves: The result of :func:`faithfulness_curves`.
        least_gap: In [0, 1], see :func:`rescaled_curve`.

    Example:
        >>> fractions = torch.tensor([0.0, 0.5, 1.0])
        >>> deletion = Curve(torch.tensor([[0.9, 0.5, 0.1]]), fractions, evaluations=3)
        >>> rescaled({"deletion": deletion})["deletion"].values  # from the image to the baseline
        tensor([[1.0000, 0.5000, 0.0000]])
    """
    rescaled_curves = {}
    for name, curve in curves.items():
        first_values, last_values = curve.values[:, 0], curve.values[:, -1]
        original, baseline = (first_values, last_values) if name == "deletion" else (last_values, first_values)
        values = rescaled_curve(curve.values, original, baseline, least_gap=least_gap)
        rescaled_curves[name] = Curve(values, curve.fractions, curve.evaluations)
    return rescaled_curves
