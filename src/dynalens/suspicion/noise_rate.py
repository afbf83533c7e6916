"""How many labels are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynalens.suspicion.disagreement import Disagreement, disagreement_halfway
from dynalens.suspicion.predictions import Predictions
from dynalens.suspicion.refuted_labels import CandidateBins, refuted_rate
from dynalens.text import percent

HIGHEST_RATE = 0.5
"""Labels are taken to be right more often than not; else the network has learned nothing yet."""

RULE = 0.5
"""Where this part of the confusions goes one way, three for one the other way, all doubted labels are flips."""

_SECOND_EPOCH = 1
"""The second epoch, counted from 0."""

FROM_THE_RUN_ALONE = "from the run alone; audit 100 samples for a confidence interval"
"""What is said beside every rate that does not come from a person's answers."""

FROM_BOTH = "from the run and the embeddings; audit 100 samples for a confidence interval"
"""What is said instead where embeddings count, too."""


@dataclass(frozen=True)
class NoiseRate:
    """Estimated fraction of wrong labels, in [0, 1], with a lower and an upper bound.

    If the rate comes from an audit (``calibrated``), the bounds are a 95 % confidence interval. If it comes from the
    run alone, they are no confidence interval: the upper bound also counts hard samples with right labels, and neither
    bound counts wrong labels that the network never disagreed with. ``docs/numbers.md`` says how the estimate is made.

    Attributes:
        low: Lower bound. From the run alone, it follows from the number of labels that the network rules out: it is the
            smallest rate at which this number is likely (95 %), minus two standard errors, or 0 without history.
        value: The estimate.
        high: Upper bound. From the run alone, it is the larger of two fractions, plus two standard errors. One is the
            fraction of labels with which the mean predictions disagree, also at an earlier epoch if the estimate still
            falls or the network has learned labels by heart. The other is the largest rate at which the number of
            labels that the network rules out is likely (95 %).
        calibrated: True if the rate comes from the answers of a person (:func:`dynalens.audit`). False if it comes from
            the run alone, which can be far too low on labels that people gave.
        doubts: Reasons to doubt the rate, one sentence each. A calibrated rate has a doubt only if there are few
            answers.
        alone: Text that is printed beside an estimate from the run alone: where it comes from, and what is better.

    Example:
        >>> rate = NoiseRate(low=0.05, value=0.1, high=0.2)
        >>> round(60_000 * rate.value)  # wrong labels to expect among 60,000
        6000
        >>> print(rate)
        10.0 % (5.0 % to 20.0 %), from the run alone; audit 100 samples for a confidence interval
    """

    low: float
    value: float
    high: float
    calibrated: bool = False
    doubts: tuple[str, ...] = ()
    alone: str = FROM_THE_RUN_ALONE

    def in_words(self) -> str:
        """Return the rate with its bounds, and where it comes from, as text."""
        origin = "a 95 % interval from answers" if self.calibrated else self.alone
        return f"{percent(self.value)} ({percent(self.low)} to {percent(self.high)}), {origin}"

    def __str__(self) -> str:
        """Return :meth:`in_words`, and the reasons to doubt it."""
        return f"{self.in_words()}. {' '.join(self.doubts)}" if self.doubts else self.in_words()

    def __repr__(self) -> str:
        """Return how it is made; of an estimate, also what it is."""
        fields = f"low={self.low!r}, value={self.value!r}, high={self.high!r}, calibrated={self.calibrated}"
        return f"NoiseRate({fields})" if self.calibrated else f"NoiseRate({fields})  # {self.alone}"


