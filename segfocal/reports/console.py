"""What a run says while it works: a terminal or a plain stream, and always `log.txt`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

import rich.console
from rich import box
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table

from segfocal.metrics.case_score import RegionSummary, mean_dice
from segfocal.reports import text
from segfocal.reports.history import EpochRecord

_PLAIN_WIDTH = 160
_WIDTH_FOR_TERMS = 100
_WIDTH_FOR_BAR = 80
"""Columns of a terminal below which the line of an epoch leaves something out."""


class EpochProgress:
    """The moving bar of one epoch; does nothing where there is no terminal."""

    def __init__(
        self, progress: Progress | None, task: TaskID | None, *, with_terms: bool = True
    ) -> None:
        self._progress = progress
        self._task = task
        self._with_terms = with_terms

    def advance(
        self,
        steps: int = 1,
        *,
        loss: float | None = None,
        terms: Mapping[str, float] | None = None,
        steps_per_s: float | None = None,
        memory_gb: float | None = None,
        eta_s: float | None = None,
    ) -> None:
        """Move on by some steps; what is None keeps what the bar says.

        Reading a loss from a GPU makes the CPU wait, so pass it now and then, not each step.
        """
        if self._progress is None or self._task is None:
            return
        said = {}
        if loss is not None:
            said["loss"] = text.loss_text(loss, (terms or {}) if self._with_terms else {})
        if steps_per_s is not None:
            said["pace"] = text.pace_text(steps_per_s, memory_gb=memory_gb, eta_s=eta_s)
        self._progress.update(self._task, advance=steps, **said)  # type: ignore[arg-type]


class _Stream(rich.console.Console):
    """A rich console that goes silent where nobody reads any more (`| head`); rich's own exits."""

    def on_broken_pipe(self) -> None:
        """What the stream still holds goes to the null device, or Python fails on it at exit."""
        self.quiet = True
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())


