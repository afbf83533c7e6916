"""Says what takes long, once."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 2.0
"""Seconds of silence."""


@contextmanager
def progress_notice(text: str) -> Iterator[None]:
    """Print one line on stderr if what is done meanwhile takes more than two seconds."""
    timer = threading.Timer(PATIENCE, lambda: sys.stderr.write(f"dynalens: {text} ...\n"))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
