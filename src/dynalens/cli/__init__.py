"""The command line: ``dynalens suspects``, ``audit``, ``report`` and ``compare``, each with the folder of a run.

`arguments` says what it takes. `suspects`, `compare` and `pages` are the commands, imported when they are run; `tables`
and `output` are what they show.
"""

import sys
from collections.abc import Sequence

from dynalens.cli.arguments import parser
from dynalens.cli.output import say
from dynalens.paths import imported

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user is one line on stderr and the exit status 2."""
    args = parser().parse_args(argv)
    try:
        imported(args.command)(args)
    except OSError as error:
        has_file = error.strerror and error.filename
        say(f"dynalens: {error.strerror}: {error.filename}" if has_file else f"dynalens: {error}", sys.stderr)
        return 2
    except ValueError as error:
        say(f"dynalens: {error}", sys.stderr)
        return 2
    return 0
