"""Audits of a record or of the monitor that keeps one."""

from collections.abc import Sequence
from typing import Protocol

import pandas as pd

from dynalens.auditing import Audit
from dynalens.auditing.answers import AnswersSource
from dynalens.record.plans import AuditAnswers
from dynalens.record.record import Record


class KeepsRecord(Protocol):
    """A monitor that keeps a record."""

    @property
    def record(self) -> Record:
        """The record as of the last complete epoch."""
        ...


def audit_plan(
    record_or_monitor: Record | KeepsRecord,
    n: int = 100,
    *,
    seed: int = 0,
    answers: AnswersSource | Sequence[AnswersSource] | None = None,
    earlier_run: Record | KeepsRecord | None = None,
) -> pd.DataFrame:
    r"""Return the samples of an audit: a random sample about whose labels a person is asked, in the order of asking.

    The sample is stratified and drawn without replacement. Up to 20 strata divide all samples in the order of their
    scores, such that each stratum has the same sum of sqrt(p (1 - p)) + 0.2, where p is the probability that a label is
    wrong, from the run alone. All strata get the same number of questions, give or take one. So undecided samples are
    drawn more often, and every sample can be drawn. The person may stop at any time, because the first samples of the
    plan, however many, are such a random sample, too.

    If a sample has several labels, or labels for each token or pixel, ask whether all of them are right. In a
    regression, ask whether the number is right.

    The plan is saved beside the record (``audit_plans.npz``). With the same seed, a later call gives the same samples.

    Args:
        record_or_monitor: The result of :func:`~dynalens.load_record`, or a monitor after its fit.
        n: How many samples to ask about. Fewer are returned if no more are left.
        seed: Seed of the random order.
        answers: Answers of earlier rounds, see :func:`audit`. The plan then goes on with the next ``n`` samples that
            were not answered, whatever ``seed`` is. Pass the answers of all rounds to :func:`audit`. None: a first
            round.
        earlier_run: The record that the answers were given for, or the monitor that keeps it, if it is another one: a
            run on the same samples with the same labels. Its plan is saved beside this record, too, so that from then
            on :func:`audit` takes these answers for this record. None: the answers were given for this record.

    Returns:
        A table with the columns ``sample_id``; ``label``, the given label; ``probability``, in (0, 1], with which the
        sample was drawn: n_h / N_h, if n_h of the N_h samples of its stratum are drawn; and ``name``, if samples have
        names. If samples do not have one class each, ``label`` is a text: the numbers of the labels of a sample, the
        target of a regression, or an empty text if the record keeps only one of several labels.

    Raises:
        ValueError: If ``n`` or ``seed`` are out of range, if ``answers`` are not of a plan of this record, or if
            ``earlier_run`` has other samples or labels.

    Example:
        >>> import numpy as np, torch
        >>> from dynalens import Record, TrainingDynamics
        >>> from dynalens.record import RecordMeta
        >>> dynamics, logits = TrainingDynamics(4), torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> dynamics.update([0, 1, 2, 3], logits, torch.tensor([0, 1, 1, 1]))
        >>> _ = dynamics.end_epoch(0)
        >>> meta = RecordMeta(num_samples=4, epochs=[0])
        >>> record = Record(statistics=dynamics.compute(), meta=meta, root_index=np.arange(4))
        >>> plan = audit_plan(record, n=4)
        >>> sorted(plan["sample_id"]), plan["probability"].tolist()  # all of them
        ([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0])
    """
    earlier_record = None if earlier_run is None else _record(earlier_run)
    return _record(record_or_monitor).audit_plan(n, seed=seed, answers=answers, earlier_run=earlier_record)


def audit(record_or_monitor: Record | KeepsRecord, answers: AuditAnswers) -> Audit:
    """Return how many labels are wrong, with a confidence interval, and which, from the answers of a person.

    Args:
        record_or_monitor: The record that the plan was drawn from, or the monitor that keeps it.
        answers: A CSV file or a table about samples of :func:`audit_plan`, or a list of them if there were several
            rounds. Its columns are ``sample_id`` and ``answer``, which is "right", "wrong" or "unsure". Two columns are
            optional: ``label`` is compared with the label in the record, and ``new_label`` is the right class of a
            wrong label. Not all samples of the plan need an answer, but do not skip samples because they are hard:
            answer "unsure" for these.

    Raises:
        ValueError: If a row is about a sample that the record does not have, that has another label in the record, or
            that no plan of this record drew, or if two rows are about the same sample.

    Example:
        One of the four labels is wrong, and all of them were answered.

        >>> import numpy as np, torch
        >>> from dynalens import Record, TrainingDynamics
        >>> from dynalens.record import RecordMeta
        >>> dynamics, logits = TrainingDynamics(4), torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> dynamics.update([0, 1, 2, 3], logits, torch.tensor([0, 1, 1, 1]))
        >>> _ = dynamics.end_epoch(0)
        >>> meta = RecordMeta(num_samples=4, epochs=[0])
        >>> record = Record(statistics=dynamics.compute(), meta=meta, root_index=np.arange(4))
        >>> answers = audit_plan(record, n=4)
        >>> answers["answer"] = np.where(answers["sample_id"] == 1, "wrong", "right")
        >>> audit(record, answers).noise_rate
        NoiseRate(low=0.25, value=0.25, high=0.25, calibrated=True)
    """
    return _record(record_or_monitor).audit(answers)


def _record(record_or_monitor: Record | KeepsRecord) -> Record:
    return record_or_monitor if isinstance(record_or_monitor, Record) else record_or_monitor.record
