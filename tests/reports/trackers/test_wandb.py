"""In processes of their own, as in a training: wandb starts a service and leaves it running."""

import os
import time
from types import SimpleNamespace

import pytest

from segfocal.reports.trackers.process import TrackerProcess
from segfocal.reports.trackers.tracker import Kept, TrackedRun
from segfocal.reports.trackers.wandb import WeightsAndBiases
from tests.reports.trackers.test_tensorboard import PNG
from tests.reports.trackers.told import STAMP, end, row, run
from tests.reports.trackers.wandb_file import content


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


def tell(*messages):
    process = TrackerProcess("wandb")
    for message in messages:
        process.send(**message)
    answers = [
        process.hear(word, time.monotonic() + 60) for word in ("reached", "opened", "closed")
    ]
    failure = process.failure
    process.end()
    assert failure is None
    return answers


@pytest.mark.parametrize("own", [None, "true"])
def test_wandb_reports_no_errors_of_its_own_unless_a_user_wants_it(monkeypatch, own):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "unset at the end as it was")
    if own is None:
        monkeypatch.delenv("WANDB_ERROR_REPORTING")
    else:
        monkeypatch.setenv("WANDB_ERROR_REPORTING", own)
    WeightsAndBiases()
    assert os.environ["WANDB_ERROR_REPORTING"] == (own or "false")


@pytest.mark.parametrize(
    ("mode", "asked"), [(None, 1), ("online", 1), ("offline", 0), ("disabled", 0)]
)
def test_the_server_is_asked_for_the_key_where_a_run_is_sent_to_it(monkeypatch, mode, asked):
    monkeypatch.delenv("WANDB_MODE")
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    tracker, calls = WeightsAndBiases(), []
    monkeypatch.setattr(tracker._wandb, "login", lambda **options: calls.append(options))
    tracker.reach()
    assert calls == [{"verify": True}] * asked


def opened(tracker, monkeypatch, folder, kept, **told):
    """What `open` answers and what it asked for, where wandb tells `told` of the run."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder))
    calls = []

    def init(**options):
        calls.append(options)
        config = SimpleNamespace(update=lambda _values, **options: calls[0].update(options))
        state = {"step": 0, "resumed": False, "url": "u", **told}
        return SimpleNamespace(config=config, summary={}, **state)

    monkeypatch.setattr(tracker._wandb, "init", init)
    answer = tracker.open(TrackedRun(folder, "a", "", {}, {}, epoch=0), kept)
    (asked,) = calls
    return answer, asked


@pytest.mark.parametrize(
    ("kept", "resumed", "step", "epoch"),
    [(3, True, 5, 4), (9, True, 5, 9), (3, False, 5, 3), (0, False, 0, 0)],
)
def test_the_last_epoch_is_the_later_of_what_is_kept_and_what_the_server_has(
    tmp_path, monkeypatch, kept, resumed, step, epoch
):
    """wandb's step is the next one that it takes."""
    answer, asked = opened(
        WeightsAndBiases(), monkeypatch, tmp_path, Kept("k1", kept), step=step, resumed=resumed
    )
    assert answer.kept == Kept("k1", epoch)
    assert (asked["id"], asked["resume"]) == ("k1", "allow")
    assert asked["allow_val_change"]  # `--resume` may have changed a setting


def test_what_wandb_would_gather_by_itself_is_switched_off(tmp_path, monkeypatch):
    _, asked = opened(WeightsAndBiases(), monkeypatch, tmp_path, Kept())
    settings = asked["settings"]
    assert settings.x_stats_pid == os.getppid()  # the training, not the tracker's own process
    # terminal, code, git, host, command line and user, machine, packages
    off = {
        "console": "off",
        "disable_code": True,
        "save_code": False,
        "disable_git": True,
        "host": "",
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
    }
    assert {name: getattr(settings, name) for name in off} == off


def test_a_run_is_told_and_goes_on_under_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_TAGS", "mine")
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "report.html").write_text("<html>")
    _, place, _ = tell(run(tmp_path), row(1), row(2, dice=0.5), end("interrupted"))
    assert place.startswith(str(tmp_path / "wandb" / "offline-run-"))
    goes_on = run(tmp_path, epoch=3, **{"train.epochs": 9})
    last = row(4, tmp_path / "a.png")
    tell(goes_on, row(1), row(2), row(3), last, end(best_epoch=2, report=tmp_path / "report.html"))
    told = content(tmp_path)
    rows = {step: [row["loss"] for row in rows] for step, rows in told["history"].items()}
    assert rows == {1: [1.0], 2: [0.5], 3: [1 / 3], 4: [0.25]}
    assert told["history"][2][0]["dice"] == 0.5
    assert len(told["ids"]) == 1
    assert told["names"] == {("segfocal", tmp_path.name)}
    assert told["exit"] == [130, 0]
    assert told["summary"]["status"] == "done"
    assert told["summary"]["best_epoch"] == 2
    assert told["config"]["train.epochs"] == 9
    assert told["config"]["run"]["note"] == STAMP
    assert told["tags"] == {STAMP, "mine"}
    assert told["notes"] == {STAMP}
    (picture,) = tmp_path.glob("wandb/offline-run-*/files/media/images/sample_*.png")
    assert picture.read_bytes() == PNG
    assert told["files"] - {"wandb-summary.json", "config.yaml"} == {
        str(picture.relative_to(picture.parents[2]))
    }
    ((report, staged),) = told["artifacts"]
    assert report == "report.html"
    assert tmp_path in staged.parents
