"""benchmarks/gpu.py: what it runs, and what it does when time is up. That needs no GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(code):
    return [sys.executable, "-c", code]


def test_a_stage_s_output_is_shown_and_kept(script, tmp_path, capsys):
    stage = script.Stage("one", python("import sys; print('seen'); sys.exit(3)"), 60)
    outcome = script.run(stage, tmp_path, 60)
    assert outcome.status == 3
    assert (tmp_path / "one.txt").read_text() == "seen\n"
    assert capsys.readouterr().out == "seen\n"


def test_a_stage_is_stopped_when_its_time_is_up_and_keeps_what_it_printed(
    script, tmp_path, monkeypatch
):
    monkeypatch.setattr(script, "FEWEST_SECONDS", 0.1)
    slow = script.Stage("slow", python("import time; print('first'); time.sleep(60)"), 600)
    outcome = script.run(slow, tmp_path, 4.0)
    assert outcome.status == "stopped"
    assert outcome.seconds < 30
    assert (tmp_path / "slow.txt").read_text() == "first\n"


def test_a_stage_without_time_is_left_out(script, tmp_path):
    outcome = script.run(script.Stage("late", python("print('no')"), 60), tmp_path, 5.0)
    assert outcome.status == "left out"
    assert not (tmp_path / "late.txt").exists()


def test_every_test_that_needs_a_gpu_is_run_and_the_kernels_first(script):
    tests, *benchmarks, ranks = script.stages(1)
    marked = {Path(word).name for word in tests.command if word.startswith("tests/")}
    assert {"test_triton_gpu.py", "test_triton_loss_gpu.py", "test_modules.py"} <= marked
    assert [word for word in ranks.command if word.startswith("tests/")] == [
        "tests/ranks/test_gpu.py"
    ]
    assert "tests/ranks/test_gpu.py" not in tests.command
    assert "--continue-on-collection-errors" in tests.command
    for stage in benchmarks:
        assert (SCRIPT.parents[1] / stage.command[1]).exists()


def test_without_a_gpu_it_says_so(tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, SCRIPT, "--out", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 2
    assert "needs a CUDA device, and torch sees none." in run.stderr
