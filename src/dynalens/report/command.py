"""What ``dynalens report`` and ``dynalens audit`` do with their arguments."""

import argparse
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dynalens.embeddings import read_embeddings
from dynalens.record import Record, load_record
from dynalens.report.audit_page import write_audit
from dynalens.report.page import write_report


def run_audit(arguments: argparse.Namespace) -> tuple[Path, int]:
    """Draw the samples, write the page, and return its path and how many samples it has neither picture nor text of."""
    record = load_record(arguments.run_dir)
    dataset = named_dataset(arguments.data) if arguments.data else None
    path = Path(arguments.out) if arguments.out else (record.folder or Path()) / "audit.html"
    options = {"n": arguments.n, "seed": arguments.seed, "answers": arguments.answers}
    written = write_audit(record, path, dataset=dataset, **options)
    return written, 0 if dataset is not None else _without_picture(record, record.audit_plan(**options)["sample_id"])


def _without_picture(record: Record, samples: Iterable[Any]) -> int:
    kept = record.pictures()
    return sum(row not in kept for row in record.table().index.get_indexer(pd.Index(samples)).tolist())


def run_report(arguments: argparse.Namespace) -> Path:
    """Write the page and return its path."""
    record = load_record(arguments.run_dir)
    embeddings = read_embeddings(arguments.embeddings) if arguments.embeddings else None
    dataset = named_dataset(arguments.data) if arguments.data else None
    path = Path(arguments.out) if arguments.out else (record.folder or Path()) / "report.html"
    options = {"limit": arguments.limit, "answers": arguments.answers, "embeddings": embeddings}
    return write_report(record, path, dataset=dataset, **options)


def named_dataset(name: str) -> Any:
    """Return what the callable ``module:callable`` returns; modules are also looked for in the working directory.

    Raises:
        ValueError: If there is no such module or callable.
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
    if not callable(factory):
        raise ValueError(
            f"Expected `--data` to be module:callable, got {name!r}. Name a function that returns the training dataset."
        )
    return factory()
