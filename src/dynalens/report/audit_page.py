"""The page that asks a person whether the label of each drawn sample is right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynalens.auditing import Plan, few_answers_doubts, keeps_all_given
from dynalens.auditing.answers import COLUMNS, AnswersSource
from dynalens.auditing.calibration import FAR
from dynalens.dynamics import Array
from dynalens.notices import progress_notice
from dynalens.record import Record
from dynalens.report.assembly import write_page
from dynalens.report.page import check_dataset, class_names_of, run_key, run_name
from dynalens.report.questions import QuestionCards, items_to_ask, opinions, question
from dynalens.report.samples import SamplePictures, sample_pictures
from dynalens.report.sentences import kept_texts


def write_audit(
    record: Record,
    path: str | Path,
    *,
    n: int = 100,
    seed: int = 0,
    answers: AnswersSource | Sequence[AnswersSource] | None = None,
    earlier_run: Record | None = None,
    dataset: Any = None,
) -> Path:
    """Write a page that asks a person about the labels of an audit: one HTML file that needs no network.

    It draws samples and asks about one at a time. The suggestion of the run and its probability are only shown after
    the answer. The page estimates the fraction of wrong labels from the answers so far, as ``Audit.noise_rate`` does,
    and says if there are too few. The browser keeps the answers, and downloads them as ``answers.csv``, or as
    ``answers_2.csv`` and so on for later rounds. :func:`dynalens.audit` takes these files.

    Args:
        record: The result of :func:`~dynalens.load_record`, or ``monitor.record``.
        path: The file to write.
        n: How many samples to ask about, see :func:`dynalens.audit_plan`.
        seed: Seed of the random order.
        answers: Answers of earlier rounds. The page asks about other samples, and all answers count in its estimate.
        earlier_run: The record that the answers were given for, if it is another one, see :func:`dynalens.audit_plan`.
        dataset: The dataset that was trained on, whose pictures, texts or rows are shown. Default: the page shows the
            picture files that samples are named after, and the pictures that the callback kept during training. If
            samples have a label for each token or pixel, or several numbers, pass the dataset unless the callback drew
            the audit (``audit=``) and kept the labels of its samples.

    Returns:
        The file.

    Raises:
        ValueError: If an argument is out of its range, all samples were answered, the dataset has another length than
            the record, or the record is one of ids; or without a dataset, if it is needed.
    """
    check_dataset(record, dataset)
    samples = record.audit_plan(n, seed=seed, answers=answers, earlier_run=earlier_run)
    if not len(samples):
        raise ValueError(
            "Expected `answers` to leave samples to ask about, got answers about all. Nothing is left to ask: see what "
            "they say with `dynalens.audit(record, answers)`, or `dynalens suspects RUN --answers FILE`."
        )
    plan, table = record.latest_plan(), record.table()
    rows = table.index.get_indexer(pd.Index(samples["sample_id"]))
    items, can_be_shown = items_to_ask(record, dataset, rows)
    rows, samples = rows[can_be_shown], samples[can_be_shown]
    with progress_notice(f"reading the pictures of {len(rows):,} samples"):
        questions = _question_cards(record, items, are_of_dataset=dataset is not None)
        cards = _cards(record, plan, rows, samples, questions.cards(rows))
    content = {
        "run": f"{run_key(record)}:audit:{plan.seed}",
        "names": class_names_of(record, table) if record.statistics.unit is None else [],
        "question": question(record.statistics)._asdict(),
        "columns": COLUMNS,
        "file": answers_file(answers),
        "strata": _strata(plan, table, record, answers),
        "doubts": few_answers_doubts(int(table["score"].notna().sum())),
        "cards": cards,
    }
    title = "dynalens: audit" if record.folder is None else f"dynalens: audit of {run_name(record.folder)}"
    return write_page("audit", title, path, content, ["estimate"])


def answers_file(earlier_answers: AnswersSource | Sequence[AnswersSource] | None) -> str:
    """Return the name of the file that the page downloads; a later round does not replace the file of an earlier one.

    Example:
        >>> answers_file(None), answers_file("answers.csv"), answers_file(["answers.csv", "answers_2.csv"])
        ('answers.csv', 'answers_2.csv', 'answers_3.csv')
    """
    if earlier_answers is None:
        return "answers.csv"
    rounds = 1 if isinstance(earlier_answers, str | Path | pd.DataFrame) else len(earlier_answers)
    return f"answers_{rounds + 1}.csv"


def _strata(plan: Plan, table: pd.DataFrame, record: Record, answers: Any) -> dict[str, list[float]]:
    """Return the size of each stratum, the sum of its scores, and its answers in earlier rounds."""
    members = plan.stratum >= 0
    number = int(plan.stratum.max(initial=-1)) + 1

    def total(rows: Array, values: Array | None = None) -> list[float]:
        sums: list[float] = np.bincount(plan.stratum[rows], values, minlength=number).tolist()
        return sums

    score = np.clip(table["score"].to_numpy(np.float64), -FAR, FAR)
    strata = {"size": total(members), "total": total(members, score[members])}
    answer = None if answers is None else record.audit(answers).table()["answer"].to_numpy()
    for word in ("right", "wrong", "unsure"):
        strata[word] = total(members & (answer == word)) if answer is not None else [0.0] * number
    return strata


def _question_cards(record: Record, items: Any, *, are_of_dataset: bool) -> QuestionCards:
    if not keeps_all_given(record.statistics):  # pictures that were kept of suspects show where the run contradicts
        from dynalens.report.items import DatasetPictures  # torch

        pictures: SamplePictures = DatasetPictures(items)
    else:
        pictures = sample_pictures(record, items, kept_texts(record))
    return QuestionCards(record, items, pictures, are_of_dataset=are_of_dataset)


def _cards(
    record: Record, plan: Plan, rows: Array, samples: pd.DataFrame, questions: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    table, statistics = record.table().iloc[rows], record.statistics
    suggestions = table["suggested"] if statistics.unit is None else pd.Series(-1, table.index)
    return [
        {
            "id": str(sample_id),
            "wrong": round(float(probability), 4),
            "opinion": opinion,
            "stratum": int(stratum),
            "rest": [draw_probability, name],
            "name": name,
        }
        | card
        for sample_id, probability, opinion, stratum, draw_probability, name, card in zip(
            table.index,
            table["wrong_probability"],
            opinions(record, rows.tolist(), suggestions),
            plan.stratum[rows],
            samples["probability"].tolist(),
            samples["name"].tolist() if "name" in samples else [""] * len(rows),
            questions,
            strict=True,
        )
    ]
