"""``dynalens audit``."""

import argparse

from dynalens.cli.output import say
from dynalens.defaults import PRECISION
from dynalens.report.command import run_audit


def run(args: argparse.Namespace) -> None:
    """Draw samples, and write a page that asks whether their labels are right."""
    page, without_picture = run_audit(args)
    if without_picture:
        say(
            f"{without_picture} of {args.n} samples have no picture on the page, only their ids: pass --data "
            f"MODULE:CALLABLE, a function that returns the training dataset, or train with "
            f"TrainingDynamicsMonitor(audit={args.n}), which keeps the pictures"
        )
    say(
        f"{page} written: open it in a browser, answer, and download answers.csv\n"
        f"Then: dynalens suspects {args.run_dir} --answers answers.csv --precision {PRECISION:g}"
    )
