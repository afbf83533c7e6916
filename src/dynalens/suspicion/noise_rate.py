"""How many labels are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.suspicion.predictions import Predictions
from dynalens.suspicion.refuted_labels import Candidates, refuted_rate

MOST = 0.5
"""Labels are taken to be right more often than not; else the network has learned nothing yet."""

SUREST = 0.05
"""Fraction of the samples that the network is surest of; hard samples are not among them."""

RULE = 0.5
"""Where this part of the confusions goes one way, three for one the other way, all doubted labels are flips."""

FROM_THE_RUN_ALONE = "from the run alone; audit 100 samples for an interval that holds"
"""What is said beside every rate that no answers stand behind."""


@dataclass(frozen=True)
class NoiseRate:
    """Fraction of wrong labels.

    The ends are bounds of several views, not a confidence interval: on hard data the upper one counts hard samples,
    too, and labels that were memorised from the first are in neither.

    Attributes:
        low: The least that the labels which the network rules out leave likely (95 %), of a calibrated network, less
            two standard errors; 0 without history.
        value: The estimate.
        high: The most of what disagrees with the weighted predictions and of what the labels that the network rules
            out leave likely (95 %), plus two standard errors; hard samples are in it.
        calibrated: Whether a person's answers stand behind it, as in :func:`dynalens.audit`: the ends are then those of
            a 95 % interval. False for an estimate from the run alone, which can be far too low on labels that people
            gave.

    Example:
        >>> rate = NoiseRate(low=0.05, value=0.1, high=0.2)
        >>> round(60_000 * rate.value)  # wrong labels to expect among 60,000
        6000
    """

    low: float
    value: float
    high: float
    calibrated: bool = False


def estimate_noise_rate(predictions: Predictions, directed: float, epochs: Sequence[Candidates] = ()) -> NoiseRate:
    """Return how many labels are wrong.

    Let c be the fraction of labels that are doubted: the leading class is another one. Hard samples are in it. Wrong
    labels that hard samples do not explain are counted in two ways, each of which misses some: labels that the network
    rules out (:func:`~dynalens.suspicion.refuted_labels.refuted_rate`), and doubted labels among the twentieth of the
    samples whose leading class is surest. The larger of the two is f, at most c. The estimate is

        f + max(f, r) (c - f), r = min(1, A / (1/2)^2)

    Labels that are wrong without a look at the sample are as frequent among the doubtful ones as among all, f. Flips
    that follow a rule are learned as one and not ruled out: as far as confusions go one way, A, the doubted labels are
    theirs.

    Flips of just those samples that look like another class, to this class, cannot be told from hard samples; the
    estimate counts few of them, the upper end does. Never more than a half.

    Args:
        predictions: Means of the run.
        directed: How far confusions go one way, A in [0, 1].
        epochs: What the history says of labels that the network rules out; none without history.
    """
    leader = predictions.leader()
    differ = leader != predictions.label
    if differ.all():
        return NoiseRate(0.0, MOST, 1.0)
    doubted, sure = float(differ.mean()), np.where(differ, predictions.p_rival, predictions.p_label)
    surest = float(differ[sure >= np.quantile(sure, 1 - SUREST)].mean())
    low, refuted, high = refuted_rate(epochs) if epochs else (0.0, 0.0, 0.0)
    wrong = min(doubted, max(refuted, surest))
    value = min(MOST, wrong + max(wrong, min(1.0, directed / RULE**2)) * (doubted - wrong))
    error = 2 * float(np.sqrt(max(value * (1 - value), 1 / len(predictions)) / len(predictions)))
    return NoiseRate(max(0.0, min(low, value) - error), value, min(1.0, max(doubted, high) + error))
