"""The result of :func:`influence`: which training samples helped a test sample, and which harmed it."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dynalens.dynamics import Array


@dataclass(frozen=True, eq=False)
class Influence:
    """Influence of N training samples on M test samples, as :func:`influence` returns it.

    Attributes:
        values: Shape ``(M, N)``, float32: how much the training steps on a training sample lowered the loss of a test
            sample. A negative value means that they raised it.
        labels: Shape ``(M,)``, the given labels of the test samples.
        predicted: Shape ``(M,)``, the class with the largest logit at the last checkpoint.
        samples: One row for each training sample, in the order of the dataset, with the index ``sample_id``: ``label``
            and, if there is a record, ``suggested`` and ``wrong_probability``.

    Example:
        >>> samples = pd.DataFrame({"label": [0, 1, 1]}, index=pd.RangeIndex(3, name="sample_id"))
        >>> influence = Influence(np.array([[0.5, -2.0, 1.0]]), np.array([0]), np.array([1]), samples)
        >>> influence.opponents(0, 1).reset_index().to_dict("records")
        [{'sample_id': 1, 'influence': -2.0, 'label': 1}]
        >>> influence.proponents(0, 1).index.tolist(), influence.wrong()
        ([2], [0])
    """

    values: Array
    labels: Array
    predicted: Array
    samples: pd.DataFrame = field(repr=False)

    def opponents(self, test: int, n: int = 10) -> pd.DataFrame:
        """Return the training samples that raised the loss of a test sample most.

        Args:
            test: Number of the test sample, in [0, M).
            n: Largest number of training samples.

        Returns:
            Rows of ``samples`` with the column ``influence``. All are negative, and the most negative come first.
        """
        return self._ranking(test, n, sign=-1)

    def proponents(self, test: int, n: int = 10) -> pd.DataFrame:
        """Return the training samples that lowered the loss of a test sample most.

        The arguments and the table are those of :meth:`opponents`. Here all influences are positive, and the largest
        come first.
        """
        return self._ranking(test, n, sign=1)

    def wrong(self) -> list[int]:
        """Return the numbers of the test samples whose predicted class is not their label."""
        rows: list[int] = np.flatnonzero(self.labels != self.predicted).tolist()
        return rows

    def rows(self, test: int, n: int, *, sign: int) -> list[int]:
        """Return the positions in the dataset of the ``n`` samples with the strongest influence of this sign.

        There are fewer if fewer samples have an influence of this sign.
        """
        strength = sign * self.values[test]
        order = np.argsort(-strength, kind="stable")[:n]
        rows: list[int] = order[strength[order] > 0].tolist()
        return rows

    def _ranking(self, test: int, n: int, *, sign: int) -> pd.DataFrame:
        """Return the rows of ``samples`` with the strongest influence of this sign."""
        rows = self.rows(test, n, sign=sign)
        table = self.samples.iloc[rows].copy()
        table.insert(0, "influence", self.values[test, rows])
        return table
