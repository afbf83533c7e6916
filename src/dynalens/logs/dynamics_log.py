"""Show a record in loggers: scalars of each epoch, and pictures."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynalens.auditing import keeps_all_given
from dynalens.datasets import feature_names
from dynalens.dynamics import Array, EpochRecord, SampleStatistics
from dynalens.embeddings import SimilarSamples
from dynalens.features import FeatureRows
from dynalens.host import (
    chart_layouts,
    last_epoch,
    log_scalars,
    log_step,
    may_be_last_epoch,
    tag_prefix,
    tensorboard_writer,
)
from dynalens.logs.audit_watch import AuditWatch
from dynalens.logs.dynamics_pictures import FOLLOWED, DynamicsPictures, Estimate
from dynalens.logs.noise_curve import NoiseCurve
from dynalens.logs.projector import Projector
from dynalens.logs.settings import LogSettings
from dynalens.logs.sinks import sink_of, switched_off_on_error
from dynalens.pictures import Decode, find_normalisation
from dynalens.record import LiveRecord
from dynalens.record.folder import write_sheet
from dynalens.schedule import Schedule
from dynalens.similarity import class_examples, similar_to_suspects
from dynalens.suspicion import (
    PRECISION,
    NoiseRate,
    epoch_summary,
    flagged,
    has_classes,
    overlap,
    worst_samples,
    wrong_probabilities,
)
from dynalens.tensorboard import write_layout
from dynalens.text import are, percent
from dynalens.units import UnitPresentation

ContrastMaps = Callable[[Any, Mapping[Any, tuple[int, int]]], Mapping[Any, Array]]
"""Returns maps by sample id, given the module and, by sample id, the suggested and the given class."""
_MOST_CLASSES = 20
"""Rows of the sheet of examples; as many as suspects in the gallery."""


class GallerySource(NamedTuple):
    """What another callback offers to the gallery of suspects.

    Attributes:
        contrasts: Returns maps of what speaks for the suggested class.
        decode: Returns the word of a token's id; None if there are no words.
    """

    contrasts: ContrastMaps
    decode: Decode | None = None


def in_words(epoch: int, is_flagged: Array, rate: NoiseRate) -> str:
    """Return an epoch's flagged samples and noise rate as Markdown, with reasons to doubt them."""
    doubts = "".join(f"\n- Doubtful: {doubt}" for doubt in rate.doubts)
    expectation = f" About {percent(PRECISION, 0)} of all flagged labels are expected to be wrong."
    number = int(is_flagged.sum())
    return (
        f"Epoch {epoch}: **{number:,} of {len(is_flagged):,} samples {are(number)} flagged**."
        f"{expectation if is_flagged.any() else ''} Estimated noise rate: **{percent(rate.value)}** "
        f"({percent(rate.low)} to {percent(rate.high)}), {rate.alone}.\n{doubts}"
    )


