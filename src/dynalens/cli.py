"""The command line: ``dynalens suspects``, ``audit``, ``report`` and ``compare``, each with the folder of a run."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import pandas as pd

from dynalens.auditing import Audit
from dynalens.embeddings import read_embeddings
from dynalens.record import Record, load_record
from dynalens.report import add_audit_command, add_report_command, to_fiftyone, to_json, to_label_studio
from dynalens.suspicion import FROM_THE_RUN_ALONE, PRECISION, compared
from dynalens.text import escaped_all, inert_cells, printable, printable_cells

_SHOWN = ("name", "root_index", "label", "suggested", "suggested_probability", "wrong_probability", "agreement")


def suspects_command(args: argparse.Namespace) -> None:
    """Show the samples of a run whose labels are probably wrong."""
    record = load_record(args.run)
    if args.embeddings:
        record = record.with_embeddings(read_embeddings(args.embeddings))
    audit = record.audit(args.answers) if args.answers else None
    found = record.suspects(precision=args.precision, answers=audit)
    if args.class_pair:
        found = of_class_pair(found, args.class_pair, record.meta.class_names)
    seen = int((record.statistics.presentations > 0).sum())
    _say(
        f"{len(found)} suspects among {seen} samples at an expected precision of {args.precision:g}"
        f"{' for this class pair' if args.class_pair else ''}; {_rate_in_words(record, audit)}"
    )
    if not len(found) and not args.class_pair:
        _say(
            "No label is flagged. The estimate can miss wrong labels where the network has learned them by heart, or "
            "where the data are hard. Look at the top of the order, which follows."
        )
        found = record.suspects(args.top, answers=audit).assign(flagged=False)
    _show(found, args, _SHOWN)
    files = None if "name" not in found else {known: str(name) for known, name in found["name"].items()}
    if args.json:
        _say(f"{len(found)} rows written to {to_json(found, args.json)}")
    if args.label_studio:
        _say(f"{len(found)} tasks written to {to_label_studio(found, args.label_studio, files=files)}")
    if args.fiftyone:
        _say(f"{len(found)} labels written to {to_fiftyone(found, args.fiftyone, files=files)}")


def _rate_in_words(record: Record, audit: Audit | None) -> str:
    rate = record.noise_rate() if audit is None else audit.noise_rate
    ends = f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
    if audit is None:
        return f"estimated noise rate {ends}, {FROM_THE_RUN_ALONE}"
    return (
        f"noise rate {ends} with 95 % confidence, from {audit.right} right, {audit.wrong} wrong, {audit.unsure} unsure"
    )


def report_command(args: argparse.Namespace) -> None:
    """Write a page on which to decide about suspects."""
    _say(f"{args.run(args)} written: open it in a browser, decide, and download decisions.csv")


def audit_command(args: argparse.Namespace) -> None:
    """Draw samples, and write a page that asks whether their labels are right."""
    path = args.run(args)
    _say(
        f"{path} written: open it in a browser, answer, and download answers.csv\n"
        f"Then: dynalens suspects {args.run_dir} --answers answers.csv --precision {PRECISION:g}"
    )


def compare_command(args: argparse.Namespace) -> None:
    """Show the suspects on which several runs agree, by their mean rank."""
    records = [load_record(run) for run in args.runs]
    together = compared([record.table() for record in records])
    agreed = int((together["flagged_in"] == len(records)).sum())
    _say(f"{agreed} samples are flagged in all {len(records)} runs; of {len(together)} seen in all of them")
    names = escaped_all(records[0].meta.class_names)
    if names:
        together["suggested_name"] = [None if pd.isna(k) else names[k] for k in together["suggested"]]
    ranks = [f"rank_{number + 1}" for number in range(len(records))]
    _show(together, args, [*_SHOWN[:4], "suggested_in", "flagged_in", "mean_rank", *ranks])


def of_class_pair(table: pd.DataFrame, pair: Sequence[str], names: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows with this label and this suggestion, each a class's name or number."""
    given, proposed = (_class_number(each, names) for each in pair)
    return table[(table["label"] == given).fillna(False) & (table["suggested"] == proposed).fillna(False)]


def parser() -> argparse.ArgumentParser:
    """Return the parser; a further command is one more function with its arguments here."""
    main_parser = argparse.ArgumentParser(prog="dynalens", description="Read what dynalens recorded of training runs.")
    main_parser.add_argument("--version", action="version", version=f"dynalens {version('dynalens')}")
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")

    one = _command(commands, "suspects", suspects_command)
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

    several = _command(commands, "compare", compare_command)
    several.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs on the same data")
    add_report_command(commands).set_defaults(command=report_command)
    add_audit_command(commands).set_defaults(command=audit_command)
    return main_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user is one line on stderr and the exit status 2."""
    args = parser().parse_args(argv)
    try:
        args.command(args)
    except (OSError, ValueError) as error:
        _say(f"dynalens: {error}", sys.stderr)
        return 2
    return 0


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    command: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    summary = (command.__doc__ or "").splitlines()[0]
    added = commands.add_parser(name, help=summary, description=summary)
    added.add_argument("--top", type=_at_least_one, default=20, metavar="N", help="rows to show (%(default)s)")
    added.add_argument("--csv", type=Path, metavar="FILE", help="write all rows and columns to a file as well")
    added.set_defaults(command=command)
    return added


def _show(table: pd.DataFrame, args: argparse.Namespace, columns: Sequence[str]) -> None:
    shown = table.head(args.top)
    view = pd.DataFrame(index=shown.index)
    for column in columns:
        named = f"{column}_name"
        if named in shown:
            view[column] = shown[named]
        elif column in shown and not (column == "root_index" and "name" in shown):
            view[column] = shown[column]
    if len(view):
        _say(printable_cells(view.round(3)).to_string(max_colwidth=60))
    if len(table) > len(view):
        _say(f"... and {len(table) - len(view)} more: --top {len(table)}, or --csv FILE")
    if args.csv:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        inert_cells(table).to_csv(args.csv)
        _say(f"{len(table)} rows written to {args.csv}")


def _say(text: str, stream: TextIO | None = None) -> None:
    """Print lines of which a terminal obeys no letter, in an encoding that may lack some of them."""
    stream = stream or sys.stdout
    lines = "\n".join(printable(line) for line in text.split("\n"))
    encoding = stream.encoding or "utf-8"
    print(lines.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def _class_number(given: str, names: Sequence[str] | None) -> int:
    if names and given in names:
        return list(names).index(given)
    if given.isdecimal():
        return int(given)
    known = f"one of {', '.join(names)}, or its number" if names else "a number: the record has no class names"
    raise ValueError(f"Expected a class of `--class-pair` to be {known}, got {given!r}. See the column `label`.")


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"Expected a number of at least 1, got {text!r}.")
    return int(text)
