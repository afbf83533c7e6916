"""Folders of strangers: whatever stands in them, a record answers as usual, or one error names the file."""

import functools
import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynalens.dynamics import TrainingDynamics
from dynalens.embeddings import SimilarSamples
from dynalens.record import Record, RecordFolder, RecordMeta, load_record
from dynalens.report import write_report
from dynalens.units import dense, multi_label, regression

N = 30
COUNT = int(os.environ.get("DYNALENS_TEST_STRANGE_RECORDS", "60"))
FIRST = int(os.environ.get("DYNALENS_TEST_FIRST_STRANGE_RECORD", "0"))
"""Every change is drawn from its number: these are the ones from here on."""
MOST_SECONDS = 20
"""A hang is an error, a busy machine is none."""

Array = np.ndarray[Any, Any]


def classes(dynamics: TrainingDynamics, order: Any) -> None:
    logits = torch.randn(N, 3)
    logits[torch.arange(N), torch.arange(N) % 3] += 2
    dynamics.update(order, logits[order], (torch.arange(N) % 3)[order])


def several_labels(dynamics: TrainingDynamics, order: Any) -> None:
    given = (torch.arange(N)[:, None] + torch.arange(4)) % 3 == 0
    dynamics.update_units(order, multi_label(torch.randn(N, 4), given.float(), None))


def numbers(dynamics: TrainingDynamics, order: Any) -> None:
    targets = torch.arange(2.0 * N).view(N, 2)
    residuals = torch.randn(N, 2)
    dynamics.update_units(order, regression(residuals, targets, residuals**2, torch.ones(N, 2, dtype=torch.bool)))


def pixels(dynamics: TrainingDynamics, order: Any) -> None:
    masks = (torch.arange(N)[:, None, None] + torch.arange(9).view(3, 3)) % 3
    dynamics.update_units(order, dense(torch.randn(N, 3, 3, 3), masks))


KINDS: dict[str, Callable[[TrainingDynamics, Any], None]] = {
    "classes": classes, "several labels": several_labels, "numbers": numbers, "pixels": pixels,
}  # fmt: skip


@functools.cache
def made(kind: str, folder: Path) -> Path:
    """Write a record of three epochs with everything that may lie beside it."""
    torch.manual_seed(5)
    path, dynamics = folder / kind, TrainingDynamics(N, mean_probabilities=kind == "classes")
    writer = RecordFolder(path)
    for epoch in range(3):
        KINDS[kind](dynamics, torch.arange(N))
        writer.write_history(epoch, dynamics.end_epoch(epoch))
    names = ["cat", "dog", "eel", "fox"]
    ids = np.array([f"id {i}" for i in range(N)]) if kind == "classes" else None
    writer.write_names([f"{i}.png" for i in range(N)])
    writer.write(dynamics.compute(), np.arange(N), RecordMeta(N, [0, 1, 2], [], names), ids)
    writer.write_neighbours(np.linspace(0, 1, N), [0, 1, 2])
    writer.write_pictures({0: np.zeros((4, 4, 3), np.uint8), 7: np.zeros((4, 4, 3), np.uint8)})
    similar = np.array([[1, 2, 3], [4, 5, 6]])
    writer.write_similar(SimilarSamples(np.array([0, 7]), similar, similar + 3), [0, 1, 2])
    writer.write_sentences({0: [3, 4], 7: [4]}, {3: "three", 4: "four"}, {5: "0.5, 2"})
    writer.begin_epoch(3)
    if kind == "classes":
        load_record(path).audit_plan(4)
    return path


