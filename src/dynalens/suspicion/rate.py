"""How many labels are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.evidence import Evidence
from dynalens.suspicion.noise import Confusions
from dynalens.suspicion.reliability import Reliability, asymptote

_STEADY = 0.8  # of the weighted presentations predict the leading class
_LEAST_STEADY = 0.05
_SUREST = 0.1  # of the samples whose leading class is their label
_MOST = 0.5  # labels are taken to be right more often than not; else the network has learned nothing yet
_FEWEST = 50  # samples to tell anything from
_MEMORISED = 2.5  # most that memorisation is taken to have hidden of wrong labels
_NONE, _ALL = 0.1, 0.35  # disagreement among the surest, as a part of that of the steady: from hard samples, from flips


@dataclass(frozen=True)
class NoiseRate:
    """Fraction of wrong labels.

    The ends are bounds of several views, not a confidence interval: a network that is sure and wrong on hard data
    raises both, labels that were memorised from the first are in neither.

    Attributes:
        low: The least of what the samples that the network is surest of show (of two classes, nothing) and of what is
            left for the surest predictions at its least likely (95 %), less two standard errors.
        value: The estimate.
        high: The most of what disagrees with the weighted predictions and of what is left for the surest predictions at
            its most likely (95 %), plus two standard errors; hard samples are in it, too.

    Example:
        >>> rate = NoiseRate(low=0.05, value=0.1, high=0.2)
        >>> round(60_000 * rate.value)  # wrong labels to expect among 60,000
        6000
    """

    low: float
    value: float
    high: float


def estimate_noise_rate(evidence: Evidence, epochs: Sequence[Reliability] = ()) -> NoiseRate:
    """Return how many labels are wrong.

    Labels that differ from a *steady* prediction (the same class in 80 % of the weighted presentations), divided by
    how often the prediction is steady where it agrees with the label: the true class of a wrong label should be as
    easy to see as that of a right one. On hard data, right labels of hard samples are among them. They vanish where
    the network is surest, flips do not; so the estimate is never more than two and a half times the
    :func:`~dynalens.suspicion.reliability.asymptote`, which memorisation makes smaller than the rate.

    Without epochs, the surest tenth of the samples stands for the asymptote: the estimate fades from full, where
    disagreement among them is at least a third of that among all, to none where it is at most a tenth.

    Of two classes there is no other to be sure among: without epochs the estimate does not fade then and counts hard
    samples as wrong, and the lower end is 0.

    Never more than a half: a network that disagrees with more labels has learned too little to say.
    """
    leader, p, share = evidence.leading()
    differ = leader != evidence.label
    if differ.all():
        return NoiseRate(0.0, _MOST, 1.0)
    steady = share > _STEADY
    upper = min(1.0, float((differ & steady).mean() / max(steady[~differ].mean(), _LEAST_STEADY)))
    # Of two classes there is no other one to be sure among.
    surest = min(upper, _among_the_surest(evidence, leader, p, differ)) if evidence.classes > 2 else 0.0
    if epochs:
        low, remaining, high = asymptote(epochs)
        value = min(_MOST, upper, _MEMORISED * remaining)
    else:
        low, high = surest, upper
        fading = (surest / upper - _NONE) / (_ALL - _NONE) if evidence.classes > 2 and upper else 1.0
        value = min(_MOST, upper * float(np.clip(fading, 0, 1)))
    error = 2 * float(np.sqrt(max(value * (1 - value), 1 / len(evidence)) / len(evidence)))
    high = max(upper, high, float(differ.mean())) + error
    return NoiseRate(max(0.0, min(low, surest, value) - error), value, min(1.0, high))


def _among_the_surest(evidence: Evidence, leader: Array, p: Array, differ: Array) -> float:
    confusions = Confusions.of(leader, evidence.label, evidence.classes)
    apart = evidence.p_label.copy()
    for at, mean in evidence.blocks():
        apart[at] = np.where(differ[at], apart[at], confusions.expected(mean, leader[at]))
    sure = p / np.maximum(1 - apart, 1e-9)
    agreeing = sure[~differ]
    part = min(1.0, max(_SUREST, _FEWEST / len(agreeing)))
    least = np.quantile(agreeing, 1 - part)
    wrong = int((sure[differ] >= least).sum())
    return wrong / max(wrong + int((agreeing >= least).sum()), 1)
