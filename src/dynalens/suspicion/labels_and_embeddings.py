"""Several labels of each sample, or its numbers, judged by the run and by embeddings that never saw them."""

import dataclasses

import numpy as np

from dynalens.dynamics import Array, SampleStatistics
from dynalens.dynamics.given_labels import worst_labels
from dynalens.dynamics.tolerance import tolerance_of_targets
from dynalens.embeddings import LabelEvidence
from dynalens.suspicion.noise_rate import NoiseRate
from dynalens.suspicion.regression import outlier_share
from dynalens.suspicion.run_and_embeddings import embedding_weight, joint_rate
from dynalens.suspicion.score import Assessment, assess, scaled_to_rate


def joined_labels(
    statistics: SampleStatistics, assessment: Assessment, evidence: LabelEvidence, run_loss: float
) -> tuple[SampleStatistics, Assessment]:
    r"""Return the statistics with margins of the labels by run and embeddings, and how suspicious the samples are then.

    .. math:: \frac{m_{ik} + w\,\frac{\sigma_m}{\sigma_e}\,e_{ik}}{1 + w}

    Here m is the weighted mean margin of label k of sample i in the run, e the log odds by the embeddings that the
    label is as given, and :math:`\sigma` are the standard deviations of both over all labels. The weight w is that of
    :func:`~dynalens.suspicion.joined`, from cross-entropies that are means over the labels. The worst label is named
    anew. Where it is another one than that of the run, ``predicted`` is -1 and ``candidate_share`` NaN.

    The noise rate is :func:`~dynalens.suspicion.run_and_embeddings.joint_rate` of the run's and
    :func:`contradicted_share`.

    Args:
        statistics: Of samples with several labels.
        assessment: What the run says.
        evidence: What the embeddings say.
        run_loss: Mean of -log p over samples and labels in the epoch that agrees best with the embeddings, in nats.

    Example:
        >>> import torch
        >>> from dynalens.dynamics import TrainingDynamics
        >>> from dynalens.units import multi_label
        >>> dynamics = TrainingDynamics(2)
        >>> logits, bits = torch.tensor([[1.0, -3.0], [2.0, -3.0]]), torch.tensor([[1, 0], [1, 0]])
        >>> dynamics.update_units([0, 1], multi_label(logits, bits))
        >>> _ = dynamics.end_epoch(0)
        >>> run, evidence = dynamics.compute(), LabelEvidence(np.array([[3.0, 3.0], [3.0, -3.0]]), 0.5, 1.0)
        >>> joint, assessment = joined_labels(run, assess(run), evidence, run_loss=0.5)
        >>> run.unit.tolist(), joint.unit.tolist()  # the embeddings contradict label 1 of the second sample
        ([0, 0], [0, 1])
        >>> int(assess(run).score.argmax()), int(assessment.score.argmax())
        (0, 1)
    """
    assert statistics.unit is not None
    assert statistics.unit_margins is not None
    assert statistics.unit_given is not None
    weight, margins = embedding_weight(evidence, run_loss), statistics.unit_margins.astype(np.float64)
    if 1 + weight == 1 or not np.isfinite(evidence.margins).any():  # so little that no number changes
        return statistics, assessment
    joint_statistics = _with_margins(statistics, joint_margins(margins, evidence.margins, weight))
    rate = joint_rate(assessment.noise_rate, contradicted_share(evidence.margins, statistics.unit_given), weight)
    return joint_statistics, with_rate(assess(joint_statistics), rate)


def joined_numbers(
    statistics: SampleStatistics, assessment: Assessment, evidence: LabelEvidence, run_loss: float
) -> Assessment:
    """Return how suspicious the samples of a regression are to run and embeddings.

    The margin of a target is log(tolerance / mean absolute residual) in the run, and the same with the residual of what
    the embeddings predict. Both are joined as in :func:`joined_labels`, and a sample is as suspicious as its smallest
    joint margin. The noise rate is :func:`~dynalens.suspicion.run_and_embeddings.joint_rate` of the run's and the
    fraction of samples that stand out of the residuals of the embeddings
    (:func:`~dynalens.suspicion.regression.target_noise_rate`).

    Args:
        statistics: Of a regression.
        assessment: What the run says.
        evidence: What the embeddings say.
        run_loss: Mean of -log p over the samples in the epoch that agrees best with the embeddings, with p the
            closeness, in nats.

    Example:
        >>> import torch
        >>> from dynalens.dynamics import TrainingDynamics
        >>> from dynalens.units import regression
        >>> residuals = torch.tensor([[1.0], [0.5], [0.25]])  # margins of 0, ln 2 and ln 4 with a tolerance of 1
        >>> dynamics = TrainingDynamics(3, tolerance=1.0)
        >>> dynamics.update_units([0, 1, 2], regression(residuals, torch.zeros(3, 1), residuals.square()))
        >>> _ = dynamics.end_epoch(0)
        >>> run, evidence = dynamics.compute(), LabelEvidence(np.array([[2.0], [1.0], [0.0]]), 0.5, 1.0)
        >>> together = joined_numbers(run, assess(run), evidence, run_loss=0.5)
        >>> int(assess(run).score.argmax()), int(together.score.argmax())
        (0, 2)
    """
    assert statistics.unit_residuals is not None
    weight, tolerance = embedding_weight(evidence, run_loss), tolerance_of_targets(statistics)
    if 1 + weight == 1 or not np.isfinite(evidence.margins).any():  # so little that no number changes
        return assessment
    smallest = np.finfo(np.float32).tiny
    margins = np.log(tolerance) - np.log(np.maximum(statistics.unit_residuals.astype(np.float64), smallest))
    joint = joint_margins(margins, evidence.margins, weight)
    worst = np.where(np.isnan(joint), np.inf, joint).min(axis=1)
    rate = joint_rate(assessment.noise_rate, outlier_share(np.exp(-evidence.margins)), weight)
    return with_rate(assess(dataclasses.replace(statistics, unit_margin=worst)), rate)


