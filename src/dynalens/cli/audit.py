"""``dynalens audit``."""

import argparse

from dynalens.cli.output import say
from dynalens.defaults import PRECISION
from dynalens.report.command import run_audit


def run(args: argparse.Namespace) -> None:
    """Draw samples, and write a page that asks whether their labels are right."""
    say(
        f"{run_audit(args)} written: open it in a browser, answer, and download answers.csv\n"
        f"Then: dynalens suspects {args.run_dir} --answers answers.csv --precision {PRECISION:g}"
    )
