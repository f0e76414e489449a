"""The training's side, with a stand-in for wandb that fails in each way there is."""

import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
from filelock import FileLock

from segfocal.errors import UserError
from segfocal.metrics.case_score import RegionSummary
from segfocal.reports.history import EpochRecord
from segfocal.reports.trackers import trackers as module
from segfocal.reports.trackers.process import TrackerProcess
from segfocal.reports.trackers.tracker import TrackedRun, without_password
from segfocal.reports.trackers.trackers import Trackers
from tests.reports.trackers.stand_in import stand_in
from tests.reports.trackers.test_tensorboard import curve, events, texts


@pytest.fixture(name="stand_in")
def _stand_in(tmp_path, monkeypatch):
    return stand_in(tmp_path, monkeypatch)


VALIDATED = {"WT": RegionSummary(0.5, 0.5, *[1] * 7)}


def record(epoch, val=None):
    return EpochRecord(epoch, 2 * epoch, 1.0, 1.0, 0.1, 1 / epoch, {}, val)


def tracked(folder, epoch=0):
    folder.mkdir(exist_ok=True)
    return TrackedRun(folder, "a", "", {}, {}, epoch)


def go(names, folder, done=(), until_warned=False, **options):
    """A run of three epochs; its warnings, and how long the longest call took."""
    warnings, longest = [], 0.0
    with Trackers(names, warnings.append, **options) as trackers:
        trackers.reach()
        with trackers.ending():
            trackers.begin(tracked(folder, len(done)), done)
            for epoch in range(len(done) + 1, 4):
                began = time.monotonic()
                trackers.log(record(epoch), {})
                longest = max(longest, time.monotonic() - began)
                while until_warned and not warnings and time.monotonic() < began + 30:
                    time.sleep(0.02)
                    trackers._in_use()
    return warnings, longest


GONE = "wandb is not told any more of this run: {}. Training goes on; --resume fills the gap."
NO_END = "wandb may lack the end of this run: {}."


@pytest.mark.parametrize(
    ("behaviour", "warning"),
    [
        ("log raises", GONE.format("OSError: disk full at https://host")),
        ("log dies", GONE.format("its process ended with status -9")),
        ("log hangs", NO_END.format("no answer in 2 s")),
        ("finish raises", NO_END.format("OSError: disk full at https://host")),
        ("finish hangs", NO_END.format("no answer in 2 s")),
    ],
)
def test_a_tracker_that_fails_costs_one_line_and_no_time(
    stand_in, tmp_path, monkeypatch, behaviour, warning
):
    monkeypatch.setattr(module, "_CLOSE_S", 2.0)
    stand_in(behaviour)
    names, fails_early = ["wandb", "tensorboard"], warning.startswith(GONE[:20])
    warnings, longest = go(names, tmp_path / "a", until_warned=fails_early)
    assert warnings == [warning]
    assert longest < 1  # second: a machine under load; what hangs here does so for a minute
    read = events(tmp_path / "a" / "tensorboard")
    assert curve(read, "loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("login raises", "OSError: disk full at https://host"),
        ("login hangs", "no answer in 2 s"),
        ("init dies", "its process ended with status -9"),
    ],
)
def test_before_training_a_tracker_that_fails_is_an_error_but_not_after_a_restart(
    stand_in, tmp_path, monkeypatch, behaviour, reason
):
    monkeypatch.setattr(module, "_REACH_S", 2.0)
    stand_in(behaviour)
    with pytest.raises(UserError) as error:
        go(["wandb"], tmp_path / "a")
    assert str(error.value) == (
        f"trackers: wandb cannot be used: {reason}. Mend it, or go without: --set trackers=[]."
    )
    assert go(["wandb"], tmp_path / "b", must_work=False)[0] == [GONE.format(reason)]


def test_one_that_was_dropped_is_caught_up_when_the_run_goes_on(stand_in, tmp_path):
    stand_in("log raises")
    warnings, _ = go(["wandb"], tmp_path / "a", until_warned=True)
    assert len(warnings) == 1
    told = stand_in("nowhere raises")
    assert go(["wandb"], tmp_path / "a", [record(1), record(2)])[0] == []
    assert told.read_text() == "1 2 3 "


