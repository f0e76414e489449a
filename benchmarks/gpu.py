"""All that a GPU can show, in one go: tests, the kernels beside a copy, the loss beside its peers.

    python benchmarks/gpu.py --out FOLDER [--minutes 10]

Each stage is a process of its own, in the order of what matters most. What it prints is shown and
written to FOLDER as it comes, so a machine that is taken away leaves what was measured. A stage is
stopped where the time is up, and left out where none is left. Exit status 1 if a stage failed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
FEWEST_SECONDS = 20
"""With less a stage is not begun."""


class Stage(NamedTuple):
    """A command, and how many seconds it may take at most."""

    name: str
    command: list
    most_seconds: float


class Outcome(NamedTuple):
    """`status` is the exit status, or "stopped" or "left out"."""

    name: str
    status: int | str
    seconds: float


def stages(num_processes):
    """The stages, the most important first."""
    marked = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text()
    )
    # whole trainings, which the losses' figures must not wait for
    ranks = [path for path in marked if Path(path).parent.name == "ranks"]
    python, plain = [sys.executable], ["-p", "no:cacheprovider", "-p", "no:benchmark"]
    several = ["-n", str(num_processes)] if num_processes > 1 else []
    pytest = [*python, "-m", "pytest", "-m", "gpu", "-q", "-rs", "--tb=short", *plain]
    pytest += ["--continue-on-collection-errors"]  # a package that is missing costs its file alone
    kernels = [path for path in marked if path not in ranks]
    losses = [*python, "benchmarks/losses.py", "--repeats", "5"]
    return [
        Stage("tests", [*pytest, *several, *kernels], 240),
        Stage("losses", [*losses, "--no-compile"], 180),
        Stage("kernels", [*python, "benchmarks/triton_times.py"], 240),
        Stage("training_step", [*python, "benchmarks/training_step.py"], 120),
        Stage("losses_beside_compiled", [*losses, "--only-compiled"], 600),
        Stage("ranks", [*pytest, *ranks], 240),
    ]


def run(stage, folder, seconds_left):
    """Run a stage, show and keep what it prints."""
    limit = min(stage.most_seconds, seconds_left)
    if limit < FEWEST_SECONDS:
        return Outcome(stage.name, "left out", 0.0)
    began = time.monotonic()
    kept = folder / f"{stage.name}.txt"
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": paths}
    with kept.open("w") as file:
        process = subprocess.Popen(
            stage.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        shown = 0
        status = None
        while status is None:
            try:
                status = process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                if time.monotonic() - began > limit:
                    process.kill()
                    process.wait()
                    status = "stopped"
            shown += show(kept, shown)
    return Outcome(stage.name, status, time.monotonic() - began)


def show(kept, shown):
    """Print what came to a file after its first `shown` characters; return how much that was."""
    with kept.open(errors="replace") as file:
        text = file.read()[shown:]
    print(text, end="", flush=True)
    return len(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all stages (10)")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 14))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device, and torch sees none.")
    args.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * args.minutes
    outcomes = []
    for stage in stages(args.processes):
        print(f"\n== {stage.name}", flush=True)
        outcomes.append(run(stage, args.out, ends - time.monotonic()))
    lines = [f"{one.name}: {one.status}, {one.seconds:.0f} s" for one in outcomes]
    (args.out / "outcomes.txt").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))
    return 0 if all(one.status == 0 for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