class DynamicsLog:
    """Logs the record of one monitor, in the process that writes.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        live: The record. Without a TensorBoardLogger, pictures go to its folder.
        settings: What to show of it.
        name: Name of the monitor, with which tags begin.
        dataset: The training dataset.
        sources: Callbacks that are asked in turn for maps of the gallery's suspects, until one has some, and for words.

    Attributes:
        schedule: Chooses the epochs of the record in which there is time to draw charts and suspects.
        similar: Samples that look like the suspects, from the epoch before the last, so that their pictures have
            passed; None if they are not asked for.
    """

    def __init__(
        self,
        trainer: Any,
        pl_module: Any,
        live: LiveRecord,
        settings: LogSettings,
        *,
        name: str | None,
        dataset: Any,
        sources: Sequence[GallerySource],
    ) -> None:
        self._live, self._settings, self._prefix = live, settings, tag_prefix(name)
        self._sources = sources
        self._was_flagged: Array | None = None
        self._draws, self._has_audit = True, False  # whether no picture has failed, and an audit is drawn
        self.similar: SimilarSamples | None = None
        self._newest: SimilarSamples | None = None
        last_number = last_epoch(trainer)
        if last_number is not None:  # a second fit counts on
            last_number += live.epoch(trainer.current_epoch) - trainer.current_epoch
        self.schedule = Schedule(1, settings.max_overhead, last_number)
        self._noise = NoiseCurve(history=live.history)
        writer = tensorboard_writer(trainer)
        if writer is not None:
            write_layout(writer, chart_layouts(trainer))
        self._audit: AuditWatch | None = None
        self._normalisation = find_normalisation(pl_module, getattr(trainer, "datamodule", None), dataset)
        self._projector = self._new_projector(writer)
        self.pictures = self._new_pictures(trainer, feature_names(dataset), pl_module.device)

    def _new_projector(self, writer: Any) -> Projector | None:
        period = self._settings.projector_every_n_epochs
        return None if period is None else Projector(
            writer, f"{self._prefix}/projector", every_n_epochs=period, class_names=self._live.class_names,
            normalisation=self._normalisation,
        )  # fmt: skip

    def _new_pictures(self, trainer: Any, columns: Sequence[str] | None, device: torch.device) -> DynamicsPictures:
        assert self._live.folder is not None
        decoders = (self._settings.decode, *(source.decode for source in self._sources))
        return DynamicsPictures(
            sink_of(trainer, self._live.folder.path), self._prefix, top_k=self._settings.top_k,
            class_names=self._live.class_names, normalisation=self._normalisation,
            decode=next((decode for decode in decoders if decode is not None), None), columns=columns,
            schedule=self.schedule, device=device,
        )  # fmt: skip

    def restore(self) -> None:
        """Continue with a record: follow its worst samples, and read what its history says about them and the noise."""
        if not self._live.epochs:
            return
        statistics, presentations = self._live.record().statistics, dict(self._live.kept_history().readable())
        self.pictures.restore(statistics, presentations.items())
        for epoch in self._live.epochs:
            self._noise.note(presentations.get(epoch), statistics)

    def begin_epoch(self, trainer: Any, epoch: int, features: FeatureRows | None = None) -> None:
        """Choose the samples of the projector. If this may be the last epoch, draw an audit and prototypes, too."""
        self.schedule.begin_epoch()
        if self._live.dynamics is None:
            return
        statistics = self._live.dynamics.compute()
        self.pictures.may_be_last_epoch = may_be_last_epoch(trainer)
        if self.pictures.may_be_last_epoch:
            if features is not None and self._settings.prototypes:
                self._unless_off(lambda: self._follow_examples(features, statistics))
            with self._or_switched_off():
                self._draw_audit(statistics)
        if self._projector is not None:
            self._unless_off(functools.partial(self._projector.begin_epoch, epoch, statistics))

    def _follow_examples(self, features: FeatureRows, statistics: SampleStatistics) -> None:
        """Follow each class's prototypes, criticisms, easiest and hardest samples. Several labels have none."""
        if features.values.shape[1] and statistics.unit is None and (statistics.presentations > 0).any():
            rows = features.values[: len(statistics)]
            examples = class_examples(rows, statistics, self._settings.prototypes, max_classes=_MOST_CLASSES)
            self.pictures.follow_examples(examples, statistics)

    def _draw_audit(self, statistics: SampleStatistics) -> None:
        """Draw an audit, once, also if pictures are off: the record keeps it."""
        if self._settings.audit is None or self._has_audit:
            return
        self._has_audit = True
        rows = self._live.draw_audit(self._settings.audit)
        self._has_audit = bool(rows)
        if self._draws:
            self.pictures.follow_audited(rows, statistics)
        if rows and not keeps_all_given(statistics):
            self._audit = AuditWatch(rows, self._normalisation)

    @property
    def copies(self) -> bool:
        """Whether ``see`` must be called with the next batch."""
        return self._draws and (self._projector is not None or self.pictures.copies)

    def see(self, rows: Tensor | None, inputs: Tensor | None) -> None:
        """Copy the inputs of suspects and of the projector's samples from a batch."""
        self._unless_off(lambda: self._see(rows, inputs))

    def _see(self, rows: Tensor | None, inputs: Tensor | None) -> None:
        self.pictures.see(rows, inputs)
        for watch in (self._projector, self._audit):
            if watch is not None and rows is not None:
                watch.see(rows, inputs)

    def note(self, rows: Tensor, units: UnitPresentation | None) -> None:
        """Keep the targets of an audit's samples, and which pixels of suspects' masks a step contradicts."""
        if units is not None:
            self._unless_off(lambda: self._note(rows, units))

    def _note(self, rows: Tensor, units: UnitPresentation) -> None:
        if units.marks is not None:
            self.pictures.watch.mark(rows, units.marks)
        if self._audit is not None:
            self._audit.note(rows, units)

    def end_epoch(
        self, record: EpochRecord, features: FeatureRows | None, log_to: Any, *, also: Mapping[str, float]
    ) -> None:
        """Log scalars and pictures, and follow the samples that are worst now and those that look like them.

        Args:
            record: Presentations of the epoch. The record holds them already.
            features: Newest features of the samples; None if there are none.
            log_to: The Trainer; None if the epoch is not logged.
            also: Further scalars, by name.
        """
        statistics = self._live.record().statistics
        self._noise.note(record.presentations(), statistics)
        self._unless_off(lambda: self._take(record, features, statistics))
        if log_to is not None:
            self._write(log_to, record, features, also)

    def _take(self, record: EpochRecord, features: FeatureRows | None, statistics: SampleStatistics) -> None:
        if self._audit is not None:
            self._audit.take()
        # Their pictures pass in the epoch after: what is shown was found in the one before.
        newest = _similar(features, statistics, self._settings)
        self.similar, self._newest = self._newest or newest, newest
        self.pictures.end_epoch(self._live.epochs[-1], statistics, record, similar=(self.similar, self._newest))

    def _write(
        self, trainer: Any, record: EpochRecord, features: FeatureRows | None, also: Mapping[str, float]
    ) -> None:
        epoch, statistics, ids = self._live.epochs[-1], self._live.record().statistics, self._live.sample_ids
        step, summary = log_step(trainer, self._settings.x_axis), epoch_summary(statistics, record) | dict(also)
        rate = self._noise.rate(statistics, epoch + 1)
        estimate = None
        if rate is not None:
            probabilities = wrong_probabilities(statistics, rate.value)
            is_flagged = flagged(probabilities, PRECISION)
            words = functools.partial(in_words, epoch, is_flagged[statistics.presentations > 0], rate)
            estimate = Estimate(probabilities, is_flagged, words)
            summary |= {"noise_rate": rate.value, "suspects": int(is_flagged.sum())} | self._overlap(is_flagged)
        log_scalars(trainer, {f"{self._prefix}/dynamics/{key}": value for key, value in summary.items()}, step)
        write = functools.partial(
            self.pictures.write, statistics, epoch, step, ids, self._contrasts(trainer, statistics, ids),
            names=self._live.names, estimate=estimate,
        )  # fmt: skip
        self._unless_off(lambda: self._live.attempt("pictures", write))
        if self._projector is not None and features is not None and self._projector.is_due(epoch):
            self._unless_off(functools.partial(self._projector.write, features, statistics, step, ids))

    def end_fit(self) -> None:
        """Write the files at the end of a fit, and the pictures of the last epoch unless they are drawn already."""
        sentences = None
        if self._live.dynamics is not None and self._draws:
            with self._or_switched_off():
                sentences = self.pictures.sentences(self._live.record().statistics)
        pictures = self.pictures.watch.pictures if self._draws else {}
        audited = {} if self._audit is None or not self._draws else self._audit.samples
        self._live.end_files(pictures, self.similar, sentences=sentences, audited=audited)
        for draw in (self.pictures.finish, self._draw_examples):
            self._unless_off(functools.partial(self._live.attempt, "pictures", draw))

    def _draw_examples(self) -> None:
        """Draw the sheet of prototypes, and keep it for the report."""
        assert self._live.folder is not None
        png = self.pictures.draw_examples(self._live.sample_ids)
        if png is not None:
            write_sheet(self._live.folder.path, "prototypes", png)

    def _overlap(self, is_flagged: Array) -> dict[str, float]:
        """Return the overlap of the samples flagged now and before; nothing the first time."""
        was_flagged, self._was_flagged = self._was_flagged, is_flagged
        if was_flagged is None:
            return {}
        num_new = len(is_flagged) - len(was_flagged)  # ids that were not seen before
        return {"suspects_overlap": overlap(is_flagged, np.append(was_flagged, np.zeros(num_new, bool)))}

    def _contrasts(self, trainer: Any, statistics: SampleStatistics, ids: Array | None) -> dict[str, Array]:
        """Ask the sources for maps that say why the gallery's suspects may belong to another class."""
        if not has_classes(statistics):
            return {}
        classes = {
            int(i) if ids is None else ids[i].item(): (int(statistics.candidate[i]), int(statistics.label[i]))
            for i in worst_samples(statistics, self._settings.top_k)
            if statistics.candidate[i] >= 0
        }
        for source in self._sources if self._draws else ():
            maps = source.contrasts(trainer.lightning_module, classes)
            if maps:
                return {str(sample): relevance for sample, relevance in maps.items()}
        return {}

    def _unless_off(self, draw: Callable[[], None]) -> None:
        """Call a function that draws or copies what is drawn, if no picture has failed yet."""
        if self._draws:
            with self._or_switched_off():
                draw()

    def _or_switched_off(self) -> AbstractContextManager[None]:
        """Switch pictures off if one fails. The record does not need them, so the training goes on."""
        return switched_off_on_error("Pictures of the record", functools.partial(setattr, self, "_draws", False))


def _similar(
    features: FeatureRows | None, statistics: SampleStatistics, settings: LogSettings
) -> SimilarSamples | None:
    """Return samples that look like the followed suspects; None if not asked for, or if samples have several labels."""
    if not settings.similar or features is None or not features.values.shape[1] or statistics.unit is not None:
        return None
    return similar_to_suspects(
        features.values[: len(statistics)], statistics, FOLLOWED * settings.top_k, settings.similar
    )