@pytest.mark.parametrize(
    ("send", "expected"), [(False, "1 2 "), (True, "1 2 and a picture report")]
)
def test_pictures_and_report_are_sent_only_where_the_config_says_so(
    stand_in, tmp_path, send, expected
):
    told = stand_in("nowhere raises")
    (tmp_path / "a" / "samples").mkdir(parents=True)
    for epoch in (1, 2):
        (tmp_path / "a" / "samples" / f"epoch_00{epoch}.png").touch()
    with Trackers(["wandb"], pytest.fail, send_pictures=send) as trackers:
        trackers.reach()
        with trackers.ending():
            trackers.begin(tracked(tmp_path / "a"), [])
            trackers.log(record(1))  # not validated: a picture from before the run went on
            trackers.log(record(2, VALIDATED))
            trackers.finish(tmp_path / "a" / "report.html", {})
    assert told.read_text() == expected


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")]
)
def test_how_a_run_ended_is_told_and_no_process_is_left(tmp_path, error, status):
    with Trackers(["tensorboard"], pytest.fail) as trackers:
        trackers.reach()
        (process,) = trackers._processes
        trackers.begin(tracked(tmp_path / "a"), [])
        trackers.log(record(1), {"best_epoch": 1})
        with pytest.raises(error), trackers.ending():
            raise error
    (end,) = texts(events(tmp_path / "a" / "tensorboard"), "end")
    assert end.endswith(f"| status | {status} |\n| best_epoch | 1 |")
    assert process._process.returncode is not None
    assert not any(thread.is_alive() for thread in process._threads)


def test_the_process_of_a_killed_training_has_its_last_words_first(tmp_path):
    run = {**asdict(tracked(tmp_path)), "folder": str(tmp_path)}
    (tmp_path / ".trackers").mkdir()
    process = TrackerProcess("tensorboard")
    try:
        with FileLock(tmp_path / ".trackers" / "tensorboard.lock"):
            process.send(open=run)
            assert process.hear("reached", time.monotonic() + 30)
            time.sleep(0.5)
            assert not (tmp_path / "tensorboard").exists()
        assert process.hear("opened", time.monotonic() + 30) == str(tmp_path / "tensorboard")
    finally:
        process.end()


def test_a_signal_to_all_processes_of_a_job_leaves_the_telling_to_the_training(tmp_path):
    run = {**asdict(tracked(tmp_path)), "folder": str(tmp_path)}
    process = TrackerProcess("tensorboard")
    try:
        assert process.hear("reached", time.monotonic() + 30)
        for number in (signal.SIGINT, signal.SIGTERM):
            process._process.send_signal(number)
        process.send(open=run)
        process.send(close={"status": "interrupted", "best": {}, "report": None})
        assert process.hear("opened", time.monotonic() + 30) == str(tmp_path / "tensorboard")
        assert process.hear("closed", time.monotonic() + 30)
    finally:
        process.end()


def test_a_package_that_is_not_installed_is_named_with_its_cure(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(UserError) as error:
        Trackers(["tensorboard", "mlflow"])
    assert str(error.value) == (
        "trackers: mlflow needs the package sqlalchemy. Install it: pip install 'segfocal[mlflow]'."
    )


def test_a_folder_that_wandb_made_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError, match="wandb needs the package wandb"):
        Trackers(["wandb"])


def test_what_a_run_imports_holds_no_tracker():
    code = (
        "import sys, segfocal, segfocal.cli.train, segfocal.training.run; "
        "print({'tensorboard', 'mlflow', 'wandb', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_names_there_is_no_process(tmp_path):
    with Trackers() as trackers, trackers.ending():
        trackers.reach()
        assert trackers.begin(tracked(tmp_path), [record(1)]) == []
        trackers.log(record(2))
        assert trackers._processes == []


def test_a_password_is_not_told():
    text = "HTTPConnectionPool(http://me:s3cret@host:5000/api) and ftp://b@c"
    assert without_password(text) == "HTTPConnectionPool(http://host:5000/api) and ftp://c"
