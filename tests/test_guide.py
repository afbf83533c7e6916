"""All code of the guide runs, and its commands and the README's are ones that the command line takes.

The README's Python is run by ``test_readme.py``.
"""

import functools
import inspect
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn import datasets
from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import dynalens
from dynalens.cli import parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOYS = DOCS / "example-data.md"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

AS_THEY_ARE = {TOYS, DOCS / "less-data.md"}
"""Pages that run with all their samples: on fewer the second would find too few that were never forgotten."""
NEEDED = {"cleanlab.md": ("cleanlab", "datasets")}  # not there with the oldest releases

pytestmark = pytest.mark.filterwarnings(
    "ignore:GPU available",
    "ignore:Starting from v1.9.0",
    "ignore:The inplace keyword in DataFrame",  # cleanlab calls what newer releases of pandas deprecate
)


def parsed(page: Path) -> Document:
    return Sybil([PythonCodeBlockParser()], pattern="*.md", path=str(page.parent)).parse(page)


def smaller(page: Path, folder: Path) -> Document:
    """Parse a copy of the page with a quarter of the samples and two epochs at most; all else is as the page has it."""
    text = re.sub(r"\b(?:400|600|800|1000)\b", lambda size: str(int(size[0]) // 4), page.read_text())
    copy = folder / page.name
    copy.write_text(re.sub(r"max_epochs=(?!1\b)\d+", "max_epochs=2", text))
    return parsed(copy)


@pytest.fixture(scope="module")
def read_once() -> Iterator[None]:
    """The digits of the example data are the same for each page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_digits", functools.cache(datasets.load_digits))
        yield


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if "```python" in page.read_text()], ids=name_of)
def test_the_python_of_a_page_runs_after_that_of_the_example_data(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in NEEDED.get(page.name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    read = parsed if page in AS_THEY_ARE else functools.partial(smaller, folder=tmp_path)
    document = read(page)
    if page != TOYS:
        setting = read(TOYS)
        for example in setting.examples():
            example.evaluate()
        document.namespace.update(setting.namespace)
    examples = list(document.examples())
    assert len(examples) == len(re.findall("^```python$", page.read_text(), re.MULTILINE))
    for example in examples:
        example.evaluate()


def test_a_page_with_python_says_where_the_lines_before_it_stand() -> None:
    texts = {name_of(page): page.read_text() for page in PAGES[1:] if page != TOYS}
    assert [page for page, text in texts.items() if "```python" in text and "(example-data.md)" not in text] == []


def test_a_page_whose_code_fails_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    first, second = parsed(page).examples()
    first.evaluate()
    with pytest.raises(AssertionError):
        second.evaluate()


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each line of the page's blocks without a language, or in a shell's; comments left out."""
    blocks = re.findall(r"^```(\S*).*?\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    for block in (block for language, block in blocks if language in ("", "bash", "sh", "shell", "console")):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


def check_command(words: list[str]) -> None:
    program, *arguments = [word for word in words if not re.match("[A-Z_]+=", word)]
    name = Path(program).name
    if name == "dynalens":
        parser().parse_args(arguments)
    elif name.startswith("python"):
        script = next((word for word in arguments if word.endswith(".py")), None)
        assert script is None or script.startswith("train") or (ROOT / script).is_file(), script
    elif name == "pip":
        section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]\n")[1].split("\n[")[0]
        extras = re.findall(r"^(\w+) = \[$", section, re.MULTILINE)
        asked = {extra for word in arguments for extra in re.findall(r"\[(.*)\]", word)}
        assert {part for extra in asked for part in extra.split(",")} <= set(extras) | {"signatures", "datalab"}
    else:
        assert name in {"tensorboard", "mkdocs", "torchrun", "bash", "%load_ext", "%tensorboard"}, name


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=name_of)
def test_the_commands_of_a_page_are_ones_that_there_are(page: Path) -> None:
    for words in commands(page):
        check_command(words)


@pytest.mark.parametrize(
    "words", [["dynalens", "suspects"], ["dynalens", "report", "RUN", "--colour"], ["pip", "install", "dynalens[x]"]]
)
def test_a_command_that_there_is_not_would_be_noticed(words: list[str]) -> None:
    with pytest.raises((SystemExit, AssertionError)):
        check_command(words)


def referenced() -> list[str]:
    """The dotted names that the pages of the reference describe."""
    pages = "\n".join(page.read_text() for page in sorted((DOCS / "api").glob("*.md")))
    return re.findall(r"^::: (\S+)$", pages, re.MULTILINE)


def test_the_reference_has_every_public_name_once() -> None:
    # Under its own module where a module has the same name as the function in it.
    shown = [re.sub(r".*\.(\w+)\.\1$", r"dynalens.\1", name) for name in referenced()]
    assert len(shown) == len(set(shown))
    assert {f"dynalens.{name}" for name in dynalens.__all__} <= set(shown)


def test_an_entry_of_the_reference_is_no_module_of_the_same_name() -> None:
    entries = [(name, pkgutil.resolve_name(name)) for name in referenced()]
    homonyms = {
        name: f"{shown.__module__}.{shown.__name__}"
        for name, shown in entries
        if not inspect.ismodule(shown) and shown.__module__.endswith(f".{shown.__name__}")
    }
    assert list(homonyms) == list(homonyms.values())
    assert homonyms


def test_every_page_stands_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1].split("\nvalidation:")[0]
    named = {DOCS / path for path in re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)}
    folders = {DOCS / path for path in re.findall(r"(\S+)/$", navigation, re.MULTILINE)}
    pages = set(DOCS.rglob("*.md"))
    assert named | {page for page in pages if page.parent in folders} == pages


def links(page: Path) -> Iterator[Any]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return (link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link)


def test_links_and_pictures_of_a_page_are_there() -> None:
    missing = {name_of(page): [link for link in links(page) if not (page.parent / link).exists()] for page in PAGES}
    assert {page: broken for page, broken in missing.items() if broken} == {}
