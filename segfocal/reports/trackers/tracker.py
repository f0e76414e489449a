"""What a tracker is told of a run, and what it does with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Number = int | float
Plain = str | int | float | bool | None


@dataclass(frozen=True)
class TrackedRun:
    """What is told once, when a run starts or goes on. None of it names a path or a case.

    Attributes:
        folder: The run folder; for the tracker's own files, never sent.
        name: What the run is called.
        note: The phantom's stamp, or "".
        facts: What was trained on what, as lines for people.
        settings: The resolved config (`config.shareable.shareable_settings`).
        epoch: Epochs done; what a tracker has of later ones is stale.
    """

    folder: Path
    name: str
    note: str
    facts: Mapping[str, str]
    settings: Mapping[str, Plain]
    epoch: int


@dataclass(frozen=True)
class Kept:
    """What a tracker remembers in the run folder, for the next time the run goes on.

    Attributes:
        id: By which the tracker finds the run again; "" where it needs none.
        epoch: The last one it was told.
    """

    id: str = ""
    epoch: int = 0


@dataclass(frozen=True)
class Opened:
    """A tracker that is ready to be told of epochs.

    Attributes:
        kept: Its id, and the last epoch it has.
        place: Where a user looks.
    """

    kept: Kept
    place: str


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        status: `done`, `failed` or `interrupted`.
        best: `best_epoch` and `best_mean_dice`, as far as there are any.
        report: report.html, where it may be sent.
    """

    status: str
    best: Mapping[str, Number] = field(default_factory=dict)
    report: Path | None = None


class Tracker(Protocol):
    """One tool. All methods may take long or raise anything: they run in a process of their own."""

    def reach(self) -> None:
        """Raises where the tool could not be used, before anything is trained or written."""

    def open(self, run: TrackedRun, kept: Kept) -> Opened:
        """Begins the run, or goes on with the one it remembers."""

    def log(self, epoch: int, numbers: Mapping[str, Number], picture: Path | None) -> None:
        """One epoch: the measured cells of its row of metrics.csv, and its sample picture."""

    def close(self, ending: Ending) -> None:
        """The run's end; everything is to be written or sent when this returns."""


def facts_and_note(run: TrackedRun) -> dict[str, str]:
    """The facts with the note in front, where there is one."""
    return {**({"note": run.note} if run.note else {}), **run.facts}


def plain_text(value: Any) -> str:
    """A setting as YAML writes it.

    Example:
        >>> plain_text(None), plain_text(True), plain_text("cosine")
        ('null', 'true', 'cosine')
    """
    words: dict[Any, str] = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def without_password(text: str) -> str:
    """The text without what stands before the @ of an address.

    Example:
        >>> without_password("no answer from https://me:secret@host/api")
        'no answer from https://host/api'
    """
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
