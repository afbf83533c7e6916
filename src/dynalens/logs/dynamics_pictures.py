"""Draw a record: charts and the gallery of suspects."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynalens.dynamics import Array, EpochRecord, SampleStatistics
from dynalens.embeddings import SimilarSamples
from dynalens.host import announce
from dynalens.pictures import (
    Decode,
    Normalisation,
    PicturePace,
    Relative,
    Sentences,
    Suspect,
    SuspectWatch,
    class_name,
    class_pairs,
    data_map,
    doubted_labels,
    first_learned,
    forgetting_events,
    margins,
    png_bytes,
    relatives_sheet,
    small_map,
    suspects_gallery,
    suspects_table,
    training_data_analysis,
)
from dynalens.record import KeptSentences
from dynalens.schedule import Schedule
from dynalens.suspicion import (
    has_classes,
    named_targets,
    target_words,
    token_of,
    unit_words,
    words_of,
    worst_samples,
)
from dynalens.tensorboard import Sink
from dynalens.text import escaped

CHARTS: dict[str, Callable[[SampleStatistics, str], Image.Image]] = {
    "data_map": data_map,
    "training_data_analysis": training_data_analysis,
    "forgetting_events": forgetting_events,
    "margins": margins,
    "first_learned": first_learned,
}
_HISTOGRAMS = ("margin", "confidence", "forgetting_events")
# The order changes from epoch to epoch; more than are shown are followed, so that nearly all have a picture when they
# rise: of 20 on CIFAR and MNIST 15 in the second epoch, 19 in the third, all later.
FOLLOWED = 5
# Batches of each epoch that are asked for inputs until one has some: it is the first for which the steps before it,
# whose calls are watched, have told where inputs stand.
_WATCHED_STEPS = 4


@dataclass(frozen=True)
class Estimate:
    """What follows from the noise rate of an epoch.

    Attributes:
        probabilities: Shape ``(N,)``, the probability that each label is wrong; NaN for samples that were never seen.
        is_flagged: Shape ``(N,)``, which samples are flagged.
        words: Returns flagged samples, noise rate and reasons to doubt them, in Markdown, once they are written: a
            fault in a text ends no training.
    """

    probabilities: Array
    is_flagged: Array
    words: Callable[[], str]


class DynamicsPictures:
    """Draws a record and writes the pictures.

    Args:
        sink: Where they go.
        prefix: What tags begin with.
        top_k: Suspects in the gallery.
        class_names: Name of each class, or None.
        normalisation: Of the inputs, or None.
        decode: From the id of a token to its word, or None.
        columns: Names of the columns of a table, or None.
        schedule: When there is time to draw; default: always.
        device: Device of batches that hold their own indices.

    Attributes:
        watch: Follows the samples that are drawn, or that the report shows.
        may_be_last_epoch: Rows of numbers are copied in the last epoch alone: copies take time, and a person who looks
            at the pages then reads them.
    """

    def __init__(
        self,
        sink: Sink,
        prefix: str,
        *,
        top_k: int,
        class_names: Sequence[str] | None,
        normalisation: Normalisation | None,
        decode: Decode | None = None,
        columns: Sequence[str] | None = None,
        schedule: Schedule | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._sink, self._prefix, self._top_k = sink, prefix, top_k
        self._names, self._decode = class_names, decode
        self.watch, self._device = SuspectWatch(normalisation, columns), device
        self.may_be_last_epoch = False
        self._has_inputs = self._are_pictures = self._are_numbers = False
        self._steps_left = _WATCHED_STEPS
        self._audit_rows: Sequence[int] = ()
        self._pace, self._schedule = PicturePace(), schedule or Schedule(1, None)
        self._step, self._similar = 0, SimilarSamples(*(np.zeros((0, 0), np.int64),) * 3)
        self._alike: list[int] = []
        self._examples: dict[int, dict[str, list[int]]] = {}

    def sentences(self, statistics: SampleStatistics) -> KeptSentences:
        """Return the tokens or numbers of each followed sample that has passed."""
        tokens, texts = self.watch.sentences, self.watch.texts
        if self._decode is None:
            return KeptSentences(tokens, {}, texts)
        token_ids = {token for sentence in tokens.values() for token in sentence}
        if self._sentences(statistics, list(tokens)).shift is not None:  # classes are tokens
            classes = (statistics.label, statistics.candidate)
            token_ids |= {int(values[sample]) for values in classes for sample in tokens}
        return KeptSentences(tokens, {token: self._decode(token) for token in sorted(token_ids) if token >= 0}, texts)

    def restore(self, statistics: SampleStatistics, history: Iterable[tuple[int, Mapping[str, Array]]]) -> None:
        """Follow the worst samples of a record that is continued, and read what its history says about them."""
        self._follow(statistics)
        for epoch, presentations in history:
            self.watch.note(epoch, presentations)

    def follow_audited(self, rows: Sequence[int], statistics: SampleStatistics) -> None:
        """Keep pictures of an audit's samples, too, until the fit ends."""
        self._audit_rows = rows
        self._follow(statistics)

    def follow_examples(self, examples: dict[int, dict[str, list[int]]], statistics: SampleStatistics) -> None:
        """Keep pictures of the prototypes and other examples of each class, too, until the fit ends."""
        self._examples = examples
        self._follow(statistics)

    @property
    def copies(self) -> bool:
        """Whether the next batch is needed: it may have a followed sample, or show whether there are inputs to draw."""
        if not self._has_inputs:
            return self._steps_left > 0
        return self.watch.follows and (self.may_be_last_epoch or not self._are_numbers)

    def see(self, indices: Sequence[int] | Tensor | None, inputs: Tensor | None) -> None:
        """Copy the inputs of suspects from a batch.

        Args:
            indices: The row of the record of each sample; None if it is not known yet.
            inputs: Inputs of the batch; None if they are no images, signals, tokens or rows of numbers.
        """
        self._steps_left -= 1
        self._has_inputs |= inputs is not None
        self._are_pictures |= inputs is not None and inputs.ndim > 2  # no tokens or numbers
        self._are_numbers |= inputs is not None and inputs.ndim == 2 and inputs.is_floating_point()
        if indices is not None:
            self.watch.see(indices, inputs)

    def end_epoch(
        self,
        epoch: int,
        statistics: SampleStatistics,
        record: EpochRecord,
        *,
        similar: tuple[SimilarSamples | None, SimilarSamples | None] = (None, None),
    ) -> None:
        """Take the copies of this epoch, and follow the samples that are worst now and those that look like them.

        Args:
            epoch: Its number.
            statistics: The record.
            record: Its presentations.
            similar: What suspects look like: to be shown, whose pictures have passed, and to be followed.
        """
        self.watch.take()
        self._steps_left = _WATCHED_STEPS
        drawn_samples, further_samples = similar
        self._similar = drawn_samples or self._similar
        self._alike = [] if further_samples is None else further_samples.rows_shown()
        self._follow(statistics)
        self.watch.note(epoch, {"index": record.index, "p_label": record.p_label})

    def write(
        self,
        statistics: SampleStatistics,
        epoch: int,
        step: int,
        ids: Array | None = None,
        contrasts: Mapping[str, Array] | None = None,
        *,
        names: Sequence[str] | None = None,
        estimate: Estimate | None = None,
    ) -> None:
        """Write summary and histograms. Charts and suspects come less often if training is long or time is short.

        Args:
            statistics: The record.
            epoch: Its last epoch.
            step: Step of the logger.
            ids: Id of each sample; default: its position.
            contrasts: Maps of what speaks for the suggested class, by the sample's id as text.
            names: Of the samples.
            estimate: What follows from the noise rate; None where it is not estimated.
        """
        self._step, has_presentations = step, statistics.presentations > 0
        if estimate is not None:
            self._sink.text(f"{self._prefix}/summary", estimate.words(), step)
        for quantity in _HISTOGRAMS:
            values = getattr(statistics, quantity)[has_presentations]
            self._sink.histogram(f"{self._prefix}/dynamics/{quantity}", values, step)

        def draw() -> None:
            self._draw_charts(statistics, epoch, step, estimate)
            suspects = self._suspects(statistics, ids, contrasts or {}, names, estimate)
            self._draw_suspects(suspects, words_of(statistics), epoch, step)

        self._schedule.begin()
        if self._pace.offer(draw, in_budget=self._schedule.is_due(epoch)):
            results, callback = "charts and suspects' pictures", "TrainingDynamicsMonitor"
            words = self._schedule.first_words(results, callback, **self._schedule.end(epoch))
            if words is not None:
                announce(f"dynalens: {words}")

    def finish(self) -> None:
        """Draw the charts and suspects of the last epoch, unless they are drawn already."""
        self._pace.finish()

    def draw_examples(self, ids: Array | None) -> bytes | None:
        """Write the sheet of each class's prototypes, criticisms, easiest and hardest samples, and return it.

        It is None without any.
        """
        if not self._examples or not self.watch.pictures:
            return None

        def groups(kinds: Mapping[str, Sequence[int]]) -> dict[str, list[Relative]]:
            return {kind: [relative(row) for row in members] for kind, members in kinds.items()}

        def relative(row: int) -> Relative:
            return Relative(self.watch.pictures.get(row), f"#{row if ids is None else escaped(str(ids[row]))}")

        rows = [(f"class {class_name(label, self._names)}", groups(kinds)) for label, kinds in self._examples.items()]
        sheet = relatives_sheet(rows, "what stands for each class, and what these do not stand for")
        self._sink.image(f"{self._prefix}/prototypes", sheet, self._step)
        return png_bytes(sheet)

    def _draw_charts(self, statistics: SampleStatistics, epoch: int, step: int, estimate: Estimate | None) -> None:
        if estimate is not None and statistics.target is None:
            flagged = statistics.part(np.flatnonzero(estimate.is_flagged))
            chart = _pairs_chart(flagged, self._names, f"epoch {epoch} · {len(flagged):,} flagged")
            self._sink.chart(f"{self._prefix}/charts/class_pairs", chart, step)
        subtitle = f"epoch {epoch} · {int((statistics.presentations > 0).sum()):,} samples"
        for name, draw in CHARTS.items():
            tag = f"{self._prefix}/charts/{name}"
            self._sink.chart(tag, draw(statistics, subtitle), step)

    def _draw_suspects(self, suspects: Sequence[Suspect], words: tuple[str, str, str], epoch: int, step: int) -> None:
        if self.watch.pictures:
            title = f"epoch {epoch}: the {len(suspects)} worst suspects"
            gallery = suspects_gallery(suspects, title, words)
            self._sink.image(f"{self._prefix}/suspects", gallery, step)
        elif suspects and not self._are_pictures:
            self._sink.text(f"{self._prefix}/suspects/table", suspects_table(suspects, words), step)

    def _follow(self, statistics: SampleStatistics) -> None:
        worst = worst_samples(statistics, FOLLOWED * self._top_k)
        examples = [row for kinds in self._examples.values() for rows in kinds.values() for row in rows]
        rows = [*worst, *self._audit_rows, *self._alike, *self._similar.rows_shown(), *examples]
        self.watch.follow(list(dict.fromkeys(rows)), self._device)

    def _suspects(
        self,
        statistics: SampleStatistics,
        ids: Array | None,
        contrasts: Mapping[str, Array],
        names: Sequence[str] | None,
        estimate: Estimate | None,
    ) -> list[Suspect]:
        samples = worst_samples(statistics, self._top_k)
        rows_with_tokens = [sample for sample in samples if sample in self.watch.sentences]
        sentences = self._sentences(statistics, rows_with_tokens)
        texts = {sample: escaped(sentences.text(place)) for place, sample in enumerate(rows_with_tokens)}
        texts |= {sample: escaped(self.watch.texts[sample]) for sample in samples if sample in self.watch.texts}
        labels, suggestions = given_and_suggested(statistics, samples, self._names, sentences.name)
        return [
            Suspect(
                sample_id=escaped(str(sample if ids is None else ids[sample])),
                label=labels[place],
                suggestion=suggestions[place],
                wrong_probability=math.nan if estimate is None else float(estimate.probabilities[sample]),
                trace=self.watch.trace(sample),
                picture=self.watch.pictures.get(sample),
                contrast=self._contrast(sample, contrasts.get(str(sample if ids is None else ids[sample]))),
                name="" if names is None else escaped(names[sample]),
                similar=self._similar_pictures(sample),
                text=texts.get(sample),
            )
            for place, sample in enumerate(samples)
        ]

    def _contrast(self, sample: int, relevance: Array | None) -> Array | None:
        picture = self.watch.pictures.get(sample)
        return None if relevance is None or picture is None else small_map(relevance, picture)

    def _sentences(self, statistics: SampleStatistics, samples: Sequence[int]) -> Sentences:
        """Return suspects that are tokens and have passed, with the doubtful token in brackets."""
        return Sentences(
            [self.watch.sentences[sample] for sample in samples],
            [token_of(statistics, sample) for sample in samples],
            [int(statistics.label[sample]) if has_classes(statistics) else -1 for sample in samples],
            self._decode,
        )

    def _similar_pictures(self, sample: int) -> tuple[list[Array | None], list[Array | None]]:
        rows_of_label, suggestions = self._similar.similar_to(sample)
        pictures = self.watch.pictures
        return [pictures.get(row) for row in rows_of_label], [pictures.get(row) for row in suggestions]


def _pairs_chart(flagged: SampleStatistics, names: Sequence[str] | None, subtitle: str) -> Image.Image:
    """Return how often which class is given for which, or, of several labels, which label is missing or extra."""
    doubted = flagged.unit if flagged.unit_margins is not None else flagged.unit_label
    if doubted is None:
        return class_pairs(flagged.label, flagged.candidate, names, subtitle)
    return doubted_labels(doubted, flagged.label == 1, names, subtitle)


def given_and_suggested(
    statistics: SampleStatistics,
    samples: Sequence[int],
    names: Sequence[str] | None,
    name: Callable[[int, Sequence[str] | None], str] = class_name,
) -> tuple[list[str], list[str]]:
    """Return the given and the suggested label of some samples as text."""
    if statistics.target is not None:
        return target_words(statistics, samples, names)
    label_codes, suggestion_codes, targets = named_targets(statistics, names)
    labels, suggestions = (
        [name(int(codes[row]), targets) for row in samples] for codes in (label_codes, suggestion_codes)
    )
    units = unit_words(statistics, samples)
    return [f"{unit}: {label}".removeprefix(": ") for unit, label in zip(units, labels, strict=True)], suggestions
