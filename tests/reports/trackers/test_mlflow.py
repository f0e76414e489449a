import os
import shutil
import time

import pytest

from segfocal.errors import UserError
from segfocal.reports.trackers.mlflow import MLflow
from tests.reports.trackers.mlflow_server import mlflow_server
from tests.reports.trackers.told import STAMP, end, row, run, tell

# MLflow's own use of SQLAlchemy, and its client's of the package
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store that MLflow's own client made: making one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def folder(tmp_path, empty_store, monkeypatch):
    """A run folder with a store beside it."""
    for name in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name in ("ID", "NAME"):
        monkeypatch.delenv(f"MLFLOW_EXPERIMENT_{name}", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "a").mkdir()
    return tmp_path / "a"


def runs(folder, experiment="segfocal"):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id])


def curve(client, run_id, name):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


def test_without_a_server_the_store_is_beside_the_run_folder(folder):
    answers = tell("mlflow", run(folder), row(1), row(2, dice=0.5), end(best_epoch=2))
    client, (found,) = runs(folder)
    assert answers[1] == {"opened": f"sqlite:///{folder.parent}/mlflow.db run {found.info.run_id}"}
    assert (found.info.run_name, found.info.status) == ("a", "FINISHED")
    assert curve(client, found.info.run_id, "loss") == [(1, 1.0), (2, 0.5)]
    assert curve(client, found.info.run_id, "dice") == [(2, 0.5)]
    assert curve(client, found.info.run_id, "best_epoch") == [(2, 2.0)]
    expected = {"loss.gamma": "2.0", "train.epochs": "3", "loss.alpha": "null"}
    assert found.data.params == expected
    assert found.data.tags["note"] == found.data.tags["mlflow.note.content"] == STAMP
    assert found.data.tags["data"] == "4 cases trained, 2 validated"
    assert found.data.tags["status"] == "done"


def test_a_run_that_goes_on_is_the_same_run_with_each_epoch_once(folder):
    tell("mlflow", run(folder), row(1), row(2))  # killed
    client, (cut,) = runs(folder)
    assert cut.info.status == "KILLED"
    changed = {"train.epochs": 9}
    goes_on = run(folder, epoch=3, **changed)
    tell("mlflow", goes_on, row(1), row(2), row(3), row(4), end("failed"))
    _, (found,) = runs(folder)
    assert found.info.run_id == cut.info.run_id
    assert found.info.status == "FAILED"
    assert [step for step, _ in curve(client, found.info.run_id, "loss")] == [1, 2, 3, 4]
    assert found.data.params["train.epochs"] == "3"
    assert found.data.tags["changed after epoch 3"] == "train.epochs: 3 -> 9"


def test_a_run_that_was_cut_before_its_first_epoch_goes_on_as_the_same_run(folder):
    tell("mlflow", run(folder))
    tell("mlflow", run(folder), row(1), end())
    _, (found,) = runs(folder)
    assert found.info.status == "FINISHED"


def test_the_best_of_a_run_that_has_nothing_left_to_do_stands_at_its_last_epoch(folder):
    tell("mlflow", run(folder, epoch=3), end(best_epoch=2))
    client, (found,) = runs(folder)
    assert curve(client, found.info.run_id, "best_epoch") == [(3, 2.0)]


def test_pictures_and_report_are_artifacts(folder):
    for name in ("a.png", "report.html"):
        (folder / name).write_text(name)
    tell("mlflow", run(folder), row(1, folder / "a.png"), end(report=folder / "report.html"))
    client, (found,) = runs(folder)
    listed = [entry.path for entry in client.list_artifacts(found.info.run_id)]
    assert listed == ["report.html", "samples"]
    kept = folder.parent / "mlflow-artifacts" / found.info.run_id / "artifacts"
    assert (kept / "samples" / "a.png").read_text() == "a.png"


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [("mine", "", "mine"), ("mine", "of numbered", "numbered"), ("", "", "segfocal")],
)
def test_the_experiment_is_the_one_of_the_environment(folder, monkeypatch, name, number, expected):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    if number:
        number = client.create_experiment("numbered")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    tell("mlflow", run(folder), end())
    _, found = runs(folder, expected)
    assert len(found) == 1


def test_an_experiment_that_another_run_makes_a_moment_earlier_is_taken(folder, monkeypatch):
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}").create_experiment("segfocal")
    by_name, asked = MlflowClient.get_experiment_by_name, []

    def not_yet_there_at_first(client, name):
        asked.append(name)
        return by_name(client, name) if len(asked) > 1 else None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", not_yet_there_at_first)
    tell("mlflow", run(folder), end())
    _, found = runs(folder)
    assert len(found) == 1
    assert asked[:2] == ["segfocal"] * 2


def test_an_experiment_that_cannot_be_made_is_told_by_mlflows_own_error(folder, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_arguments):
        raise MlflowException("no experiments for you")

    monkeypatch.setattr(MlflowClient, "create_experiment", refuse)
    with pytest.raises(MlflowException, match=r"^no experiments for you$"):
        tell("mlflow", run(folder), end())


def test_numbers_have_the_time_at_which_they_are_told_in_milliseconds(folder):
    before = 1000 * time.time()
    tell("mlflow", run(folder), row(1), end())
    client, (found,) = runs(folder)
    (metric,) = client.get_metric_history(found.info.run_id, "loss")
    assert before - 1 <= metric.timestamp <= 1000 * time.time()