def joint_margins(run: Array, embeddings: Array, weight: float) -> Array:
    """Return the mean of the margins of a run and of embeddings, ``(N, K)``, the run's alone where one is not known.

    Args:
        run: Shape ``(N, K)``, margins of the run.
        embeddings: Shape ``(N, K)``, log odds by the embeddings, scaled to the standard deviation of the run's.
        weight: Of the embeddings beside the run.

    Example:
        >>> joint_margins(np.array([[1.0, 3.0]]), np.array([[2.0, 6.0]]), weight=1.0)  # (1 + 2 / 2) / 2
        array([[1., 3.]])
    """
    is_known = np.isfinite(run) & np.isfinite(embeddings)
    if not is_known.any():
        return run
    scale = run[is_known].std() / max(float(embeddings[is_known].std()), np.finfo(float).tiny)
    return np.where(is_known, (run + weight * scale * embeddings) / (1 + weight), run)


def with_rate(assessment: Assessment, rate: NoiseRate) -> Assessment:
    """Return the assessment of samples with several units with another noise rate, and probabilities as high."""
    was_seen = np.isfinite(assessment.score)
    score, p_wrong = np.full((2, len(was_seen)), np.nan)
    score[was_seen], p_wrong[was_seen] = scaled_to_rate(assessment.score[was_seen], rate.value)
    return dataclasses.replace(
        assessment, score=score, probability=p_wrong, suggested_probability=p_wrong, noise_rate=rate
    )


def contradicted_share(margins: Array, labels: Array) -> float:
    """Return the fraction of the samples that have a label which embeddings contradict confidently.

    They do where the probability of the contrary of what was given reaches the mean that it has among the samples to
    which it was given, and is larger than that of what was given or the latter is below its own mean.

    Source: Northcutt, Jiang, Chuang, "Confident Learning", JAIR 2021, Section 3.1, with each label as two classes.

    Args:
        margins: Shape ``(N, K)``, log odds that each label is as it was given; NaN where it is not known.
        labels: Shape ``(N, K)``, 1, 0, or -1 where not known.

    Example:
        >>> margins, labels = np.array([[2.0], [2.0], [2.0], [-2.0]]), np.array([[1], [1], [0], [0]])
        >>> contradicted_share(margins, labels)  # only the last one has a probability of 1 as high as those with 1
        0.25
    """
    is_known = np.isfinite(margins)
    p_given = 1 / (1 + np.exp(-np.where(is_known, margins, np.inf)))
    thresholds = []  # of 0 and of 1, by label
    for g in (0, 1):
        carries = is_known & (labels == g)
        mean = (p_given * carries).sum(axis=0) / np.maximum(carries.sum(axis=0), 1)
        thresholds.append(np.where(carries.any(axis=0), mean, np.inf) - 1e-9)  # equal probabilities reach their mean
    threshold, other_threshold = (np.where(labels == 1, *each) for each in (thresholds[::-1], thresholds))
    reaches_other = is_known & (1 - p_given >= other_threshold)
    is_contradicted = reaches_other & ((p_given < threshold) | (1 - p_given > p_given))
    return float(is_contradicted.any(axis=1).sum() / max(int(is_known.any(axis=1).sum()), 1))


def _with_margins(statistics: SampleStatistics, margins: Array) -> SampleStatistics:
    """Return the statistics with other margins of the labels, and with the label that is the worst by them."""
    labels, rows = statistics.unit_given, np.arange(len(statistics))
    assert labels is not None
    assert statistics.unit is not None
    has_label = statistics.unit >= 0
    unit = np.where(has_label, worst_labels(margins, labels), -1)
    is_same = unit == statistics.unit
    bits = np.where(has_label, labels[rows, unit], -1).astype(statistics.label.dtype)
    return dataclasses.replace(
        statistics,
        unit_margins=margins.astype(np.float32),
        unit=unit.astype(statistics.unit.dtype),
        unit_margin=np.where(has_label, margins[rows, unit], np.nan),
        label=bits,
        candidate=np.where(has_label, 1 - bits, -1).astype(statistics.candidate.dtype),
        candidate_share=np.where(is_same, statistics.candidate_share, np.nan),
        predicted=np.where(is_same, statistics.predicted, -1),
    )
