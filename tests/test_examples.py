"""Every example and the benchmark run as a user runs them."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


FOUND = {
    "01_loss_in_a_monai_script": [r"^step 6: loss \d", r"^file: PHANTOM_001_seg.nii.gz$"],
    "02_small_lesions": [r"^step 5: loss \d"],
    "03_nnunet_trainer": [r"^train_loss \d", r"^checkpoint written: True$"],
    "04_partial_labels": [
        r"site A: background [\d.]+, liver [\d.]+, spleen 0$",
        r"site B: background [\d.]+, liver 0, spleen [\d.]+$",
    ],
    "05_inference": [
        r"^PHANTOM_TEST_001: \(32, 36, 28\) RAS, affine of the source: True, WT in ",
        r"^PHANTOM_TEST_002: \(32, 36, 28\) LPS, affine of the source: True, WT in ",
        r"^files: PHANTOM_TEST_001.nii.gz, PHANTOM_TEST_001_WT.nii.gz, ",
    ],
    "06_plots": [r"^cross-entropy: 50.0% of the pull at the prior is the lesions'$", r"^picture: "],
}
"""What each example prints when it does what it says."""


def run(*arguments):
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_the_example_runs_and_finds_what_it_says(path, tmp_path):
    if path.stem == "03_nnunet_trainer" and importlib.util.find_spec("nnunetv2") is None:
        pytest.skip("nnunetv2 is not installed (tests/test_nnunet_trainer.py has a stand-in)")
    picture = tmp_path / "plots.png"
    out = run(path, *(["--out", picture] if path.stem == "06_plots" else []))
    for pattern in FOUND[path.stem]:
        assert re.search(pattern, out, re.MULTILINE), (pattern, out)
    if path.stem == "06_plots":
        pixels = matplotlib.image.imread(picture)[..., :3]
        assert pixels.shape[1] > 1500
        assert len(np.unique((pixels * 255).astype(int).reshape(-1, 3), axis=0)) > 500
    if path.stem == "04_partial_labels":
        masked, joined = map(
            float, re.findall(r"Dice on full labels: .* spleen ([\d.]+)$", out, re.MULTILINE)
        )
        assert masked > joined + 0.5


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
