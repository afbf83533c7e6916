"""``dynalens report`` and ``dynalens audit``: arguments to calls."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from dynalens.embeddings import read_embeddings
from dynalens.record import load_record
from dynalens.report.audit_page import write_audit
from dynalens.report.page import MOST_CARDS, write_report


def add_report_command(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``report`` to the subparsers of a command line; its ``run`` default takes the parsed arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "report",
        help="write a page on which to decide about suspects",
        description="Write one self-contained HTML page: a summary of the run, and its suspects to decide on.",
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of a run, for instance lightning_logs/version_0")
    parser.add_argument("--data", metavar="MODULE:CALLABLE", help="returns the training dataset; for its pictures")
    embeddings = "(N, D) embeddings of the dataset by an encoder that never saw the labels; they count in the order"
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npy", help=embeddings)
    parser.add_argument("--out", metavar="FILE", help="default: report.html in the record's folder")
    parser.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help="of an audit: calibrate on them")
    parser.add_argument("--limit", type=int, default=MOST_CARDS, help="at most so many suspects (default: %(default)s)")
    parser.set_defaults(run=run_report)
    return parser


def add_audit_command(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``audit``, as :func:`add_report_command` does ``report``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "audit",
        help="draw samples, and write a page that asks whether their labels are right",
        description="Draw samples at random, more where the run is undecided, and write one self-contained HTML page "
        "that asks whether their labels are right. A hundred answers give the fraction of wrong labels with an "
        "interval that holds: dynalens suspects RUN --answers answers.csv",
    )
    parser.add_argument("run_dir", metavar="RUN", help="folder of a run, for instance lightning_logs/version_0")
    parser.add_argument("--n", type=int, default=100, metavar="N", help="samples to ask about (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the random order (%(default)s)")
    parser.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help="of earlier rounds: others are drawn")
    parser.add_argument("--data", metavar="MODULE:CALLABLE", help="returns the training dataset; for its pictures")
    parser.add_argument("--out", metavar="FILE", help="default: audit.html in the record's folder")
    parser.set_defaults(run=run_audit)
    return parser


def run_audit(arguments: argparse.Namespace) -> Path:
    """Draw the samples, write the page and return its path."""
    record = load_record(arguments.run_dir)
    dataset = named_dataset(arguments.data) if arguments.data else None
    path = Path(arguments.out) if arguments.out else (record.folder or Path()) / "audit.html"
    given = {"n": arguments.n, "seed": arguments.seed, "answers": arguments.answers}
    return write_audit(record, path, dataset=dataset, **given)


def run_report(arguments: argparse.Namespace) -> Path:
    """Write the page and return its path."""
    record = load_record(arguments.run_dir)
    if arguments.embeddings:
        record = record.with_embeddings(read_embeddings(arguments.embeddings))
    dataset = named_dataset(arguments.data) if arguments.data else None
    path = Path(arguments.out) if arguments.out else (record.folder or Path()) / "report.html"
    return write_report(record, path, dataset=dataset, limit=arguments.limit, answers=arguments.answers)


def named_dataset(name: str) -> Any:
    """Return what the callable ``module:callable`` returns; modules are also looked for in the working directory.

    Raises:
        ValueError: If there is no such module or callable.
    """
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute, None) if module_name and attribute else None
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Expected `--data` to name a module, got {name!r}: {error}. Run in the folder that holds it."
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ValueError(
            f"Expected `--data` to be module:callable, got {name!r}. Name a function that returns the training dataset."
        )
    return found()
