"""The record of a run: statistics of each sample, and the answers to questions about the labels."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynalens.auditing import Audit, Plan
from dynalens.auditing.answers import AnswersSource
from dynalens.dynamics import Array, SampleStatistics
from dynalens.embeddings import EmbeddingEvidence
from dynalens.notices import progress_notice, warn
from dynalens.record.audit_samples import audit_command
from dynalens.record.history import UNREADABLE, History, Presentations
from dynalens.record.meta import RecordMeta
from dynalens.record.plans import AuditAnswers, Audits
from dynalens.suspicion import (
    PRECISION,
    Assessment,
    NoiseRate,
    assess,
    clean_indices,
    corrections,
    removable,
    samples_table,
    suspects,
    weights,
    worst_samples,
)
from dynalens.text import escaped, escaped_all

Watch = Callable[[int, Presentations], None]
"""Is shown the number and the presentations of an epoch."""


def _no_neighbours() -> None:
    return None


@dataclass(eq=False, kw_only=True)
class Record:
    """What a run recorded of each of its N samples, and what follows for their labels.

    You get one from :attr:`TrainingDynamicsMonitor.record` after at least one epoch, or from the folder of a run by
    :func:`~dynalens.load_record`. Without Lightning, make one of what :class:`~dynalens.TrainingDynamics` returns. The
    first question about the labels reads the history and assesses all labels. Later questions use this assessment.

    Attributes:
        statistics: Statistics of each sample.
        meta: Number of samples, epochs and class names.
        root_index: Shape ``(N,)``, index of each sample in the dataset below all subsets, or -1 if it is not known.
        sample_ids: Shape ``(N,)``, the id of each sample, strings or integers. None: the id is the position.
        sample_names: Name of each sample, or None if the dataset has no names.
        folder: Folder of the record, or None if it was not written.
        presentations: The history, or None if none is kept.
        find_neighbours: Callable that returns the :func:`~dynalens.neighbour_scores`, shape ``(N,)``, or None.
        find_pictures: Callable that returns small pictures of suspects, by the row of the sample.
        evidence: What embeddings say about the labels, in a record from :meth:`with_embeddings`. Otherwise None.

    Example:
        The network predicts class 0 for both samples. The label of the second one is 1.

        >>> import torch
        >>> from dynalens import TrainingDynamics
        >>> dynamics = TrainingDynamics(2)
        >>> dynamics.update([0, 1], torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
        >>> _ = dynamics.end_epoch(0)
        >>> meta = RecordMeta(num_samples=2, epochs=[0])
        >>> record = Record(statistics=dynamics.compute(), meta=meta, root_index=np.arange(2))
        >>> record.table()["margin"].tolist(), record.suspects(1).index.tolist()
        ([1.0, -4.0], [1])
    """

    statistics: SampleStatistics
    meta: RecordMeta
    root_index: Array
    sample_ids: Array | None = None
    sample_names: Sequence[str] | None = None
    folder: Path | None = None
    presentations: History | None = None
    find_neighbours: Callable[[], Array | None] = _no_neighbours
    find_pictures: Callable[[], dict[int, Array]] = dict
    evidence: EmbeddingEvidence | None = None

    def __post_init__(self) -> None:
        self._assessment: Assessment | None = None
        self._has_warned = False
        self._audits = Audits(self)

    def with_embeddings(self, embeddings: Any) -> "Record":
        """Return a record of the same run that ranks the labels by the run and by embeddings of the samples.

        An encoder that never saw the labels finds wrong labels that the network has memorised. ``score``, ``rank``,
        ``wrong_probability``, ``flagged`` and the order of :meth:`audit_plan` then come from run and embeddings
        together (:func:`~dynalens.suspicion.joined`). If the embeddings count at least as much as the run,
        ``suggested`` comes from them. The table gets ``score_neighbours`` and ``score_probe``, the scores of their
        nearest neighbours and of a linear probe. A call takes seconds to minutes, so keep the record that it returns.

        If samples have several labels, each label is judged by both, and ``unit``, ``unit_margin``, ``label`` and
        ``suggested`` are about the label that both together doubt most
        (:func:`~dynalens.suspicion.joined_labels`). The numbers of a regression are judged by both as well
        (:func:`~dynalens.suspicion.joined_numbers`). The two scores are then left out.

        Args:
            embeddings: Array or tensor ``(N, D)`` in the order of the dataset, for instance the result of
                :func:`dynalens.embed`. If samples are known by ids, a mapping from ids to vectors. If it is a tensor on
                an accelerator, the work is done there. None returns this record itself.

        Raises:
            ValueError: If there are not N rows of finite numbers, or samples have a label for each token or pixel.
            ImportError: If there are more than 200,000 labelled samples and faiss is not installed.
        """
        from dynalens.embeddings import embedding_rows  # torch, which a record does without
        from dynalens.record.embedded import with_vectors

        if embeddings is None:
            return self
        vectors = embedding_rows(embeddings, self.meta.num_samples, self.sample_ids)
        with progress_notice(f"comparing the embeddings of {len(vectors):,} samples"):
            record, assessment = with_vectors(self, vectors)
        record._assessment = assessment
        record._audits = self._audits.copy_for(record)
        return record

    def history(self) -> Iterator[tuple[int, Presentations]]:
        """Yield the number of each complete epoch with its presentations.

        These are arrays by name, one entry for each presentation: ``index``, the row of the sample, and the other
        arrays of :class:`~dynalens.dynamics.EpochRecord`.
        """
        yield from self._history

    @property
    def _history(self) -> History:
        return self.presentations or History(None, self.meta.epochs)

    def names(self) -> list[str] | None:
        """Return the name of each sample, or None if the dataset has no names."""
        return None if self.sample_names is None else list(self.sample_names)

    @functools.cached_property
    def _neighbours(self) -> Array | None:
        return self.find_neighbours()

    def neighbours(self) -> Array | None:
        """Return the :func:`~dynalens.neighbour_scores` of the features that the run kept, shape ``(N,)``.

        They are None if the run kept no features, or if they are older than the last epoch.
        """
        return self._neighbours

    def shown_ids(self) -> list[Any]:
        """Return the id of each sample as tables, pages and files show it, with special letters escaped."""
        ids: list[Any] = (np.arange(len(self.statistics)) if self.sample_ids is None else self.sample_ids).tolist()
        return [escaped(sample) if isinstance(sample, str) else sample for sample in ids]

    def pictures(self) -> dict[int, Array]:
        """Return small pictures of suspects, by row: images ``(H, W, 3)``, uint8, or signals ``(C, L)``."""
        return self.find_pictures()

    def assess(self) -> Assessment:
        """Return how suspicious each label is. The first call assesses the labels, which reads the history."""
        if self._assessment is None:
            self.read_history()
        assert self._assessment is not None
        return self._assessment

    def read_history(self, *watches: Watch) -> None:
        """Read the history once, and assess the labels in the same pass if they have not been assessed yet.

        Args:
            *watches: Callables. Each gets the number and the presentations of every epoch that was kept.
        """
        read_epochs: set[int] = set()
        if self._assessment is None:
            with progress_notice(f"assessing the labels of {len(self.statistics):,} samples"):
                self._assessment = self._assess(watches, read_epochs)
        for epoch, presentations in self._history.readable(excluded_epochs=read_epochs) if watches else ():
            for watch in watches:
                watch(epoch, presentations)

    def table(self, *, embeddings: Any = None) -> pd.DataFrame:
        """Return a table with one row for each sample of the dataset and the index ``sample_id``.

        ``docs/table.md`` explains its columns.

        Args:
            embeddings: See :meth:`with_embeddings`. None: the run alone.
        """
        if embeddings is not None:
            return self.with_embeddings(embeddings).table()
        table = samples_table(
            self.statistics,
            self.assess(),
            class_names=escaped_all(self.meta.class_names),
            root_index=self.root_index,
            sample_ids=None if self.sample_ids is None else self.shown_ids(),
            names=escaped_all(self.sample_names),
            neighbours=self.neighbours(),
            probe=None if self.evidence is None else self.evidence.probe,
        )
        table.attrs.update(self.meta.attributes() | {"doubts": self.doubts()})
        return table

    def audit_plan(
        self,
        n: int = 100,
        *,
        seed: int = 0,
        answers: AnswersSource | Sequence[AnswersSource] | None = None,
        earlier_run: "Record | None" = None,
    ) -> pd.DataFrame:
        """Return the samples whose labels a person is asked about: :func:`dynalens.audit_plan`."""
        return self._audits.plan(n, seed, answers, None if earlier_run is None else earlier_run._audits)

    def audit(self, answers: AuditAnswers) -> Audit:
        """Return what a person's answers say about the labels: :func:`dynalens.audit`."""
        return self._audits.result(answers)

    def latest_plan(self) -> Plan:
        """Return the plan from which :meth:`audit_plan` last drew samples."""
        return self._audits.latest()

    def audited_rows(self) -> list[int]:
        """Return the rows of all samples that audits have drawn so far."""
        return self._audits.rows()

    def suspects(
        self,
        n: int | None = None,
        precision: float | None = None,
        *,
        embeddings: Any = None,
        answers: AuditAnswers | None = None,
    ) -> pd.DataFrame:
        """Return the samples that were seen, the most suspicious first.

        Args:
            n: Largest number of samples to return. None: all of them.
            precision: Return only the top of the order, cut so that this fraction of it, in (0, 1], is expected to be
                wrong, and set ``flagged`` accordingly. None: return all, with ``flagged`` set at 0.8. Without answers
                the expectation is an estimate: on labels that people gave, 46 to 92 % of what was flagged at 0.8 was
                wrong (``docs/results/flags.md``).
            embeddings: See :meth:`with_embeddings`.
            answers: Answers of an audit, see :func:`dynalens.audit`. The probabilities are calibrated on them. Labels
                with the answer "wrong" come first, and labels with the answer "right" are left out.

        Returns:
            Rows of :meth:`table`, with the index ``sample_id``.
        """
        if answers is None:
            return suspects(self.table(embeddings=embeddings), n, precision)
        table = self.with_embeddings(embeddings)._audit_table(answers, precision)
        worst = table[table["rank"].notna() & (table["answer"] != "right")].sort_values("rank")
        worst = worst.iloc[(worst["answer"] != "wrong").to_numpy().argsort(kind="stable")]
        return (worst if precision is None else worst[worst["flagged"]]).iloc[:n]

    def suspect_ids(self, n: int) -> list[Any]:
        """Return the ids of the first ``n`` of :meth:`suspects` without reading a file."""
        return self._ids_at(worst_samples(self.statistics, n))

    def noise_rate(self) -> NoiseRate:
        """Return the estimated fraction of wrong labels with a lower and an upper bound.

        The bounds are no confidence interval. ``Audit.noise_rate`` has one: see :meth:`audit`.
        """
        return self.assess().noise_rate

    def doubts(self) -> list[str]:
        """Return the reasons to doubt the noise rate and the flags of this run, one sentence each.

        They are also in ``noise_rate().doubts`` and in the ``attrs`` of the table. The list is empty if there are none.
        """
        return list(self.noise_rate().doubts)

    def clean_indices(
        self, precision: float | None = None, *, embeddings: Any = None, answers: AuditAnswers | None = None
    ) -> list[Any]:
        """Return the ids of the samples that are not flagged.

        If ids are positions in the dataset, pass them to ``torch.utils.data.Subset``. Without answers, a warning says
        if no sample is flagged or the flags are doubtful (:meth:`doubts`).

        Args:
            precision: Expected fraction of wrong labels among the flagged, in (0, 1]. None: 0.8.
            embeddings: See :meth:`with_embeddings`.
            answers: Answers of an audit. Labels with the answer "wrong" are left out, those with "right" are kept.
        """
        if answers is not None:
            audit = self.with_embeddings(embeddings)._audits.result_to_act_on(answers)
            return self._ids_at(clean_indices(self._audit_table(audit, precision).reset_index(drop=True)))
        table = self.table(embeddings=embeddings)
        clean = clean_indices(table.reset_index(drop=True), precision)
        self._caution("`clean_indices()` keeps every sample", any_flagged=len(clean) < len(table))
        return self._ids_at(clean)

    def removable(self, fraction: float) -> list[Any]:
        """Return the ids of the samples that training needs least: never forgotten, and learned first.

        Args:
            fraction: How many samples to return, as a fraction of those that were seen, see :func:`dynalens.removable`.
        """
        return self._ids_at(removable(self.statistics, fraction).tolist())

    def weights(self, *, answers: AuditAnswers | None = None) -> Array:
        """Return the probability that each label is right, shape (N,): the weights of samples in a second training.

        Args:
            answers: Answers of an audit. The probabilities are calibrated on them, and 0 or 1 for answered labels.
                Without answers, a warning says if the probabilities are doubtful.
        """
        if answers is not None:
            return weights(self._audits.result_to_act_on(answers).table())
        table = self.table()
        self._caution("`weights()` gives every sample nearly the full weight", any_flagged=bool(table["flagged"].any()))
        return weights(table)

    def relabelled(
        self,
        dataset: Any,
        precision: float = PRECISION,
        label: str | int | None = None,
        *,
        answers: AuditAnswers | None = None,
    ) -> Any:
        """Return the dataset with the suggested label in place of each flagged one.

        If a sample has several labels, the one that is most probably wrong is replaced. Without answers, a warning says
        if no label is replaced or the flags are doubtful.

        Args:
            dataset: The dataset that was trained on. Not modified.
            precision: Expected fraction of wrong labels among the replaced ones, in (0, 1].
            label: Where the label stands in a sample, see :class:`~dynalens.RelabelledDataset`.
            answers: Answers of an audit. A label with the answer "wrong" becomes the one that the person named, or else
                the suggested one. A label with the answer "right" stays.

        Raises:
            ValueError: If samples are known by ids or have no labels of their own, or the dataset has another length.
        """
        from dynalens.datasets import RelabelledDataset  # torch, which a record does without

        if self.sample_ids is not None:
            raise ValueError(
                "Expected a record that knows samples by their position in the dataset, got one that knows them by "
                "ids. Correct the labels of the samples in `suspects()` in your own data."
            )
        audit = None if answers is None else self._audits.result_to_act_on(answers)
        new_labels = None if audit is None else audit.new_labels
        changes = corrections(self.statistics, self.suspects(precision=precision, answers=audit), new_labels)
        if answers is None:
            self._caution("`relabelled()` changes no label", any_flagged=bool(changes))
        return RelabelledDataset(dataset, changes, label=label, length=len(self.statistics))

    def _audit_table(self, answers: AuditAnswers, precision: float | None) -> pd.DataFrame:
        return self.audit(answers).table(PRECISION if precision is None else precision)

    def _caution(self, consequence: str, *, any_flagged: bool) -> None:
        """Warn where flags that a person does not see are acted on: each time if there are none, once if doubtful."""
        has_doubts, self._has_warned = bool(self.doubts()) and not self._has_warned, True
        if not any_flagged or has_doubts:
            reason = "The flags are doubtful." if any_flagged else f"No label is flagged: {consequence}."
            command = f"`{audit_command(self.statistics, self.folder)}`"
            advice, rate = f"Look at the first of `suspects()`, and audit 100 samples: {command}.", self.noise_rate()
            causes = [f"The estimated noise rate is {rate.in_words()}.", *rate.doubts]
            warn("\n  ".join([f"{reason} {advice}", *causes]))

    def _ids_at(self, rows: list[int]) -> list[Any]:
        return rows if self.sample_ids is None else [*self.sample_ids[rows].tolist()]

    def _assess(self, watches: Sequence[Watch], read_epochs: set[int]) -> Assessment:
        """Assess the labels; no half of a history counts, without a whole one the record's own means are read."""
        reason = ""
        if self._history.is_there():
            try:
                assessment = assess(self.statistics, self._watch_history(watches, read_epochs))
                if read_epochs.issuperset(self.meta.epochs):
                    return assessment
            except UNREADABLE as error:
                reason = str(error)
        lost_epochs = self._history.lost_epochs()
        reason = f"got none of epochs {lost_epochs}" if lost_epochs else reason
        if reason:
            warn(
                f"Expected the history of this record in {self.folder}, {reason}. Rate, flags and suggested "
                "classes now come from means over epochs and may differ from before. Put the files back or train again."
            )
        return assess(self.statistics)

    def _watch_history(self, watches: Sequence[Watch], read_epochs: set[int]) -> Iterator[Presentations]:
        for epoch, presentations in self._history:
            read_epochs.add(epoch)
            for watch in watches:
                watch(epoch, presentations)
            yield presentations
