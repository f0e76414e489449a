"""What `segfocal-train` does, in order: config, data, folder; then torch, training, report."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segfocal.config.load import LoadedConfig, check_config, load_config
from segfocal.data.phantom.stamp import STAMP
from segfocal.data.split import write_split
from segfocal.errors import UserError
from segfocal.files import check_checkpoint_path, write_json
from segfocal.imports import without_collections
from segfocal.reports.trackers.trackers import Trackers
from segfocal.training.follow import Job
from segfocal.training.launch import Launch, check_launch
from segfocal.training.preflight import Plan, check_images, preflight
from segfocal.training.progress import Outcome
from segfocal.training.ranks import Ranks, join
from segfocal.training.reporter import Reporter
from segfocal.training.run_folder import RunFolder, begun_by

_RESTART_S = 60.0
"""How long a restart waits for loader processes of a killed rank to leave the run folder."""


@dataclass(frozen=True)
class TrainRequest:
    """The arguments of segfocal-train.

    Attributes:
        config: YAML file, or a shipped config's name; None resumes with the run's own.
        overrides: `section.setting=value`, over the file's.
        out: Folder of the run; None is the config's `out`, else runs/<name>.
        resume: Go on with the run in that folder.
        init_from: Checkpoint whose weights to start from.
        dry_run: Check everything, train nothing, write nothing.
        quiet: Print nothing but errors.
        started_s: `time.monotonic()` when the command began: budgets count from there.
    """

    config: Path | None
    started_s: float
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    init_from: Path | None = None
    dry_run: bool = False
    quiet: bool = False


def train(
    request: TrainRequest, reporter: Reporter | None = None, launch: Launch | None = None
) -> Outcome | None:
    """Runs a training from config to report.

    Args:
        request: What to do.
        reporter: Who tells of it; None for the terminal.
        launch: That this is the first of the ranks that torchrun started; the others `follow`.

    Returns:
        What was achieved; None for a dry run.

    Raises:
        UserError: For every mistake in arguments, config or data, before anything is written.
        RunFailedError: If training cannot go on.
        SystemExit: If another rank failed, and told of it.
    """
    loaded, out = _resolve(request)
    if request.init_from is not None:
        check_checkpoint_path("--init-from", request.init_from)
    if reporter is None:
        reporter = Reporter(quiet=request.quiet)
    if launch is not None:
        check_launch(loaded, launch)
    config = loaded.config
    with (
        join(launch) as ranks,
        Trackers(
            config.trackers,
            reporter.warning,
            send_pictures=config.send_pictures,
            must_work=launch is None or launch.restarts == 0,
        ) as reporter.trackers,
    ):
        if launch is not None:
            ranks.device(config.train.device)
        reporter.trackers.reach()
        with loaded.placing():
            return _train(request, loaded, out, reporter, ranks)


def _train(
    request: TrainRequest, loaded: LoadedConfig, out: Path, reporter: Reporter, ranks: Ranks
) -> Outcome | None:
    restarted = begun_by(out, ranks.agents)
    resume = request.resume or restarted
    folder = RunFolder(out, resume=resume, wait_s=_RESTART_S if restarted else 0)
    kept_split = folder / "split.json"
    keeps_split = request.resume or (restarted and kept_split.is_file())
    with reporter.checking() as on_case:
        plan = preflight(loaded, kept_split if keeps_split else None, on_case)
        blank = check_images(loaded, plan) if request.dry_run else []
    with without_collections():
        from segfocal.training.failure import failures_told
        from segfocal.training.session import Session

    make = partial(
        Session,
        loaded,
        plan,
        folder,
        reporter,
        started_s=request.started_s,
        weights=request.init_from,
    )
    if request.dry_run:
        reporter.dry_run(make(), blank)
        ranks.announce(None)
        return None
    ranks.announce(Job(loaded, plan, out, folder.goes_on, request.init_from, request.started_s))
    session = make(ranks=ranks)
    with folder, contextlib.closing(reporter), reporter.trackers.ending():
        is_over = resume and session.nothing_left and not folder.lacks_report
        if is_over and not restarted:
            raise UserError(
                f"{out} is done: {session.progress.epoch} epochs. Raise train.epochs or "
                f"train.max_minutes to go on."
            )
        ranks.exchange(is_over)
        if is_over:
            return Outcome(out, session.progress)
        with failures_told(session):
            note = STAMP if plan.dataset.synthetic else ""
            folder.begin(loaded.plain, ranks.agents(), note=note)
            write_split(kept_split, plan.split, note=note)
            write_json(folder / "stats.json", statistics(plan))
            reporter.begin(session)
            outcome = session.run()
            reporter.finish(outcome)
            folder.finish(note=note)
    return outcome


def statistics(plan: Plan) -> dict[str, object]:
    """What stats.json holds: what was read, the voxels of the training split, the weights."""
    dataset = plan.dataset
    return {
        "synthetic": STAMP if dataset.synthetic else False,
        "data": {
            "layout": dataset.layout,
            "channels": list(plan.channels),
            "labels_from": dataset.labels_from,
            "annotated": {
                case.case_id: list(case.annotated)
                for case in dataset.cases
                if case.annotated is not None
            },
        },
        "counts": plan.counts.to_dict(),
        "alpha": None if plan.alpha is None else plan.alpha.to_dict(),
    }


def _resolve(request: TrainRequest) -> tuple[LoadedConfig, Path]:
    """The config and the folder that the arguments mean."""
    config_path, out = request.config, request.out
    if config_path is None:
        if not (request.resume and out is not None):
            raise UserError(
                "--config is missing. segfocal-stats --data FOLDER --suggest my.yaml writes one "
                "for your data; segfocal-train --demo needs none."
            )
        config_path = out / "config.yaml"
        if not config_path.is_file():
            raise UserError(f"{out} holds no run to resume. Start it with --config.")
    loaded = load_config(config_path, request.overrides)
    if request.resume and loaded.name == "config" and out is not None:
        loaded = check_config(loaded.plain, out.name, loaded.lines)
    return loaded, out or loaded.config.out or Path("runs") / _folder_name(loaded)


def _folder_name(loaded: LoadedConfig) -> str:
    """The config's name, and the fold's: those of one cross-validation lie side by side."""
    fold = loaded.config.data.fold
    return loaded.name if fold is None else f"{loaded.name}-fold{fold}"
