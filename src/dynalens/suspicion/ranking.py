"""One order of suspicion, and the probability that each label is wrong, learned from the run itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.suspicion.course import Course, read_course
from dynalens.suspicion.evidence import Evidence, streamed, weighted
from dynalens.suspicion.noise import Confusions, wrong_log_odds
from dynalens.suspicion.rate import NoiseRate, estimate_noise_rate

_FEWEST, _MOST = 0.02, 0.5  # fraction of the samples that the discriminant takes for wrong ones
_SOFT = 0.3  # width of the step between them and the rest, as a part of that fraction
_ROUNDS = 3
_ENOUGH = 50  # samples to learn weights from
_LEAST_FRESH = 0.1  # of the suspicious not yet learned in a period
_LARGEST = 0.5  # part of a period in all weights of predictions
_KNOWN = 0.5  # of what the best period knows of the others: before, predictions are guesses
_RIDGE = 0.1  # added to correlations: the periods of a run resemble each other
_PRIOR = 1000  # wrong labels needed until the learned weights count as much as the first ones
_STRUCTURE = 8  # an eighth of the uncertainty explained by the class is structure; uniform flips explain nothing


@dataclass(frozen=True)
class Assessment:
    """What a run says of the labels of N samples; NaN or -1 for a sample never seen.

    Attributes:
        score: Log odds that the label is wrong; higher is more suspicious.
        probability: That the label is wrong; its mean is the estimated noise rate.
        suggested: Class that the predictions named most often instead of the label, int64; -1 where none disagreed.
        suggested_probability: That the suggested class is the true one.
        agreement: Fraction of the presentations that predicted the suggested class.
        probability_margin: Mean of p_y - max_{k != y} p_k over the presentations; NaN without history.
        noise_rate: Fraction of wrong labels; NaN before anything was seen.
    """

    score: Array
    probability: Array
    suggested: Array
    suggested_probability: Array
    agreement: Array
    probability_margin: Array
    noise_rate: NoiseRate


def assess(statistics: SampleStatistics, history: Iterable[Mapping[str, Array]] = ()) -> Assessment:
    """Return how suspicious each label is.

    Presentations say little before the network knows anything and after it has memorised the labels, and when that is
    depends on the run. So the run is divided into periods, and the weight of each in the mean margin is
    Fisher's linear discriminant between the most suspicious samples and the others, beginning with the weights
    (t + 1)^2 * (training error in epoch t)^2 and repeated three times. A few flips on hard data teach it to find hard
    samples, so the weights are :func:`shrunk` towards those that it began with. Flips that follow the classes are found
    with the same weights by :func:`~dynalens.suspicion.noise.wrong_log_odds`. The score is
    (1 - s) * (log odds by margin) + s * (log odds by class pairs) with s in [0, 1] the structure of the flips: eight
    times :meth:`~dynalens.suspicion.noise.Confusions.explained`, times
    :meth:`~dynalens.suspicion.noise.Confusions.one_way`, as similar classes are mistaken for each other where labels
    are right, too.

    Without a history that covers all samples, the record's own means with the first weights are used.

    Args:
        statistics: The record.
        history: For each epoch, in order, ``index``, ``p_label``, ``margin``, ``predicted`` and, for the noise
            rate, ``p_other`` of its presentations.
    """
    seen = np.flatnonzero(statistics.presentations > 0)
    if not len(seen):
        return _nothing(len(statistics))
    course = read_course(statistics.label.astype(np.int64), history)
    kept = None if course is None else course.at(seen)
    first = streamed(statistics.part(seen)) if kept is None else weighted(kept, kept.weight)
    order = _first_order(first)
    fraction = float(np.clip((first.leading()[0] != first.label).mean(), _FEWEST, _MOST))
    evidence, by_margin, rate = first, _log_odds(-first.margin, _suspicious(order, fraction)), None
    if kept is not None and len(seen) >= _ENOUGH:
        margin = kept.filled_margin()
        learned, weight = discriminant(margin, order, fraction)
        wrong = _suspicious(learned, fraction)
        told = _unmemorised(kept, weight, wrong)
        evidence = weighted(kept, told)
        rate = estimate_noise_rate(weighted(kept, _spread_out(told)), kept.candidates)
        by_margin = _log_odds(-(shrunk(weight, kept.weight, rate.value * len(seen)) @ margin), wrong)
    rate = rate or estimate_noise_rate(first)
    structure = _structure(evidence)
    by_pairs = _log_odds(wrong_log_odds(evidence), _suspicious(order, fraction)) if structure else by_margin
    score = (1 - structure) * by_margin + structure * by_pairs
    return _assessment(seen, score, rate, evidence, _by_the_way(statistics, course))


def discriminant(margin: Array, order: Array, fraction: float) -> tuple[Array, Array]:
    """Return log odds of being wrong, up to a constant, and the weight of each period.

    Fisher's linear discriminant between two groups whose membership is a soft step in the current order, with a ridge
    on the correlations within the groups; the order is then that of the result, three times.

    Args:
        margin: Shape ``(P, N)``, without gaps.
        order: Shape ``(N,)``, higher is more suspicious.
        fraction: Of the samples, the most suspicious, that form the first group.
    """
    weight = np.zeros(len(margin))
    for _ in range(_ROUNDS):
        wrong = _suspicious(order, fraction)
        mean_wrong, mean_right = margin @ wrong / wrong.sum(), margin @ (1 - wrong) / (1 - wrong).sum()
        from_wrong, from_right = margin - mean_wrong[:, None], margin - mean_right[:, None]
        within = ((from_wrong * wrong) @ from_wrong.T + (from_right * (1 - wrong)) @ from_right.T) / margin.shape[1]
        scale = np.sqrt(np.diag(within)) + 1e-9
        correlation = within / np.outer(scale, scale) + _RIDGE * np.eye(len(margin))
        weight = np.linalg.solve(correlation, (mean_right - mean_wrong) / scale) / scale
        order = -(weight @ margin)
    return order, weight


def shrunk(learned: Array, first: Array, flips: float) -> Array:
    """Return weights between the learned and the first ones, each as parts of one; few flips teach little.

    Args:
        learned: Shape ``(P,)``, of the discriminant.
        first: Shape ``(P,)``, not negative: as long as nothing is known of the run.
        flips: Expected number of wrong labels; at 1000 both count alike.

    Example:
        >>> import numpy as np
        >>> shrunk(np.array([3.0, -1.0]), np.array([1.0, 1.0]), 1000)
        array([0.625, 0.125])
    """
    prior = first / first.sum() if first.sum() > 0 else np.full(len(first), 1 / len(first))
    share = flips / (flips + _PRIOR)
    result: Array = share * learned / max(float(np.abs(learned).sum()), 1e-12) + (1 - share) * prior
    return result


def log_odds_offset(log_odds: Array, mean: float) -> float:
    """Return the constant to add so that the probabilities have this mean in (0, 1).

    Example:
        >>> import numpy as np
        >>> round(log_odds_offset(np.zeros(3), 0.5), 6)
        0.0
    """
    low, high = -float(log_odds.max()) - 60, -float(log_odds.min()) + 60
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if probability(log_odds + middle).mean() > mean else (middle, high)
    return (low + high) / 2


def probability(log_odds: Array) -> Array:
    """Return 1 / (1 + exp(-log_odds))."""
    values: Array = 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
    return values


def ranks(values: Array) -> Array:
    """Return 1 for the largest value, 2 for the next; among equals the first, NaN last."""
    places = np.empty(len(values), dtype=np.int64)
    places[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return places


def _structure(evidence: Evidence, *, first: bool = False) -> float:
    """Return how far flips follow class pairs; at first, whether the confusions go one way is not asked."""
    confusions = Confusions.of(evidence.leading()[0], evidence.label, evidence.classes)
    return min(1.0, _STRUCTURE * confusions.explained() * (1.0 if first else confusions.one_way()))


def _first_order(evidence: Evidence) -> Array:
    """Ranks of margin, probability margin and class pairs; higher is more suspicious."""
    structure = _structure(evidence, first=True)
    margins = ranks(-evidence.margin) + ranks(evidence.p_rival - evidence.p_label)
    pairs = ranks(wrong_log_odds(evidence)) if structure else 0
    return -((1 - structure) * margins / 2 + structure * pairs)


def _suspicious(order: Array, fraction: float) -> Array:
    """Soft membership of the first ``fraction``, in (0, 1)."""
    place = (ranks(order) - 0.5) / len(order)
    return probability((fraction - place) / (_SOFT * fraction))


def _unmemorised(course: Course, weight: Array, wrong: Array) -> Array:
    """Weights for the predictions: of periods in which the others are known and the suspicious are not repeated yet."""
    repeated = np.ones((len(course.votes), len(wrong)))
    for row, votes in zip(repeated, course.votes, strict=True):
        np.subtract.at(row, votes.sample, votes.share)
    learned, known = repeated @ wrong / wrong.sum(), repeated @ (1 - wrong) / (1 - wrong).sum()
    # Where nothing is wrong, the suspicious are learned as well; the least keeps those periods in.
    fresh = np.maximum(1 - learned, _LEAST_FRESH) ** 2 * (known >= _KNOWN * known.max())
    told = np.maximum(weight, 0) * fresh
    chosen: Array = told if (told > 0).any() else fresh
    return chosen


def _spread_out(weight: Array) -> Array:
    """Raise all weights alike until none is above a half of them: what is predicted once is no steady prediction."""
    excess = weight.max() - _LARGEST * weight.sum()
    room = _LARGEST * len(weight) - 1
    return weight + max(excess, 0) / room if room > 0 else np.ones(len(weight))


def _log_odds(values: Array, wrong: Array) -> Array:
    """Log odds, up to a constant, of two groups that are normal in ``values`` with one variance."""
    mean_wrong, mean_right = np.average(values, weights=wrong), np.average(values, weights=1 - wrong)
    variance = np.mean(wrong * (values - mean_wrong) ** 2 + (1 - wrong) * (values - mean_right) ** 2)
    scaled: Array = values * (mean_wrong - mean_right) / (variance + 1e-9)
    return scaled


def _by_the_way(statistics: SampleStatistics, course: Course | None) -> tuple[Array, Array, Array]:
    """Suggested class, agreement with it, and mean probability margin."""
    if course is None:
        absent = np.full(len(statistics), np.nan)
        return statistics.candidate.astype(np.int64), statistics.candidate_share, absent
    return course.suggested, course.agreement, course.probability_margin


def _assessment(
    seen: Array, score: Array, rate: NoiseRate, evidence: Evidence, by_the_way: tuple[Array, Array, Array]
) -> Assessment:
    suggested, agreement, probability_margin = by_the_way
    # Without noise the order still needs finite scores.
    smallest = 0.1 / len(score)
    score = score + log_odds_offset(score, float(np.clip(rate.value, smallest, 1 - smallest)))
    wrong = probability(score) if rate.value else np.zeros(len(score))
    named = suggested[seen]
    true = np.where(named >= 0, wrong * evidence.share_of(named), np.nan)
    n = len(suggested)
    return Assessment(
        score=_spread(n, seen, score),
        probability=_spread(n, seen, wrong),
        suggested=suggested,
        suggested_probability=_spread(n, seen, true),
        agreement=agreement,
        probability_margin=probability_margin,
        noise_rate=rate,
    )


def _spread(n: int, seen: Array, values: Array) -> Array:
    full: Array = np.full(n, np.nan)
    full[seen] = values
    return full


def _nothing(n: int) -> Assessment:
    absent: Array = np.full(n, np.nan)
    return Assessment(absent, absent, np.full(n, -1), absent, absent, absent, NoiseRate(*[float("nan")] * 3))
