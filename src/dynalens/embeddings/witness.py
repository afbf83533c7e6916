"""What embeddings that never saw the labels say of them, and which samples look alike."""

from dataclasses import dataclass

import numpy as np

from dynalens.dynamics import Array

SHOWN = 3
"""Similar samples of each class beside a suspect."""


@dataclass(frozen=True)
class EmbeddingEvidence:
    """What the embeddings of N samples say about their labels, as :func:`embedding_evidence` returns it.

    Probabilities are those of the linear probe and of the nearest neighbours together. Samples without a label have
    NaN.

    Attributes:
        neighbours: Shape ``(N,)``, fraction of the ten nearest neighbours that have another label. NaN also if the
            embedding is zero.
        probe: Shape ``(N,)``, log of the largest probability of another class minus log of the probability of the
            label, both by the linear probe alone.
        label: Shape ``(N,)``, int64, the label, or -1 if there is none.
        p_label: Shape ``(N,)``, probability of the label.
        rival: Shape ``(N,)``, int64, the most probable other class, or -1 if there is no label.
        p_rival: Shape ``(N,)``, probability of the rival.
        loss: Mean over the samples of -log p of the label, in nats.
        entropy: The same mean if p is the frequency of the label: the entropy of the labels, in nats.

    Example:
        >>> none, zero = np.full(1, np.nan), np.zeros(1, np.int64)
        >>> EmbeddingEvidence(none, none, zero, np.array([0.25]), zero + 1, np.array([0.5])).margin.round(3)  # log 1/2
        array([-0.693])
    """

    neighbours: Array
    probe: Array
    label: Array
    p_label: Array
    rival: Array
    p_rival: Array
    loss: float = 0.0
    entropy: float = 0.0

    @property
    def margin(self) -> Array:
        """Log of the probability of the label over that of the rival, shape ``(N,)``."""
        margin: Array = np.log(self.p_label) - np.log(self.p_rival)
        return margin


@dataclass(frozen=True)
class LabelEvidence:
    """What the embeddings of N samples with K labels, or numbers, each say about these.

    :func:`label_evidence` and :func:`number_evidence` return it.

    Attributes:
        margins: Shape ``(N, K)``, log odds that each label is as it was given, or the log of the tolerance over the
            residual of each number; NaN where it is not known.
        loss: Mean of -log p over the samples, in nats: p is the geometric mean of the probabilities that the labels of
            the sample are as given, or of the closeness of its numbers. What was learned from the same labels is
            corrected for.
        entropy: The same mean if only the frequency of each label, or the median of each number, is known.

    Example:
        >>> evidence = LabelEvidence(np.array([[0.0, 0.0], [np.nan, 50.0]]), loss=0.35, entropy=0.7)
        >>> evidence.margin.round(3)  # -log 2, and 0
        array([-0.693, -0.   ])
    """

    margins: Array
    loss: float
    entropy: float

    @property
    def margin(self) -> Array:
        """Mean of log p over the known labels of each sample, shape ``(N,)``; NaN where none is known."""
        is_known = ~np.isnan(self.margins)
        losses = np.where(is_known, np.logaddexp(0, -np.where(is_known, self.margins, 0)), 0).sum(axis=1)
        count = is_known.sum(axis=1)
        return np.where(count > 0, -losses / np.maximum(count, 1), np.nan)


@dataclass(frozen=True, eq=False)
class SimilarSamples:
    """The nearest samples of M samples, among those labelled as given and among those labelled as suggested.

    Attributes:
        rows: Shape ``(M,)``, the samples.
        label_rows: Shape ``(M, k)``, the nearest others with the same label, nearest first; -1 where there are fewer.
        suggestion_rows: Shape ``(M, k)``, the same of those with the suggested label; -1 where none is suggested.

    Example:
        >>> similar = SimilarSamples(np.array([4]), np.array([[1, -1]]), np.array([[2, 0]]))
        >>> similar.similar_to(4), similar.similar_to(3)
        (([1], [2, 0]), ([], []))
    """

    rows: Array
    label_rows: Array
    suggestion_rows: Array

    def similar_to(self, row: int) -> tuple[list[int], list[int]]:
        """Return the similar samples of one of the rows: of the given and of the suggested class; none of another."""
        places = np.flatnonzero(self.rows == row)
        if not len(places):
            return [], []
        rows_of_label, rows_of_suggestion = (
            [int(i) for i in rows[places[0]] if i >= 0] for rows in (self.label_rows, self.suggestion_rows)
        )
        return rows_of_label, rows_of_suggestion

    def rows_shown(self) -> list[int]:
        """Return every similar sample once, the nearest of all rows first."""
        rows = np.stack([self.label_rows, self.suggestion_rows], axis=2) if len(self.rows) else np.zeros((0, 0, 2), int)
        return [int(i) for i in dict.fromkeys(rows.transpose(1, 0, 2).ravel().tolist()) if i >= 0]
