"""The command ``dynalens compare``."""

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dynalens.cli.output import say
from dynalens.cli.tables import SHOWN, show
from dynalens.record import Record, load_record
from dynalens.suspicion import compare_runs
from dynalens.text import escaped_all


def _agreement_of_maps(records: Sequence[Record]) -> list[str]:
    """Return a line for each method of which all runs kept maps of the same samples."""
    folders = [record.folder for record in records if record.folder is not None]
    if not all((folder / "explanations").is_dir() for folder in folders):
        return []
    from dynalens.explanations import agreement_of_runs, load_explanations  # torch takes seconds to start

    epochs = [run_epochs[-1] for run_epochs in map(load_explanations, folders) if run_epochs]
    if len(epochs) < len(records):
        return []
    return [
        f"{method}: the rank correlation of a run's maps with the consensus of the other runs is "
        f"{np.nanmean(agreement):.2f}, the mean over {len(ids)} samples; 0 is chance, 1 is full agreement"
        for method, (ids, agreement) in agreement_of_runs(epochs).items()
    ]


def _check_that_runs_differ(records: Sequence[Record], runs: Sequence[str]) -> None:
    """Refuse a run that is named twice: it would agree with itself."""
    folders = [record.folder.resolve() for record in records if record.folder is not None]
    for position, folder in enumerate(folders):
        if folder in folders[:position]:
            raise ValueError(
                f"Expected each run once, got {runs[position]} a second time. Pass the folders of different runs."
            )


def run(args: argparse.Namespace) -> None:
    """Show the suspects on which several runs agree, by their mean rank."""
    records = [load_record(run) for run in args.runs]
    _check_that_runs_differ(records, args.runs)
    table = compare_runs([record.table() for record in records])
    common = int((table["flagged_in"] == len(records)).sum())
    say(f"{common} of the {len(table)} samples that all {len(records)} runs have seen are flagged in all of them")
    names = escaped_all(records[0].meta.class_names)
    if names and "suggested" in table and "unit" not in table:
        suggestions = [None if pd.isna(k) else int(k) for k in table["suggested"]]
        table["suggested_name"] = [k if k is None else names[k] if k < len(names) else str(k) for k in suggestions]
    for line in _agreement_of_maps(records):
        say(line)
    ranks = [f"rank_{number + 1}" for number in range(len(records))]
    show(table, args, [*SHOWN, "suggested_in", "flagged_in", "mean_rank", *ranks])