# What may be wrong with an array.
CHANGES: dict[str, Callable[[Array, random.Random], Array]] = {
    "cut": lambda a, draw: a[: draw.randrange(max(len(np.atleast_1d(a)), 1))] if a.ndim else a,
    "longer": lambda a, draw: np.concatenate([a, a[:1]]) if a.ndim else np.stack([a, a]),
    "twice": lambda a, draw: np.concatenate([a, a]) if a.ndim else np.stack([a, a]),
    "turned": lambda a, draw: a.T if a.ndim > 1 else a[None],
    "column": lambda a, draw: a[..., None],
    "first entry": lambda a, draw: a.ravel()[:1].reshape(()) if a.size else a,
    "repeated": lambda a, draw: np.repeat(a.ravel()[:1], a.size).reshape(a.shape) if a.size else a,
    "shuffled": lambda a, draw: np.random.default_rng(draw.randrange(99)).permuted(a, axis=0) if a.ndim else a,
    "as texts": lambda a, draw: a.astype(str),
    "as bytes": lambda a, draw: a.astype(str).astype("S9"),
    "as bool": lambda a, draw: a != a.ravel()[:1] if a.size else a.astype(bool),
    "as complex": lambda a, draw: a.astype(complex) if a.dtype.kind in "iufb" else a,
    "as float16": lambda a, draw: a.astype(np.float16) if a.dtype.kind in "iufb" else a,
    "as int8": lambda a, draw: np.nan_to_num(a.astype(float)).astype(np.int8) if a.dtype.kind in "iufb" else a,
    "as int64": lambda a, draw: np.nan_to_num(a.astype(float)).astype(np.int64) if a.dtype.kind in "iufb" else a,
    "as uint64": lambda a, draw: np.nan_to_num(a.astype(float)).astype(np.int64).astype(np.uint64)
    if a.dtype.kind in "iufb"
    else a,
    "as dates": lambda a, draw: np.nan_to_num(a.astype(float)).astype(np.int64).astype("M8[D]")
    if a.dtype.kind in "iufb"
    else a,
    "as records": lambda a, draw: np.zeros(a.shape, [("x", "f4"), ("y", "i4")]),
    "as floats": lambda a, draw: a.astype(np.float64) if a.dtype.kind in "iufb" else a,
    "as long doubles": lambda a, draw: a.astype(np.longdouble) if a.dtype.kind in "iufb" else a,
} | {
    f"{value:g} in {count}": functools.partial(
        lambda a, draw, value, count: put(a, draw, value, count), value=value, count=count
    )
    for value in (-1.0, -2.0, -(2.0**31), 0.0, 0.5, 1.0, 7.0, 300.0, 2.0**15 - 1, 2.0**31 - 1, 2.0**40, 2.0**62, 1e308,
                  -1e308, 5e-324, np.nan, np.inf, -np.inf)
    for count in ("one", "some", "all")
}  # fmt: skip


