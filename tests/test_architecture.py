"""Imports go in one direction; only `observation` changes a model's mode, hooks or gradients."""

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import dynalens

ROOT = Path(dynalens.__file__).parent
COMPUTING = {"torch", "numpy", "observation"}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
ALLOWED = {
    "observation": {"torch", "numpy"},
    "arguments": set(),
    "paths": set(),
    "keys": set(),
    "defaults": set(),
    "deferred": set(),
    "notices": set(),
    "schedule": {"text"},
    "units": {"torch"},
    "dynamics": {"torch", "numpy", "deferred", "units"},
    "attribution": COMPUTING | {"arguments", "paths", "captum", "zennit"},
    "faithfulness": COMPUTING | {"arguments"},
    "suspicion": {"torch", "numpy", "pandas", "defaults", "deferred", "dynamics", "embeddings", "text"},
    "auditing": {"numpy", "pandas", "cells", "dynamics", "keys", "suspicion", "text"},
    "features": COMPUTING,
    "surrogates": COMPUTING | {"arguments", "attribution", "faithfulness", "sklearn"},
    "robustness": COMPUTING | {"arguments", "attribution", "faithfulness", "captum"},
    "embeddings": COMPUTING | {"deferred", "dynamics", "datasets", "keys", "faiss", "tqdm"},
    "influences": COMPUTING
    | {"arguments", "attribution", "captum", "pandas", "datasets", "dynamics", "embeddings", "keys", "record"},
    "similarity": {"torch", "numpy", "pandas", "arguments", "dynamics", "embeddings", "record", "suspicion"},
    "concepts": COMPUTING
    | {"arguments", "attribution", "dynamics", "features", "text", "captum", "sklearn", "scipy", "pandas", "PIL"},
    "text": set(),
    "cells": {"pandas", "text"},
    "record": {
        "torch",
        "numpy",
        "pandas",
        "arguments",
        "auditing",
        "cells",
        "datasets",
        "deferred",
        "dynamics",
        "embeddings",
        "suspicion",
        "units",
    }
    | {"notices", "text"},
    "records": {"record"},
    "__main__": {"cli"},
    "pictures": {"torch", "numpy", "PIL", "deferred", "dynamics", "text"},
    "unit_labels": {"torch", "numpy", "datasets", "dynamics", "keys"},
    "decisions": {"torch", "numpy", "pandas", "cells", "datasets", "keys", "notices", "text", "unit_labels"},
    "report": {
        "arguments",
        "torch",
        "numpy",
        "pandas",
        "PIL",
        "auditing",
        "cells",
        "datasets",
        "defaults",
        "deferred",
        "dynamics",
        "embeddings",
        "influences",
        "keys",
        "pictures",
        "record",
        "similarity",
        "suspicion",
        "unit_labels",
    }
    | {"notices", "text"},
    "explanations": COMPUTING
    | {
        "arguments",
        "attribution",
        "capture",
        "datasets",
        "dynamics",
        "faithfulness",
        "notices",
        "pictures",
        "record",
        "robustness",
        "schedule",
        "tensorboard",
        "text",
        "PIL",
    },
    "logs": {"torch", "numpy", "PIL", "arguments", "datasets", "dynamics", "features", "host", "pictures", "record"}
    | {"attribution", "capture", "concepts", "embeddings", "faithfulness", "observation", "similarity", "suspicion"}
    | {"auditing", "notices", "schedule", "surrogates", "tensorboard", "text", "units"},
    "tensorboard": {"torch", "numpy", "PIL", "tensorboard", "dynamics", "notices", "pictures", "record", "text"},
    "capture": {"torch", "observation", "dynamics", "keys", "notices", "paths", "units"} | LIGHTNING,
    "identity": {"torch", "numpy", "observation", "capture", "datasets", "dynamics", "keys"} | LIGHTNING,
    "datasets": COMPUTING | {"keys", "text"},
    "host": {"torch", "numpy", "notices", "observation"} | LIGHTNING,
}
STANDARD = {
    "argparse", "array", "base64", "builtins", "collections", "contextlib", "copy", "csv", "dataclasses", "difflib",
    "dis", "errno", "fcntl", "functools", "hashlib", "html", "importlib", "inspect", "io", "itertools", "json", "math",
    "multiprocessing", "numbers", "operator", "os", "pathlib", "random", "re", "shlex", "shutil", "stat", "sys",
    "sysconfig", "tempfile", "threading", "time", "types", "typing", "unicodedata", "warnings", "weakref", "zipfile",
    "zlib",
}  # fmt: skip


