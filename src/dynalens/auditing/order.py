"""The order that answers make of the samples, and the ranks by which each answer is judged."""

from typing import NamedTuple

import numpy as np

from dynalens.auditing.calibration import answered_log_odds, reweighed
from dynalens.dynamics import Array


class Signals(NamedTuple):
    """What makes the order of N samples, besides the answers.

    Attributes:
        score: Shape ``(N,)``, log odds that each label is wrong, without NaN.
        label: Shape ``(N,)``, the class of each label, or None.
        contrast: Shape ``(N,)``, how much more suspicious each label is to embeddings than to the run, or None.
        share: Weight of the embeddings in the score.
    """

    score: Array
    label: Array | None = None
    contrast: Array | None = None
    share: float = 0.0

    def order(self, rows: Array, wrong: Array, weight: Array) -> tuple[Array, Array]:
        """Return the log odds that each label is wrong, and its rank: 1 for the most suspicious.

        The arguments are those of :func:`~dynalens.auditing.calibration.answered_log_odds`.
        """
        score = self.score
        if self.contrast is not None:
            score = reweighed(score, self.contrast, self.share, rows, wrong, weight)
        log_odds = answered_log_odds(score, rows, wrong, weight, label=self.label)
        rank = np.empty(len(score))
        # Where the answers do not follow the score, it still says who comes first among equals.
        rank[np.lexsort((-score, -log_odds))] = np.arange(1, len(score) + 1)
        return log_odds, rank

    def ranks_by_other_half(self, rows: Array, wrong: Array, weight: Array, stratum: Array) -> Array:
        """Return the rank of each sample that was answered, in the order that the other half of the answers makes.

        Answers bring classes to the top of the order by chance as well, and would then say that the top is good. The
        answers of the other half were drawn on their own, and say how good it is (cross-fitting: V. Chernozhukov et
        al., "Double/debiased machine learning", The Econometrics Journal 2018).

        Args:
            rows: Shape ``(n,)``, rows that were answered as right or wrong.
            wrong: Shape ``(n,)``, 1 where the answer was "wrong", else 0.
            weight: Shape ``(n,)``, samples that each answer stands for.
            stratum: Shape ``(n,)``; each stratum is divided into halves.
        """
        is_second = np.empty(len(rows), np.bool_)
        is_second[np.lexsort((rows, stratum))] = np.arange(len(rows)) % 2 == 1
        ranks = np.empty(len(rows))
        for is_other in (is_second, ~is_second):
            _, rank = self.order(rows[is_other], wrong[is_other], weight[is_other])
            ranks[~is_other] = rank[rows[~is_other]]
        return ranks
