"""Weights & Biases: a run in the project that WANDB_PROJECT names, or offline in the run folder."""

from __future__ import annotations

import os
import uuid
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
)

_EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 130}


class WeightsAndBiases:
    """Sends what it is told, and nothing that wandb would gather by itself.

    No command line (it holds paths), host, user, git state, code, terminal output, list of
    packages. The step is the epoch: an epoch that the run already has is not taken a second time.
    """

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb: Any = wandb

    def reach(self) -> None:
        """Asks the server whether it knows the key, unless WANDB_MODE is offline or disabled."""
        if os.environ.get("WANDB_MODE", "online") == "online":
            self._wandb.login(verify=True)

    def open(self, run: TrackedRun, kept: Kept) -> Opened:
        """Begins or goes on; facts and settings become the run's config."""
        settings = self._wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            host="",
            init_timeout=45,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_save_requirements=False,
            x_stats_pid=os.getppid(),
        )
        # where it puts a report before sending it; its own choice is the user's home
        os.environ.setdefault("WANDB_DATA_DIR", str(run.folder / "wandb"))
        own = {} if "WANDB_DIR" in os.environ else {"dir": str(run.folder)}
        if "WANDB_NAME" not in os.environ:
            own["name"] = run.name
        if "WANDB_PROJECT" not in os.environ:
            own["project"] = "segfocal"
        stamp = {}
        if run.note:
            asked = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
            notes = [run.note, os.environ.get("WANDB_NOTES", "")]
            stamp = {"tags": [run.note, *asked], "notes": "\n".join(filter(None, notes))}
        id_ = kept.id or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
        self._run = self._wandb.init(id=id_, resume="allow", settings=settings, **own, **stamp)
        self._run.config.update({**run.settings, "run": facts_and_note(run)}, allow_val_change=True)
        self._run.summary["status"] = "running"
        has_epoch = max(kept.epoch, self._run.step - 1 if self._run.resumed else 0)
        return Opened(Kept(id_, has_epoch), self._run.url or self._run.dir)

    def log(self, epoch: int, numbers: Mapping[str, Number], picture: Path | None) -> None:
        """History by the names of metrics.csv; the picture under `sample`."""
        row: dict[str, Any] = dict(numbers)
        if picture is not None:
            row["sample"] = self._wandb.Image(str(picture))
        self._run.log(row, step=epoch)

    def close(self, ending: Ending) -> None:
        """Status and best in the summary, the report as an artifact; waits for the upload."""
        self._run.summary.update({"status": ending.status, **ending.best})
        if ending.report is not None:
            artifact = self._wandb.Artifact(f"report-{self._run.id}", type="report")
            artifact.add_file(str(ending.report))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=_EXIT_CODES[ending.status])
