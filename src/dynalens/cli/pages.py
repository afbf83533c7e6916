"""The commands ``dynalens report`` and ``dynalens audit``, which write pages."""

import argparse
import importlib
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from dynalens.auditing import keeps_all_given
from dynalens.cli.output import output_file, say
from dynalens.defaults import PRECISION
from dynalens.embeddings import read_embeddings
from dynalens.paths import missing_argument
from dynalens.record import Record, load_record
from dynalens.report import write_audit, write_report
from dynalens.report.audit_page import answers_file
from dynalens.report.samples import sample_pictures
from dynalens.report.sentences import kept_texts

_WHERE_FILES_ARE = "If they are named after picture files, run this in the folder in which training ran. "


def report(args: argparse.Namespace) -> None:
    """Write a page on which to decide about suspects."""
    record = load_record(args.run_dir)
    embeddings = read_embeddings(args.embeddings) if args.embeddings else None
    dataset = named_dataset(args.data) if args.data else None
    options = {"limit": args.limit, "answers": args.answers, "embeddings": embeddings}
    page = write_report(record, _path(args, record, "report.html"), dataset=dataset, **options)
    say(f"{page} written: open it in a browser, decide, and download decisions.csv")


def audit(args: argparse.Namespace) -> None:
    """Draw samples, and write a page that asks whether their labels are right."""
    record = load_record(args.run_dir)
    if args.embeddings:
        record = record.with_embeddings(read_embeddings(args.embeddings))
    dataset = named_dataset(args.data) if args.data else None
    earlier_run = load_record(args.earlier_run) if args.earlier_run else None
    options = {"n": args.n, "seed": args.seed, "answers": args.answers, "earlier_run": earlier_run}
    page = write_audit(record, _path(args, record, "audit.html"), dataset=dataset, **options)
    if dataset is None and keeps_all_given(record.statistics):
        pictures = sample_pictures(record, None, kept_texts(record))
        samples = pd.Index(record.audit_plan(**options)["sample_id"])
        without_picture = sum(
            not pictures.has_content(row) for row in record.table().index.get_indexer(samples).tolist()
        )
        if without_picture:
            say(
                f"{without_picture} of {len(samples)} samples have neither picture nor text on the page. "
                f"{_WHERE_FILES_ARE if record.names() else ''}To show them, pass --data MODULE:CALLABLE, a function "
                "that returns the training dataset. Or, if they are pictures, signals, tokens or numbers, train with "
                f"TrainingDynamicsMonitor(audit={args.n}), which keeps them."
            )
    file = answers_file(args.answers)
    embeddings = ["--embeddings", args.embeddings] if args.embeddings else []
    answers = ["--answers", *(args.answers or ()), file, "--precision", PRECISION]
    say(
        f"{page} written: open it in a browser, answer, and download {file}\n"
        f"Then: dynalens suspects {shlex.join(map(str, [args.run_dir, *embeddings, *answers]))}"
    )


def _path(args: argparse.Namespace, record: Record, name: str) -> Path:
    return output_file(args.out, ".html") if args.out else (record.folder or Path()) / name


def named_dataset(name: str) -> Any:
    """Return what the callable ``module:callable`` returns; modules are also looked for in the working directory.

    Raises:
        ValueError: If there is no such module or callable, or if it needs arguments.
    """
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), attribute, None) if module_name and attribute else None
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Expected `--data` to name a module, got {name!r}: {error}. Run in the folder that holds it."
        ) from error
    finally:
        sys.path.pop(0)
    if module_name and attribute and factory is None:
        raise ValueError(
            f"Expected `--data` to name a callable, got {name!r}: the module {module_name} has no {attribute!r}. "
            "Name a function that returns the training dataset."
        )
    if not callable(factory):
        raise ValueError(
            f"Expected `--data` to be module:callable, got {name!r}. Name a function that returns the training dataset."
        )
    argument = missing_argument(factory)
    if argument is not None:
        raise ValueError(
            f"Expected `--data` to name a callable without arguments, got {name!r}: {argument}. Write a function that "
            "returns the training dataset, and name it."
        )
    return factory()
