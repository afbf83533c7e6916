"""Put a template, its style, its script and its content into one HTML file that needs no network."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynalens.record import replacement_file

_ASSETS = Path(__file__).with_name("assets")


def write_page(
    name: str, title: str, path: str | Path, content: Mapping[str, Any], scripts: Sequence[str] = ()
) -> Path:
    """Write the page ``name`` and return its path.

    Args:
        name: Name of the template and of the script in ``assets``.
        title: Any text. All its letters are shown as they are.
        path: The file.
        content: What the script reads, as JSON.
        scripts: Further scripts in ``assets``. They come before the page's own script.
    """
    # Inside a script element only "<" could end it; as an escape it is the same text to JSON.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = "\n".join(_asset(f"{script_name}.js") for script_name in ("common", *scripts, name))
    parts = {"title": html.escape(title), "style": _asset("style.css"), "script": script, "content": text}
    # In one pass, so that nothing that is put in is searched again.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset(f"{name}.html"))
    with replacement_file(Path(path)) as temporary:
        # A file name need not be UTF-8: what is not gets an escape, which JSON reads.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
