"""A logistic regression of the answers, in which some classes may have more wrong labels than their scores tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynalens.auditing.strata import probability
from dynalens.dynamics import Array

_STEPS, _LONGEST_STEP = 50, 2.0
_PSEUDO_ANSWERS = 0.5  # half a wrong and half a right answer are spread over all of them


@dataclass(frozen=True)
class AnswerModel:
    """The log odds that a label is wrong, fitted on the answers.

    Attributes:
        intercept: Of all samples.
        slopes: Shape ``(F,)``, of the features.
        offsets: Shape ``(K,)``, what the label's class adds.
        evidence: Log of the probability of the answers under the prior, up to a constant.
    """

    intercept: float
    slopes: Array
    offsets: Array
    evidence: float


def fit_answers(
    features: Array,
    wrong: Array,
    weight: Array,
    *,
    precision: Sequence[float],
    label: Array | None = None,
    classes: int = 1,
    deviation: float = 0.0,
) -> AnswerModel:
    r"""Return the most probable model of the answers, by Newton's method.

    The log odds that label i is wrong are :math:`a + \sum_f b_f x_{if} + \sigma v_{y_i}` with the features x and the
    label :math:`y_i`. The priors are normal with mean 0: of :math:`b_f` with the precision :math:`\lambda_f`, and of
    each :math:`v_k` with the precision 1, so that :math:`\sigma` is the standard deviation between classes. The
    likelihood of answer i is weighted by w_i, relative to the mean. Half a wrong and half a right answer, spread over
    all of them, are added (Platt 1999).

    ``evidence`` is Laplace's approximation: the log of likelihood times prior at its maximum, minus half the log
    determinant of the negative Hessian there.

    Sources: J. Platt, "Probabilistic outputs for support vector machines", 1999; for the classes N. Breslow and
    D. Clayton, "Approximate inference in generalized linear mixed models", JASA 1993; for the evidence D. MacKay,
    "Bayesian interpolation", Neural Computation 1992.

    Args:
        features: Shape ``(n, F)``, of the samples that were answered.
        wrong: Shape ``(n,)``, 1 where the answer was "wrong", else 0.
        weight: Shape ``(n,)``, samples that each answer stands for.
        precision: F numbers, lambda.
        label: Shape ``(n,)``, integers in [0, K). Default: all of one class.
        classes: K.
        deviation: sigma; 0 leaves the classes out.

    Example:
        >>> same = fit_answers(np.zeros((4, 0)), np.array([1, 0, 0, 0]), np.ones(4), precision=[])
        >>> round(same.intercept, 4)  # log odds of (1 + 1/2) / (4 + 1)
        -0.8473
    """
    system = _Newton(
        np.concatenate([np.ones((len(features), 1)), features], axis=1),
        np.zeros(len(features), np.int64) if label is None else label,
        wrong,
        weight / weight.mean() if len(weight) else weight,
        np.diag([1e-9, *precision]),
        classes,
        deviation,
    )
    b, v = np.zeros(system.x.shape[1]), np.zeros(classes)
    for _ in range(_STEPS):
        step_b, step_v = system.step(b, v)
        longest = float(max(np.abs(step_b).max(), np.abs(step_v).max()))
        factor = min(1.0, _LONGEST_STEP / max(longest, 1e-300))
        b, v = b + factor * step_b, v + factor * step_v
        if longest < 1e-10:
            break
    return AnswerModel(float(b[0]), b[1:], deviation * v, system.evidence(b, v))


@dataclass(frozen=True)
class _Newton:
    """Gradient and Hessian of the log of likelihood times prior.

    The block of the classes is diagonal, so its Schur complement takes the place of a system of all K of them.
    """

    x: Array
    label: Array
    wrong: Array
    weight: Array
    penalty: Array
    classes: int
    deviation: float

    @property
    def pseudo_answers(self) -> float:
        """Part of an answer of each kind that is added to each answer."""
        return _PSEUDO_ANSWERS / max(len(self.x), 1)

    def probability(self, b: Array, v: Array) -> Array:
        """Return the probability that each answered label is wrong, (n,)."""
        return probability(self.x @ b + self.deviation * v[self.label])

    def blocks(self, q: Array) -> tuple[Array, Array, Array]:
        """Return the Schur complement of the classes, their diagonal, and the block between slopes and classes."""
        curvature = (self.weight + 2 * self.pseudo_answers) * q * (1 - q)
        diagonal = self.deviation**2 * self.sum_by_class(curvature) + 1
        cross_block = self.deviation * np.stack([self.sum_by_class(curvature * column) for column in self.x.T])
        whole = (self.x * curvature[:, None]).T @ self.x + self.penalty
        return whole - (cross_block / diagonal) @ cross_block.T, diagonal, cross_block

    def step(self, b: Array, v: Array) -> tuple[Array, Array]:
        """Return the step of Newton's method."""
        q = self.probability(b, v)
        residual = self.weight * (self.wrong - q) + self.pseudo_answers * (1 - 2 * q)
        gradient_b = self.x.T @ residual - self.penalty @ b
        gradient_v = self.deviation * self.sum_by_class(residual) - v
        complement, diagonal, cross_block = self.blocks(q)
        step_b = np.linalg.solve(complement, gradient_b - (cross_block / diagonal) @ gradient_v)
        return step_b, (gradient_v - cross_block.T @ step_b) / diagonal

    def evidence(self, b: Array, v: Array) -> float:
        """Return Laplace's approximation of the evidence, up to a constant."""
        q = np.clip(self.probability(b, v), 1e-12, 1 - 1e-12)
        likelihood = (self.weight * self.wrong + self.pseudo_answers) @ np.log(q)
        likelihood += (self.weight * (1 - self.wrong) + self.pseudo_answers) @ np.log1p(-q)
        complement, diagonal, _ = self.blocks(q)
        prior = (np.log(np.diag(self.penalty)[1:]).sum() - b @ self.penalty @ b - v @ v) / 2
        return float(likelihood + prior - (np.linalg.slogdet(complement)[1] + np.log(diagonal).sum()) / 2)

    def sum_by_class(self, values: Array) -> Array:
        """Return the sum of the values of each class, (K,)."""
        return np.bincount(self.label, values, minlength=self.classes)
