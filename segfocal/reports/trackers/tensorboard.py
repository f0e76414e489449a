"""TensorBoard: event files in `RUN/tensorboard`."""

from __future__ import annotations

import struct
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segfocal.reports.trackers.tracker import (
    Ending,
    Kept,
    Number,
    Opened,
    TrackedRun,
    facts_and_note,
    plain_text,
)

FOLDER = "tensorboard"
"""Below the run folder."""


class TensorBoard:
    """Writes the classic scalar, image and text summaries, which every reader of event files knows.

    The x axis is the epoch. A run that goes on opens another file, whose first event tells readers
    to forget what older files have of later epochs.
    """

    def __init__(self) -> None:
        # its stand-in for TensorFlow does what is needed here; the real one takes seconds to import
        sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._make_writer = EventFileWriter

    def reach(self) -> None:
        """Nothing is far away: the run folder is checked by the run."""

    def open(self, run: TrackedRun, kept: Kept) -> Opened:
        """A new event file; the facts and settings as text."""
        # its charts show the folder below `tensorboard` as the name of the run, and not always more
        folder = run.folder / FOLDER / run.note
        goes_on = any(folder.glob("events.*"))
        has_epoch = min(kept.epoch, run.epoch)
        self._writer: Any = self._make_writer(str(folder))
        self._note, self._epoch = run.note, run.epoch
        if goes_on:
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(self._event.Event(session_log=start), has_epoch + 1)
        settings = {name: plain_text(value) for name, value in run.settings.items()}
        self._text("run", facts_and_note(run))
        self._text("settings", settings)
        self._writer.flush()
        return Opened(Kept(epoch=has_epoch), str(folder))

    def log(self, epoch: int, numbers: Mapping[str, Number], picture: Path | None) -> None:
        """Scalars by the names of metrics.csv; the picture under `sample`."""
        self._epoch = epoch
        values = [self._value(name, "scalars", simple_value=v) for name, v in numbers.items()]
        if picture is not None:
            png = picture.read_bytes()
            width, height = struct.unpack(">II", png[16:24])
            image = self._summary.Summary.Image(
                width=width, height=height, colorspace=4, encoded_image_string=png
            )
            values.append(self._value("sample", "images", image=image))
        self._write_values(values, epoch)
        self._writer.flush()

    def close(self, ending: Ending) -> None:
        """How it ended, as text beside the last epoch."""
        best = {name: plain_text(value) for name, value in ending.best.items()}
        self._text("end", {"status": ending.status, **best})
        self._writer.close()

    def _text(self, tag: str, lines: Mapping[str, str]) -> None:
        """A table, which the text page shows as one."""
        if self._note and "note" not in lines:
            lines = {"note": self._note, **lines}
        rows = [f"| {name} | {line.replace('|', chr(92) + '|')} |" for name, line in lines.items()]
        table = "\n".join(["| | |", "|---|---|", *rows])
        value = self._value(tag, "text")
        value.tensor.dtype = 7  # DT_STRING
        value.tensor.tensor_shape.SetInParent()
        value.tensor.string_val.append(table.encode())
        self._write_values([value], self._epoch)

    def _value(self, tag: str, plugin: str, **value: Any) -> Any:
        """A summary that is described by the note: the page shows it at every chart."""
        metadata = self._summary.SummaryMetadata(summary_description=self._note)
        metadata.plugin_data.plugin_name = plugin
        return self._summary.Summary.Value(tag=tag, metadata=metadata, **value)

    def _write_values(self, values: list[Any], epoch: int) -> None:
        self._write(self._event.Event(summary=self._summary.Summary(value=values)), epoch)

    def _write(self, event: Any, step: int) -> None:
        event.wall_time, event.step = time.time(), step
        self._writer.add_event(event)
