"""Percentages are written in one way everywhere: a number, a space, and the sign."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import dynalens

SOURCE = Path(dynalens.__file__).parent
ROOT = SOURCE.parents[1]


def without_a_space(text: str) -> list[str]:
    return re.findall(r"\S*\d%(?!\})\S*", text)  # a format of Python's, such as {rate:.1%}, is a user's own code


def mistakes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from without_a_space(node.value)
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            yield from re.findall(r"\.\d%", ast.unparse(node.format_spec))
        if isinstance(node, ast.JoinedStr):
            for value, text in pairwise(node.values):
                if isinstance(value, ast.FormattedValue) and ast.unparse(text).startswith(("'%", '"%')):
                    yield ast.unparse(node)


def test_texts_of_the_package_have_a_space_before_the_sign() -> None:
    files = [*SOURCE.rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    with_sign = {path: source for path in files if "%" in (source := path.read_text())}
    assert [(path.name, text) for path, source in with_sign.items() for text in mistakes(ast.parse(source))] == []


def test_pages_have_a_space_before_the_sign() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *SOURCE.rglob("*.js")]
    texts = {path: re.sub(r'"100%"', "", path.read_text()) for path in pages}  # a width in CSS
    assert [(path.name, text) for path in pages for text in without_a_space(texts[path])] == []


def test_each_way_to_leave_the_space_out_is_noticed() -> None:
    ways = ['"over 99%"', 'f"{rate:.1%}"', 'f"{rate:.0f}% of all"']
    assert [bool(list(mistakes(ast.parse(way)))) for way in ways] == [True, True, True]
    assert without_a_space("it is 28.8% and 5 %, {rate:.1%}") == ["28.8%"]