def put(a: Array, draw: random.Random, value: float, count: str) -> Array:
    """Put a number into entries of an array, as far as its dtype can hold it; a whole one of another dtype else."""
    if a.dtype.kind not in "iufb" or not a.size:
        return a
    changed = a.astype(np.float64) if not np.isfinite(value) or value != int(value) else a.copy()
    if changed.dtype.kind in "iu" and not np.iinfo(changed.dtype).min <= value <= np.iinfo(changed.dtype).max:
        changed = changed.astype(np.int64 if abs(value) < 2**63 else np.float64)
    flat = changed.ravel()
    size = {"one": 1, "some": max(flat.size // 2, 1), "all": flat.size}[count]
    places = draw.sample(range(flat.size), size)
    with np.errstate(over="ignore"):  # infinity, in float32
        flat[places] = value
    return flat.reshape(a.shape)


VALUES: list[Any] = [
    None, True, -1, 0, 1, 29, 31, 2**40, 1e308, "", "x", "\ud800", "=1+1", [], [0], [0, 0], [-1], ["a"], [None], [[0]],
    {}, {"0": 1}, {"x": 1}, {"-1": 2}, [2**40], ["a"] * 40, ["\ud800"], list(range(2000)), [1.5], float("nan"),
    [2, 1, 0],
    [0, 1, 2, 5], {"0": "x"}, {"0": -1}, {str(2**40): 1}, [0, 1],
]  # fmt: skip


def change(folder: Path, draw: random.Random) -> str:
    """Change one array, or one field of a JSON file, and say which."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".npz", ".json"))
    weights = [8 if path.name == "record.npz" else 1 for path in files]
    file = draw.choices(files, weights)[0]
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        if isinstance(content, dict) and draw.random() < 0.8:
            name = draw.choice([*content, "foreign"])
            value = draw.choice(VALUES)
            file.write_text(json.dumps(content | {name: value}))
            return f"{file.name}: {name} = {str(value)[:40]}"
        value = draw.choice([*VALUES, content[:-1] if isinstance(content, list) else {}])
        file.write_text(json.dumps(value))
        return f"{file.name} = {str(value)[:40]}"
    with np.load(file) as stored:
        arrays = dict(stored)
    name = draw.choice(sorted(arrays))
    if name == "meta" and draw.random() < 0.8:
        inside = json.loads(arrays["meta"].tobytes())
        field, value = draw.choice([*inside, "foreign"]), draw.choice(VALUES)
        arrays["meta"] = np.frombuffer(json.dumps(inside | {field: value}).encode(), np.uint8)
        np.savez(file, **arrays)
        return f"{file.name}: meta: {field} = {str(value)[:40]}"
    how = draw.choice([*CHANGES, "removed", "renamed"])
    if how in ("removed", "renamed"):
        values = arrays.pop(name)
        arrays |= (
            {draw.choice(["x", "0", "-1", "unit", "target", "sample_id", "../x"]): values} if how == "renamed" else {}
        )
    else:
        arrays[name] = CHANGES[how](arrays[name], draw)
    np.savez(file, **arrays)
    return f"{file.name}: {name} {how}"


def report(record: Record) -> None:
    assert record.folder is not None
    write_report(record, record.folder / "page.html")


QUESTIONS: dict[str, Callable[[Record], Any]] = {
    "table": lambda record: record.table(),
    "suspects": lambda record: record.suspects(5),
    "precision": lambda record: record.suspects(precision=0.5),
    "ids": lambda record: record.suspect_ids(3),
    "shown ids": lambda record: record.shown_ids(),
    "noise rate": lambda record: record.noise_rate(),
    "clean": lambda record: record.clean_indices(),
    "weights": lambda record: record.weights(),
    "removable": lambda record: record.removable(0.5),
    "history": lambda record: list(record.history()),
    "pictures": lambda record: record.pictures(),
    "neighbours": lambda record: record.neighbours(),
    "relabelled": lambda record: record.relabelled([(0, 0)] * N),
    "plan": lambda record: record.audit_plan(6),
    "report": report,
    "csv": lambda record: record.table().to_csv(),
}


def answers(folder: Path) -> dict[str, str]:
    """Ask a record everything, and return the errors by question; "load" where it cannot be read."""
    errors: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a history that does not count, and of flags
        try:
            record = load_record(folder)
        except (ValueError, FileNotFoundError) as error:
            return {"load": str(error)}
        for name, ask in QUESTIONS.items():
            try:
                ask(record)
            except ValueError as error:  # noqa: PERF203  # each question is asked whatever another one says
                errors[name] = str(error)
    return errors


usual_answers = functools.cache(answers)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("good")
    return lambda kind: made(kind, folder)


@pytest.mark.parametrize("number", range(FIRST, FIRST + COUNT))
def test_a_record_with_one_thing_changed_answers_or_one_error_names_the_file(
    tmp_path: Path, good: Callable[[str], Path], number: int
) -> None:
    draw = random.Random(number)
    source = good(draw.choice(list(KINDS)))
    folder = Path(shutil.copytree(source, tmp_path / "record"))
    begin = time.process_time()
    changed = change(folder, draw)
    usual = usual_answers(source)
    for name, error in answers(folder).items():
        file = changed.split(":")[0].split(" ")[0]
        is_named = str(folder) in error and (file in error or error.startswith("Expected a record of version"))
        assert is_named or usual.get(name) == error, (changed, name, error)
    assert time.process_time() - begin < MOST_SECONDS, changed
