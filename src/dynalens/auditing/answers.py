"""What a person said about the labels of some samples: read, and checked against the record."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dynalens.cells import sources_in, text_cells
from dynalens.dynamics import Array
from dynalens.keys import ANSWERS
from dynalens.text import is_same_label, labels_in, plain, printable, whole

COLUMNS = ("sample_id", "label", "answer", "new_label", "probability", "name")
"""Of ``answers.csv``: what a page writes and :func:`dynalens.audit` reads."""

AnswersSource = str | Path | pd.DataFrame
_LISTED, _LETTERS = 5, 80


@dataclass(frozen=True)
class Answers:
    """Answers about M samples of a record.

    Attributes:
        rows: Shape ``(M,)``, int64: rows of the samples in the record.
        right: Shape ``(M,)``, bool.
        wrong: Shape ``(M,)``, bool; neither where the person could not tell.
        new_label: Shape ``(M,)``, int64: the right class of a wrong one, -1 where it was not named.
        probability: Shape ``(M,)``, that a sample is drawn, as a plan said; NaN where the answers do not hold it.
        new_labels: By the row of a sample with several labels, the numbers of all right ones where they were named.
    """

    rows: Array
    right: Array
    wrong: Array
    new_label: Array
    probability: Array
    new_labels: Mapping[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


def read_answers(
    source: AnswersSource | Sequence[AnswersSource],
    *,
    sample_ids: Sequence[object],
    labels: Array,
    class_names: Sequence[str] | None = None,
    sample_names: Sequence[str] | None = None,
    texts: Callable[[Array], list[str]] | None = None,
) -> Answers:
    """Return the answers of one or several files or tables; nothing is returned if one row is in error.

    Args:
        source: A CSV file, or a table, with the columns ``sample_id`` and ``answer``: "right", "wrong" or "unsure". A
            row without an answer is left out. Optional: ``label`` and ``name``, which are compared with those of the
            record, and ``new_label``, the class of a wrong one. Classes are numbers or names; a number is never taken
            for a name. Several tables are taken together.
        sample_ids: Id of each of the N samples.
        labels: Shape ``(N,)``, label of each sample; -1 for one that was never seen.
        class_names: Name of each class.
        sample_names: Name of each sample, with special letters escaped.
        texts: Where samples do not have one class each, says what was given to some of them, by their rows. ``label``
            is compared with it. ``new_label`` may then hold the numbers of all right labels.

    Raises:
        ValueError: If a row is not an answer about a sample of this record.

    Example:
        >>> table = pd.DataFrame({"sample_id": [7, 5], "answer": ["wrong", "right"], "new_label": [2, None]})
        >>> answers = read_answers(table, sample_ids=[5, 6, 7], labels=np.array([0, 0, 1]))
        >>> answers.rows.tolist(), answers.wrong.tolist(), answers.new_label.tolist()
        ([2, 0], [True, False], [2, -1])
    """
    tables = [_cells(item) for item in sources_in(source)] or [pd.DataFrame(columns=list(COLUMNS))]
    table = pd.concat(tables, ignore_index=True)
    table = table[table["answer"] != ""].reset_index(drop=True)
    _check_words(table)
    rows = _rows(table["sample_id"].tolist(), [str(item) for item in sample_ids])
    if sample_names is not None:
        _check_names(table, [sample_names[row] for row in rows])
    answer = table["answer"].to_numpy()
    return Answers(
        rows=rows,
        right=answer == "right",
        wrong=answer == "wrong",
        new_label=_checked_texts(table, texts(rows)) if texts else _checked_classes(table, labels[rows], class_names),
        probability=pd.to_numeric(table["probability"], errors="coerce").to_numpy(np.float64),
        new_labels=_right_labels(table, rows) if texts else {},
    )


def _cells(source: AnswersSource) -> pd.DataFrame:
    """Return the columns as text, "" where there is none."""
    is_table = isinstance(source, pd.DataFrame)
    if isinstance(source, pd.DataFrame) and "sample_id" not in source:
        source = source.reset_index()
    table = text_cells(source, "answers", "the file that the page of `dynalens audit` exports")
    if not {"sample_id", "answer"} <= set(table):
        raise ValueError(
            f"Expected `answers` to have the columns sample_id and answer, got {_excerpt(str(list(table)))} in "
            f"{'the table' if is_table else source}. Add a column answer with {ANSWERS[0]!r}, {ANSWERS[1]!r} or "
            f"{ANSWERS[2]!r} to the table of `dynalens.audit_plan`, or take the file that the page of `dynalens audit` "
            "exports."
        )
    columns = {name: table[name].tolist() if name in table else [""] * len(table) for name in COLUMNS}
    words = [name for name in COLUMNS if name not in ("sample_id", "name")]  # those hold any letter
    columns |= {name: [cell.strip() for cell in columns[name]] for name in words}
    return pd.DataFrame(columns | {"answer": [cell.lower() for cell in columns["answer"]]})


def _check_words(table: pd.DataFrame) -> None:
    invalid_rows = table[~table["answer"].isin(ANSWERS)]
    if len(invalid_rows):
        row = invalid_rows.iloc[0]
        raise ValueError(
            f"Expected `answer` to be one of {', '.join(ANSWERS)}, got {_excerpt(row['answer'])!r} for "
            f"{samples_in_words([row['sample_id']])}. Leave out samples that were not answered."
        )


def _rows(samples: Sequence[str], sample_ids: Sequence[str]) -> Array:
    places = {sample: row for row, sample in enumerate(sample_ids)}
    rows = [places.get(sample, -1) for sample in samples]
    if min(rows, default=0) < 0:  # as cells of a file or letters of a terminal show them
        shown_ids = [printable(sample).strip() for sample in sample_ids]
        times_shown = Counter(shown_ids)
        places_shown = {sample: row for row, sample in enumerate(shown_ids) if times_shown[sample] == 1}
        cells = [printable(plain(sample)).strip() for sample in samples]
        rows = [
            places_shown.get(cell, places_shown.get(whole(cell), -1)) if row < 0 else row
            for row, cell in zip(rows, cells, strict=True)
        ]
    unknown_samples = [sample for sample, row in zip(samples, rows, strict=True) if row < 0]
    if unknown_samples:
        raise ValueError(
            f"Expected `answers` to name samples of this record, got {samples_in_words(unknown_samples)}, which it "
            "does not have. Pass the record that the plan was drawn from. Correct ids that a spreadsheet has changed."
        )
    repeated_samples = [sample_ids[row] for row, times in Counter(rows).items() if times > 1]
    if repeated_samples:
        raise ValueError(
            f"Expected one answer for each sample, got several for {samples_in_words(repeated_samples)}. Leave one "
            "row for each."
        )
    return np.array(rows, dtype=np.int64)


def _check_names(table: pd.DataFrame, sample_names: Sequence[str]) -> None:
    """Refuse answers about samples that had other names: if a file was moved, others stand at its position."""
    renamed_samples = [
        f"{sample} ({name}, not {cell})"
        for sample, cell, name in zip(table["sample_id"], table["name"], sample_names, strict=True)
        if cell and name not in (cell, plain(cell))
    ]
    if renamed_samples:
        raise ValueError(
            f"Expected `answers` about the samples of this record, got others for {samples_in_words(renamed_samples)}. "
            "Pass the record that the plan was drawn from."
        )


def samples_in_words(samples: Sequence[object]) -> str:
    """Return the first few in words."""
    names = ", ".join(_excerpt(str(sample)) or "''" for sample in samples[:_LISTED])
    rest = f" and {len(samples) - _LISTED} more" if len(samples) > _LISTED else ""
    return f"sample{'s' if len(samples) > 1 else ''} {names}{rest}"


def _excerpt(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..."


def _checked_classes(table: pd.DataFrame, labels: Array, class_names: Sequence[str] | None) -> Array:
    """Return the right classes of the wrong labels, after a look at the labels that the table names."""
    names = {name: number for number, name in enumerate(class_names or ())}
    _check_labels(table, _classes(table, "label", names), labels.tolist())
    return _new_labels(table, names, labels, len(class_names) if class_names else None)


def _checked_texts(table: pd.DataFrame, given_texts: Sequence[str]) -> Array:
    """Return no right class for any answer, after a look at what the table says that the samples were given."""
    cells = [plain(cell) if text else "" for cell, text in zip(table["label"], given_texts, strict=True)]
    differing_cells = [
        None if is_same_label(cell, text) else cell for cell, text in zip(cells, given_texts, strict=True)
    ]
    _check_labels(table, [cell or None for cell in differing_cells], given_texts)
    for sample, answer, new_label, text in zip(
        table["sample_id"], table["answer"], table["new_label"], given_texts, strict=True
    ):
        if new_label and not (answer == "wrong" and _are_other_labels(new_label, text)):
            raise ValueError(
                f"Expected `new_label` to be empty, or the numbers of all right labels for an answer 'wrong', got "
                f"{_excerpt(new_label)!r} for sample {sample} with the labels {text or '(not kept)'} and the answer "
                f"{answer!r}. Correct the row."
            )
    return np.full(len(table), -1, dtype=np.int64)


def _right_labels(table: pd.DataFrame, rows: Array) -> dict[int, list[int]]:
    numbers = zip(rows.tolist(), [labels_in(whole(cell)) for cell in table["new_label"]], strict=True)
    return {row: labels for row, labels in numbers if labels is not None}


def _are_other_labels(new_label: str, given_text: str) -> bool:
    """Return whether both say which of several labels a sample has, and not the same ones."""
    numbers = labels_in(whole(new_label)), labels_in(given_text)
    return None not in numbers and numbers[0] != numbers[1]


def _classes(table: pd.DataFrame, column: str, names: Mapping[str, int]) -> list[int | None]:
    return [_class(cell, sample, column, names) for cell, sample in zip(table[column], table["sample_id"], strict=True)]


def _class(cell: str, sample: str, column: str, names: Mapping[str, int]) -> int | None:
    if cell == "":
        return None
    number = cell if cell in names else whole(cell)
    if number.isascii() and number.isdigit():  # before names, which may be numbers of another order: folders 1, 10, 2
        return int(number)
    if cell in names:
        return names[cell]
    class_options = f"one of {', '.join(names)}, or its number" if names else "the number of a class"
    raise ValueError(
        f"Expected `{column}` to be {class_options}, got {cell!r} for sample {sample}. Write a class that exists."
    )


def _check_labels(table: pd.DataFrame, table_labels: Sequence[object], labels: Sequence[object]) -> None:
    differing_labels = [
        f"{sample} (label {label}, not {table_label})"
        for sample, table_label, label in zip(table["sample_id"], table_labels, labels, strict=True)
        if table_label is not None and table_label != label
    ]
    if differing_labels:
        raise ValueError(
            f"Expected `answers` about the labels of this record, got others for {samples_in_words(differing_labels)}. "
            "Pass the record that the plan was drawn from. If you have corrected labels since then, train again to "
            "record these."
        )


def _new_labels(table: pd.DataFrame, names: Mapping[str, int], labels: Array, classes: int | None) -> Array:
    new_classes = _classes(table, "new_label", names)
    for sample, answer, label, new_class in zip(
        table["sample_id"], table["answer"], labels.tolist(), new_classes, strict=True
    ):
        if new_class is None:
            continue
        if answer != "wrong" or new_class == label:
            raise ValueError(
                f"Expected `new_label` to be another class for an answer 'wrong', got {new_class} for sample {sample} "
                f"with the label {label} and the answer {answer!r}. Correct the row."
            )
        if classes is not None and new_class >= classes:
            raise ValueError(
                f"Expected `new_label` to be a class in [0, {classes}), got {new_class} for sample {sample}. Write a "
                "class that exists."
            )
    return np.array([-1 if new_class is None else new_class for new_class in new_classes], dtype=np.int64)