def estimate_noise_rate(
    predictions: Predictions, direction: float, candidates: Sequence[CandidateBins] = ()
) -> NoiseRate:
    """Return how many labels are wrong.

    Let c be the fraction of labels that are doubted: those where another class leads. It counts hard samples, too.
    Wrong labels that hard samples do not explain are counted in two ways, each of which misses some. One is the
    fraction of labels that the network rules out (:func:`~dynalens.suspicion.refuted_labels.refuted_rate`). The other
    is the fraction of doubted labels among the twentieth of the samples whose leading class is surest. The larger of
    the two is f, at most c. With A how far confusions go one way, times how far the network knows its classes, the
    estimate is

        f + max(f, r) (c - f), r = min(1, A / (1/2)^2)

    and at most 1/2. Labels that are wrong without a look at the sample are as frequent among the doubted ones as among
    all, f. Flips that follow a rule are learned and not ruled out. As far as confusions go one way, the doubted labels
    are such flips.

    Flips of just those samples that look like another class, to this class, cannot be told from hard samples. The
    estimate counts few of them. The upper bound counts all that are doubted.

    Args:
        predictions: Means of the run.
        direction: A in [0, 1].
        candidates: What the history says of labels that the network rules out; none without history.
    """
    leader = predictions.leader()
    is_doubted = leader != predictions.label
    if is_doubted.all():
        return NoiseRate(0.0, HIGHEST_RATE, 1.0)
    disagreement = Disagreement.from_samples(0, is_doubted, predictions.p_leader())
    low, refuted_share, high = refuted_rate(candidates) if candidates else (0.0, 0.0, 0.0)
    value = _estimate(disagreement, refuted_share, direction)
    error = two_standard_errors(value, len(predictions))
    high = min(1.0, max(disagreement.doubted_share, high) + error)
    return NoiseRate(max(0.0, min(low, value) - error), value, high)


def two_standard_errors(rate: float, sample_count: int) -> float:
    """Return 2 sqrt(v / N) with the variance v = r (1 - r) of one of N samples at the rate r, at least 1 / N.

    Example:
        >>> two_standard_errors(0.5, 100), two_standard_errors(0.0, 100)
        (0.1, 0.02)
    """
    return 2 * float(np.sqrt(max(rate * (1 - rate), 1 / sample_count) / sample_count))


def estimate_halfway(
    disagreements: Sequence[Disagreement], candidates: Sequence[CandidateBins], epoch_count: int
) -> float | None:
    """Return the estimate as of about half of the epochs; None of a single epoch, and without history.

    Args:
        disagreements: How far the network disagreed with the labels after some of the epochs.
        candidates: As for :func:`estimate_noise_rate`.
        epoch_count: How many epochs there are.
    """
    half = disagreement_halfway(disagreements, epoch_count)
    if half is None:
        return None
    first_half = [candidate for candidate in candidates if candidate.epoch <= half.epoch]
    return _estimate(half, refuted_rate(first_half)[1] if first_half else 0.0, half.direction)


def with_earlier_bound(
    rate: NoiseRate, disagreements: Sequence[Disagreement], epoch_count: int, *, is_falling: bool, has_memorised: bool
) -> NoiseRate:
    """Return the rate with an upper bound from before the network had learned wrong labels by heart.

    By the end such a network contradicts hardly any label, the wrong ones included, so that the bound says nothing. It
    is therefore at least the fraction of labels with which the weighted predictions disagreed halfway, where the
    estimate still falls, and as of the second epoch, where the network has learned its labels by heart.

    Args:
        rate: As of the last epoch.
        disagreements: How far the network disagreed with the labels after some of the epochs; none without history.
        epoch_count: How many epochs there are.
        is_falling: Whether the estimate still falls.
        has_memorised: Whether the network repeats more labels than can be right.

    Example:
        >>> disagreements = [Disagreement(0, 0.5, 0.2), Disagreement(1, 0.3, 0.1), Disagreement(2, 0.1, 0.0)]
        >>> with_earlier_bound(NoiseRate(0.0, 0.01, 0.02), disagreements, 3, is_falling=False, has_memorised=True).high
        0.3
    """
    half = disagreement_halfway(disagreements, epoch_count) if is_falling else None
    bounds = [half.doubted_share] if half else []
    if has_memorised:
        bounds += [past.doubted_share for past in disagreements if past.epoch == _SECOND_EPOCH]
    return replace(rate, high=max([rate.high, *bounds]))


def _estimate(disagreement: Disagreement, refuted_share: float, direction: float) -> float:
    doubted_share = disagreement.doubted_share
    wrong_share = min(doubted_share, max(refuted_share, disagreement.surest_doubted_share))
    flip_share = max(wrong_share, min(1.0, direction / RULE**2))
    return min(HIGHEST_RATE, wrong_share + flip_share * (doubted_share - wrong_share))
