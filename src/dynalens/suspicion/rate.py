"""How many labels are wrong."""

from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.evidence import Evidence
from dynalens.suspicion.noise import Confusions

_STEADY = 0.8  # of the weighted presentations predict the leading class
_LEAST_STEADY = 0.05
_SUREST = 0.1  # of the samples whose leading class is their label
_MOST = 0.5  # labels are taken to be right more often than not; else the network has learned nothing yet
_FEWEST = 50  # samples to tell anything from
_NONE, _ALL = 0.1, 0.35  # disagreement among the surest, as a part of that of the steady: from hard samples, from flips


@dataclass(frozen=True)
class NoiseRate:
    """Fraction of wrong labels.

    Attributes:
        low: Lower end: what the samples that the network is surest of show, less two standard errors; of two
            classes 0.
        value: The estimate.
        high: Upper end: all samples whose leading class is not their label, plus two standard errors.
    """

    low: float
    value: float
    high: float


def estimate_noise_rate(evidence: Evidence) -> NoiseRate:
    """Return how many labels are wrong.

    Labels that differ from a *steady* prediction (the same class in 80 % of the weighted presentations), divided by
    how often the prediction is steady where it agrees with the label: the true class of a wrong label should be as
    easy to see as that of a right one. On hard data, right labels of hard samples are among them. They vanish where
    the network is surest, flips do not; so the estimate fades from full, where disagreement among the surest tenth is
    at least half of that among all, to none where it is at most a tenth.

    Sure means a large probability of the leading class among the classes other than the label, since training pulls
    the label's up; for agreeing samples, other than the labels that stand for this class elsewhere.

    Of two classes there is no other to be sure among: the estimate does not fade then and counts hard samples as wrong,
    and the lower end is 0.

    Never more than a half: a network that disagrees with more labels has learned too little to say.

    The ends are not a confidence interval of the method: memorised labels are in neither.
    """
    leader, p, share = evidence.leading()
    differ = leader != evidence.label
    if differ.all():
        return NoiseRate(0.0, _MOST, 1.0)
    steady = share > _STEADY
    upper = min(1.0, float((differ & steady).mean() / max(steady[~differ].mean(), _LEAST_STEADY)))
    if evidence.classes < 3:  # no other class to be sure among
        lower, fading = 0.0, 1.0
    else:
        lower = min(upper, _among_the_surest(evidence, leader, p, differ))
        fading = (lower / upper - _NONE) / (_ALL - _NONE) if upper else 0.0
    value = min(_MOST, upper * float(np.clip(fading, 0, 1)))
    error = 2 * np.sqrt(max(value * (1 - value), 1 / len(evidence)) / len(evidence))
    high = max(upper, float(differ.mean()))
    return NoiseRate(max(0.0, min(lower, value) - float(error)), value, min(1.0, high + float(error)))


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
