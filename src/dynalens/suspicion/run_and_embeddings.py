"""One order from two signals: what the run says of the labels, and what embeddings say that never saw them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dynalens.dynamics import Array
from dynalens.embeddings import EmbeddingEvidence, LabelEvidence
from dynalens.suspicion.confusions import confident_rate
from dynalens.suspicion.noise_rate import FROM_BOTH, HIGHEST_RATE, NoiseRate
from dynalens.suspicion.predictions import Predictions
from dynalens.suspicion.rate_doubts import bounds_doubts
from dynalens.suspicion.score import Assessment, predicted_score, scaled_to_rate

POWER = 8.0
"""Of the share in the weight of embeddings; from 6 to 12 the order is nearly the same (docs/results/embeddings.md)."""

_LEAST_SPREAD = 1e-9  # of log odds: those of constant embeddings need not differ
_LEAST_P = 1e-9  # probability whose logarithm is still taken


class RunLoss:
    """Finds the loss of a run in the epoch that agrees best with embeddings.

    In its first epochs a network has learned little. In late ones it repeats the labels that it has memorised, wrong
    ones as well. Embeddings that never saw the labels tell which epoch is between. It is the epoch with the largest
    correlation, over the samples, of the probability of the label and the margin of the embeddings.

    Args:
        evidence: What the embeddings say.
        mean_losses: Shape ``(N,)``, the mean over the epochs for each sample. Their mean is the value until an epoch is
            read. In a run that memorised labels it is too low, so that embeddings then count too little.

    Attributes:
        value: Mean of -log p of the label in that epoch, in nats.

    Example:
        >>> none, zeros, p_label = np.full(2, np.nan), np.zeros(2, np.int64), np.array([0.8, 0.3])
        >>> evidence = EmbeddingEvidence(none, none, zeros, p_label, rival=zeros + 1, p_rival=1 - p_label)
        >>> loss = RunLoss(evidence, np.array([0.1, 0.3]))
        >>> loss.value
        0.2
        >>> loss.read(0, {"index": np.arange(2), "p_label": np.array([1.0, 0.5])})  # as the embeddings say
        >>> loss.read(1, {"index": np.arange(2), "p_label": np.array([0.9, 1.0])})
        >>> round(loss.value, 4)  # log(2) / 2
        0.3466
    """

    def __init__(self, evidence: EmbeddingEvidence | LabelEvidence, mean_losses: Array) -> None:
        finite_losses = mean_losses[np.isfinite(mean_losses)]
        self.value = float(finite_losses.mean()) if len(finite_losses) else float("nan")
        self._margin = evidence.margin
        self._agreement = -np.inf

    def read(self, _: int, presentations: Mapping[str, Array]) -> None:
        """Look at the presentations of an epoch: their rows ``index`` and ``p_label``, shape ``(M,)``."""
        margin = self._margin[presentations["index"]]
        has_margin = np.isfinite(margin)
        p, margin = presentations["p_label"][has_margin].astype(np.float64), margin[has_margin]
        if not len(p) or not p.std() or not margin.std():
            return
        agreement = float(np.corrcoef(p, margin)[0, 1])
        if agreement > self._agreement:
            self._agreement, self.value = agreement, -float(np.log(np.maximum(p, _LEAST_P)).mean())


def embedding_weight(evidence: EmbeddingEvidence | LabelEvidence, run_loss: float) -> float:
    """Return the weight w of embeddings beside a run, in [0, 2], by the formula of :func:`joined`.

    Example:
        >>> none = np.zeros(1)
        >>> evidence = EmbeddingEvidence(none, none, none, none, none, none, loss=1.5, entropy=2.0)
        >>> embedding_weight(evidence, run_loss=1.0), embedding_weight(evidence, run_loss=1.6)  # 2 (0.5 / 1)^8
        (0.0078125, 2.0)
    """
    embedding_information, run_information = evidence.entropy - evidence.loss, evidence.entropy - run_loss
    if embedding_information <= 0:
        return 0.0
    return (
        2.0
        if run_information <= embedding_information
        else float(2 * (embedding_information / run_information) ** POWER)
    )


def joint_rate(rate: NoiseRate, confident_rate: float, weight: float) -> NoiseRate:
    r"""Return how many labels are wrong by a run and by embeddings.

    .. math:: r^{1 - a} \, c^a \qquad a = \frac{v}{1 + v} \qquad v = \min(1, w)

    Here r is the rate of the run, w the weight of the embeddings (:func:`joined`), and c the fraction of wrong labels
    by the confident joint of the probabilities that the embeddings give (Northcutt et al., "Confident Learning", JAIR
    2021).

    The run counts the labels that it rules out. On labels that people gave, these are too few. The embeddings never saw
    the labels and take hard samples for wrong ones, so that they count too many. If both tell as much of the labels,
    the estimate is the geometric mean of the two. Embeddings that tell less count less. The upper bound is at least
    :math:`h^{1 - 2a} c^{2a}`, where h is the upper bound of the run: it is c if both tell as much.

    Args:
        rate: r with its bounds.
        confident_rate: c, in [0, 1].
        weight: w, in [0, 2]; with 0 the rate stays as it is.

    Example:
        >>> rate = joint_rate(NoiseRate(0.0, 0.04, 0.1), 0.16, weight=2.0)
        >>> round(rate.value, 6), rate.high
        (0.08, 0.16)
    """
    if not weight or np.isnan(rate.value):
        return rate
    capped_weight = min(1.0, weight)
    exponent = capped_weight / (1 + capped_weight)
    value = min(HIGHEST_RATE, float(rate.value ** (1 - exponent) * confident_rate**exponent))
    high = max(rate.high, float(rate.high ** (1 - 2 * exponent) * confident_rate ** (2 * exponent)))
    joint = NoiseRate(min(rate.low, value), value, high, alone=FROM_BOTH)
    run_doubts = [doubt for doubt in rate.doubts if doubt not in bounds_doubts(rate)]
    quoted_doubts = tuple(f"Without the embeddings: {doubt[0].lower()}{doubt[1:]}" for doubt in run_doubts)
    return dataclasses.replace(joint, doubts=(*quoted_doubts, *bounds_doubts(joint)))


def joined(assessment: Assessment, evidence: EmbeddingEvidence, run_loss: float) -> Assessment:
    r"""Return the assessment with the order that run and embeddings give together.

    .. math:: \frac{s_i + w\,\frac{\sigma_s}{\sigma_e}\,e_i}{1 + w} \qquad
        w = 2 \min(1, r)^8 \qquad r = \frac{H_0 - H_e}{H_0 - H_s}

    - s is the score of the run and e the score of the embeddings, by the same formula
      (:mod:`~dynalens.suspicion.score`), from the probabilities that their linear probe and their nearest neighbours
      give. :math:`\sigma` are the standard deviations of both over the samples.
    - w is the weight of the embeddings and r compares how much both tell of the labels. :math:`H_0` is the entropy of
      the labels, :math:`H_e` their cross-entropy by the embeddings, out of fold, and :math:`H_s` their cross-entropy
      by the run in the epoch that agrees best with the embeddings (:class:`RunLoss`).

    The score of the embeddings uses their own noise matrix, and how far their confusions go one way. So flips that
    follow a rule are read from the embeddings as they are from the run. The result is a mean and not a sum, because the
    probabilities of the mean are about as sure as they should be.

    Embeddings that tell as much as the run have w = 2, so that run, probe and neighbours count alike. Embeddings that
    tell less count far less, because the run knows most of what they tell. Random embeddings have r = 0. Nothing is
    fitted to the truth. With the eighth power, embeddings that tell two thirds of what the run tells, as pixels of
    photographs, cost next to nothing. From the sixth to the twelfth power the order is nearly the same
    (``docs/results/embeddings.md``).

    ``noise_rate`` is :func:`joint_rate`, and the mean of ``probability``. Where the embeddings count at least as much
    as the run, they also suggest the class: the most probable class k other than the label y, with the probability
    that the label is wrong times :math:`p_k / (1 - p_y)`. ``agreement`` is then NaN where the run suggests another
    class.

    ``share`` is w / (1 + w), and ``contrast`` is the difference of :math:`\sigma_s e / \sigma_e` and s, each less its
    mean. With them the answers of an audit choose another weight (:func:`~dynalens.auditing.calibration.reweighed`),
    unless w is 0.

    Args:
        assessment: What the run says.
        evidence: What the embeddings say.
        run_loss: :math:`H_s`, in nats.
    """
    rows = np.flatnonzero(np.isfinite(assessment.score) & np.isfinite(evidence.p_label))
    if not len(rows):
        return assessment
    weight, predictions = embedding_weight(evidence, run_loss), _predictions(evidence, rows)
    rate = joint_rate(assessment.noise_rate, confident_rate(predictions), weight)
    run_score, embedding_score = assessment.score[rows], predicted_score(predictions)
    embedding_score = run_score.std() / max(float(embedding_score.std()), _LEAST_SPREAD) * embedding_score
    contrast = np.zeros(len(assessment.score))
    contrast[rows] = (embedding_score - embedding_score.mean()) - (run_score - run_score.mean())
    score, p_wrong = scaled_to_rate((run_score + weight * embedding_score) / (1 + weight), rate.value)
    if weight >= 1:
        suggestion = _suggestion(evidence, rows, p_wrong, assessment)
    else:
        suggestion = {"suggested_probability": p_wrong * _share_of_suggested(assessment, rows)}
    changes: dict[str, Any] = {"score": score, "probability": p_wrong, **suggestion}
    for name, new_values in changes.items():
        changes[name] = _copy_with(getattr(assessment, name), rows, new_values)
    changes["noise_rate"] = rate
    if weight:  # no answers make embeddings count that know less of the labels than how frequent each is
        changes["contrast"], changes["share"] = contrast, weight / (1 + weight)
    return dataclasses.replace(assessment, **changes)


def _suggestion(evidence: EmbeddingEvidence, rows: Array, p_wrong: Array, assessment: Assessment) -> dict[str, Array]:
    """Return the class that the embeddings suggest, its probability, and how often the run named it."""
    rival = evidence.rival[rows]
    share = evidence.p_rival[rows] / np.maximum(1 - evidence.p_label[rows], _LEAST_P)
    agreement = np.where(assessment.suggested[rows] == rival, assessment.agreement[rows], np.nan)
    return {"suggested": rival, "suggested_probability": p_wrong * np.minimum(share, 1), "agreement": agreement}


def _share_of_suggested(assessment: Assessment, rows: Array) -> Array:
    """Return the probability that the suggested class of the run is the true one if the label is wrong."""
    p_wrong = assessment.probability[rows]
    return np.divide(assessment.suggested_probability[rows], p_wrong, out=np.zeros(len(rows)), where=p_wrong > 0)


def _predictions(evidence: EmbeddingEvidence, rows: Array) -> Predictions:
    """Return what the embeddings predict of some samples that have a label."""
    label, p_label, rival, p_rival = (
        column[rows] for column in (evidence.label, evidence.p_label, evidence.rival, evidence.p_rival)
    )
    class_count = int(max(label.max(), rival.max())) + 1
    return Predictions(label, evidence.margin[rows], p_label, rival, p_rival, class_count)


def _copy_with(values: Array, rows: Array, new_values: Array) -> Array:
    copy = values.copy()
    copy[rows] = new_values
    return copy
