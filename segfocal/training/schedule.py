"""How far a run is, in steps or in wall-clock time, and the learning rate that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["cosine", "poly", "constant"]


def lr_factor(progress: float, schedule: Schedule, warmup_fraction: float) -> float:
    """Learning rate as a share of its largest value.

    Args:
        progress: Share of the run that is done, 0 to 1.
        schedule: `cosine`, `poly` (power 0.9, as nnU-Net) or `constant`, after the warm-up.
        warmup_fraction: Share of the run over which the rate rises linearly from 1/10.

    Example:
        >>> [round(lr_factor(p, "cosine", 0.1), 2) for p in (0.0, 0.1, 0.55, 1.0)]
        [0.1, 1.0, 0.5, 0.0]
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup_fraction:
        return 0.1 + 0.9 * progress / warmup_fraction
    rest = (progress - warmup_fraction) / (1 - warmup_fraction)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    if schedule == "poly":
        return float((1 - rest) ** 0.9)
    return 1.0


@dataclass
class Budget:
    """Steps and seconds a run may take; progress is the greater share of the two.

    Attributes:
        total_steps: Optimiser steps of all epochs.
        max_seconds: Wall-clock limit of the whole run, or None.
        started_s: Clock reading when the run began (before a resumed part, so much earlier).
        loop_started_s: Clock reading when the first step began, in the same sense.
        reserve_s: Seconds to keep for the last validation and the report.
    """

    total_steps: int
    max_seconds: float | None
    started_s: float
    loop_started_s: float
    reserve_s: float = 0.0

    def progress(self, step: int, now_s: float) -> float:
        """Share of the run that is done, 0 to 1."""
        by_steps = step / self.total_steps
        if self.max_seconds is None:
            return min(1.0, by_steps)
        end = self.started_s + self.max_seconds - self.reserve_s
        room = end - self.loop_started_s
        by_clock = (now_s - self.loop_started_s) / room if room > 0 else 1.0
        return min(1.0, max(by_steps, by_clock))

    def remaining_s(self, now_s: float) -> float:
        """Seconds until the wall-clock limit; infinite without one."""
        if self.max_seconds is None:
            return math.inf
        return self.started_s + self.max_seconds - now_s
