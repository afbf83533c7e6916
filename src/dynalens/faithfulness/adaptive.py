"""Curves with more points where they bend, which gives the same area with fewer evaluations."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from dynalens.faithfulness.scoring import Jobs, Perturbed, Scorer

_FIRST_INTERVALS = 8
_MOST_INTERVALS = 128
"""A curve with so many intervals is not refined further. The estimate of its error shows that it is rough."""


class _Points:
    """The points of one curve, in ascending order. Intervals are halved until each is narrow or flat enough.

    Args:
        first_value: Value of the curve where nothing is replaced.
        last_value: Value where all units are replaced.
        units: Number of units, which are pixels or patches.
    """

    def __init__(self, first_value: float, last_value: float, units: int) -> None:
        self.counts, self.values, self.units = [0, units], [first_value, last_value], units

    def add(self, counts: Sequence[int], values: Sequence[float]) -> None:
        """Add the values for these numbers of replaced units."""
        points = sorted([*zip(self.counts, self.values, strict=True), *zip(counts, values, strict=True)])
        self.counts, self.values = [count for count, _ in points], [value for _, value in points]

    def start(self) -> list[int]:
        """Return the numbers of replaced units at the ends of eight equal intervals, without those that are there."""
        grid = {round(k * self.units / _FIRST_INTERVALS) for k in range(_FIRST_INTERVALS + 1)}
        return sorted(grid - set(self.counts))

    def heavy_middles(self, tolerance: float) -> list[int]:
        """Return the middles of the intervals that weigh more than the tolerance, the heaviest first."""
        weights = self.weights()
        intervals = [i for i in sorted(range(len(weights)), key=lambda i: -weights[i]) if weights[i] > tolerance]
        middles = [(self.counts[i] + self.counts[i + 1]) // 2 for i in intervals if self._width(i) > 1]
        return middles[: max(_MOST_INTERVALS - len(weights), 0)]

    def weights(self) -> list[float]:
        """Return |rise| x width of each interval, where half of |rise| is the mean of its two neighbours'.

        An interval whose ends agree is not flat if the curve beside it is not: a bump may hide in it.
        """
        rises = [abs(b - a) for a, b in itertools.pairwise(self.values)]
        padded_rises = [rises[0], *rises, rises[-1]]
        mean_rises = [rise / 2 + (padded_rises[i] + padded_rises[i + 2]) / 4 for i, rise in enumerate(rises)]
        return [rise * self._width(i) / self.units for i, rise in enumerate(mean_rises)]

    def _width(self, i: int) -> int:
        return self.counts[i + 1] - self.counts[i]


def bisected_curve(
    scorer: Scorer,
    views: Perturbed,
    targets: Tensor,
    end_values: tuple[Tensor, Tensor],
    *,
    units: int,
    names: Sequence[str],
    tolerance: float,
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return for each name the values (N, M), fractions (N, M) and evaluations (N,) of the N curves.

    Each curve starts with eight equal intervals. In each round, all intervals with a weight (:meth:`_Points.weights`)
    above the tolerance are halved. The tolerance is for each interval and not for their sum. So fewer points are spent
    on the roughest curves, where they help least. The host waits once per round, and there are about five rounds.
    """
    originals, replacements = torch.stack(end_values).cpu().tolist()
    curves = {
        (name, i): _Points(*((p_image, p_baseline) if name == "deletion" else (p_baseline, p_image)), units)
        for name in names
        for i, (p_image, p_baseline) in enumerate(zip(originals, replacements, strict=True))
    }
    counts_of = {key: points.start() for key, points in curves.items()}
    while any(counts_of.values()):
        entries = [(i, count, name == "insertion") for (name, i), counts in counts_of.items() for count in counts]
        jobs = Jobs.from_rows(entries, targets.device)
        scores = iter(scorer.perturbed_probabilities(views, jobs, targets).cpu().tolist())
        for key, counts in counts_of.items():
            curves[key].add(counts, [next(scores) for _ in counts])
        counts_of = {key: curves[key].heavy_middles(tolerance) if counts else [] for key, counts in counts_of.items()}
    return {
        name: _tensors([points for (curve_name, _), points in curves.items() if curve_name == name], targets, units)
        for name in names
    }


def _tensors(curves: Sequence[_Points], targets: Tensor, units: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, fractions and evaluations; curves with fewer points than the others repeat their last one."""
    length = max((len(points.counts) for points in curves), default=2)
    values = [points.values + points.values[-1:] * (length - len(points.values)) for points in curves]
    counts = [points.counts + points.counts[-1:] * (length - len(points.counts)) for points in curves]
    fractions = torch.tensor(counts, dtype=torch.float64).view(len(curves), length) / units
    evaluations = torch.tensor([len(points.counts) - 2 for points in curves], dtype=torch.int64)
    return torch.tensor(values, device=targets.device).view(len(curves), length), fractions, evaluations