def module_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            parts = name.split(".")
            yield parts[1] if parts[0] == "dynalens" and len(parts) > 1 else parts[0]


class Source(NamedTuple):
    """What a module imports when it is imported and anywhere, and the attributes that it names."""

    at_once: set[str]
    anywhere: set[str]
    attributes: list[str]


@functools.cache
def parsed(path: Path) -> Source:
    """Parse a module, once for all tests."""
    module = ast.parse(path.read_text())
    nodes = list(ast.walk(module))
    attributes = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
    return Source(set(imports(module.body)), set(imports(nodes)), attributes)


SOURCES = sorted(ROOT.rglob("*.py"))


def test_modules_import_only_what_they_may() -> None:
    others = {
        str(path.relative_to(ROOT)): parsed(path).anywhere - STANDARD - {module} - ALLOWED[module]
        for path in SOURCES
        if (module := module_of(path)) in ALLOWED
    }
    assert {path: names for path, names in others.items() if names} == {}
    assert {module_of(path) for path in SOURCES} - set(ALLOWED) == {"__init__", "callbacks", "cli"}


def test_captum_is_imported_only_where_it_is_asked_for() -> None:
    assert not {"captum", "zennit", "lxt"} & {name for path in SOURCES for name in parsed(path).at_once}
    anywhere = [str(path.relative_to(ROOT)) for path in SOURCES if "captum" in parsed(path).anywhere]
    asking = ["attribution/captum.py", "attribution/relevance.py", "concepts/tcav.py", "influences/tracin.py"]
    assert anywhere == [*asking, "robustness/attacks.py"]


def test_only_observation_touches_modes_hooks_and_gradient_modes() -> None:
    forbidden = {
        "eval", "train", "training", "register_forward_hook", "register_forward_pre_hook", "requires_grad_",
        "register_full_backward_hook", "enable_grad", "set_grad_enabled", "inference_mode", "backward",
    }  # fmt: skip
    found = {
        f"{path.relative_to(ROOT)} {name}"
        for path in SOURCES
        if module_of(path) != "observation"
        for name in parsed(path).attributes
        if name in forbidden
    }
    # An input of one's own may require gradients, and the Trainer's stage is no mode of a model.
    assert {entry.split()[1] for entry in found if not entry.startswith(("attribution", "identity"))} == set()
    assert {entry.split()[1] for entry in found if entry.startswith("identity")} <= {"training"}
    assert {entry.split()[1] for entry in found if entry.startswith("attribution")} <= {"requires_grad_"}


def test_files_stay_within_400_lines() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: number for path, number in lines.items() if number > 400} == {}


def test_the_public_names_are_sorted_and_exist() -> None:
    assert dynalens.__all__ == sorted(dynalens.__all__, key=lambda name: (name[0].islower(), name))
    assert all(hasattr(dynalens, name) for name in dynalens.__all__)


def test_every_public_name_shows_an_example_that_is_run() -> None:
    examples = {
        name: (inspect.getdoc(getattr(dynalens, name)) or "").partition("Example:")[2] for name in dynalens.__all__
    }
    assert [name for name, example in examples.items() if ">>> " not in example] == []


NO_SUBJECTS = {
    *("it", "its", "that", "their", "these", "they", "this", "those", "what", "whatever"),
    *(
        "after",
        "as",
        "at",
        "before",
        "by",
        "for",
        "from",
        "if",
        "in",
        "of",
        "on",
        "to",
        "when",
        "where",
        "with",
        "without",
    ),
}
"""Words that a name cannot begin with: of whom it speaks is not said, or only later."""


def test_the_names_of_tests_begin_with_their_subject() -> None:
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    tests = {name for path in files for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)}
    assert [name for name in sorted(tests) if name.split("_")[1] in NO_SUBJECTS] == []
