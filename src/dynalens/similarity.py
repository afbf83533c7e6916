"""Training samples that explain others by embeddings: similar samples, and typical samples of a class."""

from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from dynalens.arguments import check_positive
from dynalens.dynamics import Array, SampleStatistics
from dynalens.embeddings import embedding_rows
from dynalens.embeddings.neighbours import similar_rows
from dynalens.embeddings.prototypes import mmd_critic
from dynalens.embeddings.witness import SHOWN, SimilarSamples
from dynalens.record import KeepsRecord, Record
from dynalens.suspicion import worst_samples

KINDS = ("prototype", "criticism", "easiest", "hardest")


def similar_samples(record: Record | KeepsRecord, embeddings: Any, n: int = 20, *, k: int = SHOWN) -> pd.DataFrame:
    """Return for each of the first suspects the most similar training samples of its given and of its suggested class.

    Similarity is the cosine of embeddings. If a sample looks like those of the suggested class and unlike those of the
    given class, its label is probably wrong.

    Args:
        record: The result of :func:`~dynalens.load_record`, or a monitor after its fit.
        embeddings: As for :meth:`Record.with_embeddings`: ``(N, D)`` in the order of the dataset, or by ids.
        n: Number of suspects, from the most suspicious on.
        k: Number of samples of each class.

    Returns:
        One row for each suspect, with the index ``sample_id``: ``label`` and ``suggested``; ``similar_given`` and
        ``similar_suggested`` are lists of at most k ids, the most similar first.

    Raises:
        ValueError: If ``n`` or ``k`` is not positive, the embeddings do not fit the record, or its samples do not have
            one label each.

    Example:
        >>> import torch
        >>> from dynalens import TrainingDynamics
        >>> from dynalens.record import RecordMeta
        >>> dynamics, logits = TrainingDynamics(4), torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> dynamics.update([0, 1, 2, 3], logits, torch.tensor([0, 1, 1, 1]))
        >>> _ = dynamics.end_epoch(0)
        >>> record = Record(statistics=dynamics.compute(), meta=RecordMeta(4, [0]), root_index=np.arange(4))
        >>> table = similar_samples(record, logits, 1, k=2)
        >>> table.index.tolist(), table["similar_given"].tolist(), table["similar_suggested"].tolist()
        ([1], [[2, 3]], [[0]])
    """
    check_positive(n=n, k=k)
    source = _record(record)
    source.statistics.of_one_label("similar samples")
    table, ids = source.suspects(n)[["label", "suggested"]].copy(), source.shown_ids()
    similar = similar_of(source, embeddings, table.index, k)
    for name, neighbours in (("similar_given", similar.label_rows), ("similar_suggested", similar.suggestion_rows)):
        table[name] = pd.Series(
            [[ids[i] for i in row if i >= 0] for row in neighbours.tolist()], table.index, dtype=object
        )
    return table


def similar_of(record: Record, embeddings: Any, sample_ids: "pd.Index[Any]", k: int = SHOWN) -> SimilarSamples:
    """Return the rows of the samples that are similar to these suspects."""
    statistics = record.statistics.of_one_label("similar samples")
    features = embedding_rows(embeddings, len(statistics), record.sample_ids)
    rows = pd.Index(record.shown_ids()).get_indexer(sample_ids)
    suggestions = record.table()["suggested"].astype("Float64").fillna(-1).to_numpy(np.int64)
    return similar_rows(features, labels_of(statistics), rows, suggestions[rows], k)


def prototypes(record: Record | KeepsRecord, embeddings: Any, n: int = 3) -> pd.DataFrame:
    """Return samples of each class: typical ones, ones that these do not represent, the easiest and the hardest ones.

    Prototypes (typical samples) and criticisms (samples that the prototypes do not represent) are those of MMD-critic
    in the embeddings of the class (:func:`dynalens.embeddings.mmd_critic`). The easiest samples have the largest mean
    margin in the record, the hardest ones the smallest. A class is given by its labels, so it also holds samples whose
    label is wrong.

    Args:
        record: The result of :func:`~dynalens.load_record`, or a monitor after its fit.
        embeddings: As for :meth:`Record.with_embeddings`.
        n: Number of samples of each kind; fewer if the class has fewer.

    Returns:
        The columns ``label``, ``kind`` ("prototype", "criticism", "easiest" or "hardest") and ``sample_id``. The rows
        of each kind are in the order in which they were chosen.

    Raises:
        ValueError: As for :func:`similar_samples`.

    Example:
        >>> import torch
        >>> from dynalens import TrainingDynamics
        >>> from dynalens.record import RecordMeta
        >>> dynamics, logits = TrainingDynamics(4), torch.tensor([[3.0, 0.0], [3.0, 0.3], [3.0, -0.3], [0.0, 1.0]])
        >>> dynamics.update([0, 1, 2, 3], logits, torch.tensor([0, 0, 0, 0]))
        >>> _ = dynamics.end_epoch(0)
        >>> record = Record(statistics=dynamics.compute(), meta=RecordMeta(4, [0]), root_index=np.arange(4))
        >>> prototypes(record, logits, 1)[["kind", "sample_id"]].to_numpy().tolist()
        [['prototype', 0], ['criticism', 3], ['easiest', 2], ['hardest', 3]]
    """
    check_positive(n=n)
    source = _record(record)
    statistics = source.statistics.of_one_label("prototypes")
    ids = source.shown_ids()
    by_class = class_examples(embedding_rows(embeddings, len(statistics), source.sample_ids), statistics, n)
    entries = [(label, kind, ids[row]) for label, kinds in by_class.items() for kind in KINDS for row in kinds[kind]]
    return pd.DataFrame(entries, columns=["label", "kind", "sample_id"])


def class_examples(
    features: Tensor, statistics: SampleStatistics, n: int, *, max_classes: int | None = None
) -> dict[int, dict[str, list[int]]]:
    """Return for each class, and for each kind in ``KINDS``, the rows of n samples; at most ``max_classes`` classes."""
    labels, examples = labels_of(statistics), {}
    for label in np.unique(labels[labels >= 0])[:max_classes].tolist():
        rows = np.flatnonzero(labels == label)
        selection = mmd_critic(features[rows.tolist()], n, n)
        order = rows[np.argsort(statistics.margin[rows], kind="stable")]
        examples[int(label)] = {
            "prototype": rows[selection.prototypes].tolist(),
            "criticism": rows[selection.criticisms].tolist(),
            "easiest": order[::-1][:n].tolist(),
            "hardest": order[:n].tolist(),
        }
    return examples


def labels_of(statistics: SampleStatistics) -> Array:
    """Return the label of each sample, int64, and -1 for a sample that was never presented."""
    labels: Array = np.where(statistics.presentations > 0, statistics.label, -1).astype(np.int64)
    return labels


def similar_to_suspects(features: Tensor, statistics: SampleStatistics, n: int, k: int) -> SimilarSamples:
    """Return the rows of the samples that are similar to the first n suspects, without making the record's table."""
    rows = np.array(worst_samples(statistics, n), dtype=np.int64)
    return similar_rows(features, labels_of(statistics), rows, statistics.candidate[rows].astype(np.int64), k)


def _record(record: Record | KeepsRecord) -> Record:
    return record if isinstance(record, Record) else record.record
