"""What the page of an audit asks about each sample, and what the run thinks of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from dynalens.auditing import given_to, keeps_all_given, label_list
from dynalens.dynamics import Array, SampleStatistics
from dynalens.pictures import AREAS, beside_areas, class_name
from dynalens.record import Record, read_sentences
from dynalens.report.samples import SamplePictures, data_uri
from dynalens.suspicion import is_dense, named_targets, target_words, unit_words
from dynalens.text import escaped, escaped_all

_SIDE = 512  # longest side of a picture, in pixels: one is shown at a time


class Question(NamedTuple):
    """What is asked about each sample.

    Attributes:
        all: The question about all samples.
        before: Words before what was given to a sample.
        after: Words after it.
        wrong: What is the case if the answer is no.
        rate: What the estimated rate is one of.
    """

    all: str
    before: str
    after: str
    wrong: str
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
    """Return what an audit of this record asks about each sample."""
    if statistics.unit is None:
        return _LABEL
    if statistics.target is not None:
        return _NUMBER if keeps_all_given(statistics) else _NUMBERS
    if not is_dense(statistics):
        return _LABELS
    return _TOKENS if statistics.unit_columns is None else _PIXELS


def check_labels_are_known(record: Record, dataset: Any) -> None:
    """Raise a ValueError if the page could not show what was given to the samples."""
    if dataset is None and not keeps_all_given(record.statistics):
        raise ValueError(
            "Expected the dataset for an audit of this record, which keeps only one label of each sample, got none. "
            "Pass `dataset=`, or `--data MODULE:CALLABLE`: the page then shows all labels of each sample."
        )


class Asked:
    """Shows what was given to samples of a record, which a person is asked about.

    Args:
        record: The record.
        dataset: What was trained on, or None.
        pictures: Of the samples.
    """

    def __init__(self, record: Record, dataset: Any, pictures: SamplePictures) -> None:
        self._record, self._dataset, self._pictures = record, dataset, pictures
        self._names = record.meta.class_names
        self._word = read_sentences(record.folder, record.meta.num_samples).word
        self._sample_names = escaped_all(record.names())

    def cards(self, rows: Array) -> list[dict[str, Any]]:
        """Return what the page needs to ask about these rows: what was given, and what it was given to."""
        statistics = self._record.statistics
        given = given_to(statistics)
        labels = given.codes[rows].tolist() if given.texts is None else given.texts(rows)
        cards = []
        for row, label in zip(rows.tolist(), labels, strict=True):
            parts = self._input(row) if keeps_all_given(statistics) else self._of_dataset(row)
            if statistics.unit_given is not None:
                parts["given"] = label_list(statistics.unit_given[row], self._names)
            parts["file"] = self._sample_names[row] if self._sample_names else self._pictures.file_name(row)
            cards.append({"label": label} | {key: part for key, part in parts.items() if part})
        return cards

    def _input(self, row: int) -> dict[str, Any]:
        return {"picture": self._pictures.thumbnail(row, _SIDE), "text": self._pictures.text(row)}

    def _of_dataset(self, row: int) -> dict[str, Any]:
        """Return what the dataset says was given to a sample, where the record does not keep it."""
        from dynalens.report.given import areas_of, number_words, several_labels_of, tagged_words  # torch

        statistics, item = self._record.statistics, self._dataset[row]
        if statistics.target is not None:
            return {"given": number_words(item, self._names), **self._input(row)}
        if not is_dense(statistics):
            return {"given": label_list(several_labels_of(item), self._names), **self._input(row)}
        if statistics.unit_columns is None:
            return {"tokens": tagged_words(item, self._names, self._word)}
        image, areas = self._pictures.image(row), areas_of(item)
        if image is None:
            return {}
        legend = [
            [f"rgb{AREAS[place % len(AREAS)]}", class_name(label, self._names)] for place, label in enumerate(areas)
        ]
        return {"picture": data_uri(beside_areas(image, areas.values(), _SIDE), 2 * _SIDE), "legend": legend}


def opinions(record: Record, rows: Sequence[int], suggested: "pd.Series[int]") -> list[str]:
    """Return in words what the run thinks of these samples: the class or the number that it would give.

    Args:
        record: The record.
        rows: Of the samples.
        suggested: Class that is suggested for each of them, where each has one; missing: none.
    """
    statistics, names = record.statistics, record.meta.class_names
    if statistics.target is not None:
        return [f"the run predicts {escaped(words)}" for words in target_words(statistics, rows, names)[1]]
    if statistics.unit is None:
        classes = [-1 if pd.isna(each) else int(each) for each in suggested]
        return [f"the run suggests {class_name(k, names) or 'no other class'}" for k in classes]
    labels, others, of_units = named_targets(statistics, names)
    places = [f"{words}, " if words else "" for words in unit_words(statistics, rows)]
    return [
        f"the run is least sure of {place}{class_name(int(labels[row]), of_units)}, suggests "
        f"{class_name(int(others[row]), of_units) or 'nothing else'} there"
        for row, place in zip(rows, places, strict=True)
    ]
