"""A record whose labels are judged by the run and by embeddings of the samples."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dynalens.dynamics.tolerance import tolerance_of_targets
from dynalens.embeddings import embedding_evidence, label_evidence, number_evidence
from dynalens.record.history import Presentations
from dynalens.suspicion import Assessment, RunLoss, joined, joined_labels, joined_numbers

if TYPE_CHECKING:
    from dynalens.record.record import Record


def with_vectors(record: "Record", vectors: Tensor) -> "tuple[Record, Assessment]":
    """Return the record with what embeddings say, and how suspicious each label is to both.

    Args:
        record: Of samples with one label, or several, or of a regression.
        vectors: Shape ``(N, D)``, finite.
    """
    if record.statistics.unit_given is not None:
        return _with_labels(record, vectors)
    return (_with_classes if record.statistics.unit_targets is None else _with_numbers)(record, vectors)


def _with_classes(record: "Record", vectors: Tensor) -> "tuple[Record, Assessment]":
    statistics = record.statistics.of_one_label("embeddings")
    evidence = embedding_evidence(vectors, np.where(statistics.presentations > 0, statistics.label, -1))
    run_loss = RunLoss(evidence, statistics.loss)
    record.read_history(run_loss.read)
    joint_record = dataclasses.replace(record, evidence=evidence, find_neighbours=lambda: evidence.neighbours)
    return joint_record, joined(record.assess(), evidence, run_loss.value)


def _with_labels(record: "Record", vectors: Tensor) -> "tuple[Record, Assessment]":
    labels = record.statistics.unit_given
    assert labels is not None
    evidence = label_evidence(vectors, labels)
    run_loss = RunLoss(evidence, record.statistics.loss)
    record.read_history(lambda epoch, presentations: run_loss.read(epoch, _with_mean_p(presentations)))
    statistics, assessment = joined_labels(record.statistics, record.assess(), evidence, run_loss.value)
    return dataclasses.replace(record, statistics=statistics), assessment


def _with_numbers(record: "Record", vectors: Tensor) -> "tuple[Record, Assessment]":
    statistics = record.statistics
    assert statistics.unit_targets is not None
    was_seen = (statistics.presentations > 0)[:, np.newaxis]
    targets = np.where(was_seen, statistics.unit_targets, np.nan)
    evidence = number_evidence(vectors, targets, tolerance_of_targets(statistics))
    with np.errstate(divide="ignore"):  # of a closeness that rounds to 0
        run_loss = RunLoss(evidence, -np.log(statistics.confidence))
    record.read_history(run_loss.read)
    return dataclasses.replace(record), joined_numbers(statistics, record.assess(), evidence, run_loss.value)


def _with_mean_p(presentations: Presentations) -> Presentations:
    """Return presentations of several labels with the geometric mean of their probabilities as the label's."""
    if "loss" not in presentations:  # in a history that was written before losses were kept
        return {"index": np.zeros(0, np.int64), "p_label": np.zeros(0)}
    return {"index": presentations["index"], "p_label": np.exp(-presentations["loss"])}
