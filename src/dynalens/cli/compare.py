"""``dynalens compare``."""

import argparse

import pandas as pd

from dynalens.cli.output import say
from dynalens.cli.tables import SHOWN, show
from dynalens.record import load_record
from dynalens.suspicion import compared
from dynalens.text import escaped_all


def run(args: argparse.Namespace) -> None:
    """Show the suspects on which several runs agree, by their mean rank."""
    records = [load_record(run) for run in args.runs]
    together = compared([record.table() for record in records])
    agreed = int((together["flagged_in"] == len(records)).sum())
    say(f"{agreed} samples are flagged in all {len(records)} runs; of {len(together)} seen in all of them")
    names = escaped_all(records[0].meta.class_names)
    if names:
        together["suggested_name"] = [None if pd.isna(k) else names[k] for k in together["suggested"]]
    ranks = [f"rank_{number + 1}" for number in range(len(records))]
    show(together, args, [*SHOWN[:4], "suggested_in", "flagged_in", "mean_rank", *ranks])
