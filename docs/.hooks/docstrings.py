"""Docstrings as the site shows them: roles become links and formulas, and an example a section of its own."""

import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert

_LINK = re.compile(r":(?:func|class|meth|mod|attr):`~?([\w.]+)`")
_PAGES = Path(__file__).parents[1] / "api"
_SHOWN = {name for page in _PAGES.glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}
# A "<" that would begin a tag, outside of code.
_TAG = re.compile(r"(``[^`]+``|`[^`]+`|^ *(?:>>>|\.\.\.).*$)|<(?=[A-Za-z])", re.MULTILINE)
_FORMULA = re.compile(r":math:`([^`]+)`")


class SiteDocstrings(griffe.Extension):
    """Rewrites each docstring once, before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is None:
            return
        text = _TAG.sub(lambda found: found[1] or "&lt;", obj.docstring.value)
        # In a span, as Markdown takes a formula at the beginning of a line for a block.
        text = _FORMULA.sub(lambda found: f"<span>{convert(found[1])}</span>", text)
        text = _LINK.sub(_linked, text)
        obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)


def _linked(role: re.Match[str]) -> str:
    name = role[1].rpartition(".")[2]
    found = [shown for shown in _SHOWN if shown.rpartition(".")[2] == name]
    return f"[`{name}`][{found[0]}]" if found else f"`{name}`"