def test_a_database_of_the_environment_is_not_made_by_asking_and_is_the_one_told(
    folder, empty_store, monkeypatch
):
    from mlflow import MlflowClient

    store = folder / "mine.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    assert tell("mlflow") == [{"reached": True}]
    assert not store.exists()
    shutil.copy(empty_store, store)
    tell("mlflow", run(folder), end())
    client = MlflowClient(f"sqlite:///{store}")
    found = client.get_experiment_by_name("segfocal")
    assert len(client.search_runs([found.experiment_id])) == 1
    # where its artifacts lie is the store's own choice
    assert found.artifact_location != (folder.parent / "mlflow-artifacts").as_uri()
    assert (
        MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}").search_experiments(
            filter_string="name = 'segfocal'"
        )
        == []
    )


def test_a_server_is_asked_impatiently_before_training_but_for_what_a_user_set(folder, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://not.asked")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    names = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    seen = []

    def search(_client, **_options):
        seen.append([os.environ.get(name) for name in names])

    monkeypatch.setattr(MlflowClient, "search_experiments", search)
    tell("mlflow")
    assert seen == [["77", "1"]]
    assert [os.environ.get(name) for name in names] == ["77", None]


def test_a_run_is_opened_impatiently_and_then_told_with_the_clients_own_patience(
    folder, monkeypatch
):
    from mlflow import MlflowClient

    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    monkeypatch.delenv(name, raising=False)
    seen = []

    def watched(method):
        original = getattr(MlflowClient, method)

        def call(*arguments, **options):
            seen.append((method, os.environ.get(name)))
            return original(*arguments, **options)

        monkeypatch.setattr(MlflowClient, method, call)

    for method in ("create_run", "set_terminated"):
        watched(method)
    tell("mlflow", run(folder), end())
    assert seen == [("create_run", "1"), ("set_terminated", None)]


@pytest.mark.parametrize("own", [None, "false"])
def test_mlflow_reports_no_use_of_itself_unless_a_user_wants_it(monkeypatch, own):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "unset at the end as it was")
    if own is None:
        monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    else:
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", own)
    MLflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == (own or "true")


def test_a_run_that_goes_on_is_running_again(folder, monkeypatch):
    with mlflow_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        for _ in range(2):
            tell("mlflow", run(folder), end())
    assert [sent["status"] for sent in server.sent("runs/update")] == [
        *("FINISHED", "RUNNING", "FINISHED"),
    ]
    assert len(server.sent("runs/create")) == 1


def test_names_that_mlflow_refuses_are_written_as_it_takes_them(folder):
    odd = {"val/T1w+Gd (late)/dice": 0.5, "val/Ödem/dice": 0.25}
    many = {f"val/region {number}/dice": 0.1 for number in range(250)}
    numbers = run(folder, **{"data.labels.a+b": 1, **{f"x{n}": n for n in range(150)}})
    tell("mlflow", numbers, row(1, **odd, **many), end())
    _, (found,) = runs(folder)
    assert found.data.metrics["val/T1w_Gd _late_/dice"] == 0.5
    assert found.data.metrics["val/Ödem/dice"] == 0.25
    assert len(found.data.metrics) == 2 + 2 + 250
    assert found.data.params["data.labels.a_b"] == "1"
    assert len(found.data.params) == 3 + 1 + 150


def test_a_run_that_is_in_another_store_is_an_error_that_says_so(folder, empty_store):
    tell("mlflow", run(folder), end())
    shutil.copy(empty_store, folder.parent / "mlflow.db")
    with pytest.raises(UserError, match=r"^run \w{32} is not there. Set MLFLOW_TRACKING_URI as"):
        tell("mlflow", run(folder), end())


def test_a_server_is_asked_first_and_sent_what_the_run_says_and_no_more(folder, monkeypatch):
    with mlflow_server() as server:
        uri = server.uri.replace("//", "//me:secret@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        many = {f"x{number}": number for number in range(250)}
        answers = tell("mlflow", run(folder, **many), row(2, dice=0.5), end())
    assert answers == [
        {"reached": True},
        {"opened": f"{server.uri}/#/experiments/7/runs/r1"},
        {"closed": True},
    ]
    assert server.requests[0][0].endswith("experiments/search")
    metrics = [m for sent in server.sent("log-batch") for m in sent.get("metrics", [])]
    assert [(m["key"], m["value"], m["step"]) for m in metrics] == [
        *(("epoch", 2.0, 2), ("loss", 0.5, 2), ("dice", 0.5, 2)),
    ]
    params = [len(sent.get("params", [])) for sent in server.sent("log-batch")]
    assert sum(params) == 253
    assert max(params) <= 100  # a server takes no more, and the client sees to it
    sent = b"\n".join(path.encode() + body for path, body in server.requests)
    assert str(folder.parent).encode() not in sent
    (created,) = server.sent("runs/create")
    assert created["user_id"] == "unknown"
    assert "tags" not in created
    assert server.sent("runs/update")[-1]["status"] == "FINISHED"


def test_a_server_that_refuses_is_an_error(folder, monkeypatch):
    from mlflow.exceptions import RestException

    with mlflow_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        server.refuses = True
        with pytest.raises(RestException, match=r"^INTERNAL_ERROR: disk full$"):
            tell("mlflow", run(folder))
    assert not (folder / ".trackers").exists()
