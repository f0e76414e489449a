"""Every example and the benchmark run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments):
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_the_example_runs(path):
    assert "step 5: loss " in run(path)


@pytest.mark.slow
def test_the_benchmark_checks_values_before_it_times():
    benchmark = ROOT / "benchmarks" / "losses.py"
    out = run(benchmark, "--size", "12", "--repeats", "1", "--no-compile")
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| segfocal Dice")]
    assert [row[3] for row in rows if row[0] == "| segfocal DiceFocalLoss"] == ["1.00"] * 4


@pytest.mark.slow
def test_the_lesionwise_benchmark_checks_values_before_it_times():
    out = run(
        ROOT / "benchmarks" / "lesionwise.py", "--size", "18", "--lesions", "1", "5",
        "--repeats", "1",
    )  # fmt: skip
    assert out.count("| DiceFocalLoss | 1.0 |") == 4
    assert out.count("| blob loss, a loop |") == 4


@pytest.mark.slow
def test_the_loader_benchmark_compares_the_crops_before_it_times(phantom):
    out = run(
        *(ROOT / "benchmarks" / "loader.py", "--root", phantom, "--patch", 16, 16, 16),
        *("--patches", 4, "--repeats", 1, "--check", 60, "--no-memory", "--threads", 1),
    )
    assert out.count("| yes | MONAI, 1 patch a volume |") == 1
    assert out.count(" x crop alone, ") == 6
