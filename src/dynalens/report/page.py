"""The content of the report page, as JSON in a template."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynalens.arguments import check_positive
from dynalens.auditing import Audit
from dynalens.defaults import FEWEST_CARDS, MOST_CARDS
from dynalens.embeddings import SimilarSamples
from dynalens.notices import progress_notice
from dynalens.pictures import (
    accuracy_curve,
    class_name,
    data_map,
    forgetting_events,
    margins,
    png_bytes,
    training_data_analysis,
)
from dynalens.record import AuditAnswers, Record, audit_command, read_similar
from dynalens.record.folder import SHEETS
from dynalens.report.assembly import write_page
from dynalens.report.questions import question
from dynalens.report.samples import SamplePictures, sample_pictures
from dynalens.report.sentences import KeptTexts, kept_texts
from dynalens.report.traces import AccuracyCurve, Traces
from dynalens.suspicion import (
    corrections,
    has_classes,
    label_word,
    named_targets,
    target_words,
    token_of,
    unit_words,
    words_of,
)
from dynalens.suspicion.noise_rate import FROM_BOTH
from dynalens.text import escaped, escaped_all, labels_in, percent

_NOTE = (
    "The cards show the samples whose {label}s are probably wrong, the worst first. {flagged} are flagged: "
    "{expected} of them are expected to be wrong. "
)
_NONE = "No {label} is flagged. The cards show the most suspicious samples, the worst first: look at them. "
_PIXELS = "The network contradicts the coloured pixels: blue where the mask has no object, orange where it has one. "
_ALONE = "The rate and the probabilities come from the run alone. They can be far off on hard data."
_BOTH = "The rate and the probabilities come from the run and the embeddings. They can be far off on hard data."
_ASK = " Audit 100 samples for a 95 % confidence interval: {command}"
_AUDITED = "The rate and the probabilities are calibrated on {answers} answers. "
_ENOUGH = (
    "According to the answers, 90 % of the {wrong} are among the first {enough} samples of the order: you may stop "
    "looking after these."
)
_NO_WRONG = "None of them is wrong, so they do not say where you may stop looking."
_FEWER = " This page shows {cards}: dynalens report RUN --answers FILE --limit {enough} shows all of them."
_WHERE_FILES_ARE = "If they are named after picture files, write the page in the folder in which training ran. "
_SIDES = ((300, 256), (1000, 128), (MOST_CARDS, 72))
"""Longest side of a picture, in pixels, by number of cards. So a page has at most about ten megabytes."""
_LARGEST_SHEET = 8 * 2**20  # bytes; larger sheets are left out, so that the page stays below some ten megabytes
_SIMILAR_SIDE = 64  # side in pixels: three fit beside each other below the picture of a card


def write_report(
    record: Record,
    path: str | Path,
    *,
    dataset: Any = None,
    limit: int | None = None,
    answers: AuditAnswers | None = None,
    embeddings: Any = None,
) -> Path:
    """Write a page on which a person decides about the suspects: one HTML file that needs no network.

    The page begins with a summary of the run. The browser keeps the decisions, and downloads them as ``decisions.csv``,
    which :func:`dynalens.apply_decisions` takes. Names and labels are shown as text, whatever letters they have.

    Args:
        record: The result of :func:`~dynalens.load_record`, or ``monitor.record``.
        path: The file to write.
        dataset: The dataset that was trained on, whose pictures are shown. Default: the page shows the picture files
            that samples are named after, and the pictures that the callback kept during training.
        limit: How many suspects to show, from the most suspicious on. None: those that are flagged, but at least 100
            and at most 5,000.
        answers: Answers of an audit, see :func:`dynalens.audit`. Rate and probabilities are calibrated on them, and a
            curve shows how many of the n most suspicious labels are wrong.
        embeddings: See :meth:`Record.with_embeddings`. They count in the order, and each card shows the training
            samples of the given and of the suggested class that its sample looks like. Default: each card shows those
            that the callback found during training (``similar=``).

    Returns:
        The file.

    Raises:
        ValueError: If ``limit`` is not positive, the dataset has another length than the record, or the answers are not
            of a plan of this record.
    """
    check_positive(limit=limit)
    check_dataset(record, dataset)
    record = record if embeddings is None else record.with_embeddings(embeddings)
    accuracy, traces = AccuracyCurve(), Traces(record.meta)
    record.read_history(accuracy.see, traces.see)  # one pass through the history for all that is on the page
    audit = None if answers is None else record.audit(answers)
    table = record.table() if audit is None else audit.table()
    flagged_count = int(table["flagged"].sum())
    worst = record.suspects(limit or min(MOST_CARDS, max(flagged_count, FEWEST_CARDS)), answers=audit)
    texts = kept_texts(record)
    names, label_places, suggestion_places = _names_of_classes(record, table, worst, texts)
    similar = read_similar(record.folder, record.meta)
    if embeddings is not None and len(worst) and record.statistics.unit is None:
        from dynalens.similarity import similar_of  # torch, which pages without embeddings do without

        similar = similar_of(record, embeddings, worst.index)
    with progress_notice(f"reading the pictures of {len(worst):,} samples"):
        pictures = sample_pictures(record, dataset, texts)
        cards = _cards(record, worst, traces, pictures, similar)
    for card, label, suggestion in zip(cards, label_places, suggestion_places, strict=True):
        card |= {"label": label, "suggested": suggestion}
    _add_corrections(record, worst, cards)
    if audit is not None:
        _add_answers(record, worst, audit, cards)
    note = _note(record, table, len(cards), audit)
    content = _run_content(record, table, audit, accuracy) | {"note": note, "names": names, "cards": cards}
    content["missing"] = "" if dataset is not None else _missing_pictures(record, cards)
    title = "dynalens" if record.folder is None else f"dynalens: {run_name(record.folder)}"
    return write_page("report", title, path, content)


def _run_content(record: Record, table: pd.DataFrame, audit: Audit | None, accuracy: AccuracyCurve) -> dict[str, Any]:
    """Return what the page shows of the whole run."""
    epochs = record.meta.epochs
    return {
        "run": run_key(record),
        "several": record.statistics.unit is not None,
        "words": words_of(record.statistics),
        "summary": [*_summary(record, table, accuracy), _noise_rate(record, audit)],
        "doubts": record.doubts() if audit is None else audit.noise_rate.doubts,
        "found": [] if audit is None else audit.curve().round(2).to_numpy().tolist(),
        "charts": _charts(record, accuracy),
        "sheets": _sheets(record.folder),
        "epochs": [epochs[0], epochs[-1]] if epochs else [0, 0],
    }


def run_name(folder: Path) -> str:
    """Return the name of a run from the folder of its record, with the name of the monitor if it has one.

    Example:
        >>> run_name(Path("logs/version_3/dynalens")), run_name(Path("logs/version_3/dynalens/teacher"))
        ('version_3', 'version_3, teacher')
    """
    folder = folder.resolve()
    has_name = folder.parent.name == "dynalens"
    return f"{folder.parent.parent.name}, {folder.name}" if has_name else folder.parent.name


def check_dataset(record: Record, dataset: Any) -> None:
    """Raise a ValueError if the dataset cannot be the one that was recorded. None is accepted."""
    if dataset is not None and record.sample_ids is not None:
        raise ValueError(
            "Expected a record that knows samples by their position in the dataset, got one that knows them by ids, so "
            "their pictures cannot be found in the dataset. Leave the dataset out: the page then shows the pictures "
            "that were kept during training."
        )
    if dataset is not None and len(dataset) != record.meta.num_samples:
        raise ValueError(
            f"Expected the dataset of the record, {record.meta.num_samples} samples, got one of {len(dataset)}. "
            "Return the training dataset as the loader had it."
        )


def _summary(record: Record, table: pd.DataFrame, accuracy: AccuracyCurve) -> list[list[str]]:
    has_presentations = table["presentations"] > 0
    rows = [
        [
            "samples",
            f"{len(table):,}" + ("" if has_presentations.all() else f" ({int(has_presentations.sum()):,} seen)"),
        ],
        ["epochs", f"{len(record.meta.epochs)}"],
        [
            "flagged",
            f"{int(table['flagged'].sum()):,} ({percent(table['flagged'].sum() / max(1, has_presentations.sum()))})",
        ],
        ["never learned", f"{int((has_presentations & ~table['learned']).sum()):,}"],
        ["forgotten at least once", f"{int((table['forgetting_events'] > 0).sum()):,}"],
    ]
    if accuracy.values:
        rows.append([f"{_accuracy_of(record)}, last epoch", percent(accuracy.values[-1])])
    return rows


def _accuracy_of(record: Record) -> str:
    """Return the title of the accuracy: when a presentation counts as right."""
    if record.statistics.target is not None:
        return "presentations within the tolerance"
    return "training accuracy" if record.statistics.unit is None else "presentations with all labels right"


def _noise_rate(record: Record, audit: Audit | None) -> list[str]:
    """Return the title of the rate of wrong labels, and the rate with its bounds."""
    rate = record.noise_rate() if audit is None else audit.noise_rate
    bounds = f"{percent(rate.low)} and {percent(rate.high)}"
    if audit is None:
        origin = "run and embeddings" if rate.alone == FROM_BOTH else "run alone"
        return [f"estimated noise rate, from the {origin}", f"{percent(rate.value)} (between {bounds})"]
    return ["noise rate, from an audit", f"{percent(rate.value)} (95 % interval between {bounds})"]


def _note(record: Record, table: pd.DataFrame, card_count: int, audit: Audit | None) -> str:
    p = table.loc[table["flagged"], "wrong_probability"]
    words = {"flagged": f"{len(p):,}", "label": label_word(record.statistics)}
    note = _NOTE.format(expected=percent(p.mean(), 0), **words) if len(p) else _NONE.format(**words)
    note += _PIXELS if record.statistics.unit_columns is not None and record.pictures() else ""
    if audit is None:
        source = _BOTH if record.noise_rate().alone == FROM_BOTH else _ALONE
        return note + source + _ASK.format(command=audit_command(record.statistics, record.folder))
    enough = audit.enough()
    note += _AUDITED.format(answers=audit.right + audit.wrong + audit.unsure)
    note += _ENOUGH.format(wrong=question(record.statistics).rate, enough=f"{enough:,}") if enough else _NO_WRONG
    return note if card_count >= enough else note + _FEWER.format(cards=f"{card_count:,}", enough=enough)


def _missing_pictures(record: Record, cards: Sequence[dict[str, Any]]) -> str:
    """Return how many cards show nothing of their sample, and what helps; an empty text if all show something."""
    missing_count = sum("picture" not in card and "text" not in card for card in cards)
    if not missing_count:
        return ""
    return (
        f"{missing_count:,} of {len(cards):,} cards have neither picture nor text. "
        f"{_WHERE_FILES_ARE if record.names() else ''}Pass --data MODULE:CALLABLE, a function that returns the "
        "training dataset, to show them."
    )


def _charts(record: Record, accuracy: AccuracyCurve) -> list[list[str]]:
    statistics = record.statistics
    subtitle = f"{int((statistics.presentations > 0).sum()):,} samples"
    pictures = {
        "data map": data_map(statistics, subtitle),
        "margins": margins(statistics, subtitle),
        "forgetting events": forgetting_events(statistics, subtitle),
        "training-data analysis": training_data_analysis(statistics, subtitle),
    }
    if len(accuracy.values) > 1:
        epochs, values = np.array(accuracy.epochs), np.array(accuracy.values)
        pictures["training accuracy"] = accuracy_curve(epochs, values, subtitle)
    return [[name, _uri(png_bytes(picture))] for name, picture in pictures.items()]


def _cards(
    record: Record, worst: pd.DataFrame, traces: Traces, pictures: SamplePictures, similar: SimilarSamples | None
) -> list[dict[str, Any]]:
    cards, rows = [], _rows(record, worst)
    names = escaped_all(record.names())
    side = next((side for max_cards, side in _SIDES if len(worst) <= max_cards), _SIDES[-1][1])
    units = unit_words(record.statistics, rows)
    for sample, unit, row in zip(rows, units, worst.reset_index().to_dict("records"), strict=True):
        card: dict[str, Any] = {
            "id": str(row["sample_id"]),
            "rank": int(row["rank"]),
            "wrong": round(float(row["wrong_probability"]), 4),
            "flagged": bool(row["flagged"]),
            "trace": traces.trace_of(sample),
        }
        optional = {
            "picture": pictures.thumbnail(sample, side),
            "similar": [] if similar is None else _similar(record, pictures, similar.similar_to(sample)),
            "text": pictures.text(sample, token_of(record.statistics, sample)),
            "unit": unit,
            "name": names[sample] if names else None,
            "file": names[sample] if names else escaped(pictures.file_name(sample)),
        }
        cards.append(card | {key: value for key, value in optional.items() if value})
    return cards


def _rows(record: Record, worst: pd.DataFrame) -> list[int]:
    rows = worst.index if record.sample_ids is None else pd.Index(record.shown_ids()).get_indexer(worst.index)
    numbers: list[int] = rows.tolist()
    return numbers


def _names_of_classes(
    record: Record, table: pd.DataFrame, worst: pd.DataFrame, texts: KeptTexts
) -> tuple[list[str], list[int], list[int]]:
    """Return names, and the number of the given and of the suggested name of each suspect; -1 if there is none."""
    rows, statistics = _rows(record, worst), record.statistics
    if statistics.target is not None:
        label_words, prediction_words = target_words(statistics, rows, record.meta.class_names)
        names = [escaped(word) for word in dict.fromkeys([*label_words, *prediction_words])]
        places = {name: place for place, name in enumerate(names)}
        return (
            names,
            [places[escaped(word)] for word in label_words],
            [places[escaped(word)] for word in prediction_words],
        )
    labels, suggestions, _ = named_targets(statistics, None)
    if statistics.unit is None:
        suggestion = worst["suggested"].astype("Int64").fillna(-1).astype(int).tolist()
    else:
        suggestion = suggestions[rows].tolist()
    names = class_names_of(record, table)
    if record.meta.class_names is None:
        names = [texts.words.get(number, name) for number, name in enumerate(names)]
    return names, labels[rows].tolist(), suggestion


def _add_corrections(record: Record, worst: pd.DataFrame, cards: Sequence[dict[str, Any]]) -> None:
    """For samples with several labels, add to their cards all labels, and all labels after the suggested correction."""
    if record.statistics.unit_given is None:
        return
    rows = _rows(record, worst)
    changes = corrections(record.statistics, worst.set_axis(rows))
    for card, row in zip(cards, rows, strict=True):
        labels, new_labels = changes[row]
        card["labels"], card["corrected"] = labels, new_labels
        numbers = labels_in(str(new_labels)) or []
        names = record.meta.class_names
        card["corrected_names"] = ", ".join(class_name(label, names) for label in numbers) or "no label"


def _add_answers(record: Record, worst: pd.DataFrame, audit: Audit, cards: Sequence[dict[str, Any]]) -> None:
    """Add to the cards of samples that were answered in the audit what the person said, by lines."""
    for card, row, answer in zip(cards, _rows(record, worst), worst["answer"], strict=True):
        if answer:
            card["answer"] = [f"you answered: {answer}"]
        if row in audit.right_labels:
            labels = audit.right_labels[row]
            words = ", ".join(class_name(label, record.meta.class_names) for label in labels) or "no label"
            card["answer"].append(f"right {'class' if record.statistics.unit is None else 'labels'}: {words}")


def _similar(record: Record, pictures: SamplePictures, rows: tuple[list[int], list[int]]) -> list[list[Any]]:
    """Return id and picture, or text, of the similar samples of the given and of the suggested class."""
    ids = record.shown_ids()

    def similar(row: int) -> list[Any]:
        thumbnail = pictures.thumbnail(row, _SIMILAR_SIDE)
        return [str(ids[row]), thumbnail, None if thumbnail else pictures.text(row)]

    return [[similar(row) for row in class_rows] for class_rows in rows] if any(rows) else []


def class_names_of(record: Record, table: pd.DataFrame) -> list[str]:
    """Return the name of each class in the table, or its number if it has none. Several labels have two names each."""
    if record.statistics.unit is not None and not has_classes(record.statistics):
        return [escaped(name) for name in named_targets(record.statistics, record.meta.class_names)[2] or ()]
    largest = [table[column].max() for column in ("label", "suggested", "predicted")]
    classes = 1 + max(int(value) for value in [*largest, -1] if not pd.isna(value))
    names = record.meta.class_names
    return [class_name(number, names) for number in range(max(classes, len(names or ())))]


def run_key(record: Record) -> str:
    """Return the key under which the browser keeps decisions. Each record has its own."""
    digest = hashlib.sha256(str(record.folder and record.folder.resolve()).encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(record.statistics.margin).tobytes())
    return f"dynalens:{digest.hexdigest()[:16]}"


def _sheets(folder: Path | None) -> list[list[str]]:
    """Return name and picture of each sheet in the folder, ordered by name."""
    files = [] if folder is None else sorted(filter(Path.is_file, (folder / SHEETS).glob("*.png")))
    return [[path.stem, _uri(path.read_bytes())] for path in files if path.stat().st_size <= _LARGEST_SHEET]


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
