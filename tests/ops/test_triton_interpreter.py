"""The Triton kernels on the CPU, in a process that imports triton as an interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("triton", reason="triton is not installed here")


@pytest.mark.slow
@pytest.mark.parametrize("tests", ["interpreted_triton.py", "interpreted_triton_loss.py"])
def test_in_the_interpreter(tests):
    inner = Path(__file__).with_name(tests)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--maxfail=3", "-p", "no:cacheprovider", str(inner)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]
    assert re.search(r"^[1-9]\d\d passed", run.stdout, re.MULTILINE), run.stdout[-2000:]
