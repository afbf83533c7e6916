"""What is read from the record."""

from dataclasses import dataclass, fields
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

HISTORY = ("index", "p_label", "margin", "predicted", "p_other", "residual", "loss")
"""What a history has of each presentation: the arrays of an :class:`EpochRecord`.

``residual`` is of a regression, and ``loss`` of samples with several labels.
"""


@dataclass(frozen=True, eq=False)  # hashed as the object it is, so that what was worked out of it can be kept
class SampleStatistics:
    """Statistics of each of the N samples over its T presentations. A sample that was never trained on has NaN.

    Attributes:
        label: Class that was trained on, int; -1 where never seen.
        presentations: Number T of times that the network trained on it (Toneva et al. 2019), int.
        forgetting_events: Transitions correct -> wrong between consecutive presentations (Toneva et al. 2019), int.
        learned: Whether it was ever correct, bool.
        first_learned: Epoch of the first correct presentation; NaN where never learned.
        last_forgotten: Epoch of the last forgetting event; NaN where there was none.
        margin: Mean of z_y - max_{k != y} z_k over presentations, the AUM (Pleiss et al. 2020).
        confidence: Mean of p_y, in [0, 1] (Swayamdipta et al. 2020).
        variability: Population standard deviation of p_y, in [0, 0.5] (Swayamdipta et al. 2020).
        correctness: Correct presentations / T, in [0, 1]. Correct is margin > 0, so that a tie is wrong.
        loss: Mean of -log p_y, in nats.
        el2n: Mean of ||p - onehot(y)||_2, in [0, sqrt(2)] (Paul et al. 2021, who average over seeds).
        probability_gap: max_k p_k - p_y at the last presentation, in [0, 1].
        predicted: Class of the largest logit at the last presentation, int; -1 where never seen.
        candidate: The class but the label that most often has the largest logit of these, int; -1 if all presentations
            were correct. An epoch counts with the weight of ``weighted_margin``. The candidate is found by the majority
            vote of Boyer and Moore (1981), which is exact if one class has more than half of the weights.
        candidate_share: Estimate of the fraction of presentations that predicted the candidate, in [0, 1]: its lead in
            this vote times the fraction of presentations that were wrong. It is exact if no third class ever came
            before the candidate. NaN if all presentations were correct.
        weighted_margin: Weighted mean of the margin. The weight of an epoch is
            :func:`~dynalens.dynamics.epoch_weight`, if a sample has several units
            :func:`~dynalens.dynamics.weighting.unit_weight`, of masks
            :meth:`~dynalens.dynamics.weighting.EpochWeights.next_of_masks`, and of a regression
            :func:`~dynalens.dynamics.weighting.number_weight`.
        weighted_confidence: The same mean of p_y.
        weighted_rival: The same mean of max_{k != y} p_k.
        mean_probabilities: Mean of p over presentations, shape ``(N, K)``, float32; None unless it was asked for, and
            before the first epoch has ended.
        expected_entropy: Mean of the entropy of p over presentations, in nats, in [0, ln K]. None if
            ``mean_probabilities`` is None.
        unit: Position of the worst unit of a sample that has several units, each with a target of its own, int. A unit
            is a label of a multi-label sample, a token, a pixel, or a number. None if samples have one label. With
            units, the margin of a presentation is the smallest margin of its units, p_y is the probability of that
            margin, and a presentation is correct if all its units are. ``correctness`` is the fraction of units that
            were right, and ``loss`` their mean loss. ``label`` is the label that was given for the worst unit, and
            ``candidate`` the label that is suggested for it.
        unit_margin: Weighted mean of the margin of the worst unit. If samples have several labels, the worst one has
            the smallest :func:`~dynalens.dynamics.given_labels.given_log_odds`. For tokens and pixels, see
            ``unit_columns``.
        mean_margin: Mean of the margin over units and presentations.
        unit_forgetting_events: Number of forgetting events of all units of the sample, int. A unit is forgotten if it
            is wrong and was right when it counted last. For more than 512 tokens or pixels, the number is estimated
            from 512 of them.
        unit_margins: Weighted mean of the margin of each label of a multi-label sample, shape ``(N, K)``, float32; NaN
            if the loss ignored the label.
        unit_given: The labels that were given to a multi-label sample, shape ``(N, K)``, int8: 1 if it has label k, 0
            if it has not, -1 if the loss ignored label k. None in a record that was written without them.
        target: Target of the worst unit of a regression, float64. None for classes. In a regression, ``label``,
            ``predicted`` and ``candidate`` are -1.
        prediction: Weighted mean of the prediction of the worst unit, in the unit of measurement of the target.
        residual: Weighted mean of prediction - target of the worst unit.
        absolute_residual: Weighted mean of the absolute residual of the worst unit. ``unit_margin`` is
            log(tolerance / absolute_residual).
        tolerance: Absolute residual of the worst unit below which a presentation is right.
        unit_targets: The targets of a regression, shape ``(N, D)``, float32; NaN where one is not known.
        unit_residuals: Weighted mean of the absolute residual of each target of a regression, shape ``(N, D)``,
            float32; NaN for a missing target.
        unit_columns: Number of columns of each mask, int: pixel ``unit`` is in row ``unit // unit_columns``. Each
            presentation contradicts one token or pixel of the sample most; ``unit`` is the one that was it most often.
            ``unit_margin`` is then minus the weighted mean of a loss: the largest loss of a token, or the mean loss of
            the pixels.
        unit_label: Label k that the worst unit is about, int, if pixels or tokens may have any number of labels.
            ``label`` is then 1 if pixel or token ``unit`` has label k, and 0 if it has not.

    Example:
        >>> import torch
        >>> from dynalens.dynamics import TrainingDynamics
        >>> dynamics = TrainingDynamics(1)
        >>> for epoch, logits in enumerate([[[2.0, 0.0]], [[0.0, 1.0]]]):  # right, then wrong
        ...     dynamics.update([0], torch.tensor(logits), torch.tensor([0]))
        ...     _ = dynamics.end_epoch(epoch)
        >>> statistics = dynamics.compute()
        >>> statistics.margin.item(), statistics.correctness.item(), statistics.forgetting_events.item()
        (0.5, 0.5, 1)
    """

    label: Array
    presentations: Array
    forgetting_events: Array
    learned: Array
    first_learned: Array
    last_forgotten: Array
    margin: Array
    confidence: Array
    variability: Array
    correctness: Array
    loss: Array
    el2n: Array
    probability_gap: Array
    predicted: Array
    candidate: Array
    candidate_share: Array
    weighted_margin: Array
    weighted_confidence: Array
    weighted_rival: Array
    mean_probabilities: Array | None = None
    expected_entropy: Array | None = None
    unit: Array | None = None
    unit_margin: Array | None = None
    mean_margin: Array | None = None
    unit_forgetting_events: Array | None = None
    unit_margins: Array | None = None
    unit_given: Array | None = None
    target: Array | None = None
    prediction: Array | None = None
    residual: Array | None = None
    absolute_residual: Array | None = None
    tolerance: Array | None = None
    unit_residuals: Array | None = None
    unit_targets: Array | None = None
    unit_columns: Array | None = None
    unit_label: Array | None = None

    def part(self, rows: Array) -> "SampleStatistics":
        """Return the statistics of some samples, without mean probabilities."""
        one_each = {name: values for name, values in self.arrays().items() if name != "mean_probabilities"}
        return SampleStatistics(**{name: values[rows] for name, values in one_each.items()})

    def of_one_label(self, asker: str) -> "SampleStatistics":
        """Return these statistics; raise a ValueError where samples have several labels, unfit for the asker."""
        if self.unit is not None:
            unit = "label" if self.target is None else "target"
            raise ValueError(
                f"Expected a record of one label for each sample for {asker}, got a record of {self._kind}. Leave "
                f"{asker} out: such samples cannot be compared. `suspects()` names the sample and its suspicious "
                f"{unit} without them."
            )
        return self

    @property
    def _kind(self) -> str:
        """Return in words what each sample with several units has."""
        if self.target is not None:
            return "a regression"
        return "several labels for each" if self.unit_margins is not None else "labels of tokens or pixels"

    @property
    def probability_name(self) -> str:
        """Return in words what ``confidence`` is the mean of: a probability, or the closeness of a regression.

        The closeness is e / (e + abs(r)) with the tolerance e and the residual r: 1 if the prediction equals the
        target, 1/2 if it is off by the tolerance. Of samples with several units it is the worst one's probability.
        """
        if self.target is not None:
            return "closeness"
        if self.unit is None:
            return "p(label)"
        if self.unit_margins is not None:
            return "p(worst label)"
        return "p(worst token)" if self.unit_columns is None else "p(worst pixel)"

    def arrays(self) -> dict[str, Array]:
        """Return the statistics that there are, by name."""
        values_by_name = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: values for name, values in values_by_name.items() if values is not None}

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class EpochRecord:
    """The presentations of one epoch in the order they were made, and what changed in it.

    Attributes:
        index: Dataset index of each presentation, int64.
        p_label: Probability of the label, float32.
        margin: Logit margin, float32.
        predicted: Class of the largest logit, int32.
        p_other: Probability of one class k that is not the label, float32. The classes take turns, so that over many
            samples these are the probabilities that wrong labels drawn at random would have. NaN if k is the label, or
            a class that no sample has as its label.
        forgotten: Number of forgetting events in this epoch.
        learned: Number of samples that were correct for the first time.
        non_finite: Number of presentations left out because a logit was NaN or infinite.
        residual: Prediction - target of the worst target of a regression, float32. Otherwise None.
        loss: Mean of -log p over the labels of a sample with several labels, in nats, float32. Otherwise None.
    """

    index: Array
    p_label: Array
    margin: Array
    predicted: Array
    p_other: Array
    forgotten: int
    learned: int
    non_finite: int
    residual: Array | None = None
    loss: Array | None = None

    def presentations(self) -> dict[str, Array]:
        """Return what a history keeps of the epoch, by name."""
        values_by_name = {name: getattr(self, name) for name in HISTORY}
        return {name: values for name, values in values_by_name.items() if values is not None}

    @property
    def accuracy(self) -> float:
        """Fraction of presentations with a positive margin; NaN for an epoch without any."""
        return float((self.margin > 0).mean()) if len(self.margin) else float("nan")
