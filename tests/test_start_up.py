"""What is slow to import is imported only by what needs it, each in an interpreter of its own."""

import ast
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dynalens
from dynalens.record import load_record
from test_cli import run

SLOW = {"torch", "lightning", "pytorch_lightning", "matplotlib", "scipy", "sklearn", "tensorboard"}
PAGES = {"PIL"}
SHOWING = {"pandas", "numpy"}
IMPORTED = "import sys; print('\\nimported', *{name.split('.')[0] for name in sys.modules})"
COMMANDS = """
from dynalens.cli import main
for arguments in {commands!r}:
    try:
        main(arguments)
    except SystemExit:
        pass
"""


def imported_by(code: str) -> set[str]:
    """Return the packages that are imported when a new interpreter has run the code."""
    ended = subprocess.run([sys.executable, "-c", f"{code}\n{IMPORTED}"], capture_output=True, text=True, check=True)
    return set(ended.stdout.splitlines()[-1].split()[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("run"))


def test_help_and_version_import_neither_arrays_nor_tables() -> None:
    commands = [["--help"], ["suspects", "--help"], ["report", "--help"], ["--version"], ["suspects", "--top", "x"]]
    assert not imported_by(COMMANDS.format(commands=commands)) & (SLOW | PAGES | SHOWING)


def test_records_tables_and_mistakes_need_neither_torch_nor_lightning_nor_pictures(folder: Path) -> None:
    code = f"""
from dynalens import Audit, NoiseRate, Record, SampleStatistics, audit_plan, load_record, removable
record = load_record({str(folder)!r})
record.table(), record.suspects(), record.removable(0.1), record.noise_rate(), list(record.history())
"""
    run, file = str(folder), str(folder / "suspects.json")
    other = str(shutil.copytree(folder, folder.with_name("other")))
    commands = [["suspects", run, "--json", file], ["compare", run, other], ["suspects", str(folder / "nothing")]]
    assert not imported_by(code + COMMANDS.format(commands=commands)) & (SLOW | PAGES)
    assert Path(file).is_file()


def test_pages_are_written_without_torch_and_lightning(folder: Path) -> None:
    assert not imported_by(COMMANDS.format(commands=[["report", str(folder)], ["audit", str(folder)]])) & SLOW
    assert {path.name for path in (folder / "dynalens").glob("*.html")} == {"report.html", "audit.html"}


def test_modules_that_compute_without_a_trainer_import_no_lightning() -> None:
    code = (
        "from dynalens import IndexedDataset, TrainingDynamics, explain, feature_maps, neighbour_scores, roar_datasets"
    )
    assert not imported_by(code) & {"lightning", "pytorch_lightning", "tensorboard"}


PACKAGES = sorted(
    path.relative_to(Path(dynalens.__file__).parents[1])
    for path in Path(dynalens.__file__).parent.rglob("__init__.py")
    if "deferred(" in path.read_text()
)


@pytest.mark.parametrize("path", PACKAGES, ids=str)
def test_deferred_names_are_those_that_type_checkers_read(path: Path) -> None:
    package = ".".join(path.parts[:-1])
    for_types, at_run_time = {}, {}
    for node in ast.walk(ast.parse((Path(dynalens.__file__).parents[1] / path).read_text())):
        if isinstance(node, ast.If):
            imports = [each for each in node.body if isinstance(each, ast.ImportFrom)]
            for_types = {str(each.module).removeprefix(f"{package}."): {a.name for a in each.names} for each in imports}
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "deferred":
            at_run_time = {str(each.arg): set(ast.literal_eval(each.value).split()) for each in node.keywords}
    assert for_types == at_run_time


def test_all_public_names_are_listed_and_no_other_name_is_there() -> None:
    assert set(dynalens.__all__) <= set(dir(dynalens))
    with pytest.raises(AttributeError, match="module 'dynalens' has no attribute 'explian'"):
        _ = dynalens.explian  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'explian'"):
        from dynalens import explian  # type: ignore[attr-defined]  # noqa: F401


def test_modules_of_the_package_are_there_after_it_is_imported() -> None:
    assert "pandas" in imported_by("import dynalens; dynalens.suspicion.compare_runs")


def test_deferred_names_can_be_pickled(folder: Path) -> None:
    statistics = pickle.loads(pickle.dumps(load_record(folder).statistics))
    np.testing.assert_array_equal(statistics.margin, load_record(folder).statistics.margin)
    assert pickle.loads(pickle.dumps(dynalens.TrainingDynamics)) is dynalens.TrainingDynamics
