"""The benchmark of faithfulness runs and counts what it should."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def test_the_benchmark_of_curves_runs_quickly_and_counts_few_launches(capsys: pytest.CaptureFixture[str]) -> None:
    import faithfulness

    faithfulness.main(["--quick"])
    out = capsys.readouterr().out
    for name in ("bound float32", "own exact", "own adaptive float32", "RISE"):
        assert re.search(rf"{name} .* CPU s, .* x bound", out)
    assert float(re.findall(r"curves within (\S+);", out)[0]) < 1e-6
    counts = [int(count) for count in re.findall(r"both curves, \w+ baseline: (\d+)", out)]
    assert len(counts) == 2
    assert max(counts) <= 50
