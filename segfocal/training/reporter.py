"""Tells a run's story: terminal, log.txt, metrics.csv, pictures, report.html."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import warnings_caught
from segfocal.metrics.case_score import CaseScore, RegionSummary, mean_dice, summarise
from segfocal.metrics.threshold_baseline import ThresholdBaseline
from segfocal.reports import text
from segfocal.reports.case_table import write_case_scores
from segfocal.reports.console import Console
from segfocal.reports.history import EpochRecord, History
from segfocal.reports.trackers.trackers import Trackers
from segfocal.training.run_facts import best_so_far, data_name, loss_words, run_facts, tracked_run

if TYPE_CHECKING:
    from segfocal.training.learner import EpochMeans
    from segfocal.training.progress import Outcome, Progress
    from segfocal.training.session import Session
    from segfocal.training.validate import Sample

_LOSS_EVERY = 5
"""Steps between two readings of the loss on the bar."""


class Reporter:
    """What a run says, from the first check to the last picture.

    Args:
        quiet: Write nothing to standard output; files are written all the same.
        closing_words: Whether `finish` prints the table of results and the next command.

    Attributes:
        trackers: Who else is told of the run.
    """

    def __init__(self, *, quiet: bool, closing_words: bool = True) -> None:
        self.quiet = quiet
        self.closing_words = closing_words
        self.console = Console(quiet=quiet)
        self._warnings: list[str] = []
        self._session: Session | None = None
        self._history: History | None = None
        self._drawn: EpochRecord | None = None
        self.trackers = Trackers()

    @contextmanager
    def checking(self) -> Iterator[Callable[[int, int], None]]:
        """A bar while headers and labels are read; what they warn of is told with the data."""
        with warnings_caught(self._warnings), contextlib.ExitStack() as stack:
            bars: list[Any] = []

            def on_case(_done: int, total: int) -> None:
                if not bars:
                    bars.append(stack.enter_context(self.console.working("checking data", total)))
                bars[0].advance()

            yield on_case

    def close(self) -> None:
        """Closes log.txt."""
        self.console.close()

    def dry_run(self, session: Session, blank: Sequence[tuple[str, Sequence[str]]] = ()) -> None:
        """What would run, and that nothing did.

        Args:
            session: The run that would be.
            blank: Cases with channels that hold one value in every voxel, and their names.
        """
        self._session = session
        self._introduce()
        if blank:
            self.console.line(text.blank_line(blank))
        split = session.plan.split
        self.console.line(
            f"dry run: config, {_cases(len(split.train) + len(split.val))} and network are in "
            f"order; nothing was trained and nothing written to {session.folder.path}."
        )

    def begin(self, session: Session) -> None:
        """The header lines, and the history a resumed run continues."""
        self._session = session
        self.console = Console(quiet=self.quiet, log_path=session.folder / "log.txt")
        self._introduce()
        if session.progress.epoch:
            self.console.line(f"resume after epoch {session.progress.epoch}")
        self._history = History.resume(
            session.folder / "metrics.csv",
            session.progress.epoch,
            session.term_names,
            session.plan.dataset.scheme.target_names,
            self._note,
        )
        run = tracked_run(session, self._note)
        for line in self.trackers.begin(run, self._history.records):
            self.console.line(line)

    def _introduce(self) -> None:
        session = self._running
        plan, config = session.plan, session.config
        scheme, dataset = plan.dataset.scheme, plan.dataset
        shown = {name: session.versions[name] for name in ("segfocal", "torch", "monai")}
        shown["torch"] = shown["torch"].split("+")[0]
        parameters = sum(p.numel() for p in session.learner.network.parameters())
        self.console.header(shown, session.device_name, session.amp_name, config.train.seed)
        self.console.data(
            data_name(plan),
            len(plan.split.train),
            len(plan.split.val),
            plan.channels,
            scheme.target_names,
            overlapping=bool(scheme.regions),
            note=self._note,
        )
        self.console.line(
            text.files_line(
                dataset.layout,
                dataset.labels_from,
                dict(zip(scheme.names, scheme.values, strict=True)),
                ignore_values=scheme.ignore_values,
                num_partial=sum(case.annotated is not None for case in dataset.cases),
            )
        )
        if plan.doubts:
            self.console.line(text.doubts_line([(p.kind, p.case_id) for p in plan.doubts]))
        for name in plan.absent:
            self.console.line(
                f"doubt  {name} has no voxel in the training split: nothing can be learned of it. "
                f"Change the split, or drop it from data.labels."
            )
        alpha = plan.alpha.summary() if plan.alpha is not None else f"{config.loss.alpha or 'none'}"
        self.console.line(f"alpha  {alpha}")
        for message in self._warnings:
            self.console.warning(message)
        patch, backend = "x".join(map(str, config.train.patch_size)), session.loss_backend
        self.console.line(
            f"net    {config.network.name} {parameters / 1e6:.2f} M parameters · patch {patch} · "
            f"batch {config.train.batch_size} · {loss_words(config.loss)} "
            f"({backend.name})"
        )
        for line in session.init_lines:
            self.console.line(line)
        if backend.passed_over is not None:
            self.console.line(f"loss   slower than it could be: {backend.passed_over}")

    def open_log(self, folder: Path) -> None:
        """Opens log.txt where this has kept silent so far (`follow.SilentReporter`)."""

    def log(self, lines: str) -> None:
        """Text for log.txt alone."""
        self.console.log(lines)

    def note(self, line: str) -> None:
        """One line that a user should know, on the terminal and in log.txt."""
        self.console.line(line)

    def warning(self, line: str) -> None:
        """One line about what did not go well, on the error stream and in log.txt."""
        self.console.warning(line)

    @contextmanager
    def loading(self, total: int) -> Iterator[Callable[[], None]]:
        """A bar while cases are read into memory."""
        with self.console.working("loading cases", total) as bar:
            yield bar.advance

    @contextmanager
    def epoch(
        self, epoch: int, num_epochs: int, num_steps: int
    ) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
        """A bar over the steps of an epoch."""
        began = time.monotonic()
        with self.console.epoch(epoch, num_epochs, num_steps) as bar:

            def on_step(step: int, terms: Mapping[str, float]) -> None:
                if step % _LOSS_EVERY:
                    bar.advance()
                    return
                parts = {name: value for name, value in terms.items() if name != "loss"}
                bar.advance(
                    loss=terms["loss"],
                    terms=parts,
                    steps_per_s=step / (time.monotonic() - began),
                    memory_gb=self._running.memory_gb,
                    eta_s=self._running.eta_s(),
                )

            yield on_step

    @contextmanager
    def validating(self, total: int) -> Iterator[Callable[[], None]]:
        """A bar over the cases of a validation."""
        with self.console.working("validating", total) as bar:
            yield bar.advance

    def validated(
        self, epoch: int, scores: Sequence[CaseScore], sample: Sample | None, *, is_best: bool
    ) -> None:
        """The picture of a validation; val_cases.csv where its weights are best.pt."""
        from segfocal.reports.figures import sample_figure

        session = self._running
        if is_best:
            path = session.folder / "val_cases.csv"
            write_case_scores(path, scores, epoch=epoch, note=self._note)
        if sample is None:
            return
        samples = session.folder / "samples"
        samples.mkdir(exist_ok=True)
        sample_figure(
            sample.image,
            session.plan.channels,
            sample.reference,
            sample.prediction,
            session.plan.dataset.scheme,
            samples / f"epoch_{epoch:03d}.png",
            title=f"{sample.case_id}, epoch {epoch}",
            zooms_mm=sample.zooms_mm,
            synthetic=session.plan.dataset.synthetic,
            annotated=session.plan.annotated_targets[sample.case_id],
        )

    def epoch_done(
        self,
        epoch: int,
        step: int,
        means: EpochMeans,
        summary: Mapping[str, RegionSummary] | None,
        progress: Progress,
    ) -> None:
        """A row of metrics.csv, a line, and progress.png where there was a validation."""
        session = self._running
        parts = {name: value for name, value in means.terms.items() if name != "loss"}
        record = EpochRecord(
            epoch=epoch,
            step=step,
            elapsed_s=progress.elapsed_s,
            steps_per_s=means.steps_per_s,
            lr=means.lr,
            loss=means.terms.get("loss", float("nan")),
            terms=parts,
            val=summary,
        )
        assert self._history is not None
        self._history.append(record)
        self.console.end_epoch(
            record,
            session.config.train.epochs,
            best=summary is not None and progress.best_epoch == epoch and progress.best_score > 0,
            memory_gb=session.memory_gb,
            eta_s=session.eta_s(),
        )
        if summary is not None:
            self._draw_progress()

    def epoch_saved(self, progress: Progress) -> None:
        """The last row of metrics.csv, to the trackers: it is in last.pt, and stays."""
        assert self._history is not None
        self.trackers.log(self._history.records[-1], best_so_far(progress))

    def finish(self, outcome: Outcome) -> None:
        """The final pictures, report.html, and where everything is."""
        assert self._history is not None
        self._draw_progress()
        best = outcome.progress
        summary = self._history.validation(best.best_epoch)
        report = self._write_report({f"network, best.pt (epoch {best.best_epoch})": summary})
        self.trackers.finish(report, best_so_far(best))
        chosen = (
            f"best.pt is epoch {best.best_epoch}, mean Dice {best.best_score:.3f}"
            if best.best_epoch
            else "best.pt is the last epoch (no validation cases)"
        )
        self.console.line(f"done   {chosen} · {outcome.folder}")
        if best.best_epoch and not best.best_score > 0:
            self.console.line(_nothing_right(best.best_score))
        if not self.closing_words:
            return
        if summary:
            num_cases = len(self._running.plan.split.val)
            title = f"validation, {_cases(num_cases)}, best.pt (epoch {best.best_epoch})"
            self.console.results(title, {"network": summary}, self._note)
        self.console.line(f"next   {next_command(outcome.folder)}")

    def _draw_progress(self) -> None:
        """progress.png, unless this process has drawn these epochs already."""
        from segfocal.reports.figures import progress_figure

        assert self._history is not None
        records = self._history.records
        if records[-1] is self._drawn:
            return
        session = self._running
        path = session.folder / "progress.png"
        progress_figure(records, path, synthetic=session.plan.dataset.synthetic)
        self._drawn = records[-1]

    def _write_report(self, results: Mapping[str, Mapping[str, RegionSummary]]) -> Path:
        from segfocal.reports.html import write_report

        session = self._running
        return write_report(
            session.folder.path,
            title=session.loaded.name,
            facts=run_facts(session),
            results={name: summary for name, summary in results.items() if summary},
            synthetic=session.plan.dataset.synthetic,
            done=True,
        )

    @contextmanager
    def writing_phantom(self, total: int) -> Iterator[Callable[[int, int], None]]:
        """A bar while the phantom's cases are written."""
        self.console.line(f"{STAMP}: writing {total} labelled cases")
        with self.console.working("writing the phantom", total) as bar:
            yield lambda _done, _total: bar.advance()

    def demo_result(self, outcome: Outcome, baseline: ThresholdBaseline, base: Path) -> None:
        """The network beside the best threshold, the pictures, the next command."""
        assert self._history is not None
        best_epoch = outcome.progress.best_epoch
        network, threshold = self._history.validation(best_epoch), summarise(baseline.scores)
        console = self.console
        results = {"network": network, "threshold baseline": threshold}
        console.results(
            f"validation, {_cases(len(baseline.scores))} the network has not seen, best.pt (epoch "
            f"{best_epoch})",
            results,
            STAMP,
        )
        self._write_report(results)
        console.line(
            f"mean Dice {mean_dice(network):.3f}, best single-channel threshold "
            f"{mean_dice(threshold):.3f}"
        )
        samples = sorted((outcome.folder / "samples").glob("*.png"))
        pictures = [outcome.folder / "progress.png", *samples[-1:], outcome.folder / "report.html"]
        console.line("look   " + "  ".join(map(str, pictures)))
        console.line(
            f"next   {next_command(outcome.folder, base / 'phantom', base / 'predictions')}"
        )

    @property
    def _running(self) -> Session:
        assert self._session is not None
        return self._session

    @property
    def _note(self) -> str:
        return STAMP if self._running.plan.dataset.synthetic else ""


def next_command(
    run: Path,
    images: Path = Path("FOLDER_OF_IMAGES"),
    predictions: Path = Path("predictions"),
) -> str:
    """What to type after a training, as a shell takes it."""
    words = ["segfocal-predict", "--ckpt", run / "best.pt", "-i", images, "-o", predictions]
    return shlex.join(map(str, words))


def _nothing_right(best_score: float) -> str:
    """What a run says of itself whose best mean Dice is 0 or undefined."""
    if math.isnan(best_score):
        return (
            "doubt  mean Dice is undefined: no validation case holds a lesion, and none was "
            "predicted. Validate on cases with lesions (data.split)."
        )
    return (
        "doubt  nothing right was predicted yet: every validation's mean Dice is 0. Train for "
        "longer (--resume --set train.epochs=...), try another train.lr, and look at samples/."
    )


def _cases(count: int) -> str:
    return f"{count} case{'' if count == 1 else 's'}"
