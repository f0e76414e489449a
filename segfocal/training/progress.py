"""Where a run stands, and what it ended with: plain records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Progress:
    """Where a run stands; what a checkpoint remembers of it.

    Attributes:
        epoch: Epochs done.
        elapsed_s: Wall-clock time so far, over all parts of a resumed run.
        best_score: Highest mean Dice of a validation; NaN before the first.
        best_epoch: Its epoch, 0 before the first.
        validation_s: Duration of the last validation; 0 before the first.
        validations_s: Duration of all of them.
        loop_began_s: Seconds from the start of the run to its first step; None before it.
    """

    epoch: int = 0
    elapsed_s: float = 0.0
    best_score: float = math.nan
    best_epoch: int = 0
    validation_s: float = 0.0
    validations_s: float = 0.0
    loop_began_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a finished run achieved.

    Attributes:
        folder: The run folder.
        progress: Where it stands, and which epoch is best.pt.
    """

    folder: Path
    progress: Progress
