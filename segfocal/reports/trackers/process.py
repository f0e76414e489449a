"""The training's end of a tracker's process: nothing here waits for longer than it was asked to."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

# Not `-m`: that would put the current folder first, and a folder there may be called wandb.
_START = (
    "import sys; sys.path.remove(''); from segfocal.reports.trackers import worker; worker.main()"
)


class TrackerProcess:
    """Starts `worker` for one tracker, feeds it and hears its answers, each in a thread.

    Args:
        name: Which tracker.

    Attributes:
        failure: Why it serves no more; None while it does.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure: str | None = None
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        places = [path or str(Path.cwd()) for path in sys.path]
        self._process = subprocess.Popen(  # noqa: S603 - this Python, and a name of the schema
            [sys.executable, "-c", _START, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is for the training
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": ""},
        )
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._feed, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, **message: Any) -> None:
        """Puts a message into the outbox; never waits."""
        self._outbox.put(json.dumps(message).encode() + b"\n")

    def hear(self, word: str, deadline: float) -> Any:
        """The answer of that name, at `time.monotonic() <= deadline`.

        Returns:
            Its value; None where the tracker failed, or did not answer in time (`failure`).
        """
        began = time.monotonic()
        while self.failure is None:
            try:
                answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.failure = f"no answer in {max(0.0, deadline - began):.0f} s"
                break
            if word in answer:
                return answer[word]
            self.failure = answer.get("failed")
        return None

    def look(self) -> None:
        """Takes note of a failure that was told since."""
        while self.failure is None:
            try:
                self.failure = self._answers.get_nowait().get("failed")
            except queue.Empty:
                return

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _feed(self) -> None:
        assert self._process.stdin is not None
        while (line := self._outbox.get()) is not None:
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except OSError:  # it has ended, which `_listen` tells
                return

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put({"failed": f"its process ended with status {self._process.wait()}"})
