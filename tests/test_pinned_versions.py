"""The pinned versions can be installed together, wherever segfocal says that it runs.

A wheel at hand may want less than the one of the same version that others download: torch for CUDA
brings a triton of its own, torch for the CPU none. So the resolver is asked, for each system.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "python"),
    [
        ("x86_64-manylinux_2_28", "3.10"),
        ("x86_64-manylinux_2_28", "3.11"),
        ("x86_64-manylinux_2_28", "3.14"),
        ("aarch64-manylinux_2_28", "3.12"),
        ("aarch64-apple-darwin", "3.13"),
        ("x86_64-pc-windows-msvc", "3.10"),
    ],
)
def test_the_pinned_versions_agree(system, python):
    compiling = [sys.executable, "-m", "uv", "--no-config", "pip", "compile", "--quiet"]
    where = ["--python-platform", system, "--python-version", python]
    what = ["pyproject.toml", "--extra", "dev", "-c", "constraints.txt"]
    done = subprocess.run(
        [*compiling, *where, *what, "--no-build", "--prerelease", "if-necessary-or-explicit"],
        cwd=ROOT,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},  # torch asks for it
        capture_output=True,
        text=True,
        check=False,
    )

    if done.returncode != 0 and "No solution found" not in done.stderr:
        pytest.skip(f"the package index cannot be asked: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    assert "torch==" in done.stdout
    assert "monai==" in done.stdout
