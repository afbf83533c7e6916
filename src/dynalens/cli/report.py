"""``dynalens report``."""

import argparse

from dynalens.cli.output import say
from dynalens.report.command import run_report


def run(args: argparse.Namespace) -> None:
    """Write a page on which to decide about suspects."""
    say(f"{run_report(args)} written: open it in a browser, decide, and download decisions.csv")
