"""The benchmarks run."""

import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def test_the_benchmark_of_attribution_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 16, 16, 3), np.uint8), np.arange(40, dtype=np.uint8) % 10
    np.savez(tmp_path / "toy.npz", images=images, labels=labels)
    command = [sys.executable, str(ROOT / "benchmarks" / "attribution.py"), "--quick", "--rounds", "1", "--sizes", "32"]
    result = subprocess.run(
        [*command, "--data", str(tmp_path), "--train", "24"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    for line in ("saliency and grad_cam", "integrated_gradients(2)", "times the bound", "completeness gap of 2 steps"):
        assert line in result.stdout
