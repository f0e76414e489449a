"""segfocal-evaluate in processes of its own."""

import subprocess
import sys
from pathlib import Path

import segfocal


def evaluate_by_two_processes(pred, data, out):
    command = [sys.executable, "-m", "segfocal.cli.evaluate", "--pred", pred, "--ref", data]
    subprocess.run(
        [*command, "--out", out, "--workers", "2", "--quiet"],
        check=True,
        env={"PYTHONPATH": str(Path(segfocal.__file__).parents[1])},
    )


def modules_of_an_evaluation(pred, data):
    """What it imports, and what it prints."""
    code = (
        "import sys\nfrom segfocal.evaluation.run import EvaluationRequest, evaluate\n"
        "from pathlib import Path\n"
        f"evaluate(EvaluationRequest(Path({str(pred)!r}), Path({str(data)!r}), workers=1))\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stderr.split()), done.stdout
