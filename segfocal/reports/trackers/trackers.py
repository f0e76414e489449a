"""The trackers of a run: what is asked of them before it, told during it, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from segfocal.errors import UserError
from segfocal.reports.history import EpochRecord, measured
from segfocal.reports.trackers.packages import check_installed
from segfocal.reports.trackers.process import TrackerProcess
from segfocal.reports.trackers.tracker import Number, TrackedRun

_REACH_S = 60.0
"""How long a tracker may take to start and reach its server, and again to begin the run."""

_CLOSE_S = 15.0
"""How long the end of a run waits for what is still to be sent, all trackers together."""

_LOCAL = ("tensorboard",)
"""Trackers that write into the run folder and send nothing."""


class Trackers:
    """Use as a context manager: whatever happens, no process is left. No names, nothing done.

    Before training a tracker that fails is the user's error; from then on it costs one warning and
    is dropped, and nobody waits for it.

    Args:
        names: Which ones, as `trackers` in a config has them.
        warn: Takes the line about a tracker that was dropped.
        send_pictures: Whether sample pictures and report.html go to those that send things away.
        must_work: Whether failing to begin is an error, and not a warning.

    Raises:
        UserError: If a package is not installed.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        warn: Callable[[str], None] = lambda _line: None,
        *,
        send_pictures: bool = False,
        must_work: bool = True,
    ) -> None:
        self._names = tuple(dict.fromkeys(names))
        check_installed(self._names)
        self._warn = warn
        self._send_pictures = send_pictures
        self._must_work = must_work
        self._processes: list[TrackerProcess] = []
        self._is_open = False
        self._samples = Path()
        self._best: Mapping[str, Number] = {}
        self._report: Path | None = None

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._processes:
            self._processes.pop().end()

    def reach(self) -> None:
        """Starts them and asks whether they could be used. No run is made anywhere.

        Raises:
            UserError: If one cannot be, and `must_work`.
        """
        self._processes += [TrackerProcess(name) for name in self._names]
        self._hear("reached")

    def begin(self, run: TrackedRun, records: Sequence[EpochRecord]) -> list[str]:
        """Begins the run, or goes on with it, and sends the epochs that a tracker lacks.

        Args:
            run: What is told once, and where sample pictures are.
            records: The epochs done, with those a resumed run did before.

        Returns:
            A line for each tracker: where to look.

        Raises:
            UserError: As `reach`.
        """
        for process in self._processes:
            process.send(open={**asdict(run), "folder": str(run.folder.resolve())})
        places = self._hear("opened")
        self._is_open = True
        self._samples = run.folder.resolve() / "samples"
        for record in records:
            self.log(record)
        return [f"track  {name} {place}" for name, place in places.items()]

    def log(self, record: EpochRecord, best: Mapping[str, Number] | None = None) -> None:
        """An epoch that last.pt holds, so that no resumed run repeats it; its sample picture too.

        Args:
            record: The epoch.
            best: `best_epoch` and `best_mean_dice` so far.
        """
        self._best = best or self._best
        picture = self._samples / f"epoch_{record.epoch:03d}.png"
        shown = str(picture) if record.val and picture.is_file() else None
        for process in self._in_use():
            may_see = self._send_pictures or process.name in _LOCAL
            process.send(
                log=record.epoch, numbers=measured(record), picture=shown if may_see else None
            )

    def finish(self, report: Path, best: Mapping[str, Number]) -> None:
        """The run has come to its end: what `ending` is to send."""
        self._report, self._best = report, best

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Tells the trackers how the block ended: done, failed or interrupted."""
        status = "failed"
        try:
            yield
            status = "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            if self._is_open:
                self._close(status)

    def _close(self, status: str) -> None:
        for process in self._in_use():
            may_see = self._send_pictures and process.name not in _LOCAL
            report = str(self._report.resolve()) if self._report and may_see else None
            process.send(close={"status": status, "best": dict(self._best), "report": report})
        deadline = time.monotonic() + _CLOSE_S
        for process in self._processes:
            process.hear("closed", deadline)
            if process.failure is not None:
                self._warn(f"{process.name} may lack the end of this run: {process.failure}.")

    def _hear(self, word: str) -> dict[str, str]:
        """The answers by tracker. One that failed is the user's error, or is dropped."""
        deadline = time.monotonic() + _REACH_S
        heard = {process.name: process.hear(word, deadline) for process in self._processes}
        for process in self._processes:
            if process.failure is not None and self._must_work:
                raise UserError(
                    f"trackers: {process.name} cannot be used: {process.failure.rstrip('.')}. Mend "
                    f"it, or go without: --set trackers=[]."
                )
        self._in_use()
        return {name: answer for name, answer in heard.items() if answer is not None}

    def _in_use(self) -> list[TrackerProcess]:
        """Those that work; the others are told of, once, and ended."""
        for process in list(self._processes):
            process.look()
            if process.failure is not None:
                self._processes.remove(process)
                process.end()
                self._warn(
                    f"{process.name} is not told any more of this run: "
                    f"{process.failure.rstrip('.')}. Training goes on; --resume fills the gap."
                )
        return list(self._processes)
