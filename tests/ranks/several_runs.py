"""What torchrun starts in tests: trainings one after another, so that imports are paid once.

Argument: a JSON file with the data's root and, for each run, its folder, settings and options.
Without torchrun the same trainings, each in the one process.
"""

import dataclasses
import json
import os
import sys
import warnings
from pathlib import Path

from segfocal.reports import figures
from segfocal.training.follow import follow
from segfocal.training.launch import read_launch
from tests.runs import tiny_run


def train_all(plan):
    """Each run with keys of its own in the store, as after a restart."""
    for number, run in enumerate(plan["runs"]):
        launch = read_launch(os.environ)
        if launch is not None:
            launch = dataclasses.replace(launch, restarts=number)
        if launch is None or launch.is_first:
            options = run.get("options", {})
            tiny_run(plan["root"], Path(run["out"]), *run["settings"], launch=launch, **options)
        else:
            follow(launch)


if __name__ == "__main__":
    sys.modules["numba"] = None  # its kernels take longer to compile than all steps here
    for name in ("sample_figure", "progress_figure"):  # they take longer than the training
        setattr(figures, name, lambda *_, **__: None)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", module="monai")
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    train_all(json.loads(Path(sys.argv[1]).read_text()))
