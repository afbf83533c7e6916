"""What makes an estimated noise rate doubtful, as sentences: which figure of the run says so, and what it means."""

import math

from dynalens.suspicion.disagreement import SUREST_SHARE
from dynalens.suspicion.noise_rate import HIGHEST_RATE, NoiseRate, two_standard_errors
from dynalens.text import percent

AUDIT_ANSWERS = 100
"""Answers of the audit that is recommended."""

REPEATED_ERROR = 1 / AUDIT_ANSWERS
"""Training error below which the network repeats its labels: an audit would meet less than one such sample."""

EXCLUDABLE_RATE = 0.05
"""A rate that an estimate should be able to exclude."""


def doubts(
    rate: NoiseRate, *, sample_count: int, accuracy: float = math.nan, halfway_rate: float | None = None
) -> tuple[str, ...]:
    r"""Return what speaks against an estimate from the run alone, a whole sentence each; none of a calibrated rate.

    - **Memorised**: the network repeats more of the given labels than can be right, accuracy > 1 - r + d with the
      estimate r and two standard errors d = 2 sqrt(r (1 - r) / N), or all but one in a hundred. Disagreement tells
      wrong labels only as long as they are not learned by heart (Zhang et al., "Understanding deep learning requires
      rethinking generalization", ICLR 2017).
    - **Limit**: the estimate is 1/2, the largest there is: the network contradicts so many labels that it knows little.
    - **Falling**: the estimate as of half the epochs is higher than r + d.
    - **Wide**: the upper bound is farther above the estimate than the upper end of a 95 % interval from 100 random
      answers would be, r + 2 sqrt(r (1 - r) / 100): these answers say more than the run. The lower bound does not count
      here: it is near 0 in most runs, whatever the rate.
    - **Few**: of n = N / 20 samples, those that the network is surest of, none need be wrong at a rate of 3 / n (95 %,
      the rule of three: Hanley and Lippman-Hand, JAMA 1983). It is a doubt where that is above the estimate and 5 %.

    Args:
        rate: The estimate r with its ends.
        sample_count: Number N of samples that were seen.
        accuracy: Fraction of their last presentations that were right; NaN where it is not known.
        halfway_rate: The estimate as of about half of the epochs; None without history.

    Example:
        >>> doubts(NoiseRate(0.14, 0.18, 0.23), sample_count=5000, accuracy=0.78, halfway_rate=0.182)
        ()
        >>> [doubt] = doubts(NoiseRate(0.14, 0.18, 0.23), sample_count=5000, accuracy=0.74, halfway_rate=0.25)
        >>> doubt[:66]
        'The estimate still falls: it was 25.0 % halfway and is 18.0 % now.'
    """
    if rate.calibrated or math.isnan(rate.value):
        return ()
    past_rate = rate.value if halfway_rate is None else halfway_rate
    hidden_rate = 3 / max(SUREST_SHARE * sample_count, 1)
    sentences = {
        f"The network repeats {percent(accuracy)} of the given labels, more than can be right: it has learned wrong "
        "labels by heart, and the estimate does not count those.": has_memorised(rate.value, sample_count, accuracy),
        f"The estimate is {percent(rate.value)}, which is its limit: the network contradicts so many labels that it "
        "has hardly learned the classes yet.": rate.value >= HIGHEST_RATE,
        f"The estimate still falls: it was {percent(past_rate)} halfway and is {percent(rate.value)} now. It is too "
        "low if the network learns labels by heart, and too high if it still learns the classes.": still_falls(
            rate.value, sample_count, halfway_rate
        ),
        **dict.fromkeys(bounds_doubts(rate), True),
        f"There are few samples: {sample_count:,}. The estimate looks at the 5 % of them of which the network is "
        f"surest. Even if {percent(min(hidden_rate, 1.0), 0)} of all labels were wrong, these few might all be "
        "right.": hidden_rate > max(rate.value, EXCLUDABLE_RATE),
    }
    return tuple(sentence for sentence, holds in sentences.items() if holds)


def has_memorised(rate: float, sample_count: int, accuracy: float) -> bool:
    """Return whether a network is right more often, by the given labels, than it can be at this rate of wrong ones.

    Example:
        >>> [has_memorised(0.2, sample_count=10_000, accuracy=accuracy) for accuracy in (0.79, 0.85)]
        [False, True]
    """
    return accuracy >= 1 - max(rate - two_standard_errors(rate, sample_count), REPEATED_ERROR)


def still_falls(rate: float, sample_count: int, halfway_rate: float | None) -> bool:
    """Return whether the estimate of about half of the epochs was higher; False if there was none.

    Example:
        >>> [still_falls(0.2, sample_count=10_000, halfway_rate=rate) for rate in (0.207, 0.21)]
        [False, True]
    """
    return halfway_rate is not None and halfway_rate > rate + two_standard_errors(rate, sample_count)


def bounds_doubts(rate: NoiseRate) -> tuple[str, ...]:
    """Return the doubt of an estimate whose upper bound is farther above it than that of 100 answers, if it is one."""
    if rate.high - rate.value <= two_standard_errors(rate.value, AUDIT_ANSWERS):
        return ()
    return (
        f"The true rate may be far above the estimate, up to {percent(rate.high)}: this run cannot tell so many wrong "
        "labels from hard samples.",
    )


def zero_doubts(rate: NoiseRate, sample_count: int) -> tuple[str, ...]:
    """Return the doubt of an estimate of less than one of the samples: the network may not have learned enough yet.

    Example:
        >>> zero_doubts(NoiseRate(0.0, 0.1, 0.2), 100), len(zero_doubts(NoiseRate(0.0, 0.0, 0.01), 100))
        ((), 1)
    """
    if math.isnan(rate.value) or rate.value * sample_count >= 1:
        return ()
    return (
        "Not one sample stands out: hardly any is wrong, or the network has not learned enough yet to contradict wrong "
        "ones.",
    )
