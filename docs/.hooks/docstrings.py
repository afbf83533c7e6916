"""Docstrings and signatures as the site shows them: roles become links and formulas, constants their values."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert

_ROLE = re.compile(r":(?:func|class|meth|mod|attr):`~?([\w.]+)`")
_PAGE = re.compile(r"``docs/([\w-]+\.md)``")
_FOLDER = Path(__file__).parents[1] / "api"
_SHOWN = {name for page in _FOLDER.glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}
# A "<" that would begin a tag, outside of code.
_TAG = re.compile(r"(``[^`]+``|`[^`]+`|^ *(?:>>>|\.\.\.).*$)|<(?=[A-Za-z])", re.MULTILINE)
_FORMULA = re.compile(r":math:`([^`]+)`")
_DISPLAYED = re.compile(r"^ *\.\. math:: (.+(?:\n +.+)*)", re.MULTILINE)


class SiteDocstrings(griffe.Extension):
    """Rewrites each docstring once, before it is parsed, and each signature."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is None:
            return
        text = _TAG.sub(lambda found: found[1] or "&lt;", obj.docstring.value)
        # In a span, as Markdown takes a formula at the beginning of a line for a block.
        text = _FORMULA.sub(lambda found: f"<span>{_mathml(found[1])}</span>", text)
        text = _DISPLAYED.sub(lambda found: f"<p>{_mathml(found[1], display='block')}</p>", text)
        text = _PAGE.sub(lambda page: f"[{_title(page[1])}](../{page[1]})", text)
        text = _ROLE.sub(lambda role: _linked(role[1], obj), text)
        obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Write out in all signatures what dynalens' own constants and names of types stand for."""
        for shown in _SHOWN:
            _spell(pkg[shown.removeprefix(f"{pkg.name}.")], pkg)


def _mathml(formula: str, display: str = "inline") -> str:
    mathml = convert(formula, display=display)
    if "\\" in mathml:
        raise ValueError(f"Expected commands that latex2mathml knows, got {formula!r}. Write it with other commands.")
    return mathml


def _title(page: str) -> str:
    return (_FOLDER.parent / page).read_text().splitlines()[0].removeprefix("# ")


def _linked(name: str, obj: griffe.Object) -> str:
    """Return a link to what a docstring names: an entry of the reference, or a method of one."""
    *_, owner, last = ["", *name.split(".")]
    entry = _entry(last)
    if entry is None and (in_class := _entry(owner or (obj.parent.name if obj.parent else ""))) is not None:
        entry = f"{in_class}.{last}"
    shown = f"{owner}.{last}" if owner[:1].isupper() else last  # a method of another class, with its class
    return f"[`{shown}`][{entry}]" if entry else f"`{shown}`"


def _entry(name: str) -> str | None:
    return next((shown for shown in sorted(_SHOWN) if shown.rpartition(".")[2] == name), None)


def _spell(obj: Any, pkg: griffe.Module) -> None:
    obj = obj.final_target if obj.is_alias else obj
    if obj.is_function or obj.is_class:
        for parameter in obj.parameters:
            parameter.annotation = _spelled(parameter.annotation, pkg)
            parameter.default = _spelled(parameter.default, pkg)
    if obj.is_function:
        obj.returns = _spelled(obj.returns, pkg)
    if obj.is_attribute:
        obj.annotation, obj.value = _spelled(obj.annotation, pkg), _spelled(obj.value, pkg)
    if obj.is_class or obj.is_module:
        members = [member for member in obj.all_members.values() if not member.is_alias or member.inherited]
        for member in members:
            _spell(member, pkg)


def _spelled(expression: Any, pkg: griffe.Module) -> Any:
    """Return an expression with the value of each constant of the package in place of its name."""
    if isinstance(expression, list):
        return [_spelled(part, pkg) for part in expression]
    if not isinstance(expression, griffe.Expr):
        return expression
    if isinstance(expression, griffe.ExprName):
        package, _, path = expression.canonical_path.partition(".")
        try:
            target = pkg[path] if package == pkg.name else None
        except KeyError:  # a local name
            return expression
        return _spelled(target.value, pkg) if target is not None and target.is_attribute else expression
    for field in dataclasses.fields(expression):
        if field.name != "parent":
            setattr(expression, field.name, _spelled(getattr(expression, field.name), pkg))
    return expression
