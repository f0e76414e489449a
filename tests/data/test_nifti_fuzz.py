import subprocess
import sys

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on address space")
def test_no_mutated_file_hangs_crashes_or_takes_more_memory_than_the_cap():
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.fuzz_nifti"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "survived\n"
