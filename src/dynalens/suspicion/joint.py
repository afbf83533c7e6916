"""One order from two signals: what the run says of the labels, and what embeddings say that never saw them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from dynalens.dynamics import Array
from dynalens.embeddings import EmbeddingEvidence
from dynalens.suspicion.score import Assessment, log_odds_offset, probability

POWER = 8.0
"""Of the share in the weight of embeddings; from 6 to 12 the order is nearly the same (docs/results.md)."""

_LEAST_SPREAD = 1e-9  # of log odds: those of constant embeddings need not differ
_LEAST_WRONG = 0.1  # samples: without noise the order still needs finite scores
_LEAST_P = 1e-9  # probability whose logarithm is still taken


class RunLoss:
    """Finds the loss of a run in the epoch that agrees best with embeddings.

    In its first epochs a network has learned little, and in late ones it repeats the labels that it has memorised,
    wrong ones as well. Embeddings that never saw the labels tell which epoch is between: the one with the largest
    correlation, over the samples, of the probability of the label with what the embeddings say for the label.

    Args:
        evidence: What the embeddings say.
        mean_losses: Shape ``(N,)``, the mean over the epochs for each sample. Their mean stands where no epoch was
            kept. It is too low in a run that memorised labels, so that embeddings then count too little.

    Attributes:
        value: Mean of -log p of the label in that epoch, in nats.

    Example:
        >>> none = np.zeros(2)
        >>> loss = RunLoss(EmbeddingEvidence(none, none, log_odds=np.array([-1.0, 1.0])), np.array([0.1, 0.3]))
        >>> loss.value
        0.2
        >>> loss.read(0, {"index": np.arange(2), "p_label": np.array([1.0, 0.5])})  # as the embeddings say
        >>> loss.read(1, {"index": np.arange(2), "p_label": np.array([0.9, 1.0])})
        >>> round(loss.value, 4)  # log(2) / 2
        0.3466
    """

    def __init__(self, evidence: EmbeddingEvidence, mean_losses: Array) -> None:
        recorded = mean_losses[np.isfinite(mean_losses)]
        self.value = float(recorded.mean()) if len(recorded) else float("nan")
        self._log_odds = evidence.log_odds
        self._agreement = -np.inf

    def read(self, _: int, presentations: Mapping[str, Array]) -> None:
        """Look at the presentations of an epoch: their rows ``index`` and ``p_label``, shape ``(M,)``."""
        against = self._log_odds[presentations["index"]]
        judged = np.isfinite(against)
        p, against = presentations["p_label"][judged].astype(np.float64), against[judged]
        if not len(p) or not p.std() or not against.std():
            return
        agreement = -float(np.corrcoef(p, against)[0, 1])
        if agreement > self._agreement:
            self._agreement, self.value = agreement, -float(np.log(np.maximum(p, _LEAST_P)).mean())


def embedding_weight(evidence: EmbeddingEvidence, run_loss: float) -> float:
    """Return how much embeddings count beside a run, in [0, 2].

    Example:
        >>> none = np.zeros(1)
        >>> evidence = EmbeddingEvidence(none, none, none, loss=1.5, entropy=2.0)
        >>> embedding_weight(evidence, run_loss=1.0), embedding_weight(evidence, run_loss=1.6)  # 2 (0.5 / 1)^8
        (0.0078125, 2.0)
    """
    of_embeddings, of_run = evidence.entropy - evidence.loss, evidence.entropy - run_loss
    if of_embeddings <= 0:
        return 0.0
    return 2.0 if of_run <= of_embeddings else float(2 * (of_embeddings / of_run) ** POWER)


def joined(assessment: Assessment, evidence: EmbeddingEvidence, run_loss: float) -> Assessment:
    r"""Return the assessment with the order that run and embeddings give together.

    .. math:: s_i + 2 \min(1, r)^8 \frac{\sigma_s}{\sigma_e} e_i \qquad r = \frac{H_0 - H_e}{H_0 - H_s}

    with s the score of the run, e the log odds of another class against the label by the embeddings' linear probe and
    nearest neighbours, and :math:`\sigma` their standard deviations over the samples. r compares how much both tell of
    the labels: :math:`H_0` is the entropy of the labels, :math:`H_e` their cross-entropy by the embeddings, out of
    fold, and :math:`H_s` the run's in the epoch that agrees best with the embeddings (:class:`RunLoss`). So run, probe
    and neighbours count alike where the embeddings tell as much as the run, and what tells less counts far less, for
    the run knows most of it as well. Random embeddings have r = 0. Nothing is fitted to the truth. The eighth power
    lets embeddings that tell two thirds of what the run tells, as pixels of photographs, cost next to nothing; from the
    sixth to the twelfth the order is nearly the same (``docs/results.md``).

    ``probability`` keeps its mean, the noise rate of the run.

    Args:
        assessment: What the run says.
        evidence: What the embeddings say.
        run_loss: :math:`H_s`, in nats.
    """
    rows = np.flatnonzero(np.isfinite(assessment.score) & np.isfinite(evidence.log_odds))
    if not len(rows):
        return assessment
    rate, weight = assessment.noise_rate, embedding_weight(evidence, run_loss)
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
