"""How many labels are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array
from dynalens.suspicion.evidence import Evidence
from dynalens.suspicion.floor import Candidates, floor
from dynalens.suspicion.noise import Confusions

_STEADY = 0.8  # of the weighted presentations predict the leading class
_LEAST_STEADY = 0.05
_SUREST = 0.1  # of the samples whose leading class is their label
_MOST = 0.5  # labels are taken to be right more often than not; else the network has learned nothing yet
_FEWEST = 50  # samples to tell anything from
_NONE, _ALL = 0.1, 0.35  # disagreement among the surest, as a part of that of the steady: from hard samples, from flips
_LEAST_RIGHT = 0.3
_RISE, _HIGHEST = 3.0, 0.3  # how far the estimate lies above the floor, for each wrong label there, and at most
_PLAUSIBLE, _RULE = 0.15, 0.3  # of the uncertainty that classes explain where classes resemble, where flips follow them


@dataclass(frozen=True)
class NoiseRate:
    """Fraction of wrong labels.

    The ends are bounds of several views, not a confidence interval: on hard data the upper one counts hard samples,
    too, and labels that were memorised from the first are in neither.

    Attributes:
        low: The least that the labels which the network rules out leave likely (95 %), of a calibrated network; without
            history, what is wrong among its surest samples; less two standard errors.
        value: The estimate.
        high: The most of what disagrees with the weighted predictions and of what the labels that the network rules
            out leave likely (95 %), plus two standard errors; hard samples are in it.

    Example:
        >>> rate = NoiseRate(low=0.05, value=0.1, high=0.2)
        >>> round(60_000 * rate.value)  # wrong labels to expect among 60,000
        6000
    """

    low: float
    value: float
    high: float


def estimate_noise_rate(evidence: Evidence, epochs: Sequence[Candidates] = ()) -> NoiseRate:
    """Return how many labels are wrong.

    Wrong labels are told from hard samples in two ways, each of which misses some: labels that the network rules out
    (:func:`~dynalens.suspicion.floor.floor`, at most c), and confusions of one class with another that are far more
    frequent than the other way round (:attr:`~dynalens.suspicion.noise.Confusions.directed`), as a part of the samples
    whose class is known. The larger of the two is f. The ceiling c is the part of all labels that disagrees with a
    *steady* prediction (the same class in 80 % of the weighted presentations), divided by how often the prediction is
    steady where it agrees; it counts right labels of hard samples, too. With d the part of all labels that disagrees
    with any prediction, the estimate is f^(1 - a) max(f, min(c, d))^a with a = 3 f, at most 0.3: where there are wrong
    labels that cannot be overlooked, there are some that can. Where classes explain more of the disagreement than
    resemblance does (15 to 30 % of its uncertainty) and confusions go
    :meth:`~dynalens.suspicion.noise.Confusions.one_way`, the flips follow a rule, and the estimate rises to c.

    Flips of just those samples that look like another class, to this class, cannot be told from hard samples; the
    estimate does not count them, the upper end does.

    Without epochs, the surest tenth of the samples tells hard samples from flips: the estimate fades from the ceiling,
    where disagreement among them is at least a third of that among all, to none where it is at most a tenth. Of two
    classes there is no other to be sure among: without epochs the estimate is the ceiling then and the lower end is 0.

    Never more than a half: a network that disagrees with more labels has learned too little to say.
    """
    leader, p, share = evidence.leading()
    differ = leader != evidence.label
    if differ.all():
        return NoiseRate(0.0, _MOST, 1.0)
    steady = share > _STEADY
    ceiling = min(1.0, float((differ & steady).mean() / max(steady[~differ].mean(), _LEAST_STEADY)))
    disagreeing = float(differ.mean())
    if epochs:
        least, best, most = floor(epochs)
        confusions = Confusions.of(leader, evidence.label, evidence.classes)
        directed = confusions.directed / len(evidence)
        known = (1 - disagreeing) / (1 - min(_MOST, max(best, directed)))
        seen = max(min(best, ceiling), directed / max(known, _LEAST_RIGHT))
        value = _between(seen, ceiling, disagreeing, confusions.explained() * confusions.one_way())
    else:
        least = min(ceiling, _among_the_surest(evidence, leader, p, differ)) if evidence.classes > 2 else 0.0
        fading = (least / ceiling - _NONE) / (_ALL - _NONE) if evidence.classes > 2 and ceiling else 1.0
        value, most = ceiling * float(np.clip(fading, 0, 1)), 0.0
    value = min(_MOST, value)
    error = 2 * float(np.sqrt(max(value * (1 - value), 1 / len(evidence)) / len(evidence)))
    return NoiseRate(
        max(0.0, min(least, value) - error), value, min(1.0, max(ceiling, disagreeing, most, value) + error)
    )


def _between(seen: float, ceiling: float, disagreeing: float, explained: float) -> float:
    rise = min(_HIGHEST, _RISE * seen)
    value: float = seen ** (1 - rise) * max(seen, min(ceiling, disagreeing)) ** rise
    rule = float(np.clip((explained - _PLAUSIBLE) / (_RULE - _PLAUSIBLE), 0, 1))
    return value + rule * max(0.0, ceiling - value)


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
