"""The plans of audits that belong to a record: drawn, kept beside it, and found again for the answers."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dynalens.auditing import Answers, Audit, Plan, draw, plan_of_answers, read_answers
from dynalens.auditing.answers import AnswersSource
from dynalens.auditing.given_labels import MOST_CODES, Given, given_to
from dynalens.auditing.plan import FIRST_ANSWERS
from dynalens.auditing.strata import MOST_STRATA
from dynalens.dynamics import Array
from dynalens.notices import warn
from dynalens.record.checks import check_names, check_range
from dynalens.record.files import damage_errors, read_arrays, write_arrays
from dynalens.text import escaped_all

if TYPE_CHECKING:
    from dynalens.record.record import Record

PLANS = "audit_plans.npz"
"""Of each plan: its seed, how many it drew, and stratum and label of each sample."""
_ARRAYS = ("label", "stratum", "seed", "count")

AuditAnswers = AnswersSource | Sequence[AnswersSource] | Audit
"""Answers, or what was made of them before."""


class Audits:
    """Draws the samples of a record that a person is asked about, and takes the answers.

    A plan is kept in the record's folder, or in memory where it has none. Asked for again by its seed, it gives the
    same samples, even if training went on since. Of several plans with one seed, the latest counts.
    """

    def __init__(self, record: "Record") -> None:
        self._record = record
        self._plans_in_memory: list[Plan] = []

    def copy_for(self, record: "Record") -> "Audits":
        """Return the audits of a record of the same run, with the plans that are held in memory."""
        audits = Audits(record)
        audits._plans_in_memory = self._plans_in_memory
        return audits

    def plan(
        self,
        n: int,
        seed: int,
        answers: AnswersSource | Sequence[AnswersSource] | None,
        earlier_run: "Audits | None" = None,
    ) -> pd.DataFrame:
        """Return the samples to ask about, as :func:`dynalens.audit_plan`."""
        _check_count("n", n, 1)
        _check_count("seed", seed, 0)
        if earlier_run is not None:
            self._take_plans_of(earlier_run, has_answers=answers is not None)
        plans = self._fitting_labels()
        answered_rows = np.array([], dtype=np.int64)
        if answers is not None:
            answers_read = self._read_answers(answers)
            plan, answered_rows = self._drawn_by(plans, answers_read), answers_read.rows
        elif plans_of_seed := [plan for plan in plans if plan.seed == seed]:
            plan = plans_of_seed[-1]
        else:
            plan = Plan.from_scores(self._score, label=self._label, n=n, seed=seed)
        plan, rows = draw(plan, n, answered_rows)
        self._keep([*_other_plans(plans, [plan]), plan])
        labels = self._label[rows] if self._given_labels.texts is None else self._given_labels.texts(rows)
        table = pd.DataFrame({"sample_id": self._ids[rows], "label": labels, "probability": plan.probabilities(rows)})
        return table if self._names is None else table.assign(name=[self._names[row] for row in rows])

    def _take_plans_of(self, earlier_run: "Audits", *, has_answers: bool) -> None:
        """Keep the plans of a run on the same labels here, too: they drew at random, whatever is recorded now."""
        if not has_answers:
            raise ValueError(
                "Expected `answers` with `earlier_run`, got None. Pass the answers that were given for the earlier run."
            )
        if not np.array_equal(self._ids, earlier_run._ids) or self._names != earlier_run._names:
            raise ValueError(
                f"Expected `earlier_run` to be a run on the {len(self._ids):,} samples of this record, got "
                f"{len(earlier_run._ids):,} samples with other ids or names. The answers only say how many labels are "
                "wrong among the samples that they were drawn from: draw a new plan with `dynalens.audit_plan(record)`."
            )
        plans = earlier_run._all_plans()
        fitting_plans = [plan for plan in plans if plan.belongs_to(self._label)]
        if not fitting_plans:
            raise ValueError(
                "Expected `earlier_run` to be a run with an audit of the labels of this record, got "
                f"{'other labels' if plans else 'no plan of an audit'}. If labels were corrected since then, the "
                "answers do not say how many are wrong now: draw a new plan with `dynalens.audit_plan(record)`."
            )
        # Of a plan that was taken over before, more samples may have been drawn here since.
        own_plans = self._fitting_labels()
        new_plans = [
            plan
            for plan in fitting_plans
            if all(own_plan.count < plan.count for own_plan in own_plans if own_plan.is_same_draw(plan))
        ]
        self._keep([*_other_plans(own_plans, new_plans), *new_plans])

    def latest(self) -> Plan:
        """Return the plan that was drawn from last."""
        return self._fitting_labels()[-1]

    def rows(self) -> list[int]:
        """Return the rows that were drawn so far, by any plan."""
        return sorted({int(row) for plan in self._fitting_labels() for row in plan.order()[: plan.count]})

    def result(self, answers: AuditAnswers) -> Audit:
        """Return what the answers say of the record, as :func:`dynalens.audit`."""
        if isinstance(answers, Audit):
            return answers
        answers_read = self._read_answers(answers)
        plans = self._all_plans()
        own_plans = [plan for plan in plans if plan.belongs_to(self._label)]
        if plans and not own_plans:
            raise ValueError(
                "Expected `answers` of a plan of this record, got a plan for other labels in its folder. Draw a new "
                "one with `dynalens.audit_plan(record)`, or pass the record that the plan was drawn from."
            )
        assessment = self._record.assess()
        return Audit(
            self._record.table(),
            self._drawn_by(own_plans, answers_read),
            answers_read,
            label=None if self._record.statistics.target is not None else self._record.statistics.label,
            contrast=assessment.contrast,
            share=assessment.share,
        )

    def result_to_act_on(self, answers: AuditAnswers) -> Audit:
        """Return :meth:`result` for flags that a person does not see; warn if few answers make them doubtful."""
        audit = self.result(answers)
        for doubt in audit.noise_rate.doubts:
            warn(doubt)
        return audit

    def _drawn_by(self, plans: Sequence[Plan], answers: Answers) -> Plan:
        """Return the plan of the answers; of a record without one, what a first plan would be."""
        if not plans:
            first_plan = Plan.from_scores(self._score, label=self._label, n=FIRST_ANSWERS, seed=0)
            plans = [replace(first_plan, count=max(FIRST_ANSWERS, len(answers)))]
        return plan_of_answers(plans, answers, self._ids.tolist())

    @functools.cached_property
    def _score(self) -> Array:
        return self._record.assess().score

    @functools.cached_property
    def _given_labels(self) -> Given:
        return given_to(self._record.statistics)

    @property
    def _label(self) -> Array:
        return self._given_labels.codes

    @functools.cached_property
    def _ids(self) -> Array:
        return np.array(self._record.shown_ids())

    @functools.cached_property
    def _names(self) -> list[str] | None:
        return escaped_all(self._record.sample_names)

    def _read_answers(self, answers: AnswersSource | Sequence[AnswersSource]) -> Answers:
        labels = self._given_labels
        return read_answers(
            answers,
            sample_ids=self._ids.tolist(),
            labels=labels.codes,
            class_names=self._record.meta.class_names,
            sample_names=self._names,
            texts=labels.texts,
        )

    def _fitting_labels(self) -> list[Plan]:
        return [plan for plan in self._all_plans() if plan.belongs_to(self._label)]

    def _all_plans(self) -> list[Plan]:
        folder = self._record.folder
        return self._plans_in_memory or ([] if folder is None else read_plans(folder / PLANS))

    def _keep(self, plans: list[Plan]) -> None:
        self._plans_in_memory = plans
        if self._record.folder is None:
            return
        try:
            write_plans(self._record.folder / PLANS, plans)
        except OSError as error:
            warn(
                f"Expected to write the plan of the audit to {self._record.folder}, got {type(error).__name__}: "
                f"{error}. The plan is kept in memory only: make the folder writable and draw again, or pass the "
                "answers to this record before the process ends."
            )


def _other_plans(plans: Sequence[Plan], excluded_plans: Sequence[Plan]) -> list[Plan]:
    return [plan for plan in plans if not any(plan.is_same_draw(other) for other in excluded_plans)]


def write_plans(path: Path, plans: Sequence[Plan]) -> None:
    """Write the plans of a record, the latest last."""
    arrays: dict[str, Array] = {
        "seed": np.array([plan.seed for plan in plans]),
        "count": np.array([plan.count for plan in plans]),
        "stratum": np.stack([plan.stratum for plan in plans]).astype(np.int8),
        "label": np.stack([plan.label for plan in plans]).astype(np.int32),
    }
    write_arrays(path, arrays)


def read_plans(path: Path) -> list[Plan]:
    """Return the plans of a record, the latest last; none if there is no file.

    Raises:
        DamagedFileError: If the file holds something else.
    """
    if not path.is_file():
        return []
    arrays = read_arrays(path)
    with damage_errors(path):
        check_names(arrays, _ARRAYS, _ARRAYS)
        parts = [arrays[name] for name in _ARRAYS]
        plans, samples = parts[0].shape
        for name, values in arrays.items():
            shape = (plans, samples) if name in ("label", "stratum") else (plans,)
            if values.shape != shape or values.dtype.kind != "i" or not plans:
                raise ValueError(f"{name} of {values.dtype} and shape {values.shape} instead of {shape}")
        limits = (-1, MOST_CODES), (-1, MOST_STRATA), (0, 2**63), (0, samples + 1)
        for name, (low, high) in zip(_ARRAYS, limits, strict=True):
            check_range(name, arrays[name].ravel(), low, high)
    return [
        Plan(label.astype(np.int64), stratum.astype(np.int64), int(seed), int(count))
        for label, stratum, seed, count in zip(*parts, strict=True)
    ]


def _check_count(name: str, value: Any, minimum: int) -> None:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(
            f"Expected `{name}` to be a whole number of at least {minimum}, got {value!r}. Pass for instance "
            f"{max(minimum, FIRST_ANSWERS if name == 'n' else 0)}."
        )
