"""What the other ranks do: wait for the first one to check everything, then train beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segfocal.config.load import LoadedConfig
from segfocal.imports import without_collections
from segfocal.reports.console import Console
from segfocal.training.launch import Launch
from segfocal.training.preflight import Plan
from segfocal.training.reporter import Reporter
from segfocal.training.run_folder import RunFolder

if TYPE_CHECKING:
    from segfocal.training.rank_group import RankGroup


@dataclass(frozen=True)
class Job:
    """What the first rank found out, for the others to go by.

    Attributes:
        loaded: The checked config.
        plan: The checked data.
        out: Folder of the run, the same on every machine.
        goes_on: Whether to go on from the last.pt that it holds.
        weights: `--init-from`.
        started_s: When the command began, by the first rank's clock.
    """

    loaded: LoadedConfig
    plan: Plan
    out: Path
    goes_on: bool
    weights: Path | None
    started_s: float


class SilentReporter(Reporter):
    """Leaves the story to the first rank; what a user should know of this one is said all the same.

    Args:
        rank: This rank.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(quiet=True)
        self.rank = rank

    def open_log(self, folder: Path) -> None:
        """It may write to log.txt from now on, beside the first rank."""
        self.console = Console(quiet=True, log_path=folder / "log.txt")

    def note(self, line: str) -> None:
        """One line that a user should know."""
        sys.stdout.write(f"[rank {self.rank}] {line}\n")
        sys.stdout.flush()

    @contextmanager
    def epoch(
        self,
        epoch: int,  # noqa: ARG002 - nothing is shown
        num_epochs: int,  # noqa: ARG002
        num_steps: int,  # noqa: ARG002
    ) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
        """No bar."""
        yield lambda _step, _terms: None


def follow(launch: Launch) -> None:
    """Trains as a rank other than the first, silently.

    Raises:
        UserError: For what is wrong on this rank alone and was noticed here first.
        RunFailedError: If training failed here first.
        SystemExit: If another rank failed, or if interrupted: that is told once, not here.
    """
    try:
        from segfocal.training.rank_group import RankGroup

        with RankGroup(launch) as ranks:
            job = ranks.job()
            if job is not None:
                _train(job, ranks)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _train(job: Job, ranks: RankGroup) -> None:
    with without_collections():
        from segfocal.training.failure import failures_told
        from segfocal.training.session import Session

    session = Session(
        job.loaded,
        job.plan,
        RunFolder(job.out, resume=job.goes_on, is_ours=True),
        SilentReporter(ranks.rank),
        started_s=job.started_s,
        weights=job.weights,
        ranks=ranks,
    )
    is_over, *_ = ranks.exchange(False)
    if not is_over:
        with failures_told(session):
            session.run()
