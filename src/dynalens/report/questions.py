"""The question that the page of an audit asks about each sample, and the opinion of the run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dynalens.auditing import given_to, keeps_all_given, label_list
from dynalens.dynamics import Array, SampleStatistics
from dynalens.notices import warn
from dynalens.pictures import AREAS, IGNORED_AREA, beside_areas, class_name
from dynalens.record import Record, read_audited, read_sentences
from dynalens.report.samples import SamplePictures, data_uri
from dynalens.suspicion import is_dense, named_targets, target_words, unit_words
from dynalens.text import escaped, escaped_all, number_in_words

_SIDE = 512  # longest side of a picture in pixels; one is shown at a time


class Question(NamedTuple):
    """The words of an audit's page.

    Attributes:
        heading: The question about all samples.
        beginning: Words before the given label of a sample.
        end: Words after it.
        defect: Words for what is wrong if the answer is no.
        rate: Words for the estimated rate.
    """

    heading: str
    beginning: str
    end: str
    defect: str
    rate: str


_LABEL = Question(
    "Is the label of each sample right?", "Is the label ", " right?", "the label is wrong", "wrong labels"
)
_LABELS = Question(
    "Are all labels of each sample right, and is none missing?",
    "Are these all the labels that it should have: ",
    "?",
    "a label is wrong",
    "samples with a wrong label",
)
_NUMBER = Question(
    "Is the number of each sample right?", "Is the number ", " right?", "the number is wrong", "wrong numbers"
)
_NUMBERS = Question(
    "Are all numbers of each sample right?",
    "Are all of these numbers right: ",
    "?",
    "a number is wrong",
    "samples with a wrong number",
)
_TOKENS = Question(
    "Are the labels of all tokens of each sample right?",
    "Are all labels in this sequence right?",
    "",
    "a label is wrong",
    "samples with a wrong label",
)
_PIXELS = Question(
    "Is the mask of each sample right?",
    "Is the mask, on the right-hand side, right?",
    "",
    "the mask is wrong",
    "wrong masks",
)


def question(statistics: SampleStatistics) -> Question:
    """Return the question that an audit of this record asks about each sample."""
    if statistics.unit is None:
        return _LABEL
    if statistics.target is not None:
        return _NUMBER if keeps_all_given(statistics) else _NUMBERS
    if not is_dense(statistics):
        return _LABELS
    return _TOKENS if statistics.unit_columns is None else _PIXELS


def items_to_ask(record: Record, dataset: Any, samples: Array) -> tuple[Any, Array]:
    """Return the items of the samples, and which samples the page can ask about, shape ``(n,)``, bool.

    The items come from the dataset. Without one, they are the items that the run kept of an audit's samples, if the
    record does not hold all of their labels.

    Args:
        record: The record.
        dataset: The training dataset, or None.
        samples: Rows of the record, shape ``(n,)``.

    Raises:
        ValueError: If nothing says what was given to any of them.
    """
    if dataset is not None or keeps_all_given(record.statistics):
        return dataset, np.ones(len(samples), np.bool_)
    audit_samples = read_audited(record.folder, record.meta.num_samples)
    is_kept = np.isin(samples, list(audit_samples))
    if not is_kept.any():
        origin = "those of other samples" if audit_samples else "none"
        raise ValueError(
            f"Expected all labels of the samples of the audit, got {origin}: this record keeps one label of each "
            "sample only. Train with `TrainingDynamicsMonitor(audit=100)`, which keeps all labels of the samples "
            "that it draws, or pass `dataset=`, or `--data MODULE:CALLABLE`."
        )
    if not is_kept.all():
        warn(
            f"Expected all labels of the {len(samples)} samples of the audit, got those of {int(is_kept.sum())} "
            "samples. The others were in no batch after the run had drawn them. The page asks about the "
            f"{int(is_kept.sum())} samples. To ask about all, pass `dataset=`, or `--data MODULE:CALLABLE`."
        )
    from dynalens.report.item_labels import kept_items  # torch

    return kept_items(audit_samples), is_kept


class QuestionCards:
    """Shows the given labels of samples that a person is asked about.

    Args:
        record: The record.
        items: Items of the samples, by their rows, as the dataset has them; or None.
        pictures: Pictures of the samples.
        are_of_dataset: Whether the items come from a dataset, so that answers can later be compared with it.
    """

    def __init__(self, record: Record, items: Any, pictures: SamplePictures, *, are_of_dataset: bool = False) -> None:
        self._record, self._items, self._pictures = record, items, pictures
        self._are_of_dataset = are_of_dataset and not keeps_all_given(record.statistics)
        self._names = record.meta.class_names
        self._word = read_sentences(record.folder, record.meta.num_samples).word
        self._sample_names = escaped_all(record.names())

    def cards(self, rows: Array) -> list[dict[str, Any]]:
        """Return what the page shows of these samples: their inputs and their given labels."""
        statistics = self._record.statistics
        given_labels = given_to(statistics)
        labels = given_labels.codes[rows].tolist() if given_labels.texts is None else given_labels.texts(rows)
        labels = self._checksums(rows) if self._are_of_dataset else labels
        cards = []
        for row, label in zip(rows.tolist(), labels, strict=True):
            parts = self._input(row) if keeps_all_given(statistics) else self._parts_of_item(row)
            if statistics.unit_given is not None:
                parts["given"] = label_list(statistics.unit_given[row], self._names)
            elif statistics.target is not None and keeps_all_given(statistics):
                parts["given"] = number_in_words(statistics.target[row])
            parts["file"] = self._sample_names[row] if self._sample_names else self._pictures.file_name(row)
            given_entry = {} if keeps_all_given(statistics) else {"given": ""}  # a checksum is not
            cards.append({"label": label} | given_entry | {key: part for key, part in parts.items() if part})
        return cards

    def _checksums(self, rows: Array) -> list[str]:
        """Return a checksum of the labels of each item; empty texts if reading them twice gives different labels."""
        from dynalens.unit_labels import checksum_of, labels_of  # torch

        checksums, repeated_checksums = (
            [checksum_of(labels_of(self._items[row])) for row in rows.tolist()] for _ in range(2)
        )
        return checksums if checksums == repeated_checksums else [""] * len(rows)

    def _input(self, row: int) -> dict[str, Any]:
        return {"picture": self._pictures.thumbnail(row, _SIDE), "text": self._pictures.text(row)}

    def _parts_of_item(self, row: int) -> dict[str, Any]:
        """Return the labels in the item of a sample, if the record does not hold them."""
        from dynalens.report.item_labels import areas_of, number_words, several_labels_of, tagged_words  # torch

        statistics, item = self._record.statistics, self._items[row]
        if statistics.target is not None:
            return {"given": number_words(item, self._names), **self._input(row)}
        if not is_dense(statistics):
            return {"given": label_list(several_labels_of(item), self._names), **self._input(row)}
        if statistics.unit_columns is None:
            return {"tokens": tagged_words(item, self._names, self._word)}
        image, areas = self._pictures.image(row), areas_of(item, len(self._names) if self._names else None)
        if image is None:
            return {}
        colours = [AREAS[place % len(AREAS)] if label >= 0 else IGNORED_AREA for place, label in enumerate(areas)]
        names = [class_name(label, self._names) or "ignored" for label in areas]
        pair = beside_areas(image, zip(areas.values(), colours, strict=True), _SIDE)
        legend = [[f"rgb{colour}", name] for colour, name in zip(colours, names, strict=True)]
        return {"picture": data_uri(pair, 2 * _SIDE), "legend": legend}


def opinions(record: Record, rows: Sequence[int], suggestions: "pd.Series[int]") -> list[str]:
    """Return the run's opinion about these samples in words: the class or the number that it would give.

    Args:
        record: The record.
        rows: Rows of the samples.
        suggestions: Class that is suggested for each of them; missing if there is none.
    """
    statistics, names = record.statistics, record.meta.class_names
    if statistics.target is not None:
        return [f"the run predicts {escaped(words)}" for words in target_words(statistics, rows, names)[1]]
    if statistics.unit is None:
        classes = [-1 if pd.isna(label) else int(label) for label in suggestions]
        return [f"the run suggests {class_name(k, names) or 'no other class'}" for k in classes]
    labels, suggestions_of_units, unit_names = named_targets(statistics, names)
    places = [f"{words}, " if words else "" for words in unit_words(statistics, rows)]
    return [
        f"the run is least sure of {place}{class_name(int(labels[row]), unit_names)}, suggests "
        f"{class_name(int(suggestions_of_units[row]), unit_names) or 'nothing else'} there"
        for row, place in zip(rows, places, strict=True)
    ]
