"""A plan: which samples a person is asked about, drawn at random with known probabilities."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynalens.auditing.answers import Answers, samples_in_words
from dynalens.auditing.strata import asking_order, equal_doubt
from dynalens.dynamics import Array

FIRST_ANSWERS = 100
"""Answers that are asked for at first."""


@dataclass(frozen=True, eq=False)
class Plan:
    """An order in which the samples of a record are asked about.

    Attributes:
        label: Shape ``(N,)``, the labels of the record when the plan was drawn; -1 for a sample that was not seen yet.
        stratum: Shape ``(N,)``, of :func:`equal_doubt`.
        seed: Seed of the random order.
        count: How many samples of the order were drawn so far.

    Example:
        >>> plan = Plan.from_scores(np.array([5.0, -5.0, 0.0]), label=np.array([0, 1, 0]), n=2, seed=0)
        >>> plan, rows = draw(plan, 2, answered_rows=np.array([], dtype=np.int64))
        >>> len(rows), plan.count
        (2, 2)
        >>> plan, rows = draw(plan, 2, answered_rows=rows)  # the rest
        >>> len(rows), plan.count
        (1, 3)
    """

    label: Array
    stratum: Array
    seed: int
    count: int = 0

    @classmethod
    def from_scores(cls, score: Array, *, label: Array, n: int, seed: int) -> "Plan":
        """Return a plan for a record with these scores, from which nothing is drawn yet."""
        return cls(np.where(np.isnan(score), -1, label), equal_doubt(score, n), seed)

    def order(self) -> Array:
        """Return all rows in the order in which they are asked about."""
        return asking_order(self.stratum, self.seed)

    def belongs_to(self, label: Array) -> bool:
        """Return whether these are the labels of the plan's record; more samples may be known by now."""
        has_label = self.label >= 0
        return len(label) == len(self.label) and bool((self.label == label)[has_label].all())

    def is_same_draw(self, other: "Plan") -> bool:
        """Return whether both have the same random order."""
        return self.seed == other.seed and np.array_equal(self.stratum, other.stratum)

    def undrawn_rows(self, answers: Answers) -> Array:
        """Return the rows of answers that the plan did not draw, or not with the probability that they say."""
        order = self.order()
        is_undrawn = ~np.isin(answers.rows, order[: self.count])
        has_probability = ~np.isnan(answers.probability) & ~is_undrawn
        # A round says n_h / N_h of all that had been drawn when it ended.
        stratum_sizes = answers.probability[has_probability] * self._sizes[self.stratum[answers.rows[has_probability]]]
        is_undrawn[has_probability] = (stratum_sizes < 0.5) | ~np.isclose(
            stratum_sizes, np.round(stratum_sizes), rtol=1e-4, atol=0
        )
        rows: Array = answers.rows[is_undrawn]
        return rows

    def probabilities(self, rows: Array) -> Array:
        """Return the probability with which each of these rows is among all that were drawn: n_h / N_h."""
        stratum = self.stratum[rows]
        counts = np.bincount(self.stratum[self.order()[: self.count]], minlength=self._strata)
        result: Array = counts[stratum] / self._sizes[stratum]
        return result

    @property
    def _strata(self) -> int:
        return int(self.stratum.max(initial=-1)) + 1

    @property
    def _sizes(self) -> Array:
        return np.bincount(self.stratum[self.stratum >= 0], minlength=self._strata)


def draw(plan: Plan, n: int, answered_rows: Array) -> tuple[Plan, Array]:
    """Return the plan with the next ``n`` samples drawn that were not answered, and their rows in the order to ask.

    Args:
        plan: The plan so far.
        n: How many to ask about; fewer where no more are left.
        answered_rows: Rows that were answered before.
    """
    order = plan.order()
    draw_index = np.flatnonzero(~np.isin(order, answered_rows))[:n]
    count = max(plan.count, int(draw_index[-1]) + 1 if len(draw_index) else 0)
    return replace(plan, count=count), order[draw_index]


def plan_of_answers(plans: Sequence[Plan], answers: Answers, ids: Sequence[object]) -> Plan:
    """Return the latest of the plans that drew all samples that were answered.

    Args:
        plans: Those of the record, the latest last.
        answers: What was answered.
        ids: Id of each row.

    Raises:
        ValueError: If none drew all of them.
    """
    undrawn_rows = [plan.undrawn_rows(answers) for plan in reversed(plans)]
    for plan, rows in zip(reversed(plans), undrawn_rows, strict=True):
        if not len(rows):
            return plan
    if len(plans) > 1 and not functools.reduce(np.intersect1d, undrawn_rows).size:
        raise ValueError(
            f"Expected answers about samples of one plan, got samples of several of the {len(plans)} plans of this "
            "record. Pass the answers of one plan alone. To ask about more samples, pass these answers: "
            "`dynalens audit RUN --answers FILE`, or `dynalens.audit_plan(record, answers=answers)`."
        )
    undrawn_ids = [ids[row] for row in min(undrawn_rows, key=len)]
    raise ValueError(
        f"Expected answers about samples that a plan of this record drew, got {samples_in_words(undrawn_ids)}, "
        "which none of its plans drew, or not with the probability that the answers name. The rate can only be "
        "estimated from samples that were drawn with known probabilities. Answer the samples of "
        "`dynalens.audit_plan(record)`, and pass the record from which they were drawn. If a spreadsheet changed the "
        "column probability, leave this column out. If they were drawn for an earlier run on the same labels, take its "
        "plan over once: `dynalens audit RUN --earlier-run EARLIER --answers FILE`, or "
        "`dynalens.audit_plan(record, answers=answers, earlier_run=earlier_record)`."
    )
