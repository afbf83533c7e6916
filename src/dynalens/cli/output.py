"""Lines and tables as a terminal shows them."""

import sys
from typing import TextIO

from dynalens.text import printable


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines of which a terminal obeys no letter, in an encoding that may lack some of them."""
    stream = stream or sys.stdout
    lines = "\n".join(printable(line) for line in text.split("\n"))
    encoding = stream.encoding or "utf-8"
    print(lines.encode(encoding, "backslashreplace").decode(encoding), file=stream)
