"""What the command line takes; nothing that takes time to import is needed to say so."""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dynalens.defaults import MOST_CARDS, PRECISION


def parser() -> argparse.ArgumentParser:
    """Return the parser; ``command`` of what it returns is the dotted path of the function that does the work."""
    main_parser = argparse.ArgumentParser(prog="dynalens", description="Read what dynalens recorded of training runs.")
    main_parser.add_argument("--version", action="version", version=f"dynalens {version('dynalens')}")
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_suspects, _add_compare, _add_report, _add_audit):
        add(commands)
    return main_parser


def _add_suspects(commands: Any) -> None:
    one = _table_command(commands, "suspects", "Show the samples of a run whose labels are probably wrong.")
    one.add_argument("run", type=Path, metavar="RUN", help="folder of a run, for instance lightning_logs/version_0")
    precision = "expected fraction of wrong labels (%(default)s)"
    one.add_argument("--precision", type=float, default=PRECISION, metavar="P", help=precision)
    embeddings = "(N, D) embeddings of the dataset by an encoder that never saw the labels, in its order; see `embed`"
    one.add_argument("--embeddings", type=Path, metavar="FILE.npy", help=embeddings)
    answers = "calibrate on a person's answers: CSV with sample_id and answer, of `dynalens.audit_plan`"
    one.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help=answers)
    one.add_argument("--class-pair", nargs=2, metavar=("LABEL", "SUGGESTED"), help="only these, by name or number")
    one.add_argument("--json", type=Path, metavar="FILE", help="write the suspects as a list of objects")
    one.add_argument("--label-studio", type=Path, metavar="FILE", help="write them as tasks for Label Studio")
    one.add_argument("--fiftyone", type=Path, metavar="FILE", help="write them as labels for FiftyOne")


def _add_compare(commands: Any) -> None:
    several = _table_command(commands, "compare", "Show the suspects on which several runs agree, by their mean rank.")
    several.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs on the same data")


def _add_report(commands: Any) -> None:
    page: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="Write a page on which to decide about suspects.",
        description="Write one self-contained HTML page: a summary of the run, and its suspects to decide on.",
    )
    page.add_argument("run_dir", metavar="RUN", help="folder of a run, for instance lightning_logs/version_0")
    page.add_argument("--data", metavar="MODULE:CALLABLE", help="returns the training dataset; for its pictures")
    embeddings = "(N, D) embeddings of the dataset by an encoder that never saw the labels; they count in the order"
    page.add_argument("--embeddings", type=Path, metavar="FILE.npy", help=embeddings)
    page.add_argument("--out", metavar="FILE", help="default: report.html in the record's folder")
    page.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help="of an audit: calibrate on them")
    page.add_argument("--limit", type=int, default=MOST_CARDS, help="at most so many suspects (default: %(default)s)")
    page.set_defaults(command="dynalens.cli.report.run")


def _add_audit(commands: Any) -> None:
    page: argparse.ArgumentParser = commands.add_parser(
        "audit",
        help="Draw samples, and write a page that asks whether their labels are right.",
        description="Draw samples at random, more where the run is undecided, and write one self-contained HTML page "
        "that asks whether their labels are right. A hundred answers give the fraction of wrong labels with an "
        "interval that holds: dynalens suspects RUN --answers answers.csv",
    )
    page.add_argument("run_dir", metavar="RUN", help="folder of a run, for instance lightning_logs/version_0")
    page.add_argument("--n", type=int, default=100, metavar="N", help="samples to ask about (%(default)s)")
    page.add_argument("--seed", type=int, default=0, metavar="S", help="of the random order (%(default)s)")
    page.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help="of earlier rounds: others are drawn")
    page.add_argument("--data", metavar="MODULE:CALLABLE", help="returns the training dataset; for its pictures")
    page.add_argument("--out", metavar="FILE", help="default: audit.html in the record's folder")
    page.set_defaults(command="dynalens.cli.audit.run")


def _table_command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    added.add_argument("--top", type=_at_least_one, default=20, metavar="N", help="rows to show (%(default)s)")
    added.add_argument("--csv", type=Path, metavar="FILE", help="write all rows and columns to a file as well")
    added.set_defaults(command=f"dynalens.cli.{name}.run")
    return added


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"Expected a number of at least 1, got {text!r}.")
    return int(text)
