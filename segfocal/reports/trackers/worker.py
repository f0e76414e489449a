"""The process that a tracker runs in: told by lines of JSON on stdin, it answers on stdout.

Whatever the tracker's package does (hang, crash, replace signal handlers, seed, print) it does
here. When stdin ends without a goodbye the training was killed, and that is told to the tracker.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from segfocal.errors import one_line
from segfocal.files import read_json, write_json
from segfocal.reports.trackers.tracker import Ending, Kept, TrackedRun, Tracker, without_password

_CLASSES = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "WeightsAndBiases"}

LAST_WORDS_S = 30.0
"""How long the process stays after the training was killed, to say so."""


def main() -> None:
    """Serves the tracker that the first argument names."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the training has them too, and tells its end
        signal.signal(number, signal.SIG_IGN)
    # pipes of its own: what packages print is no answer, and what they start inherits neither
    lines, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for inherited in (0, 1, 2):
        os.dup2(nowhere, inherited)

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=out, flush=True)

    try:
        serve(sys.argv[1], lines, say, _leave_soon)
    except Exception as error:  # noqa: BLE001 - of whatever kind, it must not end the training
        say(failed=without_password(one_line(error)))
    os._exit(0)  # what packages do at exit may wait for a server


def serve(
    name: str, lines: IO[bytes], say: Callable[..., None], killed: Callable[[], None]
) -> None:
    """Goes through a run's lines: `open`, any number of `log`, `close`.

    Args:
        name: Which tracker.
        lines: What the training says.
        say: Answers it: `reached`, `opened`, `closed`.
        killed: Called where the lines end before `close`.
    """
    module = importlib.import_module(f"segfocal.reports.trackers.{name}")
    tracker: Tracker = getattr(module, _CLASSES[name])()
    tracker.reach()
    say(reached=True)
    first = lines.readline()
    if not first:
        return
    told = json.loads(first)["open"]
    run = TrackedRun(**{**told, "folder": Path(told["folder"])})
    memory = run.folder / ".trackers"
    memory.mkdir(exist_ok=True)
    state = memory / f"{name}.json"
    # held by the process of a training that was killed a moment ago, for its last words
    with FileLock(memory / f"{name}.lock", timeout=LAST_WORDS_S + 1):
        kept = Kept(**read_json(state)) if state.exists() else Kept()
        opened = tracker.open(run, kept)
        write_json(state, asdict(opened.kept))
        say(opened=opened.place)
        has_epoch = opened.kept.epoch
        for line in lines:
            message = json.loads(line)
            if "close" in message:
                tracker.close(_ending(message["close"]))
                say(closed=True)
                return
            epoch, numbers = message["log"], message["numbers"]
            if epoch > has_epoch:
                tracker.log(epoch, numbers, _path(message["picture"]))
                has_epoch = epoch
                write_json(state, asdict(Kept(opened.kept.id, epoch)))
        killed()
        tracker.close(Ending("interrupted"))


def _leave_soon() -> None:
    timer = threading.Timer(LAST_WORDS_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _ending(told: dict[str, Any]) -> Ending:
    return Ending(told["status"], told["best"], _path(told["report"]))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
