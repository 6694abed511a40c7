"""Each benchmark runs; its figures are another matter."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_training_benchmark_prints_every_combination_and_its_ratios():
    command = [sys.executable, "benchmarks/train_throughput.py", "--quick", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [
        line.split(" | ") for line in result.stdout.splitlines() if line.startswith(("| hand", "| bare", "| metrad"))
    ]
    assert [row[0].lstrip("| ") for row in rows] == ["hand-written Lightning", *["bare loop", "metrad"] * 4]
    assert all(float(row[3]) > 0 for row in rows)
    assert [float(row[4]) > 0 for row in rows if row[0] == "| metrad"] == [True] * 4
    assert "auto" in result.stdout
