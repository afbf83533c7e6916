"""Each page of the reference begins with a list of what is on it: the first line of each docstring."""

import functools
import re
from pathlib import Path
from typing import Any

import griffe

_HOOKS = Path(__file__).parent
_ENTRY = re.compile(r"^(?:## (.+)|::: (\S+))$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the list before the first heading of a page that shows docstrings."""
    if not page.file.src_uri.startswith("api/") or "\n::: " not in markdown:
        return markdown
    first = _ENTRY.search(markdown)
    assert first is not None, page.file.src_uri
    return markdown[: first.start()] + _summary(markdown) + "\n\n" + markdown[first.start() :]


def _summary(markdown: str) -> str:
    lines = []
    for heading, name in _ENTRY.findall(markdown):
        if heading:
            lines += ["", f"**{heading}**", ""]
        else:
            lines.append(f"- [`{name.rpartition('.')[2]}`][{name}]: {_first_line(name)}")
    return "\n".join(lines)


def _first_line(name: str) -> str:
    docstring = _package()[name.removeprefix("dynalens.")].docstring
    assert docstring is not None, name
    return re.sub(r"\s+", " ", docstring.value.strip().split("\n\n")[0])


@functools.cache
def _package() -> griffe.Module:
    extensions = griffe.load_extensions(str(_HOOKS / "docstrings.py"))
    package = griffe.load("dynalens", search_paths=[str(_HOOKS.parents[1] / "src")], extensions=extensions)
    assert isinstance(package, griffe.Module)
    return package
