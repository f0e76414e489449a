"""MLflow: a run on the server or in the store that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segfocal.errors import UserError
from segfocal.reports.trackers.tracker import (
    Ending,
    Kept,
    Number,
    Opened,
    TrackedRun,
    facts_and_note,
    plain_text,
    without_password,
)

_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_STRANGE = re.compile(r"[^\w./ :-]")
"""What MLflow takes in no name."""


class MLflow:
    """Speaks through MLflow's client, which adds nothing by itself (no user, script or commit).

    Numbers have the epoch for their step. Without MLFLOW_TRACKING_URI the store is a database
    beside the run folder, the same for all runs there.
    """

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import entities
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._entities, self._error, self._make_client = entities, MlflowException, MlflowClient
        self._uri = os.environ.get("MLFLOW_TRACKING_URI", "")

    def reach(self) -> None:
        """Asks a server for one experiment; a database in a file is not made yet."""
        if self._uri and urlsplit(self._uri).scheme != "sqlite":
            with _impatient():
                self._make_client(self._uri).search_experiments(max_results=1)

    def open(self, run: TrackedRun, kept: Kept) -> Opened:
        """Finds or creates experiment and run; settings become parameters, facts tags."""
        beside = run.folder.resolve().parent
        uri = self._uri or f"sqlite:///{beside / 'mlflow.db'}"
        artifacts = None if self._uri else (beside / "mlflow-artifacts").as_uri()
        self._epoch = run.epoch
        with _impatient():
            self._client: Any = self._make_client(uri)
            known, has_epoch = {}, 0
            if kept.id:
                found = self._known_run(kept.id)
                known, has_epoch = found.data.params, int(found.data.metrics.get("epoch", 0))
                self._client.update_run(kept.id, "RUNNING")
                self._id, experiment = kept.id, found.info.experiment_id
            else:
                experiment = self._experiment(artifacts)
                self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
            self._tell(run, known)
        store = without_password(uri)
        place = f"{store} run {self._id}"
        if urlsplit(uri).scheme in ("http", "https"):
            place = f"{store.rstrip('/')}/#/experiments/{experiment}/runs/{self._id}"
        return Opened(Kept(self._id, has_epoch), place)

    def log(self, epoch: int, numbers: Mapping[str, Number], picture: Path | None) -> None:
        """Metrics by the names of metrics.csv; the picture among the artifacts."""
        self._epoch = epoch
        self._metrics(numbers)
        if picture is not None:
            self._client.log_artifact(self._id, str(picture), "samples")

    def close(self, ending: Ending) -> None:
        """Best epoch and score as metrics, the report among the artifacts, the run's status."""
        self._metrics(ending.best)
        if ending.report is not None:
            self._client.log_artifact(self._id, str(ending.report))
        self._client.set_tag(self._id, "status", ending.status)
        self._client.set_terminated(self._id, _STATUS[ending.status])

    def _experiment(self, artifacts: str | None) -> str:
        """Its id: MLFLOW_EXPERIMENT_ID, or that of MLFLOW_EXPERIMENT_NAME, which is created."""
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "segfocal"
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifacts))
        except self._error:  # another run that starts now was quicker
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _known_run(self, run_id: str) -> Any:
        try:
            return self._client.get_run(run_id)
        except self._error as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(
                f"run {run_id} is not there. Set MLFLOW_TRACKING_URI as it was when the run began, "
                f"or remove .trackers/mlflow.json from the run folder to begin another."
            ) from None

    def _tell(self, run: TrackedRun, known: Mapping[str, str]) -> None:
        """Tags and parameters. A parameter cannot change: what a resumed run changed is a tag."""
        settings = {_name(name): plain_text(value) for name, value in run.settings.items()}
        changed = [
            f"{name}: {known[name]} -> {text}"
            for name, text in settings.items()
            if known.get(name, text) != text
        ]
        tags = {_name(name): text for name, text in facts_and_note(run).items()}
        if run.note:
            tags["mlflow.note.content"] = run.note
        if changed:
            tags[f"changed after epoch {run.epoch}"] = ", ".join(changed)
        tag, param = self._entities.RunTag, self._entities.Param
        new = [param(name, text) for name, text in settings.items() if name not in known]
        told = [tag(name, text) for name, text in tags.items()]
        self._client.log_batch(self._id, params=new, tags=told)

    def _metrics(self, numbers: Mapping[str, Number]) -> None:
        now_ms, metric = int(1000 * time.time()), self._entities.Metric
        metrics = [metric(_name(n), float(v), now_ms, self._epoch) for n, v in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)


def _name(name: str) -> str:
    """A name that MLflow takes: `Tumour+Core` is `Tumour_Core`."""
    return _STRANGE.sub("_", name)


@contextmanager
def _impatient() -> Iterator[None]:
    """Before training a user waits: few tries. Afterwards the client's own patience holds."""
    ours = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    new = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(new)
    yield
    for name in new:
        del os.environ[name]
