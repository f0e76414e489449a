"""What torchrun starts in tests: segfocal-train, with a mishap on one rank.

FAULT is `KIND RANK EPOCH`: at that rank's first patch of the epoch, unless it was restarted.
"""

import os
import signal
import sys
import warnings

from segfocal.cli.train import main
from segfocal.training import patches


def arm(kind, rank, epoch):
    """The mishap, and a warning that every rank meets."""
    cut = patches.PatchDataset.__getitem__
    is_here = rank == os.environ["RANK"] and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"

    def cut_badly(self, key):
        item = cut(self, key)
        if key[0] != int(epoch):
            return item
        warnings.warn("this epoch is odd", stacklevel=1)
        if not is_here:
            return item
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "interrupt":
            os.kill(os.getppid(), signal.SIGINT)
        if kind == "raise":
            raise RuntimeError(f"{item['case_id']} is cursed")
        if kind == "nan":
            item["image"][:] = float("nan")
        return item

    patches.PatchDataset.__getitem__ = cut_badly


if __name__ == "__main__":
    sys.modules["numba"] = None  # its kernels take longer to compile than all steps here
    arm(*os.environ.get("FAULT", "none 0 0").split())
    main()
