"""Help and version come at once: neither torch nor MONAI nor pydantic is imported for them."""

import subprocess
import sys
import time

import pytest

from segfocal._version import __version__


@pytest.mark.parametrize("command", ["train", "predict", "stats", "evaluate", "compare", "export"])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_an_answer_imports_nothing_heavy(command, option):
    code = (
        f"import sys; sys.argv = ['x', '{option}']\n"
        f"from segfocal.cli.{command} import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'monai', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (f"segfocal {__version__}" if option == "--version" else "usage: ") in done.stdout


@pytest.mark.parametrize("command", ["train", "stats", "evaluate", "compare", "export"])
def test_help_takes_less_than_a_third_of_a_second(command):
    code = f"import sys; sys.argv = ['x', '-h']; from segfocal.cli.{command} import main; main()"
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.3


def test_importing_segfocal_imports_no_torch():
    code = "import sys, segfocal; dir(segfocal); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
