"""Write lines and tables for a terminal."""

import sys
from pathlib import Path
from typing import TextIO

from dynalens.text import printable


def output_file(path: str | Path, ending: str) -> Path:
    """Return the file that a command writes. Its folders are made, and a name without an ending gets this one.

    Example:
        >>> output_file("report", ".html").name, output_file("report.htm", ".html").name
        ('report.html', 'report.htm')
    """
    file = Path(path)
    file = file if file.suffix or file.is_dir() else file.with_name(file.name + ending)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines without letters that would control the terminal. Its encoding may lack some letters."""
    stream = stream or sys.stdout
    lines = "\n".join(printable(line) for line in text.split("\n"))
    encoding = stream.encoding or "utf-8"
    print(lines.encode(encoding, "backslashreplace").decode(encoding), file=stream)
