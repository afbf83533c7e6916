"""One order from two signals: what the run says of the labels, and what embeddings say that never saw them."""

import dataclasses

import numpy as np

from dynalens.dynamics import Array
from dynalens.embeddings import EmbeddingEvidence
from dynalens.suspicion.score import Assessment, log_odds_offset, probability

_LEAST_SPREAD = 1e-9  # of log odds: those of constant embeddings need not differ
_LEAST_WRONG = 0.1  # samples: without noise the order still needs finite scores


def joined(assessment: Assessment, evidence: EmbeddingEvidence) -> Assessment:
    r"""Return the assessment with the order that run and embeddings give together.

    .. math:: s_i + 2 r^3 \frac{\sigma_s}{\sigma_e} e_i

    with s the score of the run, e the log odds of another class against the label by the embeddings' linear probe and
    nearest neighbours, :math:`\sigma` their standard deviations over the samples, and r in [0, 1] how much of what can
    be known of the labels the embeddings tell (:meth:`~dynalens.embeddings.EmbeddingEvidence.told`, with the middle
    between estimate and upper end of the noise rate): 0 of random ones, about 0.3 of pixels, 0.7 to 0.9 of a pretrained
    encoder. So run, probe and neighbours count alike where the embeddings tell all, and what tells little counts next
    to nothing, for the run knows it as well. Nothing is fitted to the truth, and the weight does not depend on how well
    the run memorised its labels. The third power was chosen because embeddings that say little then cost little:
    nothing for random ones, up to 0.8 points of average precision for pixels (``docs/results.md``).

    ``probability`` keeps its mean, the noise rate of the run.
    """
    rows = np.flatnonzero(np.isfinite(assessment.score) & np.isfinite(evidence.log_odds))
    if not len(rows):
        return assessment
    rate = assessment.noise_rate
    weight = 2 * evidence.told((rate.value + rate.high) / 2) ** 3
    run, other = assessment.score[rows], evidence.log_odds[rows]
    score = run + weight * run.std() / max(float(other.std()), _LEAST_SPREAD) * other
    score += log_odds_offset(score, max(rate.value, _LEAST_WRONG / len(rows)))
    wrong = probability(score) if rate.value else np.zeros(len(rows))
    run_probability = assessment.probability[rows]
    share = np.divide(
        assessment.suggested_probability[rows], run_probability, out=np.zeros(len(rows)), where=run_probability > 0
    )
    return dataclasses.replace(
        assessment,
        score=_replaced(assessment.score, rows, score),
        probability=_replaced(assessment.probability, rows, wrong),
        suggested_probability=_replaced(assessment.suggested_probability, rows, share * wrong),
    )


def _replaced(values: Array, rows: Array, new: Array) -> Array:
    copy = values.copy()
    copy[rows] = new
    return copy
