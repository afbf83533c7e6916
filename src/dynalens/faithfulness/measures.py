"""Metrics by name: several metrics of one set of maps, from as few forward passes as possible."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dynalens.arguments import checked_names
from dynalens.faithfulness.confidence import drop_of, increase_of, masked_probabilities
from dynalens.faithfulness.curves import DEFAULT_SETTINGS, Curve, CurveSettings, faithfulness_curves
from dynalens.faithfulness.gains import gain_of, rescaled
from dynalens.faithfulness.localisation import pointing_game, relevance_mass
from dynalens.faithfulness.scoring import Forward

# For each metric that is made of curves, the curves that it needs.
_NEEDS = {
    "deletion": ("deletion",),
    "insertion": ("insertion",),
    "symmetric_relevance_gain": ("deletion", "insertion"),
    "deletion_rescaled": ("deletion",),
    "insertion_rescaled": ("insertion",),
}
_MASKED = ("average_drop", "average_increase")
METRICS_OF_EPOCHS = ("attribution_drift", "randomisation_check", "consensus")
METRICS_OF_MAPS = ("class_sensitivity", *METRICS_OF_EPOCHS)
METRICS_OF_REGIONS = ("pointing_game", "relevance_mass")
METRICS_UNDER_NOISE = ("infidelity", "sensitivity", "local_fidelity")
UNCONTROLLED = ("sensitivity", *METRICS_OF_MAPS)
"""Metrics without a random control. They compare maps with each other, and a random ranking does not depend on the
image, the class or the epoch."""
METRICS = (*_NEEDS, *_MASKED, *METRICS_UNDER_NOISE, *METRICS_OF_MAPS)
"""The names of all metrics that need no masks."""


@dataclass(frozen=True)
class Faithfulness:
    """The metrics of one map of each sample, as :func:`measure` returns them.

    Attributes:
        curves: The deletion and insertion curves that the metrics needed.
        values: For each metric, shape ``(N,)``.
    """

    curves: dict[str, Curve]
    values: dict[str, Tensor]


def check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple, or raise a ValueError that lists the names of all metrics."""
    return checked_names("metrics", metrics, METRICS + METRICS_OF_REGIONS)


def measure(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    metrics: Sequence[str],
    settings: CurveSettings = DEFAULT_SETTINGS,
    *,
    forward: Forward | None = None,
    logits: Tensor | None = None,
    regions: Tensor | None = None,
) -> Faithfulness:
    """Return the metrics of these names, for each image.

    This covers the metrics that perturb the images, and those that compare maps with the region of an object. The
    names of other metrics, which compare maps with each other, are ignored here.

    Args:
        model: See :func:`faithfulness_curves`, also for the arguments that are not described here.
        maps: Shape ``(N, *spatial)``. Pass those of :func:`random_ranking` to get the values of the random control.
        metrics: Names from ``METRICS``.
        regions: Masks of the object, shape ``(N, *spatial)``. Without them, the metrics of regions are ignored.

    Raises:
        ValueError: As for :func:`faithfulness_curves`, and if a name is unknown.

    Example:
        The probability of class 0 is sigmoid(5) until the pixel of 5 is replaced by 0, and then 0.5. The area of the
        deletion curve is (0.9933 + 0.5) / 2 times 0.5, plus 0.5 times 0.5.

        >>> import torch
        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([0])
        >>> settings, region = CurveSettings("zero", steps=2), torch.tensor([[[False, True]]])
        >>> measure(score, image, target, image[:, 0], ["deletion", "pointing_game"], settings, regions=region).values
        {'deletion': tensor([0.6233]), 'pointing_game': tensor([1.])}
    """
    names = check_metrics(metrics)
    curve_names = sorted({curve for name in names for curve in _NEEDS.get(name, ())})
    curves = {}
    if curve_names:
        curves = faithfulness_curves(
            model, images, targets, maps, settings, metrics=curve_names, forward=forward, logits=logits
        )
    values = {name: _curve_metric(name, curves) for name in names if name in _NEEDS}
    if any(name in _MASKED for name in names):
        p_image, p_masked = masked_probabilities(
            model, images, targets, maps, forward=forward, logits=logits, precision=settings.precision,
            chunk_size=settings.chunk_size,
        )  # fmt: skip
        formulas = {"average_drop": drop_of, "average_increase": increase_of}
        values |= {name: formulas[name](p_image, p_masked) for name in names if name in formulas}
    if regions is not None:
        region_metrics = {"pointing_game": pointing_game, "relevance_mass": relevance_mass}
        values |= {name: region_metrics[name](maps, regions) for name in names if name in region_metrics}
    return Faithfulness(curves, values)


def _curve_metric(name: str, curves: dict[str, Curve]) -> Tensor:
    """Return the metric of this name, (N,), from the curves that it needs."""
    if name == "symmetric_relevance_gain":
        return gain_of(curves)
    if name in curves:
        return curves[name].areas
    return rescaled(curves)[name.removesuffix("_rescaled")].areas
