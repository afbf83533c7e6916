"""The arguments of the command line. Nothing that takes time to import is imported for them."""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dynalens.defaults import FEWEST_CARDS, MOST_CARDS, PRECISION


def parser() -> argparse.ArgumentParser:
    """Return the parser. The ``command`` of its result is the dotted path of the function that does the work."""
    main_parser = argparse.ArgumentParser(prog="dynalens", description="Read what dynalens recorded of training runs.")
    main_parser.add_argument("--version", action="version", version=f"dynalens {version('dynalens')}")
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_suspects, _add_compare, _add_report, _add_audit):
        add(commands)
    return main_parser


def _add_suspects(commands: Any) -> None:
    parser = _table_command(
        commands, "suspects", "Show the samples of a run whose labels are probably wrong, the most suspicious first."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, for instance lightning_logs/version_0")
    parser.epilog = (
        "Columns of the table: rank is the place in the order, from 1, the most suspicious. label is the given "
        "class. suggested is the class that most often came first of all others, agreement the fraction of the "
        "presentations in which it came before the given class, too, and suggested_probability the probability that "
        "it is the true class. wrong_probability is the probability that the given label is wrong. With good "
        "--embeddings, suggested is the class that they find most probable, and agreement is empty where the network "
        "predicted another. The noise rate is the fraction of wrong labels, and the flagged samples are the first "
        "ones of the order, cut at --precision. docs/numbers.md has the formulas and their sources."
    )
    precision = "flag the top samples of which this fraction is expected to be wrong (default: %(default)s)"
    parser.add_argument("--precision", type=float, default=PRECISION, metavar="P", help=precision)
    _add_other_evidence(parser)
    parser.add_argument(
        "--class-pair",
        nargs=2,
        metavar=("LABEL", "SUGGESTED"),
        help="show only samples with this label and this suggestion, each the name or number of a class",
    )
    _add_exports(parser)


def _add_other_evidence(parser: argparse.ArgumentParser) -> None:
    embeddings = (
        "also order the samples by their embeddings: an array (N, D) with one row for each sample of the dataset, "
        "from an encoder that never saw the labels; `dynalens.embed` writes one"
    )
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npy", help=embeddings)
    answers = (
        "adapt the noise rate and the order to the answers of an audit, the files that you downloaded from the "
        "page of `dynalens audit`"
    )
    parser.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help=answers)


def _add_exports(parser: argparse.ArgumentParser) -> None:
    kinds = {"json": "a list of objects", "label-studio": "tasks for Label Studio", "fiftyone": "labels for FiftyOne"}
    for name, kind in kinds.items():
        words = f"write the suspects as {kind}; .json is added to a name without an ending"
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=words)


def _add_compare(commands: Any) -> None:
    parser = _table_command(
        commands, "compare", "Show the samples that several runs suspect, ordered by the mean of their ranks."
    )
    parser.epilog = (
        "Columns of the table: suggested_in is the number of runs that suggest this class, flagged_in the number of "
        "runs that flag the sample, rank_1 its rank in the first run, and mean_rank the mean of its ranks."
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="two or more folders of runs on the same data"
    )


def _add_report(commands: Any) -> None:
    page = _page_command(
        commands,
        "report",
        "Write a page on which you keep, relabel or drop each suspect.",
        "Write one HTML file, which opens in any browser: a summary of the run, and its suspects with "
        "their pictures. You keep, relabel or drop each, and download decisions.csv for `dynalens.apply_decisions`.",
    )
    answers = "adapt the noise rate and the order to the answers of an audit, as in `dynalens suspects`"
    page.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help=answers)
    limit = f"show this many suspects (default: those that are flagged, from {FEWEST_CARDS} to {MOST_CARDS})"
    page.add_argument("--limit", type=int, metavar="N", help=limit)


def _add_audit(commands: Any) -> None:
    page = _page_command(
        commands,
        "audit",
        "Draw samples, and write a page that asks you whether their labels are right.",
        "Draw samples at random, and more of those about which the run is undecided. Write one HTML file, "
        "which opens in any browser and asks you whether their labels are right. From the answers that you download, "
        "dynalens suspects RUN --answers answers.csv estimates how many labels are wrong, with a 95 % interval.",
    )
    number = "number of samples to ask about (default: %(default)s)"
    page.add_argument("--n", type=int, default=100, metavar="N", help=number)
    page.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the random draw (default: %(default)s)")
    answers = "answers of earlier rounds; the page asks about other samples"
    page.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help=answers)
    earlier_run = (
        "folder of another run on the same samples and labels, if the answers were given for it; from then on they "
        "count for RUN, too"
    )
    page.add_argument("--earlier-run", metavar="EARLIER", help=earlier_run)


def _page_command(commands: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    page: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description)
    page.add_argument("run_dir", metavar="RUN", help="folder of a run, for instance lightning_logs/version_0")
    dataset = "function that returns the training dataset; its pictures are shown"
    page.add_argument("--data", metavar="MODULE:CALLABLE", help=dataset)
    embeddings = "also order the samples by their embeddings: an array (N, D), as in `dynalens suspects`"
    page.add_argument("--embeddings", type=Path, metavar="FILE.npy", help=embeddings)
    page.add_argument(
        "--out",
        metavar="FILE",
        help=f"file to write (default: {name}.html in the record's folder); .html is added to a name without an ending",
    )
    page.set_defaults(command=f"dynalens.cli.pages.{name}")
    return page


def _table_command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.add_argument(
        "--top", type=_at_least_one, default=20, metavar="N", help="number of rows to show (default: %(default)s)"
    )
    command.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="also write all rows and columns to this file; .csv is added to a name without an ending",
    )
    command.set_defaults(command=f"dynalens.cli.{name}.run")
    return command


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"Expected a number of at least 1, got {text!r}.")
    return int(text)
