"""torchrun in tests: as a user starts it, never waited for without end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.runs import TINY

ROOT = Path(__file__).parents[2]

TIMEOUT_S = 240
"""A run takes ten seconds on an idle machine; a hang has to end some time."""


def start(count, *command, options=("--standalone",), **environment):
    """torchrun with a rendezvous of its own, so that tests beside each other do not meet.

    Without torchrun where `count` is None.
    """
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), *options]
    launcher = [] if count is None else launcher
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment},
    )


def finish(process):
    """Status, standard output and standard error."""
    try:
        said, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun takes its ranks along
        said, errors = process.communicate(timeout=60)
        raise AssertionError(f"hung:\n{said}\n{errors}") from None
    return process.returncode, said, errors


def train_all(count, root, runs, folder):
    """Several trainings on so many ranks, started once."""
    plan = folder / f"{count}_ranks.json"
    plan.write_text(json.dumps({"root": str(root), "runs": runs}))
    status, said, errors = finish(start(count, "tests.ranks.several_runs", str(plan)))
    assert status == 0, f"{said}\n{errors}"
    return said, errors


def command(root, out, *settings):
    """A tiny training by the command itself, with a mishap (FAULT) where the test asks for one."""
    arguments = ["--config", "phantom.yaml", "--out", str(out), "--set", f"data.root={root}"]
    return ["tests.ranks.faulty", *arguments, *TINY, "train.batch_size=4", *settings]
