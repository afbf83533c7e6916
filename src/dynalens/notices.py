"""Warnings that name the line of the user's code that led to them, and a line on what takes long."""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_PASSED = frozenset({"dynalens", "lightning", "pytorch_lightning", "lightning_fabric", "torch", "contextlib"})
"""Packages whose lines are not named: Lightning calls the hook, and torch's decorators stand around it."""
PATIENCE = 2.0
"""Seconds of silence."""


def warn(message: str) -> None:
    """Warn, at the nearest caller outside dynalens, Lightning and torch.

    Python prints that line below the warning: the user's `trainer.fit(...)` or `clean_indices()`. Without such a caller
    it is the outermost line.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


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
