"""Pages in one file that need no network: a template with its style, its script and its content."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ASSETS = Path(__file__).with_name("assets")


def assembled(name: str, title: str, content: Mapping[str, Any], scripts: Sequence[str] = ()) -> str:
    """Return the page ``name`` as text.

    Args:
        name: Of the template and the script in ``assets``.
        title: Any text; it is shown as it is, whatever letters it has.
        content: What the script reads, as JSON.
        scripts: Further scripts of ``assets``, which come before the page's own.
    """
    # Inside a script element only "<" could end it; as an escape it is the same text to JSON.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = "\n".join(_asset(f"{each}.js") for each in ("common", *scripts, name))
    parts = {"title": html.escape(title), "style": _asset("style.css"), "script": script, "content": text}
    # In one pass, so that nothing that is put in is searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset(f"{name}.html"))


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
