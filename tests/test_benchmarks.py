"""Every benchmark runs, on tiny sizes; what it measures is not asserted."""

import re
import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0")
def test_tracking_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(BENCHMARKS / "tracking.py"))["main"](["--quick"])
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert [table.splitlines()[0].split(":")[0] for table in tables] == [
        "Statistics",
        "All hooks, identity and capture",
        "The same with a model of some work",
        "The epoch's end",
        "Bytes for each sample",
    ]
    for table in tables:
        names, *rows = table.splitlines()[1:]
        assert rows
        assert all(len(re.findall(r"\S+(?: \S+)*", row)) == len(re.findall(r"\S+(?: \S+)*", names)) for row in rows)
    samples, record, _, epoch_under_way = tables[-1].splitlines()[-1].split()
    assert (samples, record, epoch_under_way) == ("1,000", "52", "28")
