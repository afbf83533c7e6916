"""The command ``dynalens suspects``."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from dynalens.auditing import Audit
from dynalens.cli.output import output_file, say
from dynalens.cli.tables import SHOWN, show
from dynalens.embeddings import read_embeddings
from dynalens.record import Record, audit_command, load_record
from dynalens.report import to_fiftyone, to_json, to_label_studio
from dynalens.suspicion import label_word
from dynalens.text import are, percent


def run(args: argparse.Namespace) -> None:
    """Show the samples of a run whose labels are probably wrong."""
    record = load_record(args.run)
    if args.embeddings:
        record = record.with_embeddings(read_embeddings(args.embeddings))
    audit = record.audit(args.answers) if args.answers else None
    suspects = record.suspects(precision=args.precision, answers=audit)
    expected = suspects["wrong_probability"].mean()
    if args.class_pair:
        suspects = of_class_pair(suspects, args.class_pair, record.meta.class_names)
    number = int((record.statistics.presentations > 0).sum())
    for_pair = " for this class pair" if args.class_pair else ""
    label = label_word(record.statistics)
    expected_words = f" About {percent(expected, 0)} of all flagged {label}s are expected to be wrong."
    flagged = f"{len(suspects)} of {number} samples {are(len(suspects))} flagged{for_pair}."
    say(f"{flagged}{expected_words if len(suspects) else ''}")
    say(_rate_in_words(record, audit))
    for doubt in record.doubts() if audit is None else audit.noise_rate.doubts:
        say(f"Doubtful: {doubt}")
    if not len(suspects) and not args.class_pair:
        suspects = record.suspects(args.top, answers=audit).assign(flagged=False)
        command = audit_command(record.statistics, record.folder)
        ask = f" To learn how many {label}s are wrong, answer 100 questions: {command}"
        follow = f" The {len(suspects)} most suspicious follow: look at them." if len(suspects) else ""
        say(f"No {label} is flagged.{follow}{ask if audit is None else ''}")
    answered = 0 if audit is None else int((suspects["answer"] == "wrong").sum())  # they come first
    if answered:
        others = ": the table shows the others" if answered < len(suspects) else ""
        say(f"{answered} of the flagged {label}s have the answer wrong{others}.")
    show(suspects, args, SHOWN, start=answered if answered < len(suspects) else 0)
    _write_exports(record, suspects, args)


def _write_exports(record: Record, suspects: pd.DataFrame, args: argparse.Namespace) -> None:
    files = None if "name" not in suspects else {sample_id: str(name) for sample_id, name in suspects["name"].items()}
    texts = _texts(record) if args.label_studio or args.fiftyone else {}
    if texts and args.fiftyone:
        raise ValueError(
            "Expected samples that are images for `--fiftyone`, got texts or rows of a table. Use `--label-studio` or "
            "`--json`."
        )
    exports: tuple[tuple[Path | None, str, Callable[[pd.DataFrame, Path], Path]], ...] = (
        (args.json, "rows", to_json),
        (args.label_studio, "tasks", partial(to_label_studio, files=files, texts=texts)),
        (args.fiftyone, "labels", partial(to_fiftyone, files=files)),
    )
    for path, noun, export in exports:
        if path:
            say(f"{len(suspects)} {noun} written to {export(suspects, output_file(path, '.json'))}")
    without_text = int((~suspects.index.isin(list(texts))).sum()) if texts and args.label_studio else 0
    if without_text:
        say(
            f"{without_text} of the tasks name a sample without its text: a run keeps the texts of its `top_k` most "
            "suspicious samples, and of those of an audit."
        )


def _texts(record: Record) -> dict[Any, str]:
    """Return the texts that the run kept of its samples, by their ids."""
    from dynalens.report.sentences import kept_texts  # draws, which other commands do without

    ids = record.shown_ids()
    return {ids[row]: text for row, text in kept_texts(record).texts.items()}


def _rate_in_words(record: Record, audit: Audit | None) -> str:
    rate = record.noise_rate() if audit is None else audit.noise_rate
    if audit is None:
        return f"Estimated noise rate: {rate.in_words()}"
    return (
        f"Noise rate: {percent(rate.value)} ({percent(rate.low)} to {percent(rate.high)}) with 95 % confidence, from "
        f"{audit.right} right, {audit.wrong} wrong, {audit.unsure} unsure answers"
    )


def of_class_pair(table: pd.DataFrame, pair: Sequence[str], names: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows with this given and this suggested class, each named or numbered."""
    if "label" not in table:
        raise ValueError("Expected a record of classes for `--class-pair`, got a regression. Leave the option out.")
    label, suggestion = (_class_number(text, names) for text in pair)
    return table[(table["label"] == label).fillna(False) & (table["suggested"] == suggestion).fillna(False)]


def _class_number(text: str, names: Sequence[str] | None) -> int:
    if names and text in names:
        return list(names).index(text)
    if text.isdecimal():
        return int(text)
    options = f"one of {', '.join(names)}, or its number" if names else "a number: the record has no class names"
    raise ValueError(f"Expected a class of `--class-pair` to be {options}, got {text!r}. See the column `label`.")
