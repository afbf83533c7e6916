"""The command line: ``dynalens suspects``, ``audit``, ``report`` and ``compare``, each with the folder of a run.

`arguments` says what it takes. `suspects`, `compare` and `pages` are the commands, imported when they are run; `tables`
and `output` are what they show.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dynalens.cli.arguments import parser
from dynalens.cli.output import say
from dynalens.paths import imported
from dynalens.text import printable

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user is one line on stderr and the exit status 2."""
    args = parser().parse_args(argv)
    try:
        with _plain_warnings():
            imported(args.command)(args)
    except OSError as error:
        has_file = error.strerror and error.filename
        say(f"dynalens: {error.strerror}: {error.filename}" if has_file else f"dynalens: {error}", sys.stderr)
        return 2
    except ValueError as error:
        say(f"dynalens: {error}", sys.stderr)
        return 2
    return 0


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings as a terminal's user reads them: no line of code, which is not the user's here, beside them."""
    usual_format = warnings.formatwarning

    def plain(message: Any, *_: Any, **__: Any) -> str:
        return f"dynalens: {printable(str(message))}\n"

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual_format