class Console:
    """Writes a run's lines. Use as a context manager, or call `close`.

    On a terminal an epoch is a moving bar, then a line for training and one for validation. On
    any other stream it is exactly one line. `log.txt` gets every line with the time, whatever
    the stream gets, and also when the stream is closed.

    Args:
        stream: Where lines go; standard output when None.
        log_path: The log file, appended to; None for no log.
        quiet: Write nothing to the stream (warnings still go to `error_stream`).
        error_stream: Where warnings go; standard error when None.
        force_terminal: True or False to overrule what the stream says it is.
    """

    def __init__(
        self,
        *,
        stream: IO[str] | None = None,
        log_path: Path | None = None,
        quiet: bool = False,
        error_stream: IO[str] | None = None,
        force_terminal: bool | None = None,
    ) -> None:
        self._open = partial(
            _Stream,
            file=stream or sys.stdout,
            quiet=quiet,
            force_terminal=force_terminal,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._out = self._open()
        self._err = rich.console.Console(
            file=error_stream or sys.stderr, highlight=False, markup=False, emoji=False
        )
        self._log = None if log_path is None else log_path.open("a", encoding="utf-8")

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the log file."""
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk, which the last flush has told of
                self._log.close()
            self._log = None

    @property
    def is_terminal(self) -> bool:
        """Whether bars move."""
        return self._out.is_terminal and not self._out.quiet

    def log(self, message: str) -> None:
        """Write to the log alone."""
        if self._log is not None:
            self._log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {message}\n")
            self._log.flush()

    def line(self, message: str, style: str | None = None) -> None:
        """Write one line as it is, however long, to the stream and the log."""
        self._say(message, style)
        self.log(message)

    def warning(self, message: str) -> None:
        """Write `warning: ...` to the error stream, even when quiet, and to the log."""
        self._err.out(_encodable(f"warning: {message}", self._err), highlight=False)
        self.log(f"warning: {message}")

    def header(self, versions: Mapping[str, str], device: str, precision: str, seed: int) -> None:
        """`segfocal 0.1 · torch 2.13 · monai 1.6.1 · cuda:0 H100 80GB · bf16 · seed 7`."""
        self.line(text.header_line(versions, device, precision, seed), "bold")

    def data(
        self,
        name: str,
        num_train: int,
        num_val: int,
        channels: Sequence[str],
        targets: Sequence[str],
        *,
        overlapping: bool,
        note: str = "",
    ) -> None:
        """The line about the data; `note` ends it (the phantom's stamp)."""
        self.line(
            text.data_line(
                name, num_train, num_val, channels, targets, overlapping=overlapping, note=note
            )
        )

    def alpha(
        self,
        scheme: str,
        alpha: Mapping[str, float],
        *,
        num_cases: int | None = None,
        ignore_values: Sequence[int] = (),
        ignored_fraction: float | None = None,
    ) -> None:
        """The line about the loss's class weights and the ignored voxels."""
        self.line(
            text.alpha_line(
                scheme,
                alpha,
                num_cases=num_cases,
                ignore_values=ignore_values,
                ignored_fraction=ignored_fraction,
            )
        )

    @contextmanager
    def epoch(self, epoch: int, num_epochs: int | None, num_steps: int) -> Iterator[EpochProgress]:
        """A bar for one epoch's steps, gone when the epoch is over."""
        with self._bar(text.epoch_label(epoch, num_epochs), num_steps) as bar:
            yield bar

    @contextmanager
    def working(self, doing: str, total: int) -> Iterator[EpochProgress]:
        """A bar for other work (`validating`, `reading labels`), gone when it is done."""
        with self._bar(doing, total) as bar:
            yield bar

    def end_epoch(
        self,
        record: EpochRecord,
        num_epochs: int | None,
        *,
        best: bool = False,
        memory_gb: float | None = None,
        eta_s: float | None = None,
    ) -> None:
        """Say how an epoch ended: a line or two on a terminal, exactly one elsewhere."""
        trained = text.epoch_line(record, num_epochs, memory_gb=memory_gb, eta_s=eta_s)
        lines = [trained]
        if record.val:
            scores = text.val_text(record.val, record.mean_dice, best=best)
            lines.append(f"val   {record.epoch:>3}: {scores}")
        if self.is_terminal:
            for number, message in enumerate(lines):
                self._say(message, "green" if number and best else None)
        else:
            joined = trained if len(lines) == 1 else f"{trained} | val {scores}"
            self._say(joined, None)
        for message in lines:
            self.log(message)

    def table(self, table: Table) -> None:
        """Print a table; on a plain stream in ASCII. The log gets it too.

        Where it is wider than the terminal its lines run on: rich would drop columns, the names
        among them.
        """
        plain = io.StringIO()
        frame, table.box = table.box, box.ASCII2
        width = _natural_width(table)
        plain_width = max(width, _PLAIN_WIDTH)
        rich.console.Console(file=plain, width=plain_width, highlight=False).print(table)
        table.box = frame
        lines = [message.rstrip() for message in plain.getvalue().splitlines()]
        for message in lines:
            self.log(message)
            if not self.is_terminal:
                self._say(message, None)
        if self.is_terminal:
            self._open(width=max(width, self._out.width)).print(table)

    def results(
        self, title: str, columns: Mapping[str, Mapping[str, RegionSummary]], note: str = ""
    ) -> None:
        """A table of final scores, one group of columns per method.

        Args:
            title: What was scored, e.g. `validation, 6 cases`.
            columns: Method (`network`, `threshold baseline`) to its summary per region; the same
                regions and cases for each.
            note: Text under the table (the phantom's stamp), or "".
        """
        self.table(_results_table(title, columns, note))

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[EpochProgress]:
        if not self.is_terminal:
            yield EpochProgress(None, None)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=20)] if self._out.width >= _WIDTH_FOR_BAR else []),
            TaskProgressColumn(),
            TextColumn("{task.fields[loss]}", markup=False),
            TextColumn("{task.fields[pace]}", markup=False),
        )
        bar = Progress(*columns, console=self._out, transient=True, refresh_per_second=4)
        with bar as progress:
            task = progress.add_task(label, total=total, loss="", pace="")
            with_terms = self._out.width >= _WIDTH_FOR_TERMS
            yield EpochProgress(progress, task, with_terms=with_terms)

    def _say(self, message: str, style: str | None) -> None:
        try:
            self._out.out(_encodable(message, self._out), style=style, highlight=False)
            self._out.file.flush()
        except BrokenPipeError:
            self._out.on_broken_pipe()


def _natural_width(table: Table) -> int:
    """Columns that a table takes where nothing is folded."""
    boundless = rich.console.Console(file=io.StringIO(), width=10_000)
    return Measurement.get(boundless, boundless.options, table).maximum


def _encodable(message: str, console: rich.console.Console) -> str:
    """The message in characters that the stream can write."""
    encoding = console.encoding
    plain = message.replace("·", "|")
    try:
        message.encode(encoding)
    except UnicodeEncodeError:
        return plain.encode(encoding, errors="replace").decode(encoding)
    return message


def _results_table(
    title: str, columns: Mapping[str, Mapping[str, RegionSummary]], note: str
) -> Table:
    table = Table(
        title=title,
        caption=note or None,
        title_justify="left",
        caption_justify="left",
        box=box.HEAVY_HEAD,
    )
    table.add_column("\nregion")
    for method in columns:
        table.add_column(f"{method}\nDice", justify="right", overflow="fold")
        table.add_column("lesions\nfound", justify="right")
        table.add_column("false\nislands", justify="right")
    table.add_column("\ncases")
    first = next(iter(columns.values()))
    for region in first:
        cells = []
        for summary in columns.values():
            score = summary[region]
            cells += [
                text.fraction(score.dice),
                f"{score.lesions_found}/{score.lesions}",
                str(score.false_positives),
            ]
        without = f", {first[region].n_empty} without" if first[region].n_empty else ""
        table.add_row(region, *cells, f"{first[region].n}{without}")
    if len(first) > 1:
        means = [[text.fraction(mean_dice(summary)), "", ""] for summary in columns.values()]
        table.add_section()
        table.add_row("mean", *[cell for cells in means for cell in cells], "")
    return table
